package protocol_test

import (
	"errors"
	"testing"
	"time"

	"granary.dev/granary/cluster/protocol"
)

func TestReadsAreLeasedOnlyWithProofUnderAnUnbrokenLease_A4(t *testing.T) {
	tm := protocol.DefaultTiming()
	l := protocol.Lease{Held: true, Sent: time.Hour, Term: 4}
	proof := protocol.Proof{Term: 4, Valid: true}
	usable := 2700 * time.Millisecond // nine tenths of 3 s
	cases := map[string]struct {
		lease  protocol.Lease
		at     time.Duration
		placed bool
		proof  protocol.Proof
		want   protocol.ReadPath
	}{
		"fresh":                   {l, time.Hour, true, proof, protocol.ReadLeased},
		"at the end":              {l, time.Hour + usable - 1, true, proof, protocol.ReadLeased},
		"a tenth left":            {l, time.Hour + usable, true, proof, protocol.ReadVerified},
		"clock went back":         {l, time.Hour - 1, true, proof, protocol.ReadVerified},
		"placed elsewhere":        {l, time.Hour, false, proof, protocol.ReadVerified},
		"proof of another term":   {l, time.Hour, true, protocol.Proof{Term: 3, Valid: true}, protocol.ReadVerified},
		"acquired without lease":  {l, time.Hour, true, protocol.Proof{Term: 4}, protocol.ReadVerified},
		"no lease since the boot": {protocol.Lease{}, 0, true, protocol.Proof{Valid: true}, protocol.ReadVerified},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := protocol.MayRead(c.lease, c.at, tm, c.placed, c.proof); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// A statement sent before a lapse may have been handled before somebody else
// acquired, however late its answer comes.
func TestProofSpansNoLapse(t *testing.T) {
	tm := protocol.DefaultTiming()
	sent := protocol.Lease{Held: true, Sent: time.Hour, Term: 1}
	same := protocol.Lease{Held: true, Sent: time.Hour + time.Second, Term: 1}
	later := protocol.Lease{Held: true, Sent: time.Hour + 5*time.Second, Term: 2}
	if p := protocol.Prove(sent, time.Hour, same, time.Hour+time.Second, tm); !p.Valid || p.Term != 1 {
		t.Errorf("one term: %+v", p)
	}
	if p := protocol.Prove(sent, time.Hour, later, time.Hour+5*time.Second, tm); p.Valid {
		t.Errorf("over a lapse: %+v", p)
	}
	if p := protocol.Prove(sent, time.Hour+3*time.Second, same, time.Hour+3*time.Second, tm); p.Valid {
		t.Errorf("sent after the lease ran out: %+v", p)
	}
}

func TestTimingLeavesRoomForThreeRenewals(t *testing.T) {
	tm := protocol.DefaultTiming()
	if err := tm.Validate(); err != nil {
		t.Fatal(err)
	}
	tm.TTL = 3*tm.RenewEvery - 1
	if err := tm.Validate(); !errors.Is(err, protocol.ErrTiming) {
		t.Errorf("short lease: %v", err)
	}
	tm = protocol.DefaultTiming()
	tm.DrainTimeout = 0
	if err := tm.Validate(); !errors.Is(err, protocol.ErrTiming) {
		t.Errorf("no drain time: %v", err)
	}
}
