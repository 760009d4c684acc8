package postgres

import (
	"context"

	"granary.dev/granary/actors/journal"
)

// Erase implements journal.Store. One commit makes everything invisible; then
// the rows are removed in bounded steps. A snapshot at the head stays: it is
// what the holder left to say that the grain is erased. When it fails between,
// calling it again or the collection finishes it. Blobs the grain has claimed
// lose their claim, so that those not deleted by then are collected.
func (s *Store) Erase(ctx context.Context, f journal.Fence) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	var below int64 // generation of the erasure: indexes saved before are older
	err := s.bulk.of(f.Identity.Tenant).transact(ctx, func(ctx context.Context, tx querier) error {
		var err error
		below, err = markErasedOn(ctx, tx, f)
		return err
	})
	if err != nil {
		return err
	}
	return s.purgeGrain(context.WithoutCancel(ctx), f.Identity, below)
}

// EndTenant implements journal.Store.
func (s *Store) EndTenant(ctx context.Context, f journal.Fence) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	return s.commits.of(f.Identity.Tenant).write(ctx, func(ctx context.Context, q querier) error {
		tag, err := q.Exec(ctx, `
			UPDATE owner SET former = head WHERE tenant = $1 AND EXISTS (SELECT 1 FROM owner o
				WHERE o.tenant = $1 AND o.kind = $2 AND o.id = $3 AND o.epoch = $4 AND o.activation = $5 AND NOT o.released)`, fenceArgs(f)...)
		if err == nil && tag.RowsAffected() == 0 {
			err = fenced(f)
		}
		return err
	})
}

// markErasedOn runs inside a transaction. It has the lock before it deletes:
// each deletion is a statement of its own that sees all that was committed
// until then.
func markErasedOn(ctx context.Context, q querier, f journal.Fence) (below int64, err error) {
	id := f.Identity
	var head int64
	err = q.QueryRow(ctx, `
		UPDATE owner SET erased = head, anchor = hash, erasures = erasures + 1, purging = true
		WHERE tenant = $1 AND kind = $2 AND id = $3 AND epoch = $4 AND activation = $5 AND NOT released
		RETURNING head, nextval('index_gen')`, fenceArgs(f)...).Scan(&head, &below)
	if isNoRows(err) {
		return 0, fenced(f)
	}
	if err != nil {
		return 0, err
	}
	if _, err := q.Exec(ctx, `DELETE FROM snapshots WHERE tenant = $1 AND kind = $2 AND id = $3 AND seq <> $4`,
		id.Tenant, id.Kind, id.ID, head); err != nil {
		return 0, err
	}
	for _, query := range []string{
		`DELETE FROM indexes WHERE tenant = $1 AND kind = $2 AND id = $3`,
		`DELETE FROM wakeups WHERE tenant = $1 AND kind = $2 AND id = $3 AND key <> '` + journal.WakeErasing + `'`,
		`DELETE FROM dead_letters WHERE tenant = $1 AND kind = $2 AND id = $3`,
		`DELETE FROM counters WHERE tenant = $1 AND kind = $2 AND id = $3`,
		`UPDATE blobs SET owner_kind = '', owner_id = '' WHERE tenant = $1 AND owner_kind = $2 AND owner_id = $3`,
	} {
		if _, err := q.Exec(ctx, query, id.Tenant, id.Kind, id.ID); err != nil {
			return 0, err
		}
	}
	return below, nil
}

// purgeGrain removes what an erasure has made invisible. It needs no fence:
// it touches only rows that no reader and no holder can see any more.
func (s *Store) purgeGrain(ctx context.Context, id journal.Identity, below int64) error {
	if err := s.purgeParts(ctx, id, 0, below); err != nil {
		return err
	}
	for _, query := range []string{
		`DELETE FROM events WHERE ctid = ANY (ARRAY(
			SELECT e.ctid FROM events e
			JOIN owner o ON o.tenant = e.tenant AND o.kind = e.kind AND o.id = e.id AND e.seq <= o.erased
			WHERE e.tenant = $1 AND e.kind = $2 AND e.id = $3 LIMIT $4))`,
		// Locked, so that a key which is recorded anew meanwhile stays.
		`DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
			SELECT i.ctid FROM idempotency i
			JOIN owner o ON o.tenant = i.tenant AND o.kind = i.kind AND o.id = i.id AND o.erasures <> i.erasures
			WHERE i.tenant = $1 AND i.kind = $2 AND i.id = $3 LIMIT $4 FOR UPDATE OF i))`,
	} {
		if err := stepwise(ctx, s.bulk.of(id.Tenant), rowStep, query, id.Tenant, id.Kind, id.ID); err != nil {
			return err
		}
	}
	return s.bulk.of(id.Tenant).write(ctx, func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, `
			UPDATE owner o SET purging = false
			WHERE tenant = $1 AND kind = $2 AND id = $3 AND purging AND NOT EXISTS (
				SELECT 1 FROM events e WHERE e.tenant = $1 AND e.kind = $2 AND e.id = $3 AND e.seq <= o.erased)`,
			id.Tenant, id.Kind, id.ID)
		return err
	})
}
