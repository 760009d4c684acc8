package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"granary.dev/granary/storage/crashpoint"
)

// Whose statement it is, is said twice: in its WHERE, and by the setting that
// row-level security compares with (migration 10). One that forgets the first
// finds nothing foreign because of the second; one that says neither finds nothing.

// reader runs queries.
type reader interface {
	read(ctx context.Context, run func(context.Context, querier) error) error
}

// runner runs queries and statements that commit by themselves.
type runner interface {
	reader
	write(ctx context.Context, run func(context.Context, querier) error) error
}

// tenantPools are the connections that statements of tenants go over. Their role
// sees no row before a tenant is named: there is no way to a connection but of.
type tenantPools struct{ pool *pool }

// of gives the pool as one tenant sees it.
func (p tenantPools) of(tenant string) tenantPool { return tenantPool{pool: p.pool, tenant: tenant} }

// tenantPool runs everything as one tenant.
type tenantPool struct {
	pool   *pool
	tenant string
}

func (t tenantPool) read(ctx context.Context, run func(context.Context, querier) error) error {
	return t.pool.readOn(ctx, t.as(run))
}

func (t tenantPool) write(ctx context.Context, run func(context.Context, querier) error) error {
	crashpoint.Here("statement")
	return t.pool.writeOn(ctx, t.as(run))
}

func (t tenantPool) transact(ctx context.Context, run func(context.Context, querier) error) error {
	return t.pool.transactOn(ctx, t.as(run))
}

func (t tenantPool) as(run func(context.Context, querier) error) func(context.Context, wire) error {
	return func(ctx context.Context, w wire) error { return run(ctx, scoped{wire: w, tenant: t.tenant}) }
}

// scoped sends each statement behind one that names its tenant. Both go in one
// message and, outside of a transaction, are one: the setting ends with its commit,
// so that no connection comes back to the pool with a tenant, and no answer has to
// be waited for twice.
type scoped struct {
	wire   wire
	tenant string
}

const nameTenant = `SELECT set_config('granary.tenant', $1, true)`

func (s scoped) send(ctx context.Context, sql string, args []any) pgx.BatchResults {
	b := &pgx.Batch{}
	b.Queue(nameTenant, s.tenant)
	b.Queue(sql, args...)
	results := s.wire.SendBatch(ctx, b)
	_, _ = results.Exec() // an error stays with the results: the statement's has it too
	return results
}

// Exec implements querier.
func (s scoped) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	results := s.send(ctx, sql, args)
	tag, err := results.Exec()
	if closing := results.Close(); err == nil {
		err = closing // of the commit
	}
	return tag, err
}

// QueryRow implements querier. The row has to be scanned.
func (s scoped) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return scopedRow{s.send(ctx, sql, args)}
}

type scopedRow struct{ results pgx.BatchResults }

// Scan implements pgx.Row.
func (r scopedRow) Scan(dest ...any) error {
	err := r.results.QueryRow().Scan(dest...)
	if closing := r.results.Close(); closing != nil && (err == nil || errors.Is(err, pgx.ErrNoRows)) {
		return closing
	}
	return err
}

// Query implements querier.
func (s scoped) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	results := s.send(ctx, sql, args)
	rows, err := results.Query()
	if err != nil {
		_ = results.Close() // says the same
		return nil, err
	}
	return &scopedRows{Rows: rows, results: results}, nil
}

// scopedRows end with the batch they are of.
type scopedRows struct {
	pgx.Rows
	results pgx.BatchResults
	closing error
}

// Next implements pgx.Rows.
func (r *scopedRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Close implements pgx.Rows. Idempotent.
func (r *scopedRows) Close() {
	r.Rows.Close()
	r.closing = r.results.Close()
}

// Err implements pgx.Rows.
func (r *scopedRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.closing
}
