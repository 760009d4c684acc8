package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

const (
	// copyRows and copyBytes part the two ways to write chunks: up to them, one
	// statement in one round trip; beyond, a transaction with COPY, which is
	// faster by row.
	copyRows  = 256
	copyBytes = 256 << 10
	// vectorRows and vectorBytes bound one statement that writes vectors.
	vectorRows  = 512
	vectorBytes = 1 << 20
)

// scopeLock is the advisory lock of a scope. Who writes chunks shares it until
// the commit, who removes vectors has it alone: a vector must not go while a
// chunk that refers to it is being committed. Two scopes may share a number;
// then they wait for each other for nothing.
func scopeLock(sc journal.Scope) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("chunks\x00" + sc.Tenant + "\x00" + sc.UID)) // never fails
	return int64(h.Sum64())
}

// putNewChunks writes the chunks of an attempt not seen before; no row when it
// is there already.
const putNewChunks = `WITH guard AS MATERIALIZED (
	SELECT pg_advisory_xact_lock_shared($6)
), a AS (
	INSERT INTO attempts (tenant, uid, attempt, document, version)
	SELECT $1, $2, $3, $4, $5::bigint FROM guard
	ON CONFLICT (tenant, uid, attempt) DO NOTHING
	RETURNING 1
), c AS (
	INSERT INTO chunks (tenant, uid, attempt, ordinal, hash, model, start_at, end_at, page, kind, language, headings, text)
	SELECT $1, $2, $3, c.* FROM a, unnest($7::bigint[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[],
		$13::smallint[], $14::text[], $15::text[], $16::bytea[]) AS c)
	SELECT true FROM a`

// PutChunks implements journal.ChunkStore: all or nothing, and readers see the
// old chunks until the commit.
func (s *Store) PutChunks(ctx context.Context, f journal.Fence, a journal.Attempt, chunks []journal.Chunk) error {
	size, err := checkAttempt(a, chunks)
	if err != nil {
		return err
	}
	if len(chunks) == 0 {
		_, err := s.DeleteAttempts(ctx, a.Scope, []string{a.ID})
		return err
	}
	headings := make([]string, len(chunks))
	for i := range chunks {
		if headings[i], err = packHeadings(chunks[i].Headings); err != nil {
			return err
		}
	}
	if len(chunks) <= copyRows && size <= copyBytes {
		isNew := true
		err := s.bulk.write(ctx, func(ctx context.Context, q querier) error {
			var done bool
			err := q.QueryRow(ctx, putNewChunks, chunkArgs(a, chunks, headings)...).Scan(&done)
			if isNoRows(err) {
				isNew, err = false, nil
			}
			return err
		})
		if err != nil || isNew {
			return err
		}
	}
	return s.bulk.transact(ctx, func(ctx context.Context, tx pgx.Tx) error {
		return replaceChunks(ctx, tx, a, chunks, headings)
	})
}

func chunkArgs(a journal.Attempt, c []journal.Chunk, headings []string) []any {
	number := func(pick func(*journal.Chunk) int) []int64 {
		return column(c, func(c *journal.Chunk) int64 { return int64(pick(c)) })
	}
	return []any{
		a.Tenant, a.UID, a.ID, a.Document, a.Version, scopeLock(a.Scope),
		number(func(c *journal.Chunk) int { return c.Ordinal }),
		column(c, func(c *journal.Chunk) string { return c.Hash }),
		column(c, func(c *journal.Chunk) string { return c.Model }),
		number(func(c *journal.Chunk) int { return c.Start }),
		number(func(c *journal.Chunk) int { return c.End }),
		number(func(c *journal.Chunk) int { return c.Page }),
		column(c, func(c *journal.Chunk) int16 { return int16(c.Kind) }),
		column(c, func(c *journal.Chunk) string { return c.Language }),
		headings,
		column(c, func(c *journal.Chunk) []byte { return []byte(c.Text) }),
	}
}

// replaceChunks writes by COPY what may replace an older attempt, and removes
// the vectors that only the old chunks referred to.
func replaceChunks(ctx context.Context, tx pgx.Tx, a journal.Attempt, chunks []journal.Chunk, headings []string) error {
	var known bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM attempts WHERE tenant = $1 AND uid = $2 AND attempt = $3)`,
		a.Tenant, a.UID, a.ID).Scan(&known)
	if err != nil {
		return err
	}
	if err := lockScope(ctx, tx, a.Scope, known); err != nil {
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
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"chunks"}, []string{
		"tenant", "uid", "attempt", "ordinal", "hash", "model", "start_at", "end_at", "page", "kind", "language", "headings", "text",
	}, pgx.CopyFromSlice(len(chunks), func(i int) ([]any, error) {
		c := &chunks[i]
		return []any{
			a.Tenant, a.UID, a.ID, int64(c.Ordinal), c.Hash, c.Model, int64(c.Start), int64(c.End), int64(c.Page),
			int16(c.Kind), c.Language, headings[i], []byte(c.Text),
		}, nil
	}))
	if err != nil || !known { // another one may have come between: its vectors stay until the scope goes
		return err
	}
	return dropVectors(ctx, tx, a.Scope, hashes)
}

// checkAttempt refuses what a caller may not send; size is the bytes of text.
func checkAttempt(a journal.Attempt, chunks []journal.Chunk) (size int, err error) {
	if err := checkScope(a.Scope); err != nil {
		return 0, err
	}
	if err := checkKeys("attempt", a.ID, "document", a.Document); err != nil {
		return 0, err
	}
	seen := make(map[int]struct{}, len(chunks))
	for _, c := range chunks {
		if _, twice := seen[c.Ordinal]; twice || c.Ordinal < 0 {
			return 0, fmt.Errorf("%w: ordinal %d of attempt %s is negative or there twice", ErrInvalid, c.Ordinal, a.ID)
		}
		seen[c.Ordinal] = struct{}{}
		if err := checkText("chunk hash", c.Hash, "model", c.Model, "language", c.Language); err != nil {
			return 0, err
		}
		size += len(c.Text)
	}
	return size, nil
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
