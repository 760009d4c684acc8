package cluster_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/cluster"
)

func TestIdleGrainsTrimThenPassivateAndComeBack_A1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lives atomic.Int32
		var mu sync.Mutex
		var heard []string
		hear := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, what)
		}
		said := func() string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return strings.Join(heard, " ")
		}
		n := startNode(t, cluster.Config{
			TrimAfter: time.Minute, IdleTimeout: 10 * time.Minute, SweepInterval: time.Second,
			Kinds: kinds(func(string) actor.Actor {
				lives.Add(1)
				return grain(func(ctx actor.Context) {
					switch m := ctx.Message().(type) {
					case call:
						m.Reply(m.Request(), nil)
					case trim:
						hear("trim")
					case passivate:
						hear("passivate")
						ctx.Stop(ctx.Self())
					case drain:
						hear("drain")
						ctx.Stop(ctx.Self())
					}
				})
			}),
		})
		ask := func() {
			if _, err := n.Ask(context.Background(), kb("a"), text("")); err != nil {
				t.Fatal(err)
			}
		}
		ask()
		time.Sleep(50 * time.Second)
		ask() // used again: the idle time starts anew
		time.Sleep(50 * time.Second)
		if got := said(); got != "" {
			t.Fatalf("a grain in use heard %q", got)
		}
		time.Sleep(9 * time.Minute)
		if got := said(); got != "trim" {
			t.Fatalf("after 10 minutes the grain heard %q, want one trim", got)
		}
		time.Sleep(time.Minute)
		if got := said(); got != "trim passivate" || len(n.Activations()) != 0 {
			t.Fatalf("after 11 minutes the grain heard %q, %d are active", got, len(n.Activations()))
		}
		ask()
		if lives.Load() != 2 {
			t.Errorf("%d lives, want 2", lives.Load())
		}
	})
}

func TestABusyGrainIsNotAskedToPassivateAndMayRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		held := make(chan call, 1)
		n := startNode(t, cluster.Config{
			TrimAfter: time.Minute, IdleTimeout: time.Minute, SweepInterval: time.Second,
			Kinds: kinds(func(string) actor.Actor {
				return grain(func(ctx actor.Context) {
					switch m := ctx.Message().(type) {
					case call:
						held <- m // answered later: the grain owes an answer
					case passivate:
						asked.Add(1) // has work of its own, stays
					case drain:
						ctx.Stop(ctx.Self())
					}
				})
			}),
		})
		answered := make(chan error, 1)
		go func() {
			_, err := n.Ask(deadline(t, time.Hour), kb("a"), text(""))
			answered <- err
		}()
		time.Sleep(30 * time.Minute)
		if asked.Load() != 0 {
			t.Errorf("a grain that owes an answer was asked to passivate %d times", asked.Load())
		}
		(<-held).Reply(nil, nil)
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Minute + 30*time.Second)
		if got := asked.Load(); got < 9 || got > 10 {
			t.Errorf("in 10 minutes it was asked %d times, want once per idle time", got)
		}
		if len(n.Activations()) != 1 {
			t.Error("a grain that refused is gone")
		}
	})
}

// Calls race with passivation all the time; none may be lost or answered with
// an error, and never are two lives alive at once.
func TestPassivationIsInvisibleToCallers_A1(t *testing.T) {
	var alive, lives, overlaps atomic.Int32
	n := startNode(t, cluster.Config{
		TrimAfter: 2 * time.Millisecond, IdleTimeout: 2 * time.Millisecond, SweepInterval: time.Millisecond,
		Kinds: kinds(func(string) actor.Actor {
			return grain(func(ctx actor.Context) {
				switch m := ctx.Message().(type) {
				case *actor.Started:
					lives.Add(1)
					if alive.Add(1) > 1 {
						overlaps.Add(1)
					}
				case *actor.Stopped:
					alive.Add(-1)
				case call:
					m.Reply(m.Request(), nil)
					if textOf(m.Request()) == "last" {
						ctx.Stop(ctx.Self())
					}
				case passivate, drain:
					ctx.Stop(ctx.Self())
				}
			})
		}),
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for j := range 500 {
				what := "go on"
				if j%3 == 0 {
					what = "last"
				}
				if _, err := n.Ask(context.Background(), kb("a"), text(what)); err != nil {
					t.Errorf("Ask() error = %v", err)
				}
			}
		})
	}
	wg.Wait()
	if overlaps.Load() != 0 || lives.Load() < 10 {
		t.Errorf("%d lives, %d overlapped", lives.Load(), overlaps.Load())
	}
}
