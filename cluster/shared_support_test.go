package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"granary.dev/granary/cluster"
	"granary.dev/granary/cluster/protocol"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// quick are clocks for tests: a fifth of the real ones where that is safe on a
// busy machine.
func quick() protocol.Timing {
	return protocol.Timing{TTL: 1500 * time.Millisecond, RenewEvery: 150 * time.Millisecond, CallTimeout: 700 * time.Millisecond,
		PauseLimit: time.Second, DrainTimeout: 5 * time.Second}
}

// authority is a store as package protocol demands one, with a counter for each
// grain as its journal.
type authority struct {
	timing protocol.Timing

	mu     sync.Mutex
	view   protocol.View
	leases map[protocol.NodeID]protocol.LeaseRow
	owners map[cluster.Identity]protocol.OwnerRow
	acts   int
}

func newAuthority() *authority {
	return &authority{timing: quick(), leases: map[protocol.NodeID]protocol.LeaseRow{}, owners: map[cluster.Identity]protocol.OwnerRow{}}
}

func (a *authority) lease(id protocol.NodeID) (protocol.LeaseRow, bool) {
	row, ok := a.leases[id]
	return row, ok
}

// door is one node's way to the authority.
type door struct {
	*authority
	cut atomic.Bool
}

var errCut = errors.New("test: the store cannot be reached")

func (d *door) enter() error {
	if d.cut.Load() {
		return errCut
	}
	d.mu.Lock()
	return nil
}

// Renew implements cluster.ViewStore.
func (d *door) Renew(_ context.Context, r protocol.RenewRequest) (protocol.View, protocol.Survey, error) {
	if err := d.enter(); err != nil {
		return protocol.View{}, protocol.Survey{}, err
	}
	defer d.mu.Unlock()
	var old *protocol.LeaseRow
	if row, ok := d.leases[r.Node]; ok {
		old = &row
	}
	now := time.Now()
	row, err := protocol.Renew(old, r, now, d.timing.TTL)
	if err != nil {
		return protocol.View{}, protocol.Survey{}, err
	}
	d.leases[r.Node] = row
	return d.view, protocol.Look(d.view, d.lease, now), nil
}

// Swap implements cluster.ViewStore.
func (d *door) Swap(_ context.Context, next protocol.View, by protocol.NodeID) (protocol.View, error) {
	if err := d.enter(); err != nil {
		return protocol.View{}, err
	}
	defer d.mu.Unlock()
	v, final, err := protocol.Swap(d.view, next, by, d.lease, time.Now())
	if err != nil {
		return v, err
	}
	d.view = v
	for _, row := range final {
		d.leases[row.Node] = row
	}
	return v, nil
}

// View implements cluster.ViewStore.
func (d *door) View(context.Context) (protocol.View, error) {
	if err := d.enter(); err != nil {
		return protocol.View{}, err
	}
	defer d.mu.Unlock()
	return d.view, nil
}

// acquire takes a grain over, as a store's Acquire does.
func (d *door) acquire(id cluster.Identity, r cluster.Right) (protocol.OwnerRow, error) {
	if err := d.enter(); err != nil {
		return protocol.OwnerRow{}, err
	}
	defer d.mu.Unlock()
	if r.View != d.view.Version {
		return protocol.OwnerRow{}, protocol.ErrNotPlaced
	}
	node, err := protocol.ParseNodeID(r.Node)
	if err != nil {
		return protocol.OwnerRow{}, err
	}
	d.acts++
	row := d.owners[id]
	last := d.leases[row.Node]
	row, err = protocol.Acquire(d.view, node, row, last, protocol.AcquireRequest{Node: node, Activation: strconv.Itoa(d.acts),
		Tenure: protocol.Tenure{Version: r.Since, CommittedAt: r.SinceTime, Through: r.View}}, time.Now(), d.timing.TTL)
	if err == nil {
		d.owners[id] = row
	}
	return row, err
}

// add counts one up under a fence and gives the count.
func (d *door) add(id cluster.Identity, row protocol.OwnerRow) (protocol.OwnerRow, error) {
	if err := d.enter(); err != nil {
		return row, err
	}
	defer d.mu.Unlock()
	next, err := protocol.Append(d.owners[id], row.Fence, row.Head, 1)
	if err == nil {
		d.owners[id] = next
	}
	return next, err
}

func (d *door) release(id cluster.Identity, f protocol.Fence) {
	if d.enter() == nil {
		defer d.mu.Unlock()
		d.owners[id] = protocol.Release(d.owners[id], f)
	}
}

func (d *door) verify(id cluster.Identity, f protocol.Fence) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.mu.Unlock()
	return protocol.Verify(d.owners[id], f)
}

// movedError is what a grain answers that applied nothing.
type movedError struct{}

func (movedError) Error() string    { return "moved" }
func (movedError) NotApplied() bool { return true }

type codec struct{}

func (codec) Encode(err error) *nodev1.Error { return &nodev1.Error{Message: err.Error()} }
func (codec) Decode(e *nodev1.Error) error   { return errors.New(e.GetMessage()) }

// counterGrain keeps its count in the authority. "add" counts up, "get" reads as
// a grain of package actors does: from memory while the lease proves it.
type counterGrain struct {
	n       func() *cluster.Node
	d       *door
	id      cluster.Identity
	row     protocol.OwnerRow
	term    uint64
	proven  bool
	waiting []call
	active  bool
	leaving bool
}

type (
	acquiredMsg struct {
		row    protocol.OwnerRow
		term   uint64
		proven bool
		err    error
	}
)

func (g *counterGrain) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		root, self := ctx.ActorSystem().Root, ctx.Self()
		go func() { root.Send(self, g.acquire()) }()
	case *acquiredMsg:
		g.acquired(ctx, m)
	case call:
		if !g.active {
			g.waiting = append(g.waiting, m)
			return
		}
		g.serve(ctx, m)
	case passivate, drain:
		g.leaving = true
		if g.active {
			g.d.release(g.id, g.row.Fence)
			ctx.Stop(ctx.Self())
		}
	case *actor.Stopping:
		for _, c := range g.waiting {
			c.Reply(nil, movedError{})
		}
	}
}

// acquire runs beside the mailbox until the grain is taken over or placed elsewhere.
func (g *counterGrain) acquire() *acquiredMsg {
	for {
		r, ok := g.n().Right(g.id)
		if !ok {
			return &acquiredMsg{err: movedError{}}
		}
		term, held := g.n().Lease()
		row, err := g.d.acquire(g.id, r)
		if err == nil {
			now, still := g.n().Lease()
			return &acquiredMsg{row: row, term: now, proven: held && still && now == term}
		}
		if errors.Is(err, protocol.ErrNotPlaced) {
			g.n().Outdated()
		} else if !errors.Is(err, protocol.ErrHeld) {
			return &acquiredMsg{err: err}
		}
		time.Sleep(10 * time.Millisecond) // as a grain backs off
	}
}

func (g *counterGrain) acquired(ctx actor.Context, m *acquiredMsg) {
	if m.err != nil {
		ctx.Stop(ctx.Self())
		return
	}
	g.row, g.term, g.proven, g.active = m.row, m.term, m.proven, true
	if g.leaving {
		g.d.release(g.id, g.row.Fence)
		ctx.Stop(ctx.Self())
		return
	}
	for _, c := range g.waiting {
		g.serve(ctx, c)
	}
	g.waiting = nil
}

func (g *counterGrain) serve(ctx actor.Context, c call) {
	switch textOf(c.Request()) {
	case "add":
		next, err := g.d.add(g.id, g.row)
		if err != nil {
			c.Reply(nil, movedError{})
			ctx.Stop(ctx.Self())
			return
		}
		g.row = next
	case "get":
		_, placed := g.n().Right(g.id)
		term, ok := g.n().Lease()
		if placed && ok && g.proven && term == g.term {
			break
		}
		if err := g.d.verify(g.id, g.row.Fence); err != nil {
			c.Reply(nil, movedError{})
			ctx.Stop(ctx.Self())
			return
		}
	}
	c.Reply(text(strconv.FormatInt(g.row.Head, 10)), nil)
}

// member is one node of a test's cluster.
type member struct {
	*cluster.Node
	name string
	door *door
}

func newText() proto.Message { return &wrapperspb.StringValue{} }

// join starts a node that shares the authority's grains.
func join(t testing.TB, a *authority, name string, edit ...func(*cluster.Config)) *member {
	t.Helper()
	m := &member{name: name, door: &door{authority: a}}
	cfg := cluster.Config{Name: name, DrainTimeout: 3 * time.Second,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Kinds: []cluster.Kind{{Name: "kb", Request: newText, Reply: newText, New: func(kind, tenant, id string) actor.Actor {
			return &counterGrain{n: func() *cluster.Node { return m.Node }, d: m.door, id: cluster.Identity{Kind: kind, Tenant: tenant, ID: id}}
		}}},
		Shared: &cluster.Shared{Store: m.door, Errors: codec{}, Listen: "127.0.0.1:0", Timing: a.timing}}
	for _, e := range edit {
		e(&cfg)
	}
	n, err := cluster.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.Node = n
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := n.Stop(ctx); err != nil {
			t.Errorf("stop %s: %v", name, err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := n.Start(ctx); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	return m
}

// await polls until ok, since what it waits for happens on other goroutines.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// settled waits until the view has exactly these live members and nothing moves.
func settled(t testing.TB, ms ...*member) {
	t.Helper()
	await(t, fmt.Sprintf("%d live members on all nodes", len(ms)), func() bool {
		for _, m := range ms {
			v := m.View()
			live := 0
			for _, x := range v.Members {
				if x.State == protocol.Live {
					live++
				}
			}
			if live != len(ms) || v.Moving() {
				return false
			}
		}
		return true
	})
}
