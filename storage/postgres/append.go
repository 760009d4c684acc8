package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

// Append implements journal.Store. A batch that names a key already applied is
// fenced: its holder decided on stale knowledge and must read again.
// journal.ErrNotFound when it claims a blob that does not exist in the tenant
// or belongs to another grain. Nothing is written in either case.
func (s *Store) Append(ctx context.Context, f journal.Fence, b journal.Batch) error {
	err := checkBatch(f, b)
	if err == nil {
		err = s.commits.write(ctx, func(ctx context.Context, q querier) error { return s.appendBatch(ctx, q, f, b) })
	}
	s.outcomes.count(err)
	return err
}

// What a batch can carry besides moving the head. A statement is made for each
// combination: most batches carry little, and what is not there costs nothing.
const (
	withEvents = 1 << iota
	withKeys
	withClear
	withSet
	withClaims
	appendShapes
)

// Each part takes the parameters it names (%d counts on from the first seven).
const (
	appendFence = `WITH fenced AS (
	UPDATE owner SET head = head + $7::bigint
	WHERE tenant = $1 AND kind = $2 AND id = $3 AND epoch = $4 AND activation = $5 AND head = $6::bigint AND NOT released
	RETURNING erasures)`
	appendEvents = `, ev AS (
	INSERT INTO events (tenant, kind, id, seq, time, type, principal, request_id, data)
	SELECT $1, $2, $3, $6::bigint + e.n, e.time, e.type, e.principal, e.request_id, e.data
	FROM fenced, unnest($%d::timestamptz[], $%d::text[], $%d::text[], $%d::text[], $%d::bytea[])
		WITH ORDINALITY AS e (time, type, principal, request_id, data, n))`
	appendKeys = `, keyed AS (
	INSERT INTO idempotency AS i (tenant, kind, id, principal, method, key, erasures, request_hash, response, expires)
	SELECT $1, $2, $3, k.principal, k.method, k.key, fenced.erasures, k.request_hash, k.response, k.expires
	FROM fenced, unnest($%d::text[], $%d::text[], $%d::text[], $%d::text[], $%d::bytea[], $%d::timestamptz[])
		AS k (principal, method, key, request_hash, response, expires)
	ON CONFLICT (tenant, kind, id, principal, method, key) DO UPDATE SET
		erasures = excluded.erasures, request_hash = excluded.request_hash,
		response = excluded.response, expires = excluded.expires
	WHERE i.expires <= now() OR i.erasures <> excluded.erasures
	RETURNING 1)`
	appendClear = `, gone AS (
	DELETE FROM wakeups w USING fenced
	WHERE w.tenant = $1 AND w.kind = $2 AND w.id = $3 AND w.key = ANY ($%d::text[]))`
	appendSet = `, wake AS (
	INSERT INTO wakeups (tenant, kind, id, key, due)
	SELECT $1, $2, $3, w.key, w.due FROM fenced, unnest($%d::text[], $%d::timestamptz[]) AS w (key, due)
	ON CONFLICT (tenant, kind, id, key) DO UPDATE SET due = excluded.due)`
	appendClaims = `, claimed AS (
	UPDATE blobs b SET owner_kind = $2, owner_id = $3 FROM fenced
	WHERE b.tenant = $1 AND b.id = ANY ($%d::text[]) AND b.ready AND NOT b.deleted
	  AND (b.owner_kind = '' OR (b.owner_kind = $2 AND b.owner_id = $3))
	RETURNING 1)`
)

// appendStatements makes the statement of every shape.
func appendStatements() (out [appendShapes]string) {
	for shape := range out {
		out[shape] = appendStatement(shape)
	}
	return out
}

func appendStatement(shape int) string {
	var with, checks strings.Builder
	with.WriteString(appendFence)
	next := 8
	add := func(flag int, part, check string) {
		if shape&flag == 0 {
			return
		}
		params := make([]any, strings.Count(part, "%d"))
		for i := range params {
			params[i] = next
			next++
		}
		fmt.Fprintf(&with, part, params...)
		checks.WriteString(check)
	}
	short := func(rows, params, code string) string {
		return " WHEN (SELECT count(*) FROM " + rows + ") < cardinality($" + params + ") THEN granary_refuse('" + code + "')"
	}
	add(withEvents, appendEvents, "")
	add(withKeys, appendKeys, short("keyed", fmt.Sprintf("%d::text[]", next), codeKey))
	add(withClear, appendClear, "")
	add(withSet, appendSet, "")
	add(withClaims, appendClaims, short("claimed", fmt.Sprintf("%d::text[]", next), codeBlob))
	if checks.Len() == 0 {
		return with.String() + " SELECT true FROM fenced"
	}
	return with.String() + " SELECT CASE" + checks.String() + " ELSE true END FROM fenced"
}

// appendBatch runs the statement; journal.ErrFenced when it found no row.
func (s *Store) appendBatch(ctx context.Context, q querier, f journal.Fence, b journal.Batch) error {
	shape, args := appendArgs(f, b)
	var done bool
	err := q.QueryRow(ctx, s.append[shape], args...).Scan(&done)
	if isNoRows(err) {
		return fenced(f)
	}
	return err
}

func appendArgs(f journal.Fence, b journal.Batch) (shape int, args []any) {
	id := f.Identity
	args = []any{id.Tenant, id.Kind, id.ID, f.Epoch, f.Activation, b.Head, len(b.Events)}
	add := func(flag, n int, more ...any) {
		if n > 0 {
			shape |= flag
			args = append(args, more...)
		}
	}
	e := b.Events
	add(withEvents, len(e), column(e, func(e *journal.Event) time.Time { return e.Time }),
		column(e, func(e *journal.Event) string { return e.Type }),
		column(e, func(e *journal.Event) string { return e.Principal }),
		column(e, func(e *journal.Event) string { return e.RequestID }),
		column(e, func(e *journal.Event) []byte { return blob(e.Data) }))
	k := b.Idempotency
	add(withKeys, len(k), column(k, func(k *journal.Idempotency) string { return k.Principal }),
		column(k, func(k *journal.Idempotency) string { return k.Method }),
		column(k, func(k *journal.Idempotency) string { return k.Key }),
		column(k, func(k *journal.Idempotency) string { return k.RequestHash }),
		column(k, func(k *journal.Idempotency) []byte { return blob(k.Response) }),
		column(k, func(k *journal.Idempotency) time.Time { return k.Expires }))
	set, cleared := wakeups(b)
	add(withClear, len(cleared), cleared)
	add(withSet, len(set), column(set, func(w *journal.Wakeup) string { return w.Key }),
		column(set, func(w *journal.Wakeup) time.Time { return w.Due }))
	claims := slices.Compact(slices.Sorted(slices.Values(b.ClaimBlobs)))
	add(withClaims, len(claims), claims)
	return shape, args
}

// wakeups gives each key once: the last setting of a key counts, and setting
// wins over clearing. One statement cannot touch a row twice.
func wakeups(b journal.Batch) (set []journal.Wakeup, cleared []string) {
	place := make(map[string]int, len(b.SetWakeups))
	for _, w := range b.SetWakeups {
		if i, twice := place[w.Key]; twice {
			set[i] = w
			continue
		}
		place[w.Key] = len(set)
		set = append(set, w)
	}
	for _, key := range b.ClearWakeups {
		if _, kept := place[key]; !kept && isText(key) { // what is no text was never set
			cleared = append(cleared, key)
		}
	}
	return set, cleared
}

// column picks one field of all rows.
func column[T, F any](rows []T, pick func(*T) F) []F {
	out := make([]F, len(rows))
	for i := range rows {
		out[i] = pick(&rows[i])
	}
	return out
}

// blob keeps nil from becoming NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// checkBatch refuses batches that no holder may send: a mistake of the caller.
func checkBatch(f journal.Fence, b journal.Batch) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	if err := checkText("activation", f.Activation); err != nil {
		return err
	}
	if b.Head < 0 {
		return fmt.Errorf("%w: batch at head %d", ErrInvalid, b.Head)
	}
	for i, e := range b.Events {
		if want := b.Head + int64(i) + 1; e.Seq != want {
			return fmt.Errorf("%w: event %d of the batch has sequence number %d, want %d", ErrInvalid, i, e.Seq, want)
		}
		if err := checkKeys("event type", e.Type); err != nil {
			return err
		}
		if err := checkText("principal", e.Principal, "request id", e.RequestID); err != nil {
			return err
		}
	}
	for _, w := range b.SetWakeups {
		if err := checkKeys("wake-up key", w.Key); err != nil {
			return err
		}
	}
	for _, blob := range b.ClaimBlobs {
		if !isText(blob) {
			return fmt.Errorf("%w: blob to claim", journal.ErrNotFound)
		}
	}
	return checkKeysOnce(b.Idempotency)
}

func checkKeysOnce(recs []journal.Idempotency) error {
	seen := make(map[journal.IdempotencyKey]struct{}, len(recs))
	for _, r := range recs {
		if _, twice := seen[r.IdempotencyKey]; twice {
			return fmt.Errorf("%w: one idempotency key twice in a batch", ErrInvalid)
		}
		seen[r.IdempotencyKey] = struct{}{}
		err := checkText("principal", r.Principal, "method", r.Method, "idempotency key", r.Key, "request hash", r.RequestHash)
		if err != nil {
			return err
		}
	}
	return nil
}

// isNoRows tells an empty answer.
func isNoRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }
