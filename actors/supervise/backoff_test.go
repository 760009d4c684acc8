package supervise_test

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"go.uber.org/goleak"

	"granary.dev/granary/actors/supervise"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// parent supervises children with strategy and tells what it hears.
type parent struct {
	*supervise.Backoff
	child      actor.ReceiveFunc
	terminated func(*actor.PID)
}

type spawn struct{ reply chan<- *actor.PID }

func (p *parent) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case spawn:
		m.reply <- ctx.Spawn(actor.PropsFromFunc(p.child))
	case *actor.Terminated:
		if p.terminated != nil {
			p.terminated(m.Who)
		}
	case *actor.Stopping:
		p.Close()
	}
}

// world is an actor system with one parent and one child of it.
type world struct {
	system        *actor.ActorSystem
	parent, child *actor.PID
}

func newWorld(p *parent) world {
	w := world{system: actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		return slog.New(slog.DiscardHandler)
	}))}
	w.parent = w.system.Root.Spawn(actor.PropsFromProducer(func() actor.Actor { return p }))
	reply := make(chan *actor.PID, 1)
	w.system.Root.Send(w.parent, spawn{reply})
	w.child = <-reply
	return w
}

func (w world) end() {
	w.system.Root.Stop(w.parent)
	time.Sleep(2 * time.Second) // dead letters keep a goroutine for a second
	w.system.Shutdown()
}

// failing is a child that fails as soon as it starts, and notes when.
func failing(starts *[]time.Duration, began time.Time) actor.ReceiveFunc {
	return func(ctx actor.Context) {
		if _, ok := ctx.Message().(*actor.Started); ok {
			*starts = append(*starts, time.Since(began))
			panic("broken on purpose")
		}
	}
}

func TestDelaysGrowByTheFactorUpToTheMaximumThenTheChildIsGivenUp_A5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Duration
		var gaveUp, terminated []*actor.PID
		var retries []string
		p := &parent{
			Backoff: &supervise.Backoff{
				Initial: time.Second, Max: 6 * time.Second, Factor: 2, ResetAfter: time.Hour, MaxRetries: 5,
				OnRetry: func(_ *actor.PID, failure int, delay time.Duration, reason any) {
					retries = append(retries, fmt.Sprintf("%d %v %v", failure, delay, reason))
				},
				OnGiveUp: func(child *actor.PID, reason any) {
					if reason != "broken on purpose" {
						t.Errorf("gave up for %v", reason)
					}
					gaveUp = append(gaveUp, child)
				},
			},
			child:      failing(&starts, time.Now()),
			terminated: func(who *actor.PID) { terminated = append(terminated, who) },
		}
		w := newWorld(p)
		time.Sleep(time.Hour)
		synctest.Wait()
		s := time.Second
		if want := []time.Duration{0, 1 * s, 3 * s, 7 * s, 13 * s, 19 * s}; !slices.Equal(starts, want) {
			t.Errorf("the child started at %v, want %v", starts, want)
		}
		if len(retries) != 5 || retries[4] != "5 6s broken on purpose" {
			t.Errorf("the parent heard of the retries %v", retries)
		}
		if len(gaveUp) != 1 || len(terminated) != 1 || !gaveUp[0].Equal(w.child) {
			t.Errorf("given up %v, terminated %v, want the child once each", gaveUp, terminated)
		}
		w.end()
	})
}

func TestJitterSpreadsTheDelaysWithinItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var delays []time.Duration
		var starts []time.Duration
		w := newWorld(&parent{
			Backoff: &supervise.Backoff{
				Initial: time.Second, Factor: 1, Jitter: 0.5, MaxRetries: 200,
				OnRetry: func(_ *actor.PID, _ int, d time.Duration, _ any) { delays = append(delays, d) },
			},
			child: failing(&starts, time.Now()),
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		low, high := slices.Min(delays), slices.Max(delays)
		if low < 500*time.Millisecond || high > time.Second {
			t.Errorf("delays lie in %v to %v, want 0.5s to 1s", low, high)
		}
		// 200 draws that all miss a fifth of the range: 0.8²⁰⁰ ≈ 4e-20.
		if low > 600*time.Millisecond || high < 900*time.Millisecond {
			t.Errorf("delays in %v to %v do not fill the range", low, high)
		}
		w.end()
	})
}

func TestTheCountStartsAnewAfterAGoodStretch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failures []int
		gaveUp := 0
		b := &supervise.Backoff{
			Initial: time.Second, Factor: 2, ResetAfter: time.Minute, MaxRetries: 2,
			OnRetry:  func(_ *actor.PID, failure int, _ time.Duration, _ any) { failures = append(failures, failure) },
			OnGiveUp: func(*actor.PID, any) { gaveUp++ },
		}
		w := newWorld(&parent{Backoff: b, child: func(ctx actor.Context) {
			if ctx.Message() == "fail" {
				panic("broken on purpose")
			}
		}})
		for range 5 {
			w.system.Root.Send(w.child, "fail")
			time.Sleep(5 * time.Second)
			w.system.Root.Send(w.child, "fail")
			time.Sleep(2 * time.Minute)
		}
		synctest.Wait()
		if want := []int{1, 2, 1, 2, 1, 2, 1, 2, 1, 2}; !slices.Equal(failures, want) || gaveUp != 0 {
			t.Errorf("failures counted %v, given up %d times, want %v", failures, gaveUp, want)
		}
		w.end()
	})
}

func TestNoRetriesMeansStopAtTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Duration
		gaveUp := 0
		w := newWorld(&parent{
			Backoff: &supervise.Backoff{OnGiveUp: func(*actor.PID, any) { gaveUp++ }},
			child:   failing(&starts, time.Now()),
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(starts) != 1 || gaveUp != 1 {
			t.Errorf("started %d times, given up %d times, want once each", len(starts), gaveUp)
		}
		w.end()
	})
}

func TestAParentWaitsForNothingWhileAChildIsDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Duration
		p := &parent{Backoff: &supervise.Backoff{Initial: time.Hour, MaxRetries: 3}, child: failing(&starts, time.Now())}
		w := newWorld(p)
		synctest.Wait()
		began := time.Now()
		reply := make(chan *actor.PID, 1)
		w.system.Root.Send(w.parent, spawn{reply})
		<-reply
		if took := time.Since(began); took != 0 {
			t.Errorf("the parent answered after %v", took)
		}
		w.end()
	})
}

func TestCancelAndCloseLeaveNoRestartBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Duration
		b := &supervise.Backoff{Initial: time.Minute, MaxRetries: 3}
		w := newWorld(&parent{Backoff: b, child: failing(&starts, time.Now())})
		synctest.Wait()
		if !b.Cancel(w.child) || b.Cancel(w.child) {
			t.Error("Cancel must find the pending restart, once")
		}
		reply := make(chan *actor.PID, 1)
		w.system.Root.Send(w.parent, spawn{reply})
		<-reply
		synctest.Wait()
		w.end() // the parent closes it while the second child waits
		b.Close()
		time.Sleep(time.Hour)
		if len(starts) != 2 {
			t.Errorf("%d starts, want the first of each child only", len(starts))
		}
	})
}

func TestAChildThatFailsAfterCloseIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Duration
		terminated := 0
		b := &supervise.Backoff{MaxRetries: 3}
		b.Close()
		w := newWorld(&parent{Backoff: b, child: failing(&starts, time.Now()), terminated: func(*actor.PID) { terminated++ }})
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(starts) != 1 || terminated != 1 {
			t.Errorf("started %d times, terminated %d times, want once each", len(starts), terminated)
		}
		w.end()
	})
}
