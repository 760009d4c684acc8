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

// countCall counts a call of a tenant: each that shows a good credential, whatever becomes
// of it then. A stream counts when it opens, and once.
func (g *Gateway) countCall(ctx context.Context, info *connect.CallInfo) error {
	if g.cfg.Meters == nil {
		return nil
	}
	s, err := g.cfg.Meters.Take(ctx, callOf(ctx).principal.Tenant, kb.MeterCalls)
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
