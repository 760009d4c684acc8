package actors_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// leaser holds tokens as a node does, and uses all it gets.
type leaser struct {
	w    *world
	id   string
	last *nodev1.TokenLease
	seq  int64
	used int64
}

func (l *leaser) ask(want int64) (*nodev1.TokenLease, error) {
	l.seq++
	m := &nodev1.TenantCall{Header: &nodev1.Header{Tenant: tenant, Principal: "system"}, Operation: &nodev1.TenantCall_LeaseTokens{
		LeaseTokens: &nodev1.LeaseTokens{Meter: string(kb.MeterCalls), Holder: l.id, Lessor: l.last.GetLessor(), Seq: l.seq,
			Window: l.last.GetWindow(), Held: l.last.GetHeld(), Used: l.last.GetHeld(), Want: want}}}
	r, err := l.w.ask(l.w.t.Context(), actors.KindTenant, tenant, m)
	if err != nil {
		return nil, err
	}
	got := r.(*nodev1.TenantReply).GetTokenLease()
	if got == nil {
		return nil, fmt.Errorf("reply is %v", r)
	}
	held := l.last.GetHeld()
	if got.GetWindow() != l.last.GetWindow() {
		held = 0
	}
	l.used += got.GetHeld() - held
	l.last = got
	return got, nil
}

// drain uses tokens until there are none, or n leases were had.
func (l *leaser) drain(n int) {
	l.w.t.Helper()
	for range n {
		got, err := l.ask(100)
		if err != nil {
			l.w.t.Fatal(err)
		}
		if got.GetRetryAfter().AsDuration() > 0 {
			return
		}
	}
}

func (w *world) leaser(id string) *leaser { return &leaser{w: w, id: id} }

func (w *world) quota(metric string) *granaryv1.Quota {
	w.t.Helper()
	r := w.tenantCall(&nodev1.TenantCall{Operation: &nodev1.TenantCall_GetUsage{GetUsage: &granaryv1.GetUsageRequest{}}})
	for _, q := range r.GetUsage().GetQuotas() {
		if q.GetMetric() == metric {
			return q
		}
	}
	w.t.Fatalf("no quota %s in %v", metric, r)
	return nil
}

const callsPerHour = "api_calls_per_hour"

func TestB4_TokensOutliveTheirOwner(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) { // starter: 1,000 calls an hour
		a, b := w.leaser("a"), w.leaser("b")
		a.drain(10)
		b.drain(10)
		for _, l := range []*leaser{a, b} {
			if _, err := l.ask(0); err != nil { // tells what is used
				t.Fatal(err)
			}
		}
		q := w.quota(callsPerHour)
		if q.GetUsed() != a.used+b.used || q.GetBase() != 1000 || q.GetRemaining() != 1000-a.used-b.used {
			t.Fatalf("quota is %v after %d and %d", q, a.used, b.used)
		}
		w.restart() // what was reserved ahead is given back
		if q := w.quota(callsPerHour); q.GetUsed() != a.used+b.used {
			t.Fatalf("quota is %v after a restart, %d and %d are used", q, a.used, b.used)
		}
		a.drain(5)
		w.crash()
		b.drain(5)
		w.crash()
		a.drain(1000)
		b.drain(1000)
		// A crash loses what was reserved ahead, a thirty-second of the limit at most.
		if sum := a.used + b.used; sum > 1000 || sum < 1000-2*1000/32 {
			t.Fatalf("%d and %d tokens of 1,000", a.used, b.used)
		}
		if q := w.quota(callsPerHour); q.GetRemaining() != 0 || q.GetUsed() != 1000 {
			t.Fatalf("quota is %v", q)
		}
	})
}

func TestB4_NoTokenWithoutItsCommit(t *testing.T) {
	for name, applied := range map[string]bool{"applied": true, "not applied": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				a := w.leaser("a")
				a.drain(2)
				before := a.used
				for _, fault := range []error{journal.ErrInDoubt, journal.ErrUnavailable} {
					if applied && errors.Is(fault, journal.ErrUnavailable) {
						continue // it says that nothing was
					}
					w.faults.failOnce("Append", func(o op) bool { return len(o.batch.SetCounters) > 0 }, fault, applied)
					for range 40 { // until a reservation is due
						if _, err := a.ask(100); err != nil {
							break
						}
					}
				}
				a.drain(1000)
				if a.used > 1000 || a.used < 900 || before == 0 {
					t.Fatalf("%d tokens of 1,000", a.used)
				}
			})
		})
	}
}

func TestB4_WindowsFollowTheOwnersClock(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		a := w.leaser("a")
		a.drain(1000)
		got, err := a.ask(1)
		if err != nil || a.used != 1000 || got.GetRetryAfter().AsDuration() != got.GetLeft().AsDuration() {
			t.Fatalf("%d used, %v, %v", a.used, got, err)
		}
		time.Sleep(got.GetLeft().AsDuration() - time.Millisecond)
		if a.drain(1); a.used != 1000 {
			t.Fatal("a token before the window ended")
		}
		time.Sleep(time.Millisecond)
		if a.drain(1000); a.used != 2000 {
			t.Fatalf("%d used in two windows", a.used)
		}
		w.crash()
		time.Sleep(10 * time.Hour)
		q := w.quota(callsPerHour)
		if q.GetBurstAvailable() != 500 || q.GetLimit() != 1500 || q.GetUsed() != 0 {
			t.Fatalf("quota after ten idle hours is %v", q)
		}
		if a.drain(1000); a.used != 3500 {
			t.Fatalf("%d used, want 1,500 more than 2,000", a.used)
		}
	})
}

func TestB4_AnIdleTenantLeavesAndGivesBackWhatItReserved(t *testing.T) {
	bubble(t, setup{idle: time.Minute}, func(t *testing.T, w *world) {
		a := w.leaser("a")
		a.drain(3)
		time.Sleep(5 * time.Minute)
		counters, err := w.disk.Counters(t.Context(), journal.Identity{Kind: actors.KindTenant, Tenant: tenant, ID: tenant})
		if err != nil || len(counters) != 2 || counters[0].Value != a.used {
			t.Fatalf("counters are %+v, %v; %d tokens are used", counters, err, a.used)
		}
		if n := len(w.node.Activations()); n != 0 {
			t.Fatalf("%d grains are in memory", n)
		}
	})
}
