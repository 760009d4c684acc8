package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"granary.dev/granary/actors/journal"
)

// vectorRow is a vector ready to be stored.
type vectorRow struct {
	hash  string
	space int16
	data  []byte
}

// PutVectors implements journal.ChunkStore. Many vectors are written in parts:
// after a failure some may be there, which a checkpoint is for.
func (s *Store) PutVectors(ctx context.Context, f journal.Fence, sc journal.Scope, model string, v []journal.Vectors) error {
	if err := errors.Join(checkWriter(f, sc), checkKeys("model", model)); err != nil {
		return err
	}
	rows := make([]vectorRow, len(v))
	for i := range v {
		if err := checkKeys("chunk hash", v[i].Hash); err != nil {
			return err
		}
		data, err := s.codec.Vectors(&v[i])
		if err != nil {
			return fmt.Errorf("vectors of chunk %s: %w", v[i].Hash, err)
		}
		rows[i] = vectorRow{v[i].Hash, int16(v[i].Space), data}
	}
	if len(rows) == 0 {
		return s.Verify(ctx, f)
	}
	// In one order everywhere: two writers of the same hashes wait for each
	// other, never in a circle. Stable, so that the first of a hash stays.
	slices.SortStableFunc(rows, func(a, b vectorRow) int { return cmp.Compare(a.hash, b.hash) })
	for len(rows) > 0 {
		n, size := 0, 0
		for n < len(rows) && n < vectorRows && (n == 0 || size+len(rows[n].data) <= vectorBytes) {
			size += len(rows[n].data)
			n++
		}
		part := rows[:n]
		rows = rows[n:]
		err := s.bulk.of(sc.Tenant).write(ctx, func(ctx context.Context, q querier) error { return insertVectors(ctx, q, f, sc, model, part) })
		if err != nil {
			return err
		}
	}
	return nil
}

func insertVectors(ctx context.Context, q querier, f journal.Fence, sc journal.Scope, model string, rows []vectorRow) error {
	_, err := q.Exec(ctx, `WITH guard AS MATERIALIZED (
			SELECT `+guard+`
		)
		INSERT INTO vectors (tenant, uid, model, hash, space, data)
		SELECT $3, $8, $9, v.hash, v.space, v.data
		FROM guard, unnest($10::text[], $11::smallint[], $12::bytea[]) AS v (hash, space, data)
		ON CONFLICT (tenant, uid, hash, model) DO NOTHING`,
		guardArgs(f, sc, false, sc.UID, model,
			column(rows, func(r *vectorRow) string { return r.hash }),
			column(rows, func(r *vectorRow) int16 { return r.space }),
			column(rows, func(r *vectorRow) []byte { return r.data }))...)
	return err
}

// VectorsByHash implements journal.ChunkStore. journal.ErrCorrupt when one of
// them does not match its checksum.
func (s *Store) VectorsByHash(ctx context.Context, sc journal.Scope, model string, hashes []string,
) (map[string]journal.Vectors, error) {
	if err := checkScope(sc); err != nil {
		return nil, err
	}
	out := make(map[string]journal.Vectors, len(hashes))
	if len(hashes) == 0 {
		return out, nil
	}
	_, err := collect(ctx, s.bulk.of(sc.Tenant), `
		SELECT hash, space, data FROM vectors
		WHERE tenant = $1 AND uid = $2 AND hash = ANY ($3::text[]) AND model = $4`,
		[]any{sc.Tenant, sc.UID, hashes, model}, func(r pgx.CollectableRow) (struct{}, error) {
			var v journal.Vectors
			var data pgtype.DriverBytes // valid until the next row; decoding copies
			if err := r.Scan(&v.Hash, &v.Space, &data); err != nil {
				return struct{}{}, err
			}
			if err := s.codec.ReadVectors(&v, data); err != nil {
				return struct{}{}, fmt.Errorf("chunk %s: %w", v.Hash, err)
			}
			out[v.Hash] = v
			return struct{}{}, nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}
