package transport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"granary.dev/granary/cluster/transport"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// record counts how often each request came.
type record struct {
	mu    sync.Mutex
	times map[string]int
}

func (r *record) add(call *nodev1.Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.times == nil {
		r.times = map[string]int{}
	}
	name, _, _ := strings.Cut(string(call.GetRequest()), " ")
	r.times[name]++
}

func (r *record) count(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.times[name]
}

// Connections are cut at any byte under a mixed load. What callers are told
// must agree with what handlers had.
func TestErrorsTellTheTruthWhenConnectionsAreCut_A4_E5(t *testing.T) {
	noLeaks(t)
	var had record
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		had.add(call)
		go reply(answer(call))
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	p := newProxy(t, n.addr)
	c := dial(t, transport.Config{})
	c.SetBackoff(time.Millisecond)
	const cuts = 40
	var answered, notSent, lost atomic.Int64
	stop := make(chan struct{})
	// Bounded by the wait for each cut: a busy machine may be long at it as a whole.
	ctx := t.Context()
	var callers sync.WaitGroup
	defer callers.Wait()
	end := sync.OnceFunc(func() { close(stop) })
	defer end()
	for i := range 32 {
		callers.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("%d/%d", i, j)
				body := name + " "
				if i%4 == 0 {
					body += strings.Repeat("x", j%5*100<<10)
				}
				r, err := c.Call(ctx, p.addr, request(body))
				switch {
				case err == nil:
					answered.Add(1)
					if had.count(name) != 1 || string(r.GetReply()) != body {
						t.Errorf("%s was answered; handlers had it %d times", name, had.count(name))
					}
				case errors.Is(err, transport.ErrNotSent):
					notSent.Add(1)
					defer func() {
						if had.count(name) != 0 {
							t.Errorf("%s was not sent; handlers had it %d times", name, had.count(name))
						}
					}()
					runtime.Gosched()
				case errors.Is(err, transport.ErrLost):
					lost.Add(1)
					defer func() {
						if had.count(name) > 1 {
							t.Errorf("%s was lost; handlers had it %d times", name, had.count(name))
						}
					}()
				default:
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	for range cuts {
		before := answered.Load()
		until(t, "calls are answered", func() bool { return answered.Load() > before+200 })
		p.cut()
	}
	end()
	callers.Wait()
	t.Logf("%d cuts: %d answered, %d lost, %d not sent", cuts, answered.Load(), lost.Load(), notSent.Load())
	if lost.Load() == 0 {
		t.Error("no call was lost: the cuts hit nothing")
	}
}

func TestSilentNodeIsGivenUpWhileCallsWait_E5(t *testing.T) {
	noLeaks(t)
	arrived := make(chan struct{}, 1)
	h := &handler{call: func(ctx context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		if string(call.GetRequest()) == "x" {
			reply(answer(call))
			return
		}
		arrived <- struct{}{}
		context.AfterFunc(ctx, func() { reply(nil) })
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	p := newProxy(t, n.addr)
	c := dial(t, transport.Config{})
	result := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), p.addr, request("hang"))
		result <- err
	}()
	wait(t, arrived, "call")
	p.block()
	start := time.Now()
	err := wait(t, result, "result")
	took := time.Since(start)
	if !errors.Is(err, transport.ErrLost) || took < time.Second || took > 4*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
	t.Logf("given up after %v", took)
	// A node that accepts connections and does not greet is not there either.
	start = time.Now()
	if _, err := c.Call(context.Background(), p.addr, request("x")); !errors.Is(err, transport.ErrNotSent) {
		t.Errorf("a call to a node that does not greet: %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("found out after %v", took)
	}
	p.open()
	until(t, "the node is reached again", func() bool {
		_, err := c.Call(context.Background(), p.addr, request("x"))
		return err == nil
	})
}

func TestSlowHandlerIsNotSilence(t *testing.T) {
	noLeaks(t)
	const keepAlive = 300 * time.Millisecond
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		time.AfterFunc(5*keepAlive, func() { reply(answer(call)) })
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{KeepAlive: keepAlive})
	if got := outcome(t, c, n.addr, request("x")); got != nodev1.Outcome_OUTCOME_REPLY {
		t.Errorf("outcome %v", got)
	}
}

func TestCallersConnectionGoneEndsTheHandlersContexts(t *testing.T) {
	noLeaks(t)
	arrived, ended := make(chan struct{}), make(chan struct{})
	h := &handler{call: func(ctx context.Context, _ *nodev1.Call, reply func(*nodev1.Reply)) {
		close(arrived)
		context.AfterFunc(ctx, func() {
			reply(nil)
			close(ended)
		})
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	p := newProxy(t, n.addr)
	c := dial(t, transport.Config{})
	result := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), p.addr, request("x"))
		result <- err
	}()
	wait(t, arrived, "call")
	p.cut()
	wait(t, ended, "end of the context")
	isOneOf(t, wait(t, result, "result"), transport.ErrLost)
}

func TestUnreachableNodeFailsFast_E5(t *testing.T) {
	noLeaks(t)
	c := dial(t, transport.Config{})
	ctx, addr := within(t), nobody(t)
	start := time.Now()
	const calls = 20_000
	for range calls {
		_, err := c.Call(ctx, addr, request("x"))
		isOneOf(t, err, transport.ErrNotSent)
	}
	t.Logf("%d calls to nobody in %v", calls, time.Since(start))
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("they took %v", took)
	}
}

// nobody gives an address on which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestHundredsOfRedialsLeakNothing(t *testing.T) {
	noLeaks(t)
	n := serve(t, transport.ServerConfig{Handler: &handler{}})
	p := newProxy(t, n.addr)
	c := dial(t, transport.Config{})
	c.SetBackoff(time.Millisecond)
	outcome(t, c, p.addr, request("x"))
	base := runtime.NumGoroutine()
	for range 300 {
		before := p.dials.Load()
		p.cut()
		until(t, "a new connection", func() bool {
			_, err := c.Call(t.Context(), p.addr, request("x"))
			return err == nil && p.dials.Load() > before
		})
	}
	// The same with dials that come to nothing.
	gone := nobody(t)
	p.target.Store(&gone)
	before := p.dials.Load()
	p.cut()
	until(t, "dials fail", func() bool {
		_, err := c.Call(t.Context(), p.addr, request("x"))
		return err != nil && p.dials.Load() > before+300
	})
	until(t, "goroutines have ended", func() bool { return runtime.NumGoroutine() <= base })
}

func TestRestartedNodeIsReachedAtOnce_E5_H3(t *testing.T) {
	noLeaks(t)
	c := dial(t, transport.Config{})
	n := serve(t, transport.ServerConfig{Handler: &handler{}})
	outcome(t, c, n.addr, request("x"))
	n.kill()
	// Long enough for the longest back-off.
	down := time.Now()
	until(t, "the node was down for a while", func() bool {
		_, err := c.Call(t.Context(), n.addr, request("x"))
		if err == nil {
			t.Fatal("a call was answered by nobody")
		}
		return time.Since(down) > 600*time.Millisecond
	})
	again := serveOn(t, n.addr, transport.ServerConfig{Handler: &handler{}})
	up := time.Now()
	until(t, "the node is reached", func() bool {
		_, err := c.Call(t.Context(), again.addr, request("x"))
		return err == nil
	})
	if took := time.Since(up); took > 500*time.Millisecond {
		t.Errorf("reached after %v", took)
	}
}

func TestFirstCallAfterIdleTimeRedials(t *testing.T) {
	noLeaks(t)
	n := serve(t, transport.ServerConfig{Handler: &handler{}})
	p := newProxy(t, n.addr)
	c := dial(t, transport.Config{})
	outcome(t, c, p.addr, request("x"))
	// One that was not up for long counts as a failure; this one was.
	<-time.After(250 * time.Millisecond)
	p.cut()
	<-time.After(50 * time.Millisecond) // nobody calls meanwhile
	if _, err := c.Call(within(t), p.addr, request("x")); err != nil {
		t.Errorf("the first call: %v", err)
	}
}

func TestForgottenNodesCallsFailAtOnce_A2(t *testing.T) {
	noLeaks(t)
	arrived := make(chan struct{}, 1)
	h := &handler{call: func(ctx context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		if string(call.GetRequest()) == "x" {
			reply(answer(call))
			return
		}
		arrived <- struct{}{}
		context.AfterFunc(ctx, func() { reply(nil) })
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	p := newProxy(t, n.addr)
	c := dial(t, transport.Config{})
	result := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), p.addr, request("hang"))
		result <- err
	}()
	wait(t, arrived, "call")
	p.block()
	start := time.Now()
	c.Forget(p.addr)
	isOneOf(t, wait(t, result, "result"), transport.ErrLost)
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
	p.open()
	c.Forget("127.0.0.1:1") // unknown
	if got := outcome(t, c, p.addr, request("x")); got != nodev1.Outcome_OUTCOME_REPLY {
		t.Errorf("a later call to the same address: %v", got)
	}
}

func TestClosedClientFailsAllCalls(t *testing.T) {
	noLeaks(t)
	arrived := make(chan struct{})
	h := &handler{call: func(ctx context.Context, _ *nodev1.Call, reply func(*nodev1.Reply)) {
		close(arrived)
		context.AfterFunc(ctx, func() { reply(nil) })
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	result := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), n.addr, request("x"))
		result <- err
	}()
	wait(t, arrived, "call")
	c.Close()
	isOneOf(t, wait(t, result, "result"), transport.ErrLost)
	_, err := c.Call(context.Background(), n.addr, request("x"))
	isOneOf(t, err, transport.ErrNotSent)
	_, err = c.Ping(context.Background(), n.addr, &nodev1.PingRequest{})
	isOneOf(t, err, transport.ErrNotSent)
	c.Forget(n.addr)
	c.Close()
}
