package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

// blobPart is the size of one part of a blob, in bytes: what a reader and a
// writer hold in memory.
const blobPart = 512 << 10

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
		return nil, fmt.Errorf("postgres: new blob id: %w", err)
	}
	// Parts are written whatever becomes of ctx: who gives up calls Abort.
	return &blobWriter{s: s, ctx: context.WithoutCancel(ctx), tenant: tenant, id: id.String(), hash: sum}, nil
}

// blobWriter writes a part whenever it has one. The row of the blob comes with
// the first part and is not ready before Commit; one that is never committed
// is collected like any that nobody claims.
type blobWriter struct {
	s      *Store
	ctx    context.Context
	tenant string
	id     string

	mu    sync.Mutex
	hash  hash.Hash // nil: the bytes prove themselves
	size  int64
	part  []byte
	parts int64
	fault error // of a write: what follows would be incomplete
	ended bool
}

var errBlobEnded = fmt.Errorf("%w: the blob is already committed or aborted", ErrInvalid)

// Write implements io.Writer.
func (w *blobWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return 0, errBlobEnded
	}
	n := 0
	for w.fault == nil && n < len(p) {
		if len(w.part) == blobPart {
			w.fault = w.flush()
			continue
		}
		take := min(len(p)-n, blobPart-len(w.part))
		w.reserve(len(w.part) + take)
		w.part = append(w.part, p[n:n+take]...)
		if w.hash != nil {
			w.hash.Write(p[n : n+take])
		}
		w.size += int64(take)
		n += take
	}
	return n, w.fault
}

// reserve makes room for size bytes, by doubling, and never for more than a part.
func (w *blobWriter) reserve(size int) {
	if size > cap(w.part) {
		grown := make([]byte, len(w.part), min(blobPart, max(size, 2*cap(w.part), 4096)))
		copy(grown, w.part)
		w.part = grown
	}
}

// flush writes a full part; the first makes the row.
func (w *blobWriter) flush() error {
	query := `
		INSERT INTO blob_parts (tenant, id, part, data)
		SELECT tenant, id, $3::bigint, $4::bytea FROM blobs WHERE tenant = $1 AND id = $2 AND NOT ready AND NOT deleted`
	if w.parts == 0 {
		query = `
			WITH b AS (INSERT INTO blobs (tenant, id, ready, size, sha256, parts)
			           VALUES ($1, $2, false, 0, '', 0) RETURNING tenant, id)
			INSERT INTO blob_parts (tenant, id, part, data) SELECT tenant, id, $3::bigint, $4::bytea FROM b`
	}
	err := w.s.bulk.of(w.tenant).write(w.ctx, func(ctx context.Context, q querier) error {
		tag, err := q.Exec(ctx, query, w.tenant, w.id, w.parts, w.part)
		if err == nil && tag.RowsAffected() != 1 {
			err = w.collected()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: part of a blob: %w", journal.ErrUnavailable, err)
	}
	w.parts++
	w.part = w.part[:0]
	return nil
}

func (w *blobWriter) collected() error {
	return fmt.Errorf("%w: the blob took too long to write and was collected", journal.ErrUnavailable)
}

// Commit implements journal.BlobWriter.
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

// commit writes the last part and the row's readiness in one statement; a blob of
// one part is made by it as a whole.
func (w *blobWriter) commit(ctx context.Context, info journal.BlobInfo, note []byte) error {
	if w.ended {
		return errBlobEnded
	}
	if err := cmp.Or(w.fault, ctx.Err()); err != nil {
		return err
	}
	w.ended = true
	head := `UPDATE blobs SET ready = true, size = $5::bigint, sha256 = $6::text, note = $7::bytea, parts = $3::bigint + 1
		WHERE tenant = $1 AND id = $2 AND NOT ready AND NOT deleted RETURNING tenant, id`
	if w.parts == 0 {
		head = `INSERT INTO blobs (tenant, id, ready, size, sha256, note, parts)
			VALUES ($1, $2, true, $5::bigint, $6::text, $7::bytea, $3::bigint + 1) RETURNING tenant, id`
	}
	err := w.s.bulk.of(w.tenant).write(ctx, func(ctx context.Context, q querier) error {
		tag, err := q.Exec(ctx, `WITH b AS (`+head+`)
			INSERT INTO blob_parts (tenant, id, part, data) SELECT tenant, id, $3::bigint, $4::bytea FROM b`,
			w.tenant, w.id, w.parts, blob(w.part), info.Size, info.SHA256, note)
		if err == nil && tag.RowsAffected() != 1 {
			err = w.collected()
		}
		return err
	})
	w.part = nil
	if err != nil && !errors.Is(err, journal.ErrInDoubt) {
		w.discard()
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
	w.ended, w.part = true, nil
	w.discard()
}

// discard removes the parts that were written, or leaves them to the collection.
func (w *blobWriter) discard() {
	if w.parts == 0 && w.fault == nil {
		return
	}
	if err := w.s.DeleteBlob(w.ctx, w.tenant, w.id); err != nil {
		w.s.log.Warn("parts of an aborted blob remain until they are collected", "blob", w.id, "err", err)
	}
}

// DeleteBlob implements journal.BlobStore. Nobody can open it from now on; its
// bytes go at once, or, when a reader is open, at the collection after it.
func (s *Store) DeleteBlob(ctx context.Context, tenant, id string) error {
	if err := checkKeys("tenant", tenant); err != nil {
		return err
	}
	if uuid.Validate(id) != nil { // not one of ours: unknown
		return ctx.Err()
	}
	var free bool // it is there and no reader is open
	err := s.bulk.of(tenant).write(ctx, func(ctx context.Context, q querier) error {
		err := q.QueryRow(ctx, `
			UPDATE blobs SET deleted = true WHERE tenant = $1 AND id = $2 RETURNING read_until <= now()`,
			tenant, id).Scan(&free)
		if isNoRows(err) {
			return nil
		}
		return err
	})
	if err != nil || !free {
		return err
	}
	return s.purgeBlob(context.WithoutCancel(ctx), tenant, id)
}

// ClaimedBlobs implements journal.BlobStore.
func (s *Store) ClaimedBlobs(ctx context.Context, id journal.Identity, after string, limit int) ([]string, error) {
	if err := checkKeys("tenant", id.Tenant); err != nil {
		return nil, err
	}
	if err := checkText("kind", id.Kind, "id", id.ID, "blob", after); err != nil {
		return nil, err
	}
	return collect(ctx, s.bulk.of(id.Tenant), `
		SELECT id FROM blobs WHERE tenant = $1 AND owner_kind = $2 AND owner_id = $3 AND id > $4 AND NOT deleted ORDER BY id LIMIT $5`,
		[]any{id.Tenant, id.Kind, id.ID, after, limit}, func(r pgx.CollectableRow) (blob string, err error) { return blob, r.Scan(&blob) })
}

// purgeBlob removes a deleted blob, its parts first. A part that a writer adds
// meanwhile keeps the row, for the next collection.
func (s *Store) purgeBlob(ctx context.Context, tenant, id string) error {
	err := stepwise(ctx, s.bulk.of(tenant), partStep, `
		DELETE FROM blob_parts WHERE tenant = $1 AND id = $2 AND part IN (
			SELECT part FROM blob_parts WHERE tenant = $1 AND id = $2 ORDER BY part LIMIT $3)`, tenant, id)
	if err == nil {
		err = s.bulk.of(tenant).write(ctx, func(ctx context.Context, q querier) error {
			_, err := q.Exec(ctx, `DELETE FROM blobs WHERE tenant = $1 AND id = $2 AND deleted`, tenant, id)
			return err
		})
	}
	if sqlState(err) == codeForeignKey {
		return nil
	}
	return err
}

// purgeBlobs removes the blobs that are deleted and that no reader has open.
func (s *Store) purgeBlobs(ctx context.Context) error {
	type key struct{ tenant, id string }
	total := 0
	start := time.Now()
	for n := rowStep; n >= rowStep; {
		list, err := collect(ctx, s.across(forCollection), `SELECT tenant, id FROM blobs WHERE deleted AND read_until <= now() LIMIT $1`,
			[]any{rowStep}, func(r pgx.CollectableRow) (k key, err error) { return k, r.Scan(&k.tenant, &k.id) })
		if err != nil {
			return err
		}
		for _, k := range list {
			if err := s.purgeBlob(ctx, k.tenant, k.id); err != nil {
				return err
			}
		}
		n = len(list)
		total += n
	}
	if total > 0 {
		s.log.Info("unclaimed and deleted blobs collected", "count", total, "took", time.Since(start))
	}
	return nil
}
