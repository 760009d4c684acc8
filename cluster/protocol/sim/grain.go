package sim

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"granary.dev/granary/cluster/protocol"
)

type phase uint8

const (
	idle    phase = iota
	taking        // acquiring and replaying
	active        // serving
	leaving       // no intake; finishes and releases
)

const (
	mailbox    = 16
	waitAtMost = 2 * time.Second // a call that waits for the grain to be taken over
	retryTake  = 150 * time.Millisecond
)

// grain is one knowledge base on one node, as package actors has it.
type grain struct {
	n     *node
	k     int
	phase phase
	gen   int // answers to an earlier activation are ignored

	fence    protocol.Fence
	act      int // activation, by the checker's count
	owned    bool
	head     int64
	st       state
	keys     []keyRecord
	proof    protocol.Proof
	queue    []*try
	inflight []*try // of the commit under way
	busy     bool   // a commit is under way
	doubt    []*try // of a commit nobody knows about
	waiting  []waiter
	work     work
}

type waiter struct {
	t     *try
	until time.Duration
}

// reset forgets everything, as the end of a process does.
func (g *grain) reset() { *g = grain{n: g.n, k: g.k, gen: g.gen + 1} }

// holds tells whether the grain has something to hand over.
func (g *grain) holds() bool { return g.phase != idle }

// handle takes one delivery.
func (g *grain) handle(t *try) {
	if g.phase == leaving || g.n.m.Phase() != protocol.Inside || !g.n.owns(g.k) {
		if g.n.w.rules.ReleaseAndServe && g.owned && t.op.kind == readValue {
			g.n.w.check.read(g, t.op, t.op.floor, true)
		}
		t.reply(reply{replyMoved})
		return
	}
	if g.phase != active {
		if len(g.waiting) == mailbox {
			g.fail(t)
			return
		}
		g.waiting = append(g.waiting, waiter{t, g.n.w.now + waitAtMost})
		g.take()
		return
	}
	g.serve(t)
}

func (g *grain) serve(t *try) {
	switch t.op.kind {
	case readValue:
		g.read(t)
	case search:
		g.search(t)
	default:
		g.write(t)
	}
}

// wake starts the grain for its unfinished work.
func (g *grain) wake() {
	switch {
	case g.phase == idle && g.n.m.Phase() == protocol.Inside && g.n.owns(g.k):
		g.take()
	case g.phase == active:
		g.proceed()
	}
}

// take acquires the grain unless that is under way.
func (g *grain) take() {
	if g.phase != idle {
		return
	}
	g.phase = taking
	g.gen++
	g.acquire()
}

func (g *grain) acquire() {
	w, k, gen := g.n.w, g.k, g.gen
	w.acts++
	act := w.acts
	r := protocol.AcquireRequest{Node: g.n.id(), Activation: "a" + strconv.Itoa(act), Tenure: g.n.tenures.Of(identity(k))}
	if w.rules.TenureOverGaps {
		r.Tenure.Through = w.store.view.Version
	}
	lease, at := g.n.lease(), g.n.clock()
	var row protocol.OwnerRow
	var err error
	may := func() { row, err = w.store.mayAcquire(k, r) }
	write := func() {
		if err == nil {
			row = w.store.take(k, row, act)
		}
	}
	exec, check := func() { may(); write() }, (func())(nil)
	if w.rules.AcquireUnlocked {
		exec, check = write, may
	}
	g.n.request(storeTimeout, check, exec, func(res outcome) {
		if gen != g.gen {
			if res == answered && err == nil {
				g.giveBack(row.Fence) // nobody waits for it any more
			}
			return
		}
		if res != answered || err != nil {
			g.notTaken(err)
			return
		}
		w.stats.Acquires++
		if w.tracing() {
			w.log("%s takes kb%d epoch %d act %d head %d", g.n, k, row.Epoch, act, row.Head)
		}
		g.fence, g.act, g.owned = row.Fence, act, true
		g.proof = protocol.Prove(lease, at, g.n.lease(), g.n.clock(), w.cfg.timing)
		g.load(row.Head)
	})
}

// notTaken tries again as long as somebody waits.
func (g *grain) notTaken(err error) {
	w := g.n.w
	wait := retryTake
	if after, held := isHeld(err); held {
		w.stats.Held++
		wait = min(wait, after+time.Millisecond)
	}
	if errors.Is(err, protocol.ErrNotPlaced) {
		g.n.step(protocol.Newer{Version: w.store.view.Version}) // the refusal tells the version
	}
	g.retry(wait)
}

func (g *grain) retry(wait time.Duration) {
	w := g.n.w
	g.waiting = slices.DeleteFunc(g.waiting, func(x waiter) bool {
		if x.until > w.now && g.n.owns(g.k) {
			return false
		}
		g.fail(x.t)
		return true
	})
	if !g.n.owns(g.k) || len(g.waiting) == 0 && len(g.doubt) == 0 && !w.healed {
		g.abandon()
		return
	}
	gen := g.gen
	w.after(wait, g.n, func() {
		if gen == g.gen {
			g.acquire()
		}
	})
}

// load replays the journal and reads the idempotency records, if the fence is
// still the current one: a record that a later owner wrote would let this one
// acknowledge what that one does not show yet.
func (g *grain) load(head int64) {
	w, k, gen, f := g.n.w, g.k, g.gen, g.fence
	var entries []entry
	var keys []keyRecord
	var err error
	exec := func() {
		if err = w.store.verify(k, f); err != nil && !w.rules.LoadUnfenced {
			return
		}
		err = nil
		j := w.store.kbs[k].journal
		entries = j[:min(head, int64(len(j)))]
		keys = slices.Clip(w.store.kbs[k].keys)
	}
	g.n.request(storeTimeout, nil, exec, func(res outcome) {
		switch {
		case gen != g.gen:
		case res != answered || err != nil:
			g.retry(retryTake)
		default:
			g.st = state{}
			for _, e := range entries {
				g.st = g.st.apply(e)
			}
			g.head, g.keys = head, keys
			g.loaded()
		}
	})
}

func (g *grain) loaded() {
	g.phase = active
	g.settleDoubt(true)
	waiting := g.waiting
	g.waiting = nil
	for _, x := range waiting {
		if g.phase == active {
			g.serve(x.t)
		} else {
			g.fail(x.t)
		}
	}
	if g.phase == active {
		g.proceed()
	}
	if !g.n.owns(g.k) || g.n.m.Phase() != protocol.Inside {
		g.leave()
	}
}

// settleDoubt answers the writes whose commit nobody knew of. After a new
// acquisition the journal tells: what is not in it can never come.
func (g *grain) settleDoubt(known bool) {
	doubt := g.doubt
	g.doubt = nil
	for _, t := range doubt {
		switch seq, ok := g.find(t.op); {
		case !known:
			t.reply(reply{replyUnknown})
		case ok:
			g.n.w.stats.DoubtsApplied++
			g.ack(t, seq)
		default:
			g.fail(t)
		}
	}
}

// abandon ends an activation without releasing it.
func (g *grain) abandon() {
	g.phase, g.owned = idle, false
	g.gen++
	g.work = work{}
	waiting, queue := g.waiting, slices.Concat(g.inflight, g.queue)
	g.waiting, g.inflight, g.queue, g.busy = nil, nil, nil, false
	g.settleDoubt(false)
	for _, x := range waiting {
		g.fail(x.t)
	}
	for _, t := range queue {
		g.fail(t)
	}
	g.n.report()
}

func (g *grain) fail(t *try) {
	g.n.w.check.failed(t)
	t.reply(reply{replyFailed})
}

// passivate releases an idle grain.
func (g *grain) passivate() {
	if g.phase == active && !g.busy && len(g.queue) == 0 {
		g.leave()
	}
}

// leave stops the intake, finishes and releases.
func (g *grain) leave() {
	switch g.phase {
	case taking:
		if len(g.doubt) > 0 && g.n.m.Phase() == protocol.Inside && g.n.owns(g.k) {
			return
		}
		g.abandon()
	case active:
		g.phase = leaving
		g.work = work{}
		if !g.busy && len(g.queue) == 0 {
			g.release()
		} else {
			g.flush()
		}
	}
}

// release repeats until it is answered: the next owner waits for it.
func (g *grain) release() {
	w, k, gen, f := g.n.w, g.k, g.gen, g.fence
	if w.tracing() {
		w.log("%s releases kb%d epoch %d", g.n, k, f.Epoch)
	}
	g.n.request(storeTimeout, nil, func() { w.store.release(k, f) }, func(res outcome) {
		switch {
		case gen != g.gen:
		case res != answered:
			w.after(retryTake, g.n, func() {
				if gen == g.gen {
					g.release()
				}
			})
		default:
			w.stats.Releases++
			if w.rules.ReleaseAndServe {
				g.phase, g.gen = idle, g.gen+1
				g.n.report()
				return
			}
			g.abandon()
		}
	})
}

// giveBack releases what was acquired for nobody; once is enough, since the
// wait of one TTL covers its loss.
func (g *grain) giveBack(f protocol.Fence) {
	w, k := g.n.w, g.k
	g.n.request(storeTimeout, nil, func() { w.store.release(k, f) }, func(outcome) {})
}

// find looks an idempotency key up.
func (g *grain) find(o *op) (int64, bool) {
	for i := len(g.keys) - 1; i >= 0; i-- {
		if g.keys[i].op == o {
			return g.keys[i].seq, true
		}
	}
	return 0, false
}
