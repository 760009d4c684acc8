package transport_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"granary.dev/granary/cluster/transport"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

func TestRequestsAndRepliesOfAllSizesArriveWhole(t *testing.T) {
	noLeaks(t)
	n := serve(t, transport.ServerConfig{Handler: &handler{}})
	c := dial(t, transport.Config{})
	random := rand.NewChaCha8([32]byte{1})
	var callers sync.WaitGroup
	for _, size := range []int{0, 1, 65535, 65536, 65537, 131072, 262143, 262144, 1 << 20, 5<<20 + 7, 16 << 20} {
		body := make([]byte, size)
		_, _ = random.Read(body)
		callers.Go(func() {
			call := request("")
			call.Request = body
			r, err := c.Call(within(t), n.addr, call)
			if err != nil || r.GetOutcome() != nodev1.Outcome_OUTCOME_REPLY || !bytes.Equal(r.GetReply(), body) {
				t.Errorf("%d bytes: %v, %d bytes back, %v", size, r.GetOutcome(), len(r.GetReply()), err)
			}
			if !bytes.Equal(call.GetRequest(), body) || call.GetRest() != 0 {
				t.Errorf("%d bytes: the caller's request has changed", size)
			}
		})
	}
	callers.Wait()
}

func TestTooLargeOrUnencodableCostsItsOwnCall(t *testing.T) {
	noLeaks(t)
	const most = 256 << 10
	var dials atomic.Int64
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		switch string(call.GetRequest()) {
		case "large reply":
			reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY, Reply: make([]byte, most+1)})
		case "largest reply":
			reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY, Reply: make([]byte, most)})
		case "bad text":
			reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_ERROR, Error: &nodev1.Error{Message: "\xff"}})
		case "long text":
			reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_ERROR, Error: &nodev1.Error{Message: strings.Repeat("a", 1<<20)}})
		default:
			reply(answer(call))
		}
	}}
	n := serve(t, transport.ServerConfig{Handler: h, MaxMessage: most})
	p := newProxy(t, n.addr)
	equal, generous := dial(t, transport.Config{MaxMessage: most}), dial(t, transport.Config{MaxMessage: 1 << 20})
	frugal := dial(t, transport.Config{MaxMessage: most / 2})
	named := func(change func(*nodev1.Call)) *nodev1.Call {
		call := request("x")
		change(call)
		return call
	}
	cases := []struct {
		name   string
		client *transport.Client
		call   *nodev1.Call
		want   nodev1.Outcome
	}{
		{"request above both limits", equal, request(strings.Repeat("x", most+1)), nodev1.Outcome_OUTCOME_MALFORMED},
		{"request above the server's limit", generous, request(strings.Repeat("x", most+1)), nodev1.Outcome_OUTCOME_MALFORMED},
		{"largest request", equal, request(strings.Repeat("x", most)), nodev1.Outcome_OUTCOME_REPLY},
		{"reply above the limit", equal, request("large reply"), nodev1.Outcome_OUTCOME_MALFORMED},
		{"largest reply", equal, request("largest reply"), nodev1.Outcome_OUTCOME_REPLY},
		{"reply above the client's limit", frugal, request("largest reply"), nodev1.Outcome_OUTCOME_MALFORMED},
		{"reply that is not UTF-8", equal, request("bad text"), nodev1.Outcome_OUTCOME_MALFORMED},
		{"error with a very long text", equal, request("long text"), nodev1.Outcome_OUTCOME_MALFORMED},
		{"name that is not UTF-8", equal, named(func(c *nodev1.Call) { c.Grain = "\xff" }), nodev1.Outcome_OUTCOME_MALFORMED},
		{"very long name", equal, named(func(c *nodev1.Call) { c.Grain = strings.Repeat("g", 1<<20) }), nodev1.Outcome_OUTCOME_MALFORMED},
	}
	for _, one := range cases {
		if got := outcome(t, one.client, p.addr, one.call); got != one.want {
			t.Errorf("%s: %v, want %v", one.name, got, one.want)
		}
	}
	for _, c := range []*transport.Client{equal, generous, frugal} {
		if got := outcome(t, c, p.addr, request("x")); got != nodev1.Outcome_OUTCOME_REPLY {
			t.Errorf("afterwards: %v", got)
		}
		dials.Add(1)
	}
	if p.dials.Load() != dials.Load() {
		t.Errorf("%d connections of %d clients", p.dials.Load(), dials.Load())
	}
}

// The wire carries 8 MB/s, so that 16 MiB take two seconds. Small calls beside
// them must not take part of that.
func TestLargeMessagesDoNotStallSmallOnes(t *testing.T) {
	noLeaks(t)
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		if string(call.GetRequest()) == "large" {
			reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY, Reply: make([]byte, 16<<20)})
			return
		}
		reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY})
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	p := newProxy(t, n.addr)
	c := dial(t, transport.Config{})
	outcome(t, c, p.addr, request("x"))
	p.rate.Store(8 << 20)
	for _, direction := range []string{"reply", "request"} {
		big := request("large")
		if direction == "request" {
			big = request(strings.Repeat("x", 16<<20))
		}
		done := make(chan time.Duration, 1)
		start := time.Now()
		go func() {
			outcome(t, c, p.addr, big)
			done <- time.Since(start)
		}()
		var small int
		var worst, took time.Duration
		for took == 0 {
			begin := time.Now()
			outcome(t, c, p.addr, request("x"))
			small, worst = small+1, max(worst, time.Since(begin))
			select {
			case took = <-done:
			default:
			}
		}
		t.Logf("large %s: %v; %d small calls meanwhile, the slowest took %v", direction, took, small, worst)
		if small < 3 || worst > took/2 {
			t.Errorf("%s of 16 MiB took %v; of %d small calls the slowest took %v", direction, took, small, worst)
		}
	}
}

func TestLargeCallGivenUpHalfWayFreesItsRoom(t *testing.T) {
	noLeaks(t)
	var calls atomic.Int64
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		if len(call.GetRequest()) > 1 {
			calls.Add(1)
		}
		reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY})
	}}
	const most = 8 << 20
	n := serve(t, transport.ServerConfig{Handler: h, MaxMessage: most, MaxHeld: most})
	p := newProxy(t, n.addr)
	c := dial(t, transport.Config{MaxMessage: most, MaxHeld: most})
	outcome(t, c, p.addr, request("x"))
	p.rate.Store(8 << 20) // a second for each
	body := strings.Repeat("x", most-1)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := c.Call(ctx, p.addr, request(body))
		cancel()
		isOneOf(t, err, context.DeadlineExceeded)
	}
	p.rate.Store(0)
	if got := outcome(t, c, p.addr, request(body)); got != nodev1.Outcome_OUTCOME_REPLY {
		t.Errorf("after three were given up: %v", got)
	}
	if calls.Load() != 1 {
		t.Errorf("the handler had %d large calls, of which one was sent to the end", calls.Load())
	}
}
