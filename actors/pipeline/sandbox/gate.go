package sandbox

import (
	"context"
	"sync"
)

// gate gives workers to jobs. No tenant has all of them while there are several, so
// that a file that takes a minute does not keep the others' files waiting; of those
// that wait, the tenant goes next that has the fewest, and then was served longest ago.
type gate struct {
	mu      sync.Mutex
	free    int
	most    int // workers of one tenant
	served  uint64
	tenants map[string]*guest
}

// guest is a tenant with jobs at work or waiting, or one that was served lately.
type guest struct {
	running int
	served  uint64 // number of its last grant
	waiting []chan struct{}
}

// maxGuests bounds what is remembered of who was served when.
const maxGuests = 1024

func newGate(size int) *gate {
	return &gate{free: size, most: max(1, size-1), tenants: make(map[string]*guest)}
}

// enter waits for a worker; leave gives it back.
func (g *gate) enter(ctx context.Context, tenant string) error {
	ready := make(chan struct{})
	g.mu.Lock()
	t := g.tenants[tenant]
	if t == nil {
		t = &guest{}
		g.tenants[tenant] = t
	}
	t.waiting = append(t.waiting, ready)
	g.grant()
	g.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, w := range t.waiting {
		if w == ready {
			t.waiting = append(t.waiting[:i:i], t.waiting[i+1:]...)
			return ctx.Err()
		}
	}
	g.back(t) // granted meanwhile
	return ctx.Err()
}

func (g *gate) leave(tenant string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.back(g.tenants[tenant])
}

func (g *gate) back(t *guest) {
	g.free++
	t.running--
	if len(g.tenants) > maxGuests {
		for name, t := range g.tenants {
			if t.running == 0 && len(t.waiting) == 0 {
				delete(g.tenants, name)
			}
		}
	}
	g.grant()
}

func (g *gate) grant() {
	for g.free > 0 {
		var next *guest
		for _, t := range g.tenants {
			if len(t.waiting) == 0 || t.running >= g.most {
				continue
			}
			if next == nil || t.running < next.running || t.running == next.running && t.served < next.served {
				next = t
			}
		}
		if next == nil {
			return
		}
		g.free--
		g.served++
		next.running++
		next.served = g.served
		close(next.waiting[0])
		next.waiting = next.waiting[1:]
	}
}
