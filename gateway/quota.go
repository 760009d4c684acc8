package gateway

import (
	"context"
	"strconv"
	"time"

	"connectrpc.com/connect/v2"
	"granary.dev/granary/actors/kb"
)

// Headers that tell a client how its tenant's calls stand (IETF draft
// ietf-httpapi-ratelimit-headers).
const (
	headerRateLimit = "Ratelimit" // as Go writes it; names of headers have no case
	headerPolicy    = "Ratelimit-Policy"
)

// Of calls that are not counted a caller has so many at once, and one more each time.
const (
	uncountedMost  = 30
	uncountedEvery = 2 * time.Second
)

// countCall counts a call of a tenant: each that shows a good credential, whatever becomes
// of it then. A stream counts when it opens, and once. What shows a tenant at its limit
// why, and what takes access away, does not count while it is seldom: by caller and node,
// so that who floods with one credential cannot keep the others from revoking it.
func (g *Gateway) countCall(ctx context.Context, info *connect.CallInfo) error {
	if g.cfg.Meters == nil {
		return nil
	}
	p := &callOf(ctx).principal
	if uncounted[info.Spec.Procedure] {
		if now := g.now(); g.standings.of(p.caller(), now).spare(now) {
			return nil
		}
	}
	calls := p.calls
	if calls == nil {
		calls = g.cfg.Meters.Account(p.Tenant, kb.MeterCalls)
	}
	s, err := calls.Take(ctx)
	if s.Base > 0 && s.Base < kb.Unlimited {
		h := info.ResponseHeader()
		h.Set(headerPolicy, ratePolicy(s))
		h.Set(headerRateLimit, rateLimit(s))
	}
	return err
}

func ratePolicy(s kb.TokenState) string {
	b := make([]byte, 0, 40)
	b = strconv.AppendInt(append(b, `"calls";q=`...), s.Base, 10)
	b = strconv.AppendInt(append(b, `;w=`...), int64(kb.MeterCalls.Period()/time.Second), 10)
	return string(b)
}

// rateLimit tells what is left and in how many seconds it is renewed. What a tenant has
// saved comes on top of its limit, but no more is shown than the policy says.
func rateLimit(s kb.TokenState) string {
	b := make([]byte, 0, 40)
	b = strconv.AppendInt(append(b, `"calls";r=`...), min(s.Remaining, s.Base), 10)
	b = strconv.AppendInt(append(b, `;t=`...), int64((s.Reset+time.Second-1)/time.Second), 10)
	return string(b)
}
