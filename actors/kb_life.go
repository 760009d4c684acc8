package actors

import (
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/actors/kb"
)

// atRest reports whether nothing is under way that needs this activation.
func (g *kbGrain) atRest() bool {
	w := g.work
	if g.phase != phaseActive || !g.quiet() || g.reads != nil {
		return false
	}
	return w == nil || (len(w.children) == 0 && len(w.pending) == 0 && len(w.watchers) == 0 && len(w.reached) == 0 && len(w.exports) == 0 &&
		len(w.keyed) == 0 && len(w.short) == 0 && !w.leasing && len(w.unready) == 0 && w.erasing == 0 && !w.asking && !w.sweeping &&
		(w.index == nil || w.index.ready && !w.index.saving))
}

// trim frees what an idle knowledge base does not need: the index goes to its
// snapshot, the working part away. The state stays.
func (g *kbGrain) trim() {
	if !g.atRest() || g.work == nil {
		return
	}
	g.saveIndex(loadTimeout, func() {
		if g.work == nil || !g.atRest() || g.work.index != nil && g.work.index.changes > 0 {
			return
		}
		g.dropIndex()
		g.dropWork()
	})
}

// dropWork ends what the working part has outside the mailbox, and forgets it.
func (g *kbGrain) dropWork() {
	w := g.work
	if w == nil {
		return
	}
	for _, t := range []*time.Timer{w.retry, w.grace} {
		if t != nil {
			t.Stop()
		}
	}
	if w.supervisor != nil {
		w.supervisor.Close()
	}
	w.end()
	g.work = nil
}

// passivate ends the activation when it is idle: snapshot, release, stop.
func (g *kbGrain) passivate() {
	if !g.atRest() || g.owes() {
		return
	}
	g.saveIndex(loadTimeout, func() {
		if g.atRest() {
			g.leave()
		}
	})
}

// handOver ends the activation in an orderly way whatever it is doing: runs are
// paused, so that they do not count as crashes and go on elsewhere.
func (g *kbGrain) handOver(ctx actor.Context) {
	if !g.drain() {
		return
	}
	switch {
	case g.phase == phaseLoading:
		ctx.Stop(g.self) // what the load still acquires it gives back
		return
	case g.phase != phaseActive || g.broken != nil:
		return // it ends by itself, and does not stay for those who called meanwhile
	}
	w := g.busy()
	for wt := range w.watchers {
		g.endWatch(wt)
	}
	g.refuseCalls(movedError())
	for id := range w.children {
		g.endRun(ctx, id)
	}
	g.hungry(false)
	g.record(g.kb.Pause(), nil)
	for id := range w.exports {
		g.endExport(id)
	}
	if w.erasing > 0 {
		// What is being erased is garbage for every owner: no harm comes of what
		// goes on after the hand-over. Mostly it ends in time to be done here.
		w.grace = time.AfterFunc(eraseGrace, func() { g.tell(&erasedMsg{of: w, done: func() { w.grace = nil }}) })
	}
	g.idle()
}

// eraseGrace is how long a hand-over waits for work beside the mailbox.
const eraseGrace = 200 * time.Millisecond

// idle goes on with a drain when nothing is on its way to the journal.
func (g *kbGrain) idle() {
	w := g.work
	if !g.stopping || !g.quiet() || g.phase != phaseActive || g.broken != nil || w != nil && w.grace != nil && w.erasing > 0 {
		return
	}
	leave := func() {
		if g.phase == phaseActive && g.quiet() && g.broken == nil {
			g.leave()
		}
	}
	if !g.deps.lone && (w == nil || w.index == nil || w.index.changes < worthSaving) {
		leave() // the next owner reads so little anew faster than this one writes it
		return
	}
	g.saveIndex(handOffSave, leave)
}

const (
	worthSaving   = 64  // changed documents for which the index is saved at a hand-over
	worthSnapshot = 200 // events, the same of the state
)

// leave stores a snapshot if one pays, and releases the grain.
func (g *kbGrain) leave() {
	g.phase = phaseLeaving
	seq := g.committed
	small := g.stopping && !g.deps.lone && seq-g.snapshot < worthSnapshot
	if !g.owned || seq == g.snapshot || small || g.kb.Phase() == kb.PhaseDeleted {
		g.release()
		return
	}
	timeout := loadTimeout
	if g.stopping {
		timeout = handOffSave
	}
	encode, fence, snap := g.kb.Freeze(), g.fence, g.at()
	go func() {
		g.save(fence, snap, encode, timeout)
		g.tell(&savedMsg{seq: seq})
	}()
}

// saved goes on leaving, unless somebody called meanwhile.
func (g *kbGrain) saved(ctx actor.Context, m *savedMsg) {
	g.snapshot = m.seq
	if g.stay(ctx) {
		return
	}
	g.release()
}

// stay takes the calls that came while the grain was about to leave.
func (g *kbGrain) stay(ctx actor.Context) bool {
	if len(g.waiting) == 0 || g.stopping || g.broken != nil {
		return false
	}
	g.phase = phaseActive
	for _, c := range g.unpark() {
		g.handle(c)
	}
	g.startDue(ctx)
	return true
}

// released ends the actor; calls that came after the release load it anew.
func (g *kbGrain) released(ctx actor.Context) {
	if len(g.waiting) > 0 && !g.stopping {
		g.dropIndex()
		g.dropWork()
		g.restart()
		g.load(g.restore)
		return
	}
	ctx.Stop(g.self)
}

// doubted ends everything but the writes of a commit in doubt, and finds out what
// became of them.
func (g *kbGrain) doubted(ctx actor.Context) {
	for id := range g.work.children {
		g.deps.runs.outage(g.work.children[id].run.attempt)
		g.endRun(ctx, id)
	}
	g.abandon()
	g.failUnsent()
	g.resolve()
}

// abandon ends everything this activation has outside its mailbox, and answers
// all calls it keeps but those of the commit under way.
func (g *kbGrain) abandon() {
	w := g.busy()
	for wt := range w.watchers {
		g.endWatch(wt)
	}
	g.dropIndex()
	if g.broken == nil {
		g.broken = movedError()
	}
	for _, c := range w.children {
		g.deps.runs.outage(c.run.attempt)
		if c.pid == nil {
			c.place.release()
		}
	}
	g.hungry(false)
	for o := range w.owed {
		o.send() // it is committed, and the next activation does what is left
	}
	g.refuseCalls(g.broken)
	g.dropWork()
}

// refuseCalls answers the calls that wait for something and have decided nothing.
func (g *kbGrain) refuseCalls(err error) {
	w := g.busy()
	g.failReads(err)
	reached := w.reached
	w.reached = nil
	for _, r := range reached {
		r.stop()
		r.call.Reply(nil, err)
	}
	unready, short, placing := w.unready, w.short, w.placing
	w.unready, w.short, w.placing = nil, nil, nil
	for p := range placing {
		p.then(err)
	}
	for _, f := range unready {
		f(err)
	}
	for _, s := range short {
		s.then(err)
	}
	for _, k := range w.keyed {
		k.refuse(err)
	}
}
