package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgtype"

	"granary.dev/granary/actors/journal"
)

const (
	// indexInline is the largest index kept in one row, in bytes.
	indexInline = 256 << 10
	// indexPart is the size of one part of a larger index, in bytes.
	indexPart = 1 << 20
	// partGrace is how old parts that no row names are when they are
	// collected: younger ones may be of a save under way.
	partGrace = "1 hour"
)

// publishIndex makes an index the grain's, under the fence. $6 is its
// generation, NULL for one in the row, which takes its number here. $10 is
// what the grain's count of erasures was when the save began, or NULL: an
// index of before an erasure must not come back after it. All $7 parts have to
// be there. Of two saves at once the one that began later stays.
const publishIndex = `WITH fenced AS (` + holderRow + `), here AS (
	SELECT fenced.erasures, $7::bigint = 0 OR $7::bigint = (SELECT count(*) FROM index_parts
		WHERE tenant = $1 AND kind = $2 AND id = $3 AND gen = $6::bigint) AS complete
	FROM fenced
), put AS (
	INSERT INTO indexes AS i (tenant, kind, id, gen, parts, sum, data)
	SELECT $1, $2, $3, coalesce($6::bigint, nextval('index_gen')), $7::bigint, $8::bigint, $9::bytea
	FROM here WHERE complete AND erasures = coalesce($10::bigint, erasures)
	ON CONFLICT (tenant, kind, id) DO UPDATE SET
		gen = excluded.gen, parts = excluded.parts, sum = excluded.sum, data = excluded.data
	WHERE excluded.gen > i.gen
	RETURNING gen)
	SELECT here.erasures,
		complete OR EXISTS (SELECT 1 FROM indexes WHERE tenant = $1 AND kind = $2 AND id = $3 AND gen > $6::bigint),
		coalesce((SELECT parts FROM indexes WHERE tenant = $1 AND kind = $2 AND id = $3), 0),
		coalesce((SELECT gen FROM put), 0)
	FROM here`

// indexSave is one SaveIndex under way.
type indexSave struct {
	fence  journal.Fence
	gen    *int64 // nil: inline
	began  *int64 // erasures at the first part; nil: inline
	parts  int64
	sum    uint32
	inline []byte

	published int64 // the generation it got, 0 when a later save was faster
	replaced  int64 // parts of the one before
}

// SaveIndex implements journal.Store. A large index is written in parts under
// a new generation, without holding the owner row; the row that names the
// generation changes last and under the fence, so that readers see the old
// index or the new one.
func (s *Store) SaveIndex(ctx context.Context, f journal.Fence, data []byte) error {
	return s.SaveIndexFrom(ctx, f, bytes.NewReader(data), int64(len(data)))
}

// SaveIndexFrom implements journal.SealedStore.
func (s *Store) SaveIndexFrom(ctx context.Context, f journal.Fence, r io.Reader, size int64) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	save := &indexSave{fence: f, inline: []byte{}}
	if size > indexInline {
		if err := s.saveParts(ctx, save, r, size); err != nil {
			return err
		}
	} else {
		save.inline = make([]byte, size)
		if _, err := io.ReadFull(r, save.inline); err != nil {
			return fmt.Errorf("postgres: read index to save: %w", err)
		}
		save.sum = s.codec.Sum(save.inline)
	}
	err := s.bulk.of(f.Identity.Tenant).write(ctx, save.publishOn)
	switch {
	case err == nil && save.published != 0 && save.replaced > 0:
		s.purgeLogged(ctx, f.Identity, 0, save.published)
	case save.gen == nil, errors.Is(err, journal.ErrInDoubt): // no parts, or the row may name them
	case err != nil || save.published == 0: // a later save was faster
		s.purgeLogged(ctx, f.Identity, *save.gen, *save.gen+1)
	}
	return err
}

// saveParts checks the fence, to fail early, and writes the parts.
func (s *Store) saveParts(ctx context.Context, save *indexSave, r io.Reader, size int64) error {
	f := save.fence
	var gen, began int64
	err := s.row(ctx, f.Identity.Tenant, `
		SELECT nextval('index_gen'), erasures FROM owner
		WHERE tenant = $1 AND kind = $2 AND id = $3 AND epoch = $4 AND activation = $5 AND NOT released`,
		fenceArgs(f), &gen, &began)
	if isNoRows(err) {
		return fenced(f)
	}
	if err != nil {
		return err
	}
	save.gen, save.began = &gen, &began
	part := make([]byte, indexPart)
	for ; size > 0; save.parts++ {
		part = part[:min(indexPart, size)]
		size -= int64(len(part))
		_, err := io.ReadFull(r, part)
		if err == nil {
			save.sum = s.codec.SumMore(save.sum, part)
			err = s.bulk.of(f.Identity.Tenant).write(ctx, func(ctx context.Context, q querier) error {
				_, err := q.Exec(ctx, `
					INSERT INTO index_parts (tenant, kind, id, gen, part, data) VALUES ($1, $2, $3, $4, $5, $6)`,
					f.Identity.Tenant, f.Identity.Kind, f.Identity.ID, gen, save.parts, part)
				return err
			})
		}
		if err != nil {
			s.purgeLogged(ctx, f.Identity, gen, gen+1)
			return err
		}
	}
	return nil
}

// publishOn runs the fenced statement.
func (save *indexSave) publishOn(ctx context.Context, q querier) error {
	var erasures int64
	var complete bool
	err := q.QueryRow(ctx, publishIndex,
		fenceArgs(save.fence, save.gen, save.parts, int64(save.sum), save.inline, save.began)...).
		Scan(&erasures, &complete, &save.replaced, &save.published)
	switch {
	case isNoRows(err):
		return fenced(save.fence)
	case err != nil:
		return err
	case save.began != nil && *save.began != erasures:
		return fmt.Errorf("%w: %s was erased while its index was being written", journal.ErrFenced, save.fence.Identity)
	case !complete:
		return fmt.Errorf("%w: parts of the index of %s were collected before it was whole", journal.ErrUnavailable, save.fence.Identity)
	}
	return nil
}

// purgeLogged removes parts that nothing names. A failure loses nothing: the
// collection removes them.
func (s *Store) purgeLogged(ctx context.Context, id journal.Identity, from, below int64) {
	if err := s.purgeParts(context.WithoutCancel(ctx), id, from, below); err != nil {
		s.log.Warn("unused parts of an index remain until they are collected", "grain", id.String(), "err", err)
	}
}

// purgeParts removes the grain's index parts of the generations from … below
// that the index row does not name, a few megabytes at a time.
func (s *Store) purgeParts(ctx context.Context, id journal.Identity, from, below int64) error {
	return stepwise(ctx, s.bulk.of(id.Tenant), partStep, `
		DELETE FROM index_parts WHERE ctid = ANY (ARRAY(
			SELECT p.ctid FROM index_parts p
			WHERE p.tenant = $1 AND p.kind = $2 AND p.id = $3 AND p.gen >= $4 AND p.gen < $5
			  AND NOT EXISTS (SELECT 1 FROM indexes i WHERE i.tenant = $1 AND i.kind = $2 AND i.id = $3 AND i.gen = p.gen)
			LIMIT $6))`, id.Tenant, id.Kind, id.ID, from, below)
}

// LoadIndex implements journal.Store. journal.ErrCorrupt when the stored bytes
// do not match their checksum: the index can be built again from the chunks.
func (s *Store) LoadIndex(ctx context.Context, id journal.Identity) ([]byte, error) {
	if err := checkIdentity(id); err != nil {
		return nil, err
	}
	var data []byte
	var parts, read, sum int64
	found := false
	// One statement sees one index, whatever replaces it meanwhile.
	err := s.bulk.of(id.Tenant).read(ctx, func(ctx context.Context, q querier) error {
		rows, err := q.Query(ctx, `
			SELECT i.parts, i.sum, i.data, p.data FROM indexes i
			LEFT JOIN index_parts p ON p.tenant = i.tenant AND p.kind = i.kind AND p.id = i.id AND p.gen = i.gen
			WHERE i.tenant = $1 AND i.kind = $2 AND i.id = $3 ORDER BY p.part`, id.Tenant, id.Kind, id.ID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var inline, part pgtype.DriverBytes // valid until the next row
			if err := rows.Scan(&parts, &sum, &inline, &part); err != nil {
				return err
			}
			if !found {
				data = append(make([]byte, 0, max(int(parts)*indexPart, len(inline))), inline...)
				found = true
			}
			if part != nil {
				data = append(data, part...)
				read++
			}
		}
		return rows.Err()
	})
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, fmt.Errorf("%w: search index of %s", journal.ErrNotFound, id)
	case read != parts:
		return nil, fmt.Errorf("%w: search index of %s lacks parts", journal.ErrCorrupt, id)
	case int64(s.codec.Sum(data)) != sum:
		return nil, fmt.Errorf("%w: search index of %s", journal.ErrCorrupt, id)
	}
	return data, nil
}
