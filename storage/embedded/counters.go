package embedded

import (
	"context"
	"database/sql"

	"granary.dev/granary/actors/journal"
)

// Counters implements journal.CounterStore.
func (s *Store) Counters(ctx context.Context, id journal.Identity) ([]journal.Counter, error) {
	if err := checkIdentity(id); err != nil {
		return nil, err
	}
	var out []journal.Counter
	err := s.read.each(ctx, `
		SELECT name, epoch, value FROM counters WHERE tenant = ?1 AND kind = ?2 AND id = ?3 ORDER BY name`,
		[]any{id.Tenant, id.Kind, id.ID}, func(rows *sql.Rows) error {
			var c journal.Counter
			if err := rows.Scan(&c.Name, &c.Epoch, &c.Value); err != nil {
				return classify(err)
			}
			out = append(out, c)
			return nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func moveCounters(t *txn, id journal.Identity, b journal.Batch) error {
	for _, name := range b.ClearCounters {
		err := t.exec(`DELETE FROM counters WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND name = ?4`,
			id.Tenant, id.Kind, id.ID, name)
		if err != nil {
			return err
		}
	}
	for _, c := range b.SetCounters {
		err := t.exec(`
			INSERT INTO counters (tenant, kind, id, name, epoch, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
			ON CONFLICT (tenant, kind, id, name) DO UPDATE SET epoch = excluded.epoch, value = excluded.value`,
			id.Tenant, id.Kind, id.ID, c.Name, c.Epoch, c.Value)
		if err != nil {
			return err
		}
	}
	return nil
}
