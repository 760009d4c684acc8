package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"

	"granary.dev/granary/actors/journal"
)

const (
	// partRows and partBytes bound one statement that writes chunks. What fits
	// into one goes in one round trip; more goes in a transaction.
	partRows  = 512
	partBytes = 512 << 10
	// vectorRows and vectorBytes bound one statement that writes vectors.
	vectorRows  = 512
	vectorBytes = 1 << 20
)

// scopeLock is the advisory lock of a scope. Who writes chunks or vectors shares
// it until the commit. Who removes vectors has it alone: a vector must not go
// while a chunk that refers to it is being committed. Two scopes may share a
// number; then they wait for each other for nothing.
func scopeLock(sc journal.Scope) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("chunks\x00" + sc.Tenant + "\x00" + sc.UID)) // never fails
	return int64(h.Sum64())
}

// guard is the lock and then the fence. Writers of an earlier owner have both, or
// neither: who has the lock alone, at any time after a takeover, has waited
// for all that ever got it under a fence from before.
const guard = `granary_guard_v1($1, $2, $3, $4, $5, $6, $7)`

func guardArgs(f journal.Fence, sc journal.Scope, alone bool, more ...any) []any {
	id := f.Identity
	return append([]any{scopeLock(sc), alone, id.Tenant, id.Kind, id.ID, f.Epoch, f.Activation}, more...)
}

// putNewChunks writes the chunks of an attempt not seen before; no row when it
// is there already.
const putNewChunks = `WITH guard AS MATERIALIZED (
	SELECT ` + guard + `
), a AS (
	INSERT INTO attempts (tenant, uid, attempt, document, version)
	SELECT $3, $8, $9, $10, $11::bigint FROM guard
	ON CONFLICT (tenant, uid, attempt) DO NOTHING
	RETURNING 1
), c AS (
	INSERT INTO chunks (tenant, uid, attempt, ordinal, hash, model, start_at, end_at, page, kind, language, headings, text)
	SELECT $3, $8, $9, c.* FROM a, unnest($12::bigint[], $13::text[], $14::text[], $15::bigint[], $16::bigint[], $17::bigint[],
		$18::smallint[], $19::text[], $20::text[], $21::bytea[]) AS c)
	SELECT true FROM a`

const insertChunks = `
	INSERT INTO chunks (tenant, uid, attempt, ordinal, hash, model, start_at, end_at, page, kind, language, headings, text)
	SELECT $1, $2, $3, c.* FROM unnest($4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[],
		$10::smallint[], $11::text[], $12::text[], $13::bytea[]) AS c`

// PutChunks implements journal.ChunkStore: all or nothing, and readers see the
// old chunks until the commit.
func (s *Store) PutChunks(ctx context.Context, f journal.Fence, a journal.Attempt, chunks []journal.Chunk) error {
	rows, err := checkAttempt(f, a, chunks)
	if err != nil {
		return err
	}
	if part := cutPart(rows); len(part) > 0 && len(part) == len(rows) {
		isNew := true
		err := s.bulk.of(a.Tenant).write(ctx, func(ctx context.Context, q querier) (err error) {
			isNew, err = putNewChunksOn(ctx, q, f, a, rows)
			return err
		})
		if err != nil || isNew {
			return err
		}
	}
	return s.bulk.of(a.Tenant).transact(ctx, func(ctx context.Context, tx querier) error { return replaceChunks(ctx, tx, f, a, rows) })
}

// chunkRow is a chunk ready to be stored.
type chunkRow struct {
	*journal.Chunk
	headings string
}

func putNewChunksOn(ctx context.Context, q querier, f journal.Fence, a journal.Attempt, rows []chunkRow) (isNew bool, err error) {
	args := guardArgs(f, a.Scope, false, a.UID, a.ID, a.Document, a.Version)
	err = q.QueryRow(ctx, putNewChunks, append(args, chunkColumnsOf(rows)...)...).Scan(&isNew)
	if isNoRows(err) {
		err = nil
	}
	return isNew, err
}

// cutPart takes as many chunks as one statement may write, at least one.
func cutPart(rows []chunkRow) []chunkRow {
	size := 0
	for n, c := range rows {
		if n > 0 && (n == partRows || size+len(c.Text) > partBytes) {
			return rows[:n]
		}
		size += len(c.Text)
	}
	return rows
}

func chunkColumnsOf(c []chunkRow) []any {
	number := func(pick func(*chunkRow) int) []int64 {
		return column(c, func(c *chunkRow) int64 { return int64(pick(c)) })
	}
	return []any{
		number(func(c *chunkRow) int { return c.Ordinal }),
		column(c, func(c *chunkRow) string { return c.Hash }),
		column(c, func(c *chunkRow) string { return c.Model }),
		number(func(c *chunkRow) int { return c.Start }),
		number(func(c *chunkRow) int { return c.End }),
		number(func(c *chunkRow) int { return c.Page }),
		column(c, func(c *chunkRow) int16 { return int16(c.Kind) }),
		column(c, func(c *chunkRow) string { return c.Language }),
		column(c, func(c *chunkRow) string { return c.headings }),
		column(c, func(c *chunkRow) []byte { return []byte(c.Text) }),
	}
}

// replaceChunks writes what may replace an older attempt, and removes the vectors
// that only the old chunks referred to. It uses no COPY: a process that is
// stopped between two statements loses its session, and with it the lock, after
// idleTimeout, whereas the server waits for the data of a COPY for ever.
func replaceChunks(ctx context.Context, tx querier, f journal.Fence, a journal.Attempt, rows []chunkRow) error {
	var known bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM attempts WHERE tenant = $1 AND uid = $2 AND attempt = $3)`,
		a.Tenant, a.UID, a.ID).Scan(&known)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `SELECT `+guard, guardArgs(f, a.Scope, known || len(rows) == 0)...); err != nil {
		return err
	}
	if len(rows) == 0 {
		_, err := dropAttempt(ctx, tx, a.Scope, a.ID)
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO attempts (tenant, uid, attempt, document, version) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (tenant, uid, attempt) DO UPDATE SET document = excluded.document, version = excluded.version`,
		a.Tenant, a.UID, a.ID, a.Document, a.Version)
	if err != nil {
		return err
	}
	_, hashes, err := dropChunks(ctx, tx, a.Scope, a.ID)
	if err != nil {
		return err
	}
	for len(rows) > 0 {
		part := cutPart(rows)
		rows = rows[len(part):]
		if _, err := tx.Exec(ctx, insertChunks, append([]any{a.Tenant, a.UID, a.ID}, chunkColumnsOf(part)...)...); err != nil {
			return err
		}
	}
	if !known { // another one may have come between: its vectors stay until the scope goes
		return nil
	}
	return dropVectors(ctx, tx, a.Scope, hashes)
}

// checkAttempt refuses what a caller may not send.
func checkAttempt(f journal.Fence, a journal.Attempt, chunks []journal.Chunk) ([]chunkRow, error) {
	if err := errors.Join(checkWriter(f, a.Scope), checkKeys("attempt", a.ID, "document", a.Document)); err != nil {
		return nil, err
	}
	seen := make(map[int]struct{}, len(chunks))
	rows := make([]chunkRow, len(chunks))
	for i := range chunks {
		c := &chunks[i]
		if _, twice := seen[c.Ordinal]; twice || c.Ordinal < 0 {
			return nil, fmt.Errorf("%w: ordinal %d of attempt %s is negative or there twice", ErrInvalid, c.Ordinal, a.ID)
		}
		seen[c.Ordinal] = struct{}{}
		if err := checkText("chunk hash", c.Hash, "model", c.Model, "language", c.Language); err != nil {
			return nil, err
		}
		headings, err := packHeadings(c.Headings)
		if err != nil {
			return nil, err
		}
		rows[i] = chunkRow{c, headings}
	}
	return rows, nil
}

func packHeadings(h []string) (string, error) {
	if len(h) == 0 {
		return "", nil
	}
	b, err := json.Marshal(h) // NUL is escaped: the column is text
	if err != nil {
		return "", fmt.Errorf("postgres: encode headings: %w", err)
	}
	return string(b), nil
}

func unpackHeadings(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	var h []string
	if err := json.Unmarshal([]byte(s), &h); err != nil {
		return nil, fmt.Errorf("%w: headings of a chunk: %w", journal.ErrCorrupt, err)
	}
	return h, nil
}
