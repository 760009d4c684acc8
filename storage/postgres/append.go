package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

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
		err = s.commits.of(f.Identity.Tenant).write(ctx, func(ctx context.Context, q querier) error { return s.appendBatch(ctx, q, f, b) })
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
	withRevived
	withDead
	withClaims
	withCounters
	withReceipts
	appendShapes
)

// Each part takes the parameters it names (%d counts on from the first eight).
const (
	appendFence = `WITH fenced AS (
	UPDATE owner SET head = head + $7::bigint, hash = CASE WHEN $7::bigint > 0 THEN $8::bytea ELSE hash END
	WHERE tenant = $1 AND kind = $2 AND id = $3 AND epoch = $4 AND activation = $5 AND head = $6::bigint AND NOT released
	RETURNING erasures)`
	appendEvents = `, ev AS (
	INSERT INTO events (tenant, kind, id, seq, time, type, principal, request_id, data, remote, hash)
	SELECT $1, $2, $3, $6::bigint + e.n, e.time, e.type, e.principal, e.request_id, e.data, e.remote, e.hash
	FROM fenced, unnest($%d::timestamptz[], $%d::text[], $%d::text[], $%d::text[], $%d::bytea[], $%d::text[], $%d::bytea[])
		WITH ORDINALITY AS e (time, type, principal, request_id, data, remote, hash, n))`
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
	appendRevived = `, revived AS (
	DELETE FROM dead_letters d USING fenced
	WHERE d.tenant = $1 AND d.kind = $2 AND d.id = $3 AND d.key = ANY ($%d::text[]))`
	appendDead = `, dead AS (
	INSERT INTO dead_letters (tenant, kind, id, key, name, reason, since)
	SELECT $1, $2, $3, d.key, d.name, d.reason, d.since
	FROM fenced, unnest($%d::text[], $%d::text[], $%d::text[], $%d::timestamptz[]) AS d (key, name, reason, since)
	ON CONFLICT (tenant, kind, id, key) DO UPDATE SET
		name = excluded.name, reason = excluded.reason, since = excluded.since)`
	// Sets and clears in one part: either list may be empty, and no name is in both.
	appendCounters = `, uncounted AS (
	DELETE FROM counters c USING fenced
	WHERE c.tenant = $1 AND c.kind = $2 AND c.id = $3 AND c.name = ANY ($%d::text[])), counted AS (
	INSERT INTO counters (tenant, kind, id, name, epoch, value)
	SELECT $1, $2, $3, c.name, c.epoch, c.value
	FROM fenced, unnest($%d::text[], $%d::bigint[], $%d::bigint[]) AS c (name, epoch, value)
	ON CONFLICT (tenant, kind, id, name) DO UPDATE SET epoch = excluded.epoch, value = excluded.value)`
	appendReceipts = `, unproved AS (
	DELETE FROM receipts r USING fenced WHERE $%d::boolean AND r.tenant = $1 AND NOT r.cluster), proved AS (
	INSERT INTO receipts (tenant, name, kb, cluster, time, body)
	SELECT $1, r.name, r.kb, r.cluster, r.time, r.body
	FROM fenced, unnest($%d::text[], $%d::text[], $%d::boolean[], $%d::timestamptz[], $%d::bytea[])
		AS r (name, kb, cluster, time, body)
	ON CONFLICT (tenant, name) DO NOTHING)`
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
	next := 9
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
	add(withRevived, appendRevived, "")
	add(withDead, appendDead, "")
	add(withClaims, appendClaims, short("claimed", fmt.Sprintf("%d::text[]", next), codeBlob))
	add(withCounters, appendCounters, "")
	add(withReceipts, appendReceipts, "")
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

// isNoRows tells an empty answer.
func isNoRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }
