package sim

import (
	"math/bits"

	"granary.dev/granary/cluster/protocol"
)

// vectors is the vector store: points by attempt. It knows no fence.
type vectors struct {
	w        *world
	attempts []points // of attempt i+1
}

type points struct {
	k    int
	doc  int8
	mask uint8
}

func (v *vectors) newAttempt(k int, doc int8) int {
	v.attempts = append(v.attempts, points{k: k, doc: doc})
	return len(v.attempts)
}

func (v *vectors) put(attempt int, point int8) { v.attempts[attempt-1].mask |= 1 << point }

func (v *vectors) count(attempt int) int { return bits.OnesCount8(v.attempts[attempt-1].mask) }

func (v *vectors) remove(attempt int) {
	v.attempts[attempt-1].mask = 0
	v.w.check.removed(attempt)
}

// work is the indexing of one document version.
type work struct {
	doc     int8
	attempt int // 0 if nothing is under way
	n       int8
	version int
	stored  int8
	planned bool
	decided *entry // to be committed with the next batch
}

// proceed starts the next piece of unfinished work.
func (g *grain) proceed() {
	if g.phase != active || g.work.attempt != 0 {
		return
	}
	w := g.n.w
	for d := range docs {
		if !g.st.docs[d].pending() {
			continue
		}
		n := int8(1 + w.rng.IntN(3))
		attempt := w.vectors.newAttempt(g.k, int8(d))
		g.work = work{doc: int8(d), attempt: attempt, n: n, version: g.st.docs[d].version,
			decided: &entry{kind: intent, doc: int8(d), n: n, attempt: attempt}}
		g.flush()
		return
	}
}

// indexCommitted follows the work's own events.
func (g *grain) indexCommitted(b *batch, was state) {
	for _, e := range b.entries {
		if e.attempt == 0 || e.attempt != g.work.attempt {
			continue
		}
		switch e.kind {
		case intent:
			if g.st.docs[e.doc].plannedFor != g.work.version {
				g.work = work{} // a newer version came into the same commit
				continue
			}
			g.work.planned = true
			g.store()
		case indexed:
			g.n.w.stats.Indexed++
			g.work = work{}
			if old := was.docs[e.doc].live; old != 0 {
				g.collect(old)
			}
		}
	}
}

// store writes the attempt's points, each until it is answered.
func (g *grain) store() {
	w := g.n.w
	if w.rules.CollectBeforeIndex {
		if old := g.st.docs[g.work.doc].live; old != 0 {
			g.collect(old)
		}
	}
	if w.rules.CommitUncounted {
		for p := range g.work.n {
			g.put(p)
		}
		g.complete()
		return
	}
	for p := range g.work.n {
		g.put(p)
	}
}

func (g *grain) put(point int8) {
	w, gen, attempt := g.n.w, g.gen, g.work.attempt
	g.n.request(storeTimeout, nil, func() { w.vectors.put(attempt, point) }, func(res outcome) {
		switch {
		case gen != g.gen || g.work.attempt != attempt:
		case res != answered:
			w.after(retryTake, g.n, func() {
				if gen == g.gen && g.work.attempt == attempt {
					g.put(point)
				}
			})
		default:
			if g.work.stored++; g.work.stored >= g.work.n {
				g.count()
			}
		}
	})
}

// count compares before the attempt is committed.
func (g *grain) count() {
	w, gen, attempt := g.n.w, g.gen, g.work.attempt
	have := 0
	g.n.request(storeTimeout, nil, func() { have = w.vectors.count(attempt) }, func(res outcome) {
		switch {
		case gen != g.gen || g.work.attempt != attempt:
		case res == answered && have == int(g.work.n):
			g.complete()
		default:
			g.work = work{} // from the start, as another attempt
			g.proceed()
		}
	})
}

func (g *grain) complete() {
	wk := &g.work
	if g.st.docs[wk.doc].version != wk.version {
		*wk = work{} // the document changed meanwhile
		g.proceed()
		return
	}
	wk.decided = &entry{kind: indexed, doc: wk.doc, attempt: wk.attempt}
	g.flush()
}

// collect removes the points of an attempt that is found no more.
func (g *grain) collect(attempt int) {
	w := g.n.w
	g.n.request(storeTimeout, nil, func() { w.vectors.remove(attempt) }, func(outcome) {})
}

// search asks the vector store, and shows what the committed state allows at
// the moment of the answer.
func (g *grain) search(t *try) {
	w, k, gen := g.n.w, g.k, g.gen
	floor := w.check.floor(k)
	var found [8]int
	n := 0
	exec := func() {
		for i := range w.vectors.attempts {
			if p := &w.vectors.attempts[i]; p.k == k && p.mask != 0 && n < len(found) {
				found[n] = i + 1
				n++
			}
		}
	}
	g.n.request(storeTimeout, nil, exec, func(res outcome) {
		if gen != g.gen || res != answered {
			g.fail(t)
			return
		}
		show := func() {
			w.stats.Searches++
			for _, attempt := range found[:n] {
				doc := w.vectors.attempts[attempt-1].doc
				if g.st.docs[doc].live == attempt || w.rules.NoPostFilter {
					w.check.shown(g, attempt)
				}
			}
			w.check.read(g, t.op, floor, false)
			t.reply(reply{replyOK})
		}
		if g.mayRead() == protocol.ReadLeased {
			show()
			return
		}
		g.verified(t, show)
	})
}
