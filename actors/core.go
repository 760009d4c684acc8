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
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// call is a request as the cluster hands it over.
type call interface {
	Request() proto.Message
	Context() context.Context
	Reply(proto.Message, error)
}

const (
	maxWaiting     = 1024            // calls kept while the grain loads, and reads while the store is asked
	maxBatchEvents = 256             // events of one commit
	commitTimeout  = 5 * time.Second // a commit that began runs this long, whoever gave up meanwhile
	loadTimeout    = 30 * time.Second
	eventPage      = 2000 // events read at a time in a replay
)

type phase uint8

const (
	phaseLoading phase = iota
	phaseActive
	phaseDoubting // finds out what became of a commit
	phaseLeaving
)

// state is what a grain's journal folds into.
type state interface {
	apply(e journal.Event, ev kb.Event) error
}

// core is the event-sourced half of a grain: it loads the state, appends
// decisions one commit at a time, and hands the grain over on leaving. All
// methods run on the grain's mailbox unless they say otherwise.
type core struct {
	deps *Deps
	id   journal.Identity
	root *actor.RootContext
	self *actor.PID

	phase    phase
	owned    bool // fence is valid; a grain never written to owns nothing yet
	wakeSet  bool // a wake-up row exists
	stopping bool // drain asked for

	fence     journal.Fence
	proof     lease  // the term of the lease for which fence is known to be the current one
	head      int64  // last decided sequence number
	committed int64  // last committed one
	hash      []byte // of the event at head
	queue     []*write
	inflight  []*write // of the commit under way, or of the one in doubt
	waiting   []call
	reads     *readers  // nil when no read waits for the store
	snapshot  int64     // sequence number of the stored snapshot
	wakeDue   time.Time // when it is due if it stands for work to come; zero: the work is there
	broken    error     // why this activation ended; nothing more is decided
	giveUp    func()    // ends what runs to load, to find out about a doubt, or to release
	overdue   *time.Timer
}

// loadedMsg is what load read.
type loadedMsg struct {
	acquired
	state    state
	counters []journal.Counter // of a tenant
	owned    bool
	snapshot int64
	hash     []byte // of the event at head
	err      error
}

func (c *core) init(ctx actor.Context) {
	c.self = ctx.Self()
	c.root = ctx.ActorSystem().Root
}

// tell sends the grain a message from any goroutine.
func (c *core) tell(msg any) { c.root.Send(c.self, msg) }

func (c *core) log() *slog.Logger {
	return c.deps.Logger.With("grain", c.id.String())
}

// load reads the grain's state on a goroutine of its own.
func (c *core) load(restore func(snapshot []byte) (state, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	c.giveUp = cancel
	go func() {
		defer cancel()
		m := c.read(ctx, restore)
		if m.err == nil && m.owned && (ctx.Err() != nil || !c.placed()) {
			m.err = errMoved
		}
		if m.err != nil && m.owned {
			c.giveBack(m.fence)
		}
		c.tell(m)
	}()
}

func (c *core) read(ctx context.Context, restore func([]byte) (state, error)) *loadedMsg {
	m := &loadedMsg{}
	if !c.placed() {
		m.err = errMoved
		return m
	}
	if _, err := c.deps.Store.Owner(ctx, c.id); errors.Is(err, journal.ErrNotFound) {
		// Nobody ever wrote to this name: asking for it must not create a row.
		m.state, m.err = restore(nil)
		return m
	} else if err != nil {
		m.err = err
		return m
	}
	if m.acquired, m.err = c.acquire(ctx); m.err != nil {
		return m
	}
	m.owned = true
	if m.err = c.fold(ctx, m, restore); m.err == nil && c.id.Kind == KindTenant {
		m.counters, m.err = c.deps.Counters.Counters(ctx, c.id)
	}
	if m.err != nil {
		m.err = c.blame(ctx, m.fence, m.err)
	}
	return m
}

// fold makes the state of the snapshot and the events up to the acquired head.
func (c *core) fold(ctx context.Context, m *loadedMsg, restore func([]byte) (state, error)) error {
	snap, err := c.deps.Store.LoadSnapshot(ctx, c.id)
	if err != nil && !errors.Is(err, journal.ErrNotFound) {
		return err
	}
	if snap.Seq > m.head {
		return fmt.Errorf("%w: snapshot of %s is of %d, its head is %d", journal.ErrCorrupt, c.id, snap.Seq, m.head)
	}
	if m.state, err = restore(snap.State); err != nil {
		return err
	}
	m.snapshot = snap.Seq
	chain, err := c.chainAt(ctx, snap)
	if err != nil {
		return err
	}
	err = c.replay(ctx, m.state, &chain, m.head)
	m.hash = chain.Hash
	return err
}

// chainAt gives the link that the events after a snapshot follow. A snapshot of
// before there were chains has none: the event it was made at may.
func (c *core) chainAt(ctx context.Context, snap journal.Snapshot) (journal.Chain, error) {
	at := journal.Chain{Seq: snap.Seq, Hash: snap.Hash}
	if len(snap.Hash) > 0 || snap.Seq == 0 {
		return at, nil
	}
	page, err := c.deps.Store.Events(ctx, c.id, snap.Seq-1, 1)
	if err != nil {
		return at, err
	}
	if len(page) == 1 && page[0].Seq == snap.Seq {
		at.Hash = page[0].Hash
		return at, nil
	}
	o, err := c.deps.Store.Owner(ctx, c.id)
	if err == nil && o.Erased == snap.Seq {
		at.Hash = o.Anchor
	}
	return at, err
}

// blame tells whether a load failed because the grain was taken over meanwhile: a
// successor may have erased what was being read, and only one can have written
// a snapshot beyond the acquired head.
func (c *core) blame(ctx context.Context, f journal.Fence, err error) error {
	if !c.deps.lone && errors.Is(c.deps.Store.Verify(ctx, f), journal.ErrFenced) {
		return journal.ErrFenced
	}
	return err
}

// replay folds the events after the chain's last up to head, and checks their links.
func (c *core) replay(ctx context.Context, s state, chain *journal.Chain, head int64) error {
	for chain.Seq < head {
		seq := chain.Seq
		page, err := c.deps.Store.Events(ctx, c.id, seq, int(min(eventPage, head-seq)))
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return fmt.Errorf("%w: journal of %s ends at %d, its head is %d", journal.ErrCorrupt, c.id, seq, head)
		}
		for _, e := range page {
			if e.Seq > head {
				return fmt.Errorf("%w: journal of %s goes on at %d, its head is %d", journal.ErrCorrupt, c.id, e.Seq, head)
			}
			if err := chain.Follow(c.id, e); err != nil {
				return err
			}
			ev, err := kb.DecodeEvent(e.Type, e.Data)
			if err != nil {
				return err
			}
			if err := s.apply(e, ev); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin takes over what load read. It returns the calls that waited.
func (c *core) begin(m *loadedMsg) []call {
	c.fence, c.owned, c.proof, c.head, c.committed, c.snapshot = m.fence, m.owned, m.proof, m.head, m.head, m.snapshot
	c.hash = m.hash
	c.phase, c.giveUp = phaseActive, nil
	return c.unpark()
}

// unpark gives the calls that waited and whose callers still do. One that gave
// up may have asked again elsewhere meanwhile, and must not be served behind it.
func (c *core) unpark() []call {
	waiting := c.waiting[:0]
	for _, cl := range c.waiting {
		if !expired(cl) {
			waiting = append(waiting, cl)
		}
	}
	c.waiting = nil
	return waiting
}

// expired answers a call that nobody waits for any more.
func expired(c call) bool {
	err := c.Context().Err()
	if err != nil {
		c.Reply(nil, err)
	}
	return err != nil
}

// notLoaded says why there will be no activation.
func (c *core) notLoaded(err error) {
	c.broken = loadError(err)
	if isMoved(err) {
		c.log().Info("not loaded, the grain is another node's", "error", err)
		return
	}
	if errors.Is(err, journal.ErrChain) {
		c.deps.counts.brokenChains.Add(1)
		c.log().Error("the journal was changed by somebody else, the grain serves nobody until that is mended", "error", err)
		return
	}
	c.log().Error("load failed", "error", err)
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
	remote    string
}

// originOf reads who asks from a call's header.
func originOf(h *nodev1.Header) origin {
	return origin{principal: h.GetPrincipal(), requestID: h.GetRequestId(), remote: h.GetRemote()}
}

var system = origin{principal: "system"}
