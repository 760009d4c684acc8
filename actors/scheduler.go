package actors

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// Scheduler shares a node's processing slots between tenants, and a tenant's
// share between its knowledge bases, by start-time fair queueing: whoever has
// used the least wall time of slots goes next. A unit of work is short (parse
// one document, embed one batch), so a long document does not keep a slot.
//
// A tenant that was idle joins at the current virtual time: it is served at
// once but cannot save up. One slot is kept for a tenant to come, and while others
// are at work nobody has more than an equal part of the rest: a single document
// beside a flood finds a processor, not only a slot.
type Scheduler struct {
	mu      sync.Mutex
	slots   int
	recent  map[string]time.Time // when tenants last gave a slot back
	free    int
	clock   time.Duration // virtual time of the last grant
	tenants map[string]*share
}

// share is one tenant or one knowledge base in the queue.
type share struct {
	used    time.Duration // virtual time it has reached
	running int
	waiters []*waiter         // of a knowledge base
	kbs     map[string]*share // of a tenant
	clock   time.Duration     // of a tenant: virtual time among its knowledge bases
}

type waiter struct {
	ready chan struct{}
	limit int
}

// DefaultSlots is one slot per core and one more.
func DefaultSlots() int { return runtime.GOMAXPROCS(0) + 1 }

// NewScheduler makes a scheduler with this many slots; 0 means DefaultSlots.
func NewScheduler(slots int) *Scheduler {
	if slots == 0 {
		slots = DefaultSlots()
	}
	return &Scheduler{free: slots, slots: slots, recent: make(map[string]time.Time), tenants: make(map[string]*share)}
}

// Acquire waits for a slot; limit bounds the tenant's units that run at a time
// on this node. The returned function gives the slot back and must be called once.
func (s *Scheduler) Acquire(ctx context.Context, tenant, kb string, limit int) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{ready: make(chan struct{}), limit: max(limit, 1)}
	s.mu.Lock()
	s.enqueue(tenant, kb, w)
	s.grant()
	s.mu.Unlock()
	select {
	case <-w.ready:
	case <-ctx.Done():
		if s.forget(tenant, kb, w) {
			return nil, ctx.Err()
		}
		// Granted meanwhile: hand it on.
		s.release(tenant, kb, 0)
		return nil, ctx.Err()
	}
	start := time.Now()
	var once sync.Once
	return func() { once.Do(func() { s.release(tenant, kb, time.Since(start)) }) }, nil
}

func (s *Scheduler) enqueue(tenant, kb string, w *waiter) {
	t := s.tenants[tenant]
	if t == nil {
		t = &share{used: s.clock, kbs: make(map[string]*share)}
		s.tenants[tenant] = t
	}
	k := t.kbs[kb]
	if k == nil {
		k = &share{used: t.clock}
		t.kbs[kb] = k
	}
	// Who was idle may be remembered for what it owes, never for what it saved.
	if t.running == 0 && !t.waited() {
		t.used = max(t.used, s.clock)
	}
	if k.running == 0 && len(k.waiters) == 0 {
		k.used = max(k.used, t.clock)
	}
	k.waiters = append(k.waiters, w)
}

// grant hands free slots to the least served.
func (s *Scheduler) grant() {
	for s.free > 0 {
		t := s.nextTenant()
		if t == nil {
			return
		}
		k := nextKB(t)
		w := k.waiters[0]
		k.waiters = k.waiters[1:]
		s.clock, t.clock = max(s.clock, t.used), max(t.clock, k.used)
		s.free--
		t.running++
		k.running++
		close(w.ready)
	}
}

func (s *Scheduler) nextTenant() *share {
	var best *share
	most := max(1, (s.slots-1)/max(1, s.active()))
	for _, t := range s.tenants {
		k := nextKB(t)
		if k == nil || t.running >= min(k.waiters[0].limit, most) {
			continue
		}
		// Running units count as used at the margin, else one tenant takes all
		// slots before the first of its units is charged.
		if best == nil || t.key() < best.key() {
			best = t
		}
	}
	return best
}

// atWork is how long a tenant counts as being at work between two units: what a
// document's run stores in between takes milliseconds.
const atWork = 50 * time.Millisecond

// active counts the tenants that are at work. Who waits behind its part of the slots
// is looked at again when one of its own units ends, so that nobody needs a timer.
func (s *Scheduler) active() int {
	n := 0
	for _, t := range s.tenants {
		if t.running > 0 || t.waited() {
			n++
		}
	}
	now := time.Now()
	for id, at := range s.recent {
		if t := s.tenants[id]; now.Sub(at) > atWork {
			delete(s.recent, id)
		} else if t == nil || t.running == 0 && !t.waited() {
			n++
		}
	}
	return n
}

func nextKB(t *share) *share {
	var best *share
	for _, k := range t.kbs {
		if len(k.waiters) > 0 && (best == nil || k.key() < best.key()) {
			best = k
		}
	}
	return best
}

// unitGuess is what a unit is charged before its time is known.
const unitGuess = 10 * time.Millisecond

func (h *share) key() time.Duration { return h.used + time.Duration(h.running)*unitGuess }

func (s *Scheduler) release(tenant, kb string, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenants[tenant]
	k := t.kbs[kb]
	s.free++
	t.running--
	k.running--
	t.used += took
	k.used += took
	s.recent[tenant] = time.Now()
	s.tidy(tenant, t, kb, k)
	s.grant()
}

// tidy drops shares nobody waits for; they join again at the current virtual time.
func (s *Scheduler) tidy(tenant string, t *share, kb string, k *share) {
	if k.running == 0 && len(k.waiters) == 0 && (k.used <= t.clock || len(t.kbs) > maxShares) {
		delete(t.kbs, kb)
	}
	if t.running == 0 && !t.waited() && (t.used <= s.clock || len(s.tenants) > maxShares) {
		delete(s.tenants, tenant)
	}
}

// maxShares bounds what is remembered of the use of those who are idle now.
const maxShares = 1024

func (h *share) waited() bool { return nextKB(h) != nil }

// forget removes a waiter; false when it was granted already.
func (s *Scheduler) forget(tenant, kb string, w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenants[tenant]
	if t == nil || t.kbs[kb] == nil {
		return false
	}
	k := t.kbs[kb]
	for i, o := range k.waiters {
		if o == w {
			k.waiters = append(k.waiters[:i:i], k.waiters[i+1:]...)
			s.tidy(tenant, t, kb, k)
			return true
		}
	}
	return false
}
