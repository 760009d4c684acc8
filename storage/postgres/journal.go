package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

// Release implements journal.Store.
func (s *Store) Release(ctx context.Context, f journal.Fence) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	return s.commits.of(f.Identity.Tenant).write(ctx, func(ctx context.Context, q querier) error { return releaseOn(ctx, q, f) })
}

func releaseOn(ctx context.Context, q querier, f journal.Fence) error {
	_, err := q.Exec(ctx, `
		UPDATE owner SET released = true
		WHERE tenant = $1 AND kind = $2 AND id = $3 AND epoch = $4 AND activation = $5`,
		f.Identity.Tenant, f.Identity.Kind, f.Identity.ID, f.Epoch, f.Activation)
	return err
}

// Owner implements journal.Store.
func (s *Store) Owner(ctx context.Context, id journal.Identity) (journal.Owner, error) {
	if err := checkIdentity(id); err != nil {
		return journal.Owner{}, err
	}
	o := journal.Owner{Fence: journal.Fence{Identity: id}}
	err := s.row(ctx, id.Tenant, `
		SELECT epoch, activation, node, head, released, since, hash, erased, anchor, former FROM owner
		WHERE tenant = $1 AND kind = $2 AND id = $3`,
		[]any{id.Tenant, id.Kind, id.ID}, &o.Epoch, &o.Activation, &o.Node, &o.Head, &o.Released, &o.Since, &o.Hash, &o.Erased, &o.Anchor, &o.Former)
	if isNoRows(err) {
		return journal.Owner{}, fmt.Errorf("%w: %s was never activated", journal.ErrNotFound, id)
	}
	if err != nil {
		return journal.Owner{}, err
	}
	o.Since = o.Since.UTC()
	return o, nil
}

// Events implements journal.Store.
func (s *Store) Events(ctx context.Context, id journal.Identity, after int64, limit int) ([]journal.Event, error) {
	if err := checkIdentity(id); err != nil {
		return nil, err
	}
	if limit <= 0 {
		return nil, nil
	}
	return collect(ctx, s.commits.of(id.Tenant), `
		SELECT seq, time, type, principal, request_id, data, remote, hash FROM events
		WHERE tenant = $1 AND kind = $2 AND id = $3
		  AND seq > greatest($4::bigint, (SELECT erased FROM owner WHERE tenant = $1 AND kind = $2 AND id = $3))
		ORDER BY seq LIMIT $5`,
		[]any{id.Tenant, id.Kind, id.ID, after, limit}, func(r pgx.CollectableRow) (journal.Event, error) {
			var e journal.Event
			err := r.Scan(&e.Seq, &e.Time, &e.Type, &e.Principal, &e.RequestID, &e.Data, &e.Remote, &e.Hash)
			e.Time = e.Time.UTC()
			return e, err
		})
}

// findKey looks the fence up and the key beside it: one snapshot for both, so
// that a record of a successor never shows without the successor's fence.
const findKey = `
	SELECT i.request_hash, i.response, i.expires FROM owner o
	LEFT JOIN idempotency i ON i.tenant = o.tenant AND i.kind = o.kind AND i.id = o.id AND i.erasures = o.erasures
		AND i.principal = $6 AND i.method = $7 AND i.key = $8 AND i.expires > now()
	WHERE o.tenant = $1 AND o.kind = $2 AND o.id = $3 AND o.epoch = $4 AND o.activation = $5 AND NOT o.released`

// FindIdempotency implements journal.Store.
func (s *Store) FindIdempotency(ctx context.Context, f journal.Fence, key journal.IdempotencyKey,
) (rec journal.Idempotency, ok bool, err error) {
	if err := checkFence(f); err != nil {
		return rec, false, err
	}
	if checkText("", key.Principal, "", key.Method, "", key.Key) != nil {
		return rec, false, s.Verify(ctx, f) // no such key can have been recorded
	}
	err = s.commits.of(f.Identity.Tenant).read(ctx, func(ctx context.Context, q querier) error {
		rec, ok, err = findKeyOn(ctx, q, f, key)
		return err
	})
	return rec, ok, err
}

func findKeyOn(ctx context.Context, q querier, f journal.Fence, key journal.IdempotencyKey,
) (rec journal.Idempotency, ok bool, err error) {
	var hash *string
	var expires *time.Time
	err = q.QueryRow(ctx, findKey, fenceArgs(f, key.Principal, key.Method, key.Key)...).Scan(&hash, &rec.Response, &expires)
	switch {
	case isNoRows(err):
		return journal.Idempotency{}, false, fenced(f)
	case err != nil, hash == nil || expires == nil:
		return journal.Idempotency{}, false, err
	}
	rec.IdempotencyKey, rec.RequestHash, rec.Expires = key, *hash, expires.UTC()
	return rec, true, nil
}

// Verify implements journal.Store.
func (s *Store) Verify(ctx context.Context, f journal.Fence) error {
	if err := checkFence(f); err != nil {
		return err
	}
	return s.commits.of(f.Identity.Tenant).read(ctx, func(ctx context.Context, q querier) error { return verifyOn(ctx, q, f) })
}

func verifyOn(ctx context.Context, q querier, f journal.Fence) error {
	var current bool
	err := q.QueryRow(ctx, `
		SELECT true FROM owner
		WHERE tenant = $1 AND kind = $2 AND id = $3 AND epoch = $4 AND activation = $5 AND NOT released`,
		fenceArgs(f)...).Scan(&current)
	if isNoRows(err) {
		return fenced(f)
	}
	return err
}

// DueWakeups implements journal.Store.
func (s *Store) DueWakeups(ctx context.Context, now time.Time, limit int) ([]journal.DueWakeup, error) {
	if limit <= 0 {
		return nil, nil
	}
	return collect(ctx, s.across(forWakeups), `
		SELECT tenant, kind, id, key, due FROM wakeups
		WHERE due <= $1 ORDER BY due, tenant, kind, id, key LIMIT $2`,
		[]any{now, limit}, func(r pgx.CollectableRow) (journal.DueWakeup, error) {
			var d journal.DueWakeup
			err := r.Scan(&d.Identity.Tenant, &d.Identity.Kind, &d.Identity.ID, &d.Key, &d.Due)
			d.Due = d.Due.UTC()
			return d, err
		})
}

// collect reads all rows of a bounded query.
func collect[T any](ctx context.Context, p reader, query string, args []any, scan pgx.RowToFunc[T]) ([]T, error) {
	var out []T
	err := p.read(ctx, func(ctx context.Context, q querier) error {
		rows, err := q.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		out, err = pgx.AppendRows([]T(nil), rows, scan)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// DeadLetters implements journal.Store.
func (s *Store) DeadLetters(ctx context.Context, after journal.DeadLetterRow, limit int) ([]journal.DeadLetterRow, error) {
	if limit <= 0 {
		return nil, nil
	}
	id := after.Identity
	if err := checkText("tenant", id.Tenant, "kind", id.Kind, "id", id.ID, "dead letter key", after.Key); err != nil {
		return nil, err
	}
	return collect(ctx, s.across(forDeadLetters), `
		SELECT tenant, kind, id, key, name, reason, since FROM dead_letters
		WHERE (tenant, kind, id, key) > ($1, $2, $3, $4) ORDER BY tenant, kind, id, key LIMIT $5`,
		[]any{id.Tenant, id.Kind, id.ID, after.Key, limit}, func(r pgx.CollectableRow) (journal.DeadLetterRow, error) {
			var d journal.DeadLetterRow
			err := r.Scan(&d.Identity.Tenant, &d.Identity.Kind, &d.Identity.ID, &d.Key, &d.Name, &d.Reason, &d.Since)
			d.Since = d.Since.UTC()
			return d, err
		})
}

// Counters implements journal.CounterStore.
func (s *Store) Counters(ctx context.Context, id journal.Identity) ([]journal.Counter, error) {
	if err := checkIdentity(id); err != nil {
		return nil, err
	}
	return collect(ctx, s.commits.of(id.Tenant), `
		SELECT name, epoch, value FROM counters WHERE tenant = $1 AND kind = $2 AND id = $3 ORDER BY name`,
		[]any{id.Tenant, id.Kind, id.ID}, func(r pgx.CollectableRow) (journal.Counter, error) {
			var c journal.Counter
			err := r.Scan(&c.Name, &c.Epoch, &c.Value)
			return c, err
		})
}
