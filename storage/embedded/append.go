package embedded

import (
	"context"
	"fmt"

	"granary.dev/granary/actors/journal"
)

// Append implements journal.Store. A batch that names a key already applied is
// fenced: its holder decided on stale knowledge and must read again.
// journal.ErrNotFound when it claims a blob that does not exist in the tenant
// or belongs to another grain. Nothing is written in either case.
func (s *Store) Append(ctx context.Context, f journal.Fence, b journal.Batch) error {
	if err := checkBatch(f, b); err != nil {
		return err
	}
	now := micros(s.now())
	return s.write(ctx, f.Identity.Tenant, batchCost(b), func(t *txn) error { return appendBatch(t, f, b, now) })
}

// checkBatch refuses batches that no holder may send: a mistake of the caller.
func checkBatch(f journal.Fence, b journal.Batch) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	if b.Head < 0 {
		return fmt.Errorf("embedded: batch at head %d", b.Head)
	}
	for i, e := range b.Events {
		if want := b.Head + int64(i) + 1; e.Seq != want {
			return fmt.Errorf("embedded: event %d of the batch has sequence number %d, want %d", i, e.Seq, want)
		}
		if err := checkKeys("event type", e.Type); err != nil {
			return err
		}
	}
	for _, w := range b.SetWakeups {
		if err := checkKeys("wake-up key", w.Key); err != nil {
			return err
		}
	}
	for _, d := range b.SetDeadLetters {
		if err := checkKeys("dead letter key", d.Key); err != nil {
			return err
		}
	}
	for _, c := range b.SetCounters {
		if err := checkKeys("counter", c.Name); err != nil {
			return err
		}
	}
	return nil
}

func batchCost(b journal.Batch) int {
	n := 128 * (len(b.SetCounters) + len(b.ClearCounters))
	n += 256 * (1 + len(b.SetWakeups) + len(b.ClearWakeups) + len(b.ClaimBlobs) + len(b.SetDeadLetters) + len(b.ClearDeadLetters))
	for _, e := range b.Events {
		n += 256 + len(e.Data)
	}
	for _, r := range b.Idempotency {
		n += 256 + len(r.Response)
	}
	return n
}

func appendBatch(t *txn, f journal.Fence, b journal.Batch, now int64) error {
	id := f.Identity
	var erasures int64
	found, err := t.row(`
		UPDATE owner SET head = head + ?1, hash = CASE WHEN ?1 > 0 THEN ?8 ELSE hash END
		WHERE tenant = ?2 AND kind = ?3 AND id = ?4
		  AND epoch = ?5 AND activation = ?6 AND released = 0 AND head = ?7
		RETURNING erasures`,
		[]any{len(b.Events), id.Tenant, id.Kind, id.ID, f.Epoch, f.Activation, b.Head, lastHash(b)}, &erasures)
	if err != nil {
		return err
	}
	if !found {
		return fenced(f)
	}
	if err := insertEvents(t, id, b.Events); err != nil {
		return err
	}
	for _, r := range b.Idempotency {
		if err := recordKey(t, id, r, erasures, now); err != nil {
			return err
		}
	}
	if err := moveWakeups(t, id, b); err != nil {
		return err
	}
	if err := moveDeadLetters(t, id, b); err != nil {
		return err
	}
	if err := moveCounters(t, id, b); err != nil {
		return err
	}
	if err := addReceipts(t, id, b); err != nil {
		return err
	}
	return claimBlobs(t, id, b.ClaimBlobs)
}

// checkFence fails unless f is the current fence. The writer is alone: what it
// finds holds until the transaction ends.
func checkFence(t *txn, f journal.Fence) error {
	var one int
	found, err := t.row(isCurrent, fenceArgs(f), &one)
	if err == nil && !found {
		err = fenced(f)
	}
	return err
}

// isCurrent has a row when the fence of ?1 … ?5 is the current one.
const isCurrent = `
	SELECT 1 FROM owner
	WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND epoch = ?4 AND activation = ?5 AND released = 0`

func fenceArgs(f journal.Fence, more ...any) []any {
	return append([]any{f.Identity.Tenant, f.Identity.Kind, f.Identity.ID, f.Epoch, f.Activation}, more...)
}

func fenced(f journal.Fence) error {
	return fmt.Errorf("%w: %s epoch %d", journal.ErrFenced, f.Identity, f.Epoch)
}

// lastHash is the hash the head has after the batch.
func lastHash(b journal.Batch) []byte {
	if len(b.Events) == 0 {
		return []byte{}
	}
	return blob(b.Events[len(b.Events)-1].Hash)
}

func insertEvents(t *txn, id journal.Identity, events []journal.Event) error {
	for _, e := range events {
		err := t.exec(`
			INSERT INTO events (tenant, kind, id, seq, time, type, principal, request_id, data, remote, hash)
			VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)`,
			id.Tenant, id.Kind, id.ID, e.Seq, micros(e.Time), e.Type, e.Principal, e.RequestID, blob(e.Data), e.Remote, blob(e.Hash))
		if err != nil {
			return err
		}
	}
	return nil
}

// recordKey keeps the first response of a key: only an expired or erased
// record gives way.
func recordKey(t *txn, id journal.Identity, r journal.Idempotency, erasures, now int64) error {
	n, err := t.changed(`
		INSERT INTO idempotency
			(tenant, kind, id, principal, method, key, erasures, request_hash, response, expires)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
		ON CONFLICT (tenant, kind, id, principal, method, key) DO UPDATE SET
			erasures = excluded.erasures, request_hash = excluded.request_hash,
			response = excluded.response, expires = excluded.expires
		WHERE idempotency.expires <= ?11 OR idempotency.erasures <> excluded.erasures`,
		id.Tenant, id.Kind, id.ID, r.Principal, r.Method, r.Key, erasures,
		r.RequestHash, blob(r.Response), micros(r.Expires), now)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: %s: idempotency key of method %s is already applied",
			journal.ErrFenced, id, r.Method)
	}
	return nil
}

func moveWakeups(t *txn, id journal.Identity, b journal.Batch) error {
	for _, key := range b.ClearWakeups {
		err := t.exec(`DELETE FROM wakeups WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND key = ?4`,
			id.Tenant, id.Kind, id.ID, key)
		if err != nil {
			return err
		}
	}
	for _, w := range b.SetWakeups {
		err := t.exec(`
			INSERT INTO wakeups (tenant, kind, id, key, due) VALUES (?1, ?2, ?3, ?4, ?5)
			ON CONFLICT (tenant, kind, id, key) DO UPDATE SET due = excluded.due`,
			id.Tenant, id.Kind, id.ID, w.Key, micros(w.Due))
		if err != nil {
			return err
		}
	}
	return nil
}

func moveDeadLetters(t *txn, id journal.Identity, b journal.Batch) error {
	for _, key := range b.ClearDeadLetters {
		err := t.exec(`DELETE FROM dead_letters WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND key = ?4`,
			id.Tenant, id.Kind, id.ID, key)
		if err != nil {
			return err
		}
	}
	for _, d := range b.SetDeadLetters {
		err := t.exec(`
			INSERT INTO dead_letters (tenant, kind, id, key, name, reason, since) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
			ON CONFLICT (tenant, kind, id, key) DO UPDATE SET
				name = excluded.name, reason = excluded.reason, since = excluded.since`,
			id.Tenant, id.Kind, id.ID, d.Key, d.Name, d.Reason, micros(d.Since))
		if err != nil {
			return err
		}
	}
	return nil
}

func claimBlobs(t *txn, id journal.Identity, blobs []string) error {
	for _, b := range blobs {
		n, err := t.changed(`
			UPDATE blobs SET owner_kind = ?1, owner_id = ?2
			WHERE tenant = ?3 AND id = ?4
			  AND (owner_kind = '' OR (owner_kind = ?1 AND owner_id = ?2))`,
			id.Kind, id.ID, id.Tenant, b)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: blob to claim", journal.ErrNotFound)
		}
	}
	return nil
}

// blob keeps nil from becoming NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
