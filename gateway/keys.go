package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/gateway/apikey"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// systemSubject is the cluster itself; no credential has it.
const systemSubject = "system"

var errKey = withCause(CauseKey, errors.New("the API key is not known, was revoked or has expired"))

// readKey reads an API key. One with a wrong checksum, or an id that no server made,
// is refused without a question to anybody.
func (g *Gateway) readKey(text string) (apikey.Key, error) {
	if len(g.cfg.KeyPepper) < minPepper {
		return apikey.Key{}, errKey
	}
	k, err := apikey.Parse(text)
	if err != nil {
		return k, withCause(CauseMalformed, err)
	}
	if !k.Issued(g.cfg.KeyPepper) {
		return k, errKey
	}
	return k, nil
}

// admitKey finds out who holds an API key. A tenant that cannot be asked lets nobody
// in: a key may have been revoked.
func (g *Gateway) admitKey(ctx context.Context, k apikey.Key) (Principal, error) {
	t, err := g.standing(ctx, callerID{tenant: k.Tenant, key: k.ID})
	a := t.access
	switch {
	case err != nil && ctx.Err() != nil:
		return Principal{}, ctx.Err()
	case !t.fresh:
		return Principal{}, unreachable()
	case a.GetKey() == nil || !k.Matches(a.GetKey().GetMac(), g.cfg.KeyPepper):
		return Principal{}, errKey
	}
	p := Principal{Tenant: k.Tenant, Subject: a.GetKey().GetSubject(), Grants: accessGrants(a), KeyID: k.ID, calls: t.calls}
	p.meet(a, t.asked)
	if end := a.GetKey().GetExpireTime(); end != nil {
		p.Expires = end.AsTime()
	}
	if err := g.admitTenant(a); err != nil {
		return p, err
	}
	g.keyUses.note(g, p, callOf(ctx).remote)
	return p, nil
}

// keyUses tells tenants when their keys are used: once a minute each, and those of a
// moment together.
type keyUses struct {
	mu      sync.Mutex
	told    map[callerID]time.Time
	pending map[string][]*nodev1.KeyUse // by tenant
}

const (
	tellUses     = time.Minute
	gatherUses   = time.Second
	usesTogether = 1000
)

func (u *keyUses) note(g *Gateway, p Principal, remote string) {
	id, now := callerID{tenant: p.Tenant, key: p.KeyID}, g.now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.told[id]) < tellUses {
		return
	}
	if u.told == nil || len(u.told) >= standingMost {
		u.told, u.pending = make(map[callerID]time.Time), make(map[string][]*nodev1.KeyUse)
	}
	u.told[id] = now
	uses, gathering := u.pending[p.Tenant]
	if len(uses) < usesTogether {
		u.pending[p.Tenant] = append(uses, &nodev1.KeyUse{KeyId: p.KeyID, Time: timestamppb.New(now), Remote: remote})
	}
	if !gathering {
		g.background.Go(func() {
			_ = pause(g.base, gatherUses) // cut short by a shutdown, which waits for this
			u.tell(g, p.Tenant)
		})
	}
}

// tell sends what was gathered. Lost, it costs a minute of a last use.
func (u *keyUses) tell(g *Gateway, tenant string) {
	u.mu.Lock()
	uses := u.pending[tenant]
	delete(u.pending, tenant)
	u.mu.Unlock()
	ctx, cancel := context.WithTimeout(g.base, standingAsk)
	defer cancel()
	if ctx.Err() != nil || len(uses) == 0 {
		return
	}
	_, err := g.cfg.Grains.Ask(ctx, kindTenant, tenant, tenant, &nodev1.TenantCall{
		Header:    &nodev1.Header{Tenant: tenant, Principal: systemSubject, Internal: true},
		Operation: &nodev1.TenantCall_ReportKeyUse{ReportKeyUse: &nodev1.ReportKeyUse{Uses: uses}}})
	if err != nil {
		g.log.DebugContext(ctx, "the tenant was not told of its keys' uses", slog.String("tenant", tenant), slog.Any("error", err))
	}
}
