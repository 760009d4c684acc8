package actors

import (
	"context"
	"fmt"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// doomed is a document that is being deleted.
type doomed struct {
	id     string
	cached int64 // its chunks in this activation's index
}

// eraseAtOnce is how many documents one step erases: a knowledge base whose
// documents expire in thousands leaves room for others.
const eraseAtOnce = 64

// savingRetry is the time between two looks at an index that is being saved.
const savingRetry = 100 * time.Millisecond

// askedBy notes in the events of a deletion who asked for it.
func askedBy(events []kb.Event, principal string) {
	for _, e := range events {
		switch e := e.(type) {
		case *kb.DeleteRequested:
			e.By = principal
		case *kb.DocumentDeleteRequested:
			e.By = principal
		}
	}
}

// cached counts the chunks of a document that this activation's index has.
func (g *kbGrain) cached(d *kb.Document) int64 {
	if g.work == nil || g.work.index == nil || !visible(d) {
		return 0
	}
	return int64(d.Live.Chunks)
}

// eraseDocument removes everything of a document that is being deleted, and
// then the document. The wake-up row makes sure it is not forgotten.
func (g *kbGrain) eraseDocument(id string, cached int64) {
	w := g.busy()
	w.doomed = append(w.doomed, doomed{id: id, cached: cached})
	g.eraseNext()
}

// eraseNext erases the documents that wait for it, some at a time and in three
// steps: what there is of them is counted and that committed, then it is removed,
// then the documents go, with their receipts in the same commit. Whichever
// activation does a step, the counts are those of the first.
func (g *kbGrain) eraseNext() {
	w := g.work
	if w.dooming || len(w.doomed) == 0 {
		return
	}
	n := min(len(w.doomed), eraseAtOnce)
	batch := w.doomed[:n:n]
	w.doomed, w.dooming = w.doomed[n:], true
	g.countBatch(batch)
}

// dying gives the documents of a batch that are still being deleted, each once.
func (g *kbGrain) dying(batch []doomed) []*kb.Document {
	var out []*kb.Document
	seen := make(map[string]bool, len(batch))
	for _, b := range batch {
		if d := g.kb.Document(b.id); d != nil && d.State == kb.StateDeleting && !seen[b.id] {
			seen[b.id] = true
			out = append(out, d)
		}
	}
	return out
}

func (g *kbGrain) countBatch(batch []doomed) {
	scope, docs := g.scope(), g.dying(batch)
	cached := make(map[string]int64, len(batch))
	for _, b := range batch {
		cached[b.id] = b.cached
	}
	var events []kb.Event
	g.aside(func(ctx context.Context) (err error) {
		events, err = g.countDocuments(ctx, scope, docs, cached)
		return err
	}, func(err error) {
		if err != nil {
			g.again("what is to be erased not counted yet", err, func() { g.countBatch(batch) })
			return
		}
		if len(events) == 0 {
			g.removeBatch(batch)
			return
		}
		g.record(events, func(err error) {
			if err == nil {
				g.removeBatch(batch)
			}
		})
	})
}

// countDocuments runs beside the mailbox. A vector that several of the documents
// share is counted with the last of them.
func (g *kbGrain) countDocuments(ctx context.Context, scope journal.Scope, docs []*kb.Document, cached map[string]int64) ([]kb.Event, error) {
	var events []kb.Event
	var attempts []string
	chunks, vectors := 0, 0
	for _, d := range docs {
		doom := d.Doom()
		if doom.Counts != nil {
			continue
		}
		if err := g.deps.runs.wait(ctx, ofAttempts(scope, doom.Garbage.Attempts)); err != nil {
			return nil, err
		}
		e := &kb.DocumentErasing{ID: d.ID, Counts: kb.ErasureCounts{Documents: 1, Blobs: int64(len(doom.Garbage.Blobs)), CachedChunks: cached[d.ID]}}
		if len(doom.Garbage.Attempts) > 0 {
			attempts = append(attempts, doom.Garbage.Attempts...)
			c, v, err := g.deps.Chunks.CountAttempts(ctx, scope, attempts)
			if err != nil {
				return nil, err
			}
			e.Counts.Chunks, e.Counts.Vectors = int64(c-chunks), int64(v-vectors)
			chunks, vectors = c, v
		}
		events = append(events, e)
	}
	return events, nil
}

func (g *kbGrain) removeBatch(batch []doomed) {
	scope, fence := g.scope(), g.fence
	var garbage kb.Garbage
	for _, d := range g.dying(batch) {
		doom := d.Doom()
		garbage.Attempts = append(garbage.Attempts, doom.Garbage.Attempts...)
		garbage.Blobs = append(garbage.Blobs, doom.Garbage.Blobs...)
	}
	if ix := g.work.index; ix != nil && ix.saving {
		g.soon(savingRetry, func() { g.removeBatch(batch) })
		return
	}
	// Their receipts say that nothing is left: nothing may be of former versions either,
	// nor of what earlier activations left.
	if w := g.work; !g.swept || w.litter > 0 {
		w.untidy = append(w.untidy, func() { g.removeBatch(batch) })
		g.sweepOnce()
		return
	}
	g.aside(func(ctx context.Context) error {
		if err := g.remove(ctx, scope, garbage); err != nil || len(garbage.Attempts) == 0 {
			return err
		}
		// The stored index has their words. It is a cache: the next save has the rest.
		return g.deps.Store.SaveIndex(ctx, fence, nil)
	}, func(err error) {
		if err != nil {
			g.again("documents not erased yet", err, func() { g.removeBatch(batch) })
			return
		}
		if ix := g.work.index; ix != nil {
			ix.changes++
		}
		g.endBatch(batch)
	})
}

// endBatch records the end of documents that are erased, with the proof of it.
func (g *kbGrain) endBatch(batch []doomed) {
	var events []kb.Event
	var proofs []journal.Receipt
	for _, d := range g.dying(batch) {
		e := &kb.DocumentDeleted{ID: d.ID}
		doom := d.Doom()
		if p, err := g.proof(docName(g.id.ID, d.ID), d.ID, &doom); err != nil {
			g.log().Error("receipt not signed", "document", d.ID, "error", err)
		} else {
			e.Receipt = kb.ReceiptPrefix + p.Name
			proofs = append(proofs, p)
		}
		events = append(events, e)
	}
	if len(events) > 0 {
		g.recordWith(events, func(w *write) { w.proofs = proofs }, func(err error) {
			if err == nil {
				g.deps.counts.erasedDocuments.Add(int64(len(events)))
			}
		})
	}
	if g.work != nil {
		g.work.dooming = false
		g.eraseNext()
	}
}

// proof is the receipt of an erasure that is over.
func (g *kbGrain) proof(target, document string, e *kb.Erasure) (journal.Receipt, error) {
	r := kb.Receipt{Target: target, UID: g.kb.UID(), Tenant: g.id.Tenant, RequestedBy: e.By, RequestTime: e.At.UTC(),
		CompleteTime: g.deps.Now(), Reason: kb.ErasedByRequest, Node: g.deps.Node}
	if e.Expired {
		r.Reason, r.RequestedBy = kb.ErasedExpired, system.principal
	}
	if e.Counts != nil {
		r.Counts = *e.Counts
	}
	if document == "" {
		r.Counts.Events = g.kb.EventCount()
	}
	id := kb.ReceiptID(r.Tenant, r.UID, document, e.Seq)
	r.Name = kb.ReceiptPrefix + id
	body, err := kb.SealReceipt(g.deps.ReceiptKey, r)
	if err != nil {
		return journal.Receipt{}, fmt.Errorf("receipt of %s: %w", target, err)
	}
	return journal.Receipt{Name: id, KnowledgeBase: g.id.ID, Time: r.CompleteTime, Body: body}, nil
}
