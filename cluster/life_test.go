package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/cluster"
)

// counter counts its calls, so that a fresh life shows.
func counter(lives *atomic.Int32) func(string) actor.Actor {
	return func(string) actor.Actor {
		lives.Add(1)
		calls := 0
		return polite(func(ctx actor.Context, c call) {
			calls++
			switch textOf(c.Request()) {
			case "panic":
				panic("broken on purpose")
			case "stop":
				ctx.Stop(ctx.Self())
			case "forget":
				return
			case "panic in a continuation":
				ctx.ReenterAfter(done(ctx), func(any, error) { panic("broken later") })
				return
			}
			c.Reply(text(fmt.Sprint(calls)), nil)
		})
	}
}

// done is a future that is complete.
func done(ctx actor.Context) *actor.Future {
	f := actor.NewFuture(ctx.ActorSystem(), time.Second)
	ctx.Send(f.PID(), "ok")
	return f
}

func TestCallsOfAStoppedGrainAreAnsweredWithin50ms(t *testing.T) {
	var lives atomic.Int32
	n := startNode(t, cluster.Config{Kinds: kinds(counter(&lives))})
	forgotten := make(chan error, 1)
	go func() {
		_, err := n.Ask(context.Background(), kb("a"), text("forget"))
		forgotten <- err
	}()
	for len(n.Activations()) == 0 || n.Activations()[0].Pending == 0 {
		time.Sleep(time.Millisecond) // no signal: the node alone knows that the call is parked
	}
	start := time.Now()
	if _, err := n.Ask(context.Background(), kb("a"), text("stop")); err != nil {
		t.Fatal(err)
	}
	if err := <-forgotten; !errors.Is(err, cluster.ErrDeadLetter) {
		t.Errorf("Ask() error = %v, want ErrDeadLetter", err)
	}
	if took := time.Since(start); took > 50*time.Millisecond {
		t.Errorf("the answer took %v", took)
	}
}

func TestACallThatWasTakenIsRepeatedOnlyWhenSafe(t *testing.T) {
	for name, c := range map[string]struct {
		ctx   context.Context
		calls int32
	}{
		"plain": {context.Background(), 1},
		"safe":  {cluster.WithSafe(context.Background()), 3},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
				return polite(func(ctx actor.Context, _ call) {
					calls.Add(1)
					ctx.Stop(ctx.Self())
				})
			})})
			if _, err := n.Ask(c.ctx, kb("a"), text("")); !errors.Is(err, cluster.ErrDeadLetter) {
				t.Errorf("Ask() error = %v, want ErrDeadLetter", err)
			}
			if calls.Load() != c.calls {
				t.Errorf("the call was made %d times, want %d", calls.Load(), c.calls)
			}
		})
	}
}

func TestAPanicCostsItsCallAndTheGrainsMemoryOnly(t *testing.T) {
	for _, how := range []string{"panic", "panic in a continuation"} {
		t.Run(how, func(t *testing.T) {
			var lives atomic.Int32
			var logs logBuffer
			n := startNode(t, cluster.Config{Logger: logs.logger(), Kinds: kinds(counter(&lives))})
			ask := func(id, what string) (string, error) {
				got, err := n.Ask(context.Background(), kb(id), text(what))
				return textOf(got), err
			}
			for range 2 {
				_, _ = ask("a", "")
				_, _ = ask("b", "")
			}
			_, err := ask("a", how)
			want := cluster.ErrPanicked
			if how != "panic" {
				want = cluster.ErrDeadLetter // it was parked, another message panicked
			}
			if !errors.Is(err, want) {
				t.Errorf("Ask() error = %v, want %v", err, want)
			}
			if got, err := ask("a", ""); got != "1" || err != nil {
				t.Errorf("the next call got %q, %v, want a fresh grain", got, err)
			}
			if got, err := ask("b", ""); got != "3" || err != nil {
				t.Errorf("the neighbour answered %q, %v, want its third call", got, err)
			}
			if got := strings.Count(logs.String(), "grain panicked"); got != 1 {
				t.Errorf("the panic was logged %d times: %s", got, logs.String())
			}
			if !strings.Contains(logs.String(), "life_test.go") {
				t.Error("the log has no stack that names the place")
			}
		})
	}
}

func TestCallsBehindAPanicAreServedByTheNextLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var logs logBuffer
		n := startNode(t, cluster.Config{Logger: logs.logger(), Kinds: kinds(func(string) actor.Actor {
			return polite(func(_ actor.Context, c call) {
				if textOf(c.Request()) == "panic" {
					<-gate
					panic("broken on purpose")
				}
				c.Reply(c.Request(), nil)
			})
		})})
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = n.Ask(context.Background(), kb("a"), text("panic")) })
		synctest.Wait()
		for range 20 {
			wg.Go(func() {
				if got, err := n.Ask(context.Background(), kb("a"), text("x")); err != nil || textOf(got) != "x" {
					t.Errorf("Ask() = %q, %v", textOf(got), err)
				}
			})
		}
		synctest.Wait()
		close(gate)
		wg.Wait()
	})
}

func TestAGrainThatCannotStartFailsItsCallsAndTriesOncePerCall(t *testing.T) {
	for name, newGrain := range map[string]func(string) actor.Actor{
		"New panics":     func(string) actor.Actor { panic("no grain") },
		"New gives none": func(string) actor.Actor { return nil },
		"Started panics": func(string) actor.Actor {
			return grain(func(ctx actor.Context) {
				if _, ok := ctx.Message().(*actor.Started); ok {
					panic("cannot start")
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var lives atomic.Int32
			var logs logBuffer
			n := startNode(t, cluster.Config{Logger: logs.logger(), Kinds: kinds(func(id string) actor.Actor {
				lives.Add(1)
				return newGrain(id)
			})})
			for range 3 {
				if _, err := n.Ask(cluster.WithSafe(context.Background()), kb("a"), text("")); !errors.Is(err, cluster.ErrPanicked) {
					t.Errorf("Ask() error = %v, want ErrPanicked", err)
				}
			}
			if lives.Load() != 3 {
				t.Errorf("three calls made %d lives", lives.Load())
			}
		})
	}
}

// stubborn is a grain whose child's failure is escalated.
type stubborn struct{ grain }

func (stubborn) HandleFailure(_ *actor.ActorSystem, s actor.Supervisor, _ *actor.PID, _ *actor.RestartStatistics, reason, message any) {
	s.EscalateFailure(reason, message)
}

func TestAnEscalatedFailureStopsTheGrainAndTheNextCallFindsAFreshOne(t *testing.T) {
	var lives atomic.Int32
	var logs logBuffer
	stopped := make(chan struct{}, 8)
	n := startNode(t, cluster.Config{Logger: logs.logger(), Kinds: kinds(func(string) actor.Actor {
		lives.Add(1)
		return stubborn{func(ctx actor.Context) {
			switch m := ctx.Message().(type) {
			case call:
				if textOf(m.Request()) == "break a child" {
					ctx.Send(ctx.Spawn(actor.PropsFromFunc(func(ctx actor.Context) {
						if _, ok := ctx.Message().(string); ok {
							panic("the child is broken")
						}
					})), "go")
				}
				m.Reply(m.Request(), nil)
			case *actor.Stopped:
				stopped <- struct{}{}
			case drain:
				ctx.Stop(ctx.Self())
			}
		}}
	})})
	if _, err := n.Ask(context.Background(), kb("a"), text("break a child")); err != nil {
		t.Fatal(err)
	}
	<-stopped
	if _, err := n.Ask(context.Background(), kb("a"), text("")); err != nil {
		t.Fatal(err)
	}
	if lives.Load() != 2 {
		t.Errorf("the grain had %d lives, want 2", lives.Load())
	}
}

// Callers give up at random moments while answers are on their way. A waiter
// that were used again too early would wake a stranger.
func TestGivingUpNeverWakesAnother(t *testing.T) {
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
		return polite(func(_ actor.Context, c call) {
			if len(textOf(c.Request()))%2 == 0 {
				go c.Reply(c.Request(), nil)
				return
			}
			c.Reply(c.Request(), nil)
		})
	})})
	var answered, gaveUp atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 1000 {
				want := fmt.Sprintf("%d/%d", i, j)
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(j%40)*time.Microsecond)
				got, err := n.Ask(ctx, kb(fmt.Sprint(j%3)), text(want))
				cancel()
				switch {
				case errors.Is(err, context.DeadlineExceeded), errors.Is(err, cluster.ErrBusy):
					gaveUp.Add(1)
				case err != nil || textOf(got) != want:
					t.Errorf("Ask(%s) = %q, %v", want, textOf(got), err)
				default:
					answered.Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d answered, %d gave up", answered.Load(), gaveUp.Load())
	if answered.Load() == 0 || gaveUp.Load() == 0 {
		t.Error("the race was not run")
	}
}

// A grain that always has a message of its own must not starve its callers.
func TestOwnMessagesDoNotStarveCalls(t *testing.T) {
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
		return grain(func(ctx actor.Context) {
			switch m := ctx.Message().(type) {
			case *actor.Started, string:
				ctx.Send(ctx.Self(), "and again")
			case call:
				m.Reply(m.Request(), nil)
				if textOf(m.Request()) == "enough" {
					ctx.Stop(ctx.Self())
				}
			}
		})
	})})
	for _, what := range []string{"1", "2", "3", "enough"} {
		if _, err := n.Ask(context.Background(), kb("a"), text(what)); err != nil {
			t.Fatalf("Ask(%s) error = %v", what, err)
		}
	}
}

// What was sent to a life that is over, by a timer or a late commit, must not
// reach the next one.
func TestALateMessageDoesNotReachTheNextLife(t *testing.T) {
	var logs logBuffer
	late := make(chan func(), 1)
	n := startNode(t, cluster.Config{Logger: logs.logger(), Kinds: kinds(func(string) actor.Actor {
		heard := "nothing"
		return grain(func(ctx actor.Context) {
			switch m := ctx.Message().(type) {
			case string:
				heard = m
			case call:
				if textOf(m.Request()) == "end" {
					self, root := ctx.Self(), ctx.ActorSystem().Root
					late <- func() { root.Send(self, "from the last life") }
					ctx.Stop(self)
				}
				m.Reply(text(heard), nil)
			case drain:
				ctx.Stop(ctx.Self())
			}
		})
	})})
	for _, what := range []string{"end", "begin"} {
		if _, err := n.Ask(context.Background(), kb("a"), text(what)); err != nil {
			t.Fatal(err)
		}
	}
	(<-late)()
	if got, err := n.Ask(context.Background(), kb("a"), text("")); err != nil || textOf(got) != "nothing" {
		t.Errorf("the next life heard %q, %v", textOf(got), err)
	}
}

// While a grain waits for its children to stop it must not take calls any more;
// the next life serves them.
func TestAStoppingGrainTakesNoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold, gate := make(chan struct{}), make(chan struct{})
		var lives atomic.Int32
		n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
			life := lives.Add(1)
			return polite(func(ctx actor.Context, c call) {
				if textOf(c.Request()) == "stop" {
					<-hold
					ctx.Spawn(actor.PropsFromFunc(func(ctx actor.Context) {
						if _, ok := ctx.Message().(*actor.Stopping); ok {
							<-gate
						}
					}))
					ctx.Stop(ctx.Self())
				}
				c.Reply(text(fmt.Sprint(life)), nil)
			})
		})})
		answers := make(chan string, 3)
		ask := func(what string) {
			got, err := n.Ask(context.Background(), kb("a"), text(what))
			answers <- fmt.Sprint(textOf(got), err)
		}
		go ask("stop")
		synctest.Wait()
		go ask("queued before")
		synctest.Wait()
		close(hold)
		synctest.Wait()
		go ask("queued while it stops")
		synctest.Wait()
		if info := n.Activations(); len(info) != 1 || !info[0].Stopping || info[0].Queued != 2 || info[0].Served != 1 {
			t.Errorf("activations %+v, want one that stops with two calls queued", info)
		}
		close(gate)
		if got := [3]string{<-answers, <-answers, <-answers}; got != [3]string{"1<nil>", "2<nil>", "2<nil>"} {
			t.Errorf("answered %v, want by the first life once, by the second twice", got)
		}
	})
}
