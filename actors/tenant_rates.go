package actors

import (
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// tenantRates are the limits in windows of time: calls, vector operations. The rules are
// kb.Rate's; here is what makes its reservations durable.
//
// A lease is answered from memory, without asking whether this activation is still the
// owner: it comes out of what was reserved under its fence, which every later owner counts
// as used.
type tenantRates struct {
	lessor string // this activation
	meters map[kb.Meter]*rateMeter
}

type rateMeter struct {
	rate       *kb.Rate
	committing bool
	parked     []func(error) // requests that wait for the commit
}

// sparedMsg: what was reserved for nothing is given back, the grain may leave.
type sparedMsg struct{}

// serveRates carries out what concerns limits in windows of time, and shows usage; false
// when the operation is not of these.
func (g *tenantGrain) serveRates(c call, m *nodev1.TenantCall) bool {
	switch op := m.GetOperation().(type) {
	case *nodev1.TenantCall_LeaseTokens:
		if kb.Meter(op.LeaseTokens.GetMeter()).Period() == 0 {
			return false // of a later release
		}
		g.leaseTokens(c, op.LeaseTokens)
	case *nodev1.TenantCall_GetUsage:
		g.current(orReply(c, func() { g.usage(c, m.GetHeader()) }))
	default:
		return false
	}
	return true
}

// meter finds a meter, and has it in the window of now.
func (g *tenantGrain) meter(m kb.Meter) *rateMeter {
	if g.rates == nil {
		g.rates = &tenantRates{lessor: uuid.NewString(), meters: make(map[kb.Meter]*rateMeter)}
	}
	r := g.rates.meters[m]
	if r == nil {
		r = &rateMeter{rate: kb.NewRate(m, rateRecord(m, g.counters))}
		g.rates.meters[m] = r
	}
	r.rate.Roll(g.deps.Now(), m.Base(g.tenant.Limits()))
	return r
}

// The counters of a meter. Their epoch is the window.
func reservedName(m kb.Meter) string { return "rate/" + string(m) }
func bankName(m kb.Meter) string     { return "rate/" + string(m) + "/bank" }

func rateRecord(m kb.Meter, counters []journal.Counter) *kb.RateRecord {
	var rec *kb.RateRecord
	for _, c := range counters {
		if c.Name == reservedName(m) {
			rec = &kb.RateRecord{Window: c.Epoch, Reserved: c.Value}
		}
	}
	for _, c := range counters {
		if rec != nil && c.Name == bankName(m) && c.Epoch == rec.Window {
			rec.Bank = c.Value
		}
	}
	return rec
}

func rateCounters(m kb.Meter, rec kb.RateRecord) []journal.Counter {
	return []journal.Counter{{Name: reservedName(m), Epoch: rec.Window, Value: rec.Reserved}, {Name: bankName(m), Epoch: rec.Window, Value: rec.Bank}}
}

func (g *tenantGrain) leaseTokens(c call, q *nodev1.LeaseTokens) {
	if g.broken != nil {
		c.Reply(nil, g.broken)
		return
	}
	m := kb.Meter(q.GetMeter())
	r := g.meter(m)
	lease, rec := r.rate.Lease(kb.TokenRequest{Holder: q.GetHolder(), Known: q.GetLessor() == g.rates.lessor, Seq: q.GetSeq(),
		Window: q.GetWindow(), Held: q.GetHeld(), Used: q.GetUsed(), Want: q.GetWant(), Background: q.GetBackground(),
		Credit: q.GetCredit(), Charged: q.GetCharged()}, g.deps.Now(), m.Base(g.tenant.Limits()))
	if rec != nil {
		g.reserve(m, r, *rec, orReply(c, func() {
			if !expired(c) {
				g.leaseTokens(c, q)
			}
		}))
		return
	}
	c.Reply(&nodev1.TenantReply{Result: &nodev1.TenantReply_TokenLease{TokenLease: &nodev1.TokenLease{Lessor: g.rates.lessor,
		Seq: lease.Seq, Window: lease.Window, Left: durationpb.New(lease.Left), Held: lease.Held, Base: lease.Base,
		Remaining: lease.Remaining, Charged: lease.Charged, RetryAfter: durationpb.New(lease.RetryAfter)}}}, nil)
}

// reserve commits a reservation; then runs behind it, or behind the one under way.
func (g *tenantGrain) reserve(m kb.Meter, r *rateMeter, rec kb.RateRecord, then func(error)) {
	if len(r.parked) >= maxWaiting {
		then(busyError())
		return
	}
	r.parked = append(r.parked, then)
	if r.committing {
		return
	}
	w, err := g.count(rateCounters(m, rec))
	if err != nil {
		r.wake(err)
		return
	}
	r.committing = true
	w.done = func(err error) {
		r.committing = false
		if err == nil {
			r.rate.Committed(rec)
		}
		r.wake(err)
	}
	g.flush(g.owes())
}

func (r *rateMeter) wake(err error) {
	parked := r.parked
	r.parked = nil
	for _, f := range parked {
		f(err)
	}
}

// spareRates gives back what was reserved and not granted, before the grain leaves: what
// is not given back counts as used. It reports whether a commit is under way for it.
func (g *tenantGrain) spareRates() bool {
	if g.rates == nil || !g.owned {
		return false
	}
	var counters []journal.Counter
	for m, r := range g.rates.meters {
		if rec := r.rate.Spare(g.deps.Now()); rec != nil {
			counters = append(counters, rateCounters(m, *rec)...)
		}
	}
	if len(counters) == 0 {
		return false
	}
	w, err := g.count(counters)
	if err != nil {
		return false
	}
	w.done = func(err error) {
		if err == nil {
			g.tell(&sparedMsg{})
		}
	}
	g.flush(g.owes())
	return true
}

// rateQuotas are the limits in windows of time as users see them.
func (g *tenantGrain) rateQuotas() []*granaryv1.Quota {
	out := make([]*granaryv1.Quota, 0, 2)
	for _, m := range []kb.Meter{kb.MeterCalls, kb.MeterVectors} {
		u := g.meter(m).rate.Usage(m.Base(g.tenant.Limits()))
		out = append(out, &granaryv1.Quota{Metric: metricOf(m), Limit: u.Base + u.Bank, Base: u.Base, BurstAvailable: u.BurstLeft,
			Used: u.Used, GrantedUnused: u.GrantedUnused, Remaining: u.Remaining, WindowStart: timestamp(u.Start), ResetTime: timestamp(u.Reset)})
	}
	return slices.Clip(out)
}

func metricOf(m kb.Meter) string {
	if m == kb.MeterVectors {
		return "vector_operations_per_minute"
	}
	return "api_calls_per_hour"
}
