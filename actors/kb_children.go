package actors

import (
	"errors"
	"fmt"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/google/uuid"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline/chunk"
	"granary.dev/granary/actors/search"
	"granary.dev/granary/actors/supervise"
)

// wakeMsg: look for work that is due.
type wakeMsg struct {
	erasing bool // the row of an erasure is due
	work    bool // the row of work is due
}

// wake takes up what waits for its time, or for somebody who can be reached again.
func (g *kbGrain) wake(ctx actor.Context, m *wakeMsg) {
	if g.phase != phaseActive || g.broken != nil {
		return
	}
	if m.erasing && (g.kb.Phase() == kb.PhaseNone || g.kb.Phase() == kb.PhaseActive) {
		g.erasureOver()
	}
	if g.kb.Phase() == kb.PhaseActive && !g.kb.Listed() && g.quiet() && !g.busy().listing && !g.stopping {
		g.register(func() {})
	}
	g.expire()
	g.giveUpImport()
	if m.work {
		g.sweepOnce()
	}
	g.startDue(ctx)
}

// sweepOnce looks for what an earlier activation left, which a row of its own tells of
// when nothing else is owed: that some garbage was not collected.
func (g *kbGrain) sweepOnce() {
	if g.swept || g.stopping || g.kb.Phase() != kb.PhaseActive || g.busy().sweeping {
		return
	}
	if !g.owes() {
		g.wakeSet, g.wakeDue = true, time.Time{} // the row is there, and due
	}
	g.sweep()
}

// enqueueRun puts a document in line for a run.
func (g *kbGrain) enqueueRun(id string) {
	w := g.busy()
	if w.queued[id] {
		return
	}
	if w.queued == nil {
		w.queued = make(map[string]bool)
	}
	w.queued[id] = true
	w.pending = append(w.pending, id)
}

// startDue starts runs while there is room for children.
func (g *kbGrain) startDue(ctx actor.Context) {
	w := g.work
	if w == nil || g.stopping || w.sweeping || g.phase != phaseActive || g.broken != nil || g.kb.Phase() != kb.PhaseActive {
		return
	}
	if len(w.pending) == 0 {
		g.hungry(false)
		return
	}
	if w.settings == nil {
		g.askSettings()
		return
	}
	if w.settings.state > kb.TenantActive {
		// Paused. Whoever was not told of the end of it asks from time to time.
		if g.deps.Now().Sub(w.settings.at) > settingsFresh {
			g.askSettings()
		}
		return
	}
	limit := min(g.deps.ChildrenPerKB, max(1, int(w.settings.limits.ConcurrentProcessing)))
	now := g.deps.Now()
	var later []string
	starved := false
	for len(w.pending) > 0 && len(w.children) < limit && !starved {
		id, rest := w.pending[0], w.pending
		w.pending = w.pending[1:]
		d := g.kb.Document(id)
		switch {
		case d == nil || !d.State.Pending():
			delete(w.queued, id)
		case w.children[id] != nil:
			later = append(later, id) // the former run is ending
		case d.RetryAt.After(now):
			later = append(later, id)
			g.wakeAt(d.RetryAt)
		default:
			c := &child{}
			if c.place = g.takePlace(id, c, min(limit-len(w.children), len(rest))); c.place == nil {
				w.pending, starved = rest, true
				continue
			}
			delete(w.queued, id)
			g.startRun(ctx, d, c)
		}
	}
	w.pending = append(w.pending, later...)
	g.hungry(starved)
}

// wakeAt makes sure that somebody looks at a time to come.
func (g *kbGrain) wakeAt(t time.Time) {
	w := g.work
	if w.retry != nil && !w.retryAt.After(t) && w.retryAt.After(g.deps.Now()) {
		return // somebody looks before that
	}
	if w.retry != nil {
		w.retry.Stop()
	}
	w.retryAt = t
	w.retry = time.AfterFunc(max(t.Sub(g.deps.Now()), time.Millisecond), func() { g.tell(&wakeMsg{}) })
}

// startRun commits the start of a run and then spawns its child, so that a run
// that takes the process down has been counted.
func (g *kbGrain) startRun(ctx actor.Context, d *kb.Document, c *child) {
	events, err := g.kb.Start(d.ID, uuid.NewString())
	if err != nil {
		c.place.release()
		return
	}
	w := g.busy()
	if w.children == nil {
		w.children = make(map[string]*child)
	}
	w.children[d.ID] = c
	wr, err := g.append(system, events)
	if err != nil {
		c.place.release()
		return
	}
	started := g.kb.Document(d.ID)
	c.run = run{doc: started.ID, version: started.Version, attempt: started.Attempt, epoch: g.fence.Epoch}
	wr.done = func(err error) {
		// The document may have been cancelled while the commit was in flight.
		if err == nil && g.work != nil && g.work.children[d.ID] == c && started.State.Processing() {
			c.pid = ctx.Spawn(g.workerProps(g.kb.Document(d.ID), c.place))
			return
		}
		c.place.release()
	}
	g.flush(g.owes())
}

func (g *kbGrain) workerProps(d *kb.Document, place *place) *actor.Props {
	s := g.work.settings
	call := kb.Config{}
	if d.Chunking != nil {
		call.Chunking = *d.Chunking
	}
	eff := kb.Resolve(g.deps.builtIn(), s.config, g.kb.Config(), call)
	opt := chunk.DefaultOptions()
	opt.TargetWords, opt.MaxWords, opt.OverlapSentences = eff.TargetWords, eff.MaxWords, eff.OverlapSentences
	opt.MaxBlockWords = max(opt.MaxBlockWords, 2*eff.MaxWords)
	j := job{deps: g.deps, scope: g.scope(), fence: g.fence, kbID: g.id.ID, doc: d,
		options: opt, place: place, slots: int(s.limits.ConcurrentProcessing), report: g.tell}
	end := g.deps.runs.begin(j.scope, d.Attempt)
	return actor.PropsFromProducer(func() actor.Actor { return &worker{job: j, end: end} })
}

// HandleFailure implements actor.SupervisorStrategy for the children: a run
// that crashes is tried again with growing delays, and then its version fails.
func (g *kbGrain) HandleFailure(system *actor.ActorSystem, supervisor actor.Supervisor, child *actor.PID,
	rs *actor.RestartStatistics, reason, message any,
) {
	w := g.busy()
	if w.supervisor == nil {
		w.supervisor = &supervise.Backoff{Initial: time.Second, Max: time.Minute, Factor: 2, Jitter: 0.5,
			ResetAfter: 10 * time.Minute, MaxRetries: 3, OnRetry: g.runCrashed, OnGiveUp: g.runGivenUp}
	}
	w.supervisor.HandleFailure(system, supervisor, child, rs, reason, message)
}

func (g *kbGrain) runCrashed(pid *actor.PID, failure int, delay time.Duration, reason any) {
	g.log().Error("processing crashed, will be tried again", "child", pid.GetId(), "crashes", failure, "delay", delay, "reason", reason)
}

func (g *kbGrain) runGivenUp(pid *actor.PID, reason any) {
	for _, c := range g.busy().children {
		if c.pid != nil && c.pid.Equal(pid) {
			g.receiveFailure(&failedReport{run: c.run, cause: fmt.Errorf("%v", reason), err: kb.DocumentError{
				Reason: kb.ReasonCrashed, Stage: kb.StageRun, Message: "processing this document failed unexpectedly, several times"}})
			return
		}
	}
}

// endRun forgets a run's child and stops it if it is still there.
func (g *kbGrain) endRun(ctx actor.Context, id string) {
	w := g.work
	if c := w.children[id]; c != nil {
		delete(w.children, id)
		if c.pid != nil {
			ctx.Stop(c.pid) // its run gives the place back when it has ended
		} else {
			c.place.release()
		}
	}
	delete(w.progress, id)
}

// receiveReport takes what a run says, unless the run is not current any more.
func (g *kbGrain) receiveReport(ctx actor.Context, m interface{ of() run }) {
	r := m.of()
	w := g.busy()
	c := w.children[r.doc]
	if c == nil || c.run != r || g.stopping || g.broken != nil || g.phase != phaseActive {
		g.refuse(m)
		return
	}
	switch m := m.(type) {
	case *stageReport:
		g.receiveStage(m)
	case *fetchedReport:
		g.fetched(m)
	case *chunkedReport:
		events, err := g.kb.ChunksWritten(r.doc, r.version, r.attempt, m.chunks, m.model, m.content)
		if err == nil {
			g.keepSegment(liveKey{r.attempt, false}, m.segment)
		}
		g.decideReport(r, "chunk", events, err, m.decided)
	case *indexedReport:
		events, err := g.kb.IndexWritten(r.doc, r.version, r.attempt, m.chunks, m.embedded, m.model, m.content)
		if err == nil && m.segment != nil {
			g.keepSegment(liveKey{r.attempt, true}, m.segment)
		}
		g.decideReport(r, "index", events, err, nil)
	case *failedReport:
		g.receiveFailure(m)
	}
}

// refuse tells a run that waits for a decision that there is none for it.
func (g *kbGrain) refuse(m any) {
	switch m := m.(type) {
	case *fetchedReport:
		m.decided <- false
		g.discard(m.source.Blob)
	case *chunkedReport:
		m.decided <- false
	}
}

// decideReport records what a report means. One the rules refuse for another
// reason than that the document has moved on ends the run with that reason.
func (g *kbGrain) decideReport(r run, stage string, events []kb.Event, err error, decided chan<- bool) {
	if err != nil {
		if decided != nil {
			decided <- false
		}
		if own, ok := errors.AsType[*kb.Error](err); ok {
			g.receiveFailure(&failedReport{run: r, err: kb.DocumentError{Reason: own.Reason, Message: own.Message, Stage: stage}, cause: err})
		}
		return
	}
	// A fetch that turned out to be a duplicate ends the run.
	_, failed := events[0].(*kb.DocumentFailed)
	g.record(events, func(err error) {
		if decided != nil {
			decided <- err == nil && !failed
		}
	})
}

func (g *kbGrain) receiveFailure(m *failedReport) {
	g.log().Warn("processing failed", "document", m.doc, "version", m.version, "reason", m.err.Reason, "stage", m.err.Stage,
		"retryable", m.err.Retryable, "error", m.cause)
	decide := g.kb.RunFailed
	if m.progressed {
		decide = g.kb.RunInterrupted
	}
	events, err := decide(m.doc, m.version, m.attempt, m.err, m.wait, g.deps.Now(), g.deps.Jitter(), g.deps.Retry)
	if err == nil {
		g.record(events, nil)
	}
}

// progressEvery bounds how often one document's progress is announced.
const progressEvery = 50 * time.Millisecond

func (g *kbGrain) receiveStage(m *stageReport) {
	w := g.work
	p := w.progress[m.doc]
	now := g.deps.Now()
	if p != nil && p.version == m.version && p.state == m.state && p.wait == m.wait && now.Sub(p.sent) < progressEvery {
		p.fraction = m.fraction
		return
	}
	if w.progress == nil {
		w.progress = make(map[string]*progress)
	}
	w.ticks++
	w.progress[m.doc] = &progress{version: m.version, state: m.state, fraction: m.fraction, wait: m.wait, tick: w.ticks, sent: now}
	g.notifyProgress()
}

// effect does what a committed event asks for.
func (g *kbGrain) effect(ctx actor.Context, e effect) {
	switch ev := e.event.(type) {
	case *kb.DocumentAdded:
		g.endRun(ctx, ev.ID)
		g.enqueueRun(ev.ID)
	case *kb.DocumentRetried:
		g.endRun(ctx, ev.ID)
		g.enqueueRun(ev.ID)
	case *kb.DocumentIndexed:
		g.endRun(ctx, ev.ID)
	case *kb.DocumentFailed:
		g.endRun(ctx, ev.ID)
	case *kb.DocumentCancelled:
		g.endRun(ctx, ev.ID)
	case *kb.DocumentPaused:
		g.endRun(ctx, ev.ID)
	case *kb.DocumentDeleteRequested:
		g.endRun(ctx, ev.ID)
		g.letGo(ev.ID)
		g.eraseDocument(ev.ID, g.cached(e.before))
		return
	case *kb.DocumentErasing, *kb.DocumentDeleted:
		return
	case *kb.DeleteRequested:
		for id := range g.work.children {
			g.endRun(ctx, id)
		}
		g.work.pending, g.work.queued = nil, nil
		if g.work.index != nil {
			g.work.dropped = g.kb.Chunks()
		}
		g.dropIndex()
		g.eraseAll()
		return
	}
	g.collect(kb.GarbageBetween(e.before, e.after))
}

// keepSegment keeps an attempt's index until its event is committed.
func (g *kbGrain) keepSegment(key liveKey, s *search.Segment) {
	g.ensureIndex(nil)
	if ix := g.work.index; ix != nil {
		ix.segments[key] = s
	}
}
