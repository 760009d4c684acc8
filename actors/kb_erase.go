package actors

import (
	"context"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// erasedMsg brings the end of work beside the mailbox back to it.
type erasedMsg struct{ done func() }

func (g *kbGrain) erased(ctx actor.Context, m *erasedMsg) {
	if g.work == nil || g.broken != nil {
		return
	}
	m.done()
	g.startDue(ctx)
	g.idle(ctx)
}

const (
	eraseTimeout = 5 * time.Minute
	eraseRetry   = 5 * time.Second
)

// aside runs work beside the mailbox and then done on it. The grain does not
// leave while such work is under way.
func (g *kbGrain) aside(work func(context.Context) error, done func(error)) {
	w := g.busy()
	w.erasing++
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), eraseTimeout)
		defer cancel()
		err := work(ctx)
		g.tell(&erasedMsg{done: func() {
			g.work.erasing--
			done(err)
		}})
	}()
}

// again repeats a step that failed, as long as this activation lives.
func (g *kbGrain) again(what string, err error, step func()) {
	g.log().Warn(what, "error", err)
	g.work.erasing++
	time.AfterFunc(eraseRetry, func() {
		g.tell(&erasedMsg{done: func() {
			g.work.erasing--
			step()
		}})
	})
}

// eraseDocument removes everything of a document that is being deleted, and
// then the document. The wake-up row makes sure it is not forgotten.
func (g *kbGrain) eraseDocument(d *kb.Document) {
	garbage := kb.GarbageBetween(d, nil)
	scope := g.scope()
	g.aside(func(ctx context.Context) error { return g.remove(ctx, scope, garbage) }, func(err error) {
		if err != nil {
			g.again("document not erased yet", err, func() { g.eraseDocument(d) })
			return
		}
		if now := g.kb.Document(d.ID); now != nil && now.State == kb.StateDeleting {
			g.record([]kb.Event{&kb.DocumentDeleted{ID: d.ID}}, nil)
		}
	})
}

// collect removes what no document refers to any more. A failure costs space
// only: the next activation with work looks again.
func (g *kbGrain) collect(garbage kb.Garbage) {
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

// remove runs beside the mailbox.
func (g *kbGrain) remove(ctx context.Context, scope journal.Scope, garbage kb.Garbage) error {
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

// collectAttempts removes rows of attempts nobody will ever commit.
func (g *kbGrain) collectAttempts(keep map[string]bool) {
	scope := g.scope()
	g.aside(func(ctx context.Context) error {
		there, err := g.deps.Chunks.AttemptsOf(ctx, scope)
		if err != nil {
			return err
		}
		var gone []string
		for _, a := range there {
			if !keep[a.ID] {
				gone = append(gone, a.ID)
			}
		}
		if len(gone) == 0 {
			return nil
		}
		_, err = g.deps.Chunks.DeleteAttempts(ctx, scope, gone)
		return err
	}, func(err error) {
		if err != nil {
			g.log().Warn("old attempts not collected", "error", err)
		}
	})
}

// eraseAll finishes the deletion of the knowledge base: bulk data first, then
// the event that frees the name, then its journal. Each step is repeated by
// the next activation if this one ends between two.
func (g *kbGrain) eraseAll() {
	if g.kb.Phase() == kb.PhaseDeleted {
		g.eraseJournal()
		return
	}
	scope := g.scope()
	var blobs []string
	for d := range g.kb.All {
		blobs = append(blobs, kb.GarbageBetween(d, nil).Blobs...)
	}
	unlist := g.unregister(g.kb.UID())
	g.aside(func(ctx context.Context) error {
		if _, _, err := g.deps.Chunks.DeleteScope(ctx, scope); err != nil {
			return err
		}
		return g.remove(ctx, scope, kb.Garbage{Blobs: blobs})
	}, func(err error) {
		if err != nil {
			g.again("knowledge base not erased yet", err, g.eraseAll)
			return
		}
		unlist(func() {
			if g.kb.Phase() == kb.PhaseDeleting {
				g.record([]kb.Event{&kb.Deleted{}}, func(err error) {
					if err == nil {
						g.eraseJournal()
					}
				})
			}
		})
	})
}

// eraseJournal removes what the journal told of the deleted incarnation. The
// name keeps its epochs and its sequence numbers.
func (g *kbGrain) eraseJournal() {
	if !g.quiet() {
		g.onQuiet(func(err error) {
			if err == nil {
				g.eraseJournal()
			}
		})
		return
	}
	fence, seq := g.fence, g.committed
	blank := kb.New(g.id.ID)
	blank.ResetTo(seq)
	encode := blank.Freeze()
	g.aside(func(ctx context.Context) error {
		state, err := encode()
		if err != nil {
			return err
		}
		// The blank snapshot goes first: with it the events before are not needed.
		if err := g.deps.Store.SaveSnapshot(ctx, fence, journal.Snapshot{Seq: seq, State: state}); err != nil {
			return err
		}
		return g.deps.Store.Erase(ctx, fence)
	}, func(err error) {
		if err != nil {
			g.again("journal not erased yet", err, g.eraseJournal)
			return
		}
		g.kb.ResetTo(g.kb.Revision())
		g.snapshot = seq
		g.wakeSet = false
	})
}

// scope is this incarnation's bulk data.
func (g *kbGrain) scope() journal.Scope { return journal.Scope{Tenant: g.id.Tenant, UID: g.kb.UID()} }
