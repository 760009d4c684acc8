package actors

import (
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/actors/kb"
)

// atRest reports whether nothing is under way that needs this activation.
func (g *kbGrain) atRest() bool {
	w := g.work
	if g.phase != phaseActive || !g.quiet() {
		return false
	}
	return w == nil || (len(w.children) == 0 && len(w.pending) == 0 && len(w.watchers) == 0 && len(w.reached) == 0 &&
		len(w.keyed) == 0 && len(w.unready) == 0 && w.erasing == 0 && !w.asking && !w.sweeping &&
		(w.index == nil || w.index.ready && !w.index.saving))
}

// trim frees what an idle knowledge base does not need: the index goes to its
// snapshot, the working part away. The state stays.
func (g *kbGrain) trim() {
	if !g.atRest() || g.work == nil {
		return
	}
	g.saveIndex(func() {
		if g.work == nil || !g.atRest() || g.work.index != nil && g.work.index.changes > 0 {
			return
		}
		g.dropIndex()
		if g.work.retry != nil {
			g.work.retry.Stop()
		}
		if g.work.supervisor != nil {
			g.work.supervisor.Close()
		}
		g.work = nil
	})
}

// passivate ends the activation when it is idle: snapshot, release, stop.
func (g *kbGrain) passivate() {
	if !g.atRest() || g.owes() {
		return
	}
	g.saveIndex(func() {
		if g.atRest() {
			g.leave()
		}
	})
}

// drain ends the activation in an orderly way whatever it is doing: runs are
// paused, so that they do not count as crashes and go on elsewhere.
func (g *kbGrain) drain(ctx actor.Context) {
	w := g.busy()
	if w.stopping {
		return
	}
	w.stopping = true
	if g.phase == phaseLeaving {
		return // and does not stay for those who called meanwhile
	}
	if g.phase == phaseLoading || g.broken != nil {
		ctx.Stop(g.self)
		return
	}
	for wt := range w.watchers {
		g.endWatch(wt)
	}
	for _, m := range w.reached {
		g.dropWaiting(m)
	}
	for id := range w.children {
		g.endRun(ctx, id)
	}
	g.record(g.kb.Pause(), nil)
	g.idle(ctx)
}

// idle goes on with a drain when nothing is on its way to the journal.
func (g *kbGrain) idle(actor.Context) {
	w := g.work
	if w == nil || !w.stopping || !g.quiet() || g.phase != phaseActive {
		return
	}
	g.saveIndex(func() {
		if g.phase == phaseActive && g.quiet() {
			g.leave()
		}
	})
}

// leave stores a snapshot if one pays, and releases the grain.
func (g *kbGrain) leave() {
	g.phase = phaseLeaving
	seq := g.committed
	if !g.owned || seq == g.snapshot || g.kb.Phase() == kb.PhaseDeleted {
		go g.release(g.fence, g.owned)
		return
	}
	encode, fence := g.kb.Freeze(), g.fence
	go func() {
		g.save(fence, seq, encode)
		g.tell(&savedMsg{seq: seq})
	}()
}

// saved goes on leaving, unless somebody called meanwhile.
func (g *kbGrain) saved(ctx actor.Context, m *savedMsg) {
	g.snapshot = m.seq
	if g.stay(ctx) {
		return
	}
	go g.release(g.fence, g.owned)
}

// stay takes the calls that came while the grain was about to leave.
func (g *kbGrain) stay(ctx actor.Context) bool {
	if len(g.waiting) == 0 || g.work != nil && g.work.stopping {
		return false
	}
	g.phase = phaseActive
	waiting := g.waiting
	g.waiting = nil
	for _, c := range waiting {
		g.handle(c)
	}
	g.startDue(ctx)
	return true
}

// released ends the actor; calls that came after the release load it anew.
func (g *kbGrain) released(ctx actor.Context) {
	if len(g.waiting) > 0 && (g.work == nil || !g.work.stopping) {
		if g.work != nil {
			g.dropIndex()
			g.work = nil
		}
		g.restart()
		go g.load(g.restore)
		return
	}
	ctx.Stop(g.self)
}

func movedError() error {
	return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the object is being moved; try again").After(50 * time.Millisecond)
}

// stopped ends everything this activation has outside its mailbox.
func (g *kbGrain) stopped() {
	w := g.busy()
	if w.retry != nil {
		w.retry.Stop()
	}
	if w.supervisor != nil {
		w.supervisor.Close()
	}
	for wt := range w.watchers {
		g.endWatch(wt)
	}
	for _, r := range w.reached {
		r.stop()
		r.call.Reply(nil, movedError())
	}
	g.dropIndex()
	if g.broken == nil {
		g.broken = movedError()
	} else if !w.stopping {
		for _, c := range w.children {
			g.deps.runs.outage(c.run.attempt)
		}
	}
	for _, f := range w.unready {
		f(g.broken)
	}
	for _, calls := range w.keyed {
		for _, c := range calls {
			c.Reply(nil, g.broken)
		}
	}
	g.fail(append(g.inflight, g.queue...))
	g.work = nil
}
