package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// What a gateway knows of its callers' standing: the state of their tenant, what
// is bound to them, and their keys. It is the tenant's grain that knows; what it
// said is used for less than a second, counted from when it was asked, so that a
// revocation or a suspension is in force on every node within one. Who cannot be
// asked about does not get in: what was good a second ago may be revoked.
const (
	standingLife  = 900 * time.Millisecond
	standingAhead = 400 * time.Millisecond // older ones are asked for anew while they are used
	standingAsk   = 2 * time.Second        // longest wait for the tenant's grain
	standingRest  = time.Second            // how long a tenant that could not be asked is not asked again
	standingIdle  = 10 * time.Minute       // who has not called for as long is forgotten first
	standingMost  = 1 << 16                // callers remembered
)

// callerID names a credential inside its tenant: the subject of a token that was
// verified, or a key whose id a server made. What anybody can make up is not asked
// about, so no flood of it wakes a grain or drives out who is remembered.
type callerID struct{ tenant, key, subject string }

// caller names the credential of a principal.
func (p Principal) caller() callerID {
	if p.KeyID != "" {
		return callerID{tenant: p.Tenant, key: p.KeyID}
	}
	return callerID{tenant: p.Tenant, subject: p.Subject}
}

// standings remembers callers. Safe for concurrent use.
type standings struct {
	mu    sync.Mutex
	known map[callerID]*standing
}

// standing is one caller.
type standing struct {
	mu     sync.Mutex
	asking chan struct{} // closed when the question under way is answered; nil when there is none
	access *nodev1.Access
	sent   time.Time // when access was asked for
	failed time.Time // when the tenant could last not be asked
	err    error
	spared time.Time // when all calls that are not counted may be made again
	calls  Account   // counts the tenant's calls, at hand; nil when nothing is counted
}

// told is what is known of a caller.
type told struct {
	access *nodev1.Access // nil when the tenant never said anything
	asked  time.Time      // when it was asked for that
	fresh  bool           // false when it could not be asked: access is an older answer
	calls  Account        // counts the tenant's calls; nil when nothing is counted
}

// spare takes a call that is not counted, if the caller has one.
func (s *standing) spare(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spared.Before(now) {
		s.spared = now
	}
	if s.spared.Sub(now) > (uncountedMost-1)*uncountedEvery {
		return false
	}
	s.spared = s.spared.Add(uncountedEvery)
	return true
}

func (s *standings) of(id callerID, now time.Time) *standing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = make(map[callerID]*standing)
	}
	e := s.known[id]
	if e == nil {
		if len(s.known) >= standingMost {
			s.sweep(now)
		}
		e = &standing{}
		s.known[id] = e
	}
	return e
}

// sweep makes room: those who have not called for long go, and when that is too
// few, some others.
func (s *standings) sweep(now time.Time) {
	for id, e := range s.known {
		e.mu.Lock()
		old := e.asking == nil && since(e.sent, now) > standingIdle
		e.mu.Unlock()
		if old || len(s.known) > standingMost*3/4 {
			delete(s.known, id)
		}
	}
}

// since is how long ago something was, by the clock that tells more: Go's own stands
// still while the machine is suspended, and the other may be set back.
func since(then, now time.Time) time.Duration {
	return max(now.Sub(then), now.Round(0).Sub(then.Round(0)))
}

// standing tells what a tenant says of a caller. An answer that took so long that it is
// old when it comes is asked for once more, since the first question is often the one
// that wakes the tenant.
func (g *Gateway) standing(ctx context.Context, id callerID) (t told, err error) {
	e := g.standings.of(id, g.now())
	for range 2 {
		if t, err = g.standingOf(ctx, id, e); t.fresh || err != nil {
			break
		}
	}
	return t, err
}

func (g *Gateway) standingOf(ctx context.Context, id callerID, e *standing) (t told, err error) {
	now := g.now()
	e.mu.Lock()
	if m := g.cfg.Meters; m != nil && (e.calls == nil || e.calls.Ended()) {
		e.calls = m.Account(id.tenant, kb.MeterCalls)
	}
	t.calls = e.calls
	age := since(e.sent, now)
	switch {
	case e.access != nil && age < standingLife:
		if age > standingAhead && e.asking == nil {
			g.askStanding(id, e)
		}
		t.access, t.asked, t.fresh = e.access, e.sent, true
		e.mu.Unlock()
		return t, nil
	case since(e.failed, now) < standingRest:
		t.access, err = e.access, e.err
		e.mu.Unlock()
		return t, err
	}
	if e.asking == nil {
		g.askStanding(id, e)
	}
	asking := e.asking
	e.mu.Unlock()
	select {
	case <-asking:
	case <-ctx.Done():
		return told{}, ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	t.access, t.asked, t.fresh = e.access, e.sent, e.err == nil && since(e.sent, g.now()) < standingLife
	return t, e.err
}

// askStanding asks beside the call, with e locked.
func (g *Gateway) askStanding(id callerID, e *standing) {
	done := make(chan struct{})
	e.asking = done
	sent := g.now()
	g.background.Go(func() {
		ctx, cancel := context.WithTimeout(g.base, standingAsk)
		defer cancel()
		a, err := g.readStanding(ctx, id)
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.asking, e.err = nil, err; err == nil {
			e.access, e.sent = a, sent
		} else {
			e.failed = g.now()
		}
		close(done)
	})
}

func (g *Gateway) readStanding(ctx context.Context, id callerID) (*nodev1.Access, error) {
	answer, err := g.cfg.Grains.Ask(ctx, kindTenant, id.tenant, id.tenant, &nodev1.TenantCall{
		Header:    &nodev1.Header{Tenant: id.tenant, Principal: systemSubject, Internal: true},
		Operation: &nodev1.TenantCall_GetAccess{GetAccess: &nodev1.GetAccess{KeyId: id.key, Subject: id.subject}}})
	if err != nil {
		return nil, err
	}
	reply, ok := answer.(*nodev1.TenantReply)
	switch {
	case ok && reply.GetError() != nil:
		return nil, domainError(reply.GetError())
	case !ok || reply.GetAccess() == nil:
		return nil, errReply
	}
	return reply.GetAccess(), nil
}

// unreachable is what callers hear of a tenant that cannot be asked.
func unreachable() error {
	return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "It cannot be told now who may call; try again.").After(time.Second)
}

// admitToken completes what a verified token says by what its tenant says. A tenant
// that cannot be asked lets nobody in, for it may have been suspended, or the role taken:
// but for a search that may be stale, by the token's own roles. The knowledge base
// answers that when the store is away, in which time nothing can be taken either.
func (g *Gateway) admitToken(ctx context.Context, spec connect.Spec, p Principal) (Principal, error) {
	t, err := g.standing(ctx, callerID{tenant: p.Tenant, subject: p.Subject})
	if err != nil && ctx.Err() != nil {
		return p, ctx.Err()
	}
	if p.unproven = !t.fresh; p.unproven {
		g.log.DebugContext(ctx, "the tenant cannot be asked who may call", slog.String("tenant", p.Tenant), slog.Any("error", err))
		if spec.Procedure != granaryv1connect.SearchServiceSearchProcedure {
			return p, unreachable()
		}
	}
	p.Grants, p.calls = tokenGrants(p), t.calls
	a := t.access
	if a == nil {
		return p, nil
	}
	p.meet(a, t.asked)
	if err := g.admitTenant(a); err != nil {
		return p, err
	}
	if t.fresh {
		p.Grants = append(p.Grants, boundGrants(p, a)...)
	}
	return p, nil
}

// meet notes what a tenant tells of itself, and when it was asked.
func (p *Principal) meet(a *nodev1.Access, asked time.Time) {
	p.asked = asked
	if s := a.GetSince(); s != nil {
		p.since = s.AsTime()
	}
}

// boundGrants is what is bound to a token's subject: inside its workspace, if the
// token names one.
func boundGrants(p Principal, a *nodev1.Access) []kb.Grant {
	var grants []kb.Grant
	for _, b := range accessGrants(a) {
		if p.Workspace != "" {
			if b.Workspace != "" && b.Workspace != p.Workspace {
				continue
			}
			b.Workspace = p.Workspace
		}
		grants = append(grants, b)
	}
	return grants
}

func accessGrants(a *nodev1.Access) []kb.Grant {
	grants := make([]kb.Grant, len(a.GetGrants()))
	for i, g := range a.GetGrants() {
		grants[i] = kb.Grant{Role: kb.Role(g.GetRole()), Workspace: g.GetWorkspace(), KnowledgeBase: g.GetKnowledgeBase()}
	}
	return grants
}

// errUnknownTenant stays in the log.
var errUnknownTenant = withCause(CauseTenant, errors.New("the tenant does not exist, and none comes to be by its use"))

// admitTenant refuses the users of a tenant that is not active.
func (g *Gateway) admitTenant(a *nodev1.Access) error {
	if a.GetUnknownTenant() && g.cfg.RefuseUnknownTenants {
		return errUnknownTenant
	}
	return kb.TenantState(a.GetState()).Admits()
}
