package actors

import (
	"context"
	"errors"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// erasedMsg brings the end of work beside the mailbox back to it, if the working
// part that began it is still there.
type erasedMsg struct {
	of   *kbWork
	done func()
}

func (g *kbGrain) erased(ctx actor.Context, m *erasedMsg) {
	if g.work != m.of || g.broken != nil {
		return
	}
	m.done()
	g.expire()
	g.startDue(ctx)
	g.idle()
}

const (
	eraseTimeout = 5 * time.Minute
	eraseRetry   = 5 * time.Second
)

// aside runs work beside the mailbox and then done on it. An idle grain does not
// leave while such work is under way; it ends with the activation.
func (g *kbGrain) aside(work func(context.Context) error, done func(error)) {
	w := g.busy()
	w.erasing++
	go func() {
		ctx, cancel := context.WithTimeout(w.ctx, eraseTimeout)
		defer cancel()
		err := work(ctx)
		g.tell(&erasedMsg{of: w, done: func() {
			w.erasing--
			done(err)
		}})
	}()
}

// again repeats a step that failed, as long as this activation lives.
func (g *kbGrain) again(what string, err error, step func()) {
	if errors.Is(err, journal.ErrFenced) {
		g.tell(&lostMsg{g.fence})
		return
	}
	g.deps.counts.erasureFailures.Add(1)
	g.log().Warn(what, "error", err)
	g.soon(eraseRetry, step)
}

// soon takes a step a little later, as long as this activation lives.
func (g *kbGrain) soon(wait time.Duration, step func()) {
	w := g.work
	w.erasing++
	time.AfterFunc(wait, func() {
		g.tell(&erasedMsg{of: w, done: func() {
			w.erasing--
			step()
		}})
	})
}

// claims reports whether a fetched source became the document's.
func claims(events []kb.Event) bool {
	for _, e := range events {
		if _, ok := e.(*kb.DocumentFetched); ok {
			return true
		}
	}
	return false
}

// discard removes a blob that no document will ever claim.
func (g *kbGrain) discard(blob string) {
	if g.broken == nil && g.phase == phaseActive {
		g.collect(kb.Garbage{Blobs: []string{blob}})
	}
}

// collect removes what no document refers to any more. A failure costs space
// only: the next activation with work looks again.
func (g *kbGrain) collect(garbage kb.Garbage) {
	garbage = g.hold(garbage)
	if len(garbage.Attempts) == 0 && len(garbage.Blobs) == 0 {
		return
	}
	scope := g.scope()
	g.aside(func(ctx context.Context) error { return g.remove(ctx, scope, garbage) }, func(err error) {
		if err != nil {
			g.log().Warn("garbage not collected", "error", err)
		}
	})
}

// remove runs beside the mailbox. Runs of the attempts that were stopped end first.
func (g *kbGrain) remove(ctx context.Context, scope journal.Scope, garbage kb.Garbage) error {
	if err := g.deps.runs.wait(ctx, ofAttempts(scope, garbage.Attempts)); err != nil {
		return err
	}
	if len(garbage.Attempts) > 0 {
		if _, err := g.deps.Chunks.DeleteAttempts(ctx, scope, garbage.Attempts); err != nil {
			return err
		}
	}
	for _, b := range garbage.Blobs {
		if err := g.deps.Blobs.DeleteBlob(ctx, scope.Tenant, b); err != nil {
			return err
		}
	}
	return nil
}

// sweep looks for what an earlier activation left: rows of attempts that nobody
// will ever commit, and documents that were being deleted. No run starts before
// the rows are listed, so that those of a new attempt are never among them.
func (g *kbGrain) sweep() {
	g.busy().sweeping = true
	if !g.quiet() {
		g.onQuiet(func(err error) {
			if err == nil {
				g.sweep()
			}
		})
		return
	}
	keep, deleting := g.needed()
	scope, fence := g.scope(), g.fence
	var gone []string
	g.aside(func(ctx context.Context) (err error) {
		gone, err = g.leftovers(ctx, scope, keep, fence)
		return err
	}, func(err error) {
		g.work.sweeping = false
		switch {
		case g.kb.Phase() != kb.PhaseActive:
			return
		case err != nil:
			g.again("leftovers not listed yet", err, g.sweep)
			return
		}
		g.collect(kb.Garbage{Attempts: gone})
		for _, d := range deleting {
			g.eraseDocument(d.ID, 0)
		}
	})
}

// needed gives the attempts that documents refer to, and the documents that are
// being deleted.
func (g *kbGrain) needed() (attempts map[string]bool, deleting []*kb.Document) {
	attempts = make(map[string]bool)
	for d := range g.kb.All {
		if d.State == kb.StateDeleting {
			deleting = append(deleting, d)
			for _, a := range d.Doom().Garbage.Attempts {
				attempts[a] = true // counted before they go, and not by the sweep
			}
			continue
		}
		attempts[d.Attempt] = true
		if d.Live != nil {
			attempts[d.Live.Attempt] = true
		}
	}
	return attempts, deleting
}

// leftovers lists the attempts with rows that nobody needs; it runs beside the
// mailbox, when the runs of this node that may still write have ended.
func (g *kbGrain) leftovers(ctx context.Context, scope journal.Scope, keep map[string]bool, fence journal.Fence) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	old := func(l *liveRun) bool { return l.scope == scope && !keep[l.attempt] }
	if err := g.deps.runs.wait(ctx, old); err != nil {
		return nil, err
	}
	there, err := g.deps.Chunks.AttemptsOf(ctx, scope)
	if err != nil {
		return nil, err
	}
	var gone []string
	for _, a := range there {
		if !keep[a.ID] {
			gone = append(gone, a.ID)
		}
	}
	if g.deps.lone {
		return gone, nil
	}
	// A successor's attempts are none of these leftovers: what was listed counts
	// if this activation was the owner until then.
	return gone, g.deps.Store.Verify(ctx, fence)
}

// sweepTimeout bounds how long runs wait for a sweep.
const sweepTimeout = 10 * time.Second

// scope is this incarnation's bulk data.
func (g *kbGrain) scope() journal.Scope { return journal.Scope{Tenant: g.id.Tenant, UID: g.kb.UID()} }
