package node

import (
	"context"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/cmd/internal/metrics"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// lessor asks a tenant's grain for tokens.
type lessor struct {
	ask    *asker
	counts *metrics.Leases
}

// Lease implements tokens.Lessor.
func (l lessor) Lease(ctx context.Context, tenant string, m kb.Meter, from string, q kb.TokenRequest) (kb.TokenLease, string, error) {
	a, by, err := l.lease(ctx, tenant, m, from, q)
	l.counts.Ended(m, q, a, err)
	return a, by, err
}

func (l lessor) lease(ctx context.Context, tenant string, m kb.Meter, from string, q kb.TokenRequest) (kb.TokenLease, string, error) {
	answer, err := l.ask.Ask(ctx, actors.KindTenant, tenant, tenant, &nodev1.TenantCall{
		Header: &nodev1.Header{Tenant: tenant, Principal: "system"},
		Operation: &nodev1.TenantCall_LeaseTokens{LeaseTokens: &nodev1.LeaseTokens{Meter: string(m), Holder: q.Holder, Lessor: from,
			Seq: q.Seq, Window: q.Window, Held: q.Held, Used: q.Used, Want: q.Want, Background: q.Background,
			Credit: q.Credit, Charged: q.Charged}},
	})
	if err != nil {
		return kb.TokenLease{}, "", err
	}
	reply, _ := answer.(*nodev1.TenantReply)
	a := reply.GetTokenLease()
	if a == nil {
		return kb.TokenLease{}, "", kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the tenant does not know its meters: %s", reply.GetError().GetReason())
	}
	return kb.TokenLease{Seq: a.GetSeq(), Window: a.GetWindow(), Left: a.GetLeft().AsDuration(), Held: a.GetHeld(), Base: a.GetBase(),
		Remaining: a.GetRemaining(), Charged: a.GetCharged(), RetryAfter: a.GetRetryAfter().AsDuration()}, a.GetLessor(), nil
}
