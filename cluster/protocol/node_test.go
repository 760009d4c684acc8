package protocol_test

import (
	"errors"
	"testing"
	"time"

	"granary.dev/granary/cluster/protocol"
)

func TestFirstNodeStartsTheCluster(t *testing.T) {
	s := begin(t, node(1))
	s.renewal(protocol.View{}, protocol.Survey{})
	swap := take[protocol.SwapView](s)
	if m, ok := swap.Next.Find(node(1)); !ok || m.State != protocol.Live || swap.Next.Version != 1 {
		t.Fatalf("proposes %+v", swap.Next)
	}
	s.step(protocol.Swapped{Call: swap.Call, View: swap.Next})
	take[protocol.ViewChanged](s)
	if s.n.Phase() != protocol.Inside || !s.n.Lease().Valid(s.now, protocol.DefaultTiming()) {
		t.Fatalf("phase %v, lease %+v", s.n.Phase(), s.n.Lease())
	}
}

func TestJoinNeedsTheSameTablesAndAWayThereAndBack_A3(t *testing.T) {
	v := viewOf(protocol.Dead, protocol.Live, protocol.Live)
	me := protocol.NodeID{Name: "node-1", Boot: "new"}
	t.Run("other tables", func(t *testing.T) {
		s := begin(t, me)
		other := v
		other.Fingerprint = "other"
		s.renewal(other, protocol.Survey{})
		if r := take[protocol.JoinRefused](s); !errors.Is(r.Why, protocol.ErrFingerprint) {
			t.Fatalf("refused: %v", r.Why)
		}
	})
	t.Run("one way only", func(t *testing.T) {
		s := begin(t, me)
		s.renewal(v, protocol.Survey{})
		if p := take[protocol.Probe](s); len(p.Peers) != 2 {
			t.Fatalf("probes %v", p.Peers)
		}
		s.step(protocol.Probed{Peer: node(2), Out: true, In: true})
		if len(s.out) > 0 {
			t.Fatalf("did not wait for both: %+v", s.out)
		}
		s.step(protocol.Probed{Peer: node(3), Out: true})
		if r := take[protocol.JoinRefused](s); !errors.Is(r.Why, protocol.ErrUnreachable) {
			t.Fatalf("refused: %v", r.Why)
		}
	})
	t.Run("both ways", func(t *testing.T) {
		s := begin(t, me)
		s.renewal(v, protocol.Survey{})
		s.step(protocol.Probed{Peer: node(2), Out: true, In: true})
		s.step(protocol.Probed{Peer: node(3), Out: true, In: true})
		if m, _ := take[protocol.SwapView](s).Next.Find(me); m.State != protocol.Joining {
			t.Fatalf("joins as %q", m.State)
		}
	})
	t.Run("its own name is still a member", func(t *testing.T) {
		s := begin(t, me)
		s.renewal(viewOf(protocol.Live, protocol.Live), protocol.Survey{})
		if r := take[protocol.JoinRefused](s); !errors.Is(r.Why, protocol.ErrNameTaken) {
			t.Fatalf("refused: %v", r.Why)
		}
	})
}

func TestLeaseCountsFromTheSending(t *testing.T) {
	s := member(t, viewOf(protocol.Live, protocol.Live))
	s.wait(500 * time.Millisecond)
	sent := s.now
	r := take[protocol.RenewLease](s)
	s.wait(900 * time.Millisecond)
	s.step(protocol.Renewed{Call: r.Call, View: s.n.View()})
	if l := s.n.Lease(); l.Sent != sent || l.Valid(sent+2700*time.Millisecond, protocol.DefaultTiming()) {
		t.Fatalf("lease %+v, sent at %v", l, sent)
	}
}

func TestLapseBeginsANewTerm(t *testing.T) {
	v := viewOf(protocol.Live, protocol.Live)
	s := member(t, v)
	term := s.n.Lease().Term
	for s.n.Lease().Held {
		if s.now > 2*time.Hour {
			t.Fatal("the lease never lapses")
		}
		s.wait(100 * time.Millisecond)
	}
	take[protocol.Lapsed](s)
	s.renewal(v, protocol.Survey{Settled: true})
	if l := s.n.Lease(); !l.Held || l.Term != term+1 {
		t.Fatalf("lease %+v after a lapse of term %d", l, term)
	}
}

func TestAStoppedProcessTrustsNothing(t *testing.T) {
	s := member(t, viewOf(protocol.Live, protocol.Live))
	s.now += 1100 * time.Millisecond
	s.step(protocol.Tick{})
	take[protocol.Lapsed](s)
	take[protocol.RenewLease](s)
	if s.n.Lease().Held {
		t.Fatal("the lease still holds")
	}
}

func TestLateAnswersAndOlderViewsAreIgnored(t *testing.T) {
	v := viewOf(protocol.Live, protocol.Live)
	s := member(t, v)
	s.wait(500 * time.Millisecond)
	late := take[protocol.RenewLease](s)
	held := s.n.Lease().Sent
	s.wait(1100 * time.Millisecond) // given up, another one is under way
	s.step(protocol.Renewed{Call: late.Call, View: v})
	if s.n.Lease().Sent != held {
		t.Fatal("a late answer extends the lease")
	}
	newer := change(t)(v.Relocate("acme", "node-2"))
	s.now += 100 * time.Millisecond
	s.renewal(newer, protocol.Survey{})
	s.renewal(v, protocol.Survey{})
	if s.n.View().Version != newer.Version {
		t.Fatalf("went back to view %d", s.n.View().Version)
	}
}

func TestOnlyASteadyNodeGivesOthersUp(t *testing.T) {
	v := viewOf(protocol.Live, protocol.Live)
	gone := protocol.Survey{Expired: []protocol.NodeID{node(2)}}
	s := member(t, v)
	s.renewal(v, gone)
	if _, ok := find[protocol.SwapView](s); ok {
		t.Fatal("evicts at once, though the store may have been away for everyone")
	}
	s.steady(v)
	s.renewal(v, gone)
	swap := take[protocol.SwapView](s)
	if m, _ := swap.Next.Find(node(2)); m.State != protocol.Dead {
		t.Fatalf("proposes %+v", swap.Next)
	}
	s.step(protocol.SwapFailed{Call: swap.Call})
	if _, ok := find[protocol.SwapView](s); ok {
		t.Fatal("proposes again without having looked")
	}
	r := take[protocol.RenewLease](s)
	s.step(protocol.RenewFailed{Call: r.Call}) // the store stumbles
	s.renewal(v, gone)
	if _, ok := find[protocol.SwapView](s); ok {
		t.Fatal("evicts though its own renewals fail")
	}
}

func TestOneNodeActsAndTheNextOnlyIfItDoesNot(t *testing.T) {
	v := viewOf(protocol.Live, protocol.Live, protocol.Live)
	gone := protocol.Survey{Expired: []protocol.NodeID{node(3)}}
	s := begin(t, node(2))
	s.renewal(v, protocol.Survey{Settled: true})
	s.step(protocol.Pending{View: v.Version})
	s.steady(v)
	s.renewal(v, gone)
	if _, ok := find[protocol.SwapView](s); ok {
		t.Fatal("node-2 acts before node-1 had a chance")
	}
	s.step(protocol.Suspected{Node: node(1), Gone: true})
	take[protocol.SwapView](s)
}

func TestAnEvictedNodeEnds(t *testing.T) {
	for name, v := range map[string]protocol.View{
		"marked dead": change(t)(viewOf(protocol.Live, protocol.Live).MarkDead([]protocol.NodeID{node(1)})),
		"replaced by new boot": func() protocol.View {
			v := viewOf(protocol.Live, protocol.Live)
			v.Version++
			v.Members[0].Boot = "x"
			return v
		}(),
	} {
		s := member(t, viewOf(protocol.Live, protocol.Live))
		s.renewal(v, protocol.Survey{})
		if e := take[protocol.Ended](s); !errors.Is(e.Why, protocol.ErrFinal) {
			t.Errorf("%s: ended with %v", name, e.Why)
		}
		if s.n.Lease().Held || s.n.Phase() != protocol.Over {
			t.Errorf("%s: still serves", name)
		}
		if s.step(protocol.Tick{}); len(s.out) > 0 {
			t.Errorf("%s: goes on with %+v", name, s.out)
		}
	}
	s := member(t, viewOf(protocol.Live))
	s.wait(500 * time.Millisecond)
	s.step(protocol.RenewFailed{Call: take[protocol.RenewLease](s).Call, Final: true})
	take[protocol.Ended](s)
}

func TestAViewIsReportedOnlyOnceItIsActedOn(t *testing.T) {
	v := change(t)(viewOf(protocol.Live, protocol.Live).Drain(node(2)))
	s := begin(t, node(1))
	s.renewal(v, protocol.Survey{})
	s.wait(500 * time.Millisecond)
	if r := take[protocol.RenewLease](s); r.Seen != 0 {
		t.Fatalf("reports view %d before the grains were handed over", r.Seen)
	} else {
		s.step(protocol.Renewed{Call: r.Call, View: v})
	}
	s.step(protocol.Pending{View: v.Version, Grains: 3})
	if r := take[protocol.RenewLease](s); r.Seen != v.Version || r.Pending != 3 {
		t.Fatalf("reports %+v", r.RenewRequest)
	}
}

func TestRoundsWaitForEveryoneOrForTheirTime(t *testing.T) {
	v := change(t)(viewOf(protocol.Live, protocol.Live).Drain(node(2)))
	fresh := func() *script {
		s := begin(t, node(1))
		s.renewal(v, protocol.Survey{})
		s.step(protocol.Pending{View: v.Version})
		return s
	}
	s := fresh()
	s.renewal(v, protocol.Survey{Age: 3 * time.Second})
	if _, ok := find[protocol.SwapView](s); ok {
		t.Fatal("goes on before others have handed over")
	}
	s.renewal(v, protocol.Survey{Age: 4500 * time.Millisecond})
	if next := take[protocol.SwapView](s).Next; next.Round != 1 {
		t.Fatalf("round %d", next.Round)
	}
	s = fresh()
	s.renewal(v, protocol.Survey{Settled: true})
	take[protocol.SwapView](s)
}

func TestDrainHandsOverThenLeaves(t *testing.T) {
	v := viewOf(protocol.Live, protocol.Live)
	s := member(t, v)
	s.step(protocol.StartDrain{})
	for last := v; ; {
		swap, ok := find[protocol.SwapView](s)
		if !ok {
			break
		}
		if last = swap.Next; last.Version > 30 {
			t.Fatal("does not end")
		}
		s.step(protocol.Swapped{Call: swap.Call, View: last})
		s.step(protocol.Pending{View: last.Version, Grains: 1})
		s.renewal(last, protocol.Survey{Settled: true})
	}
	if v = s.n.View(); v.Round != protocol.Rounds {
		t.Fatalf("stopped at round %d", v.Round)
	}
	s.step(protocol.Pending{View: v.Version})
	take[protocol.Leaving](s)
	if s.n.Lease().Held {
		t.Fatal("a node that leaves still answers leased reads")
	}
	s.renewal(v, protocol.Survey{Settled: true})
	if _, ok := find[protocol.SwapView](s); ok {
		t.Fatal("leaves before the driver said that it serves nothing")
	}
	s.step(protocol.Pending{View: v.Version, All: true})
	swap := take[protocol.SwapView](s)
	if m, _ := swap.Next.Find(node(1)); m.State != protocol.Left {
		t.Fatalf("proposes %+v", swap.Next)
	}
	s.step(protocol.Swapped{Call: swap.Call, View: swap.Next})
	if e := take[protocol.Ended](s); e.Why != nil {
		t.Fatalf("ended with %v", e.Why)
	}
}

func TestTheOnlyMemberLeavesWithoutRounds_A2(t *testing.T) {
	v := viewOf(protocol.Live)
	s := member(t, v)
	s.step(protocol.StartDrain{})
	take[protocol.Leaving](s)
	s.step(protocol.Pending{View: v.Version, All: true})
	if m, _ := take[protocol.SwapView](s).Next.Find(node(1)); m.State != protocol.Left {
		t.Fatalf("proposes that it is %s", m.State)
	}
}

func TestADrainThatIsStuckEndsInTime(t *testing.T) {
	v := change(t)(viewOf(protocol.Live, protocol.Live).Drain(node(1)))
	v.Round = protocol.Rounds
	s := member(t, v)
	s.step(protocol.Pending{View: v.Version, Grains: 2})
	s.step(protocol.StartDrain{})
	for s.n.Phase() != protocol.Parting {
		if s.now > 2*time.Hour {
			t.Fatal("waits forever")
		}
		s.renewal(v, protocol.Survey{})
	}
	if d := protocol.DefaultTiming().DrainTimeout; s.now-time.Hour < d {
		t.Fatalf("gave up after %v", s.now-time.Hour)
	}
}

// Two nodes that wish a tenant in different places: the last one wins, and then
// there is peace. The simulation found them taking turns forever.
func TestAWishIsDoneWithItsFirstView_B3(t *testing.T) {
	v := viewOf(protocol.Live, protocol.Live)
	s := member(t, v)
	s.step(protocol.Relocate{Tenant: "acme", Node: "node-2"})
	swap := take[protocol.SwapView](s)
	s.step(protocol.Swapped{Call: swap.Call, View: swap.Next})
	s.step(protocol.Pending{View: swap.Next.Version})
	other := change(t)(swap.Next.Relocate("acme", "node-1"))
	s.renewal(other, protocol.Survey{Settled: true})
	if _, ok := find[protocol.SwapView](s); ok {
		t.Fatal("insists")
	}
	s.step(protocol.Relocate{Tenant: "acme", Node: "node-9"})
	s.renewal(other, protocol.Survey{Settled: true})
	if r, ok := find[protocol.RelocateRefused](s); ok && !errors.Is(r.Why, protocol.ErrNotMember) {
		t.Fatalf("refused: %v", r.Why)
	}
}
