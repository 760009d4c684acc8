package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

// Owners implements journal.Directory. What is asked of one tenant names it in the
// statement too, so that it reads that tenant's part of the index only.
func (s *Store) Owners(ctx context.Context, q journal.OwnerQuery) ([]journal.Owner, error) {
	if q.Limit <= 0 {
		return nil, nil
	}
	id := q.After
	if err := checkText("tenant", q.Tenant, "kind", q.Kind, "tenant", id.Tenant, "kind", id.Kind, "id", id.ID); err != nil {
		return nil, err
	}
	var from reader = s.across(forOwners)
	query, args := `
		SELECT tenant, kind, id, epoch, activation, node, head, released, since, hash, erased, anchor, former FROM owner
		WHERE ($1::text = '' OR kind = $1) AND (tenant, kind, id) > ($2::text, $3::text, $4::text)`,
		[]any{q.Kind, max(id.Tenant, q.Tenant), id.Kind, id.ID, q.Limit}
	if q.Tenant != "" {
		from = s.commits.of(q.Tenant)
		query, args = query+` AND tenant = $6`, append(args, q.Tenant)
	}
	return collect(ctx, from, query+` ORDER BY tenant, kind, id LIMIT $5`, args, func(r pgx.CollectableRow) (journal.Owner, error) {
		var o journal.Owner
		err := r.Scan(&o.Identity.Tenant, &o.Identity.Kind, &o.Identity.ID, &o.Epoch, &o.Activation, &o.Node, &o.Head,
			&o.Released, &o.Since, &o.Hash, &o.Erased, &o.Anchor, &o.Former)
		o.Since = o.Since.UTC()
		return o, err
	})
}
