package cluster_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/cluster"
)

func TestNewRefusesAWrongConfiguration(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	fine := kinds(func(string) actor.Actor { return polite(echo) })
	for name, cfg := range map[string]cluster.Config{
		"no logger":        {Name: "a", Kinds: fine},
		"no name":          {Logger: log, Kinds: fine},
		"ring mark":        {Name: "a#b", Logger: log, Kinds: fine},
		"kind twice":       {Name: "a", Logger: log, Kinds: append(fine, fine...)},
		"kind without New": {Name: "a", Logger: log, Kinds: []cluster.Kind{{Name: "kb"}}},
		"kind misnamed":    {Name: "a", Logger: log, Kinds: []cluster.Kind{{Name: "K B", New: fine[0].New}}},
		"negative time":    {Name: "a", Logger: log, Kinds: fine, IdleTimeout: -1},
		"negative size":    {Name: "a", Logger: log, Kinds: fine, MailboxSize: -1},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := cluster.New(cfg); !errors.Is(err, cluster.ErrConfig) {
				t.Errorf("New() error = %v, want ErrConfig", err)
			}
		})
	}
}

func TestStopMayComeBeforeStartAndManyTimes(t *testing.T) {
	cfg := cluster.Config{Name: "a", Logger: slog.New(slog.DiscardHandler), Kinds: kinds(func(string) actor.Actor { return polite(echo) })}
	ctx := context.Background()
	n, err := cluster.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Ask(ctx, kb("a"), text("")); !errors.Is(err, cluster.ErrUnavailable) {
		t.Errorf("Ask before Start: %v, want ErrUnavailable", err)
	}
	for range 2 {
		if err := n.Stop(ctx); err != nil {
			t.Errorf("Stop before Start: %v", err)
		}
	}
	if err := n.Start(ctx); !errors.Is(err, cluster.ErrStopped) {
		t.Errorf("Start after Stop: %v, want ErrStopped", err)
	}

	n, _ = cluster.New(cfg)
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(ctx); !errors.Is(err, cluster.ErrStarted) {
		t.Errorf("second Start: %v, want ErrStarted", err)
	}
	if _, err := n.Ask(ctx, kb("a"), text("")); err != nil {
		t.Errorf("Ask: %v", err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := n.Stop(ctx); err != nil {
				t.Errorf("Stop: %v", err)
			}
		})
	}
	wg.Wait()
	if _, err := n.Ask(ctx, kb("a"), text("")); !errors.Is(err, cluster.ErrStopped) {
		t.Errorf("Ask after Stop: %v, want ErrStopped", err)
	}
}

func TestStopServesWhatIsQueuedAndWaitsForTheGrainsLastWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var served, snapshots atomic.Int32
		n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor {
			return grain(func(ctx actor.Context) {
				switch m := ctx.Message().(type) {
				case call:
					<-gate
					served.Add(1)
					m.Reply(m.Request(), nil)
				case drain:
					self, system := ctx.Self(), ctx.ActorSystem()
					go func() { // a snapshot that takes its time
						time.Sleep(2 * time.Second)
						snapshots.Add(1)
						system.Root.Send(self, "snapshot done")
					}()
				case string:
					ctx.Stop(ctx.Self())
				}
			})
		})})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if _, err := n.Ask(context.Background(), kb("a"), text("")); err != nil {
					t.Errorf("a call before Stop: %v", err)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		stopped := make(chan error, 1)
		go func() { stopped <- n.Stop(context.Background()) }()
		synctest.Wait()
		if _, err := n.Ask(context.Background(), kb("a"), text("")); !errors.Is(err, cluster.ErrStopped) {
			t.Errorf("a call after Stop: %v, want ErrStopped", err)
		}
		close(gate)
		wg.Wait()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if served.Load() != 5 || snapshots.Load() != 1 || time.Since(start) != 2*time.Second {
			t.Errorf("served %d of 5, %d snapshots, Stop took %v", served.Load(), snapshots.Load(), time.Since(start))
		}
	})
}

func TestStopEndsGrainsThatDoNotDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stopping atomic.Int32
		n := startNode(t, cluster.Config{DrainTimeout: 10 * time.Second, Kinds: kinds(func(string) actor.Actor {
			return grain(func(ctx actor.Context) { // keeps its calls, ignores the drain
				if _, ok := ctx.Message().(*actor.Stopping); ok {
					stopping.Add(1)
				}
			})
		})})
		pending := make(chan error, 1)
		go func() {
			_, err := n.Ask(context.Background(), kb("a"), text(""))
			pending <- err
		}()
		synctest.Wait()
		start := time.Now()
		if err := n.Stop(deadline(t, 3*time.Second)); err != nil {
			t.Error(err)
		}
		if time.Since(start) != 3*time.Second || stopping.Load() != 1 {
			t.Errorf("Stop took %v, the grain heard Stopping %d times", time.Since(start), stopping.Load())
		}
		if err := <-pending; !errors.Is(err, cluster.ErrDeadLetter) {
			t.Errorf("the pending call got %v, want ErrDeadLetter", err)
		}
	})
}

func TestStopAnswersEvenTheCallsOfAGrainThatHangs(t *testing.T) {
	release := make(chan struct{})
	entered := make(chan struct{}, 1)
	left := make(chan struct{})
	log := slog.New(slog.DiscardHandler)
	n, err := cluster.New(cluster.Config{Name: "a", Logger: log, DrainTimeout: 10 * time.Millisecond, Kinds: kinds(func(string) actor.Actor {
		return grain(func(ctx actor.Context) {
			switch ctx.Message().(type) {
			case call:
				entered <- struct{}{}
				<-release
			case *actor.Stopped:
				close(left)
			}
		})
	})})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	answers := make(chan error, 2)
	ask := func() {
		_, err := n.Ask(ctx, kb("a"), text(""))
		answers <- err
	}
	go ask() // the one in Receive
	<-entered
	go ask() // the one behind it
	for n.Activations()[0].Queued == 0 {
		time.Sleep(time.Millisecond) // no signal: the node alone knows
	}
	if err := n.Stop(ctx); err == nil || !strings.Contains(err.Error(), "kb/acme/a") {
		t.Errorf("Stop() error = %v, want it to name the grain", err)
	}
	for range 2 {
		if err := <-answers; !errors.Is(err, cluster.ErrStopped) {
			t.Errorf("a call got %v, want ErrStopped", err)
		}
	}
	close(release)
	<-left
}

func TestOneNodeOpensNoSocket(t *testing.T) {
	before := sockets(t)
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor { return polite(echo) })})
	if _, err := n.Ask(context.Background(), kb("a"), text("")); err != nil {
		t.Fatal(err)
	}
	if after := sockets(t); after != before {
		t.Errorf("the process has %d sockets, %d before Start", after, before)
	}
}

// sockets counts the open sockets of this process.
func sockets(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("needs a /proc: %v", err)
	}
	count := 0
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			count++
		}
	}
	return count
}

func TestPlacementNamesTheOwner_A3(t *testing.T) {
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor { return polite(echo) })})
	before, err := n.Placement(kb("a"))
	if err != nil {
		t.Fatal(err)
	}
	if before.Owner != "node-1" || !before.Local || before.Active {
		t.Errorf("Placement() = %+v", before)
	}
	if _, err := n.Ask(context.Background(), kb("a"), text("")); err != nil {
		t.Fatal(err)
	}
	after, _ := n.Placement(kb("a"))
	if !after.Active || after.Partition != before.Partition {
		t.Errorf("Placement() = %+v once active", after)
	}
	if _, err := n.Placement(kb("")); err == nil {
		t.Error("an identity without an id has a placement")
	}
}

func TestLogsHoldNoContentOfMessages(t *testing.T) {
	var logs logBuffer
	systems := make(chan *actor.ActorSystem, 1)
	n := startNode(t, cluster.Config{Logger: logs.logger(), Kinds: kinds(func(string) actor.Actor {
		return polite(func(ctx actor.Context, c call) {
			systems <- ctx.ActorSystem()
			c.Reply(nil, nil)
		})
	})})
	if _, err := n.Ask(context.Background(), kb("a"), text("")); err != nil {
		t.Fatal(err)
	}
	system := <-systems
	system.Root.Send(system.NewLocalPID("nobody"), text("the tenant's secret"))
	if out := logs.String(); !strings.Contains(out, "DeadLetter") || strings.Contains(out, "secret") || strings.Contains(out, "INFO") {
		t.Errorf("log of a dead letter: %s", out)
	}
}
