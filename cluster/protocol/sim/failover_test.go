package sim

import (
	"slices"
	"testing"
	"time"

	"granary.dev/granary/cluster/protocol"
)

// The time a knowledge base cannot be written to after its owner was killed, by
// the protocol alone: no process has to start, nothing has to be loaded. What is
// asserted is the goal of a whole cluster, P7.
func TestWritesGoOnSecondsAfterTheOwnerIsKilled_P7_E5(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("measures")
	}
	for _, c := range []struct {
		nodes      int
		ttl, renew time.Duration
	}{
		{3, 3 * time.Second, 500 * time.Millisecond},
		{5, 3 * time.Second, 500 * time.Millisecond},
		{3, 2500 * time.Millisecond, 500 * time.Millisecond},
		{3, 2 * time.Second, 400 * time.Millisecond},
	} {
		tm := protocol.DefaultTiming()
		tm.TTL, tm.RenewEvery = c.ttl, c.renew
		var gaps []time.Duration
		for seed := range uint64(200) {
			gaps = append(gaps, kill(t, seed+1, c.nodes, tm))
		}
		slices.Sort(gaps)
		p50, p99, worst := gaps[100], gaps[198], gaps[199]
		t.Logf("%d nodes, lease %v every %v: p50 %v p99 %v max %v", c.nodes, c.ttl, c.renew,
			p50.Round(time.Millisecond), p99.Round(time.Millisecond), worst.Round(time.Millisecond))
		if c.ttl == protocol.DefaultTiming().TTL && (p50 > 3*time.Second+500*time.Millisecond || p99 > 6*time.Second) {
			t.Errorf("p50 %v, p99 %v", p50, p99)
		}
	}
}

// kill plays a quiet schedule, kills the owner of a busy knowledge base and
// gives the time to the next acknowledged write.
func kill(t *testing.T, seed uint64, nodes int, tm protocol.Timing) time.Duration {
	t.Helper()
	w := NewBench().world(seed, Rules{}, nil)
	w.cfg = conditions{nodes: nodes, keys: 1, clients: 4, length: time.Hour, think: 20 * time.Millisecond, timing: tm,
		delay: 500 * time.Microsecond, storeDelay: 2 * time.Millisecond, drift: 0.001, faultEvery: time.Hour}
	w.start()
	at := w.between(6*time.Second, 8*time.Second)
	var gap time.Duration
	w.at(at, nil, func() {
		victim := w.owner(w.anyNode(), 0)
		if victim == nil {
			t.Fatalf("seed %d: nobody owns the knowledge base", seed)
		}
		victim.up = false
		before := len(w.check.kbs[0].acks)
		var look func()
		look = func() {
			if len(w.check.kbs[0].acks) > before {
				gap = w.now - at
				w.done = true
				return
			}
			w.after(5*time.Millisecond, nil, look)
		}
		look()
	})
	if r := w.play(seed); r.Violation != "" {
		t.Fatalf("seed %d: %s", seed, r.Violation)
	}
	return gap
}
