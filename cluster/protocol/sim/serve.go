package sim

import (
	"errors"

	"granary.dev/granary/cluster/protocol"
)

func (g *grain) write(t *try) {
	if seq, ok := g.find(t.op); ok {
		g.ack(t, seq)
		return
	}
	for _, list := range [2][]*try{g.inflight, g.queue} {
		for _, other := range list {
			if other.op == t.op { // the same key, decided but not committed
				g.fail(t)
				return
			}
		}
	}
	if len(g.queue) == mailbox {
		g.fail(t)
		return
	}
	g.queue = append(g.queue, t)
	g.flush()
}

func (g *grain) ack(t *try, seq int64) {
	g.n.w.check.acked(g.k, t.op, seq)
	t.reply(reply{replyOK})
}

// flush commits what is decided unless a commit is under way.
func (g *grain) flush() {
	own := g.work.decided
	if g.busy || len(g.queue) == 0 && own == nil {
		return
	}
	b := &batch{fence: g.fence, head: g.head}
	st := g.st
	for _, t := range g.queue {
		b.entries = append(b.entries, entry{kind: t.op.kind, doc: t.op.doc, op: t.op, try: t})
	}
	if own != nil {
		b.entries = append(b.entries, *own)
		g.work.decided = nil
	}
	for _, e := range b.entries {
		st = st.apply(e)
	}
	for d := range docs {
		was, is := g.st.docs[d].pending(), st.docs[d].pending()
		b.setWake[d] = is && (!was || st.docs[d].version != g.st.docs[d].version)
		b.clear[d] = was && !is
	}
	g.inflight, g.queue, g.busy = g.queue, nil, true
	g.commit(b, st)
}

// commit sends one append to the store.
func (g *grain) commit(b *batch, st state) {
	w, k, gen, act := g.n.w, g.k, g.gen, g.act
	var err error
	may := func() { _, err = w.store.mayAppend(k, b) }
	write := func() {
		if err == nil {
			err = w.store.insert(k, b, act)
		}
	}
	exec, check := func() { may(); write() }, (func())(nil)
	if w.rules.ExistsFence {
		exec, check = write, may
	}
	g.n.request(storeTimeout, check, exec, func(res outcome) {
		if gen != g.gen {
			return
		}
		switch {
		case res == answered && err == nil:
			g.committed(b, st)
		case res == silent:
			w.stats.Doubts++
			g.doubted()
		default:
			if errors.Is(err, protocol.ErrFenced) {
				w.stats.Fenced++
				if w.tracing() {
					w.log("%s is fenced on kb%d epoch %d", g.n, k, g.fence.Epoch)
				}
			}
			g.abandon() // nothing was written: what waited has failed
		}
	})
}

func (g *grain) committed(b *batch, st state) {
	w, done := g.n.w, g.inflight
	g.inflight, g.busy = nil, false
	was := g.st
	g.st = st
	g.head += int64(len(b.entries))
	for i, e := range b.entries {
		if e.op != nil {
			g.keys = append(g.keys, keyRecord{e.op, b.head + int64(i) + 1})
		}
	}
	if w.rules.IdempotencyApart {
		g.afterwards(func() {
			rows := &w.store.kbs[g.k]
			for i, e := range b.entries {
				if e.op != nil {
					rows.keys = append(rows.keys, keyRecord{e.op, b.head + int64(i) + 1})
				}
			}
		})
	}
	if w.rules.WakeupApart {
		g.afterwards(func() { w.store.wakeups(g.k, b) })
	}
	for _, t := range done {
		seq, _ := g.find(t.op)
		g.ack(t, seq)
	}
	g.indexCommitted(b, was)
	if g.phase == leaving && len(g.queue) == 0 && !g.busy {
		g.release()
		return
	}
	g.flush()
	if g.phase == active {
		g.proceed()
	}
}

// afterwards is a second statement where there should be one.
func (g *grain) afterwards(exec func()) {
	g.n.request(storeTimeout, nil, exec, func(outcome) {})
}

// doubted takes the grain anew to learn what became of the commit.
func (g *grain) doubted() {
	w := g.n.w
	if w.rules.ForgetDoubt {
		for _, t := range g.inflight {
			t.reply(reply{replyUnknown})
		}
		g.inflight, g.busy = nil, false
		return
	}
	if w.rules.DoubtAsFailed {
		g.abandon()
		return
	}
	g.doubt, g.inflight, g.busy = g.inflight, nil, false
	queue := g.queue
	g.queue = nil
	for _, t := range queue { // never sent
		g.fail(t)
	}
	g.work = work{}
	g.gen++
	g.phase, g.owned = taking, false
	if !g.n.owns(g.k) || g.n.m.Phase() != protocol.Inside {
		g.abandon()
		return
	}
	g.acquire()
}

// mayRead decides the way of a read.
func (g *grain) mayRead() protocol.ReadPath {
	w := g.n.w
	if w.rules.ReadAnyway {
		return protocol.ReadLeased
	}
	l, proof := g.n.lease(), g.proof
	if w.rules.TrustAfterLapse || w.rules.LeaseFromReceipt {
		proof = protocol.Proof{Term: l.Term, Valid: true}
	}
	return protocol.MayRead(l, g.n.clock(), w.cfg.timing, g.n.owns(g.k), proof)
}

func (g *grain) read(t *try) {
	w := g.n.w
	floor := w.check.floor(g.k)
	if g.mayRead() == protocol.ReadLeased {
		w.stats.LeasedReads++
		w.check.read(g, t.op, floor, true)
		t.reply(reply{replyOK})
		return
	}
	g.verified(t, func() {
		w.stats.VerifiedReads++
		w.check.read(g, t.op, floor, false)
		t.reply(reply{replyOK})
	})
}

// verified runs then if the fence is still the current one.
func (g *grain) verified(t *try, then func()) {
	w, k, gen := g.n.w, g.k, g.gen
	lease, at := g.n.lease(), g.n.clock()
	var err error
	exec := func() { err = w.store.verify(k, g.fence) }
	g.n.request(storeTimeout, nil, exec, func(res outcome) {
		switch {
		case gen != g.gen || res != answered:
			g.fail(t)
		case err != nil:
			w.stats.Fenced++
			g.fail(t)
			if !g.busy { // else the commit's answer ends it
				g.abandon()
			}
		default:
			p := protocol.Prove(lease, at, g.n.lease(), g.n.clock(), w.cfg.timing)
			if p.Valid {
				g.proof = p
			}
			then()
		}
	})
}
