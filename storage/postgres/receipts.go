package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

// Receipt implements journal.ReceiptStore.
func (s *Store) Receipt(ctx context.Context, tenant, name string) (journal.Receipt, error) {
	if err := checkKeys("tenant", tenant); err != nil {
		return journal.Receipt{}, err
	}
	unknown := fmt.Errorf("%w: receipt", journal.ErrNotFound)
	if !isText(name) {
		return journal.Receipt{}, unknown
	}
	r := journal.Receipt{Name: name}
	err := s.row(ctx, tenant, `SELECT kb, time, body FROM receipts WHERE tenant = $1 AND name = $2 AND NOT cluster`,
		[]any{tenant, name}, &r.KnowledgeBase, &r.Time, &r.Body)
	if isNoRows(err) {
		return journal.Receipt{}, unknown
	}
	r.Time = r.Time.UTC()
	return r, err
}

// Receipts implements journal.ReceiptStore.
func (s *Store) Receipts(ctx context.Context, q journal.ReceiptQuery) ([]journal.ReceiptRow, error) {
	if q.Tenant == "" && !q.Cluster {
		return nil, checkKeys("tenant", q.Tenant)
	}
	var from reader = s.bulk.of(q.Tenant)
	query := `
		SELECT tenant, name, kb, time, body FROM receipts
		WHERE NOT cluster AND tenant = $1 AND ($2 = '' OR kb = $2) AND (time, tenant, name) > ($3, $4, $5)
		ORDER BY time, tenant, name LIMIT $6`
	if q.Cluster {
		from = s.across(forReceipts)
		query = `
		SELECT tenant, name, kb, time, body FROM receipts
		WHERE cluster AND ($1 = '' OR tenant = $1) AND ($2 = '' OR kb = $2) AND (time, tenant, name) > ($3, $4, $5)
		ORDER BY time, tenant, name LIMIT $6`
	}
	return collect(ctx, from, query, []any{q.Tenant, q.KnowledgeBase, q.After.Time, q.After.Tenant, q.After.Name, q.Limit},
		func(r pgx.CollectableRow) (row journal.ReceiptRow, err error) {
			err = r.Scan(&row.Tenant, &row.Name, &row.KnowledgeBase, &row.Time, &row.Body)
			row.Cluster, row.Time = q.Cluster, row.Time.UTC()
			return row, err
		})
}
