package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

var _ journal.KeyStore = (*Store)(nil)

const keyColumns = `tenant, version, wrapped, master, key_id, created, rotated`

func scanKeys(row pgx.CollectableRow) (r journal.KeyRecord, err error) {
	err = row.Scan(&r.Tenant, &r.Version, &r.Wrapped, &r.Master, &r.Primary, &r.Created, &r.Rotated)
	r.Created, r.Rotated = r.Created.UTC(), r.Rotated.UTC()
	return r, err
}

// Keys implements journal.KeyStore.
func (s *Store) Keys(ctx context.Context, tenant string) (r journal.KeyRecord, err error) {
	if err := checkKeys("tenant", tenant); err != nil {
		return r, err
	}
	err = s.row(ctx, tenant, `SELECT `+keyColumns+` FROM tenant_keys WHERE tenant = $1`, []any{tenant},
		&r.Tenant, &r.Version, &r.Wrapped, &r.Master, &r.Primary, &r.Created, &r.Rotated)
	if isNoRows(err) {
		return r, fmt.Errorf("%w: keys of %s", journal.ErrNotFound, tenant)
	}
	r.Created, r.Rotated = r.Created.UTC(), r.Rotated.UTC()
	return r, err
}

// keysLock orders changes of keys: who has it takes the next mark and keeps it until
// the commit, so that marks become visible in their order. First writings, of which
// there may be many, go without.
const keysLock = `SELECT pg_advisory_xact_lock(1735549294, 2)`

const nextMark = `(SELECT max(mark) FROM tenant_keys) + 1`

// PutKeys implements journal.KeyStore.
func (s *Store) PutKeys(ctx context.Context, r journal.KeyRecord) error {
	if err := checkKeys("tenant", r.Tenant, "master key", r.Master, "key id", r.Primary); err != nil {
		return err
	}
	if len(r.Wrapped) == 0 || r.Version < 1 {
		return fmt.Errorf("%w: keys of %s: version %d with %d bytes", ErrInvalid, r.Tenant, r.Version, len(r.Wrapped))
	}
	args := []any{r.Tenant, r.Version, r.Wrapped, r.Master, r.Primary, r.Created, r.Rotated}
	put := func(ctx context.Context, q querier, query string) error {
		tag, err := q.Exec(ctx, query, args...)
		if err == nil && tag.RowsAffected() == 0 {
			err = fmt.Errorf("%w: %s", journal.ErrKeysChanged, r.Tenant)
		}
		return err
	}
	if r.Version == 1 {
		return s.commits.of(r.Tenant).write(ctx, func(ctx context.Context, q querier) error {
			return put(ctx, q, `INSERT INTO tenant_keys (`+keyColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant) DO NOTHING`)
		})
	}
	return s.across(forKeys).transact(ctx, func(ctx context.Context, tx querier) error {
		if _, err := tx.Exec(ctx, keysLock); err != nil {
			return err
		}
		return put(ctx, tx, `
			UPDATE tenant_keys SET version = $2, wrapped = $3, master = $4, key_id = $5,
				created = CASE WHEN wrapped = '' THEN $6 ELSE created END, rotated = $7, mark = `+nextMark+`
			WHERE tenant = $1 AND version = $2 - 1`)
	})
}

// DestroyKeys implements journal.KeyStore. Old versions of the row stay in the
// server's files until it vacuums, and in its log and back-ups.
func (s *Store) DestroyKeys(ctx context.Context, tenant string) error {
	if err := checkKeys("tenant", tenant); err != nil {
		return err
	}
	return s.across(forKeys).transact(ctx, func(ctx context.Context, tx querier) error {
		if _, err := tx.Exec(ctx, keysLock); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			UPDATE tenant_keys SET version = version + 1, wrapped = '', mark = `+nextMark+`
			WHERE tenant = $1 AND wrapped <> ''`, tenant)
		return err
	})
}

// ListKeys implements journal.KeyStore.
func (s *Store) ListKeys(ctx context.Context, after string, limit int) ([]journal.KeyRecord, error) {
	if limit <= 0 {
		return nil, nil
	}
	if err := checkText("tenant", after); err != nil {
		return nil, err
	}
	return collect(ctx, s.across(forKeys), `SELECT `+keyColumns+` FROM tenant_keys WHERE tenant > $1 ORDER BY tenant LIMIT $2`,
		[]any{after, limit}, scanKeys)
}

// KeyChanges implements journal.KeyStore.
func (s *Store) KeyChanges(ctx context.Context, after int64, limit int) (out []journal.KeyChange, last int64, err error) {
	if after < 0 {
		err = rowOf(ctx, s.across(forKeys), `SELECT coalesce(max(mark), 0) FROM tenant_keys WHERE mark > 0`, nil, &last)
		return nil, last, err
	}
	out, err = collect(ctx, s.across(forKeys), `SELECT mark, tenant, version, wrapped = '' FROM tenant_keys WHERE mark > $1 AND mark > 0 ORDER BY mark LIMIT $2`,
		[]any{after, limit}, func(r pgx.CollectableRow) (c journal.KeyChange, err error) {
			err = r.Scan(&c.Mark, &c.Tenant, &c.Version, &c.Destroyed)
			return c, err
		})
	if last = after; len(out) > 0 {
		last = out[len(out)-1].Mark
	}
	return out, last, err
}

// hasContent looks into every table that holds what a tenant's keys seal.
const hasContent = `
	SELECT EXISTS (SELECT 1 FROM events WHERE tenant = $1) OR EXISTS (SELECT 1 FROM snapshots WHERE tenant = $1)
		OR EXISTS (SELECT 1 FROM blobs WHERE tenant = $1) OR EXISTS (SELECT 1 FROM chunks WHERE tenant = $1)
		OR EXISTS (SELECT 1 FROM vectors WHERE tenant = $1) OR EXISTS (SELECT 1 FROM idempotency WHERE tenant = $1)
		OR EXISTS (SELECT 1 FROM indexes WHERE tenant = $1) OR EXISTS (SELECT 1 FROM dead_letters WHERE tenant = $1)`

// HasContent implements journal.KeyStore.
func (s *Store) HasContent(ctx context.Context, tenant string) (there bool, err error) {
	if tenant == "" {
		err = rowOf(ctx, s.across(forKeys), `SELECT EXISTS (SELECT 1 FROM owner) OR EXISTS (SELECT 1 FROM blobs)`, nil, &there)
		return there, err
	}
	if err := checkKeys("tenant", tenant); err != nil {
		return false, err
	}
	err = s.row(ctx, tenant, hasContent, []any{tenant}, &there)
	return there, err
}
