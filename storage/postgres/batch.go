package postgres

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"granary.dev/granary/actors/journal"
)

func appendArgs(f journal.Fence, b journal.Batch) (shape int, args []any) {
	id := f.Identity
	args = []any{id.Tenant, id.Kind, id.ID, f.Epoch, f.Activation, b.Head, len(b.Events), lastHash(b)}
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
		column(e, func(e *journal.Event) []byte { return blob(e.Data) }),
		column(e, func(e *journal.Event) string { return e.Remote }),
		column(e, func(e *journal.Event) []byte { return blob(e.Hash) }))
	k := b.Idempotency
	add(withKeys, len(k), column(k, func(k *journal.Idempotency) string { return k.Principal }),
		column(k, func(k *journal.Idempotency) string { return k.Method }),
		column(k, func(k *journal.Idempotency) string { return k.Key }),
		column(k, func(k *journal.Idempotency) string { return k.RequestHash }),
		column(k, func(k *journal.Idempotency) []byte { return blob(k.Response) }),
		column(k, func(k *journal.Idempotency) time.Time { return k.Expires }))
	set, cleared := lastByKey(b.SetWakeups, b.ClearWakeups, func(w *journal.Wakeup) string { return w.Key })
	add(withClear, len(cleared), cleared)
	add(withSet, len(set), column(set, func(w *journal.Wakeup) string { return w.Key }),
		column(set, func(w *journal.Wakeup) time.Time { return w.Due }))
	dead, revived := lastByKey(b.SetDeadLetters, b.ClearDeadLetters, func(d *journal.DeadLetter) string { return d.Key })
	add(withRevived, len(revived), revived)
	add(withDead, len(dead), column(dead, func(d *journal.DeadLetter) string { return d.Key }),
		column(dead, func(d *journal.DeadLetter) string { return asText(d.Name) }),
		column(dead, func(d *journal.DeadLetter) string { return d.Reason }),
		column(dead, func(d *journal.DeadLetter) time.Time { return d.Since }))
	claims := slices.Compact(slices.Sorted(slices.Values(b.ClaimBlobs)))
	add(withClaims, len(claims), claims)
	counted, uncounted := lastByKey(b.SetCounters, b.ClearCounters, func(c *journal.Counter) string { return c.Name })
	add(withCounters, len(counted)+len(uncounted), texts(uncounted),
		column(counted, func(c *journal.Counter) string { return c.Name }),
		column(counted, func(c *journal.Counter) int64 { return c.Epoch }),
		column(counted, func(c *journal.Counter) int64 { return c.Value }))
	r, _ := lastByKey(b.AddReceipts, nil, func(r *journal.Receipt) string { return r.Name })
	drop := 0
	if b.DropReceipts {
		drop = 1
	}
	add(withReceipts, len(r)+drop, b.DropReceipts, column(r, func(r *journal.Receipt) string { return r.Name }),
		column(r, func(r *journal.Receipt) string { return r.KnowledgeBase }),
		column(r, func(r *journal.Receipt) bool { return r.Cluster }),
		column(r, func(r *journal.Receipt) time.Time { return r.Time }),
		column(r, func(r *journal.Receipt) []byte { return blob(r.Body) }))
	return shape, args
}

// lastHash is the hash the head has after the batch.
func lastHash(b journal.Batch) []byte {
	if len(b.Events) == 0 {
		return []byte{}
	}
	return blob(b.Events[len(b.Events)-1].Hash)
}

// lastByKey gives each key once: the last setting of a key counts, and setting
// wins over clearing. One statement cannot touch a row twice.
func lastByKey[T any](rows []T, clear []string, key func(*T) string) (set []T, cleared []string) {
	place := make(map[string]int, len(rows))
	for i := range rows {
		k := key(&rows[i])
		if at, twice := place[k]; twice {
			set[at] = rows[i]
			continue
		}
		place[k] = len(set)
		set = append(set, rows[i])
	}
	for _, k := range clear {
		if _, kept := place[k]; !kept && isText(k) { // what is no text was never set
			cleared = append(cleared, k)
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

// texts keeps an empty list from becoming NULL.
func texts(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
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
	if err := checkFence(f); err != nil {
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
		if err := checkText("principal", e.Principal, "request id", e.RequestID, "remote", e.Remote); err != nil {
			return err
		}
	}
	for _, w := range b.SetWakeups {
		if err := checkKeys("wake-up key", w.Key); err != nil {
			return err
		}
	}
	for _, d := range b.SetDeadLetters {
		if err := errors.Join(checkKeys("dead letter key", d.Key), checkText("reason", d.Reason)); err != nil {
			return err
		}
	}
	for _, c := range b.SetCounters {
		if err := checkKeys("counter", c.Name); err != nil {
			return err
		}
	}
	for _, r := range b.AddReceipts {
		if err := errors.Join(checkKeys("receipt", r.Name), checkText("knowledge base", r.KnowledgeBase)); err != nil {
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
