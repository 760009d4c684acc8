package actors

import (
	"context"
	"errors"
	"slices"
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

// discard removes a blob that no document will ever claim. If it cannot, the blob is
// collected within a day.
func (g *kbGrain) discard(blob string) {
	if g.broken != nil || g.phase != phaseActive {
		return
	}
	scope := g.scope()
	g.aside(func(ctx context.Context) error { return g.remove(ctx, scope, kb.Garbage{Blobs: []string{blob}}) }, func(err error) {
		if err != nil {
			g.log().Warn("blob not deleted, it is collected later", "error", err)
		}
	})
}

// collect removes what no document refers to any more. Until that is done the
// knowledge base owes it: a wake-up row stands, so that what a crash leaves is found.
func (g *kbGrain) collect(garbage kb.Garbage) {
	garbage = g.hold(garbage)
	if len(garbage.Attempts) == 0 && len(garbage.Blobs) == 0 {
		g.tidy()
		return
	}
	g.busy().litter++
	g.clear(garbage)
}

func (g *kbGrain) clear(garbage kb.Garbage) {
	scope := g.scope()
	g.aside(func(ctx context.Context) error { return g.remove(ctx, scope, garbage) }, func(err error) {
		if err != nil {
			g.again("garbage not collected yet", err, func() { g.clear(garbage) })
			return
		}
		g.work.litter--
		g.tidy()
	})
}

// litters reports whether an event leaves something that is to be collected.
func litters(e effect) bool {
	switch e.event.(type) {
	case *kb.DocumentDeleteRequested, *kb.DocumentErasing, *kb.DocumentDeleted, *kb.DeleteRequested:
		return false // what erasures are for
	}
	garbage := kb.GarbageBetween(e.before, e.after)
	return len(garbage.Attempts) > 0 || len(garbage.Blobs) > 0
}

// littered reports whether there is something that nobody needs, or only an export.
func (g *kbGrain) littered() bool {
	if g.work == nil {
		return false
	}
	for _, x := range g.work.exports {
		if len(x.held) > 0 {
			return true
		}
	}
	return g.work.litter > 0
}

// tidy goes on with what waits until all is collected, and takes the wake-up row away
// when nothing else is owed.
func (g *kbGrain) tidy() {
	if w := g.work; w != nil && g.swept && w.litter == 0 {
		waiting := w.untidy
		w.untidy = nil
		for _, f := range waiting {
			f()
		}
	}
	if g.phase != phaseActive || g.broken != nil || !g.owned || !g.wakeSet || !g.wakeDue.IsZero() || g.owes() || !g.quiet() {
		return // the next commit does
	}
	if _, err := g.count(nil); err == nil {
		g.flush(false)
	}
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
// will ever commit, sources nobody refers to any more, and documents that were being
// deleted. No run starts before the rows are listed, so that those of a new attempt
// are never among them; a source that is listed was committed to by then, so that a
// document that needs it is in the state when the list is there.
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
	var gone kb.Garbage
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
		g.swept = true
		gone.Blobs = g.unneeded(gone.Blobs)
		g.collect(gone)
		for _, d := range deleting {
			g.eraseDocument(d.ID, 0)
		}
	})
}

// unneeded takes those blobs out of a list that a document refers to.
func (g *kbGrain) unneeded(blobs []string) []string {
	if len(blobs) == 0 {
		return nil
	}
	keep := make(map[string]bool)
	for d := range g.kb.All {
		for _, b := range sourcesOf(d) {
			keep[b] = true
		}
	}
	return slices.DeleteFunc(blobs, func(b string) bool { return keep[b] })
}

// sourcesOf are the blobs of a document, also while it is being deleted.
func sourcesOf(d *kb.Document) []string {
	if d.State == kb.StateDeleting {
		return d.Doom().Garbage.Blobs
	}
	return kb.GarbageBetween(d, nil).Blobs
}

// claimed lists the sources the store has of a knowledge base.
func (g *kbGrain) claimed(ctx context.Context) ([]string, error) {
	return pages(func(after string) ([]string, error) { return g.deps.Blobs.ClaimedBlobs(ctx, g.id, after, blobPage) })
}

// blobPage is how many blobs are listed at a time.
const blobPage = 1000

// pages reads a list to its end, from page to page.
func pages(read func(after string) ([]string, error)) (all []string, err error) {
	for after := ""; ; after = all[len(all)-1] {
		page, err := read(after)
		all = append(all, page...)
		if err != nil || len(page) < blobPage {
			return all, err
		}
	}
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

// leftovers lists the attempts with rows that nobody needs, and all sources; it runs
// beside the mailbox, when the runs of this node that may still write have ended.
func (g *kbGrain) leftovers(ctx context.Context, scope journal.Scope, keep map[string]bool, fence journal.Fence) (gone kb.Garbage, err error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	old := func(l *liveRun) bool { return l.scope == scope && !keep[l.attempt] }
	if err := g.deps.runs.wait(ctx, old); err != nil {
		return gone, err
	}
	there, err := g.deps.Chunks.AttemptsOf(ctx, scope)
	if err != nil {
		return gone, err
	}
	for _, a := range there {
		if !keep[a.ID] {
			gone.Attempts = append(gone.Attempts, a.ID)
		}
	}
	if gone.Blobs, err = g.claimed(ctx); err != nil || g.deps.lone {
		return gone, err
	}
	// A successor's attempts and sources are none of these leftovers: what was listed
	// counts if this activation was the owner until then.
	return gone, g.deps.Store.Verify(ctx, fence)
}

// sweepTimeout bounds how long runs wait for a sweep.
const sweepTimeout = 10 * time.Second

// scope is this incarnation's bulk data.
func (g *kbGrain) scope() journal.Scope { return journal.Scope{Tenant: g.id.Tenant, UID: g.kb.UID()} }
