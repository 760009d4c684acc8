package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// errNoGrain is what a Kind.New without a result counts as.
var errNoGrain = errors.New("the kind's New gave no grain")

// activation is one life of a grain: its mailbox, the protoactor actor that
// wraps it, and its place in the registry, in one piece of memory because there
// may be hundreds of thousands.
type activation struct {
	node  *Node
	kind  *Kind
	id    Identity
	hash  uint64      // id.Hash()
	chain *activation // next one of an equal hash; guarded by the shard

	grain actor.Actor // touched by the grain's goroutine only

	mu       sync.Mutex
	box      mailbox
	current  *Call // in Receive now
	parked   *Call // first of the calls that the grain will answer later
	nparked  int32
	served   uint32 // calls handed over so far
	stopped  bool   // Stopped was handled: nothing gets in any more
	panicked bool

	since     int64  // Node.clock at the start
	lastUsed  int64  // the same at the last message
	asked     int64  // the same when passivation was last asked for
	refusedAt int64  // nanoseconds since Node.epoch at a refusal; 0 when there was none
	servedAt  uint32 // served at that refusal
	trimmed   bool   // asked to trim since lastUsed

	counted uint32        // served at the last look at the tenants' shares of the load
	moving  bool          // to be handed over to another node
	movedAt time.Duration // since Node.epoch
}

// offer puts a call in the queue. It reports false if the grain has stopped,
// and the caller must look the identity up again. A full mailbox gives ErrBusy
// at once.
func (a *activation) offer(c *Call) (bool, error) {
	a.mu.Lock()
	if a.stopped {
		a.mu.Unlock()
		return false, nil
	}
	limit := a.node.cfg.MailboxSize
	if a.box.calls.len() >= limit {
		a.box.calls.retain(func(c *Call) bool { return c.phase.Load() == phaseQueued })
	}
	if n := a.box.calls.len(); n >= limit {
		after := a.retryAfter(n, int64(time.Since(a.node.epoch)))
		a.mu.Unlock()
		return true, &Error{Reason: ReasonBusy, Identity: a.id, RetryAfter: after}
	}
	a.box.calls.push(c)
	a.schedule()
	return true, nil
}

// touch notes that the grain was used. a.mu is held.
func (a *activation) touch() {
	a.lastUsed = a.node.clock.Load()
	a.trimmed = false
}

// park keeps a call that Receive left unanswered, so that it gets an answer
// even if the grain forgets it.
func (a *activation) park(c *Call) {
	if c.phase.Load() != phaseRunning {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c.owner = a
	if !c.phase.CompareAndSwap(phaseRunning, phaseParked) {
		return
	}
	if c.next = a.parked; c.next != nil {
		c.next.prev = c
	}
	a.parked = c
	a.nparked++
}

// unpark forgets a parked call that was answered or given up; the grain counts
// as used until then.
func (a *activation) unpark(c *Call) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		a.parked = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
	a.nparked--
	a.touch()
}

// Receive is protoactor's. It stands between protoactor and the grain, so that
// a panic stays in here.
func (a *activation) Receive(ctx actor.Context) {
	switch ctx.Message().(type) {
	case *actor.Started:
		a.guard(func() { a.begin(ctx) })
	case *actor.Stopped:
		a.guard(func() { a.deliver(ctx) })
		a.finish()
	default:
		a.receive(ctx)
	}
}

// receive is the way of all but the first and the last message; without a
// closure, since calls take it.
func (a *activation) receive(ctx actor.Context) {
	defer func() {
		if r := recover(); r != nil {
			a.failed(r)
		}
	}()
	a.deliver(ctx)
}

func (a *activation) guard(f func()) {
	defer func() {
		if r := recover(); r != nil {
			a.failed(r)
		}
	}()
	f()
}

func (a *activation) begin(ctx actor.Context) {
	a.grain = a.kind.New(a.id.Kind, a.id.Tenant, a.id.ID)
	if a.grain == nil {
		a.failed(errNoGrain)
		return
	}
	a.grain.Receive(ctx)
}

func (a *activation) deliver(ctx actor.Context) {
	if a.grain != nil {
		a.grain.Receive(ctx)
	}
}

// HandleFailure is protoactor's: a child of the grain failed. A grain that
// supervises its children itself is asked; else protoactor's default decides.
func (a *activation) HandleFailure(system *actor.ActorSystem, supervisor actor.Supervisor, child *actor.PID,
	rs *actor.RestartStatistics, reason, message any,
) {
	strategy, ok := a.grain.(actor.SupervisorStrategy)
	if !ok {
		strategy = actor.DefaultSupervisorStrategy()
	}
	strategy.HandleFailure(system, supervisor, child, rs, reason, message)
}

// failed ends a grain that panicked: the call in hand is answered, the rest
// follows from the stop. The next call finds a fresh grain.
func (a *activation) failed(reason any) {
	a.mu.Lock()
	c, first := a.current, !a.panicked
	a.panicked = true
	a.mu.Unlock()
	if first {
		a.node.log.Error("grain panicked", slog.String("grain", a.id.String()),
			slog.String("panic", fmt.Sprint(reason)), slog.String("stack", string(debug.Stack())))
		a.PostSystemMessage(&actor.Stop{})
	}
	if c != nil {
		c.finish(byPanic, nil, nil)
	}
}

// finish takes the stopped grain out of the registry and answers or hands on
// what it leaves. Queued calls go to a fresh activation if this one handled a
// call, so that a passivation costs its callers nothing; a grain that stops
// before its first call (it refused to live, or cannot start) sends them back,
// so that Ask's back-off and limit of tries bound the attempts.
func (a *activation) finish() {
	heir, queued, parked := a.node.registry.retire(a)
	for _, c := range parked {
		c.finish(byStop, nil, nil)
	}
	if heir != nil {
		a.node.registry.spawn(heir)
	}
	how := byMove
	if a.panickedAtStart() {
		how = byPanic // to try again would only panic again
	}
	moved := !a.node.standing.Load().local(a.hash, a.id.Tenant)
	for _, c := range queued {
		c.moved = moved
		c.finish(how, nil, nil)
	}
	a.node.gone(a)
}

func (a *activation) panickedAtStart() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.panicked && a.served == 0
}

// close ends the intake for good and gives what waits. The shard of a is
// locked, a.mu is not.
func (a *activation) close() (queued, parked []*Call) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	for c, ok := a.box.calls.pop(); ok; c, ok = a.box.calls.pop() {
		queued = append(queued, c)
	}
	for c := a.parked; c != nil; c = c.next {
		parked = append(parked, c)
	}
	a.box.own, a.box.calls = ring[any]{}, ring[*Call]{}
	return queued, parked
}

// giveUp answers every call of a grain that never returned from Receive.
func (a *activation) giveUp() {
	queued, parked := a.close()
	a.mu.Lock()
	if a.current != nil {
		parked = append(parked, a.current)
	}
	a.mu.Unlock()
	for _, c := range append(queued, parked...) {
		c.finish(byNode, nil, nil)
	}
}
