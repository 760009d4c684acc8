package embedded

import (
	"context"
	"database/sql"

	"granary.dev/granary/actors/journal"
)

// Owners implements journal.Directory.
func (s *Store) Owners(ctx context.Context, q journal.OwnerQuery) ([]journal.Owner, error) {
	if q.Limit <= 0 {
		return nil, nil
	}
	id := q.After
	var out []journal.Owner
	err := s.read.each(ctx, `
		SELECT tenant, kind, id, epoch, activation, node, head, released, since, hash, erased, anchor, former FROM owner
		WHERE (?1 = '' OR tenant = ?1) AND (?2 = '' OR kind = ?2) AND (tenant, kind, id) > (max(?3, ?1), ?4, ?5)
		ORDER BY tenant, kind, id LIMIT ?6`,
		[]any{q.Tenant, q.Kind, id.Tenant, id.Kind, id.ID, q.Limit}, func(rows *sql.Rows) error {
			var o journal.Owner
			var since int64
			err := rows.Scan(&o.Identity.Tenant, &o.Identity.Kind, &o.Identity.ID, &o.Epoch, &o.Activation, &o.Node, &o.Head,
				&o.Released, &since, &o.Hash, &o.Erased, &o.Anchor, &o.Former)
			if err != nil {
				return classify(err)
			}
			o.Since = fromMicros(since)
			out = append(out, o)
			return nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}
