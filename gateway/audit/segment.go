package audit

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
)

// disk keeps segments; it is a port so that tests can let it fail.
type disk interface {
	list() ([]*segment, error)             // those of earlier lives, by number
	create(number int64) (*segment, error) // durably: its name and mark are on the disk
	open(number int64) (io.ReadCloser, error)
	remove(number int64) error
}

// writer is an open segment.
type writer interface {
	io.WriteCloser
	Sync() error
	Truncate(int64) error
}

// segment is one file of the log. One goroutine writes it, another reads up to durable.
type segment struct {
	number  int64
	file    writer // nil when it is of an earlier life
	durable atomic.Int64
	closed  atomic.Bool // nothing more will be written to it
}

// append makes bytes durable.
func (s *segment) append(b []byte) error {
	if _, err := s.file.Write(b); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.durable.Add(int64(len(b)))
	return nil
}

func (s *segment) finish() {
	_ = s.file.Close() // all of it is on the disk
	s.closed.Store(true)
}

// abandon keeps what is durable. That what is behind it goes is not certain, and need not be.
func (s *segment) abandon() {
	_ = s.file.Truncate(s.durable.Load())
	s.finish()
}

const segmentSuffix = ".audit"

func segmentName(number int64) string { return fmt.Sprintf("%016d%s", number, segmentSuffix) }

// osDisk is a folder.
type osDisk struct{ dir string }

func (d osDisk) path(number int64) string { return filepath.Join(d.dir, segmentName(number)) }

func (d osDisk) list() ([]*segment, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	var out []*segment
	for _, e := range entries {
		var number int64
		name, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if _, err := fmt.Sscanf(name, "%d", &number); !ok || err != nil || segmentName(number) != e.Name() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		s := &segment{number: number}
		s.durable.Store(info.Size())
		s.closed.Store(true)
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *segment) int { return int(a.number - b.number) })
	return out, nil
}

func (d osDisk) create(number int64) (*segment, error) {
	f, err := os.OpenFile(d.path(number), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	s := &segment{number: number, file: f}
	err = s.append([]byte(segmentMark))
	if err == nil {
		err = syncFolder(d.dir)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(d.path(number)) // there is nothing in it
		return nil, err
	}
	return s, nil
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if closing := f.Close(); err == nil {
		err = closing
	}
	return err
}

func (d osDisk) open(number int64) (io.ReadCloser, error) { return os.Open(d.path(number)) }

func (d osDisk) remove(number int64) error { return os.Remove(d.path(number)) }
