package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors/journal"
)

// acquire is for a node that is alone: no view is asked.
const acquire = `
	INSERT INTO owner AS o (tenant, kind, id, epoch, activation, node, head, since)
	VALUES ($1, $2, $3, 1, $4, $5, 0, now())
	ON CONFLICT (tenant, kind, id) DO UPDATE SET
		epoch = o.epoch + 1, activation = excluded.activation, node = excluded.node, view = 0,
		since = excluded.since, released = false
	RETURNING epoch, head`

// Acquire implements journal.Store; with a view it is protocol.Acquire. It waits
// for a write of the old owner that has begun, and no longer than that can take.
// A lost answer is journal.ErrUnavailable: nobody holds the fence it made, and
// acquiring again makes the next one.
func (s *Store) Acquire(ctx context.Context, id journal.Identity, c journal.Claim) (journal.Fence, int64, error) {
	if err := errors.Join(checkIdentity(id), checkText("node", c.Node)); err != nil {
		return journal.Fence{}, 0, err
	}
	f := journal.Fence{Identity: id, Node: c.Node}
	var head int64
	deadline := time.Now().Add(commitTimeout)
	for {
		activation, err := uuid.NewRandom()
		if err != nil {
			return journal.Fence{}, 0, fmt.Errorf("postgres: new activation: %w", err)
		}
		f.Activation = activation.String()
		err = s.commits.of(id.Tenant).write(ctx, func(ctx context.Context, q querier) error {
			return acquireOn(ctx, q, &f, &head, c, s.ttl)
		})
		switch {
		case err == nil:
			return f, head, nil
		case sqlState(err) == codeLockWait && time.Now().Before(deadline):
			// A stopped process holds the row; its session ends within idleTimeout.
		case errors.Is(err, journal.ErrInDoubt):
			return journal.Fence{}, 0, fmt.Errorf("%w: acquisition of %s without an answer: %s", journal.ErrUnavailable, id, err.Error())
		default:
			return journal.Fence{}, 0, err
		}
	}
}

// acquireOn fills in the fence's epoch and the head.
func acquireOn(ctx context.Context, q querier, f *journal.Fence, head *int64, c journal.Claim, ttl time.Duration) error {
	id := f.Identity
	if c.View <= 0 {
		return q.QueryRow(ctx, acquire, id.Tenant, id.Kind, id.ID, f.Activation, f.Node).Scan(&f.Epoch, head)
	}
	var since *time.Time
	if !c.SinceTime.IsZero() {
		since = &c.SinceTime
	}
	var placed bool
	var epoch, at *int64 // NULL unless it was acquired
	var holder *string   // NULL unless it is held
	var wait *time.Duration
	err := q.QueryRow(ctx, `
		SELECT placed, new_epoch, at_head, holder, wait FROM granary_acquire_v1($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		id.Tenant, id.Kind, id.ID, f.Activation, f.Node, c.View, c.Since, since, ttl).
		Scan(&placed, &epoch, &at, &holder, &wait)
	switch {
	case err != nil:
		return err
	case !placed:
		return fmt.Errorf("%w: %s under view %d", journal.ErrNotPlaced, id, c.View)
	case epoch != nil && at != nil:
		f.Epoch, *head = *epoch, *at
		return nil
	case holder != nil && wait != nil:
		return &journal.HeldError{By: *holder, RetryAfter: *wait}
	}
	return fmt.Errorf("%w: acquisition of %s without an outcome", journal.ErrUnavailable, id)
}
