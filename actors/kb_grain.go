package actors

import (
	"context"
	"strconv"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/supervise"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// kbGrain is the virtual actor of one knowledge base.
type kbGrain struct {
	core
	kb      *kb.KB
	storage kbStorage
	swept   bool // this activation has looked for what earlier ones left
	// work is what an idle grain does not have; see busy.
	work *kbWork
}

// kbWork is the part of a knowledge base that exists only while it is used.
type kbWork struct {
	settings *settings // of the tenant, nil until asked for
	asking   bool
	unready  []func(error) // wait for settings
	placing  map[*placing]struct{}

	short   []*shortage // wait for storage
	leasing bool        // the tenant is being asked for it,
	asked   int         // for the first of them

	captured []effect // of the decision being enqueued
	keyed    map[journal.IdempotencyKey]*keyedCall
	pending  []string          // documents owed a run, oldest first
	queued   map[string]bool   // members of pending
	children map[string]*child // by document id
	starved  bool              // a document waits for a place
	retry    *time.Timer       // wakes at the earliest retry
	retryAt  time.Time         // when that is

	supervisor *supervise.Backoff // of the children, nil until one crashed

	progress map[string]*progress // by document id
	ticks    int64                // counts changes of progress
	watchers map[*watcher]struct{}
	reached  []*minRevision // searches that wait for a revision

	index    *kbIndex // nil until somebody searches or ingests
	erasing  int      // erasures under way
	litter   int      // what is to be collected and is not yet, also of decisions that are not committed
	untidy   []func() // erasures that wait until nothing is
	doomed   []doomed // documents to be erased
	exports  map[string]*export
	imported time.Time   // when something of an import was last heard
	dropped  int64       // chunks of the index that the deletion of the knowledge base dropped
	dooming  bool        // some of them are being erased
	expiring int         // decisions that documents expire, not committed yet
	sweeping bool        // what earlier activations left is being listed; no run starts
	listing  bool        // the tenant is being told
	grace    *time.Timer // a drain waits for erasures until then; nil: it does not

	owed map[*owed]struct{} // answers to committed writes that wait for more
	ctx  context.Context    // of what runs beside the mailbox
	end  context.CancelFunc
}

// owed is the answer to a write that is committed.
type owed struct{ send func() }

// child is a running worker.
type child struct {
	pid   *actor.PID
	run   run
	place *place
}

// progress is the passing state of a run: never journaled.
type progress struct {
	version  int64
	state    kb.DocumentState
	fraction float64
	wait     wait
	tick     int64
	sent     time.Time
}

// wait is why a document waits although nothing is wrong with it; zero when it does not.
type wait struct {
	reason string
	until  time.Time // when it goes on at the latest; zero when that is not known
}

// settings is what a knowledge base knows of its tenant.
type settings struct {
	version  int64
	revision int64 // of the tenant's journal
	config   kb.Config
	limits   kb.Limits
	state    kb.TenantState
	at       time.Time
}

func newKBGrain(d *Deps, id journal.Identity) *kbGrain {
	return &kbGrain{core: core{deps: d, id: id}}
}

func (g *kbGrain) flush(wakeup bool) { g.core.flush(wakeup, g.nextExpiry) }

// kbState adapts kb.KB to the core.
type kbState struct {
	*kb.KB
	capture *[]effect // nil while replaying
}

func (s kbState) apply(e journal.Event, ev kb.Event) error {
	if s.capture == nil {
		return s.Apply(e.Seq, e.Time, ev)
	}
	id := kb.Subject(ev)
	before := s.Document(id)
	err := s.Apply(e.Seq, e.Time, ev)
	*s.capture = append(*s.capture, effect{event: ev, before: before, after: s.Document(id)})
	return err
}

// busy gives the working part, making it when there is none.
func (g *kbGrain) busy() *kbWork {
	if g.work == nil {
		g.work = &kbWork{}
		g.work.ctx, g.work.end = context.WithCancel(context.Background())
	}
	return g.work
}

// Receive implements actor.Actor.
func (g *kbGrain) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		g.init(ctx)
		g.load(g.restore)
	case call:
		if g.phase != phaseActive && !g.stopping {
			g.prefetch(m)
			g.park(m)
			return
		}
		g.handle(m)
	case *loadedMsg:
		g.loaded(ctx, m)
	case *committedMsg:
		g.settled(ctx, m)
	case *actor.Stopping:
		g.abandon()
		g.stopped()
	default:
		g.receiveLife(ctx)
	}
}

// receiveLife takes the messages of the life cycle.
func (g *kbGrain) receiveLife(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *verifiedMsg:
		if !g.verified(m) {
			g.lose(ctx)
		}
	case *lostMsg:
		if g.owned && m.fence == g.fence {
			g.lose(ctx)
		}
	case *brokenMsg:
		g.cutOff(ctx)
	case *resolvedMsg:
		g.resolved(m)
		g.released(ctx)
	case *savedMsg:
		g.saved(ctx, m)
	case *releasedMsg:
		g.released(ctx)
	case *overdueMsg:
		g.log().Warn("the drain took too long and is cut off")
		ctx.Stop(g.self)
	case interface{ TrimRequested() }:
		g.trim()
	case interface{ PassivateRequested() }:
		g.passivate()
	case interface{ DrainRequested() }:
		g.handOver(ctx)
	default:
		g.receiveWork(ctx)
	}
}

// receiveWork takes the messages of searches, children and work beside the mailbox.
func (g *kbGrain) receiveWork(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case interface{ of() run }:
		g.receiveReport(ctx, m)
	case *settingsMsg:
		g.receiveSettings(m)
	case *placeLostMsg:
		g.placeLost(ctx, m)
	case *storageMsg:
		g.receiveStorage(m)
	case *foundKeyMsg:
		g.foundKey(ctx, m)
	case *indexLoadedMsg:
		g.indexLoaded(ctx, m)
	case *wakeMsg:
		g.wake(ctx, m)
	case *erasedMsg:
		g.erased(ctx, m)
	case *watchDone:
		g.endWatch(m.w)
	case *minRevision:
		g.dropWaiting(m)
	case *staleMsg:
		g.answerStale(m.search)
	}
}

// restore makes the state of a snapshot; it runs on the loading goroutine.
func (g *kbGrain) restore(snapshot []byte) (state, error) {
	if len(snapshot) == 0 {
		return kbState{KB: kb.New(g.id.ID)}, nil
	}
	k, err := kb.Restore(g.id.ID, snapshot)
	if err != nil {
		return nil, err
	}
	return kbState{KB: k}, nil
}

func (g *kbGrain) loaded(ctx actor.Context, m *loadedMsg) {
	if m.err != nil {
		g.notLoaded(m.err)
		g.failWaiting(g.broken)
		ctx.Stop(g.self)
		return
	}
	g.kb, g.storage, g.swept = m.state.(kbState).KB, kbStorage{}, false
	waiting := g.begin(m)
	// A row that is there stays until this activation knows better.
	if g.wakeSet = g.owes(); !g.wakeSet {
		g.wakeDue = g.nextExpiry()
		g.wakeSet = !g.wakeDue.IsZero()
	}
	g.resume(ctx)
	for _, c := range waiting {
		g.handle(c)
	}
}

// owes reports whether there is work that must not be forgotten.
func (g *kbGrain) owes() bool {
	switch g.kb.Phase() {
	case kb.PhaseActive:
		return g.kb.Importing() || g.kb.Pending() > 0 || g.kb.Count(kb.StateDeleting) > 0 || !g.kb.Listed() || g.littered()
	case kb.PhaseDeleting, kb.PhaseDeleted:
		return true
	}
	return false
}

// resume takes up what an earlier activation left.
func (g *kbGrain) resume(ctx actor.Context) {
	switch g.kb.Phase() {
	case kb.PhaseDeleting, kb.PhaseDeleted:
		g.eraseAll()
		return
	case kb.PhaseNone:
		return
	}
	if !g.kb.Listed() {
		g.register(func() {})
	}
	g.expire()
	if g.kb.Pending() == 0 && g.kb.Count(kb.StateDeleting) == 0 {
		return
	}
	var paused []kb.Event
	for d := range g.kb.All {
		if !d.State.Pending() {
			continue
		}
		g.enqueueRun(d.ID)
		if d.Running && g.deps.runs.survived(d.Attempt) {
			// Its run ended because the store was out, not because it took the
			// process down: that is no crash of the document's.
			paused = append(paused, &kb.DocumentPaused{ID: d.ID, Version: d.Version})
		}
	}
	g.record(paused, nil)
	g.sweep()
	g.startDue(ctx)
}

// settled continues after a commit.
func (g *kbGrain) settled(ctx actor.Context, m *committedMsg) {
	g.busy()
	done := g.settle(m)
	switch {
	case m.err != nil && len(g.inflight) > 0:
		g.doubted(ctx)
		return
	case m.err != nil:
		ctx.Stop(g.self)
		return
	case g.broken != nil:
		// It came to its end while the commit was under way. What is committed is.
		for _, wr := range done {
			wr.end(nil, nil)
		}
		ctx.Stop(g.self)
		return
	}
	g.applyIndex(done)
	g.freed(done)
	for _, wr := range done {
		for _, e := range wr.effects {
			g.effect(ctx, e)
			if litters(e) {
				g.work.litter--
				g.tidy()
			}
		}
		wr.end(nil, nil)
	}
	g.flush(g.owes())
	g.notify()
	g.startDue(ctx)
	g.maybeSnapshot()
	g.idle()
}

// snapshotEvery is how many events may need replaying at the next load. It
// grows with the knowledge base, since the cost of a snapshot does.
func (g *kbGrain) snapshotEvery() int64 { return 1000 + int64(g.kb.Len())/2 }

func (g *kbGrain) maybeSnapshot() {
	if g.committed-g.snapshot < g.snapshotEvery() || !g.quiet() || g.phase != phaseActive {
		return
	}
	snap := g.at()
	g.snapshot = snap.Seq // one at a time; a failed one is made up for by the next
	go g.save(g.fence, snap, g.kb.Freeze(), loadTimeout)
}
