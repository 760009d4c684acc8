package actors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// write is one decision on its way to the journal.
type write struct {
	events  []journal.Event
	idem    *journal.Idempotency
	claim   []string          // blobs
	count   []journal.Counter // set with the events, or alone
	uncount []string          // names of counters that go
	proofs  []journal.Receipt // of what the events say is erased
	wakeups []journal.Wakeup
	effects []effect
	done    func(err error)   // on the mailbox: after the commit, or with why there is none
	based   []func(err error) // the same, of others whose answer is based on this decision

	// Of a write that a call asked for: tells its caller what a doubt came to,
	// and what is recorded under its key if that cannot be known otherwise.
	answer func(err error)
	replay func(journal.Idempotency)
}

// end tells a write, and those based on it, what became of it.
func (w *write) end(err, based error) {
	if w.done != nil {
		w.done(err)
	}
	for _, f := range w.based {
		f(based)
	}
	w.based = nil
}

// effect is what one event did to one document (nil where there was none).
type effect struct {
	event         kb.Event
	before, after *kb.Document
}

type committedMsg struct {
	fence journal.Fence
	owned bool // fence is valid: it was before, or this commit acquired
	proof lease
	err   error
}

// enqueue encodes decided events, applies them to the state, and queues their
// commit. The caller may set done and idem before it calls flush.
func (c *core) enqueue(s state, from origin, events []kb.Event) (*write, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	w := &write{events: make([]journal.Event, len(events))}
	now, hash := c.deps.Now(), c.hash
	for i, ev := range events {
		typ, data, err := kb.EncodeEvent(ev)
		if err != nil {
			return nil, err
		}
		e := journal.Event{Seq: c.head + int64(i) + 1, Time: now, Type: typ, Data: data,
			Principal: from.principal, RequestID: from.requestID, Remote: from.remote}
		hash = journal.Link(hash, c.id, e)
		e.Hash = hash
		if err := s.apply(e, ev); err != nil {
			// The rules decided what the state refuses: a defect, and the state
			// may be half changed. This activation must not go on.
			c.broken = internalError()
			c.log().Error("decision refused by the state, the activation ends", "error", err)
			c.tell(&brokenMsg{})
			return nil, c.broken
		}
		w.events[i] = e
		if blob := claimedBlob(ev); blob != "" {
			w.claim = append(w.claim, blob)
		}
	}
	c.head, c.hash = c.head+int64(len(events)), hash
	c.queue = append(c.queue, w)
	return w, nil
}

// count queues the commit of counters that no event goes with; with events they are
// put into what enqueue returns. Only done is told: in doubt it hears what all others do,
// since a head that does not move proves nothing, and the next load shows what the
// counters are. So a call that only counts must be one that may be repeated.
func (c *core) count(set []journal.Counter, clear ...string) (*write, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	w := &write{count: set, uncount: clear}
	c.queue = append(c.queue, w)
	return w, nil
}

// claimedBlob is the blob an event makes the grain's own.
func claimedBlob(e kb.Event) string {
	switch e := e.(type) {
	case *kb.DocumentAdded:
		return e.Source.Blob
	case *kb.DocumentFetched:
		return e.Source.Blob
	}
	return ""
}

// flush starts a commit of what is queued unless one is in flight. wakeup says
// whether unfinished work must be findable without this activation; later tells when a
// grain that owes nothing will, the zero time: never.
func (c *core) flush(wakeup bool, later func() time.Time) {
	if c.broken != nil || len(c.inflight) > 0 || len(c.queue) == 0 {
		return
	}
	n, events := 0, 0
	for n < len(c.queue) && (n == 0 || events+len(c.queue[n].events) <= maxBatchEvents) {
		events += len(c.queue[n].events)
		n++
	}
	c.inflight, c.queue = c.queue[:n:n], c.queue[n:]
	b := journal.Batch{Head: c.committed}
	for _, w := range c.inflight {
		b.Events = append(b.Events, w.events...)
		b.ClaimBlobs = append(b.ClaimBlobs, w.claim...)
		b.SetCounters = append(b.SetCounters, w.count...)
		b.ClearCounters = append(b.ClearCounters, w.uncount...)
		b.AddReceipts = append(b.AddReceipts, w.proofs...)
		b.SetWakeups = append(b.SetWakeups, w.wakeups...)
		if w.idem != nil {
			b.Idempotency = append(b.Idempotency, *w.idem)
		}
		for i, e := range w.effects {
			deadLetter(&b, e, w.events[i].Time)
		}
	}
	// What is cut off may owe work that the state, which has it all, does not.
	wakeup = wakeup || len(c.queue) > 0 && c.id.Kind == KindKB
	c.setWakeup(&b, wakeup, later)
	go c.commit(c.fence, c.owned, b)
}

// setWakeup keeps the row in step: for work that is there, or else for the next
// that time brings.
func (c *core) setWakeup(b *journal.Batch, owes bool, later func() time.Time) {
	var due time.Time
	if !owes {
		due = later()
	}
	set := owes || !due.IsZero()
	if set == c.wakeSet && due.Equal(c.wakeDue) {
		return
	}
	switch {
	case !set:
		b.ClearWakeups = []string{wakeKey}
	case owes:
		b.SetWakeups = append(b.SetWakeups, journal.Wakeup{Key: wakeKey, Due: c.deps.Now().Add(wakeAfter)})
	default:
		b.SetWakeups = append(b.SetWakeups, journal.Wakeup{Key: wakeKey, Due: due})
	}
	c.wakeSet, c.wakeDue = set, due
}

const (
	wakeKey   = "work"           // one row per grain: it knows its own work
	wakeAfter = 20 * time.Second // the owner acts at once; the row is for when it cannot
)

// commit runs on a goroutine of its own.
func (c *core) commit(fence journal.Fence, owned bool, b journal.Batch) {
	m := &committedMsg{fence: fence, owned: owned}
	if !owned {
		m.err = c.acquireFor(m, b.Head)
	}
	if m.err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
		defer cancel()
		sent := c.deps.lease()
		m.err = c.deps.Store.Append(ctx, m.fence, b)
		m.proof = c.deps.prove(sent)
	}
	c.tell(m)
}

// acquireFor takes over a name that nobody had written to when it was loaded.
func (c *core) acquireFor(m *committedMsg, head int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	got, err := c.acquire(ctx)
	switch {
	case isMoved(err):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	case got.head != head:
		c.giveBack(got.fence)
		return journal.ErrFenced // somebody wrote to it meanwhile
	}
	m.fence, m.owned = got.fence, true
	return nil
}

// settle takes a commit's outcome. On success it returns the writes whose
// effects are due; on failure the activation is over and everyone was told, but
// for those in doubt.
func (c *core) settle(m *committedMsg) []*write {
	if m.owned {
		c.fence, c.owned = m.fence, true
	}
	done := c.inflight
	if m.err == nil {
		c.inflight = nil
		c.trust(m.proof)
		for _, w := range done {
			c.committed += int64(len(w.events))
		}
		return done
	}
	c.log().Error("commit failed, the activation ends", "error", m.err, "head", c.committed)
	if c.broken == nil {
		c.broken = movedError() // to all who were not part of it
	}
	if errors.Is(m.err, journal.ErrInDoubt) {
		return nil
	}
	c.inflight = nil
	failed := commitError(m.err)
	for _, w := range done {
		w.end(failed, c.broken)
	}
	c.failUnsent()
	return nil
}

// failUnsent tells those whose decision was never sent to the store, and those
// who wait to read, that this activation cannot answer.
func (c *core) failUnsent() {
	queue := c.queue
	c.queue = nil
	for _, w := range queue {
		w.end(c.broken, c.broken)
	}
	c.failReads(c.broken)
}

// quiet reports whether nothing is on its way to the journal.
func (c *core) quiet() bool { return len(c.queue) == 0 && len(c.inflight) == 0 }

// onQuiet runs f when all that is decided by now is committed: at once when it
// is, else with the outcome of the last commit it waits for. What waits changes
// nothing by itself, so that an error is one of a call that was not applied.
func (c *core) onQuiet(f func(error)) {
	if c.quiet() {
		f(c.broken)
		return
	}
	last := c.inflight
	if len(c.queue) > 0 {
		last = c.queue
	}
	w := last[len(last)-1]
	w.based = append(w.based, f)
}
