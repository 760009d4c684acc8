package actors_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/storage/embedded"
)

// peer is one node of several over one store: grains, a host that runs them, a
// lease that it renews, and the view as it knows it.
type peer struct {
	t      *testing.T
	r      *realm
	others func(name string) *peer
	faults *faults
	grains *actors.Grains
	host   *host
	slots  *actors.Scheduler

	mu       sync.Mutex
	id       protocol.NodeID
	view     placing
	since    map[journal.Identity]protocol.Tenure
	sent     time.Time // of the last good renewal
	held     bool
	term     uint64
	outdated int
	closing  bool // it gives up what it has
	cut      bool // the store is out of reach for renewals
	poke     chan struct{}
}

// Claim implements actors.Ownership.
func (p *peer) Claim(id journal.Identity) (journal.Claim, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing || p.view.owner(id) != p.id.Name || p.view.Gone(p.id) {
		return journal.Claim{}, false
	}
	since := p.view.View
	c := journal.Claim{Node: p.id.String(), View: p.view.Version, Since: since.Version, SinceTime: since.CommittedAt}
	if s, ok := p.since[id]; ok {
		c.Since, c.SinceTime = s.Version, s.CommittedAt
	}
	return c, true
}

// Lease implements actors.Ownership.
func (p *peer) Lease() (uint64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.term, p.valid()
}

// valid tells whether the lease can be relied on. The term of one that has run
// out ends with the next renewal.
func (p *peer) valid() bool { return p.held && time.Since(p.sent) < ttl*9/10 }

// Lone implements actors.Ownership.
func (*peer) Lone() bool { return false }

// Outdated implements actors.Ownership.
func (p *peer) Outdated() {
	p.mu.Lock()
	p.outdated++
	p.mu.Unlock()
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// newPeer makes a node; renew or run gives it its lease and view.
func newPeer(t *testing.T, r *realm, name string, others func(string) *peer) *peer {
	p := &peer{t: t, r: r, others: others, poke: make(chan struct{}, 1), id: protocol.NodeID{Name: name, Boot: "b1"}}
	p.boot()
	return p
}

// boot starts the process anew.
func (p *peer) boot() {
	p.faults = newFaults()
	f := p.faults
	g := guarded{Store: p.r.disk, ChunkStore: p.r.disk, r: p.r}
	log := slog.New(slog.NewTextHandler(testWriter{p.t}, &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", p.id.Name)
	p.slots = actors.NewScheduler(4)
	p.grains = actors.NewGrains(actors.Deps{ReceiptKey: receiptKey(), Receipts: p.r.disk, Node: p.id.Name, Store: &store{g, f}, Blobs: &blobs{p.r.disk, f}, Counters: p.r.disk, Directory: p.r.disk,
		Chunks: &chunks{g, f}, Asker: p, Owner: p, Parser: parser{f}, Fetcher: fetcher{f}, Embedder: embedder{f},
		Slots: p.slots, Logger: log, Jitter: func() float64 { return 0 }})
	p.host = newHost(p.grains)
}

// renew renews the lease once, and acts on the view that the answer carries.
// way is how long the answer takes.
func (p *peer) renew(way time.Duration) error {
	p.mu.Lock()
	req := protocol.RenewRequest{Node: p.id, Seen: p.view.Version, Pending: p.pending()}
	sent, cut := time.Now(), p.cut
	p.mu.Unlock()
	if cut {
		return journal.ErrUnavailable
	}
	v, err := p.r.renew(req)
	if err != nil {
		return err
	}
	time.Sleep(way)
	p.mu.Lock()
	if p.held && !p.valid() {
		p.held = false
		p.term++
	}
	if time.Since(sent) < ttl*9/10 {
		p.held, p.sent = true, sent
	}
	news := v.Version > p.view.Version
	if news {
		p.follow(v)
	}
	p.mu.Unlock()
	if news {
		p.host.drain(func(id journal.Identity) bool { _, ok := p.Claim(id); return !ok })
		p.grains.Waker().Kick()
	}
	return nil
}

// follow takes a newer view, and keeps since when each grain has been here.
func (p *peer) follow(v placing) {
	next := make(map[journal.Identity]protocol.Tenure)
	for _, id := range p.host.known() {
		s := protocol.Tenure{Version: v.Version, CommittedAt: v.CommittedAt}
		if old, ok := p.since[id]; ok && p.view.Version+1 == v.Version && p.view.owner(id) == v.owner(id) {
			s = old
		}
		next[id] = s
	}
	p.view, p.since = v, next
}

// pending counts what it holds though its view places it elsewhere.
func (p *peer) pending() int {
	n := 0
	for _, id := range p.host.active() {
		if p.view.owner(id) != p.id.Name {
			n++
		}
	}
	return n
}

func notHere() error {
	return &moved{kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "not placed here")}
}

type moved struct{ err *kb.Error }

func (e *moved) Error() string    { return e.err.Error() }
func (e *moved) Unwrap() error    { return e.err }
func (e *moved) NotApplied() bool { return true }

// notApplied is how package cluster sees that a call may be sent again.
func notApplied(err error) bool {
	var n interface{ NotApplied() bool }
	return errors.As(err, &n) && n.NotApplied()
}

// Ask implements actors.Asker: it sends to the owner by this node's view, and
// again while nothing was applied and there is time.
func (p *peer) Ask(ctx context.Context, kind, tenant, id string, m proto.Message) (proto.Message, error) {
	ident := journal.Identity{Kind: kind, Tenant: tenant, ID: id}
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		p.mu.Lock()
		to := p.others(p.view.owner(ident)) // nil before it knows a view
		p.mu.Unlock()
		err := notHere()
		if to != nil {
			var reply proto.Message
			if reply, err = to.serve(ctx, ident, m); err == nil || !notApplied(err) {
				return reply, err
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// serve takes a call from a node.
func (p *peer) serve(ctx context.Context, id journal.Identity, m proto.Message) (proto.Message, error) {
	if _, ok := p.Claim(id); !ok {
		return nil, notHere()
	}
	return p.host.ask(ctx, id, m)
}

// run renews the lease until ctx ends, as often as nodes do.
func (p *peer) run(ctx context.Context) {
	for {
		if err := p.renew(0); errors.Is(err, protocol.ErrFinal) {
			p.reboot()
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-p.poke:
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// reboot is what a node does that was given up: it ends all and comes back.
func (p *peer) reboot() {
	p.host.kill()
	p.mu.Lock()
	var n int
	_, _ = fmt.Sscanf(p.id.Boot, "b%d", &n)
	p.id.Boot = fmt.Sprintf("b%d", n+1)
	p.held, p.view, p.since = false, placing{}, nil
	p.term++
	id := p.id
	p.mu.Unlock()
	p.r.join(id)
}

// close ends the node in an orderly way.
func (p *peer) close() {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.host.drain(func(journal.Identity) bool { return true })
	for range 200 {
		if len(p.host.active()) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if left := p.host.active(); len(left) > 0 {
		p.t.Errorf("%v: not handed over in 20 s: %v", p.id, left)
	}
	p.host.kill()
	if err := p.grains.Wait(context.Background()); err != nil {
		p.t.Error(err)
	}
}

// pair runs a test on two nodes over one store; both have a lease and know the
// first view, which gives everything to n1.
func pair(t *testing.T, test func(t *testing.T, r *realm, a, b *peer)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		disk, err := embedded.Open(t.Context(), embedded.Config{Dir: filepath.Join(dir, "data"), CollectEvery: 1000 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		r := newRealm(disk, "n1", protocol.NodeID{Name: "n1", Boot: "b1"}, protocol.NodeID{Name: "n2", Boot: "b1"})
		peers := make(map[string]*peer)
		others := func(name string) *peer { return peers[name] }
		for _, name := range []string{"n1", "n2"} {
			peers[name] = newPeer(t, r, name, others)
		}
		a, b := peers["n1"], peers["n2"]
		defer func() {
			a.close()
			b.close()
			time.Sleep(time.Minute) // what runs beside the mailboxes ends too
			synctest.Wait()
			if err := disk.Close(); err != nil {
				t.Errorf("close the store: %v", err)
			}
		}()
		for _, p := range []*peer{a, b} {
			if err := p.renew(0); err != nil {
				t.Fatal(err)
			}
		}
		test(t, r, a, b)
	})
}
