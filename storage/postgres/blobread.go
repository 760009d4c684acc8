package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors/journal"
)

// A reader of more than one part holds a lease on the bytes, so that it can
// read on when the blob is deleted. It renews it as it reads; one that pauses
// for longer than the lease may find them gone.
const (
	readLease = "10 minutes"
	renewRead = 3 * time.Minute
)

const leaseBlob = `
	UPDATE blobs SET read_until = greatest(read_until, now() + interval '` + readLease + `')
	WHERE tenant = $1 AND id = $2`

// OpenBlob implements journal.BlobStore. Reading to the end verifies the
// hash: journal.ErrCorrupt instead of io.EOF when the bytes have changed.
// The reader needs no connection between two parts and does not end with ctx.
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
	unknown := fmt.Errorf("%w: blob", journal.ErrNotFound)
	if uuid.Validate(id) != nil {
		return nil, none, nil, unknown
	}
	info := journal.BlobInfo{ID: id}
	r := &blobReader{s: s, ctx: context.WithoutCancel(ctx), tenant: tenant, next: 1}
	var note []byte
	err := s.row(ctx, tenant, `
		SELECT b.size, b.sha256, b.note, b.parts, p.data FROM blobs b
		JOIN blob_parts p ON p.tenant = b.tenant AND p.id = b.id AND p.part = 0
		WHERE b.tenant = $1 AND b.id = $2 AND b.ready AND NOT b.deleted`,
		[]any{tenant, id}, &info.Size, &info.SHA256, &note, &r.parts, &r.part)
	if isNoRows(err) {
		return nil, none, nil, unknown
	}
	if err != nil {
		return nil, none, nil, err
	}
	if note == nil {
		r.hash = sha256.New()
	}
	if r.info = info; r.parts > 1 {
		leased, err := r.lease(ctx, leaseBlob+` AND ready AND NOT deleted`)
		if err != nil {
			return nil, none, nil, err
		}
		if !leased { // deleted since
			return nil, none, nil, unknown
		}
	}
	return r, info, note, nil
}

type blobReader struct {
	s      *Store
	ctx    context.Context
	tenant string
	info   journal.BlobInfo
	hash   hash.Hash // nil: the bytes prove themselves
	part   []byte    // what is left of the current part
	next   int64     // number of the next
	parts  int64
	renew  time.Time // when the lease is due
	closed bool
}

func (r *blobReader) lease(ctx context.Context, query string) (leased bool, err error) {
	err = r.s.bulk.of(r.tenant).write(ctx, func(ctx context.Context, q querier) error {
		tag, err := q.Exec(ctx, query, r.tenant, r.info.ID)
		leased = tag.RowsAffected() == 1
		return err
	})
	r.renew = time.Now().Add(renewRead)
	return leased, err
}

// Read implements io.Reader.
func (r *blobReader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, fmt.Errorf("%w: the blob's reader is closed", ErrInvalid)
	}
	for len(r.part) == 0 {
		if r.next >= r.parts {
			if r.hash != nil && hex.EncodeToString(r.hash.Sum(nil)) != r.info.SHA256 {
				return 0, fmt.Errorf("%w: blob %s does not match its hash", journal.ErrCorrupt, r.info.ID)
			}
			return 0, io.EOF
		}
		if err := r.load(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.part)
	if r.hash != nil {
		r.hash.Write(p[:n])
	}
	r.part = r.part[n:]
	return n, nil
}

// load reads the next part.
func (r *blobReader) load() error {
	ctx, cancel := context.WithTimeout(r.ctx, bulkTimeout)
	defer cancel()
	if time.Now().After(r.renew) {
		if _, err := r.lease(ctx, leaseBlob); err != nil { // a deleted one is renewed too
			return err
		}
	}
	err := r.s.row(ctx, r.tenant, `SELECT data FROM blob_parts WHERE tenant = $1 AND id = $2 AND part = $3`,
		[]any{r.tenant, r.info.ID, r.next}, &r.part)
	if isNoRows(err) {
		return fmt.Errorf("%w: part %d of blob %s is gone", journal.ErrNotFound, r.next, r.info.ID)
	}
	if err == nil {
		r.next++
	}
	return err
}

// Close implements io.Closer. The lease runs out by itself.
func (r *blobReader) Close() error {
	r.closed, r.part = true, nil
	return nil
}
