package transport_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"granary.dev/granary/cluster/transport"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

func TestStopLetsCallsAnswerAndRefusesNewOnes_H3(t *testing.T) {
	noLeaks(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		close(arrived)
		go func() {
			<-release
			reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY, Reply: make([]byte, 3<<20)})
		}()
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	result := make(chan *nodev1.Reply, 1)
	go func() {
		r, err := c.Call(context.Background(), n.addr, request("x"))
		if err != nil {
			t.Errorf("a call under way: %v", err)
		}
		result <- r
	}()
	wait(t, arrived, "call")
	stopped := make(chan error, 1)
	go func() { stopped <- n.Stop(context.Background()) }()
	until(t, "new calls are refused", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		r, err := c.Call(ctx, n.addr, request("y"))
		return err == nil && r.GetOutcome() == nodev1.Outcome_OUTCOME_STOPPED
	})
	close(release)
	if r := wait(t, result, "reply"); len(r.GetReply()) != 3<<20 {
		t.Errorf("the call under way got %v with %d bytes", r.GetOutcome(), len(r.GetReply()))
	}
	if err := wait(t, stopped, "stop"); err != nil {
		t.Errorf("stop: %v", err)
	}
	_, err := c.Call(within(t), n.addr, request("x"))
	isOneOf(t, err, transport.ErrNotSent)
	if err := n.Stop(context.Background()); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

func TestStopCutsWhatDoesNotAnswerInTime(t *testing.T) {
	noLeaks(t)
	arrived := make(chan struct{})
	ended := make(chan struct{})
	h := &handler{call: func(ctx context.Context, _ *nodev1.Call, reply func(*nodev1.Reply)) {
		context.AfterFunc(ctx, func() {
			reply(nil)
			close(ended)
		})
		close(arrived)
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	result := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), n.addr, request("x"))
		result <- err
	}()
	wait(t, arrived, "call")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := n.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop: %v", err)
	}
	isOneOf(t, wait(t, result, "result"), transport.ErrLost)
	wait(t, ended, "end of the context")
}

func TestStopBeforeServe(t *testing.T) {
	noLeaks(t)
	s, err := transport.Listen(t.Context(), "127.0.0.1:0", transport.ServerConfig{Handler: &handler{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := s.Serve(); err == nil {
		t.Error("a stopped server serves")
	}
	if _, err := transport.Listen(t.Context(), "127.0.0.1:0", transport.ServerConfig{}); err == nil {
		t.Error("a server without a handler")
	}
}

// A node that is restarted in order loses no call: whoever does not get an
// answer knows that the call was not taken.
func TestRollingRestartLosesNoCall_H3(t *testing.T) {
	noLeaks(t)
	var had record
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		had.add(call)
		go reply(answer(call))
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	addr := n.addr
	c := dial(t, transport.Config{})
	c.SetBackoff(time.Millisecond)
	ctx := t.Context() // each restart is bounded, the whole need not be
	stop := make(chan struct{})
	var answered, refused, notSent atomic.Int64
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("%d/%d", i, j)
				body := name + " " + strings.Repeat("x", j%3*50<<10)
				r, err := c.Call(ctx, addr, request(body))
				want := 0
				switch {
				case err == nil && r.GetOutcome() == nodev1.Outcome_OUTCOME_REPLY:
					answered.Add(1)
					want = 1
				case err == nil && r.GetOutcome() == nodev1.Outcome_OUTCOME_STOPPED:
					refused.Add(1)
				case errors.Is(err, transport.ErrNotSent):
					notSent.Add(1)
				default:
					t.Errorf("%s: %v, %v", name, r.GetOutcome(), err)
				}
				if got := had.count(name); got != want {
					t.Errorf("%s: %v, %v; handlers had it %d times", name, r.GetOutcome(), err, got)
				}
			}
		})
	}
	for range 20 {
		before := answered.Load()
		until(t, "calls are answered", func() bool { return answered.Load() > before+100 })
		if err := n.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		n.served.Wait()
		n = serveOn(t, addr, transport.ServerConfig{Handler: h})
	}
	close(stop)
	callers.Wait()
	t.Logf("20 restarts: %d answered, %d refused, %d not sent", answered.Load(), refused.Load(), notSent.Load())
}
