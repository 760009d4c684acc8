package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

// putAccesses adds records and moves the heads of their streams, which are given
// apart: one statement cannot touch a row twice.
const putAccesses = `WITH put AS (
	INSERT INTO accesses (tenant, stream, seq, time, phase, principal, credential, key_id, method, resource, remote,
		request_id, code, reason, duration, count, hash)
	SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
		$8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::bigint[],
		$16::bigint[], $17::bytea[])
	ON CONFLICT (tenant, stream, seq) DO NOTHING)
	INSERT INTO audit_streams AS s (tenant, stream, seq, hash)
	SELECT * FROM unnest($18::text[], $19::text[], $20::bigint[], $21::bytea[])
	ON CONFLICT (tenant, stream) DO UPDATE SET seq = excluded.seq, hash = excluded.hash WHERE excluded.seq > s.seq`

// PutAccesses implements journal.AuditStore.
func (s *Store) PutAccesses(ctx context.Context, list []journal.Access) error {
	if len(list) == 0 {
		return nil
	}
	type key struct{ tenant, stream string }
	last := make(map[key]int)
	var heads []journal.Access
	for i := range list {
		a := &list[i]
		if err := checkAccess(a); err != nil {
			return err
		}
		at, there := last[key{a.Tenant, a.Stream}]
		switch {
		case !there:
			last[key{a.Tenant, a.Stream}] = len(heads)
			heads = append(heads, *a)
		case heads[at].Seq < a.Seq:
			heads[at] = *a
		}
	}
	text := func(pick func(*journal.Access) string) []string { return column(list, pick) }
	number := func(pick func(*journal.Access) int64) []int64 { return column(list, pick) }
	args := []any{text(func(a *journal.Access) string { return a.Tenant }), text(func(a *journal.Access) string { return a.Stream }),
		number(func(a *journal.Access) int64 { return a.Seq }),
		column(list, func(a *journal.Access) time.Time { return a.Time }),
		text(func(a *journal.Access) string { return a.Phase }), text(func(a *journal.Access) string { return a.Principal }),
		text(func(a *journal.Access) string { return a.Credential }), text(func(a *journal.Access) string { return a.KeyID }),
		text(func(a *journal.Access) string { return a.Method }), text(func(a *journal.Access) string { return a.Resource }),
		text(func(a *journal.Access) string { return a.Remote }), text(func(a *journal.Access) string { return a.RequestID }),
		text(func(a *journal.Access) string { return a.Code }), text(func(a *journal.Access) string { return a.Reason }),
		number(func(a *journal.Access) int64 { return a.Duration.Microseconds() }),
		number(func(a *journal.Access) int64 { return a.Count }),
		column(list, func(a *journal.Access) []byte { return blob(a.Hash) }),
		column(heads, func(a *journal.Access) string { return a.Tenant }), column(heads, func(a *journal.Access) string { return a.Stream }),
		column(heads, func(a *journal.Access) int64 { return a.Seq }), column(heads, func(a *journal.Access) []byte { return blob(a.Hash) })}
	return s.across(forAccesses).write(ctx, func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, putAccesses, args...)
		return err
	})
}

func checkAccess(a *journal.Access) error {
	return checkText("tenant", a.Tenant, "stream", a.Stream, "phase", a.Phase, "principal", a.Principal, "credential", a.Credential,
		"key id", a.KeyID, "method", a.Method, "resource", a.Resource, "remote", a.Remote, "request id", a.RequestID,
		"code", a.Code, "reason", a.Reason)
}

const accessColumns = `SELECT tenant, stream, seq, time, phase, principal, credential, key_id, method, resource, remote,
	request_id, code, reason, duration, count, hash FROM accesses `

func scanAccess(r pgx.CollectableRow) (journal.Access, error) {
	var a journal.Access
	var took int64
	err := r.Scan(&a.Tenant, &a.Stream, &a.Seq, &a.Time, &a.Phase, &a.Principal, &a.Credential, &a.KeyID, &a.Method,
		&a.Resource, &a.Remote, &a.RequestID, &a.Code, &a.Reason, &took, &a.Count, &a.Hash)
	a.Time, a.Duration = a.Time.UTC(), time.Duration(took)*time.Microsecond
	return a, err
}

// Accesses implements journal.AuditStore.
func (s *Store) Accesses(ctx context.Context, q journal.AccessQuery) ([]journal.Access, error) {
	if q.Limit <= 0 {
		return nil, nil
	}
	if err := checkText("tenant", q.Tenant, "principal", q.Principal, "method", q.Method, "stream", q.After.Stream); err != nil {
		return nil, err
	}
	open := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	var after *time.Time
	if q.After.Stream != "" {
		after = &q.After.Time
	}
	return collect(ctx, s.audited(q.Tenant), accessColumns+`
		WHERE tenant = $1 AND time >= coalesce($2::timestamptz, '-infinity') AND time < coalesce($3::timestamptz, 'infinity')
		  AND ($4::text = '' OR principal = $4) AND ($5::text = '' OR method = $5)
		  AND (time, stream, seq) > (coalesce($6::timestamptz, '-infinity'), $7::text, $8::bigint)
		ORDER BY time, stream, seq LIMIT $9`,
		[]any{q.Tenant, open(q.From), open(q.To), q.Principal, q.Method, after, q.After.Stream, q.After.Seq, q.Limit}, scanAccess)
}

// StreamAccesses implements journal.AuditStore.
func (s *Store) StreamAccesses(ctx context.Context, tenant, stream string, after int64, limit int) ([]journal.Access, error) {
	if limit <= 0 {
		return nil, nil
	}
	if err := checkText("tenant", tenant, "stream", stream); err != nil {
		return nil, err
	}
	return collect(ctx, s.audited(tenant), accessColumns+`
		WHERE tenant = $1 AND stream = $2 AND seq > $3 ORDER BY seq LIMIT $4`, []any{tenant, stream, after, limit}, scanAccess)
}

// Streams implements journal.AuditStore.
func (s *Store) Streams(ctx context.Context, tenant, after string, limit int) ([]journal.StreamHead, error) {
	if limit <= 0 {
		return nil, nil
	}
	if err := checkText("tenant", tenant, "stream", after); err != nil {
		return nil, err
	}
	return collect(ctx, s.audited(tenant), `
		SELECT stream, seq, hash FROM audit_streams WHERE tenant = $1 AND stream > $2 ORDER BY stream LIMIT $3`,
		[]any{tenant, after, limit}, func(r pgx.CollectableRow) (journal.StreamHead, error) {
			var h journal.StreamHead
			err := r.Scan(&h.Stream, &h.Seq, &h.Hash)
			return h, err
		})
}

// AuditTenants implements journal.AuditStore.
func (s *Store) AuditTenants(ctx context.Context, after string, limit int) ([]string, error) {
	if limit <= 0 {
		return nil, nil
	}
	if err := checkText("tenant", after); err != nil {
		return nil, err
	}
	return collect(ctx, s.across(forAccesses), `SELECT DISTINCT tenant FROM audit_streams WHERE tenant > $1 ORDER BY tenant LIMIT $2`,
		[]any{after, limit}, pgx.RowTo[string])
}

// PutCheckpoint implements journal.AuditStore. The head is moved first: who is second
// waits for its row and finds another number there.
func (s *Store) PutCheckpoint(ctx context.Context, c journal.Checkpoint) error {
	if err := checkText("tenant", c.Tenant, "key id", c.KeyID); err != nil {
		return err
	}
	return s.audited(c.Tenant).write(ctx, func(ctx context.Context, q querier) error {
		var number int64
		err := q.QueryRow(ctx, `WITH head AS (
			INSERT INTO audit_streams AS s (tenant, stream, seq, hash) SELECT $1, '', $2::bigint, $6::bytea
			WHERE $2::bigint = 1 OR EXISTS (SELECT 1 FROM audit_streams WHERE tenant = $1 AND stream = '')
			ON CONFLICT (tenant, stream) DO UPDATE SET seq = excluded.seq, hash = excluded.hash WHERE excluded.seq = s.seq + 1
			RETURNING seq)
			INSERT INTO audit_checkpoints (tenant, number, body, key_id, signature)
			SELECT $1, seq, $3::bytea, $4::text, $5::bytea FROM head RETURNING number`,
			c.Tenant, c.Number, blob(c.Body), c.KeyID, blob(c.Signature), blob(c.Hash)).Scan(&number)
		if isNoRows(err) {
			return fmt.Errorf("%w: %d of tenant %s", journal.ErrCheckpoint, c.Number, c.Tenant)
		}
		return err
	})
}

// CheckpointHead implements journal.AuditStore.
func (s *Store) CheckpointHead(ctx context.Context, tenant string) (journal.StreamHead, error) {
	var h journal.StreamHead
	if err := checkText("tenant", tenant); err != nil {
		return h, err
	}
	err := rowOf(ctx, s.audited(tenant), `SELECT seq, hash FROM audit_streams WHERE tenant = $1 AND stream = ''`, []any{tenant}, &h.Seq, &h.Hash)
	if isNoRows(err) {
		err = nil
	}
	return h, err
}

// Checkpoints implements journal.AuditStore.
func (s *Store) Checkpoints(ctx context.Context, tenant string, after int64, limit int) ([]journal.Checkpoint, error) {
	if limit <= 0 {
		return nil, nil
	}
	if err := checkText("tenant", tenant); err != nil {
		return nil, err
	}
	return collect(ctx, s.audited(tenant), `
		SELECT number, body, key_id, signature FROM audit_checkpoints
		WHERE tenant = $1 AND number > $2 ORDER BY number LIMIT $3`,
		[]any{tenant, after, limit}, func(r pgx.CollectableRow) (journal.Checkpoint, error) {
			c := journal.Checkpoint{Tenant: tenant}
			err := r.Scan(&c.Number, &c.Body, &c.KeyID, &c.Signature)
			return c, err
		})
}

// RetireAccesses implements journal.AuditStore.
func (s *Store) RetireAccesses(ctx context.Context, tenant, stream string, upTo int64, limit int) (left bool, err error) {
	return s.retire(ctx, tenant, limit, `
		DELETE FROM accesses WHERE tenant = $1 AND stream = $2 AND seq IN (
			SELECT seq FROM accesses WHERE tenant = $1 AND stream = $2 AND seq <= $3 ORDER BY seq LIMIT $4)`, tenant, stream, upTo, limit)
}

// retire removes rows of one scope, and tells whether there may be more than limit.
func (s *Store) retire(ctx context.Context, tenant string, limit int, query string, args ...any) (left bool, err error) {
	if limit <= 0 {
		return false, nil
	}
	if err := checkText("tenant", tenant); err != nil {
		return false, err
	}
	err = s.audited(tenant).write(ctx, func(ctx context.Context, q querier) error {
		tag, err := q.Exec(ctx, query, args...)
		left = tag.RowsAffected() == int64(limit)
		return err
	})
	return left, err
}

// DropStream implements journal.AuditStore.
func (s *Store) DropStream(ctx context.Context, tenant, stream string, upTo int64) error {
	_, err := s.retire(ctx, tenant, 1, `DELETE FROM audit_streams WHERE tenant = $1 AND stream = $2 AND stream <> '' AND seq <= $3`, tenant, stream, upTo)
	return err
}

// RetireCheckpoints implements journal.AuditStore.
func (s *Store) RetireCheckpoints(ctx context.Context, tenant string, below int64, limit int) (left bool, err error) {
	return s.retire(ctx, tenant, limit, `
		DELETE FROM audit_checkpoints WHERE tenant = $1 AND number IN (
			SELECT number FROM audit_checkpoints WHERE tenant = $1 AND number < $2 ORDER BY number LIMIT $3)`, tenant, below, limit)
}
