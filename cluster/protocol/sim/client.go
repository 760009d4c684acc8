package sim

import (
	"time"

	"granary.dev/granary/cluster/protocol"
)

const (
	patience = 2 * time.Second // of a client with one call
	maxTries = 5
)

// client calls one thing after the other.
type client struct {
	w     *world
	id    int
	op    *op
	tries int
	round int // answers to earlier calls are ignored
}

// next thinks of something to do.
func (c *client) next() {
	w := c.w
	w.check.ops++
	o := &op{id: w.check.ops, k: w.rng.IntN(w.cfg.keys), doc: int8(w.rng.IntN(docs)), late: w.healed}
	o.floor = w.check.floor(o.k)
	switch x := w.rng.Float64(); {
	case x < w.cfg.readShare*0.8:
		o.kind = readValue
	case x < w.cfg.readShare:
		o.kind = search
	case x > 0.85 && !w.healed:
		o.kind = addDoc
	}
	c.op, c.tries = o, 0
	c.call()
}

// call sends the operation through some node that is up.
func (c *client) call() {
	w := c.w
	c.round++
	round := c.round
	c.tries++
	if c.tries > 1 {
		w.stats.Retries++
	}
	w.after(patience, nil, func() { c.answered(round, reply{replyUnknown}) })
	gate := w.anyNode()
	if gate == nil {
		return
	}
	w.after(w.exp(w.cfg.delay), gate, func() {
		w.route(gate, c.op, func(r reply) {
			w.after(w.exp(w.cfg.delay), nil, func() { c.answered(round, r) })
		})
	})
}

func (c *client) answered(round int, r reply) {
	w := c.w
	if round != c.round {
		return
	}
	c.round++
	think := w.cfg.think
	if w.healed {
		think = 50 * time.Millisecond
	}
	if r.code == replyOK || c.tries >= maxTries {
		w.after(w.exp(think), nil, c.next)
		return
	}
	w.after(50*time.Millisecond+w.upTo(150*time.Millisecond), nil, c.call)
}

func (w *world) anyNode() *node {
	at := w.rng.IntN(slots)
	for i := range slots {
		if n := w.nodes[(at+i)%slots]; n.up {
			return n
		}
	}
	return nil
}

// route carries an operation from a gateway to the node its view names, and the
// answer back. answer is called at most once per delivery.
func (w *world) route(gate *node, o *op, answer func(reply)) {
	owner := w.owner(gate, o.k)
	if owner == nil {
		answer(reply{replyMoved})
		return
	}
	version := gate.view().Version
	w.links.send(gate, owner, func() {
		if version > owner.view().Version {
			owner.step(protocol.Newer{Version: version})
			if !owner.up {
				return
			}
		}
		t := &try{op: o}
		t.reply = func(r reply) { w.links.send(owner, gate, func() { answer(r) }) }
		owner.grains[o.k].handle(t)
	})
}
