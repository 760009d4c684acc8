package actors

import (
	"context"
	"errors"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/actors/journal"
)

// How an activation ends.
type (
	savedMsg    struct{ seq int64 } // the snapshot of a leaving grain
	releasedMsg struct{}
	// lostMsg: somebody found that a fence is not the current one any more.
	lostMsg struct{ fence journal.Fence }
	// brokenMsg: the activation ended itself; broken says why.
	brokenMsg struct{}
	// overdueMsg: the drain has had its time.
	overdueMsg struct{}
)

// at gives the place of a snapshot that is made now, when the grain is quiet.
func (c *core) at() journal.Snapshot { return journal.Snapshot{Seq: c.committed, Hash: c.hash} }

// save stores a snapshot from a goroutine of its own; failures only cost time
// at the next load.
func (c *core) save(fence journal.Fence, snap journal.Snapshot, encode func() ([]byte, error), timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var err error
	if snap.State, err = encode(); err == nil {
		err = c.deps.Store.SaveSnapshot(ctx, fence, snap)
	}
	if err != nil {
		c.log().Warn("snapshot not saved", "error", err)
	}
	if errors.Is(err, journal.ErrFenced) {
		c.tell(&lostMsg{fence})
	}
}

const releaseAgain = 150 * time.Millisecond

// release gives the grain up on a goroutine of its own. It insists for a while:
// the next owner waits for it.
func (c *core) release() {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	c.giveUp = cancel
	fence, owned := c.fence, c.owned
	go func() {
		defer cancel()
		for owned {
			err := c.deps.Store.Release(ctx, fence)
			if err == nil {
				break
			}
			if sleep(ctx, releaseAgain) != nil {
				c.log().Warn("not released", "error", err)
				break
			}
		}
		c.tell(&releasedMsg{})
	}()
}

// restart forgets the activation that was released, but not who waits.
func (c *core) restart() {
	c.phase, c.fence, c.owned, c.proof, c.head, c.committed = phaseLoading, journal.Fence{}, false, lease{}, 0, 0
	c.hash = nil
	c.queue, c.inflight, c.snapshot, c.wakeSet, c.broken = nil, nil, 0, false, nil
	c.wakeDue = time.Time{}
}

const (
	// drainTimeout bounds a drain: what is not done by then is cut off.
	drainTimeout   = 9 * time.Second
	handOffSave    = 3 * time.Second // a snapshot that takes longer is not worth the wait of the next owner
	releaseTimeout = 3 * time.Second
)

// drain notes that the activation is to end; false when that was known.
func (c *core) drain() bool {
	if c.stopping {
		return false
	}
	c.stopping = true
	c.overdue = time.AfterFunc(drainTimeout, func() { c.tell(&overdueMsg{}) })
	c.failWaiting(movedError())
	if c.phase == phaseLoading {
		c.giveUp()
	}
	return true
}

// stopped ends what runs outside the mailbox and tells everyone who still waits:
// nobody knows what becomes of a commit under way.
func (c *core) stopped() {
	if c.giveUp != nil {
		c.giveUp()
	}
	if c.overdue != nil {
		c.overdue.Stop()
	}
	if c.broken == nil {
		c.broken = movedError()
	}
	c.failUnsent()
	c.failWaiting(c.broken)
	inflight := c.inflight
	c.inflight = nil
	for _, w := range inflight {
		w.end(doubtError(), c.broken)
	}
}

// failWaiting answers the calls that wait for the grain to be active.
func (c *core) failWaiting(err error) {
	waiting := c.waiting
	c.waiting = nil
	for _, cl := range waiting {
		cl.Reply(nil, err)
	}
}

// lose ends the activation of a grain that somebody else has taken over.
func (c *core) lose(ctx actor.Context) {
	if c.broken != nil || c.phase != phaseActive {
		return // it ends anyway
	}
	c.log().Info("the grain was taken over, the activation ends", "epoch", c.fence.Epoch)
	c.broken = movedError()
	c.cutOff(ctx)
}

// cutOff ends a broken activation, once the commit under way has its answer.
func (c *core) cutOff(ctx actor.Context) {
	if len(c.inflight) == 0 {
		ctx.Stop(c.self)
		return
	}
	c.failUnsent()
}
