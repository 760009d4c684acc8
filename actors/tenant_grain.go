package actors

import (
	"context"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// tenantGrain is the virtual actor of one tenant: tier, limits, defaults and
// the list of knowledge bases.
type tenantGrain struct {
	core
	tenant      *kb.Tenant
	counters    []journal.Counter // as loaded
	storage     *tenantStorage    // nil until a knowledge base stores something
	slots       *tenantSlots      // nil until something is processed
	rates       *tenantRates      // nil until something is counted
	subscribers []string          // ids of the knowledge bases that asked for the settings, sorted
	used        map[string]int64  // last uses of API keys, seconds since 1970
	keyed       map[journal.IdempotencyKey]*tenantKey

	purging    bool // a purge is under way
	finishing  bool // its last steps are: nothing is decided any more
	purgedAt   time.Time
	purgeTimer *time.Timer
	endPurge   func()
}

func newTenantGrain(d *Deps, id journal.Identity) *tenantGrain {
	return &tenantGrain{core: core{deps: d, id: id}}
}

func (g *tenantGrain) flush(wakeup bool) { g.core.flush(wakeup, g.dueLater) }

type tenantState struct{ *kb.Tenant }

func (s tenantState) apply(e journal.Event, ev kb.Event) error { return s.Apply(e.Seq, ev) }

// Receive implements actor.Actor.
func (g *tenantGrain) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		g.init(ctx)
		g.load(g.restore)
	case call:
		if g.phase != phaseActive && !g.stopping {
			g.park(m)
			return
		}
		g.handle(m)
	case *loadedMsg:
		g.loaded(ctx, m)
	case *committedMsg:
		g.settled(ctx, m)
	case *actor.Stopping:
		g.endWork()
		g.stopped()
		g.refuseStorage(g.broken)
		g.refuseKeyed(movedError())
	case *purgeMsg:
		g.purgeWhenDue()
	case *purgedMsg:
		g.purged(m)
	default:
		g.receiveLife(ctx)
	}
}

// endWork ends what runs beside the mailbox.
func (g *tenantGrain) endWork() {
	if g.purgeTimer != nil {
		g.purgeTimer.Stop()
	}
	if g.endPurge != nil {
		g.endPurge()
	}
}

// receiveLife takes the messages of the life cycle.
func (g *tenantGrain) receiveLife(ctx actor.Context) {
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
		g.snapshot = m.seq
		g.release()
	case *releasedMsg:
		g.released(ctx)
	case *recalledMsg:
		g.recalled(m)
	case *sparedMsg:
		if g.phase == phaseActive && g.idle() {
			g.leave()
		}
	case *foundTenantKeyMsg:
		g.foundKey(ctx, m)
	case *answeredKeyMsg:
		g.answeredKey(m)
	case *overdueMsg:
		g.log().Warn("the drain took too long and is cut off")
		ctx.Stop(g.self)
	case interface{ PassivateRequested() }:
		if g.phase == phaseActive && g.idle() && !g.purging && !g.recalling() {
			g.leave()
		}
	case interface{ DrainRequested() }:
		g.handOver(ctx)
	}
}

// idle reports whether nothing is under way that an answer waits for.
func (g *tenantGrain) idle() bool {
	return g.quiet() && g.reads == nil && g.broken == nil && len(g.keyed) == 0
}

// handOver ends the activation in an orderly way.
func (g *tenantGrain) handOver(ctx actor.Context) {
	if !g.drain() {
		return
	}
	switch {
	case g.phase == phaseLoading:
		ctx.Stop(g.self) // what the load still acquires it gives back
	case g.phase == phaseActive && g.broken == nil:
		g.failReads(movedError())
		g.refuseStorage(movedError())
		g.refuseKeyed(movedError())
		g.endWork()
		if g.quiet() {
			g.leave()
		}
	}
}

func (g *tenantGrain) restore(snapshot []byte) (state, error) {
	if len(snapshot) == 0 {
		return tenantState{kb.NewTenant(g.id.ID, g.deps.Tier)}, nil
	}
	t, err := kb.RestoreTenant(g.id.ID, g.deps.Tier, snapshot)
	if err != nil {
		return nil, err
	}
	return tenantState{t}, nil
}

func (g *tenantGrain) loaded(ctx actor.Context, m *loadedMsg) {
	if m.err != nil {
		g.notLoaded(m.err)
		g.failWaiting(g.broken)
		ctx.Stop(g.self)
		return
	}
	g.tenant = m.state.(tenantState).Tenant
	g.counters, g.rates, g.storage, g.slots, g.used = m.counters, nil, nil, nil, usesOf(m.counters)
	waiting := g.begin(m)
	// A row that is there stays until this activation knows better.
	if g.wakeSet = g.owes(); !g.wakeSet {
		g.wakeDue = g.dueLater()
		g.wakeSet = !g.wakeDue.IsZero()
	}
	g.purgeWhenDue()
	for _, c := range waiting {
		g.handle(c)
	}
}

func (g *tenantGrain) settled(ctx actor.Context, m *committedMsg) {
	done := g.settle(m)
	switch {
	case m.err != nil && len(g.inflight) > 0:
		g.failUnsent()
		g.resolve()
		return
	case m.err != nil:
		ctx.Stop(g.self)
		return
	}
	for _, w := range done {
		w.end(nil, nil)
	}
	if g.broken != nil {
		ctx.Stop(g.self)
		return
	}
	g.flush(g.owes())
	if g.stopping && g.quiet() && g.phase == phaseActive {
		g.leave()
	}
}

func (g *tenantGrain) leave() {
	if g.spareRates() {
		return // and come back when that is committed
	}
	g.phase = phaseLeaving
	small := g.stopping && !g.deps.lone && g.committed-g.snapshot < worthSnapshot
	if !g.owned || g.committed == g.snapshot || small {
		g.release()
		return
	}
	snap, encode, fence := g.at(), g.tenant.Freeze(), g.fence
	go func() {
		g.save(fence, snap, encode, handOffSave)
		g.tell(&savedMsg{seq: snap.Seq})
	}()
}

func (g *tenantGrain) released(ctx actor.Context) {
	g.refuseKeyed(movedError())
	if len(g.waiting) > 0 && !g.stopping {
		g.restart()
		g.load(g.restore)
		return
	}
	ctx.Stop(g.self)
}

func (g *tenantGrain) handle(c call) {
	m, ok := c.Request().(*nodev1.TenantCall)
	if !ok {
		c.Reply(nil, kb.Errorf(kb.CodeUnimplemented, kb.ReasonUnknownOperation, "unknown message"))
		return
	}
	if g.stopping {
		c.Reply(nil, movedError())
		return
	}
	switch m.GetOperation().(type) {
	case *nodev1.TenantCall_Get, *nodev1.TenantCall_GetSettings, *nodev1.TenantCall_List:
		if !g.mayRead() {
			g.current(orReply(c, func() { g.serve(c, m) }))
			return
		}
	}
	if !g.serveKeyed(c, m) {
		g.serve(c, m)
	}
}

// serve carries a call out, on what is current.
func (g *tenantGrain) serve(c call, m *nodev1.TenantCall) {
	if g.broken != nil {
		c.Reply(nil, g.broken)
		return
	}
	if g.finishing {
		c.Reply(nil, movedError())
		return
	}
	switch op := m.GetOperation().(type) {
	case *nodev1.TenantCall_Get:
		g.answer(c, g.tenantReply())
	case *nodev1.TenantCall_GetSettings:
		// Names that do not exist are asked for too; they are not remembered.
		if id := op.GetSettings.GetSubscriber(); g.tenant.Lists(id) {
			g.subscribe(id)
		}
		g.answer(c, &nodev1.TenantReply{Result: &nodev1.TenantReply_Settings{Settings: g.settings()}})
	case *nodev1.TenantCall_List:
		g.answer(c, g.list(m.GetHeader(), op.List))
	case *nodev1.TenantCall_UpdateConfig:
		g.updateConfig(c, m.GetHeader(), op.UpdateConfig, false)
	case *nodev1.TenantCall_Register:
		r := op.Register
		g.subscribe(r.GetId())
		entry := kb.KBEntry{ID: r.GetId(), UID: r.GetUid(), DisplayName: r.GetDisplayName(), Workspace: r.GetWorkspace(), Created: r.GetCreateTime().AsTime()}
		g.decide(c, m.GetHeader(), func() []kb.Event { return g.tenant.Register(entry) }, false)
	case *nodev1.TenantCall_Unregister:
		if at, found := slices.BinarySearch(g.subscribers, op.Unregister.GetId()); found {
			g.subscribers = slices.Delete(g.subscribers, at, at+1)
		}
		g.decide(c, m.GetHeader(), func() []kb.Event {
			return g.tenant.Unregister(op.Unregister.GetId(), op.Unregister.GetUid())
		}, false)
	case *nodev1.TenantCall_Wake:
		g.purgeWhenDue()
		g.answer(c, tenantDone())
	default:
		if !g.serveAccess(c, m) && !g.serveAdmin(c, m) && !g.serveRates(c, m) && !g.serveStorage(c, m) && !g.serveSlots(c, m) {
			g.answer(c, tenantError(kb.Errorf(kb.CodeUnimplemented, kb.ReasonUnknownOperation, "this node does not know the operation")))
		}
	}
}

// subscribe makes sure that a knowledge base hears of changed settings.
func (g *tenantGrain) subscribe(id string) {
	if at, found := slices.BinarySearch(g.subscribers, id); !found {
		g.subscribers = slices.Insert(g.subscribers, at, id)
	}
}

func tenantDone() *nodev1.TenantReply {
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Done{Done: &nodev1.Done{}}}
}

func tenantError(err error) *nodev1.TenantReply {
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Error{Error: errorProto(err)}}
}

// answer replies once everything decided so far is committed.
func (g *tenantGrain) answer(c call, r *nodev1.TenantReply) {
	g.onQuiet(orReply(c, func() { c.Reply(r, nil) }))
}

// unproven reports whether an answer without a commit must wait until the store
// was asked; then again is called with what is current.
func (g *tenantGrain) unproven(c call, proven bool, again func()) bool {
	if proven || !g.quiet() || g.mayRead() {
		return false
	}
	g.current(orReply(c, again))
	return true
}

// decide queues events and replies after their commit.
func (g *tenantGrain) decide(c call, h *nodev1.Header, rule func() []kb.Event, proven bool) {
	events := rule()
	if len(events) > 0 {
		g.record(c, h, events, tenantDone, nil)
		return
	}
	if !g.unproven(c, proven, func() { g.decide(c, h, rule, true) }) {
		g.answer(c, tenantDone())
	}
}

// record queues events of a call. Its reply is made when the state has them; it goes
// out when they are committed, and after has called what it is given; nil: at once.
func (g *tenantGrain) record(c call, h *nodev1.Header, events []kb.Event, reply func() *nodev1.TenantReply, after func(then func())) {
	w, err := g.enqueue(tenantState{g.tenant}, originOf(h), events)
	if err != nil {
		c.Reply(nil, err)
		return
	}
	r := reply()
	w.answer = orReply(c, func() {
		if after == nil {
			c.Reply(r, nil)
			return
		}
		after(func() { c.Reply(r, nil) })
	})
	w.done = w.answer
	g.keep(w, c, r)
	g.flush(g.owes())
}

func (g *tenantGrain) updateConfig(c call, h *nodev1.Header, r *granaryv1.UpdateTenantConfigRequest, proven bool) {
	config := configOf(r.GetDefaultConfig())
	err := g.checkConfig(config)
	var events []kb.Event
	if err == nil {
		events, err = g.tenant.Configure(r.GetEtag(), config)
	}
	if (err != nil || r.GetValidateOnly()) && g.unproven(c, proven, func() { g.updateConfig(c, h, r, true) }) {
		return
	}
	switch {
	case err != nil:
		g.answer(c, tenantError(err))
	case r.GetValidateOnly():
		g.answer(c, g.tenantReply())
	default:
		g.configure(c, h, events)
	}
}

// configure commits new settings, and tells the knowledge bases before the reply.
func (g *tenantGrain) configure(c call, h *nodev1.Header, events []kb.Event) {
	var settings *nodev1.TenantSettings // of when the change was made
	reply := func() *nodev1.TenantReply {
		settings = g.settings()
		return g.tenantReply()
	}
	g.record(c, h, events, reply, func(then func()) { g.publish(settings, then) })
}

// publishTimeout bounds how long a change of settings waits to be spread.
const publishTimeout = 3 * time.Second

// publish tells the knowledge bases that asked for the settings what they are
// now, and then calls then: whoever changed a setting finds it applied. One
// that cannot be told asks again by itself within a minute.
func (g *tenantGrain) publish(s *nodev1.TenantSettings, then func()) {
	ids := slices.Clone(g.subscribers)
	go func() {
		defer then()
		ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
		defer cancel()
		for _, id := range ids {
			m := &nodev1.KnowledgeBaseCall{Header: &nodev1.Header{Tenant: g.id.Tenant, Principal: system.principal, Internal: true},
				Operation: &nodev1.KnowledgeBaseCall_TenantChanged{TenantChanged: s}}
			if _, err := g.deps.Asker.Ask(ctx, KindKB, g.id.Tenant, id, m); err != nil {
				g.log().Warn("knowledge base not told of the tenant's settings", "kb", id, "error", err)
			}
		}
	}()
}

func (g *tenantGrain) settings() *nodev1.TenantSettings {
	return &nodev1.TenantSettings{Version: g.tenant.ConfigVersion(), Revision: g.tenant.Revision(), DefaultConfig: configProto(g.tenant.Config()),
		Limits: limitsProto(g.tenant.Limits()), State: granaryv1.TenantState(g.tenant.State())}
}

func (g *tenantGrain) tenantReply() *nodev1.TenantReply {
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Tenant{Tenant: g.tenantProto()}}
}

// list gives the knowledge bases the caller may view.
func (g *tenantGrain) list(h *nodev1.Header, r *granaryv1.ListKnowledgeBasesRequest) *nodev1.TenantReply {
	after := ""
	if t := r.GetPageToken(); t != "" {
		var ok bool
		if after, ok = nameToken(t); !ok {
			return tenantError(pageTokenError())
		}
	}
	grants := grantsOf(h)
	page, more := g.tenant.ListWhere(after, pageSize(r.GetPageSize(), 1000), func(e kb.KBEntry) bool {
		w := kb.WorkspaceOr(e.Workspace)
		return (r.GetWorkspace() == "" || r.GetWorkspace() == w) && (h.GetInternal() || kb.AllowsKB(grants, kb.RoleViewer, w, e.ID))
	})
	out := &granaryv1.ListKnowledgeBasesResponse{}
	for _, e := range page {
		out.KnowledgeBases = append(out.KnowledgeBases, &granaryv1.KnowledgeBase{Name: kbName(e.ID), Uid: e.UID,
			DisplayName: e.DisplayName, Workspace: kb.WorkspaceOr(e.Workspace), CreateTime: timestamp(e.Created)})
	}
	if more {
		out.NextPageToken = makeNameToken(page[len(page)-1].ID)
	}
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_List{List: out}}
}
