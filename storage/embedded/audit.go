package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"granary.dev/granary/actors/journal"
)

// PutAccesses implements journal.AuditStore.
func (s *Store) PutAccesses(ctx context.Context, list []journal.Access) error {
	if len(list) == 0 {
		return nil
	}
	return s.write(ctx, "", 256*len(list), func(t *txn) error {
		for i := range list {
			if err := putAccess(t, &list[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func putAccess(t *txn, a *journal.Access) error {
	n, err := t.changed(`
		INSERT INTO accesses (tenant, stream, seq, time, phase, principal, credential, key_id, method, resource, remote,
			request_id, code, reason, duration, count, hash)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
		ON CONFLICT (tenant, stream, seq) DO NOTHING`,
		a.Tenant, a.Stream, a.Seq, micros(a.Time), a.Phase, a.Principal, a.Credential, a.KeyID, a.Method, a.Resource, a.Remote,
		a.RequestID, a.Code, a.Reason, a.Duration.Microseconds(), a.Count, blob(a.Hash))
	if err != nil || n == 0 {
		return err
	}
	return moveStream(t, a.Tenant, a.Stream, a.Seq, a.Hash)
}

func moveStream(t *txn, tenant, stream string, seq int64, hash []byte) error {
	return t.exec(`
		INSERT INTO audit_streams (tenant, stream, seq, hash) VALUES (?1, ?2, ?3, ?4)
		ON CONFLICT (tenant, stream) DO UPDATE SET seq = excluded.seq, hash = excluded.hash
		WHERE excluded.seq > audit_streams.seq`, tenant, stream, seq, blob(hash))
}

const accessColumns = `tenant, stream, seq, time, phase, principal, credential, key_id, method, resource, remote,
	request_id, code, reason, duration, count, hash`

func (s *Store) accesses(ctx context.Context, query string, args ...any) ([]journal.Access, error) {
	var out []journal.Access
	err := s.read.each(ctx, query, args, func(rows *sql.Rows) error {
		var a journal.Access
		var at, took int64
		err := rows.Scan(&a.Tenant, &a.Stream, &a.Seq, &at, &a.Phase, &a.Principal, &a.Credential, &a.KeyID, &a.Method,
			&a.Resource, &a.Remote, &a.RequestID, &a.Code, &a.Reason, &took, &a.Count, &a.Hash)
		if err != nil {
			return classify(err)
		}
		a.Time, a.Duration = fromMicros(at), time.Duration(took)*time.Microsecond
		out = append(out, a)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Accesses implements journal.AuditStore.
func (s *Store) Accesses(ctx context.Context, q journal.AccessQuery) ([]journal.Access, error) {
	if q.Limit <= 0 {
		return nil, nil
	}
	from, to, after := int64(math.MinInt64), int64(math.MaxInt64), int64(math.MinInt64)
	if !q.From.IsZero() {
		from = micros(q.From)
	}
	if !q.To.IsZero() {
		to = micros(q.To)
	}
	if q.After.Stream != "" {
		after = micros(q.After.Time)
	}
	return s.accesses(ctx, `SELECT `+accessColumns+` FROM accesses
		WHERE tenant = ?1 AND time >= ?2 AND time < ?3 AND (?4 = '' OR principal = ?4) AND (?5 = '' OR method = ?5)
		  AND (time, stream, seq) > (?6, ?7, ?8)
		ORDER BY time, stream, seq LIMIT ?9`,
		q.Tenant, from, to, q.Principal, q.Method, after, q.After.Stream, q.After.Seq, q.Limit)
}

// StreamAccesses implements journal.AuditStore.
func (s *Store) StreamAccesses(ctx context.Context, tenant, stream string, after int64, limit int) ([]journal.Access, error) {
	if limit <= 0 {
		return nil, nil
	}
	return s.accesses(ctx, `SELECT `+accessColumns+` FROM accesses
		WHERE tenant = ?1 AND stream = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4`, tenant, stream, after, limit)
}

// Streams implements journal.AuditStore.
func (s *Store) Streams(ctx context.Context, tenant, after string, limit int) ([]journal.StreamHead, error) {
	if limit <= 0 {
		return nil, nil
	}
	var out []journal.StreamHead
	err := s.read.each(ctx, `
		SELECT stream, seq, hash FROM audit_streams WHERE tenant = ?1 AND stream > ?2 ORDER BY stream LIMIT ?3`,
		[]any{tenant, after, limit}, func(rows *sql.Rows) error {
			var h journal.StreamHead
			if err := rows.Scan(&h.Stream, &h.Seq, &h.Hash); err != nil {
				return classify(err)
			}
			out = append(out, h)
			return nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// AuditTenants implements journal.AuditStore.
func (s *Store) AuditTenants(ctx context.Context, after string, limit int) ([]string, error) {
	if limit <= 0 {
		return nil, nil
	}
	var out []string
	err := s.read.each(ctx, `SELECT DISTINCT tenant FROM audit_streams WHERE tenant > ?1 ORDER BY tenant LIMIT ?2`,
		[]any{after, limit}, func(rows *sql.Rows) error {
			var tenant string
			if err := rows.Scan(&tenant); err != nil {
				return classify(err)
			}
			out = append(out, tenant)
			return nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// PutCheckpoint implements journal.AuditStore.
func (s *Store) PutCheckpoint(ctx context.Context, c journal.Checkpoint) error {
	return s.write(ctx, "", 256+len(c.Body), func(t *txn) error {
		var last int64
		if _, err := t.row(`SELECT seq FROM audit_streams WHERE tenant = ?1 AND stream = ''`, []any{c.Tenant}, &last); err != nil {
			return err
		}
		n, err := t.changed(`
			INSERT INTO audit_checkpoints (tenant, number, body, key_id, signature) SELECT ?1, ?2, ?3, ?4, ?5 WHERE ?2 = ?6 + 1
			ON CONFLICT (tenant, number) DO NOTHING`, c.Tenant, c.Number, blob(c.Body), c.KeyID, blob(c.Signature), last)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: %d of tenant %s", journal.ErrCheckpoint, c.Number, c.Tenant)
		}
		return moveStream(t, c.Tenant, "", c.Number, c.Hash)
	})
}

// CheckpointHead implements journal.AuditStore.
func (s *Store) CheckpointHead(ctx context.Context, tenant string) (journal.StreamHead, error) {
	var h journal.StreamHead
	err := s.read.row(ctx, `SELECT seq, hash FROM audit_streams WHERE tenant = ?1 AND stream = ''`, []any{tenant}, &h.Seq, &h.Hash)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return h, err
}

// Checkpoints implements journal.AuditStore.
func (s *Store) Checkpoints(ctx context.Context, tenant string, after int64, limit int) ([]journal.Checkpoint, error) {
	if limit <= 0 {
		return nil, nil
	}
	var out []journal.Checkpoint
	err := s.read.each(ctx, `
		SELECT number, body, key_id, signature FROM audit_checkpoints
		WHERE tenant = ?1 AND number > ?2 ORDER BY number LIMIT ?3`,
		[]any{tenant, after, limit}, func(rows *sql.Rows) error {
			c := journal.Checkpoint{Tenant: tenant}
			if err := rows.Scan(&c.Number, &c.Body, &c.KeyID, &c.Signature); err != nil {
				return classify(err)
			}
			out = append(out, c)
			return nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// RetireAccesses implements journal.AuditStore.
func (s *Store) RetireAccesses(ctx context.Context, tenant, stream string, upTo int64, limit int) (left bool, err error) {
	if limit <= 0 {
		return false, nil
	}
	err = s.write(ctx, "", stepCost, func(t *txn) error {
		n, err := t.changed(`
			DELETE FROM accesses WHERE tenant = ?1 AND stream = ?2 AND seq IN (
				SELECT seq FROM accesses WHERE tenant = ?1 AND stream = ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4)`, tenant, stream, upTo, limit)
		left = n == int64(limit)
		return err
	})
	return left, err
}

// DropStream implements journal.AuditStore.
func (s *Store) DropStream(ctx context.Context, tenant, stream string, upTo int64) error {
	return s.write(ctx, "", stepCost, func(t *txn) error {
		return t.exec(`DELETE FROM audit_streams WHERE tenant = ?1 AND stream = ?2 AND stream <> '' AND seq <= ?3`, tenant, stream, upTo)
	})
}

// RetireCheckpoints implements journal.AuditStore.
func (s *Store) RetireCheckpoints(ctx context.Context, tenant string, below int64, limit int) (left bool, err error) {
	if limit <= 0 {
		return false, nil
	}
	err = s.write(ctx, "", stepCost, func(t *txn) error {
		n, err := t.changed(`
			DELETE FROM audit_checkpoints WHERE tenant = ?1 AND number IN (
				SELECT number FROM audit_checkpoints WHERE tenant = ?1 AND number < ?2 ORDER BY number LIMIT ?3)`, tenant, below, limit)
		left = n == int64(limit)
		return err
	})
	return left, err
}
