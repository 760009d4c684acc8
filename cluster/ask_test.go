package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/types/known/emptypb"

	"granary.dev/granary/cluster"
	"granary.dev/granary/cluster/protocol"
)

func TestAskReachesTheGrainOfItsIdentity_A1(t *testing.T) {
	n := startNode(t, cluster.Config{Kinds: kinds(func(id string) actor.Actor {
		return polite(func(_ actor.Context, c call) { c.Reply(text(id+":"+textOf(c.Request())), nil) })
	})})
	for _, id := range []string{"a", "b", "a"} {
		got, err := n.Ask(context.Background(), kb(id), text("hello"))
		if err != nil || textOf(got) != id+":hello" {
			t.Errorf("Ask(%s) = %q, %v", id, textOf(got), err)
		}
	}
}

func TestConcurrentFirstCallsActivateOnce_A1(t *testing.T) {
	var born atomic.Int32
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
		born.Add(1)
		return polite(echo)
	})})
	const identities, callers = 50, 40
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range identities {
		for j := range callers {
			wg.Go(func() {
				<-begin
				want := fmt.Sprintf("%d/%d", i, j)
				got, err := n.Ask(context.Background(), kb(fmt.Sprint(i)), text(want))
				if err != nil || textOf(got) != want {
					t.Errorf("Ask(%s) = %q, %v", want, textOf(got), err)
				}
			})
		}
	}
	close(begin)
	wg.Wait()
	if got := born.Load(); got != identities {
		t.Errorf("%d grains were made for %d identities", got, identities)
	}
	if got := len(n.Activations()); got != identities {
		t.Errorf("%d activations are listed, want %d", got, identities)
	}
}

func TestAskRefusesWhatCannotBeAddressed(t *testing.T) {
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor { return polite(echo) })})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	cases := map[string]struct {
		ctx  context.Context
		id   cluster.Identity
		want error
	}{
		"slash in id":  {context.Background(), kb("a/b"), protocol.ErrInvalidIdentity},
		"no tenant":    {context.Background(), cluster.Identity{Kind: "kb", ID: "x"}, protocol.ErrInvalidIdentity},
		"unknown kind": {context.Background(), cluster.Identity{Kind: "other", Tenant: "acme", ID: "x"}, cluster.ErrUnknownKind},
		"ended":        {ended, kb("x"), context.Canceled},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := n.Ask(c.ctx, c.id, text("")); !errors.Is(err, c.want) {
				t.Errorf("Ask() error = %v, want %v", err, c.want)
			}
		})
	}
	if got := len(n.Activations()); got != 0 {
		t.Errorf("refused calls left %d activations", got)
	}
}

func TestGrainsErrorPassesUnchanged(t *testing.T) {
	own := errors.New("document is locked")
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
		return polite(func(_ actor.Context, c call) { c.Reply(nil, own) })
	})})
	if _, err := n.Ask(context.Background(), kb("a"), text("")); err != own {
		t.Errorf("Ask() error = %v, want the very error of the grain", err)
	}
}

// A grain that passes on the error of an Ask of its own must not make this Ask
// believe that its call never arrived.
func TestAnErrorPassedOnByAGrainIsNotRetried(t *testing.T) {
	var calls atomic.Int32
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
		return polite(func(_ actor.Context, c call) {
			calls.Add(1)
			c.Reply(nil, fmt.Errorf("asking the tenant: %w", cluster.ErrBusy))
		})
	})})
	if _, err := n.Ask(cluster.WithSafe(context.Background()), kb("a"), text("")); !errors.Is(err, cluster.ErrBusy) {
		t.Errorf("Ask() error = %v, want the grain's", err)
	}
	if calls.Load() != 1 {
		t.Errorf("the grain was called %d times, want once", calls.Load())
	}
}

func TestReplyWithNothingIsAnEmptyMessage(t *testing.T) {
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
		return polite(func(_ actor.Context, c call) { c.Reply(nil, nil) })
	})})
	got, err := n.Ask(context.Background(), kb("a"), text(""))
	if _, ok := got.(*emptypb.Empty); !ok || err != nil {
		t.Errorf("Ask() = %v, %v, want an empty message", got, err)
	}
}

func TestOnlyTheFirstReplyCounts(t *testing.T) {
	kept := make(chan call, 1)
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
		return polite(func(_ actor.Context, c call) {
			c.Reply(text("first"), nil)
			c.Reply(text("second"), nil)
			select {
			case kept <- c:
			default:
			}
		})
	})})
	for range 100 { // the waiter of the first call is in use again by now
		got, err := n.Ask(context.Background(), kb("a"), text(""))
		if err != nil || textOf(got) != "first" {
			t.Fatalf("Ask() = %q, %v", textOf(got), err)
		}
		select {
		case old := <-kept:
			old.Reply(text("stale"), nil)
			kept <- old
		default:
		}
	}
}

func TestReplyMayComeLaterFromAnyGoroutine(t *testing.T) {
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
		return polite(func(_ actor.Context, c call) { go c.Reply(c.Request(), nil) })
	})})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 200 {
				want := fmt.Sprintf("%d/%d", i, j)
				got, err := n.Ask(context.Background(), kb("a"), text(want))
				if err != nil || textOf(got) != want {
					t.Errorf("Ask(%s) = %q, %v", want, textOf(got), err)
				}
			}
		})
	}
	wg.Wait()
}

func TestCallerReturnsAtOnceWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(chan call, 1)
		n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
			return polite(func(_ actor.Context, c call) { seen <- c })
		})})
		start := time.Now()
		_, err := n.Ask(deadline(t, 70*time.Millisecond), kb("a"), text(""))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 70*time.Millisecond {
			t.Errorf("Ask() = %v after %v, want its deadline after 70ms", err, time.Since(start))
		}
		c := <-seen
		if !errors.Is(c.Context().Err(), context.DeadlineExceeded) {
			t.Errorf("the call's context says %v, want its deadline", c.Context().Err())
		}
		synctest.Wait()
		if got := n.Activations()[0].Pending; got != 0 {
			t.Errorf("%d calls are still pending after their caller left", got)
		}
		c.Reply(text("too late"), nil)
	})
}

func TestCallWithoutDeadlineGetsTheNodes(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		seen := make(chan call, 1)
		n := startNode(t, cluster.Config{AskTimeout: 3 * time.Second, Kinds: kinds(func(string) actor.Actor {
			return polite(func(_ actor.Context, c call) { seen <- c })
		})})
		start := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := n.Ask(context.WithValue(context.Background(), key{}, "v"), kb("a"), text(""))
			done <- err
		}()
		ctx := (<-seen).Context()
		if at, ok := ctx.Deadline(); !ok || at.Sub(start) != 3*time.Second {
			t.Errorf("the call's deadline is %v, want 3s after its start", at.Sub(start))
		}
		if ctx.Value(key{}) != "v" || ctx.Err() != nil {
			t.Errorf("the call's context lost its value or ended early: %v", ctx.Err())
		}
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("Ask() = %v after %v", err, time.Since(start))
		}
		<-ctx.Done()

		go func() {
			_, err := n.Ask(context.Background(), kb("a"), text(""))
			done <- err
		}()
		c := <-seen
		ctx = c.Context()
		c.Reply(nil, nil)
		if err := <-done; err != nil || ctx.Err() == nil {
			t.Errorf("Ask() error = %v; the call's context says %v, want it over with the answer", err, ctx.Err())
		}
	})
}

func TestExpiredCallsAreDroppedAtDequeue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var handled atomic.Int32
		n := startNode(t, cluster.Config{AskTimeout: time.Second, Kinds: kinds(func(string) actor.Actor {
			return polite(func(_ actor.Context, c call) {
				handled.Add(1)
				<-gate
				c.Reply(c.Request(), nil)
			})
		})})
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = n.Ask(deadline(t, time.Hour), kb("a"), text("holds the grain")) })
		synctest.Wait()
		// One has a deadline of its own, the others get the node's.
		for _, ctx := range []context.Context{deadline(t, time.Millisecond), context.Background(), t.Context()} {
			wg.Go(func() {
				if _, err := n.Ask(ctx, kb("a"), text("")); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Ask() error = %v, want the deadline", err)
				}
			})
		}
		time.Sleep(2 * time.Second)
		close(gate)
		wg.Wait()
		if handled.Load() != 1 {
			t.Errorf("the grain handled %d calls that expired before their turn", handled.Load()-1)
		}
	})
}

func TestFullMailboxRefusesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		own := make(chan struct{})
		n := startNode(t, cluster.Config{MailboxSize: 8, Kinds: kinds(func(string) actor.Actor {
			return grain(func(ctx actor.Context) {
				switch m := ctx.Message().(type) {
				case call:
					for range 100 {
						ctx.Send(ctx.Self(), "own message") // never refused
					}
					<-gate
					m.Reply(m.Request(), nil)
				case string:
					select {
					case own <- struct{}{}:
					default:
					}
				case drain:
					ctx.Stop(ctx.Self())
				}
			})
		})})
		var wg sync.WaitGroup
		for range 1 + 8 { // one in hand, eight in the queue
			wg.Go(func() {
				if _, err := n.Ask(context.Background(), kb("a"), text("")); err != nil {
					t.Errorf("Ask() error = %v", err)
				}
			})
			synctest.Wait()
		}
		start := time.Now()
		_, err := n.Ask(context.Background(), kb("a"), text("one too many"))
		var busy *cluster.Error
		if !errors.Is(err, cluster.ErrBusy) || !errors.As(err, &busy) {
			t.Fatalf("Ask() error = %v, want ErrBusy", err)
		}
		if busy.RetryAfter <= 0 || busy.Identity != kb("a") {
			t.Errorf("refusal %+v lacks a hint or the identity", busy)
		}
		if took := time.Since(start); took > 5*time.Millisecond+40*time.Millisecond {
			t.Errorf("refusal with two retries took %v", took)
		}
		close(gate)
		<-own
		wg.Wait()
	})
}

func TestCallersWhoLeftDoNotFillTheMailbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		n := startNode(t, cluster.Config{MailboxSize: 4, Kinds: kinds(func(string) actor.Actor {
			return polite(func(_ actor.Context, c call) { <-gate; c.Reply(c.Request(), nil) })
		})})
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = n.Ask(context.Background(), kb("a"), text("")) })
		synctest.Wait()
		for range 4 {
			wg.Go(func() { _, _ = n.Ask(deadline(t, time.Millisecond), kb("a"), text("")) })
		}
		time.Sleep(time.Second)
		wg.Go(func() {
			if _, err := n.Ask(context.Background(), kb("a"), text("")); err != nil {
				t.Errorf("Ask() error = %v though nobody waits in the queue", err)
			}
		})
		synctest.Wait()
		if got := n.Activations()[0].Queued; got != 1 {
			t.Errorf("%d calls are queued, want the one whose caller waits", got)
		}
		close(gate)
		wg.Wait()
	})
}

func TestRetriesStayWithinTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lives atomic.Int32
		n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
			lives.Add(1)
			return grain(func(ctx actor.Context) { // refuses to live
				if _, ok := ctx.Message().(*actor.Started); ok {
					ctx.Stop(ctx.Self())
				}
			})
		})})
		if _, err := n.Ask(context.Background(), kb("a"), text("")); !errors.Is(err, cluster.ErrUnavailable) {
			t.Fatalf("Ask() error = %v, want ErrUnavailable", err)
		}
		if got := lives.Load(); got != 3 {
			t.Errorf("one call tried %d activations, want 3", got)
		}
		for range 100 {
			_, _ = n.Ask(context.Background(), kb("a"), text(""))
		}
		// 101 calls, 10 retries saved up and a tenth of a retry earned by each.
		if got := lives.Load(); got < 101+10 || got > 101+10+11 {
			t.Errorf("101 calls made %d attempts, want 111 to 122", got)
		}
	})
}
