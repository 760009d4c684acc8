package sealed

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"granary.dev/granary/actors/journal"
)

// The note beside a sealed blob is the sealed SHA-256 and size of what it holds.
const noteLen = sha256.Size + 8

func blobPlace(tenant, id string) []byte { return place("blob", tenant, id) }

func notePlace(tenant, id string) []byte { return place("note of a blob", tenant, id) }

// CreateBlob implements journal.BlobStore.
func (s *Store) CreateBlob(ctx context.Context, tenant string) (journal.BlobWriter, error) {
	if tenant == "" {
		return s.Inner.CreateBlob(ctx, tenant)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k, err := s.keysOf(ctx, tenant)
	if err != nil {
		return nil, err
	}
	w, err := s.CreateSealedBlob(ctx, tenant)
	if err != nil {
		return nil, err
	}
	// Frames are sealed whatever becomes of ctx: who gives up calls Abort.
	return &blobWriter{s: s, ctx: context.WithoutCancel(ctx), tenant: tenant, to: w, thing: blobPlace(tenant, w.ID()), hash: sha256.New(),
		primary: k.primary, began: time.Now()}, nil
}

// blobWriter seals a frame whenever it knows that it is not the last.
type blobWriter struct {
	s      *Store
	ctx    context.Context
	tenant string
	to     journal.SealedBlobWriter
	thing  []byte

	primary string // the key that sealed the first frame, or one before it
	began   time.Time

	mu    sync.Mutex
	hash  hash.Hash
	size  int64
	next  int64  // number of the next frame
	plain []byte // of it
	frame []byte // the last one sealed, for its memory
	fault error
	ended bool
}

var errBlobEnded = errors.New("sealed: the blob is already committed or aborted")

// Write implements io.Writer.
func (w *blobWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return 0, errBlobEnded
	}
	n := 0
	for w.fault == nil && n < len(p) {
		if len(w.plain) == frameSize {
			w.fault = w.flush(w.ctx, false)
			continue
		}
		take := min(len(p)-n, frameSize-len(w.plain))
		w.reserve(len(w.plain) + take)
		w.plain = append(w.plain, p[n:n+take]...)
		w.hash.Write(p[n : n+take])
		w.size += int64(take)
		n += take
	}
	return n, w.fault
}

// reserve makes room for size bytes, by doubling, and never for more than a frame.
func (w *blobWriter) reserve(size int) {
	if size > cap(w.plain) {
		grown := make([]byte, len(w.plain), min(frameSize, max(size, 2*cap(w.plain), 4096)))
		copy(grown, w.plain)
		w.plain = grown
	}
}

func (w *blobWriter) flush(ctx context.Context, last bool) error {
	frame, err := w.s.sealFrame(ctx, w.tenant, w.frame[:0], w.plain, w.thing, w.next, last)
	if err != nil {
		return err
	}
	w.frame, w.plain = frame, w.plain[:0]
	w.next++
	_, err = w.to.Write(frame)
	return err
}

// Commit implements journal.BlobWriter.
func (w *blobWriter) Commit(ctx context.Context) (journal.BlobInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	none := journal.BlobInfo{}
	switch {
	case w.ended:
		return none, errBlobEnded
	case w.fault != nil:
		return none, w.fault
	case ctx.Err() != nil:
		return none, ctx.Err()
	}
	w.ended = true
	defer w.to.Abort() // does nothing after a commit
	if err := w.flush(ctx, true); err != nil {
		return none, err
	}
	sum := w.hash.Sum(nil)
	k, err := w.s.keysOf(ctx, w.tenant)
	if err != nil {
		return none, err
	}
	if k.primary != w.primary && time.Since(w.began) > w.s.ring.cfg.Settle/2 { // its key may be gone soon
		return none, fmt.Errorf("%w: the tenant's key was rotated during a long upload", journal.ErrUnavailable)
	}
	note, err := w.s.seal(k, binary.LittleEndian.AppendUint64(sum, uint64(w.size)), false, notePlace(w.tenant, w.to.ID()))
	if err != nil {
		return none, err
	}
	w.plain, w.frame = nil, nil
	if err := w.to.CommitSealed(ctx, w.size, note); err != nil {
		return none, err
	}
	return journal.BlobInfo{ID: w.to.ID(), Size: w.size, SHA256: hex.EncodeToString(sum[:sha256.Size])}, nil
}

// Abort implements journal.BlobWriter.
func (w *blobWriter) Abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	w.ended, w.plain, w.frame = true, nil, nil
	w.to.Abort()
}

// OpenBlob implements journal.BlobStore. Each frame is proved as it is read.
func (s *Store) OpenBlob(ctx context.Context, tenant, id string) (io.ReadCloser, journal.BlobInfo, error) {
	body, info, note, err := s.OpenSealedBlob(ctx, tenant, id)
	if err != nil {
		return nil, journal.BlobInfo{}, err
	}
	if note == nil {
		_, err = s.unseal(ctx, tenant, nil, notePlace(tenant, id))
	} else {
		info, err = s.blobInfo(ctx, tenant, id, note)
	}
	if err != nil {
		_ = body.Close() // nothing was read
		return nil, journal.BlobInfo{}, fmt.Errorf("blob %s: %w", id, err)
	}
	if note == nil {
		return body, info, nil
	}
	b := &blobReader{body: body}
	b.frameReader = frameReader{s: s, ctx: context.WithoutCancel(ctx), tenant: tenant, thing: blobPlace(tenant, id), src: body, left: frames(info.Size)}
	b.again = func(ctx context.Context, offset int64) (err error) {
		next, _, _, err := s.OpenSealedBlob(ctx, tenant, id)
		if err != nil {
			return err
		}
		_ = b.body.Close() // of a reader: nothing is lost
		b.body, b.src = next, next
		_, err = io.CopyN(io.Discard, next, offset)
		return err
	}
	return b, info, nil
}

func (s *Store) blobInfo(ctx context.Context, tenant, id string, note []byte) (journal.BlobInfo, error) {
	plain, err := s.unseal(ctx, tenant, note, notePlace(tenant, id))
	if err != nil {
		return journal.BlobInfo{}, err
	}
	if len(plain) != noteLen {
		return journal.BlobInfo{}, s.unreadable(tenant, "note of a blob", errForm)
	}
	return journal.BlobInfo{ID: id, SHA256: hex.EncodeToString(plain[:sha256.Size]),
		Size: int64(binary.LittleEndian.Uint64(plain[sha256.Size:]))}, nil
}

type blobReader struct {
	frameReader
	body io.Closer
}

// Close implements io.Closer.
func (r *blobReader) Close() error { return r.body.Close() }
