package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/cluster/protocol"
)

// States of a node; it only moves forward.
const (
	nodeNew int32 = iota
	nodeRunning
	nodeStopping
	nodeStopped
)

// hardStop is how long a grain has to return from Receive once it is told to
// stop for good.
const hardStop = time.Second

// ErrStarted is what Start returns when it was called before.
var ErrStarted = errors.New("cluster: the node was started before")

// Node hosts the grains of one process and carries calls to all grains of the
// cluster. Its methods may be called from any goroutine.
type Node struct {
	cfg      completed
	log      *slog.Logger
	system   *actor.ActorSystem // set by Start before the state says running
	registry *registry
	budget   *retryBudget
	workers  workers
	waiters  sync.Pool // of *waiter; per node, so that none crosses a test's bubble

	standing atomic.Pointer[standing]
	shared   *sharing     // nil: the node is alone
	epoch    time.Time    // when Start was called; times below count from it and ignore clock steps
	clock    atomic.Int64 // nanoseconds since epoch at the last sweep
	alive    atomic.Int64 // activations in the registry
	state    atomic.Int32

	lifecycle sync.Mutex    // Start against Stop
	stopSweep chan struct{} // closed by Stop
	sweepDone chan struct{} // closed when the sweep has ended
	empty     chan struct{} // poked when the last activation is gone
	finished  chan struct{} // closed at the end of Stop
	stopErr   error         // result of Stop, read after finished
}

// New checks cfg and makes a node that hosts nothing until Start. The error
// wraps [ErrConfig].
func New(cfg Config) (*Node, error) {
	done, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg:       done,
		log:       done.Logger.With(slog.String("node", done.Name)),
		budget:    newRetryBudget(),
		stopSweep: make(chan struct{}),
		sweepDone: make(chan struct{}),
		empty:     make(chan struct{}, 1),
		finished:  make(chan struct{}),
	}
	n.waiters.New = func() any { return newWaiter() }
	n.registry = newRegistry(n)
	n.standing.Store(loneStanding(done.Name))
	if done.Shared != nil {
		s, err := newSharing(n)
		if err != nil {
			return nil, err
		}
		n.shared = s
		n.standing.Store(&standing{place: &protocol.Placement{}, replaced: make(chan struct{})})
	}
	return n, nil
}

// Start begins to serve. It may be called once; after Stop it returns
// [ErrStopped]. Alone it opens no port. A node that shares its grains returns
// when it is a member, which may take a lease after a crash under the same name;
// when it fails, call Stop.
func (n *Node) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cluster: start: %w", err)
	}
	n.lifecycle.Lock()
	defer n.lifecycle.Unlock()
	switch n.state.Load() {
	case nodeRunning:
		return ErrStarted
	case nodeStopping, nodeStopped:
		return ErrStopped
	}
	n.system = actor.NewActorSystem(
		actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return actorLogger(n.log) }),
		actor.WithMetricProviders(nil), // it would register a callback per spawn and never remove it
		actor.WithDeadLetterRequestLogging(false),
		// The throttle keeps a goroutine for this long after a dead letter.
		actor.WithDeadLetterThrottleInterval(10*time.Millisecond),
	)
	n.epoch = time.Now()
	n.state.Store(nodeRunning)
	go n.sweepLoop()
	if n.shared != nil {
		return n.shared.start(ctx)
	}
	return nil
}

// Leave gives this node's share to the others and returns when it has left the
// cluster. Until Stop it sends calls on, so that what stands in front of it goes
// on serving. Alone it does nothing.
func (n *Node) Leave(ctx context.Context) error {
	if n.shared == nil || !n.running() {
		return nil
	}
	return n.shared.leave(ctx)
}

// Stop ends the intake (Ask returns [ErrStopped]), asks every grain to drain,
// waits until all have stopped themselves, at most until ctx is over or
// Config.DrainTimeout has passed, and stops the others. Each call under way is
// answered. It may be called many times, before Start too; all wait for the
// one that does the work. The error tells of grains that did not even then
// return from Receive; their goroutines are left behind.
func (n *Node) Stop(ctx context.Context) error {
	n.lifecycle.Lock()
	was := n.state.Load()
	switch was {
	case nodeNew:
		n.state.Store(nodeStopped)
		close(n.finished)
	case nodeRunning:
		n.state.Store(nodeStopping)
	}
	n.lifecycle.Unlock()
	if was == nodeRunning {
		if n.shared != nil {
			n.stopErr = n.shared.close(ctx)
		}
		n.stopErr = errors.Join(n.stopErr, n.shutdown(ctx))
		n.state.Store(nodeStopped)
		close(n.finished)
		return n.stopErr
	}
	select {
	case <-n.finished:
		return n.stopErr
	case <-ctx.Done():
		return fmt.Errorf("cluster: stop: %w", ctx.Err())
	}
}

func (n *Node) shutdown(ctx context.Context) error {
	// The sweep first, so that no wish to passivate comes between; then the
	// grains, which still need the actor system and workers; these last.
	close(n.stopSweep)
	<-n.sweepDone
	drain, cancel := context.WithTimeout(ctx, n.cfg.DrainTimeout)
	defer cancel()
	defer n.workers.close()
	defer n.system.Shutdown()
	n.registry.each(func(a *activation) { a.wish(wishDrain) })
	if n.waitEmpty(drain) {
		return nil
	}
	n.registry.each(func(a *activation) { a.PostSystemMessage(&actor.Stop{}) })
	// On purpose not under ctx: it may be over, and a stop takes microseconds.
	hard, cancelHard := context.WithTimeout(context.WithoutCancel(ctx), hardStop)
	defer cancelHard()
	if n.waitEmpty(hard) {
		return nil
	}
	return n.abandonGrains()
}

// abandonGrains answers the calls of grains that never returned.
func (n *Node) abandonGrains() error {
	var stuck int
	var first string
	n.registry.each(func(a *activation) {
		a.giveUp()
		if stuck++; stuck == 1 {
			first = a.id.String()
		}
	})
	if stuck == 0 {
		return nil
	}
	return fmt.Errorf("cluster: stop: %d grains did not return from Receive, the first is %s", stuck, first)
}

// waitEmpty waits until no activation is left, or ctx is over.
func (n *Node) waitEmpty(ctx context.Context) bool {
	for n.alive.Load() > 0 {
		select {
		case <-n.empty:
		case <-ctx.Done():
			return n.alive.Load() == 0
		}
	}
	return true
}

// gone notes that an activation has left.
func (n *Node) gone(a *activation) {
	if a.moving { // nobody writes it any more
		n.shared.pending.Add(-1)
		n.shared.wake()
	}
	if n.alive.Add(-1) == 0 {
		select {
		case n.empty <- struct{}{}:
		default: // Stop was poked before and looks again
		}
	}
}

func (n *Node) running() bool { return n.state.Load() == nodeRunning }
