package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"
)

// blobFiles is the folder of large blobs. A file's name is the blob's id, a
// UUID of our own making: nothing a client says becomes part of a path.
type blobFiles struct {
	blobs string // DIR/blobs
	tmp   string // DIR/tmp

	mu      sync.Mutex
	writers map[string]*blobWriter // being written; the collection leaves them alone
	closed  bool
}

func openBlobFiles(dir string) (*blobFiles, error) {
	b := &blobFiles{
		blobs:   filepath.Join(dir, "blobs"),
		tmp:     filepath.Join(dir, "tmp"),
		writers: map[string]*blobWriter{},
	}
	for _, d := range []string{b.blobs, b.tmp} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("embedded: make blob folder: %w", err)
		}
	}
	return b, nil
}

// begin registers a writer; false when the store is closed.
func (b *blobFiles) begin(w *blobWriter) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.writers[w.id] = w
	return true
}

func (b *blobFiles) end(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.writers, id)
}

func (b *blobFiles) writing(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.writers[id]
	return ok
}

// abortAll ends every writer that is still open and lets no new one in.
func (b *blobFiles) abortAll() {
	b.mu.Lock()
	b.closed = true
	var open []*blobWriter
	for _, w := range b.writers {
		open = append(open, w)
	}
	b.mu.Unlock()
	for _, w := range open {
		w.Abort()
	}
}

func (b *blobFiles) path(id string) string { return filepath.Join(b.blobs, id[:2], id) }

func (b *blobFiles) createTemp(id string) (*os.File, error) {
	return os.OpenFile(filepath.Join(b.tmp, id), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// publish brings a temporary file to the disk under its final name.
func (b *blobFiles) publish(f *os.File, id string) error {
	err := errors.Join(f.Sync(), f.Close())
	if err == nil {
		err = b.move(f.Name(), id)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // may have moved already; the collection finds it
	}
	return err
}

func (b *blobFiles) move(tmp, id string) error {
	final := b.path(id)
	shard := filepath.Dir(final)
	switch err := os.Mkdir(shard, 0o700); {
	case err == nil:
		if err := syncDir(b.blobs); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	if err := os.Rename(tmp, final); err != nil {
		return err
	}
	return syncDir(shard)
}

func (b *blobFiles) discard(f *os.File) error {
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func (b *blobFiles) open(id string) (*os.File, error) { return os.Open(b.path(id)) }

func (b *blobFiles) remove(id string) error {
	err := os.Remove(b.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// each calls visit for every file whose name is a blob id, published or not.
func (b *blobFiles) each(visit func(id, path string, published bool) error) error {
	for _, root := range []string{b.tmp, b.blobs} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) { // removed while we walk
					return nil
				}
				return err
			}
			if d.IsDir() || uuid.Validate(d.Name()) != nil {
				return nil // not ours to judge
			}
			return visit(d.Name(), path, root == b.blobs)
		})
		if err != nil {
			return fmt.Errorf("embedded: walk blob files: %w", err)
		}
	}
	return nil
}

// syncDir makes a rename or a new entry in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
