package actors

import (
	"strconv"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/supervise"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// kbGrain is the virtual actor of one knowledge base.
type kbGrain struct {
	core
	kb *kb.KB
	// work is what an idle grain does not have; see busy.
	work *kbWork
}

// kbWork is the part of a knowledge base that exists only while it is used.
type kbWork struct {
	settings *settings // of the tenant, nil until asked for
	asking   bool
	unready  []func(error) // wait for settings

	captured []effect                          // of the decision being enqueued
	keyed    map[journal.IdempotencyKey][]call // requests under way, by key: later ones wait
	pending  []string                          // documents owed a run, oldest first
	queued   map[string]bool                   // members of pending
	children map[string]*child                 // by document id
	retry    *time.Timer                       // wakes at the earliest retry
	retryAt  time.Time                         // when that is

	supervisor *supervise.Backoff // of the children, nil until one crashed

	progress map[string]*progress // by document id
	ticks    int64                // counts changes of progress
	watchers map[*watcher]struct{}
	reached  []*minRevision // searches that wait for a revision

	index    *kbIndex // nil until somebody searches or ingests
	erasing  int      // erasures under way
	sweeping bool     // what earlier activations left is being listed; no run starts
	listing  bool     // the tenant is being told
	stopping bool     // drain asked for
}

// child is a running worker.
type child struct {
	pid *actor.PID
	run run
}

// progress is the passing state of a run: never journaled.
type progress struct {
	version  int64
	state    kb.DocumentState
	fraction float64
	tick     int64
	sent     time.Time
}

// settings is what a knowledge base knows of its tenant.
type settings struct {
	version int64
	config  kb.Config
	limits  kb.Limits
	at      time.Time
}

func newKBGrain(d *Deps, id journal.Identity) *kbGrain {
	return &kbGrain{core: core{deps: d, id: id}}
}

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
	}
	return g.work
}

// Receive implements actor.Actor.
func (g *kbGrain) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		g.init(ctx)
		go g.load(g.restore)
	case call:
		if g.phase != phaseActive {
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
		g.stopped()
	default:
		g.receiveWork(ctx)
	}
}

// receiveWork takes the messages of searches, children and the life cycle.
func (g *kbGrain) receiveWork(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case interface{ of() run }:
		g.receiveReport(ctx, m)
	case *settingsMsg:
		g.receiveSettings(m)
	case *foundKeyMsg:
		g.foundKey(m)
	case *indexLoadedMsg:
		g.indexLoaded(m)
	case *wakeMsg:
		g.wake(ctx)
	case *erasedMsg:
		g.erased(ctx, m)
	case *watchDone:
		g.endWatch(m.w)
	case *minRevision:
		g.dropWaiting(m)
	case *savedMsg:
		g.saved(ctx, m)
	case *releasedMsg:
		g.released(ctx)
	case interface{ TrimRequested() }:
		g.trim()
	case interface{ PassivateRequested() }:
		g.passivate()
	case interface{ DrainRequested() }:
		g.drain(ctx)
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
		g.broken = loadError(m.err)
		g.log().Error("load failed", "error", m.err)
		g.fail(nil)
		ctx.Stop(g.self)
		return
	}
	g.kb = m.state.(kbState).KB
	waiting := g.begin(m)
	// A row that is there stays until this activation knows better.
	g.wakeSet = g.owes()
	g.resume(ctx)
	for _, c := range waiting {
		g.handle(c)
	}
}

// owes reports whether there is work that must not be forgotten.
func (g *kbGrain) owes() bool {
	switch g.kb.Phase() {
	case kb.PhaseActive:
		return g.kb.Pending() > 0 || g.kb.Count(kb.StateDeleting) > 0 || !g.kb.Listed()
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
	if g.broken != nil {
		ctx.Stop(g.self)
		return
	}
	g.applyIndex(done)
	for _, wr := range done {
		for _, e := range wr.effects {
			g.effect(ctx, e)
		}
		if wr.done != nil {
			wr.done(nil)
		}
	}
	g.flush(g.owes())
	g.notify()
	g.startDue(ctx)
	g.maybeSnapshot()
	g.idle(ctx)
}

// snapshotEvery is how many events may need replaying at the next load. It
// grows with the knowledge base, since the cost of a snapshot does.
func (g *kbGrain) snapshotEvery() int64 { return 1000 + int64(g.kb.Len())/2 }

func (g *kbGrain) maybeSnapshot() {
	if g.committed-g.snapshot < g.snapshotEvery() || !g.quiet() || g.phase != phaseActive {
		return
	}
	seq := g.committed
	g.snapshot = seq // one at a time; a failed one is made up for by the next
	go g.save(g.fence, seq, g.kb.Freeze())
}

// handle routes a call of an active grain.
func (g *kbGrain) handle(c call) {
	m, ok := c.Request().(*nodev1.KnowledgeBaseCall)
	if !ok {
		c.Reply(nil, kb.Errorf(kb.CodeUnimplemented, kb.ReasonUnknownOperation, "unknown message"))
		return
	}
	if g.broken != nil {
		c.Reply(nil, g.broken)
		return
	}
	switch op := m.GetOperation().(type) {
	case *nodev1.KnowledgeBaseCall_Get:
		g.withSettings(orReply(c, func() { g.answer(c, g.get()) }))
	case *nodev1.KnowledgeBaseCall_GetDocument:
		g.answer(c, g.getDocument(op.GetDocument))
	case *nodev1.KnowledgeBaseCall_ListDocuments:
		g.answer(c, g.listDocuments(op.ListDocuments))
	case *nodev1.KnowledgeBaseCall_ListChunks:
		g.listChunks(c, op.ListChunks)
	case *nodev1.KnowledgeBaseCall_GetText:
		g.getText(c, op.GetText)
	case *nodev1.KnowledgeBaseCall_Search:
		if g.kb.Exists() == nil {
			g.ensureIndex(nil) // loads while the settings are fetched
		}
		g.withSettings(orReply(c, func() { g.search(c, op.Search) }))
	case *nodev1.KnowledgeBaseCall_ReadEvents:
		g.readEvents(c, op.ReadEvents)
	case *nodev1.KnowledgeBaseCall_Wake:
		g.tell(&wakeMsg{})
		c.Reply(&nodev1.KnowledgeBaseReply{Revision: g.committed, Result: &nodev1.KnowledgeBaseReply_Done{Done: &nodev1.Done{}}}, nil)
	case *nodev1.KnowledgeBaseCall_TenantChanged:
		g.setSettings(op.TenantChanged)
		c.Reply(&nodev1.KnowledgeBaseReply{Revision: g.committed, Result: &nodev1.KnowledgeBaseReply_Done{Done: &nodev1.Done{}}}, nil)
	default:
		g.handleWrite(c, m)
	}
}

// unborn reports whether the creation of the knowledge base is not committed
// yet: then f runs when it is. Else a read beside the journal could speak of
// what may never have been.
func (g *kbGrain) unborn(f func(), c call) bool {
	if g.kb.Listed() || g.quiet() {
		return false
	}
	g.onQuiet(orReply(c, f))
	return true
}

// orReply passes an error on to the caller, and else goes on.
func orReply(c call, f func()) func(error) {
	return func(err error) {
		if err != nil {
			c.Reply(nil, err)
			return
		}
		f()
	}
}

// answer replies with a result based on the state as decided: it waits for the
// commit of everything decided so far, so that nobody sees what may not last.
func (g *kbGrain) answer(c call, r *nodev1.KnowledgeBaseReply) {
	r.Revision = g.head
	g.onQuiet(func(err error) {
		if err != nil {
			c.Reply(nil, err)
			return
		}
		c.Reply(r, nil)
	})
}

func errorReply(err error) *nodev1.KnowledgeBaseReply {
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Error{Error: errorProto(err)}}
}

func (g *kbGrain) getDocument(r *granaryv1.GetDocumentRequest) *nodev1.KnowledgeBaseReply {
	d, err := g.kb.Find(docID(r.GetName()))
	if err != nil {
		return errorReply(err)
	}
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Document{Document: g.document(d)}}
}

func (g *kbGrain) document(d *kb.Document) *granaryv1.Document {
	var p *progress
	if g.work != nil {
		p = g.work.progress[d.ID]
	}
	return documentProto(g.id.ID, d, p)
}

func (g *kbGrain) get() *nodev1.KnowledgeBaseReply {
	if err := g.kb.Exists(); err != nil {
		return errorReply(err)
	}
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_KnowledgeBase{KnowledgeBase: g.describe()}}
}

// describe is the knowledge base as clients see it; settings must be there.
func (g *kbGrain) describe() *granaryv1.KnowledgeBase {
	s := g.work.settings
	eff := kb.Resolve(g.deps.builtIn(), s.config, g.kb.Config(), kb.Config{})
	out := &granaryv1.KnowledgeBase{
		Name: kbName(g.id.ID), Uid: g.kb.UID(), DisplayName: g.kb.DisplayName(), Description: g.kb.Description(),
		Config: configProto(g.kb.Config()), EffectiveConfig: effectiveProto(eff, g.kb.ConfigVersion(), s.version),
		DocumentCounts: make(map[string]int64), ChunkCount: g.kb.Chunks(), SourceBytes: g.kb.SourceBytes(),
		CreateTime: timestamp(g.kb.CreatedAt()), UpdateTime: timestamp(g.kb.UpdatedAt()), Revision: g.head,
		Etag: g.kb.Etag(), DocumentLimit: s.limits.DocumentsPerKB,
	}
	for _, st := range kb.States() {
		if n := g.kb.Count(st); n > 0 {
			out.DocumentCounts[st.String()] = int64(n)
		}
	}
	return out
}
