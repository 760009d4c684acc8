package protocol_test

import (
	"reflect"
	"testing"
	"time"

	"granary.dev/granary/cluster/protocol"
)

// script drives one node by hand.
type script struct {
	t   *testing.T
	n   protocol.Node
	now time.Duration
	out []protocol.Output   // of the last step
	ask protocol.RenewLease // the last one
}

func begin(t *testing.T, id protocol.NodeID) *script {
	t.Helper()
	n, err := protocol.NewNode(protocol.NodeConfig{Self: id, Fingerprint: fp, Timing: protocol.DefaultTiming()}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &script{t: t, n: n, now: time.Hour}
}

func (s *script) step(in protocol.Input) {
	before := s.n
	next, out := s.n.Step(s.now, in)
	if again, same := before.Step(s.now, in); !reflect.DeepEqual(next, again) || !reflect.DeepEqual(out, same) {
		s.t.Fatalf("%T: the same step twice differs", in)
	}
	s.n, s.out = next, out
	if r, ok := find[protocol.RenewLease](s); ok {
		s.ask = r
	}
}

// wait lets time pass in steps no watchdog minds.
func (s *script) wait(d time.Duration) {
	for end := s.now + d; s.now < end; {
		s.now = min(end, s.now+100*time.Millisecond)
		s.step(protocol.Tick{})
	}
}

// take gives the output of a type, which must be there.
func take[O protocol.Output](s *script) O {
	s.t.Helper()
	if o, ok := find[O](s); ok {
		return o
	}
	var zero O
	s.t.Fatalf("no %T among %+v", zero, s.out)
	return zero
}

func find[O protocol.Output](s *script) (O, bool) {
	for _, o := range s.out {
		if o, ok := o.(O); ok {
			return o, true
		}
	}
	var zero O
	return zero, false
}

// renewal waits for the next renewal unless one is under way, and answers it
// 10 ms later.
func (s *script) renewal(v protocol.View, survey protocol.Survey) {
	s.t.Helper()
	s.step(protocol.Tick{})
	for limit := s.now + 5*time.Second; s.ask.Call == 0; s.wait(100 * time.Millisecond) {
		if s.now > limit {
			s.t.Fatal("the node does not renew")
		}
	}
	s.now += 10 * time.Millisecond
	call := s.ask.Call
	s.ask = protocol.RenewLease{}
	s.step(protocol.Renewed{Call: call, View: v, Survey: survey})
}

// member gives a node that is node-1 of v and acts on it.
func member(t *testing.T, v protocol.View) *script {
	s := begin(t, node(1))
	s.renewal(v, protocol.Survey{Settled: true})
	take[protocol.ViewChanged](s)
	s.step(protocol.Pending{View: v.Version})
	return s
}

// steady renews for more than one TTL.
func (s *script) steady(v protocol.View) {
	for range 8 {
		s.renewal(v, protocol.Survey{Settled: true})
	}
}
