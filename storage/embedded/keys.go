package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"granary.dev/granary/actors/journal"
)

var _ journal.KeyStore = (*Store)(nil)

const keyColumns = `tenant, version, wrapped, master, key_id, created, rotated`

func scanKeys(scan func(...any) error) (r journal.KeyRecord, err error) {
	var created, rotated int64
	err = scan(&r.Tenant, &r.Version, &r.Wrapped, &r.Master, &r.Primary, &created, &rotated)
	r.Created, r.Rotated = fromMicros(created), fromMicros(rotated)
	return r, err
}

// Keys implements journal.KeyStore.
func (s *Store) Keys(ctx context.Context, tenant string) (journal.KeyRecord, error) {
	if err := checkKeys("tenant", tenant); err != nil {
		return journal.KeyRecord{}, err
	}
	r, err := scanKeys(func(dest ...any) error {
		return s.read.row(ctx, `SELECT `+keyColumns+` FROM tenant_keys WHERE tenant = ?1`, []any{tenant}, dest...)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return journal.KeyRecord{}, fmt.Errorf("%w: keys of %s", journal.ErrNotFound, tenant)
	}
	return r, err
}

// PutKeys implements journal.KeyStore.
func (s *Store) PutKeys(ctx context.Context, r journal.KeyRecord) error {
	if err := checkKeys("tenant", r.Tenant, "master key", r.Master, "key id", r.Primary); err != nil {
		return err
	}
	if len(r.Wrapped) == 0 || r.Version < 1 {
		return fmt.Errorf("embedded: keys of %s: version %d with %d bytes", r.Tenant, r.Version, len(r.Wrapped))
	}
	return s.write(ctx, r.Tenant, 512, func(t *txn) error {
		query := `
			UPDATE tenant_keys SET version = ?2, wrapped = ?3, master = ?4, key_id = ?5,
				created = CASE WHEN wrapped = x'' THEN ?6 ELSE created END, rotated = ?7,
				mark = (SELECT max(mark) FROM tenant_keys) + 1
			WHERE tenant = ?1 AND version = ?2 - 1`
		if r.Version == 1 {
			query = `
				INSERT INTO tenant_keys (tenant, version, wrapped, master, key_id, created, rotated)
				VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (tenant) DO NOTHING`
		}
		n, err := t.changed(query, r.Tenant, r.Version, r.Wrapped, r.Master, r.Primary, micros(r.Created), micros(r.Rotated))
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: %s", journal.ErrKeysChanged, r.Tenant)
		}
		return err
	})
}

// DestroyKeys implements journal.KeyStore. The bytes are overwritten in the
// database file and its log is emptied, as far as readers allow.
func (s *Store) DestroyKeys(ctx context.Context, tenant string) error {
	if err := checkKeys("tenant", tenant); err != nil {
		return err
	}
	err := s.write(ctx, tenant, 512, func(t *txn) error {
		err := t.exec(`
			UPDATE tenant_keys SET wrapped = zeroblob(length(wrapped)) WHERE tenant = ?1 AND wrapped <> x''`, tenant)
		if err != nil {
			return err
		}
		return t.exec(`
			UPDATE tenant_keys SET version = version + 1, wrapped = x'', mark = (SELECT max(mark) FROM tenant_keys) + 1
			WHERE tenant = ?1 AND wrapped <> x''`, tenant)
	})
	if err != nil {
		return err
	}
	return s.emptyLog(ctx)
}

// ListKeys implements journal.KeyStore.
func (s *Store) ListKeys(ctx context.Context, after string, limit int) (out []journal.KeyRecord, err error) {
	if limit <= 0 {
		return nil, nil
	}
	err = s.read.each(ctx, `SELECT `+keyColumns+` FROM tenant_keys WHERE tenant > ?1 ORDER BY tenant LIMIT ?2`,
		[]any{after, limit}, func(rows *sql.Rows) error {
			r, err := scanKeys(rows.Scan)
			out = append(out, r)
			return classify(err)
		})
	return out, err
}

// KeyChanges implements journal.KeyStore.
func (s *Store) KeyChanges(ctx context.Context, after int64, limit int) (out []journal.KeyChange, last int64, err error) {
	if after < 0 {
		err = s.read.row(ctx, `SELECT coalesce(max(mark), 0) FROM tenant_keys`, nil, &last)
		return nil, last, err
	}
	last = after
	err = s.read.each(ctx, `SELECT mark, tenant, version, wrapped = x'' FROM tenant_keys WHERE mark > ?1 AND mark > 0 ORDER BY mark LIMIT ?2`,
		[]any{after, limit}, func(rows *sql.Rows) error {
			var c journal.KeyChange
			err := rows.Scan(&c.Mark, &c.Tenant, &c.Version, &c.Destroyed)
			out, last = append(out, c), c.Mark
			return classify(err)
		})
	return out, last, err
}

// hasContent looks into every table that holds what a tenant's keys seal.
const hasContent = `
	SELECT EXISTS (SELECT 1 FROM events WHERE tenant = ?1) OR EXISTS (SELECT 1 FROM snapshots WHERE tenant = ?1)
		OR EXISTS (SELECT 1 FROM blobs WHERE tenant = ?1) OR EXISTS (SELECT 1 FROM chunks WHERE tenant = ?1)
		OR EXISTS (SELECT 1 FROM vectors WHERE tenant = ?1) OR EXISTS (SELECT 1 FROM idempotency WHERE tenant = ?1)
		OR EXISTS (SELECT 1 FROM indexes WHERE tenant = ?1) OR EXISTS (SELECT 1 FROM dead_letters WHERE tenant = ?1)`

// HasContent implements journal.KeyStore.
func (s *Store) HasContent(ctx context.Context, tenant string) (there bool, err error) {
	if tenant == "" {
		err = s.read.row(ctx, `SELECT EXISTS (SELECT 1 FROM owner) OR EXISTS (SELECT 1 FROM blobs)`, nil, &there)
		return there, err
	}
	if err := checkKeys("tenant", tenant); err != nil {
		return false, err
	}
	err = s.read.row(ctx, hasContent, []any{tenant}, &there)
	return there, err
}

// emptyLog folds the write-ahead log back into the database file and cuts it, so
// that what was overwritten is in neither. Readers that are open for longer than
// busyMillis leave it to the next checkpoint.
func (s *Store) emptyLog(ctx context.Context) error {
	db, err := openDB(s.writer.path, true, 1)
	if err != nil {
		return err
	}
	var busy, pages, done int
	err = db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &pages, &done)
	if err = errors.Join(err, db.Close()); err != nil {
		return classify(err)
	}
	if busy != 0 {
		s.log.Warn("the database is in use: destroyed keys, wrapped as they were, stay in its log until the next checkpoint")
	}
	return nil
}
