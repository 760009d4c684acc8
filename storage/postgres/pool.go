package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/crashpoint"
)

// querier is what a statement needs: a connection, or a transaction on one.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// wire is a connection, or a transaction on one, that can send several statements
// at once.
type wire interface {
	querier
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// resetEvery bounds how often broken connections make a pool drop all of its.
const resetEvery = time.Second

// pool is the connections of one purpose, all with the same session settings.
type pool struct {
	*pgxpool.Pool
	timeout   time.Duration // of a write once it has begun
	patience  time.Duration // how long an operation waits for a connection
	lastReset atomic.Int64  // unix nanoseconds
	resets    atomic.Int64
}

// adjust sets what no start-up parameter can: synchronous_commit is switched
// on where it is off, and kept where it asks for more than that;
// transaction_timeout exists from PostgreSQL 17 on.
const adjust = `
	SELECT set_config(name, CASE name WHEN 'synchronous_commit' THEN 'on' ELSE $1 END, false)
	FROM pg_settings
	WHERE (name = 'synchronous_commit' AND setting = 'off') OR name = 'transaction_timeout'`

// openPool makes a pool whose sessions have the role from their beginning on: they
// never are the login, which owns the tables.
func openPool(ctx context.Context, cfg Config, role string, size int32, lock, statement time.Duration) (*pool, error) {
	pc, err := cfg.parse()
	if err != nil {
		return nil, err
	}
	limits(pc, lock, statement)
	pc.ConnConfig.RuntimeParams["role"] = role
	pc.MaxConns = size
	pc.MaxConnLifetime, pc.MaxConnLifetimeJitter = 30*time.Minute, 5*time.Minute
	pc.MaxConnIdleTime = 5 * time.Minute
	pc.PingTimeout = time.Second
	pc.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, adjust, pgx.QueryExecModeExec, millis(2*statement))
		return err
	}
	// The pool opens connections on this context's values, not on its end.
	pp, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), pc)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	}
	return &pool{Pool: pp, timeout: statement, patience: min(connectTimeout, statement)}, nil
}

// conn takes a connection. Nothing has been sent when it fails.
func (p *pool) conn(ctx context.Context) (*pgxpool.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, p.patience)
	defer cancel()
	c, err := p.Acquire(wait)
	switch {
	case err == nil:
		return c, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("%w: no connection: %w", journal.ErrUnavailable, err)
}

// release gives a connection back. One that the server or the network has
// ended tells that the others have ended too: they are dropped instead of
// failing one operation each.
func (p *pool) release(c *pgxpool.Conn, err error) {
	broken := c.Conn().IsClosed()
	c.Release()
	gone := broken && !pgconn.Timeout(err) && !errors.Is(err, context.Canceled) // not: ended by ourselves
	if !gone && sqlState(err) != codeReadOnly {
		return
	}
	last, now := p.lastReset.Load(), time.Now().UnixNano()
	if now-last > int64(resetEvery) && p.lastReset.CompareAndSwap(last, now) {
		p.resets.Add(1)
		p.Reset()
	}
}

// read runs a query of the caller: its context ends it.
func (p *pool) read(ctx context.Context, run func(context.Context, querier) error) error {
	return p.readOn(ctx, func(ctx context.Context, w wire) error { return run(ctx, w) })
}

func (p *pool) readOn(ctx context.Context, run func(context.Context, wire) error) error {
	c, err := p.conn(ctx)
	if err != nil {
		return err
	}
	err = run(ctx, c)
	p.release(c, err)
	return readError(ctx, err)
}

// write runs one statement that commits by itself. The caller's context ends
// only the wait for a connection: from then on it runs to its end.
func (p *pool) write(ctx context.Context, run func(context.Context, querier) error) error {
	return p.writeOn(ctx, func(ctx context.Context, w wire) error { return run(ctx, w) })
}

func (p *pool) writeOn(ctx context.Context, run func(context.Context, wire) error) error {
	c, err := p.conn(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
	defer cancel()
	err = run(ctx, c)
	p.release(c, err)
	return writeError(err)
}

// transact runs several statements in one transaction.
func (p *pool) transact(ctx context.Context, run func(context.Context, querier) error) error {
	return p.transactOn(ctx, func(ctx context.Context, w wire) error { return run(ctx, w) })
}

func (p *pool) transactOn(ctx context.Context, run func(context.Context, wire) error) error {
	c, err := p.conn(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
	defer cancel()
	committing := false
	err = pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		err := run(ctx, tx)
		crashpoint.Here("transaction")
		committing = err == nil
		return err
	})
	p.release(c, err)
	if err != nil && !committing && !ours(err) { // COMMIT was never sent
		return serverError(err)
	}
	return writeError(err)
}

// PoolStats are the counters and gauges of one pool of connections.
type PoolStats struct {
	Max          int32         // most connections it may have
	Total        int32         // open or being opened
	InUse        int32         // taken by an operation
	Idle         int32         // open and free
	Opened       int64         // connections opened since the start
	Acquired     int64         // times an operation took one
	Waited       int64         // times an operation had to wait for one
	WaitTime     time.Duration // sum of those waits
	Cancelled    int64         // waits that ended with their context
	Resets       int64         // times all were dropped because one was found broken
	LifetimeEnds int64         // closed for their age
	IdleEnds     int64         // closed for being idle
}

func (p *pool) stats() PoolStats {
	s := p.Stat()
	return PoolStats{
		Max: s.MaxConns(), Total: s.TotalConns(), InUse: s.AcquiredConns(), Idle: s.IdleConns(),
		Opened: s.NewConnsCount(), Acquired: s.AcquireCount(),
		Waited: s.EmptyAcquireCount(), WaitTime: s.EmptyAcquireWaitTime(),
		Cancelled: s.CanceledAcquireCount(), Resets: p.resets.Load(),
		LifetimeEnds: s.MaxLifetimeDestroyCount(), IdleEnds: s.MaxIdleDestroyCount(),
	}
}
