package actors

import (
	"context"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// eraseAll finishes the deletion of the knowledge base: what there is is counted
// and that committed, then bulk data goes, then comes the event that says so, then
// the journal goes and the receipt is written. Each step is repeated by the next
// activation if this one ends between two.
func (g *kbGrain) eraseAll() {
	switch {
	case g.kb.Phase() == kb.PhaseDeleted:
		g.eraseJournal()
	case g.kb.Erasure() == nil || g.kb.Erasure().Counts == nil:
		g.countAll()
	default:
		g.removeAll()
	}
}

func (g *kbGrain) countAll() {
	scope, uid := g.scope(), g.kb.UID()
	e := &kb.Erasing{Counts: kb.ErasureCounts{KnowledgeBases: 1, Documents: int64(g.kb.Len()), CachedChunks: g.busy().dropped}}
	g.aside(func(ctx context.Context) error {
		if err := g.deps.runs.wait(ctx, ofScope(scope)); err != nil {
			return err
		}
		blobs, err := g.claimed(ctx)
		if err != nil {
			return err
		}
		chunks, vectors, err := g.deps.Chunks.CountAttempts(ctx, scope, nil)
		e.Counts.Chunks, e.Counts.Vectors, e.Counts.Blobs = int64(chunks), int64(vectors), int64(len(blobs))
		return err
	}, func(err error) {
		switch {
		case err != nil:
			g.again("knowledge base not counted yet", err, g.eraseAll)
		case g.kb.Phase() == kb.PhaseDeleting && g.kb.UID() == uid:
			g.record([]kb.Event{e}, func(err error) {
				if err == nil {
					g.eraseAll()
				}
			})
		}
	})
}

func (g *kbGrain) removeAll() {
	scope, uid, fence, word := g.scope(), g.kb.UID(), g.fence, g.storageWord()
	word.Held, word.Used = 0, 0
	g.aside(func(ctx context.Context) error {
		if err := g.deps.runs.wait(ctx, ofScope(scope)); err != nil {
			return err
		}
		if _, _, err := g.deps.Chunks.DeleteScope(ctx, scope); err != nil {
			return err
		}
		// All that the store has of it, whatever the documents refer to: former sources
		// that an export held, or that a crash left, are among them.
		blobs, err := g.claimed(ctx)
		if err == nil && !g.deps.lone {
			err = g.deps.Store.Verify(ctx, fence) // else there may be a successor's
		}
		if err != nil {
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
			g.recordWith([]kb.Event{g.deleted(uid)}, func(w *write) {
				w.wakeups = []journal.Wakeup{{Key: journal.WakeErasing, Due: g.deps.Now().Add(wakeAfter)}}
			}, func(err error) {
				if err == nil {
					g.eraseJournal()
				}
			})
		}
	})
}

// deleted is the event that ends the incarnation, with the name its receipt will have.
func (g *kbGrain) deleted(uid string) *kb.Deleted {
	if g.kb.Erasure() == nil {
		return &kb.Deleted{}
	}
	return &kb.Deleted{Receipt: kb.ReceiptPrefix + kb.ReceiptID(g.id.Tenant, uid, "", g.kb.Erasure().Seq)}
}

// eraseJournal removes what the journal told of the deleted incarnation, and then
// proves it. The name keeps its epochs and its sequence numbers.
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
	proofs, err := g.proofOfAll()
	if err != nil {
		g.log().Error("receipt not signed", "error", err)
	}
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
		if err := g.deps.Store.Append(ctx, fence, journal.Batch{Head: seq, AddReceipts: proofs}); err != nil {
			return err
		}
		if err := save(ctx, free, true); err != nil {
			return err
		}
		return g.deps.Store.Append(ctx, fence, journal.Batch{Head: seq, ClearWakeups: []string{journal.WakeErasing}})
	}, func(err error) {
		if err != nil {
			g.again("journal not erased yet", err, g.eraseJournal)
			return
		}
		if len(proofs) > 0 {
			g.deps.counts.erasedKnowledgeBases.Add(1)
		}
		g.kb.ResetTo(g.kb.Revision())
		g.snapshot = seq
		g.wakeSet, g.wakeDue = false, time.Time{}
	})
}

// proofOfAll is the receipt of the whole; none for what was deleted before there were any.
func (g *kbGrain) proofOfAll() ([]journal.Receipt, error) {
	if g.kb.Erasure() == nil || g.kb.UID() == "" {
		return nil, nil
	}
	p, err := g.proof(kbName(g.id.ID), "", g.kb.Erasure())
	if err != nil {
		return nil, err
	}
	return []journal.Receipt{p}, nil
}

// erasureOver takes the row away that an erasure left which is over.
func (g *kbGrain) erasureOver() {
	if !g.owned || !g.quiet() {
		return // it is due again
	}
	fence, head := g.fence, g.committed
	g.aside(func(ctx context.Context) error {
		return g.deps.Store.Append(ctx, fence, journal.Batch{Head: head, ClearWakeups: []string{journal.WakeErasing}})
	}, func(err error) {
		if err != nil {
			g.log().Warn("the wake-up of an erasure that is over stays", "error", err)
		}
	})
}
