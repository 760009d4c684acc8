package audit

import (
	"errors"
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
	list() ([]*segment, error) // those of earlier lives, by number
	// create makes a segment and all of its room, durably: what is written to it later
	// changes bytes that are there, so that a full disk fails here and not there.
	create(number int64) (*segment, error)
	open(number int64) (reading, error)
	remove(number int64) error
}

// reading is a segment that is read.
type reading interface {
	io.ReaderAt
	io.Closer
}

// writer is an open segment.
type writer interface {
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(int64) error
}

// segment is one file of the log. One goroutine at a time writes it, another reads up
// to durable.
type segment struct {
	number  int64
	file    writer // nil when it is of an earlier life
	written int64
	durable atomic.Int64
	closed  atomic.Bool // nothing more will be written to it
}

// room is how many bytes it can still take.
func (s *segment) room() int64 { return segmentBytes - s.written }

// write hands bytes to the kernel: they outlive this process, not this machine.
func (s *segment) write(b []byte) error {
	if _, err := s.file.WriteAt(b, s.written); err != nil {
		return err
	}
	s.written += int64(len(b))
	return nil
}

// sync makes what was written durable.
func (s *segment) sync() error {
	upTo := s.written
	if s.durable.Load() == upTo {
		return nil
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.durable.Store(upTo)
	return nil
}

// end closes the segment and gives back what is behind its durable part: room, or what a
// failed write left. That it goes is not certain, and need not be.
func (s *segment) end() {
	_ = s.file.Truncate(s.durable.Load())
	_ = s.file.Close()
	s.closed.Store(true)
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
		size, err := trim(d.path(number))
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		s := &segment{number: number}
		s.durable.Store(size)
		s.closed.Store(true)
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *segment) int { return int(a.number - b.number) })
	return out, nil
}

// trimSpare is what trim leaves of zeros: the last record may end in some.
const trimSpare = 64

// trim gives back the room a process did not use before it died, and tells the size.
func trim(path string) (size int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	end := info.Size()
	var block [64 << 10]byte
	for end > 0 {
		b := block[:min(end, int64(len(block)))]
		if _, err := f.ReadAt(b, end-int64(len(b))); err != nil {
			return 0, err
		}
		if !isZero(b) {
			for b[len(b)-1] == 0 {
				b, end = b[:len(b)-1], end-1
			}
			break
		}
		end -= int64(len(b))
	}
	if end > 0 {
		end = min(end+trimSpare, info.Size())
	}
	if end == info.Size() {
		return end, nil
	}
	return end, f.Truncate(end)
}

func (d osDisk) create(number int64) (*segment, error) {
	f, err := os.OpenFile(d.path(number), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	s := &segment{number: number, file: dataFile{f}}
	if err = fill(f); err == nil {
		if err = s.write([]byte(segmentMark)); err == nil {
			if err = f.Sync(); err == nil {
				s.durable.Store(s.written)
				err = syncFolder(d.dir)
			}
		}
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(d.path(number)) // there is nothing in it
		return nil, err
	}
	return s, nil
}

// fill writes all of a segment: a later write to it needs no new block and changes no
// size, so that making it durable costs the disk one write, not a file system's commit.
func fill(f *os.File) error {
	for at := int64(0); at < segmentBytes; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:], at); err != nil {
			return err
		}
	}
	return nil
}

// dataFile is a file whose size does not change: its data is synced, and nothing else.
type dataFile struct{ *os.File }

// Sync implements writer.
func (f dataFile) Sync() error { return syncData(f.File) }

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

func (d osDisk) open(number int64) (reading, error) { return os.Open(d.path(number)) }

func (d osDisk) remove(number int64) error { return os.Remove(d.path(number)) }
