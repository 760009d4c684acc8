package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// call is a request as the cluster hands it over.
type call interface {
	Request() proto.Message
	Context() context.Context
	Reply(proto.Message, error)
}

const (
	maxWaiting     = 1024            // calls kept while the grain loads
	maxBatchEvents = 256             // events of one commit
	commitTimeout  = 5 * time.Second // a commit that began runs this long, whoever gave up meanwhile
	loadTimeout    = 30 * time.Second
	eventPage      = 2000 // events read at a time in a replay
)

type phase uint8

const (
	phaseLoading phase = iota
	phaseActive
	phaseLeaving
)

// state is what a grain's journal folds into.
type state interface {
	apply(e journal.Event, ev kb.Event) error
}

// write is one decision on its way to the journal.
type write struct {
	events  []journal.Event
	idem    *journal.Idempotency
	claim   []string        // blobs
	done    func(err error) // on the mailbox: after the commit, or with what ended the activation
	effects []effect
}

// effect is what one event did to one document (nil where there was none).
type effect struct {
	event         kb.Event
	before, after *kb.Document
}

// core is the event-sourced half of a grain: it loads the state, appends
// decisions one commit at a time, and hands the grain over on leaving. All
// methods run on the grain's mailbox unless they say otherwise.
type core struct {
	deps  *Deps
	id    journal.Identity
	root  *actor.RootContext
	self  *actor.PID
	phase phase

	fence     journal.Fence
	owned     bool  // fence is valid; a grain never written to owns nothing yet
	head      int64 // last decided sequence number
	committed int64 // last committed one
	queue     []*write
	inflight  []*write
	waiting   []call
	snapshot  int64 // sequence number of the stored snapshot
	wakeSet   bool  // a wake-up row exists
	broken    error // why this activation ended; nothing more is decided
}

// Messages a grain sends itself.
type (
	loadedMsg struct {
		state    state
		fence    journal.Fence
		owned    bool
		head     int64
		snapshot int64
		err      error
	}
	committedMsg struct {
		fence journal.Fence // set when this commit acquired
		err   error
	}
	savedMsg    struct{ seq int64 }
	releasedMsg struct{}
)

func (c *core) init(ctx actor.Context) {
	c.self = ctx.Self()
	c.root = ctx.ActorSystem().Root
}

// tell sends the grain a message from any goroutine.
func (c *core) tell(msg any) { c.root.Send(c.self, msg) }

func (c *core) log() *slog.Logger {
	return c.deps.Logger.With("grain", c.id.String())
}

// load reads the grain's state. It runs on a goroutine of its own.
func (c *core) load(restore func(snapshot []byte) (state, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	c.tell(c.read(ctx, restore))
}

func (c *core) read(ctx context.Context, restore func([]byte) (state, error)) *loadedMsg {
	m := &loadedMsg{}
	if _, err := c.deps.Store.Owner(ctx, c.id); errors.Is(err, journal.ErrNotFound) {
		// Nobody ever wrote to this name: asking for it must not create a row.
		m.state, m.err = restore(nil)
		return m
	} else if err != nil {
		m.err = err
		return m
	}
	m.fence, m.head, m.err = c.deps.Store.Acquire(ctx, c.id, journal.Claim{Node: c.deps.Node})
	if m.err != nil {
		return m
	}
	m.owned = true
	snap, err := c.deps.Store.LoadSnapshot(ctx, c.id)
	if err != nil && !errors.Is(err, journal.ErrNotFound) {
		m.err = err
		return m
	}
	if m.state, m.err = restore(snap.State); m.err != nil {
		return m
	}
	m.snapshot = snap.Seq
	m.err = c.replay(ctx, m.state, snap.Seq, m.head)
	return m
}

// replay folds the events after seq up to head.
func (c *core) replay(ctx context.Context, s state, seq, head int64) error {
	for seq < head {
		page, err := c.deps.Store.Events(ctx, c.id, seq, eventPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return fmt.Errorf("%w: journal of %s ends at %d, its head is %d", journal.ErrCorrupt, c.id, seq, head)
		}
		for _, e := range page {
			ev, err := kb.DecodeEvent(e.Type, e.Data)
			if err != nil {
				return err
			}
			if err := s.apply(e, ev); err != nil {
				return err
			}
			seq = e.Seq
		}
	}
	return nil
}

// begin takes over what load read. It returns the calls that waited.
func (c *core) begin(m *loadedMsg) []call {
	c.fence, c.owned, c.head, c.committed, c.snapshot = m.fence, m.owned, m.head, m.head, m.snapshot
	c.phase = phaseActive
	waiting := c.waiting
	c.waiting = nil
	return waiting
}

// park keeps a call until the grain is active.
func (c *core) park(cl call) {
	if len(c.waiting) >= maxWaiting {
		cl.Reply(nil, busyError())
		return
	}
	c.waiting = append(c.waiting, cl)
}

// origin is who caused a decision.
type origin struct {
	principal string
	requestID string
}

var system = origin{principal: "system"}

// enqueue encodes decided events, applies them to the state, and queues their
// commit. The caller may set done and idem before it calls flush.
func (c *core) enqueue(s state, from origin, events []kb.Event) (*write, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	w := &write{events: make([]journal.Event, len(events))}
	now := c.deps.Now()
	for i, ev := range events {
		typ, data, err := kb.EncodeEvent(ev)
		if err != nil {
			return nil, err
		}
		e := journal.Event{Seq: c.head + int64(i) + 1, Time: now, Type: typ, Data: data,
			Principal: from.principal, RequestID: from.requestID}
		if err := s.apply(e, ev); err != nil {
			// The rules decided what the state refuses: a defect, and the state
			// may be half changed. This activation must not go on.
			c.broken = err
			return nil, err
		}
		w.events[i] = e
		if blob := claimedBlob(ev); blob != "" {
			w.claim = append(w.claim, blob)
		}
	}
	c.head += int64(len(events))
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
// whether unfinished work must be findable without this activation.
func (c *core) flush(wakeup bool) {
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
		if w.idem != nil {
			b.Idempotency = append(b.Idempotency, *w.idem)
		}
	}
	// What is cut off may owe work that the state, which has it all, does not.
	wakeup = wakeup || len(c.queue) > 0 && c.id.Kind == KindKB
	if wakeup != c.wakeSet {
		if wakeup {
			b.SetWakeups = []journal.Wakeup{{Key: wakeKey, Due: c.deps.Now().Add(wakeAfter)}}
		} else {
			b.ClearWakeups = []string{wakeKey}
		}
		c.wakeSet = wakeup
	}
	go c.commit(c.fence, c.owned, b)
}

const (
	wakeKey   = "work"           // one row per grain: it knows its own work
	wakeAfter = 20 * time.Second // the owner acts at once; the row is for when it cannot
)

// commit runs on a goroutine of its own.
func (c *core) commit(fence journal.Fence, owned bool, b journal.Batch) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if !owned {
		var head int64
		var err error
		if fence, head, err = c.deps.Store.Acquire(ctx, c.id, journal.Claim{Node: c.deps.Node}); err != nil {
			c.tell(&committedMsg{err: fmt.Errorf("%w: %w", journal.ErrUnavailable, err)})
			return
		}
		if head != b.Head {
			c.tell(&committedMsg{err: journal.ErrFenced})
			return
		}
	}
	c.tell(&committedMsg{fence: fence, err: c.deps.Store.Append(ctx, fence, b)})
}

// settle takes a commit's outcome. On success it returns the writes whose
// effects are due; on failure the activation is over and everyone was told.
func (c *core) settle(m *committedMsg) []*write {
	done := c.inflight
	c.inflight = nil
	if m.err == nil {
		c.fence, c.owned = m.fence, true
		for _, w := range done {
			c.committed += int64(len(w.events))
		}
		return done
	}
	c.broken = commitError(m.err)
	c.log().Error("commit failed, the activation ends", "error", m.err, "head", c.committed)
	c.fail(append(done, c.queue...))
	return nil
}

// fail tells everyone who waits that this activation cannot answer.
func (c *core) fail(writes []*write) {
	c.queue, c.inflight = nil, nil
	for _, w := range writes {
		if w.done != nil {
			w.done(c.broken)
		}
	}
	for _, cl := range c.waiting {
		cl.Reply(nil, c.broken)
	}
	c.waiting = nil
}

// save stores a snapshot from a goroutine of its own; failures only cost time
// at the next load.
func (c *core) save(fence journal.Fence, seq int64, encode func() ([]byte, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	data, err := encode()
	if err == nil {
		err = c.deps.Store.SaveSnapshot(ctx, fence, journal.Snapshot{Seq: seq, State: data})
	}
	if err != nil {
		c.log().Warn("snapshot not saved", "error", err)
	}
}

// release gives the grain up from a goroutine of its own.
func (c *core) release(fence journal.Fence, owned bool) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if owned {
		if err := c.deps.Store.Release(ctx, fence); err != nil {
			c.log().Warn("not released", "error", err)
		}
	}
	c.tell(&releasedMsg{})
}

// restart forgets the activation that was released, but not who waits.
func (c *core) restart() {
	c.phase, c.fence, c.owned, c.head, c.committed = phaseLoading, journal.Fence{}, false, 0, 0
	c.queue, c.inflight, c.snapshot, c.wakeSet = nil, nil, 0, false
}

// quiet reports whether nothing is on its way to the journal.
func (c *core) quiet() bool { return len(c.queue) == 0 && len(c.inflight) == 0 }

// onQuiet runs f when all that is decided by now is committed: at once when it
// is, else with the outcome of the last commit it waits for.
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
	before := w.done
	w.done = func(err error) {
		if before != nil {
			before(err)
		}
		f(err)
	}
}
