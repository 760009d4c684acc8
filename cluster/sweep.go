package cluster

import "time"

// sweepLoop is the node's only clock for idle grains: one goroutine instead of
// a timer per grain.
func (n *Node) sweepLoop() {
	defer close(n.sweepDone)
	t := time.NewTicker(n.cfg.SweepInterval)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			n.sweep(int64(now.Sub(n.epoch)))
		case <-n.stopSweep:
			return
		}
	}
}

// sweep asks grains that were idle for long to trim or to passivate. Times are
// as exact as the sweep interval.
func (n *Node) sweep(now int64) {
	n.clock.Store(now)
	n.registry.each(func(a *activation) { a.sweep(now) })
	n.workers.trim()
}

func (a *activation) sweep(now int64) {
	a.mu.Lock()
	idle := now - a.lastUsed
	switch {
	case !a.idle():
		a.mu.Unlock()
		return
	case idle >= int64(a.node.cfg.IdleTimeout) && now-a.asked >= int64(a.node.cfg.IdleTimeout):
		a.asked = now
		a.box.wished |= wishPassivate
	case idle >= int64(a.node.cfg.TrimAfter) && !a.trimmed:
		a.trimmed = true
		a.box.wished |= wishTrim
	}
	a.schedule()
}

// idle tells whether the grain has nothing in hand that the node knows of. What
// it does by itself (a commit, children) only the grain knows, which is why it
// is asked. a.mu is held.
func (a *activation) idle() bool {
	return a.box.started && !a.box.running && !a.box.stopping && !a.stopped && a.parked == nil && !a.box.ready()
}
