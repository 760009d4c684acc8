package embedded

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"github.com/google/uuid"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/crashpoint"
)

// blobInline is the largest blob kept in the database, in bytes: it rides in a
// group commit instead of costing two fsyncs and a file of its own. 64 KiB, and
// room for what encryption adds to them.
const blobInline = 64<<10 + 512

// CreateBlob implements journal.BlobStore.
func (s *Store) CreateBlob(ctx context.Context, tenant string) (journal.BlobWriter, error) {
	w, err := s.createBlob(ctx, tenant, sha256.New())
	if err != nil {
		return nil, err
	}
	return w, nil
}

// CreateSealedBlob implements journal.SealedStore.
func (s *Store) CreateSealedBlob(ctx context.Context, tenant string) (journal.SealedBlobWriter, error) {
	w, err := s.createBlob(ctx, tenant, nil)
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (s *Store) createBlob(ctx context.Context, tenant string, sum hash.Hash) (*blobWriter, error) {
	if err := checkKeys("tenant", tenant); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, fmt.Errorf("embedded: new blob id: %w", err)
	}
	w := &blobWriter{s: s, tenant: tenant, id: id.String(), hash: sum}
	if !s.files.begin(w) {
		return nil, errClosed()
	}
	return w, nil
}

// blobWriter keeps small blobs in memory and spills larger ones into a temporary file.
type blobWriter struct {
	s      *Store
	tenant string
	id     string

	mu    sync.Mutex
	hash  hash.Hash // nil: the bytes prove themselves
	size  int64
	small []byte
	file  *os.File // nil while the blob is small
	fault error    // of a write: what follows would be incomplete
	ended bool
}

var errBlobEnded = errors.New("embedded: the blob is already committed or aborted")

// Write implements io.Writer.
func (w *blobWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return 0, errBlobEnded
	}
	if w.fault != nil {
		return 0, w.fault
	}
	n, err := w.store(p)
	if w.hash != nil {
		w.hash.Write(p[:n])
	}
	w.size += int64(n)
	if err != nil {
		w.fault = fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	}
	return n, w.fault
}

func (w *blobWriter) store(p []byte) (int, error) {
	if w.file == nil && len(w.small)+len(p) <= blobInline {
		w.small = append(w.small, p...)
		return len(p), nil
	}
	if w.file == nil {
		f, err := w.s.files.createTemp(w.id)
		if err != nil {
			return 0, err
		}
		w.file = f
		if _, err := f.Write(w.small); err != nil {
			return 0, err
		}
		w.small = nil
	}
	return w.file.Write(p)
}

// Commit implements journal.BlobWriter. A large blob's file is on the disk
// under its name before the row that names it: a crash between leaves a file
// without a row, which is collected, never a row without a file.
func (w *blobWriter) Commit(ctx context.Context) (journal.BlobInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	info := journal.BlobInfo{ID: w.id, Size: w.size, SHA256: hex.EncodeToString(w.hash.Sum(nil))}
	if err := w.commit(ctx, info, nil); err != nil {
		return journal.BlobInfo{}, err
	}
	return info, nil
}

// ID implements journal.SealedBlobWriter.
func (w *blobWriter) ID() string { return w.id }

// CommitSealed implements journal.SealedBlobWriter.
func (w *blobWriter) CommitSealed(ctx context.Context, size int64, note []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.commit(ctx, journal.BlobInfo{ID: w.id, Size: size}, blob(note))
}

func (w *blobWriter) commit(ctx context.Context, info journal.BlobInfo, note []byte) error {
	if w.ended {
		return errBlobEnded
	}
	if err := cmp.Or(w.fault, ctx.Err()); err != nil {
		return err
	}
	w.ended = true
	defer w.s.files.end(w.id)
	var data []byte
	if w.file == nil {
		data = blob(w.small)
	} else if err := w.s.files.publish(w.file, w.id); err != nil {
		return fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	}
	created := micros(w.s.now())
	err := w.s.write(ctx, w.tenant, 256+len(data), func(t *txn) error {
		return t.exec(`
			INSERT INTO blobs (tenant, id, size, sha256, created, data, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)`,
			w.tenant, w.id, info.Size, info.SHA256, created, data, note)
	})
	if err != nil && w.file != nil && !errors.Is(err, journal.ErrInDoubt) {
		w.s.removeFile(w.id)
	}
	return err
}

// Abort implements journal.BlobWriter.
func (w *blobWriter) Abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	w.ended = true
	if w.file != nil {
		if err := w.s.files.discard(w.file); err != nil {
			w.s.log.Warn("temporary file of an aborted blob remains until the next collection", "err", err)
		}
	}
	w.s.files.end(w.id)
}

// OpenBlob implements journal.BlobStore. Reading to the end verifies the
// hash: journal.ErrCorrupt instead of io.EOF when the bytes have changed.
func (s *Store) OpenBlob(ctx context.Context, tenant, id string) (io.ReadCloser, journal.BlobInfo, error) {
	body, info, _, err := s.OpenSealedBlob(ctx, tenant, id)
	return body, info, err
}

// OpenSealedBlob implements journal.SealedStore.
func (s *Store) OpenSealedBlob(ctx context.Context, tenant, id string) (io.ReadCloser, journal.BlobInfo, []byte, error) {
	none := journal.BlobInfo{}
	if err := checkKeys("tenant", tenant); err != nil {
		return nil, none, nil, err
	}
	info := journal.BlobInfo{ID: id}
	var data, note []byte
	var inFile bool
	err := s.read.row(ctx, `
		SELECT size, sha256, data IS NULL, data, note FROM blobs WHERE tenant = ?1 AND id = ?2`,
		[]any{tenant, id}, &info.Size, &info.SHA256, &inFile, &data, &note)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, none, nil, fmt.Errorf("%w: blob", journal.ErrNotFound)
	}
	if err != nil {
		return nil, none, nil, err
	}
	src := io.NopCloser(bytes.NewReader(data))
	if inFile {
		if src, err = s.openFile(ctx, tenant, id); err != nil {
			return nil, none, nil, err
		}
	}
	r := &blobReader{src: src, info: info}
	if note == nil {
		r.hash = sha256.New()
	}
	return r, info, note, nil
}

// openFile opens a blob's file; a missing one means that the blob was deleted
// since its row was read, or else that the folder was damaged.
func (s *Store) openFile(ctx context.Context, tenant, id string) (io.ReadCloser, error) {
	f, err := s.files.open(id)
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	}
	var one int
	rowErr := s.read.row(ctx, `SELECT 1 FROM blobs WHERE tenant = ?1 AND id = ?2`, []any{tenant, id}, &one)
	switch {
	case errors.Is(rowErr, sql.ErrNoRows):
		return nil, fmt.Errorf("%w: blob", journal.ErrNotFound)
	case rowErr != nil:
		return nil, rowErr
	}
	return nil, fmt.Errorf("%w: the file of blob %s is missing", journal.ErrCorrupt, id)
}

type blobReader struct {
	src  io.ReadCloser
	hash hash.Hash // nil: the bytes prove themselves
	info journal.BlobInfo
}

// Read implements io.Reader.
func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	if r.hash != nil {
		r.hash.Write(p[:n])
	}
	switch {
	case err == nil:
	case !errors.Is(err, io.EOF):
		err = fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	case r.hash != nil && hex.EncodeToString(r.hash.Sum(nil)) != r.info.SHA256:
		err = fmt.Errorf("%w: blob %s does not match its hash", journal.ErrCorrupt, r.info.ID)
	}
	return n, err
}

// Close implements io.Closer.
func (r *blobReader) Close() error { return r.src.Close() }

// DeleteBlob implements journal.BlobStore. Readers that are open read on. A file that
// a crash has left behind its row goes too.
func (s *Store) DeleteBlob(ctx context.Context, tenant, id string) error {
	if err := checkKeys("tenant", tenant); err != nil {
		return err
	}
	if uuid.Validate(id) != nil { // not one of ours: unknown, and no name of a file
		return ctx.Err()
	}
	var inFile bool
	err := s.write(ctx, tenant, 256, func(t *txn) error {
		found, err := t.row(`DELETE FROM blobs WHERE tenant = ?1 AND id = ?2 RETURNING data IS NULL`,
			[]any{tenant, id}, &inFile)
		if err != nil || found {
			return err
		}
		var one int
		foreign, err := t.row(`SELECT 1 FROM blobs WHERE id = ?1 AND data IS NULL`, []any{id}, &one)
		inFile = !foreign && !s.files.writing(id)
		return err
	})
	if err != nil || !inFile {
		return err
	}
	crashpoint.Here("blob file")
	s.removeFile(id)
	return nil
}

// removeFile removes the file of a blob that has no row any more; a failure
// leaves it to the collection.
func (s *Store) removeFile(id string) {
	if err := s.files.remove(id); err != nil {
		s.log.Warn("file of a deleted blob remains until the next collection", "blob", id, "err", err)
	}
}

// ClaimedBlobs implements journal.BlobStore.
func (s *Store) ClaimedBlobs(ctx context.Context, id journal.Identity, after string, limit int) ([]string, error) {
	if err := checkKeys("tenant", id.Tenant); err != nil {
		return nil, err
	}
	var out []string
	err := s.read.each(ctx, `
		SELECT id FROM blobs WHERE tenant = ?1 AND owner_kind = ?2 AND owner_id = ?3 AND id > ?4 ORDER BY id LIMIT ?5`,
		[]any{id.Tenant, id.Kind, id.ID, after, limit}, func(rows *sql.Rows) error {
			var blob string
			if err := rows.Scan(&blob); err != nil {
				return classify(err)
			}
			out = append(out, blob)
			return nil
		})
	return out, err
}
