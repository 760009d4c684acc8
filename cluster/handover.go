package cluster

import (
	"context"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// handOver asks every grain that is not placed here any more to finish, release
// and stop. It counts them until they are gone: until then the next owner has to
// wait, one lease at most.
func (n *Node) handOver() {
	s := n.standing.Load()
	began := false
	n.registry.each(func(a *activation) {
		if !s.local(a.hash, a.id.Tenant) && a.move(n.shared) {
			began = true
		}
	})
	if began {
		n.shared.wg.Go(n.hurry)
	}
	n.shared.wake()
}

// move marks a grain as one that is to be handed over, once.
func (a *activation) move(s *sharing) bool {
	a.mu.Lock()
	if a.stopped || a.moving {
		a.mu.Unlock()
		return false
	}
	a.moving, a.movedAt = true, time.Since(a.node.epoch)
	a.box.wished |= wishDrain
	s.pending.Add(1)
	a.schedule()
	return true
}

// hurry stops the grains that have not finished in the drain time.
func (n *Node) hurry() {
	t := time.NewTimer(n.cfg.DrainTimeout)
	defer t.Stop()
	select {
	case <-t.C:
	case <-n.shared.ctx.Done():
		return
	}
	due := time.Since(n.epoch) - n.cfg.DrainTimeout
	n.registry.each(func(a *activation) {
		a.mu.Lock()
		late := a.moving && !a.stopped && a.movedAt <= due
		a.mu.Unlock()
		if late {
			n.log.Warn("grain has not finished in time and is stopped", slog.String("grain", a.id.String()))
			a.PostSystemMessage(&actor.Stop{})
		}
	})
}

// stopGrains ends all grains at once: this life of the node may answer nothing
// any more. What does not return is left behind; the fence keeps it harmless.
func (n *Node) stopGrains() {
	if n.alive.Load() == 0 {
		return
	}
	n.registry.each(func(a *activation) { a.PostSystemMessage(&actor.Stop{}) })
	ctx, cancel := context.WithTimeout(context.Background(), hardStop)
	defer cancel()
	if n.waitEmpty(ctx) {
		return
	}
	n.registry.each(func(a *activation) {
		n.log.Error("grain did not return and is left behind", slog.String("grain", a.id.String()))
		n.registry.abandon(a)
	})
}
