package actors

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// keyedTenantCall is a change that carries an idempotency key. It is answered once;
// then those that came later under its key try in turn.
type keyedTenantCall struct {
	call
	g    *tenantGrain
	key  journal.IdempotencyKey
	hash string // of what is asked
	told atomic.Bool
}

// Reply implements call, on any goroutine.
func (k *keyedTenantCall) Reply(m proto.Message, err error) {
	if k.told.Swap(true) {
		return
	}
	k.call.Reply(m, err)
	k.g.tell(&answeredKeyMsg{k})
}

// tenantKey is an idempotency key in use.
type tenantKey struct {
	owner   *keyedTenantCall
	queued  bool   // what becomes of the owner is its commit's to tell
	waiting []call // came later
}

type (
	answeredKeyMsg    struct{ call *keyedTenantCall }
	foundTenantKeyMsg struct {
		call  *keyedTenantCall
		msg   *nodev1.TenantCall
		fence journal.Fence // it was looked up under
		rec   journal.Idempotency
		ok    bool
		err   error
	}
)

// changes tells the operations that are applied once under a key.
func changes(m *nodev1.TenantCall) bool {
	switch m.GetOperation().(type) {
	case *nodev1.TenantCall_UpdateConfig, *nodev1.TenantCall_CreateKey, *nodev1.TenantCall_RevokeKey, *nodev1.TenantCall_BindRole,
		*nodev1.TenantCall_UnbindRole, *nodev1.TenantCall_CreateWorkspace, *nodev1.TenantCall_UpdateWorkspace, *nodev1.TenantCall_DeleteWorkspace,
		*nodev1.TenantCall_ImportSettings, *nodev1.TenantCall_CreateTenant, *nodev1.TenantCall_UpdateTenant, *nodev1.TenantCall_SuspendTenant,
		*nodev1.TenantCall_ResumeTenant, *nodev1.TenantCall_DeleteTenant, *nodev1.TenantCall_UndeleteTenant:
		return true
	}
	return false
}

// serveKeyed carries out a change under a key: one that was applied is answered as it
// was. False for any other call.
func (g *tenantGrain) serveKeyed(c call, m *nodev1.TenantCall) bool {
	h := m.GetHeader()
	if h.GetIdempotencyKey() == "" || !changes(m) || g.broken != nil {
		return false
	}
	key := journal.IdempotencyKey{Principal: h.GetPrincipal(), Method: h.GetMethod(), Key: h.GetIdempotencyKey()}
	if k := g.keyed[key]; k != nil {
		k.waiting = append(k.waiting, c)
		return true
	}
	k := &keyedTenantCall{call: c, g: g, key: key, hash: tenantRequestHash(m)}
	if g.keyed == nil {
		g.keyed = make(map[journal.IdempotencyKey]*tenantKey)
	}
	g.keyed[key] = &tenantKey{owner: k}
	if !g.owned { // nobody ever wrote, so there is no record
		g.serve(k, m)
		return true
	}
	fence := g.fence
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), commitTimeout)
		defer cancel()
		rec, ok, err := g.deps.Store.FindIdempotency(ctx, fence, key)
		g.tell(&foundTenantKeyMsg{call: k, msg: m, fence: fence, rec: rec, ok: ok, err: err})
	}()
	return true
}

func (g *tenantGrain) foundKey(ctx actor.Context, m *foundTenantKeyMsg) {
	switch {
	case m.call.told.Load():
	case g.broken != nil || g.stopping || g.phase != phaseActive || m.fence != g.fence:
		m.call.Reply(nil, movedError()) // nothing of it was decided
	case errors.Is(m.err, journal.ErrFenced):
		m.call.Reply(nil, movedError())
		g.lose(ctx)
	case m.err != nil:
		m.call.Reply(nil, commitError(m.err))
	case m.ok:
		m.call.Reply(recordedTenant(m.rec, m.call.hash), nil)
	default:
		g.serve(m.call, m.msg)
	}
}

// keep puts the answer of a keyed call into the commit of its events.
func (g *tenantGrain) keep(w *write, c call, reply *nodev1.TenantReply) {
	k, ok := c.(*keyedTenantCall)
	if !ok {
		return
	}
	if e := g.keyed[k.key]; e != nil && e.owner == k {
		e.queued = true
	}
	if data, err := proto.Marshal(reply); err == nil {
		w.idem = &journal.Idempotency{IdempotencyKey: k.key, RequestHash: k.hash, Response: data, Expires: g.deps.Now().Add(idempotencyTTL)}
	}
	w.replay = func(rec journal.Idempotency) { k.Reply(recordedTenant(rec, k.hash), nil) }
}

// answeredKey lets those that waited for a key try in turn.
func (g *tenantGrain) answeredKey(m *answeredKeyMsg) {
	k := g.keyed[m.call.key]
	if k == nil || k.owner != m.call {
		return
	}
	delete(g.keyed, m.call.key)
	for _, c := range k.waiting {
		if g.phase != phaseActive && !g.stopping {
			g.park(c)
		} else {
			g.handle(c)
		}
	}
}

// refuseKeyed tells those under keys whose decision is not on its way why there is none.
func (g *tenantGrain) refuseKeyed(err error) {
	keyed := g.keyed
	g.keyed = nil
	for _, k := range keyed {
		if !k.queued {
			k.owner.Reply(nil, err)
		}
		for _, c := range k.waiting {
			c.Reply(nil, err)
		}
	}
}

// recordedTenant is the answer to a request that was applied before.
func recordedTenant(rec journal.Idempotency, hash string) *nodev1.TenantReply {
	r := &nodev1.TenantReply{}
	switch {
	case rec.RequestHash != hash:
		return tenantError(keyMisused())
	case proto.Unmarshal(rec.Response, r) != nil:
		return tenantError(kb.Errorf(kb.CodeInternal, kb.ReasonInternal, "the stored response cannot be read"))
	}
	return r
}

// tenantRequestHash identifies what was asked. A key's text is made anew with each try.
func tenantRequestHash(m *nodev1.TenantCall) string {
	m = proto.CloneOf(m)
	m.Header = nil
	if k := m.GetCreateKey(); k != nil {
		k.Id, k.Mac = "", nil
	}
	return messageHash(m)
}
