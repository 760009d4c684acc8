package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"granary.dev/granary/actors/journal"
)

// PutVectors implements journal.ChunkStore. Many vectors are written in parts:
// after a failure some may be there, which a checkpoint is for.
func (s *Store) PutVectors(ctx context.Context, f journal.Fence, sc journal.Scope, model string, v []journal.Vectors) error {
	if err := errors.Join(checkWriter(f, sc), checkKeys("model", model)); err != nil {
		return err
	}
	if len(v) == 0 {
		return s.Verify(ctx, f)
	}
	packed := make([][]byte, len(v))
	for i := range v {
		if err := checkKeys("chunk hash", v[i].Hash); err != nil {
			return err
		}
		var err error
		if packed[i], err = s.codec.Vectors(&v[i]); err != nil {
			return fmt.Errorf("vectors of chunk %s: %w", v[i].Hash, err)
		}
	}
	for from := 0; from < len(v); {
		to, cost := from, 0
		for to < len(v) && to-from < partRows && (to == from || cost+len(packed[to]) <= partBytes) {
			cost += 256 + len(packed[to])
			to++
		}
		err := s.write(ctx, sc.Tenant, cost, func(t *txn) error {
			if err := checkFence(t, f); err != nil {
				return err
			}
			return insertVectors(t, sc, model, v[from:to], packed[from:to])
		})
		if err != nil {
			return err
		}
		from = to
	}
	return nil
}

func insertVectors(t *txn, sc journal.Scope, model string, v []journal.Vectors, packed [][]byte) error {
	for i := range v {
		err := t.exec(`
			INSERT INTO vectors (tenant, uid, hash, model, space, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
			ON CONFLICT (tenant, uid, hash, model) DO NOTHING`,
			sc.Tenant, sc.UID, v[i].Hash, model, int64(v[i].Space), packed[i])
		if err != nil {
			return err
		}
	}
	return nil
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
	list, err := json.Marshal(hashes)
	if err != nil {
		return nil, fmt.Errorf("embedded: encode hashes: %w", err)
	}
	err = s.read.each(ctx, `
		SELECT v.hash, v.space, v.data FROM json_each(?4) j
		CROSS JOIN vectors v ON v.tenant = ?1 AND v.uid = ?2 AND v.hash = j.value AND v.model = ?3`,
		[]any{sc.Tenant, sc.UID, model, string(list)}, func(rows *sql.Rows) error {
			var v journal.Vectors
			var data sql.RawBytes
			if err := rows.Scan(&v.Hash, &v.Space, &data); err != nil {
				return classify(err)
			}
			if err := s.codec.ReadVectors(&v, data); err != nil {
				return fmt.Errorf("chunk %s: %w", v.Hash, err)
			}
			out[v.Hash] = v
			return nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}
