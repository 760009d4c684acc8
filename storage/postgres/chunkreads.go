package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

// chunkColumns is what scanChunk reads.
const chunkColumns = `c.ordinal, c.hash, c.model, c.start_at, c.end_at, c.page, c.kind, c.language, c.headings, c.text`

func scanChunk(row pgx.CollectableRow, more ...any) (journal.Chunk, error) {
	var c journal.Chunk
	var headings string
	var text []byte
	dest := append([]any{&c.Ordinal, &c.Hash, &c.Model, &c.Start, &c.End, &c.Page, &c.Kind,
		&c.Language, &headings, &text}, more...)
	if err := row.Scan(dest...); err != nil {
		return c, err
	}
	c.Text = string(text)
	var err error
	c.Headings, err = unpackHeadings(headings)
	return c, err
}

// Chunks implements journal.ChunkStore.
func (s *Store) Chunks(ctx context.Context, sc journal.Scope, attempt string, after, limit int) ([]journal.Chunk, error) {
	if err := checkScope(sc); err != nil {
		return nil, err
	}
	if limit <= 0 {
		return nil, nil
	}
	return collect(ctx, s.commits.of(sc.Tenant), `
		SELECT `+chunkColumns+` FROM chunks c
		WHERE c.tenant = $1 AND c.uid = $2 AND c.attempt = $3 AND c.ordinal > $4
		ORDER BY c.ordinal LIMIT $5`,
		[]any{sc.Tenant, sc.UID, attempt, after, limit},
		func(r pgx.CollectableRow) (journal.Chunk, error) { return scanChunk(r) })
}

// ChunksByRef implements journal.ChunkStore.
func (s *Store) ChunksByRef(ctx context.Context, sc journal.Scope, refs []journal.ChunkRef,
) (map[journal.ChunkRef]journal.Chunk, error) {
	if err := checkScope(sc); err != nil {
		return nil, err
	}
	out := make(map[journal.ChunkRef]journal.Chunk, len(refs))
	if len(refs) == 0 {
		return out, nil
	}
	_, err := collect(ctx, s.commits.of(sc.Tenant), `
		SELECT `+chunkColumns+`, c.attempt FROM unnest($3::text[], $4::bigint[]) AS r (attempt, ordinal)
		JOIN chunks c ON c.tenant = $1 AND c.uid = $2 AND c.attempt = r.attempt AND c.ordinal = r.ordinal`,
		[]any{sc.Tenant, sc.UID, column(refs, func(r *journal.ChunkRef) string { return r.Attempt }),
			column(refs, func(r *journal.ChunkRef) int64 { return int64(r.Ordinal) })},
		func(r pgx.CollectableRow) (struct{}, error) {
			var attempt string
			c, err := scanChunk(r, &attempt)
			out[journal.ChunkRef{Attempt: attempt, Ordinal: c.Ordinal}] = c
			return struct{}{}, err
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// CountChunks implements journal.ChunkStore.
func (s *Store) CountChunks(ctx context.Context, sc journal.Scope, attempt, model string) (chunks, embedded int, err error) {
	if err := checkScope(sc); err != nil {
		return 0, 0, err
	}
	err = s.row(ctx, sc.Tenant, `
		SELECT count(*), count(v.hash) FROM chunks c
		LEFT JOIN vectors v ON v.tenant = c.tenant AND v.uid = c.uid AND v.hash = c.hash AND v.model = $4
		WHERE c.tenant = $1 AND c.uid = $2 AND c.attempt = $3`,
		[]any{sc.Tenant, sc.UID, attempt, model}, &chunks, &embedded)
	return chunks, embedded, err
}

// AttemptsOf implements journal.ChunkStore. Having had the scope's lock for a
// moment, alone, is enough: a writer that gets it later looks at its fence later.
func (s *Store) AttemptsOf(ctx context.Context, sc journal.Scope) ([]journal.Attempt, error) {
	if err := checkScope(sc); err != nil {
		return nil, err
	}
	err := s.bulk.of(sc.Tenant).read(ctx, func(ctx context.Context, q querier) error { return lockScope(ctx, q, sc) })
	if err != nil {
		return nil, err
	}
	var out []journal.Attempt
	err = s.bulk.of(sc.Tenant).read(ctx, func(ctx context.Context, q querier) (err error) {
		out, err = attemptsOn(ctx, q, sc)
		return err
	})
	return out, err
}

func attemptsOn(ctx context.Context, q querier, sc journal.Scope) ([]journal.Attempt, error) {
	rows, err := q.Query(ctx, `
		SELECT attempt, document, version FROM attempts WHERE tenant = $1 AND uid = $2 ORDER BY attempt`, sc.Tenant, sc.UID)
	if err != nil {
		return nil, err
	}
	return pgx.AppendRows([]journal.Attempt(nil), rows, func(r pgx.CollectableRow) (journal.Attempt, error) {
		a := journal.Attempt{Scope: sc}
		return a, r.Scan(&a.ID, &a.Document, &a.Version)
	})
}
