package embedded

import (
	"context"

	"granary.dev/granary/actors/journal"
)

// eraseRows bounds what one step of an erasure removes.
const eraseRows = 256

// Erase implements journal.Store. One commit makes everything invisible; then
// the rows are removed in bounded steps. A snapshot at the head stays: it is
// what the holder left to say that the grain is erased. When it fails between, calling it
// again or the next start finishes it. Blobs the grain has claimed lose their
// claim, so that those not deleted by then are collected.
func (s *Store) Erase(ctx context.Context, f journal.Fence) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	var below int64 // generation of the erasure
	err := s.write(ctx, f.Identity.Tenant, stepCost, func(t *txn) error {
		below = s.newGen()
		return markErased(t, f)
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
	return s.write(ctx, f.Identity.Tenant, stepCost, func(t *txn) error {
		id := f.Identity
		n, err := t.changed(`
			UPDATE owner SET former = head WHERE tenant = ?1 AND EXISTS (SELECT 1 FROM owner o
				WHERE o.tenant = ?1 AND o.kind = ?2 AND o.id = ?3 AND o.epoch = ?4 AND o.activation = ?5 AND o.released = 0)`,
			id.Tenant, id.Kind, id.ID, f.Epoch, f.Activation)
		if err == nil && n == 0 {
			err = fenced(f)
		}
		return err
	})
}

func markErased(t *txn, f journal.Fence) error {
	id := f.Identity
	n, err := t.changed(`
		UPDATE owner SET erased = head, anchor = hash, erasures = erasures + 1, purging = 1
		WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND epoch = ?4 AND activation = ?5 AND released = 0`,
		id.Tenant, id.Kind, id.ID, f.Epoch, f.Activation)
	if err != nil {
		return err
	}
	if n == 0 {
		return fenced(f)
	}
	for _, query := range []string{
		`DELETE FROM snapshots WHERE tenant = ?1 AND kind = ?2 AND id = ?3
			AND seq <> (SELECT erased FROM owner WHERE tenant = ?1 AND kind = ?2 AND id = ?3)`,
		`DELETE FROM indexes WHERE tenant = ?1 AND kind = ?2 AND id = ?3`,
		`DELETE FROM wakeups WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND key <> '` + journal.WakeErasing + `'`,
		`DELETE FROM dead_letters WHERE tenant = ?1 AND kind = ?2 AND id = ?3`,
		`DELETE FROM counters WHERE tenant = ?1 AND kind = ?2 AND id = ?3`,
		`UPDATE blobs SET owner_kind = '', owner_id = '' WHERE tenant = ?1 AND owner_kind = ?2 AND owner_id = ?3`,
	} {
		if err := t.exec(query, id.Tenant, id.Kind, id.ID); err != nil {
			return err
		}
	}
	return nil
}

// purgeGrain removes what an erasure has made invisible. It needs no fence:
// it touches only rows that no reader and no holder can see any more.
func (s *Store) purgeGrain(ctx context.Context, id journal.Identity, below int64) error {
	if err := s.purgeParts(ctx, id, 0, below); err != nil {
		return err
	}
	for more := true; more; {
		err := s.write(ctx, id.Tenant, stepCost, func(t *txn) error {
			left, err := purgeStep(t, id)
			more = left
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func purgeStep(t *txn, id journal.Identity) (more bool, err error) {
	events, err := t.changed(`
		DELETE FROM events WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND seq IN (
			SELECT e.seq FROM events e WHERE e.tenant = ?1 AND e.kind = ?2 AND e.id = ?3
			  AND e.seq <= (SELECT o.erased FROM owner o WHERE o.tenant = ?1 AND o.kind = ?2 AND o.id = ?3)
			ORDER BY e.seq LIMIT ?4)`,
		id.Tenant, id.Kind, id.ID, eraseRows)
	if err != nil {
		return false, err
	}
	keys, err := t.changed(`
		DELETE FROM idempotency WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND (principal, method, key) IN (
			SELECT i.principal, i.method, i.key FROM idempotency i
			JOIN owner o ON o.tenant = i.tenant AND o.kind = i.kind AND o.id = i.id AND o.erasures <> i.erasures
			WHERE i.tenant = ?1 AND i.kind = ?2 AND i.id = ?3 LIMIT ?4)`,
		id.Tenant, id.Kind, id.ID, eraseRows)
	if err != nil {
		return false, err
	}
	if events == eraseRows || keys == eraseRows {
		return true, nil
	}
	return false, t.exec(`UPDATE owner SET purging = 0 WHERE tenant = ?1 AND kind = ?2 AND id = ?3`,
		id.Tenant, id.Kind, id.ID)
}
