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

// witness compares what handlers had with what callers are told.
type witness struct {
	t                       *testing.T
	answered, lost, notSent atomic.Int64

	mu     sync.Mutex
	had    map[string]int
	claims map[string]error
}

func newWitness(t *testing.T) *witness {
	return &witness{t: t, had: map[string]int{}, claims: map[string]error{}}
}

// name is what a request begins with.
func name(body []byte) string {
	n, _, _ := strings.Cut(string(body), " ")
	return n
}

// serves is called by a handler for each call.
func (w *witness) serves(call *nodev1.Call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.had[name(call.GetRequest())]++
}

// hears is called by a caller for the result of each of its calls.
func (w *witness) hears(call *nodev1.Call, r *nodev1.Reply, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := name(call.GetRequest())
	switch {
	case err == nil && r.GetOutcome() == nodev1.Outcome_OUTCOME_REPLY:
		w.answered.Add(1)
		if w.had[n] != 1 || string(r.GetReply()) != string(call.GetRequest()) {
			w.t.Errorf("%s was answered; handlers had it %d times", n, w.had[n])
		}
	case err == nil && r.GetOutcome() == nodev1.Outcome_OUTCOME_STOPPED, errors.Is(err, transport.ErrNotSent):
		w.notSent.Add(1)
		w.claims[n] = transport.ErrNotSent
	case errors.Is(err, transport.ErrLost):
		w.lost.Add(1)
		w.claims[n] = transport.ErrLost
	default:
		w.t.Errorf("%s: %v, %v", n, r.GetOutcome(), err)
	}
}

// judge checks the claims when nothing is under way any more.
func (w *witness) judge() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, claim := range w.claims {
		if w.had[n] > 1 || w.had[n] == 1 && errors.Is(claim, transport.ErrNotSent) {
			w.t.Errorf("%s: %v; handlers had it %d times", n, claim, w.had[n])
		}
	}
}

// load calls from so many goroutines, every fourth of which sends large
// requests too, until stop is closed.
func (w *witness) load(c *transport.Client, addr string, callers int, stop <-chan struct{}) (wait func()) {
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-stop:
					return
				default:
				}
				body := fmt.Sprintf("%d/%d ", i, j)
				if i%4 == 0 {
					body += strings.Repeat("x", j%5*100<<10)
				}
				call := request(body)
				r, err := c.Call(w.t.Context(), addr, call)
				w.hears(call, r, err)
				if errors.Is(err, transport.ErrNotSent) {
					<-time.After(time.Millisecond) // else the callers starve the dial
				}
			}
		})
	}
	return all.Wait
}

// Connections are cut at any byte under a mixed load. What callers are told
// must agree with what handlers had.
func TestErrorsTellTheTruthWhenConnectionsAreCut_A4_E5(t *testing.T) {
	noLeaks(t)
	w := newWitness(t)
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		w.serves(call)
		go reply(answer(call))
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	p := newProxy(t, n.addr)
	c := dial(t, transport.Config{})
	c.SetBackoff(time.Millisecond)
	stop := make(chan struct{})
	callers := w.load(c, p.addr, 32, stop)
	const cuts = 40
	for range cuts {
		before := w.answered.Load()
		until(t, "calls are answered", func() bool { return w.answered.Load() > before+100 })
		p.cut()
	}
	close(stop)
	callers()
	n.kill()
	w.judge()
	t.Logf("%d cuts: %d answered, %d lost, %d not sent", cuts, w.answered.Load(), w.lost.Load(), w.notSent.Load())
	if w.lost.Load() == 0 {
		t.Error("no call was lost: the cuts hit nothing")
	}
}

// A node that is restarted in order loses no call: whoever does not get an
// answer knows that the call was not taken.
func TestRollingRestartLosesNoCall_H3(t *testing.T) {
	noLeaks(t)
	w := newWitness(t)
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		w.serves(call)
		go reply(answer(call))
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	c := dial(t, transport.Config{})
	c.SetBackoff(time.Millisecond)
	stop := make(chan struct{})
	callers := w.load(c, n.addr, 16, stop)
	const restarts = 20
	for range restarts {
		before := w.answered.Load()
		until(t, "calls are answered", func() bool { return w.answered.Load() > before+100 })
		if err := n.Stop(t.Context()); err != nil {
			t.Errorf("stop: %v", err)
		}
		n.served.Wait()
		n = serveOn(t, n.addr, transport.ServerConfig{Handler: h})
	}
	close(stop)
	callers()
	w.judge()
	t.Logf("%d restarts: %d answered, %d not sent", restarts, w.answered.Load(), w.notSent.Load())
	if lost := w.lost.Load(); lost != 0 {
		t.Errorf("%d calls were lost", lost)
	}
}
