package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/gateway/apikey"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// systemSubject is the cluster itself; no credential has it.
const systemSubject = "system"

var errKey = errors.New("the API key is not known, was revoked or has expired")

// admitKey finds out who holds an API key. A text with a wrong checksum is refused
// without a question to anybody. A tenant that cannot be asked lets nobody in: a
// key may have been revoked.
func (g *Gateway) admitKey(ctx context.Context, text string) (Principal, error) {
	k, err := apikey.Parse(text)
	if err != nil {
		return Principal{}, err
	}
	a, fresh, err := g.standing(ctx, callerID{tenant: k.Tenant, key: k.ID})
	switch {
	case err != nil && ctx.Err() != nil:
		return Principal{}, ctx.Err()
	case !fresh:
		return Principal{}, unreachable()
	case a.GetKey() == nil || !k.Matches(a.GetKey().GetMac(), g.cfg.KeyPepper):
		return Principal{}, errKey
	}
	p := Principal{Tenant: k.Tenant, Subject: a.GetKey().GetSubject(), Grants: accessGrants(a), KeyID: k.ID}
	if end := a.GetKey().GetExpireTime(); end != nil {
		p.Expires = end.AsTime()
	}
	if err := g.admitTenant(a); err != nil {
		return Principal{}, err
	}
	g.keyUses.note(g, p)
	return p, nil
}

// keyUses tells tenants when their keys are used, once a minute each.
type keyUses struct {
	mu   sync.Mutex
	told map[callerID]time.Time
}

const tellUses = time.Minute

func (u *keyUses) note(g *Gateway, p Principal) {
	id, now := callerID{tenant: p.Tenant, key: p.KeyID}, g.now()
	u.mu.Lock()
	due := now.Sub(u.told[id]) >= tellUses
	if due {
		if u.told == nil || len(u.told) >= standingMost {
			u.told = make(map[callerID]time.Time)
		}
		u.told[id] = now
	}
	u.mu.Unlock()
	if !due {
		return
	}
	g.background.Go(func() {
		ctx, cancel := context.WithTimeout(g.base, standingAsk)
		defer cancel()
		// Lost, it costs a minute of a last use.
		_, _ = g.cfg.Grains.Ask(ctx, kindTenant, p.Tenant, p.Tenant, &nodev1.TenantCall{
			Header:    &nodev1.Header{Tenant: p.Tenant, Principal: systemSubject, Internal: true},
			Operation: &nodev1.TenantCall_ReportKeyUse{ReportKeyUse: &nodev1.ReportKeyUse{Uses: []*nodev1.KeyUse{{KeyId: p.KeyID, Time: timestamppb.New(now)}}}}})
	})
}
