package sim

import (
	"time"

	"granary.dev/granary/cluster/protocol"
)

// conditions are drawn once per schedule. Each schedule has some faults only,
// and those often: rare mixtures of everything find less.
type conditions struct {
	nodes, keys, clients int
	length               time.Duration // until everything heals
	think                time.Duration // of a client, mean
	readShare            float64
	timing               protocol.Timing

	delay, storeDelay time.Duration // one way, mean
	tail              float64       // share of messages that take up to tailMax
	tailMax           time.Duration
	drop, dup         float64
	drift             float64 // how far clocks' speeds are from 1 at most
	faultEvery        time.Duration
	weights           [faultKinds]float64
	wander            bool // between two nodes
}

type fault int

const (
	crash fault = iota
	pause
	cutStore
	cutLink
	storeAway
	storeSlow
	drain
	relocate
	join
	passivate
	eclipse // an owner's way to the store grows slow, then fails
	swing   // a tenant is moved away from an owner that does not learn of it, and back
	faultKinds
)

func (w *world) draw() conditions {
	c := conditions{
		nodes: 1 + w.rng.IntN(5), keys: 1 + w.rng.IntN(maxKeys), clients: 2 + w.rng.IntN(3),
		length: w.between(5*time.Second, 16*time.Second), think: w.between(30*time.Millisecond, 400*time.Millisecond),
		readShare: 0.2 + 0.6*w.rng.Float64(), timing: protocol.DefaultTiming(),
		delay: w.between(200*time.Microsecond, 5*time.Millisecond), storeDelay: w.between(300*time.Microsecond, 8*time.Millisecond),
		tailMax: w.between(50*time.Millisecond, 3*time.Second), drift: 0.02 * w.rng.Float64(),
		faultEvery: w.between(300*time.Millisecond, 3*time.Second),
	}
	if c.nodes == 1 || c.nodes == 2 && w.chance(0.5) {
		c.nodes = 3 // most of what can go wrong needs a majority to go on
	}
	if w.chance(0.5) {
		c.drop, c.dup = 0.1*w.rng.Float64(), 0.1*w.rng.Float64()
	}
	if w.chance(0.6) {
		c.tail = 0.1 * w.rng.Float64()
	}
	for f := range c.weights {
		if w.chance(0.5) {
			c.weights[f] = w.rng.ExpFloat64()
		}
	}
	if w.chance(0.25) {
		w.wander(&c)
	}
	return c
}

// wander draws a schedule in which one knowledge base is moved all the time
// while its owners lose the store now and then: what was true of ownership a
// moment ago is what most often misleads.
func (w *world) wander(c *conditions) {
	c.keys, c.clients, c.readShare = 1, 4, 0.7
	c.think, c.faultEvery = 40*time.Millisecond, w.between(150*time.Millisecond, time.Second)
	c.weights = [faultKinds]float64{relocate: 3, cutStore: 1, pause: 0.5, storeAway: 1, storeSlow: 1.5 * w.rng.Float64()}
	c.tailMax = w.between(200*time.Millisecond, 3*time.Second)
	c.wander = true
}

// strike lets the next fault happen.
func (w *world) strike() {
	if w.healed {
		return
	}
	w.after(w.exp(w.cfg.faultEvery), nil, w.strike)
	sum := 0.0
	for _, x := range w.cfg.weights {
		sum += x
	}
	at := w.rng.Float64() * sum
	for f, x := range w.cfg.weights {
		if at -= x; x > 0 && at < 0 {
			w.inflict(fault(f), w.nodes[w.rng.IntN(w.cfg.nodes)])
			return
		}
	}
}

func (w *world) inflict(f fault, n *node) {
	switch f {
	case crash:
		w.crash(n)
	case pause:
		w.pause(n)
	case cutStore:
		w.links.cutStore(n, w.between(200*time.Millisecond, 6*time.Second))
	case cutLink:
		w.links.cut(n, w.nodes[w.rng.IntN(w.cfg.nodes)], w.between(200*time.Millisecond, 6*time.Second))
	case storeAway:
		w.stats.Outages++
		longest := 5 * time.Second
		if w.cfg.wander {
			longest = 300 * time.Millisecond // a blip, after which nobody is given up for a while
		}
		w.links.awayUntil = w.now + w.between(100*time.Millisecond, longest)
		w.log("store away until %v", w.links.awayUntil)
	case storeSlow:
		w.links.slowUntil = w.now + w.between(500*time.Millisecond, 6*time.Second)
		w.log("store slow until %v", w.links.slowUntil)
	case drain:
		if n.up && !n.draining && w.lasting() > 1 {
			w.log("%s drains", n)
			n.draining = true
			w.after(0, n, func() { n.step(protocol.StartDrain{}) })
		}
	case relocate:
		w.relocate(n)
	case join:
		if s := w.nodes[slots-1]; !s.up {
			w.log("%s comes", s)
			s.restart()
		}
	case eclipse:
		w.eclipse()
	case swing:
		w.swing()
	case passivate:
		w.after(0, n, func() { n.grains[w.rng.IntN(w.cfg.keys)].passivate() })
	}
}

// aim picks the node that holds some knowledge base.
func (w *world) aim() (*node, int) {
	k := w.rng.IntN(w.cfg.keys)
	for _, n := range w.nodes {
		if n.up && n.grains[k].phase == active {
			return n, k
		}
	}
	return nil, k
}

func (w *world) eclipse() {
	n, _ := w.aim()
	if n == nil {
		return
	}
	d := w.between(300*time.Millisecond, 3*time.Second)
	w.links.slowNode[n.slot] = w.now + d
	w.log("%s has a slow store until %v", n, w.now+d)
	w.after(d, n, func() {
		if !w.healed {
			w.links.cutStore(n, w.between(3500*time.Millisecond, 6*time.Second))
		}
	})
}

func (w *world) swing() {
	n, k := w.aim()
	other := w.nodes[w.rng.IntN(w.cfg.nodes)]
	if n == nil || other == n || !other.up {
		return
	}
	ask := func(to string) func() {
		return func() { other.step(protocol.Relocate{Tenant: identity(k).Tenant, Node: to}) }
	}
	if w.chance(0.4) { // it is just being taken anew
		w.log("kb%d is pulled from %s to %s", k, n, other)
		n.grains[k].passivate()
		w.after(w.upTo(100*time.Millisecond), other, ask(other.name))
		return
	}
	ttl := w.cfg.timing.TTL
	w.log("kb%d swings from %s to %s and back", k, n, other)
	w.links.toStore[n.slot] = w.now + w.between(ttl, ttl+ttl/2)
	w.after(0, other, ask(other.name))
	// Blips keep everybody from giving n up.
	for _, at := range [2]time.Duration{ttl / 2, ttl - ttl/10} {
		w.after(at, nil, func() {
			if !w.healed {
				w.links.awayUntil = max(w.links.awayUntil, w.now+30*time.Millisecond)
			}
		})
	}
	w.after(w.between(ttl, ttl+ttl/2), other, ask(n.name))
}

func (w *world) crash(n *node) {
	if !n.up {
		return
	}
	w.stats.Crashes++
	w.log("%s crashes", n)
	n.up = false
	n.draining = false
	w.after(w.between(50*time.Millisecond, 4*time.Second), nil, n.restart)
}

func (w *world) pause(n *node) {
	if !n.up || n.stoppedUntil > w.now {
		return
	}
	w.stats.Pauses++
	d := w.between(50*time.Millisecond, 6*time.Second)
	n.stoppedUntil = w.now + d
	n.slept += d
	w.log("%s stops for %v", n, d)
}

func (w *world) relocate(n *node) {
	if !n.up {
		return
	}
	to := ""
	switch {
	case w.cfg.wander:
		to = w.nodes[w.rng.IntN(2)].name
	case w.chance(0.7):
		to = w.nodes[w.rng.IntN(w.cfg.nodes)].name
	}
	tenant := identity(w.rng.IntN(w.cfg.keys)).Tenant
	w.stats.Relocations++
	w.log("%s asks for %s on %q", n, tenant, to)
	w.after(0, n, func() { n.step(protocol.Relocate{Tenant: tenant, Node: to}) })
}

// lasting counts the nodes that mean to stay.
func (w *world) lasting() int {
	c := 0
	for _, n := range w.nodes {
		if n.up && !n.draining {
			c++
		}
	}
	return c
}

// heal ends all faults for good.
func (w *world) heal() {
	w.healed = true
	w.log("everything heals")
	w.links.heal()
	w.cfg.drop, w.cfg.dup, w.cfg.tail = 0, 0, 0
	for _, n := range w.nodes {
		if n.stoppedUntil > w.now {
			n.slept -= n.stoppedUntil - w.now
			n.stoppedUntil = w.now
		}
	}
	for _, n := range w.nodes[:w.cfg.nodes] {
		if !n.up && !n.left {
			n.restart()
		}
	}
	if w.lasting() == 0 {
		for _, n := range w.nodes[:w.cfg.nodes] {
			if !n.up {
				n.restart()
				return
			}
		}
		w.nodes[slots-1].restart()
	}
}
