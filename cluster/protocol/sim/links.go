package sim

import "time"

// links says which messages arrive, and when.
type links struct {
	w         *world
	cuts      [slots][slots]time.Duration // from, to: until
	toStore   [slots]time.Duration
	fromStore [slots]time.Duration
	awayUntil time.Duration
	slowUntil time.Duration
	slowNode  [slots]time.Duration
}

func (l *links) heal() { *l = links{w: l.w} }

func (l *links) cut(a, b *node, d time.Duration) {
	w := l.w
	w.stats.Cuts++
	until := w.now + d
	if a == b { // alone against all
		for i := range slots {
			l.cuts[a.slot][i], l.cuts[i][a.slot] = until, until
		}
	}
	l.cuts[a.slot][b.slot] = until
	if w.chance(0.5) {
		l.cuts[b.slot][a.slot] = until
	}
	w.log("link %s→%s cut until %v", a, b, until)
}

func (l *links) cutStore(n *node, d time.Duration) {
	w := l.w
	w.stats.Cuts++
	until := w.now + d
	which := w.rng.IntN(3)
	if which != 0 {
		l.toStore[n.slot] = until
	}
	if which != 1 {
		l.fromStore[n.slot] = until
	}
	w.log("link %s–store cut (%d) until %v", n, which, until)
}

func (l *links) open(a, b *node) bool { return a == b || l.cuts[a.slot][b.slot] <= l.w.now }

// oneWay is the delay of a message between nodes.
func (l *links) oneWay() time.Duration {
	w := l.w
	if w.chance(w.cfg.tail) {
		return w.upTo(w.cfg.tailMax)
	}
	return w.exp(w.cfg.delay)
}

// storeWay is the delay of one way to the store or back.
func (l *links) storeWay(n *node) time.Duration {
	w := l.w
	if w.now < l.slowNode[n.slot] && w.chance(0.5) {
		if w.chance(0.5) {
			return w.upTo(time.Second) // late, but in time for an answer
		}
		return w.upTo(5 * time.Second) // when the caller has long given up
	}
	if w.now < l.slowUntil && w.chance(0.4) || w.chance(w.cfg.tail/2) {
		return w.upTo(w.cfg.tailMax)
	}
	return w.exp(w.cfg.storeDelay)
}

// send carries fn from one node to another; it may be lost or come twice.
func (l *links) send(a, b *node, fn func()) {
	w := l.w
	if a != b && (!l.open(a, b) || w.chance(w.cfg.drop)) || !b.up {
		return
	}
	if a == b {
		w.after(0, b, fn)
		return
	}
	w.after(l.oneWay(), b, fn)
	if w.chance(w.cfg.dup) {
		w.after(l.oneWay(), b, fn)
	}
}
