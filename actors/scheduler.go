package actors

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// Scheduler shares a node's processing slots between tenants, and a tenant's
// share between its knowledge bases, by start-time fair queueing over what units
// cost: whoever has used the least goes next. A unit is charged what its bytes or
// words are expected to take when it begins, at the pace of the units before it, and
// what it took when it ends. It is short (parse one document, embed one batch), so a
// long document does not keep a slot.
//
// A tenant that was idle joins near the current virtual time: it is served at once
// and cannot save up more than credit. One slot is kept for a tenant to come, and while
// others are at work nobody has more than an equal part of the rest, and one slot less
// while another tenant has used less: a single document beside a flood finds a
// processor, not only a slot.
type Scheduler struct {
	mu      sync.Mutex
	slots   int
	recent  map[string]time.Time // when tenants last gave a slot back
	free    int
	heldFor *share        // who has used less, while another is held back for it
	heldAt  time.Time     // since when
	again   *time.Timer   // looks again at who was held back; nil when nobody is
	clock   time.Duration // virtual time of the last grant
	tenants map[string]*share
	pace    [stages]float64 // nanoseconds that a byte takes, by stage; 0: not known yet
}

// Work is what a unit is about to do.
type Work struct {
	Stage Stage
	Bytes int64 // of the source or of the texts
}

// Stage is a kind of work with a pace of its own.
type Stage uint8

// Stages of the pipeline that take slots.
const (
	StageParse Stage = iota
	StageAnalyse
	StageEmbed
	stages
)

// share is one tenant or one knowledge base in the queue.
type share struct {
	used    time.Duration // virtual time it has reached
	running int
	pending time.Duration     // what the running units are expected to take
	granted time.Time         // when a tenant got its last slot
	waiters []*waiter         // of a knowledge base
	kbs     map[string]*share // of a tenant
	clock   time.Duration     // of a tenant: virtual time among its knowledge bases
}

type waiter struct {
	ready chan struct{}
	limit int
	work  Work
	guess time.Duration // set when it is granted
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

// Acquire waits for a slot for work; limit bounds the tenant's units that run at a time
// on this node. The returned function gives the slot back and must be called once.
func (s *Scheduler) Acquire(ctx context.Context, tenant, kb string, limit int, work Work) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{ready: make(chan struct{}), limit: max(limit, 1), work: work}
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
		s.release(tenant, kb, w, 0)
		return nil, ctx.Err()
	}
	start := time.Now()
	var once sync.Once
	return func() { once.Do(func() { s.release(tenant, kb, w, time.Since(start)) }) }, nil
}

func (s *Scheduler) enqueue(tenant, kb string, w *waiter) {
	t := s.tenants[tenant]
	if t == nil {
		t = &share{kbs: make(map[string]*share)}
		s.tenants[tenant] = t
	}
	k := t.kbs[kb]
	if k == nil {
		k = &share{used: t.clock}
		t.kbs[kb] = k
	}
	// Who was idle may be remembered for what it owes, not for what it saved.
	if t.running == 0 && !t.waited() {
		t.used = max(t.used, s.clock-credit)
	}
	if k.running == 0 && len(k.waiters) == 0 {
		k.used = max(k.used, t.clock)
	}
	k.waiters = append(k.waiters, w)
}

// grant hands free slots to the least served.
func (s *Scheduler) grant() {
	s.settle(time.Now())
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
		t.granted = time.Now()
		t.running++
		k.running++
		w.guess = s.guess(w.work)
		t.pending += w.guess
		k.pending += w.guess
		close(w.ready)
	}
}

func (s *Scheduler) nextTenant() *share {
	var best *share
	now := time.Now()
	part := max(1, (s.slots-1)/max(1, s.active(now)))
	least := s.least()
	for _, t := range s.tenants {
		k := nextKB(t)
		if k == nil || t.running >= min(k.waiters[0].limit, part) {
			continue
		}
		if ahead := t.key() - least.key(); t.running == part-1 && ahead > 0 && now.Sub(t.granted) < heldBack {
			s.heldFor, s.heldAt = least, now
			s.lookAgain(ahead)
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

// credit is the slot time a tenant may have saved up while it was idle: about what a
// document of a few pages takes the built-in embedder on one processor.
const credit = time.Second

// heldBack is how long a tenant at most is kept from a slot of its part because
// another has used less, so that many small ones in turn do not keep it out.
const heldBack = 500 * time.Millisecond

// least is the tenant at work that has used the least. One between two units counts: it
// is about to ask again.
func (s *Scheduler) least() *share {
	var least *share
	for id, t := range s.tenants {
		if _, recent := s.recent[id]; (recent || t.running > 0 || t.waited()) && (least == nil || t.key() < least.key()) {
			least = t
		}
	}
	return least
}

// settle charges the time for which others were held back to whom they were held back
// for: who uses little all the time cannot keep a processor idle beside it for ever.
func (s *Scheduler) settle(now time.Time) {
	if s.heldFor != nil {
		s.heldFor.used += now.Sub(s.heldAt)
		s.heldFor = nil
	}
}

// lookAgain has the slots granted anew when the one for whom another was held back may
// have ended its work: no unit that ends need tell.
func (s *Scheduler) lookAgain(soon time.Duration) {
	if s.again == nil {
		s.again = time.AfterFunc(min(max(soon, time.Millisecond), atWork), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.again = nil
			s.grant()
		})
	}
}

// active counts the tenants that are at work. Who waits behind its part of the slots
// is looked at again when one of its own units ends.
func (s *Scheduler) active(now time.Time) int {
	n := 0
	for _, t := range s.tenants {
		if t.running > 0 || t.waited() {
			n++
		}
	}
	for id, at := range s.recent {
		if t := s.tenants[id]; now.Sub(at) > atWork {
			delete(s.recent, id)
			if t != nil {
				s.tidyTenant(id, t)
			}
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

// unitGuess is what a unit is charged before its time is known, when no unit of its
// stage has ended yet.
const unitGuess = 10 * time.Millisecond

// guess is what work is expected to take.
func (s *Scheduler) guess(w Work) time.Duration {
	pace := s.pace[w.Stage]
	if pace == 0 || w.Bytes == 0 {
		return unitGuess
	}
	return min(time.Duration(pace*float64(w.Bytes)), maxGuess)
}

// maxGuess bounds a guess: what a unit really took is charged in any case.
const maxGuess = time.Minute

// learn adjusts the pace of a stage.
func (s *Scheduler) learn(w Work, took time.Duration) {
	if w.Bytes == 0 || took == 0 {
		return
	}
	pace, seen := &s.pace[w.Stage], float64(took)/float64(w.Bytes)
	if *pace == 0 {
		*pace = seen
	}
	*pace += (seen - *pace) / 16
}

func (h *share) key() time.Duration { return h.used + h.pending }

func (s *Scheduler) release(tenant, kb string, w *waiter, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenants[tenant]
	k := t.kbs[kb]
	s.free++
	t.running--
	k.running--
	t.pending -= w.guess
	k.pending -= w.guess
	t.used += took
	k.used += took
	s.learn(w.work, took)
	s.recent[tenant] = time.Now()
	s.tidy(tenant, t, kb, k)
	s.grant()
}

// tidy drops shares nobody waits for; they join again at the current virtual time.
func (s *Scheduler) tidy(tenant string, t *share, kb string, k *share) {
	if k.running == 0 && len(k.waiters) == 0 && (k.used <= t.clock || len(t.kbs) > maxShares) {
		delete(t.kbs, kb)
	}
	if _, recent := s.recent[tenant]; !recent || len(s.tenants) > maxShares {
		s.tidyTenant(tenant, t)
	}
}

func (s *Scheduler) tidyTenant(tenant string, t *share) {
	if t.running == 0 && !t.waited() && (t.used <= s.clock-credit || len(s.tenants) > maxShares) {
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
