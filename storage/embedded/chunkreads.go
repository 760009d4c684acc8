package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"granary.dev/granary/actors/journal"
)

// chunkColumns is what scanChunk reads.
const chunkColumns = `c.ordinal, c.hash, c.model, c.start_at, c.end_at, c.page, c.kind, c.language, c.headings, c.text`

func scanChunk(rows *sql.Rows, more ...any) (journal.Chunk, error) {
	var c journal.Chunk
	var headings string
	dest := append([]any{&c.Ordinal, &c.Hash, &c.Model, &c.Start, &c.End, &c.Page, &c.Kind,
		&c.Language, &headings, &c.Text}, more...)
	if err := rows.Scan(dest...); err != nil {
		return c, classify(err)
	}
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
	var out []journal.Chunk
	err := s.read.each(ctx, `
		SELECT `+chunkColumns+` FROM attempts a
		CROSS JOIN chunks c ON c.tenant = a.tenant AND c.uid = a.uid AND c.attempt = a.attempt AND c.gen = a.gen
		WHERE a.tenant = ?1 AND a.uid = ?2 AND a.attempt = ?3 AND c.ordinal > ?4
		ORDER BY c.ordinal LIMIT ?5`,
		[]any{sc.Tenant, sc.UID, attempt, after, limit}, func(rows *sql.Rows) error {
			c, err := scanChunk(rows)
			out = append(out, c)
			return err
		})
	if err != nil {
		return nil, err
	}
	return out, nil
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
	asked := make([][2]any, len(refs))
	for i, r := range refs {
		asked[i] = [2]any{r.Attempt, r.Ordinal}
	}
	list, err := json.Marshal(asked)
	if err != nil {
		return nil, fmt.Errorf("embedded: encode references: %w", err)
	}
	err = s.read.each(ctx, `
		SELECT `+chunkColumns+`, a.attempt FROM json_each(?3) j
		CROSS JOIN attempts a ON a.tenant = ?1 AND a.uid = ?2 AND a.attempt = json_extract(j.value, '$[0]')
		CROSS JOIN chunks c ON c.tenant = ?1 AND c.uid = ?2 AND c.attempt = a.attempt AND c.gen = a.gen
			AND c.ordinal = json_extract(j.value, '$[1]')`,
		[]any{sc.Tenant, sc.UID, string(list)}, func(rows *sql.Rows) error {
			var attempt string
			c, err := scanChunk(rows, &attempt)
			out[journal.ChunkRef{Attempt: attempt, Ordinal: c.Ordinal}] = c
			return err
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
	err = s.read.each(ctx, `
		SELECT count(*), count(v.row) FROM attempts a
		CROSS JOIN chunks c ON c.tenant = a.tenant AND c.uid = a.uid AND c.attempt = a.attempt AND c.gen = a.gen
		LEFT JOIN vectors v ON v.tenant = c.tenant AND v.uid = c.uid AND v.hash = c.hash AND v.model = ?4
		WHERE a.tenant = ?1 AND a.uid = ?2 AND a.attempt = ?3`,
		[]any{sc.Tenant, sc.UID, attempt, model}, func(rows *sql.Rows) error {
			return classify(rows.Scan(&chunks, &embedded))
		})
	return chunks, embedded, err
}

// AttemptsOf implements journal.ChunkStore. Attempts whose writing or deletion
// did not finish are listed too: they may have rows.
func (s *Store) AttemptsOf(ctx context.Context, sc journal.Scope) ([]journal.Attempt, error) {
	if err := checkScope(sc); err != nil {
		return nil, err
	}
	var out []journal.Attempt
	err := s.read.each(ctx, `
		SELECT attempt, document, version FROM attempts WHERE tenant = ?1 AND uid = ?2 ORDER BY attempt`,
		[]any{sc.Tenant, sc.UID}, func(rows *sql.Rows) error {
			a := journal.Attempt{Scope: sc}
			if err := rows.Scan(&a.ID, &a.Document, &a.Version); err != nil {
				return classify(err)
			}
			out = append(out, a)
			return nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}
