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
	g.log().Warn(what, "error", err)
	w := g.work
	w.erasing++
	time.AfterFunc(eraseRetry, func() {
		g.tell(&erasedMsg{of: w, done: func() {
			w.erasing--
			step()
		}})
	})
}

// doomed is a document that is being deleted, with everything there is of it.
type doomed struct {
	id      string
	garbage kb.Garbage
}

// eraseAtOnce is how many documents one step erases: a knowledge base whose
// documents expire in thousands leaves room for others.
const eraseAtOnce = 64

// eraseDocument removes everything of a document that is being deleted, and
// then the document. The wake-up row makes sure it is not forgotten.
func (g *kbGrain) eraseDocument(id string, garbage kb.Garbage) {
	w := g.busy()
	w.doomed = append(w.doomed, doomed{id, garbage})
	g.eraseNext()
}

// eraseNext erases the documents that wait for it, some at a time.
func (g *kbGrain) eraseNext() {
	w := g.work
	if w.dooming || len(w.doomed) == 0 {
		return
	}
	n := min(len(w.doomed), eraseAtOnce)
	batch := w.doomed[:n:n]
	w.doomed, w.dooming = w.doomed[n:], true
	g.eraseBatch(batch)
}

func (g *kbGrain) eraseBatch(batch []doomed) {
	scope := g.scope()
	var garbage kb.Garbage
	for _, d := range batch {
		garbage.Attempts = append(garbage.Attempts, d.garbage.Attempts...)
		garbage.Blobs = append(garbage.Blobs, d.garbage.Blobs...)
	}
	g.aside(func(ctx context.Context) error { return g.remove(ctx, scope, garbage) }, func(err error) {
		if err != nil {
			g.again("documents not erased yet", err, func() { g.eraseBatch(batch) })
			return
		}
		var events []kb.Event
		for _, d := range batch {
			if now := g.kb.Document(d.id); now != nil && now.State == kb.StateDeleting {
				events = append(events, &kb.DocumentDeleted{ID: d.id})
			}
		}
		g.record(events, nil)
		g.work.dooming = false
		g.eraseNext()
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
			g.eraseDocument(d.ID, kb.GarbageBetween(d, nil))
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
	uid, word := g.kb.UID(), g.storageWord()
	word.Held, word.Used = 0, 0
	g.aside(func(ctx context.Context) error {
		if err := g.deps.runs.wait(ctx, ofScope(scope)); err != nil {
			return err
		}
		if _, _, err := g.deps.Chunks.DeleteScope(ctx, scope); err != nil {
			return err
		}
		if err := g.remove(ctx, scope, kb.Garbage{Blobs: blobs}); err != nil {
			return err
		}
		// The name becomes free only when the list is free of it, and its bytes are too.
		if err := g.unlist(uid); err != nil {
			return err
		}
		return g.returnStorage(word)
	}, func(err error) {
		if err != nil {
			g.again("knowledge base not erased yet", err, g.eraseAll)
			return
		}
		g.storage.known = false
		if g.kb.Phase() == kb.PhaseDeleting && g.kb.UID() == uid {
			g.record([]kb.Event{&kb.Deleted{}}, func(err error) {
				if err == nil {
					g.eraseJournal()
				}
			})
		}
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
	fence, snap := g.fence, g.at()
	seq := snap.Seq
	blank := kb.New(g.id.ID)
	blank.ResetTo(seq)
	deleted, free := g.kb.Freeze(), blank.Freeze()
	save := func(ctx context.Context, encode func() ([]byte, error), empty bool) error {
		state, err := encode()
		if err != nil {
			return err
		}
		return g.deps.Store.SaveSnapshot(ctx, fence, journal.Snapshot{Seq: seq, State: state, Hash: snap.Hash, Blank: empty})
	}
	g.aside(func(ctx context.Context) error {
		// With a snapshot at the head the events before are not needed. It says
		// "deleted" until they are gone, so that whoever takes over in between
		// erases them again instead of showing them to the next incarnation.
		if err := save(ctx, deleted, false); err != nil {
			return err
		}
		if err := g.deps.Store.Erase(ctx, fence); err != nil {
			return err
		}
		return save(ctx, free, true)
	}, func(err error) {
		if err != nil {
			g.again("journal not erased yet", err, g.eraseJournal)
			return
		}
		g.kb.ResetTo(g.kb.Revision())
		g.snapshot = seq
		g.wakeSet, g.wakeDue = false, time.Time{}
	})
}

// scope is this incarnation's bulk data.
func (g *kbGrain) scope() journal.Scope { return journal.Scope{Tenant: g.id.Tenant, UID: g.kb.UID()} }
