package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"granary.dev/granary/cluster/transport"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

func TestCallReachesTheHandlerAsSentAndTheReplyTheCaller_A1(t *testing.T) {
	noLeaks(t)
	got := make(chan *nodev1.Call, 1)
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		got <- call
		reply(&nodev1.Reply{
			Outcome: nodev1.Outcome_OUTCOME_ERROR, NotApplied: true,
			Error: &nodev1.Error{Code: 9, Reason: "QUOTA", Metadata: map[string]string{"limit": "7"}},
		})
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	r, err := c.Call(within(t), n.addr, request("hello"))
	if err != nil {
		t.Fatal(err)
	}
	call := wait(t, got, "call")
	if call.GetKind() != "kb" || call.GetTenant() != "acme" || call.GetGrain() != "handbook" ||
		string(call.GetRequest()) != "hello" || call.GetView() != 3 || call.GetId() == 0 {
		t.Errorf("the handler got %v", call)
	}
	if left := time.Duration(call.GetRemainingMicros()) * time.Microsecond; left <= 0 || left > patience {
		t.Errorf("the caller has %v left", left)
	}
	if r.GetOutcome() != nodev1.Outcome_OUTCOME_ERROR || !r.GetNotApplied() ||
		r.GetError().GetReason() != "QUOTA" || r.GetError().GetMetadata()["limit"] != "7" {
		t.Errorf("the caller got %v", r)
	}
}

func TestCallWithoutADeadlineTellsNone(t *testing.T) {
	noLeaks(t)
	got := make(chan bool, 1)
	h := &handler{call: func(ctx context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		_, has := ctx.Deadline()
		got <- has || call.GetRemainingMicros() != 0
		reply(answer(call))
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	if _, err := dial(t, transport.Config{}).Call(context.Background(), n.addr, request("")); err != nil {
		t.Fatal(err)
	}
	if wait(t, got, "call") {
		t.Error("the handler has a deadline")
	}
}

func TestTenThousandConcurrentCallsGetEachTheirOwnReply(t *testing.T) {
	noLeaks(t)
	const calls = 10_000
	var arrived sync.WaitGroup
	arrived.Add(calls)
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		arrived.Done()
		go func() { // all are in flight at once, and answered in any order
			arrived.Wait()
			reply(answer(call))
		}()
	}}
	n := serve(t, transport.ServerConfig{Handler: h, MaxInFlight: calls})
	c := dial(t, transport.Config{MaxInFlight: calls})
	ctx := within(t)
	var callers sync.WaitGroup
	for i := range calls {
		callers.Go(func() {
			body := fmt.Sprint("call ", i)
			r, err := c.Call(ctx, n.addr, request(body))
			if err != nil || string(r.GetReply()) != body {
				t.Errorf("call %d: %q, %v", i, r.GetReply(), err)
			}
		})
	}
	callers.Wait()
}

func TestTooManyCallsInFlightAreRefusedAtOnce(t *testing.T) {
	noLeaks(t)
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		arrived <- struct{}{}
		go func() {
			<-release
			reply(answer(call))
		}()
	}}
	n := serve(t, transport.ServerConfig{Handler: h, MaxInFlight: 4})
	small, other := dial(t, transport.Config{MaxInFlight: 3}), dial(t, transport.Config{})
	var callers sync.WaitGroup
	for range 3 {
		callers.Go(func() {
			if got := outcome(t, small, n.addr, request("x")); got != nodev1.Outcome_OUTCOME_REPLY {
				t.Errorf("outcome %v", got)
			}
		})
	}
	for range 3 {
		wait(t, arrived, "call")
	}
	if _, err := small.Call(within(t), n.addr, request("x")); !errors.Is(err, transport.ErrFull) {
		t.Errorf("a fourth call of a client that may have three: %v", err)
	}
	// Another peer's calls are counted apart; its fifth is one too many for the server.
	for range 4 {
		callers.Go(func() { outcome(t, other, n.addr, request("y")) })
	}
	for range 4 {
		wait(t, arrived, "call")
	}
	r, err := other.Call(within(t), n.addr, request("y"))
	if err != nil || r.GetOutcome() != nodev1.Outcome_OUTCOME_BUSY || r.GetRetryAfterMicros() <= 0 {
		t.Errorf("a fifth call to a server that takes four: %v, %v", r, err)
	}
	close(release)
	callers.Wait()
	if got := outcome(t, small, n.addr, request("x")); got != nodev1.Outcome_OUTCOME_REPLY {
		t.Errorf("after the others were answered: %v", got)
	}
}

func TestBytesInFlightAreBounded(t *testing.T) {
	noLeaks(t)
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		arrived <- struct{}{}
		go func() {
			<-release
			reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY})
		}()
	}}
	n := serve(t, transport.ServerConfig{Handler: h, MaxMessage: 1 << 20, MaxHeld: 1 << 20})
	narrow := dial(t, transport.Config{MaxMessage: 1 << 20, MaxHeld: 1 << 20})
	wide := dial(t, transport.Config{})
	big := strings.Repeat("x", 600<<10)
	var callers sync.WaitGroup
	for _, c := range []*transport.Client{narrow, wide} {
		callers.Go(func() { outcome(t, c, n.addr, request(big)) })
		wait(t, arrived, "call")
	}
	if _, err := narrow.Call(within(t), n.addr, request(big)); !errors.Is(err, transport.ErrFull) {
		t.Errorf("the client takes more than it may hold: %v", err)
	}
	if got := outcome(t, wide, n.addr, request(big)); got != nodev1.Outcome_OUTCOME_BUSY {
		t.Errorf("the server takes more than it may hold: %v", got)
	}
	close(release)
	callers.Wait()
}

func TestDeadlineTravelsAndEndsTheHandlersContext_E5(t *testing.T) {
	noLeaks(t)
	ended := make(chan error, 1)
	h := &handler{call: func(ctx context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		go func() {
			<-ctx.Done()
			ended <- ctx.Err()
			reply(answer(call))
		}()
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
	defer cancel()
	// The handler answers when its context ends, which may be first.
	if _, err := c.Call(ctx, n.addr, request("x")); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller got %v", err)
	}
	// Its own timer or the caller's cancel, whichever came first.
	isOneOf(t, wait(t, ended, "end of the context"), context.DeadlineExceeded, context.Canceled)
}

func TestContextThatIsOverSendsNothing(t *testing.T) {
	noLeaks(t)
	var calls atomic.Int64
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		calls.Add(1)
		reply(answer(call))
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Call(ctx, n.addr, request("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller got %v", err)
	}
	outcome(t, c, n.addr, request("y"))
	if calls.Load() != 1 {
		t.Errorf("the handler had %d calls", calls.Load())
	}
}

func TestCancelTravels(t *testing.T) {
	noLeaks(t)
	arrived, ended := make(chan struct{}), make(chan error, 1)
	h := &handler{call: func(ctx context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		go func() {
			close(arrived)
			<-ctx.Done()
			ended <- ctx.Err()
			reply(answer(call))
		}()
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, n.addr, request("x"))
		result <- err
	}()
	wait(t, arrived, "call")
	cancel()
	if err := wait(t, result, "result"); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller got %v", err)
	}
	if err := wait(t, ended, "end of the context"); !errors.Is(err, context.Canceled) {
		t.Errorf("the handler's context ended with %v", err)
	}
}

func TestCancelStormLeavesTheStreamAndItsRoomWhole(t *testing.T) {
	noLeaks(t)
	var inside atomic.Int64
	h := &handler{call: func(ctx context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		if string(call.GetRequest()) == "ask" {
			reply(answer(call))
			return
		}
		inside.Add(1)
		context.AfterFunc(ctx, func() {
			reply(answer(call))
			inside.Add(-1)
		})
	}}
	n := serve(t, transport.ServerConfig{Handler: h, MaxInFlight: 100_000})
	c := dial(t, transport.Config{MaxInFlight: 256})
	var callers sync.WaitGroup
	for i := range 64 {
		callers.Go(func() {
			for j := range 100 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((i+j)%5)*time.Millisecond/2)
				body := "hang"
				if j%10 == 0 {
					body = strings.Repeat("h", 200<<10)
				}
				// The handler answers when its context ends, which may be first.
				if _, err := c.Call(ctx, n.addr, request(body)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a call got %v", err)
				}
				cancel()
			}
		})
	}
	callers.Wait()
	if got := outcome(t, c, n.addr, request("ask")); got != nodev1.Outcome_OUTCOME_REPLY {
		t.Errorf("after the storm: %v", got)
	}
	until(t, "all contexts have ended", func() bool { return inside.Load() == 0 })
	var after sync.WaitGroup
	for range 256 {
		after.Go(func() { outcome(t, c, n.addr, request("ask")) })
	}
	after.Wait()
}

func TestViewOfTheOtherNodeIsTold_A3(t *testing.T) {
	noLeaks(t)
	type told struct {
		addr    string
		version int64
	}
	views := make(chan told, 16)
	h := &handler{}
	h.view.Store(41)
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	c.OnView(func(addr string, version int64) { views <- told{addr, version} })
	for _, version := range []int64{41, 42} {
		h.view.Store(version)
		for range 3 {
			outcome(t, c, n.addr, request("x"))
		}
		if got := wait(t, views, "view"); got != (told{n.addr, version}) {
			t.Errorf("told %v, want version %d", got, version)
		}
	}
	if len(views) != 0 {
		t.Errorf("told the same view again: %v", <-views)
	}
}

func TestPingAndAdminAnswer_A7(t *testing.T) {
	noLeaks(t)
	h := &handler{
		ping: func(_ context.Context, r *nodev1.PingRequest) (*nodev1.PingResponse, error) {
			return &nodev1.PingResponse{Node: "n1#a", View: r.GetView() + 1, Reached: r.GetBack() == "back"}, nil
		},
		admin: func(ctx context.Context, r *nodev1.AdminRequest) (*nodev1.AdminResponse, error) {
			if r.GetDrain() != nil {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			many := make([]*nodev1.NodeActivation, 20_000)
			for i := range many {
				many[i] = &nodev1.NodeActivation{Kind: "kb", Tenant: "acme", Grain: strings.Repeat("g", 100)}
			}
			return &nodev1.AdminResponse{Result: &nodev1.AdminResponse_Activations{
				Activations: &nodev1.NodeActivations{Activations: many}}}, nil
		},
	}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	p, err := c.Ping(within(t), n.addr, &nodev1.PingRequest{From: "n2#b", View: 4, Back: "back"})
	if err != nil || p.GetNode() != "n1#a" || p.GetView() != 5 || !p.GetReached() {
		t.Errorf("ping: %v, %v", p, err)
	}
	a, err := c.Admin(within(t), n.addr, &nodev1.AdminRequest{})
	if err != nil || len(a.GetActivations().GetActivations()) != 20_000 {
		t.Errorf("admin: %d activations, %v", len(a.GetActivations().GetActivations()), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = c.Admin(ctx, n.addr, &nodev1.AdminRequest{Operation: &nodev1.AdminRequest_Drain{Drain: &nodev1.DrainNode{}}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("admin beyond its time: %v", err)
	}
}

func TestPanicOfAHandlerCostsItsCallOnly(t *testing.T) {
	noLeaks(t)
	h := &handler{
		call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
			if string(call.GetRequest()) == "panic" {
				panic("as the test wants")
			}
			reply(answer(call))
		},
		ping: func(context.Context, *nodev1.PingRequest) (*nodev1.PingResponse, error) { panic("as the test wants") },
	}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	if got := outcome(t, c, n.addr, request("panic")); got != nodev1.Outcome_OUTCOME_PANICKED {
		t.Errorf("outcome %v", got)
	}
	if _, err := c.Ping(within(t), n.addr, &nodev1.PingRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("ping: %v", err)
	}
	if got := outcome(t, c, n.addr, request("x")); got != nodev1.Outcome_OUTCOME_REPLY {
		t.Errorf("outcome %v", got)
	}
}

func TestOnlyTheFirstReplyCounts(t *testing.T) {
	noLeaks(t)
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		reply(answer(call))
		reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_GONE})
		reply(nil)
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	for i := range 100 {
		body := []byte(fmt.Sprint(i))
		r, err := c.Call(within(t), n.addr, request(string(body)))
		if err != nil || !bytes.Equal(r.GetReply(), body) {
			t.Fatalf("call %d: %v, %v", i, r, err)
		}
	}
}

func TestNoReplyAtAllIsAnAnswer(t *testing.T) {
	noLeaks(t)
	h := &handler{call: func(_ context.Context, _ *nodev1.Call, reply func(*nodev1.Reply)) { reply(nil) }}
	n := serve(t, transport.ServerConfig{Handler: h})
	if got := outcome(t, dial(t, transport.Config{}), n.addr, request("x")); got != nodev1.Outcome_OUTCOME_GONE {
		t.Errorf("outcome %v", got)
	}
}
