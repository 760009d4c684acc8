package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"granary.dev/granary/actors/journal"
)

// Receipt implements journal.ReceiptStore.
func (s *Store) Receipt(ctx context.Context, tenant, name string) (journal.Receipt, error) {
	if err := checkKeys("tenant", tenant); err != nil {
		return journal.Receipt{}, err
	}
	r := journal.Receipt{Name: name}
	var at int64
	err := s.read.row(ctx, `SELECT kb, time, body FROM receipts WHERE tenant = ?1 AND name = ?2 AND cluster = 0`,
		[]any{tenant, name}, &r.KnowledgeBase, &at, &r.Body)
	if errors.Is(err, sql.ErrNoRows) {
		return journal.Receipt{}, fmt.Errorf("%w: receipt", journal.ErrNotFound)
	}
	r.Time = fromMicros(at)
	return r, err
}

// Receipts implements journal.ReceiptStore.
func (s *Store) Receipts(ctx context.Context, q journal.ReceiptQuery) ([]journal.ReceiptRow, error) {
	if q.Tenant == "" && !q.Cluster {
		return nil, checkKeys("tenant", q.Tenant)
	}
	after := int64(-1) << 62
	if !q.After.Time.IsZero() {
		after = micros(q.After.Time)
	}
	var out []journal.ReceiptRow
	err := s.read.each(ctx, `
		SELECT tenant, name, kb, cluster, time, body FROM receipts
		WHERE cluster = ?1 AND (?2 = '' OR tenant = ?2) AND (?3 = '' OR kb = ?3) AND (time, tenant, name) > (?4, ?5, ?6)
		ORDER BY time, tenant, name LIMIT ?7`,
		[]any{q.Cluster, q.Tenant, q.KnowledgeBase, after, q.After.Tenant, q.After.Name, q.Limit}, func(rows *sql.Rows) error {
			var r journal.ReceiptRow
			var at int64
			if err := rows.Scan(&r.Tenant, &r.Name, &r.KnowledgeBase, &r.Cluster, &at, &r.Body); err != nil {
				return classify(err)
			}
			r.Time = fromMicros(at)
			out = append(out, r)
			return nil
		})
	return out, err
}

func addReceipts(t *txn, id journal.Identity, b journal.Batch) error {
	if b.DropReceipts {
		if err := t.exec(`DELETE FROM receipts WHERE tenant = ?1 AND cluster = 0`, id.Tenant); err != nil {
			return err
		}
	}
	for _, r := range b.AddReceipts {
		err := t.exec(`
			INSERT INTO receipts (tenant, name, kb, cluster, time, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
			ON CONFLICT (tenant, name) DO NOTHING`,
			id.Tenant, r.Name, r.KnowledgeBase, r.Cluster, micros(r.Time), blob(r.Body))
		if err != nil {
			return err
		}
	}
	return nil
}
