package embedded

import (
	"math"
	"sync"
	"time"
)

const (
	// sharedOps and sharedCost bound one transaction while several tenants are at
	// work, and with it how long one of them waits for the transaction of another.
	sharedOps  = 4
	sharedCost = 128 << 10
	// atWork is how long a tenant counts as being at work after its last operation:
	// between two of a document's lie milliseconds of parsing and embedding.
	atWork = 50 * time.Millisecond
	// expects is how long the writer waits for the next operation of a tenant that
	// is behind the others: the pipeline's next write follows the last within it,
	// and would else find the writer inside another's transaction each time.
	expects = 1500 * time.Microsecond
	// credit is the writer's time a tenant may have saved up while it was idle: what
	// a few documents take. More would let who was idle for long hold up the others.
	credit = 20 * time.Millisecond
	// rides is how much more of the writer's time than the first another tenant may
	// have used whose operations go into the same transaction: those of many small
	// users share a commit, those of a great one do not make it longer for them.
	rides = 2 * time.Millisecond
	// opWeight is the fixed part of an operation's cost, in bytes.
	opWeight = 2 << 10
)

// queue shares the writer between tenants by start-time fair queueing over the
// time its transactions take: whoever has used the least goes next. Inside a
// tenant, operations keep their order among the small and among the bulk ones.
type queue struct {
	mu      sync.Mutex
	lines   map[string]*line
	clock   time.Duration // virtual time: what the line served last had used
	pace    float64       // nanoseconds a unit of weight takes
	paused  time.Time     // when the writer began to wait for expected operations; zero since a transaction
	until   time.Time     // when that ends
	awaited []*line       // whose they are
	closed  bool
	filled  chan struct{} // capacity 1: an operation came
}

// line is one tenant's part of the queue; the store's own work is that of tenant "".
type line struct {
	tenant      string
	used        time.Duration // virtual time it has reached
	small, bulk []*op
	last        time.Time // when an operation came or was answered
	expected    bool      // its operations were answered and no other came yet
}

func newQueue() *queue {
	return &queue{lines: make(map[string]*line), filled: make(chan struct{}, 1)}
}

// put adds an operation; false when the queue is closed.
func (q *queue) put(o *op) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	l := q.lines[o.tenant]
	if l == nil {
		l = &line{tenant: o.tenant}
		q.lines[o.tenant] = l
	}
	if !l.busy() {
		l.used = max(l.used, q.clock-credit)
	}
	l.last, l.expected = time.Now(), false
	if o.cost > smallCost {
		l.bulk = append(l.bulk, o)
	} else {
		l.small = append(l.small, o)
	}
	select {
	case q.filled <- struct{}{}:
	default:
	}
	return true
}

func (l *line) busy() bool { return len(l.small)+len(l.bulk) > 0 }

// close refuses what comes and returns what waits.
func (q *queue) close() (rest []*op) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, l := range q.lines {
		rest = append(append(rest, l.small...), l.bulk...)
	}
	clear(q.lines)
	return rest
}

// next takes the operations of one transaction. Without any, it tells how long to
// wait for an expected one; 0 is until one comes.
func (q *queue) next(most int) (group []*op, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := q.least(true)
	if first == nil {
		return nil, 0
	}
	now := time.Now()
	if wait := q.expecting(first, now); wait > 0 {
		return nil, wait
	}
	q.paused = time.Time{}
	q.clock = max(q.clock, first.used)
	cost, bulk, ops, bytes, furthest := 0, 0, most, groupCost, time.Duration(math.MaxInt64)
	if q.shared(first, now) {
		ops, bytes = min(most, sharedOps), sharedCost
		furthest = first.used + rides
	}
	group = make([]*op, 0, 16) // not nil, also when all submitters gave up
	for taken := 0; taken < ops && (cost < bytes || taken == 0); taken++ {
		l := q.least(bulk < bulkCost)
		if l == nil || l.used > furthest {
			break
		}
		o := l.take(bulk < bulkCost)
		l.used += q.guess(o.cost)
		if o.cost > smallCost {
			bulk += o.cost
		} else {
			cost += o.cost
		}
		if o.state.CompareAndSwap(opWaiting, opTaken) { // else its submitter gave up
			group = append(group, o)
		}
	}
	return group, 0
}

// least is the line that has used the least of those with an operation to take.
func (q *queue) least(bulk bool) *line {
	var best *line
	for _, l := range q.lines {
		if len(l.small) == 0 && (len(l.bulk) == 0 || !bulk) {
			continue
		}
		if best == nil || l.used < best.used {
			best = l
		}
	}
	return best
}

func (l *line) take(bulk bool) (o *op) {
	if len(l.small) > 0 {
		o, l.small = l.small[0], l.small[1:]
	} else if bulk {
		o, l.bulk = l.bulk[0], l.bulk[1:]
	}
	return o
}

// expecting tells how long to wait before first is served, because a tenant that
// has used less is about to ask. Such a wait is charged like work to whom it is for,
// and there is one between two transactions at most: the writer is never kept from
// the others' work for longer than their equal part.
func (q *queue) expecting(first *line, now time.Time) time.Duration {
	if q.paused.IsZero() {
		for _, l := range q.lines {
			if l.expected && l.used < first.used && now.Sub(l.last) < expects {
				q.awaited = append(q.awaited, l)
				q.paused, q.until = now, later(q.until, l.last.Add(expects))
			}
		}
	}
	for _, l := range q.awaited {
		if l.expected && now.Before(q.until) {
			return q.until.Sub(now)
		}
	}
	for _, l := range q.awaited {
		l.used += now.Sub(q.paused)
	}
	q.awaited = q.awaited[:0]
	return 0
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// shared tells whether another tenant than the one of first is at work.
func (q *queue) shared(first *line, now time.Time) bool {
	for tenant, l := range q.lines {
		switch {
		case l == first || tenant == "":
		case l.busy() || now.Sub(l.last) < atWork:
			return true
		}
	}
	return false
}

func (q *queue) guess(cost int) time.Duration {
	return time.Duration(q.pace * float64(cost+opWeight))
}

// done charges a transaction to those whose operations it held: the work by its
// weight, the commit in equal parts.
func (q *queue) done(group []*op, work, commit time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	weight := 0
	for _, o := range group {
		weight += o.cost + opWeight
	}
	now := time.Now()
	for _, o := range group {
		l := q.lines[o.tenant]
		if l == nil {
			continue // closed meanwhile
		}
		l.used += time.Duration(float64(work)*float64(o.cost+opWeight)/float64(weight)) + commit/time.Duration(len(group)) - q.guess(o.cost)
		l.last, l.expected = now, !l.busy() && o.tenant != ""
	}
	q.pace += (float64(work)/float64(weight) - q.pace) / 8
	for tenant, l := range q.lines {
		// Who is idle and owes nothing joins again as if it were new.
		if idle := now.Sub(l.last); !l.busy() && idle > atWork && (l.used <= q.clock-credit || idle > time.Second) {
			delete(q.lines, tenant)
		}
	}
}
