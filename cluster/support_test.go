package cluster_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"granary.dev/granary/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What a grain of package actors declares for itself: no type of this package.
type (
	call interface {
		Request() proto.Message
		Context() context.Context
		Reply(proto.Message, error)
	}
	trim      interface{ TrimRequested() }
	passivate interface{ PassivateRequested() }
	drain     interface{ DrainRequested() }
)

// grain is a test's grain: on is called for each message it has a case for.
type grain func(ctx actor.Context)

func (g grain) Receive(ctx actor.Context) { g(ctx) }

// polite answers calls with on and agrees to be passivated and drained.
func polite(on func(ctx actor.Context, c call)) grain {
	return func(ctx actor.Context) {
		switch m := ctx.Message().(type) {
		case call:
			on(ctx, m)
		case passivate, drain:
			ctx.Stop(ctx.Self())
		}
	}
}

func echo(_ actor.Context, c call) { c.Reply(c.Request(), nil) }

// kinds makes a kind "kb" of which every grain is made by newGrain.
func kinds(newGrain func(id string) actor.Actor) []cluster.Kind {
	return []cluster.Kind{{Name: "kb", New: func(_, _, id string) actor.Actor { return newGrain(id) }}}
}

func kb(id string) cluster.Identity {
	return cluster.Identity{Kind: "kb", Tenant: "acme", ID: id}
}

// startNode starts a node and stops it at the end of the test.
func startNode(t testing.TB, cfg cluster.Config) *cluster.Node {
	t.Helper()
	cfg.Name = "node-1"
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	n, err := cluster.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := n.Stop(ctx); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	return n
}

func text(s string) *wrapperspb.StringValue { return wrapperspb.String(s) }

func textOf(m proto.Message) string {
	s, _ := m.(*wrapperspb.StringValue)
	return s.GetValue()
}

func deadline(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// testWriter sends a log to the test.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// logBuffer keeps a log for the test to read.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
