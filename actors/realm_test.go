package actors_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/storage/embedded"
)

// ttl is how long a lease lasts.
const ttl = 3 * time.Second

// realm is what several nodes share: one store, and beside it the view and the
// leases by which the protocol decides who may take a grain over.
type realm struct {
	disk *embedded.Store

	mu     sync.Mutex
	view   placing
	leases map[protocol.NodeID]protocol.LeaseRow
}

// placing is a view and whom it gives each grain to. It never changes.
type placing struct {
	protocol.View
	home   string                      // node of the grains not named
	places map[journal.Identity]string // of the others
}

func (v placing) owner(id journal.Identity) string {
	if name, ok := v.places[id]; ok {
		return name
	}
	return v.home
}

func (v placing) id(name string) protocol.NodeID {
	m, _ := v.Named(name)
	return m.NodeID
}

func newRealm(disk *embedded.Store, home string, members ...protocol.NodeID) *realm {
	r := &realm{disk: disk, leases: make(map[protocol.NodeID]protocol.LeaseRow)}
	r.view = placing{home: home, View: protocol.View{Version: 1, CommittedAt: time.Now()}}
	for _, m := range members {
		r.view.Members = append(r.view.Members, protocol.Member{NodeID: m, State: protocol.Live})
	}
	slices.SortFunc(r.view.Members, func(a, b protocol.Member) int { return strings.Compare(a.Name, b.Name) })
	return r
}

// change commits the next view.
func (r *realm) change(edit func(*placing)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.swap(edit)
}

func (r *realm) swap(edit func(*placing)) {
	next := r.view
	next.Version++
	next.CommittedAt = time.Now()
	next.Members, next.places = slices.Clone(next.Members), maps.Clone(next.places)
	if next.places == nil {
		next.places = make(map[journal.Identity]string)
	}
	edit(&next)
	r.view = next
}

// place gives a grain to a node.
func (r *realm) place(id journal.Identity, node string) {
	r.change(func(v *placing) { v.places[id] = node })
}

// renew is the statement of a lease; the reply carries the view.
func (r *realm) renew(req protocol.RenewRequest) (placing, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var old *protocol.LeaseRow
	if row, ok := r.leases[req.Node]; ok {
		old = &row
	}
	row, err := protocol.Renew(old, req, time.Now(), ttl)
	if err != nil {
		return placing{}, err
	}
	r.leases[req.Node] = row
	r.evict(req.Node)
	return r.view, nil
}

// evict gives up a member whose lease has run out, and its grains to the others.
func (r *realm) evict(by protocol.NodeID) {
	for i, m := range r.view.Members {
		row, ok := r.leases[m.NodeID]
		if m.NodeID == by || !m.State.Active() || !ok || row.Expires.After(time.Now()) {
			continue
		}
		row.Final = protocol.Dead
		r.leases[m.NodeID] = row
		r.swap(func(v *placing) {
			v.Members[i].State = protocol.Dead
			v.home = by.Name
			for id, name := range v.places {
				if name == m.Name {
					v.places[id] = by.Name
				}
			}
		})
	}
}

// join takes the next boot of a node in.
func (r *realm) join(id protocol.NodeID) {
	r.change(func(v *placing) {
		for i := range v.Members {
			if v.Members[i].Name == id.Name {
				v.Members[i] = protocol.Member{NodeID: id, State: protocol.Live}
			}
		}
	})
}

// guarded is the shared store as one node sees it.
type guarded struct {
	journal.Store
	journal.ChunkStore
	r *realm
}

// Acquire is the protocol's.
func (g guarded) Acquire(ctx context.Context, id journal.Identity, c journal.Claim) (journal.Fence, int64, error) {
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	node, err := protocol.ParseNodeID(c.Node)
	if err != nil {
		return journal.Fence{}, 0, err
	}
	v := g.r.view
	if c.View != v.Version {
		return journal.Fence{}, 0, journal.ErrNotPlaced
	}
	var row protocol.OwnerRow
	if o, err := g.r.disk.Owner(ctx, id); err == nil {
		row.Fence = protocol.Fence{Epoch: o.Epoch, Activation: o.Activation}
		row.Head, row.Released = o.Head, o.Released
		row.Node, _ = protocol.ParseNodeID(o.Node)
	} else if !errors.Is(err, journal.ErrNotFound) {
		return journal.Fence{}, 0, err
	}
	req := protocol.AcquireRequest{Node: node, Tenure: protocol.Tenure{Version: c.Since, CommittedAt: c.SinceTime, Through: c.View}}
	_, err = protocol.Acquire(v.View, v.id(v.owner(id)), row, g.r.leases[row.Node], req, time.Now(), ttl)
	if held, ok := errors.AsType[*protocol.HeldError](err); ok {
		return journal.Fence{}, 0, &journal.HeldError{By: held.By.String(), RetryAfter: held.RetryAfter}
	}
	if err != nil {
		return journal.Fence{}, 0, fmt.Errorf("%w: %w", journal.ErrNotPlaced, err)
	}
	return g.r.disk.Acquire(ctx, id, journal.Claim{Node: c.Node})
}

// fenced runs do in one transaction with the check of the fence.
func (g guarded) fenced(ctx context.Context, f journal.Fence, do func() error) error {
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	if err := g.r.disk.Verify(ctx, f); err != nil {
		return err
	}
	return do()
}

func (g guarded) FindIdempotency(ctx context.Context, f journal.Fence, key journal.IdempotencyKey) (rec journal.Idempotency, ok bool, err error) {
	err = g.fenced(ctx, f, func() (e error) { rec, ok, e = g.r.disk.FindIdempotency(ctx, f, key); return e })
	return rec, ok, err
}

func (g guarded) PutChunks(ctx context.Context, f journal.Fence, a journal.Attempt, rows []journal.Chunk) error {
	return g.fenced(ctx, f, func() error { return g.r.disk.PutChunks(ctx, f, a, rows) })
}

func (g guarded) PutVectors(ctx context.Context, f journal.Fence, s journal.Scope, model string, v []journal.Vectors) error {
	return g.fenced(ctx, f, func() error { return g.r.disk.PutVectors(ctx, f, s, model, v) })
}

// owner reads an owner row.
func owner(t *testing.T, r *realm, id string) journal.Owner {
	t.Helper()
	o, err := r.disk.Owner(t.Context(), identity(id))
	if err != nil {
		t.Fatal(err)
	}
	return o
}
