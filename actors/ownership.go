package actors

import (
	"context"
	"errors"
	"time"

	"granary.dev/granary/actors/journal"
)

// lone is the ownership of a node that shares its store with nobody.
type lone struct{ claim journal.Claim }

func (l lone) Claim(journal.Identity) (journal.Claim, bool) { return l.claim, true }
func (lone) Lease() (uint64, bool)                          { return 0, true }
func (lone) Lone() bool                                     { return true }
func (lone) Outdated()                                      {}

// errMoved: this node may not take the grain over, or gives it up.
var errMoved = errors.New("actors: the grain is placed on another node")

// lease is what the node's lease was at one moment.
type lease struct {
	term uint64
	ok   bool
}

func (d *Deps) lease() lease {
	term, ok := d.Owner.Lease()
	return lease{term, ok}
}

// prove gives the proof of a statement that was sent under an earlier lease and
// is answered now: the lease held all the time, so that nobody else can have
// acquired the grain before its term ends.
func (d *Deps) prove(sent lease) lease {
	now := d.lease()
	now.ok = now.ok && sent.ok && now.term == sent.term
	return now
}

// acquired is a grain that was taken over.
type acquired struct {
	fence journal.Fence
	head  int64
	proof lease
}

const (
	acquireWait    = 10 * time.Millisecond // before the second try; doubles
	acquireWaitMax = 150 * time.Millisecond
)

// acquire takes the grain over. It waits while the last owner may still answer
// reads, or the store's view is not the node's, until ctx ends; errMoved when the
// node's own view stops placing the grain here.
func (c *core) acquire(ctx context.Context) (acquired, error) {
	for wait := acquireWait; ; wait = min(2*wait, acquireWaitMax) {
		// Each try brings a fresh claim: the tenure that shortens the wait grows
		// with the views the node has seen.
		claim, ok := c.deps.Owner.Claim(c.id)
		if !ok {
			return acquired{}, errMoved
		}
		sent := c.deps.lease()
		fence, head, err := c.deps.Store.Acquire(ctx, c.id, claim)
		pause := wait
		held, isHeld := errors.AsType[*journal.HeldError](err)
		switch {
		case err == nil:
			return acquired{fence: fence, head: head, proof: c.deps.prove(sent)}, nil
		case isHeld:
			pause = max(min(pause, held.RetryAfter), time.Millisecond)
		case errors.Is(err, journal.ErrNotPlaced):
			c.deps.Owner.Outdated()
		default:
			return acquired{}, err
		}
		if err := sleep(ctx, pause); err != nil {
			return acquired{}, err
		}
	}
}

// placed reports whether the node may have the grain.
func (c *core) placed() bool {
	_, ok := c.deps.Owner.Claim(c.id)
	return ok
}

// giveBack releases what nobody waits for any more. Once is enough: a loss of it
// costs the next owner a wait, no more.
func (c *core) giveBack(f journal.Fence) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if err := c.deps.Store.Release(ctx, f); err != nil {
		c.log().Warn("not given back", "error", err)
	}
}

// sleep waits for d, or for ctx's end and gives its error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
