package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"granary.dev/granary/cluster/protocol"
)

func TestRingKeepsOrderWhileItGrowsAndWraps(t *testing.T) {
	var r ring[int]
	in, out := 0, 0
	for step := range 1000 {
		for range step%7 + 1 {
			r.push(in)
			in++
		}
		for range step % 6 {
			if v, ok := r.pop(); ok {
				if v != out {
					t.Fatalf("popped %d, want %d", v, out)
				}
				out++
			}
		}
	}
	if r.len() != in-out {
		t.Fatalf("length %d, want %d", r.len(), in-out)
	}
	r.retain(func(v int) bool { return v%2 == 0 })
	for v, ok := r.pop(); ok; v, ok = r.pop() {
		if v%2 != 0 || v < out {
			t.Fatalf("popped %d after retaining even ones from %d", v, out)
		}
		out = v + 1
	}
	if r.release(); r.queue != nil {
		t.Error("an empty ring kept its memory")
	}
}

func TestHintFollowsThePace(t *testing.T) {
	for _, c := range []struct {
		queued int
		done   uint32
		took   time.Duration
		want   time.Duration
	}{
		{256, 0, 0, hintUnknown},
		{256, 0, time.Second, time.Second}, // stuck for a second: do not come back sooner
		{256, 0, time.Hour, hintMost},
		{256, 1000, time.Second, 128 * time.Millisecond},
		{256, 1_000_000, time.Second, hintLeast},
		{256, 1, time.Second, hintMost},
	} {
		if got := paceHint(c.queued, c.done, c.took); got != c.want {
			t.Errorf("paceHint(%d, %d, %v) = %v, want %v", c.queued, c.done, c.took, got, c.want)
		}
	}
}

func TestBackoffStaysBelowItsBounds(t *testing.T) {
	for n, most := range map[int]time.Duration{1: 5 * time.Millisecond, 2: 40 * time.Millisecond, 3: 200 * time.Millisecond} {
		var longest time.Duration
		for range 1000 {
			d := backoff(n)
			if d < 0 || d >= most {
				t.Fatalf("backoff(%d) = %v, want below %v", n, d, most)
			}
			longest = max(longest, d)
		}
		if longest < most*9/10 {
			t.Errorf("backoff(%d) stays below %v, it should fill %v", n, longest, most)
		}
	}
}

// The caller's context may be over before the caller has noticed.
func TestACallWhoseContextIsOverIsNotHandedOver(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Call{caller: ctx, wake: make(chan struct{}, 1)}
	cancel()
	if c.start() {
		t.Error("it was handed over")
	}
	if got := c.result(&Identity{}); !errors.Is(got.err, context.Canceled) || got.again != never || len(c.wake) != 1 {
		t.Errorf("answered with %+v, want the context's error and a wake-up", got)
	}
}

// handOff gives every identity to another member, as a view change will.
func handOff(t *testing.T, n *Node) {
	t.Helper()
	v := protocol.View{Version: 1, Members: []protocol.Member{{NodeID: protocol.NodeID{Name: "elsewhere", Boot: "b"}, State: protocol.Live}}}
	place, err := protocol.NewPlacement(v, protocol.NewTables(protocol.DefaultTableConfig(), 2))
	if err != nil {
		t.Fatal(err)
	}
	n.standing.Store(&standing{view: v, place: place, self: protocol.NodeID{Name: n.cfg.Name, Boot: "a"}, serving: true, replaced: make(chan struct{})})
}

func TestWhatThisNodeDoesNotOwnIsNeitherStartedNorInherited_A3(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		lives := 0
		n, err := New(Config{Name: "node-1", Logger: slog.New(slog.DiscardHandler), Kinds: []Kind{{Name: "kb", New: func(_, _, _ string) actor.Actor {
			lives++
			return actor.ReceiveFunc(func(ctx actor.Context) {
				if c, ok := ctx.Message().(*Call); ok {
					<-gate
					c.Reply(c.Request(), nil)
					ctx.Stop(ctx.Self())
				}
			})
		}}}})
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
		id := Identity{Kind: "kb", Tenant: "acme", ID: "a"}
		var wg sync.WaitGroup
		answers := make([]error, 2)
		for i := range answers {
			wg.Go(func() { _, answers[i] = n.Ask(ctx, id, wrapperspb.Bool(true)) })
			synctest.Wait() // the first is in Receive, the second behind it
		}
		handOff(t, n)
		close(gate)
		wg.Wait()
		if answers[0] != nil || !errors.Is(answers[1], ErrUnavailable) {
			t.Errorf("answers %v, want the first served and the second sent back", answers)
		}
		other := Identity{Kind: "kb", Tenant: "acme", ID: "b"}
		if _, err := n.Ask(ctx, other, wrapperspb.Bool(true)); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Ask() error = %v, want ErrUnavailable", err)
		}
		if p, err := n.Placement(other); err != nil || p.Local || p.Owner != "elsewhere" {
			t.Errorf("Placement() = %+v, %v", p, err)
		}
		if lives != 1 {
			t.Errorf("%d grains were started, want the first only", lives)
		}
		if err := n.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// Two identities of one hash are different grains. XXH64 collides only on
// purpose, so the test puts both under one hash itself.
func TestIdentitiesOfOneHashStayApart(t *testing.T) {
	n, err := New(Config{Name: "node-1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r, kind, acts := n.registry, &Kind{Name: "kb"}, []*activation{}
	s := r.shard(7)
	for i := range 3 {
		id := Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprint(i)}
		acts = append(acts, r.insert(s, kind, &id, 7))
	}
	for _, gone := range []int{1, 2, 0} { // from the middle, the front and the last
		for i, a := range acts {
			if got := r.find(&a.id, 7); a.stopped == (got == a) {
				t.Errorf("grain %d, stopped %v: found %v", i, a.stopped, got)
			}
		}
		r.retire(acts[gone])
	}
	if len(s.acts) != 0 {
		t.Errorf("the shard still holds %d entries", len(s.acts))
	}
}

func TestWorkersAreReusedAndEnd(t *testing.T) {
	n, err := New(Config{Name: "node-1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		idle := func() (total int) {
			for i := range n.workers.stripes {
				total += len(n.workers.stripes[i].idle)
			}
			return total
		}
		for range 100 {
			n.workers.run(&activation{node: n})
			synctest.Wait()
		}
		if idle() != 1 {
			t.Errorf("%d workers for one thing at a time", idle())
		}
		for i := range 1000 {
			n.workers.run(&activation{node: n, hash: uint64(i)})
		}
		synctest.Wait()
		if got := idle(); got > maxIdle*workerStripes {
			t.Errorf("%d workers wait, at most %d may", got, maxIdle*workerStripes)
		}
		for range 10 {
			n.workers.trim()
		}
		if got := idle(); got > workerStripes {
			t.Errorf("%d workers wait after ten sweeps", got)
		}
		n.workers.close()
		n.workers.run(&activation{node: n}) // a late message still runs
		synctest.Wait()
		if idle() != 0 {
			t.Errorf("%d workers are left", idle())
		}
	})
}
