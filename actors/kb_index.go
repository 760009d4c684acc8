package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/search"
)

// kbIndex is the search side of a knowledge base while somebody uses it.
//
// It is a cache of the store's chunks: loaded from its own snapshot where that
// is current and from the rows where it is not, and then kept in step by the
// committed events.
type kbIndex struct {
	ready    bool
	idx      *search.Index // nil while the first load runs
	loaded   map[string]liveKey
	segments map[liveKey]*search.Segment // built by runs, not committed yet
	waiting  []func(error)               // searches that came while it loads
	docs     *sync.Map                   // id → *kb.Document: what searches may show, read beside the mailbox
	changes  int                         // applied since the last snapshot
	saving   bool
	gone     atomic.Bool // dropped: what a search on it finds may be deleted by now
	cancel   context.CancelFunc
}

// liveKey identifies what of a document is in the index.
type liveKey struct {
	attempt  string
	embedded bool
}

type indexLoadedMsg struct {
	of     *kbIndex
	idx    *search.Index
	loaded map[string]liveKey
	broken map[string]liveKey // documents whose rows are not what the journal said
	fresh  int                // documents that the snapshot lacked or had too many
	err    error
}

// ensureIndex runs f when the index is ready, loading it if need be.
func (g *kbGrain) ensureIndex(f func(error)) {
	w := g.busy()
	if w.index == nil {
		ctx, cancel := context.WithCancel(context.Background())
		w.index = &kbIndex{segments: make(map[liveKey]*search.Segment), docs: &sync.Map{}, cancel: cancel}
		g.loadIndex(ctx, true)
	}
	switch {
	case f == nil:
	case w.index.ready:
		f(nil)
	default:
		w.index.waiting = append(w.index.waiting, f)
	}
}

// wanted is what searches should see now: the documents as committed, also
// where a change of one is on its way to the journal.
func (g *kbGrain) wanted() []*kb.Document {
	changing := make(map[string]*kb.Document)
	for _, wr := range slices.Concat(g.inflight, g.queue) {
		for _, e := range wr.effects {
			if id := kb.Subject(e.event); id != "" {
				if _, seen := changing[id]; !seen {
					changing[id] = e.before
				}
			}
		}
	}
	var out []*kb.Document
	for d := range g.kb.All {
		if was, ok := changing[d.ID]; ok {
			d = was
		}
		if visible(d) {
			out = append(out, d)
		}
	}
	return out
}

func visible(d *kb.Document) bool {
	return d != nil && d.Live != nil && d.Live.Chunks > 0 && d.State != kb.StateDeleting
}

func keyOf(d *kb.Document) liveKey { return liveKey{d.Live.Attempt, d.Live.Embedded} }

// loadIndex brings the index to what is wanted now, on a goroutine of its own.
func (g *kbGrain) loadIndex(ctx context.Context, first bool) {
	ix := g.work.index
	l := &indexLoader{deps: g.deps, id: g.id, scope: g.scope(), fence: g.fence,
		idx: ix.idx, loaded: ix.loaded, wanted: g.wanted(), revision: uint64(g.committed), first: first && len(g.kb.UID()) > 0}
	go func() {
		err := l.run(ctx)
		g.tell(&indexLoadedMsg{of: ix, idx: l.idx, loaded: l.loaded, broken: l.broken, fresh: l.fresh, err: err})
	}()
}

// indexLoaded checks what was loaded against what is wanted by now.
func (g *kbGrain) indexLoaded(ctx actor.Context, m *indexLoadedMsg) {
	if g.work == nil || g.work.index != m.of {
		if m.idx != nil {
			go m.idx.Close()
		}
		return
	}
	if errors.Is(m.err, journal.ErrFenced) {
		g.lose(ctx)
		return
	}
	ix := m.of
	ix.idx, ix.loaded = m.idx, m.loaded
	for id, key := range m.broken {
		// One that has moved on meanwhile lost its old rows rightly.
		if d := g.kb.Document(id); m.err == nil && visible(d) && keyOf(d) == key {
			m.err = fmt.Errorf("%w: chunks of document %s, attempt %s", journal.ErrCorrupt, id, key.attempt)
		}
	}
	if m.err != nil {
		g.log().Error("index not loaded", "error", m.err)
		waiting := ix.waiting
		g.dropIndex()
		for _, f := range waiting {
			f(kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the index cannot be loaded; try again").After(kbIndexRetry))
		}
		return
	}
	wanted := g.wanted()
	b := search.Batch{Revision: uint64(g.committed)}
	missing := ix.catchUp(&b, wanted)
	if err := ix.idx.Apply(b); err != nil {
		g.log().Error("index not usable", "error", err)
	}
	// What was read from the rows counts: else it is read anew at each activation.
	ix.changes += m.fresh + len(b.Add) + len(b.Remove)
	if missing {
		g.reloadIndex(ix)
		return
	}
	for _, d := range wanted {
		ix.docs.Store(d.ID, d)
	}
	ix.ready = true
	waiting := ix.waiting
	ix.waiting = nil
	for _, f := range waiting {
		f(nil)
	}
}

// catchUp adds to b what happened while the index was loading; true when rows
// must be read for it. Runs leave their segments, so that under steady ingestion
// the index still gets ready.
func (ix *kbIndex) catchUp(b *search.Batch, wanted []*kb.Document) (missing bool) {
	want := make(map[string]bool, len(wanted))
	for _, d := range wanted {
		want[d.ID] = true
		missing = ix.take(b, d) || missing
	}
	for id := range ix.loaded {
		if !want[id] {
			b.Remove = append(b.Remove, id)
			delete(ix.loaded, id)
		}
	}
	return missing
}

// applyIndex shows searches what was just committed, all of it at once.
func (g *kbGrain) applyIndex(done []*write) {
	if g.work == nil || g.work.index == nil {
		return
	}
	ix := g.work.index
	changed := ix.changed(done)
	if !ix.ready {
		return
	}
	b := search.Batch{Revision: uint64(g.committed)}
	missing := false
	for id, d := range changed {
		missing = ix.change(&b, id, d) || missing
	}
	if err := ix.idx.Apply(b); err != nil {
		g.log().Error("index not changed", "error", err)
	}
	for id, d := range changed {
		if visible(d) {
			ix.docs.Store(id, d)
		}
	}
	ix.changes += len(b.Add) + len(b.Remove)
	if missing {
		// A segment is not at hand (it was built before the index was): read the rows.
		ix.ready = false
		g.reloadIndex(ix)
	}
}

// reloadIndex reads the rows that are missing.
func (g *kbGrain) reloadIndex(ix *kbIndex) {
	ctx, cancel := context.WithCancel(context.Background())
	ix.cancel = cancel
	g.loadIndex(ctx, false)
}

// changed collects the documents that commits changed, in their last state. A
// search under way on an older view stops showing at once what is no more.
func (ix *kbIndex) changed(done []*write) map[string]*kb.Document {
	changed := make(map[string]*kb.Document)
	for _, wr := range done {
		for _, e := range wr.effects {
			id := kb.Subject(e.event)
			if id == "" {
				continue
			}
			changed[id] = e.after
			if !visible(e.after) {
				ix.docs.Delete(id)
			}
			if e.before != nil && (e.after == nil || e.after.Attempt != e.before.Attempt) {
				delete(ix.segments, liveKey{e.before.Attempt, false})
				delete(ix.segments, liveKey{e.before.Attempt, true})
			}
		}
	}
	return changed
}

// change adds to b what a document's new state asks for; true when its rows must be read.
func (ix *kbIndex) change(b *search.Batch, id string, d *kb.Document) (missing bool) {
	if !visible(d) {
		if _, there := ix.loaded[id]; there {
			b.Remove = append(b.Remove, id)
			delete(ix.loaded, id)
		}
		ix.docs.Delete(id)
		return false
	}
	return ix.take(b, d)
}

// take adds the segment of what is live of a document to b unless the index has
// it; true when there is none.
func (ix *kbIndex) take(b *search.Batch, d *kb.Document) (missing bool) {
	key := keyOf(d)
	s := ix.segments[key]
	delete(ix.segments, key)
	switch {
	case ix.loaded[d.ID] == key:
		return false
	case s == nil:
		return true
	}
	b.Add = append(b.Add, s)
	ix.loaded[d.ID] = key
	return false
}

func (ix *kbIndex) close() {
	ix.cancel()
	if ix.idx != nil {
		// Close waits for a merge under way; the mailbox does not.
		go ix.idx.Close()
	}
}

// dropIndex frees the index; the next search loads it again.
func (g *kbGrain) dropIndex() {
	if g.work == nil || g.work.index == nil {
		return
	}
	ix := g.work.index
	g.work.index = nil
	ix.gone.Store(true)
	ix.close()
	for _, f := range ix.waiting {
		f(&unapplied{kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the index is being reloaded; try again").After(kbIndexRetry)})
	}
}
