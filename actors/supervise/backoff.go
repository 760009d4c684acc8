package supervise

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// Defaults of [Backoff], used where a field is zero.
const (
	DefaultInitial    = time.Second
	DefaultMax        = 5 * time.Minute
	DefaultFactor     = 2.0
	DefaultResetAfter = 10 * time.Minute
)

// Backoff is a protoactor supervisor strategy: the delay before restart n is
// Initial × Factorⁿ⁻¹, at most Max, less a random part of up to Jitter of it.
// Set the fields before its first use and do not change them. Use it for one
// parent: as the HandleFailure of the parent actor or of its props.
type Backoff struct {
	Initial    time.Duration // delay before the first restart, before jitter: 1 s
	Max        time.Duration // longest delay: 5 min
	Factor     float64       // growth per failure, at least 1: 2
	Jitter     float64       // random share of the delay, 0 (none) to 1 (anything from 0 to the delay)
	ResetAfter time.Duration // time without a failure after which the count starts anew: 10 min
	MaxRetries int           // restarts before the child is given up; 0 stops it at its first failure

	// OnRetry hears of a failure that will be retried, on the parent's
	// goroutine: the failure's number (1 is the first) and the delay.
	OnRetry func(child *actor.PID, failure int, delay time.Duration, reason any)
	// OnGiveUp hears, on the parent's goroutine, that the child is stopped for
	// good. The parent gets *actor.Terminated too, once the child has ended.
	OnGiveUp func(child *actor.PID, reason any)

	mu      sync.Mutex
	closed  bool
	pending map[string]*time.Timer // by child's id
}

var _ actor.SupervisorStrategy = (*Backoff)(nil)

// HandleFailure is protoactor's: child failed and its mailbox is suspended.
func (b *Backoff) HandleFailure(_ *actor.ActorSystem, supervisor actor.Supervisor, child *actor.PID,
	rs *actor.RestartStatistics, reason, _ any,
) {
	// The failures are kept in the child's own statistics, so nothing is left
	// here when it ends.
	if last := rs.FailureCount(); last > 0 && rs.NumberOfFailures(b.resetAfter()+b.delay(last)) == 0 {
		rs.Reset()
	}
	rs.Fail()
	failure := rs.FailureCount()
	if failure > b.MaxRetries {
		b.giveUp(supervisor, child, reason)
		return
	}
	delay := b.jittered(b.delay(failure))
	if !b.later(delay, supervisor, child) {
		supervisor.StopChildren(child) // closed: the parent is on its way out
		return
	}
	if b.OnRetry != nil {
		b.OnRetry(child, failure, delay, reason)
	}
}

// Cancel gives up the pending restart of a child and reports whether there was
// one. The child stays suspended: stop it.
func (b *Backoff) Cancel(child *actor.PID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.pending[child.GetId()]
	if ok {
		t.Stop()
		delete(b.pending, child.GetId())
	}
	return ok
}

// Close gives up all pending restarts; children that fail from now on are
// stopped. The parent calls it when it stops. It may be called many times.
func (b *Backoff) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, t := range b.pending {
		t.Stop()
	}
	b.pending = nil
}

func (b *Backoff) giveUp(supervisor actor.Supervisor, child *actor.PID, reason any) {
	supervisor.StopChildren(child)
	if b.OnGiveUp != nil {
		b.OnGiveUp(child, reason)
	}
}

// later restarts the child after delay, and reports false once closed.
func (b *Backoff) later(delay time.Duration, supervisor actor.Supervisor, child *actor.PID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	if b.pending == nil {
		b.pending = make(map[string]*time.Timer)
	}
	id := child.GetId()
	var t *time.Timer
	t = time.AfterFunc(delay, func() {
		b.mu.Lock()
		due := b.pending[id] == t // else cancelled while it fired
		if due {
			delete(b.pending, id)
		}
		b.mu.Unlock()
		if due {
			supervisor.RestartChildren(child) // sends a message, from any goroutine
		}
	})
	b.pending[id] = t
	return true
}

// delay is the delay after a failure, before jitter.
func (b *Backoff) delay(failure int) time.Duration {
	d, most := orDefault(b.Initial, DefaultInitial), orDefault(b.Max, DefaultMax)
	factor := b.Factor
	if factor < 1 {
		factor = DefaultFactor
	}
	grown := float64(d)
	for range failure - 1 {
		if grown *= factor; grown >= float64(most) {
			return most
		}
	}
	return min(time.Duration(grown), most)
}

func (b *Backoff) jittered(d time.Duration) time.Duration {
	share := min(max(b.Jitter, 0), 1) * rand.Float64()
	return d - time.Duration(share*float64(d))
}

func (b *Backoff) resetAfter() time.Duration { return orDefault(b.ResetAfter, DefaultResetAfter) }

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}
