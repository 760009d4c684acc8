package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors/journal"
)

// Acquire implements journal.Store.
func (s *Store) Acquire(ctx context.Context, id journal.Identity, c journal.Claim) (journal.Fence, int64, error) {
	if err := checkIdentity(id); err != nil {
		return journal.Fence{}, 0, err
	}
	activation, err := uuid.NewRandom()
	if err != nil {
		return journal.Fence{}, 0, fmt.Errorf("embedded: new activation: %w", err)
	}
	f := journal.Fence{Identity: id, Activation: activation.String(), Node: c.Node}
	var head int64
	err = s.write(ctx, id.Tenant, 256, func(t *txn) error {
		_, err := t.row(`
			INSERT INTO owner (tenant, kind, id, epoch, activation, node, head, since)
			VALUES (?1, ?2, ?3, 1, ?4, ?5, 0, ?6)
			ON CONFLICT (tenant, kind, id) DO UPDATE SET
				epoch = owner.epoch + 1, activation = excluded.activation, node = excluded.node,
				since = excluded.since, released = 0
			RETURNING epoch, head`,
			[]any{id.Tenant, id.Kind, id.ID, f.Activation, c.Node, micros(s.now())}, &f.Epoch, &head)
		return err
	})
	if err != nil {
		return journal.Fence{}, 0, err
	}
	return f, head, nil
}

// Release implements journal.Store.
func (s *Store) Release(ctx context.Context, f journal.Fence) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	return s.write(ctx, f.Identity.Tenant, 128, func(t *txn) error {
		return t.exec(`
			UPDATE owner SET released = 1
			WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND epoch = ?4 AND activation = ?5`,
			f.Identity.Tenant, f.Identity.Kind, f.Identity.ID, f.Epoch, f.Activation)
	})
}

// Owner implements journal.Store.
func (s *Store) Owner(ctx context.Context, id journal.Identity) (journal.Owner, error) {
	if err := checkIdentity(id); err != nil {
		return journal.Owner{}, err
	}
	o := journal.Owner{Fence: journal.Fence{Identity: id}}
	var since int64
	err := s.read.row(ctx, `
		SELECT epoch, activation, node, head, released, since, hash, erased, anchor, former FROM owner
		WHERE tenant = ?1 AND kind = ?2 AND id = ?3`,
		[]any{id.Tenant, id.Kind, id.ID}, &o.Epoch, &o.Activation, &o.Node, &o.Head, &o.Released, &since, &o.Hash, &o.Erased, &o.Anchor, &o.Former)
	if errors.Is(err, sql.ErrNoRows) {
		return journal.Owner{}, fmt.Errorf("%w: %s was never activated", journal.ErrNotFound, id)
	}
	if err != nil {
		return journal.Owner{}, err
	}
	o.Since = fromMicros(since)
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
	var out []journal.Event
	err := s.read.each(ctx, `
		SELECT seq, time, type, principal, request_id, data, remote, hash FROM events
		WHERE tenant = ?1 AND kind = ?2 AND id = ?3
		  AND seq > max(?4, (SELECT erased FROM owner WHERE tenant = ?1 AND kind = ?2 AND id = ?3))
		ORDER BY seq LIMIT ?5`,
		[]any{id.Tenant, id.Kind, id.ID, after, limit}, func(rows *sql.Rows) error {
			var e journal.Event
			var at int64
			if err := rows.Scan(&e.Seq, &at, &e.Type, &e.Principal, &e.RequestID, &e.Data, &e.Remote, &e.Hash); err != nil {
				return classify(err)
			}
			e.Time = fromMicros(at)
			out = append(out, e)
			return nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Verify implements journal.Store.
func (s *Store) Verify(ctx context.Context, f journal.Fence) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	var one int
	err := s.read.row(ctx, isCurrent, fenceArgs(f), &one)
	if errors.Is(err, sql.ErrNoRows) {
		return fenced(f)
	}
	return err
}

// FindIdempotency implements journal.Store. The fence and the key are read by
// one statement, so that a record of a successor never shows without the
// successor's fence.
func (s *Store) FindIdempotency(ctx context.Context, f journal.Fence, key journal.IdempotencyKey,
) (journal.Idempotency, bool, error) {
	if err := checkIdentity(f.Identity); err != nil {
		return journal.Idempotency{}, false, err
	}
	rec := journal.Idempotency{IdempotencyKey: key}
	var hash sql.NullString
	var expires sql.NullInt64
	err := s.read.row(ctx, `
		SELECT i.request_hash, i.response, i.expires FROM owner o
		LEFT JOIN idempotency i ON i.tenant = o.tenant AND i.kind = o.kind AND i.id = o.id AND i.erasures = o.erasures
			AND i.principal = ?6 AND i.method = ?7 AND i.key = ?8 AND i.expires > ?9
		WHERE o.tenant = ?1 AND o.kind = ?2 AND o.id = ?3 AND o.epoch = ?4 AND o.activation = ?5 AND o.released = 0`,
		fenceArgs(f, key.Principal, key.Method, key.Key, micros(s.now())), &hash, &rec.Response, &expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return journal.Idempotency{}, false, fenced(f)
	case err != nil, !hash.Valid:
		return journal.Idempotency{}, false, err
	}
	rec.RequestHash, rec.Expires = hash.String, fromMicros(expires.Int64)
	return rec, true, nil
}

// DueWakeups implements journal.Store.
func (s *Store) DueWakeups(ctx context.Context, now time.Time, limit int) ([]journal.DueWakeup, error) {
	if limit <= 0 {
		return nil, nil
	}
	var out []journal.DueWakeup
	err := s.read.each(ctx, `
		SELECT tenant, kind, id, key, due FROM wakeups
		WHERE due <= ?1 ORDER BY due, tenant, kind, id, key LIMIT ?2`,
		[]any{micros(now), limit}, func(rows *sql.Rows) error {
			var d journal.DueWakeup
			var due int64
			if err := rows.Scan(&d.Identity.Tenant, &d.Identity.Kind, &d.Identity.ID, &d.Key, &due); err != nil {
				return classify(err)
			}
			d.Due = fromMicros(due)
			out = append(out, d)
			return nil
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
	var out []journal.DeadLetterRow
	err := s.read.each(ctx, `
		SELECT tenant, kind, id, key, name, reason, since FROM dead_letters
		WHERE (tenant, kind, id, key) > (?1, ?2, ?3, ?4) ORDER BY tenant, kind, id, key LIMIT ?5`,
		[]any{id.Tenant, id.Kind, id.ID, after.Key, limit}, func(rows *sql.Rows) error {
			var d journal.DeadLetterRow
			var since int64
			err := rows.Scan(&d.Identity.Tenant, &d.Identity.Kind, &d.Identity.ID, &d.Key, &d.Name, &d.Reason, &since)
			if err != nil {
				return classify(err)
			}
			d.Since = fromMicros(since)
			out = append(out, d)
			return nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}
