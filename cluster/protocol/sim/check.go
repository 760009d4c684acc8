package sim

import (
	"time"

	"granary.dev/granary/cluster/protocol"
)

// checker keeps its own record of what happened and compares.
type checker struct {
	w     *world
	ops   int
	views []protocol.View // by version
	kbs   [maxKeys]record
}

// record is what the checker knows of one knowledge base.
type record struct {
	act    int     // the last activation that was acquired
	epoch  int64   // its epoch
	states []state // after event i
	floor  int64   // highest position anybody was told of
	ops    map[*op]int64
	acks   []*op
	live   [docs]int
	wrote  bool // a write that began after everything healed was acknowledged
	leased bool // a leased read was answered after that
}

func (c *checker) init(w *world) {
	c.w = w
	c.views = append(make([]protocol.View, 0, 64), protocol.View{})
	for k := range w.cfg.keys {
		c.kbs[k].states = append(make([]state, 0, 128), state{})
		c.kbs[k].ops = make(map[*op]int64, 128)
	}
}

func (c *checker) floor(k int) int64 { return c.kbs[k].floor }

// acquired: I2.
func (c *checker) acquired(k int, row protocol.OwnerRow, act int) {
	r := &c.kbs[k]
	if row.Epoch != r.epoch+1 && !c.w.rules.SameEpoch {
		c.w.fail("I2: kb%d goes from epoch %d to %d", k, r.epoch, row.Epoch)
	}
	if row.Head != int64(len(r.states)-1) {
		c.w.fail("I3: kb%d acquired with head %d, it has %d events", k, row.Head, len(r.states)-1)
	}
	r.epoch, r.act = row.Epoch, act
}

// committed: I1, I3, I5, I7, I8, I9, I10.
func (c *checker) committed(k int, b *batch, act int) {
	w, r, rows := c.w, &c.kbs[k], &c.w.store.kbs[k]
	if act != r.act {
		w.fail("I1: kb%d: activation %d commits, %d is the last that was acquired", k, act, r.act)
	}
	if b.head != int64(len(r.states)-1) || rows.owner.Head != int64(len(rows.journal)) {
		w.fail("I3: kb%d: commit at %d, %d events, head %d", k, b.head, len(rows.journal), rows.owner.Head)
		return
	}
	for i, e := range b.entries {
		seq := b.head + int64(i) + 1
		last := r.states[len(r.states)-1]
		if e.op != nil {
			if at, twice := r.ops[e.op]; twice {
				w.fail("I5: kb%d: operation %d is event %d and event %d", k, e.op.id, at, seq)
			}
			if e.try.failed {
				w.fail("I7: kb%d: operation %d was answered as failed and is event %d", k, e.op.id, seq)
			}
			r.ops[e.op] = seq
			e.try.committed = true
		}
		if e.kind == indexed {
			c.indexed(k, e, last)
		}
		r.states = append(r.states, last.apply(e))
		if w.tracing() {
			w.log("  kb%d event %d kind %d doc %d by act %d", k, seq, e.kind, e.doc, act)
		}
	}
	st := r.states[len(r.states)-1]
	for d := range docs {
		if st.docs[d].pending() && !rows.wake[d].set {
			w.fail("I10: kb%d: document %d has work to do and no wake-up", k, d)
		}
		r.live[d] = st.docs[d].live
	}
}

func (c *checker) indexed(k int, e entry, before state) {
	d := &before.docs[e.doc]
	if d.planned != e.attempt {
		c.w.fail("I8: kb%d: attempt %d committed, %d was planned", k, e.attempt, d.planned)
		return
	}
	if have := c.w.vectors.count(e.attempt); have != int(d.plannedPoints) {
		c.w.fail("I9: kb%d: attempt %d committed with %d of %d points", k, e.attempt, have, d.plannedPoints)
	}
}

// removed: I9.
func (c *checker) removed(attempt int) {
	p := &c.w.vectors.attempts[attempt-1]
	if c.kbs[p.k].live[p.doc] == attempt {
		c.w.fail("I9: kb%d: points of the live attempt %d were removed", p.k, attempt)
	}
}

// acked: I4, I5, I6, I7.
func (c *checker) acked(k int, o *op, seq int64) {
	w, r := c.w, &c.kbs[k]
	w.stats.Writes++
	if at, ok := r.ops[o]; !ok || at != seq {
		w.fail("I7: kb%d: operation %d acknowledged as event %d, it is %d", k, o.id, seq, at)
	}
	if o.acked && o.seq != seq {
		w.fail("I5: kb%d: operation %d answered with %d, before with %d", k, o.id, seq, o.seq)
	}
	if seq <= o.floor {
		w.fail("I6: kb%d: operation %d is event %d, though %d had been seen before it began", k, o.id, seq, o.floor)
	}
	if !o.acked {
		o.acked, o.seq = true, seq
		r.acks = append(r.acks, o)
	}
	r.floor = max(r.floor, seq)
	r.wrote = r.wrote || o.late
}

// failed: I7.
func (c *checker) failed(t *try) {
	t.failed = true
	if t.committed {
		c.w.fail("I7: kb%d: operation %d is answered as failed and is event %d", t.op.k, t.op.id, c.kbs[t.op.k].ops[t.op])
	}
}

// read: I6, I12. floor is what had been seen when the read reached the grain.
func (c *checker) read(g *grain, o *op, floor int64, leased bool) {
	w, r := c.w, &c.kbs[g.k]
	switch {
	case g.head >= int64(len(r.states)):
		w.fail("I7: kb%d: a read sees event %d of %d", g.k, g.head, len(r.states)-1)
		return
	case g.head < floor:
		w.fail("I6: kb%d: a read on %s sees event %d, though %d had been seen before it began (leased %v)", g.k, g.n, g.head, floor, leased)
	case g.st != r.states[g.head]:
		w.fail("I12: kb%d: state on %s is not the fold of %d events", g.k, g.n, g.head)
	}
	r.floor = max(r.floor, g.head)
	r.leased = r.leased || leased && o.late
}

// shown: I8.
func (c *checker) shown(g *grain, attempt int) {
	r, p := &c.kbs[g.k], &c.w.vectors.attempts[attempt-1]
	if g.head < int64(len(r.states)) && r.states[g.head].docs[p.doc].live != attempt {
		c.w.fail("I8: kb%d: a search shows points of attempt %d, live is %d", g.k, attempt, r.states[g.head].docs[p.doc].live)
	}
}

// served: I14 and the second half of I10, after everything healed.
func (c *checker) served() {
	w := c.w
	all, idle := true, true
	for k := range w.cfg.keys {
		r := &c.kbs[k]
		all = all && r.wrote && r.leased
		for d := range docs {
			idle = idle && !r.states[len(r.states)-1].docs[d].pending()
		}
	}
	since := w.now - w.healAt
	switch {
	case all && idle:
		w.done = true
	case !all && since > serveWithin:
		for k := range w.cfg.keys {
			if r := &c.kbs[k]; !r.wrote || !r.leased {
				w.fail("I14: kb%d does not serve %v after everything healed (write %v, leased read %v)", k, serveWithin, r.wrote, r.leased)
			}
		}
	case !idle && since > workWithin:
		w.fail("I10: work is left %v after everything healed", workWithin)
	}
}

// end: I3, I4, I12 over the whole journal.
func (c *checker) end() {
	for k := range c.w.cfg.keys {
		r, rows := &c.kbs[k], &c.w.store.kbs[k]
		if rows.owner.Head != int64(len(rows.journal)) {
			c.w.fail("I3: kb%d: head %d, %d events", k, rows.owner.Head, len(rows.journal))
		}
		st := state{}
		for _, e := range rows.journal {
			st = st.apply(e)
		}
		if st != r.states[len(r.states)-1] {
			c.w.fail("I12: kb%d: the journal folds into another state", k)
		}
		for _, o := range r.acks {
			if o.seq > int64(len(rows.journal)) || rows.journal[o.seq-1].op != o {
				c.w.fail("I4: kb%d: operation %d was acknowledged as event %d and is not there", k, o.id, o.seq)
			}
		}
	}
}

// leaseEnd is when a lease ends, on the clock of the schedule.
func leaseEnd(row protocol.LeaseRow) time.Duration { return row.Expires.Sub(epoch) }
