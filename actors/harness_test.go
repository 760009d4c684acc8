package actors_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/cluster"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	"granary.dev/granary/storage/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is one node over one embedded store, inside a synctest bubble: waits of
// minutes take no time, and every goroutine must have ended when the test does.
type world struct {
	t      *testing.T
	disk   *embedded.Store
	path   string  // of its database
	faults *faults // of the node that runs now
	node   *cluster.Node
	grains *actors.Grains
	setup  setup
	wake   context.CancelFunc
	woke   chan struct{}
	boot   int

	shredded atomic.Int64 // times a tenant's keys were destroyed
}

// setup is what a test may choose.
type setup struct {
	retry    kb.RetryPolicy
	slots    int
	children int
	waker    bool
	tier     kb.Tier
	metered  bool                            // calls and vector operations are counted
	asker    func(actors.Asker) actors.Asker // decorates what the grains ask with
	trim     time.Duration
	idle     time.Duration
}

// bubble runs a test against a fresh world.
func bubble(t *testing.T, s setup, test func(t *testing.T, w *world)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		disk, err := embedded.Open(t.Context(), embedded.Config{Dir: filepath.Join(dir, "data"), CollectEvery: 1000 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, disk: disk, setup: s, path: filepath.Join(dir, "data", "granary.db")}
		defer func() {
			w.stop()
			if err := disk.Close(); err != nil {
				t.Errorf("close the store: %v", err)
			}
		}()
		w.start()
		test(t, w)
	})
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// start starts a node over the store.
func (w *world) start() {
	w.t.Helper()
	w.boot++
	w.faults = newFaults()
	f := w.faults
	ask := &asker{}
	var grainAsker actors.Asker = ask
	if w.setup.asker != nil {
		grainAsker = w.setup.asker(ask)
	}
	log := slog.New(slog.NewTextHandler(testWriter{w.t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w.grains = actors.NewGrains(actors.Deps{ReceiptKey: receiptKey(), Receipts: w.disk, Node: "node-1", Store: &store{w.disk, f}, Blobs: &blobs{w.disk, f}, Counters: w.disk, Directory: w.disk, Shredder: shredder{f, &w.shredded},
		Chunks: &chunks{w.disk, f}, Asker: grainAsker, Parser: parser{f}, Fetcher: fetcher{f}, Embedder: embedder{f},
		Slots: actors.NewScheduler(orDefault(w.setup.slots, 4)), Logger: log, Tier: w.setup.tier,
		ChildrenPerKB: w.setup.children, Retry: w.setup.retry, Jitter: func() float64 { return 0 }, Meters: w.meters()})
	var err error
	w.node, err = cluster.New(cluster.Config{Name: "node-1", Logger: log, MailboxSize: 2048,
		Kinds:     []cluster.Kind{{Name: actors.KindTenant, New: w.grains.New}, {Name: actors.KindKB, New: w.grains.New}},
		TrimAfter: orDefault(w.setup.trim, 1000*time.Hour), IdleTimeout: orDefault(w.setup.idle, 2000*time.Hour)})
	if err != nil {
		w.t.Fatal(err)
	}
	ask.node = w.node
	if err := w.node.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	if w.setup.waker {
		w.startWaker()
	}
}

func (w *world) startWaker() {
	ctx, cancel := context.WithCancel(context.Background())
	w.wake, w.woke = cancel, make(chan struct{})
	go func() {
		defer close(w.woke)
		w.grains.Waker().Run(ctx)
	}()
}

// stop stops the node in an orderly way.
func (w *world) stop() { w.end(context.Background()) }

func (w *world) end(ctx context.Context) {
	w.t.Helper()
	if w.wake != nil {
		w.wake()
		<-w.woke
		w.wake = nil
	}
	if err := w.node.Stop(ctx); err != nil {
		w.t.Errorf("stop the node: %v", err)
	}
	if err := w.grains.Wait(context.Background()); err != nil {
		w.t.Errorf("wait for runs: %v", err)
	}
	// What runs beside the mailboxes ends too, and so does protoactor's throttle
	// of the dead letters it then sends.
	time.Sleep(time.Second)
	synctest.Wait()
}

// restart stops the node in an orderly way and starts it again.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// crash ends the node as kill -9 does: from one moment on nothing of it reaches
// the store, and nobody drains. Then a new node starts.
func (w *world) crash() {
	w.t.Helper()
	w.faults.die()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w.end(ctx)
	w.start()
}

// asker is the node's own way to the grains, as the node's wiring has it.
type asker struct{ node *cluster.Node }

func (a *asker) Ask(ctx context.Context, kind, tenant, id string, m proto.Message) (proto.Message, error) {
	reply, err := a.node.Ask(ctx, cluster.Identity{Kind: kind, Tenant: tenant, ID: id}, m)
	if err == nil {
		return reply, nil
	}
	if _, ok := errors.AsType[*kb.Error](err); ok {
		return nil, err
	}
	e, ok := errors.AsType[*cluster.Error](err)
	switch {
	case !ok:
		return nil, err
	case e.Reason == cluster.ReasonBusy:
		return nil, kb.Errorf(kb.CodeResourceExhausted, kb.ReasonBusy, "busy").After(50 * time.Millisecond)
	case e.Reason == cluster.ReasonDeadLetter:
		return nil, kb.Errorf(kb.CodeUnavailable, kb.ReasonInDoubt, "gone").After(100 * time.Millisecond)
	case e.Reason == cluster.ReasonPanicked:
		return nil, kb.Errorf(kb.CodeInternal, kb.ReasonInternal, "internal error")
	}
	return nil, kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "unreachable").After(200 * time.Millisecond)
}

// ask sends a message to a grain of the test's tenant.
func (w *world) ask(ctx context.Context, kind, id string, m proto.Message) (proto.Message, error) {
	return (&asker{w.node}).Ask(ctx, kind, tenant, id, m)
}

const tenant = "acme"

// tenantCall asks the tenant.
func (w *world) tenantCall(m *nodev1.TenantCall) *nodev1.TenantReply {
	w.t.Helper()
	m.Header = &nodev1.Header{Tenant: tenant, Principal: "tester", Internal: true}
	r, err := w.ask(w.t.Context(), actors.KindTenant, tenant, m)
	if err != nil {
		w.t.Fatalf("tenant: %v", err)
	}
	return r.(*nodev1.TenantReply)
}

func identity(id string) journal.Identity {
	return journal.Identity{Kind: actors.KindKB, Tenant: tenant, ID: id}
}

// owner reads the owner row of a knowledge base.
func (w *world) owner(id string) journal.Owner {
	w.t.Helper()
	o, err := w.disk.Owner(w.t.Context(), identity(id))
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// events reads a knowledge base's journal from the store itself.
func (w *world) events(id string) []journal.Event {
	w.t.Helper()
	e, err := w.disk.Events(w.t.Context(), identity(id), 0, 100_000)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// count counts the events of a type.
func (w *world) count(id, typ string) int {
	n := 0
	for _, e := range w.events(id) {
		if e.Type == typ {
			n++
		}
	}
	return n
}

// rows counts the chunk rows of an incarnation, whoever wrote them.
func (w *world) rows(uid string) int {
	w.t.Helper()
	scope := journal.Scope{Tenant: tenant, UID: uid}
	attempts, err := w.disk.AttemptsOf(w.t.Context(), scope)
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, a := range attempts {
		c, _, err := w.disk.CountChunks(w.t.Context(), scope, a.ID, model)
		if err != nil {
			w.t.Fatal(err)
		}
		n += c
	}
	return n
}

// vectors counts which of the embedded hashes still have vectors.
func (w *world) vectors(uid string) int {
	w.t.Helper()
	known, err := w.disk.VectorsByHash(w.t.Context(), journal.Scope{Tenant: tenant, UID: uid}, model, w.faults.hashes())
	if err != nil {
		w.t.Fatal(err)
	}
	return len(known)
}

// blobsLeft counts which of these blobs are still there, claimed or not.
func (w *world) blobsLeft(ids []string) int {
	w.t.Helper()
	n := 0
	for _, id := range ids {
		r, _, err := w.disk.OpenBlob(w.t.Context(), tenant, id)
		switch {
		case err == nil:
			n++
			_ = r.Close()
		case !errors.Is(err, journal.ErrNotFound) && !errors.Is(err, os.ErrNotExist):
			w.t.Fatal(err)
		}
	}
	return n
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
