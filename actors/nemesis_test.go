package actors_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
)

// nemesis troubles two nodes over one store: statements are late, lost before
// they take effect or after, nodes are cut off from the store, frozen, given up
// and started again, and grains are moved.
type nemesis struct {
	t *testing.T
	r *realm

	mu     sync.Mutex
	rng    *rand.Rand
	peace  bool
	out    map[*peer]time.Time // cut off from the store until then
	frozen map[*peer]time.Time
	counts map[string]int
}

func newNemesis(t *testing.T, r *realm, seed uint64) *nemesis {
	return &nemesis{t: t, r: r, rng: rand.New(rand.NewPCG(seed, 7)), out: make(map[*peer]time.Time),
		frozen: make(map[*peer]time.Time), counts: make(map[string]int)}
}

// fate is what becomes of one statement.
type fate struct {
	before, after time.Duration
	refused       bool // without effect, and said so
	lost          bool // the answer is: nobody hears what came of it
}

// decide draws the fate of a statement of p.
func (n *nemesis) decide(p *peer) fate {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.peace {
		return fate{}
	}
	f := fate{before: time.Duration(n.rng.IntN(4)) * time.Millisecond, after: time.Duration(n.rng.IntN(4)) * time.Millisecond}
	now := time.Now()
	if until := n.frozen[p]; until.After(now) {
		f.before += until.Sub(now)
	}
	if n.out[p].After(now) {
		if n.rng.IntN(2) == 0 {
			f.refused = true
		} else {
			f.lost = true
		}
		return f
	}
	switch x := n.rng.IntN(1000); {
	case x < 10:
		f.lost = true
	case x < 20:
		f.refused = true
	case x < 30:
		f.before += time.Duration(n.rng.IntN(4000)) * time.Millisecond
	case x < 40:
		f.after += time.Duration(n.rng.IntN(4000)) * time.Millisecond
	}
	return f
}

// hook is what p's statements go through.
func (n *nemesis) hook(p *peer) hook {
	return func(o op, do func() error) error {
		f := n.decide(p)
		if err := wait(o.ctx, f.before); err != nil {
			return err // before it began
		}
		if f.refused {
			return journal.ErrUnavailable
		}
		err := do()
		if f.lost {
			n.count("answers lost")
			if o.name == "Append" && err == nil {
				return journal.ErrInDoubt
			}
			return journal.ErrUnavailable
		}
		if wait(o.ctx, f.after) != nil && o.name == "Append" && err == nil {
			return journal.ErrInDoubt
		}
		return err
	}
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *nemesis) count(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts[what]++
}

// run troubles until ctx ends, and then leaves everyone in peace.
func (n *nemesis) run(ctx context.Context, grains []journal.Identity, peers ...*peer) {
	for wait(ctx, n.pause()) == nil {
		n.mu.Lock()
		x, p := n.rng.IntN(100), peers[n.rng.IntN(len(peers))]
		id := grains[n.rng.IntN(len(grains))]
		d := time.Duration(n.rng.IntN(5000)) * time.Millisecond
		n.mu.Unlock()
		switch {
		case x < 50:
			n.count("moves")
			n.r.place(id, p.name())
		case x < 70:
			n.count("cuts")
			n.cut(p, d)
		case x < 90:
			n.count("freezes")
			n.mu.Lock()
			n.frozen[p] = time.Now().Add(d)
			n.mu.Unlock()
		default:
			n.count("kills")
			p.reboot()
			p.faults.every(n.hook(p))
		}
	}
	n.mu.Lock()
	n.peace = true
	n.mu.Unlock()
}

func (n *nemesis) pause() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Duration(100+n.rng.IntN(1200)) * time.Millisecond
}

// cut keeps p from the store for a while; its lease runs out meanwhile or not.
func (n *nemesis) cut(p *peer, d time.Duration) {
	n.mu.Lock()
	n.out[p] = time.Now().Add(d)
	n.mu.Unlock()
	p.setCut(true)
	time.AfterFunc(d, func() { p.setCut(false) })
}

// every sets the hook of all operations that have none of their own.
func (f *faults) every(h hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.any = h
}

func (p *peer) setCut(on bool) {
	p.mu.Lock()
	p.cut = on
	p.mu.Unlock()
}

func (p *peer) name() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id.Name
}

// tenantIdentity is the tenant's own grain.
func tenantIdentity() journal.Identity {
	return journal.Identity{Kind: actors.KindTenant, Tenant: tenant, ID: tenant}
}
