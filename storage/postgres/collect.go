package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

const (
	// blobGrace is how long a blob may stay unclaimed, as PostgreSQL reads it.
	blobGrace = "24 hours"
	// leaseGrace is for how long the lease of a node that is no member is kept,
	// as PostgreSQL reads it: its row is what tells a process that wakes up late
	// that its life is over. The view would tell it too.
	leaseGrace = "7 days"
	// rowStep bounds the rows one step of a removal takes, partStep those of
	// half a megabyte and more.
	rowStep  = 1000
	partStep = 8
	// collectionLock is the advisory lock of the one node that collects.
	collectionLock = 0x67726e2d636f6c6c // "grn-coll"
)

// collectLoop collects at the start and then at every tick, until ctx ends.
func (s *Store) collectLoop(ctx context.Context, every time.Duration) {
	defer close(s.collected)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if _, err := s.Collect(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("collection failed", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Collect removes blobs that nothing claimed for a day and those deleted,
// expired idempotency records, leases of nodes long gone, and what crashes have
// left of erasures and of indexes. The store does so by itself at start and every hour. done is false
// when another node is at it.
func (s *Store) Collect(ctx context.Context) (done bool, err error) { return s.collectAhead(ctx, 0) }

// collectAhead collects as if it were later by ahead.
func (s *Store) collectAhead(ctx context.Context, ahead time.Duration) (done bool, err error) {
	c, err := s.across(forCollection).conn(ctx)
	if err != nil {
		return false, err
	}
	// The lock belongs to the session: it ends with it, whatever happens here.
	err = c.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(collectionLock)).Scan(&done)
	if err == nil && done {
		err = s.collectOn(ctx, ahead)
		_, unlockErr := c.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, int64(collectionLock))
		if unlockErr != nil { // never pool a session that may hold it
			_ = c.Conn().Close(context.WithoutCancel(ctx)) // its end frees the lock
		}
	}
	s.across(forCollection).release(c, err)
	return done, readError(ctx, err)
}

func (s *Store) collectOn(ctx context.Context, ahead time.Duration) error {
	later := fmt.Sprintf("%d microseconds", ahead.Microseconds())
	return errors.Join(
		stepwise(ctx, s.across(forCollection), rowStep, `
			UPDATE blobs SET deleted = true WHERE (tenant, id) IN (
				SELECT tenant, id FROM blobs
				WHERE owner_kind = '' AND NOT deleted AND created < now() + $1::interval - interval '`+blobGrace+`' LIMIT $2)
			  AND owner_kind = '' AND NOT deleted`, later),
		s.purgeBlobs(ctx),
		stepwise(ctx, s.across(forCollection), rowStep, `
			DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM idempotency WHERE expires <= now() + $1::interval LIMIT $2 FOR UPDATE))`, later),
		stepwise(ctx, s.across(forCollection), partStep, `
			DELETE FROM index_parts WHERE ctid = ANY (ARRAY(
				SELECT p.ctid FROM index_parts p
				LEFT JOIN indexes i ON i.tenant = p.tenant AND i.kind = p.kind AND i.id = p.id AND i.gen = p.gen
				WHERE i.gen IS NULL AND p.written < now() + $1::interval - interval '`+partGrace+`' LIMIT $2))`, later),
		stepwise(ctx, s.across(forCollection), rowStep, `
			DELETE FROM node_lease WHERE ctid = ANY (ARRAY(
				SELECT l.ctid FROM node_lease l
				WHERE l.expires < now() + $1::interval - interval '`+leaseGrace+`'
				  AND NOT EXISTS (SELECT 1 FROM cluster_view v WHERE l.node = ANY (v.active)) LIMIT $2 FOR UPDATE OF l))`, later),
		s.finishErasures(ctx),
	)
}

// finishErasures completes erasures whose node has died, or who are under way:
// removing a row twice does no harm.
func (s *Store) finishErasures(ctx context.Context) error {
	list, err := collect(ctx, s.across(forCollection), `SELECT tenant, kind, id FROM owner WHERE purging LIMIT 1000`, nil,
		func(r pgx.CollectableRow) (id journal.Identity, err error) {
			return id, r.Scan(&id.Tenant, &id.Kind, &id.ID)
		})
	if err != nil {
		return err
	}
	for _, id := range list {
		// Generation 0: parts of its index are collected by their age.
		if err := s.purgeGrain(ctx, id, 0); err != nil {
			return err
		}
	}
	return nil
}

// stepwise repeats a statement until it removes fewer rows than its bound,
// which is its last parameter.
func stepwise(ctx context.Context, p runner, bound int64, query string, args ...any) error {
	args = append(args, bound)
	for n := bound; n >= bound; {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := p.write(ctx, func(ctx context.Context, q querier) error {
			tag, err := q.Exec(ctx, query, args...)
			n = tag.RowsAffected()
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
