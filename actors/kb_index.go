package actors

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
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
	segments map[string]*search.Segment // by attempt: built, not committed yet
	waiting  []func(error)              // searches that came while it loads
	docs     *sync.Map                  // id → *kb.Document: what searches may show, read beside the mailbox
	changes  int                        // applied since the last snapshot
	saving   bool
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
	err    error
}

// ensureIndex runs f when the index is ready, loading it if need be.
func (g *kbGrain) ensureIndex(f func(error)) {
	w := g.busy()
	if w.index == nil {
		ctx, cancel := context.WithCancel(context.Background())
		w.index = &kbIndex{segments: make(map[string]*search.Segment), docs: &sync.Map{}, cancel: cancel}
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

// wanted is what searches should see now.
func (g *kbGrain) wanted() []*kb.Document {
	var out []*kb.Document
	for d := range g.kb.All {
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
	l := &indexLoader{deps: g.deps, id: g.id, scope: g.scope(),
		idx: ix.idx, loaded: ix.loaded, wanted: g.wanted(), revision: uint64(g.committed), first: first && len(g.kb.UID()) > 0}
	go func() {
		err := l.run(ctx)
		g.tell(&indexLoadedMsg{of: ix, idx: l.idx, loaded: l.loaded, err: err})
	}()
}

// indexLoaded checks what was loaded against what is wanted by now.
func (g *kbGrain) indexLoaded(m *indexLoadedMsg) {
	if g.work == nil || g.work.index != m.of {
		if m.idx != nil {
			go m.idx.Close()
		}
		return
	}
	ix := m.of
	ix.idx, ix.loaded = m.idx, m.loaded
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
	current := len(wanted) == len(ix.loaded)
	for _, d := range wanted {
		current = current && ix.loaded[d.ID] == keyOf(d)
	}
	if !current {
		ctx, cancel := context.WithCancel(context.Background())
		ix.cancel = cancel
		g.loadIndex(ctx, false)
		return
	}
	for _, d := range wanted {
		ix.docs.Store(d.ID, d)
	}
	if err := ix.idx.Apply(search.Batch{Revision: uint64(g.committed)}); err != nil {
		g.log().Error("index not usable", "error", err)
	}
	ix.ready = true
	clear(ix.segments)
	waiting := ix.waiting
	ix.waiting = nil
	for _, f := range waiting {
		f(nil)
	}
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
	ix.changes += len(b.Add) + len(b.Remove)
	if missing {
		// A segment is not at hand (it was built before the index was): read the rows.
		ix.ready = false
		ctx, cancel := context.WithCancel(context.Background())
		ix.cancel = cancel
		g.loadIndex(ctx, false)
	}
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
			if e.before != nil && (e.after == nil || e.after.State == kb.StateFailed || e.after.State == kb.StateCancelled) {
				delete(ix.segments, e.before.Attempt)
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
	ix.docs.Store(id, d)
	key := keyOf(d)
	if ix.loaded[id] == key {
		return false
	}
	s := ix.segments[key.attempt]
	if s == nil {
		return true
	}
	delete(ix.segments, key.attempt)
	b.Add = append(b.Add, s)
	ix.loaded[id] = key
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
	ix.close()
	for _, f := range ix.waiting {
		f(kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the index is being reloaded; try again").After(kbIndexRetry))
	}
}

// indexLoader reads an index from its snapshot and the rows.
type indexLoader struct {
	deps     *Deps
	id       journal.Identity
	scope    journal.Scope
	idx      *search.Index
	loaded   map[string]liveKey
	wanted   []*kb.Document
	revision uint64
	first    bool
}

func (l *indexLoader) run(ctx context.Context) error {
	if l.idx == nil {
		l.restore(ctx)
	}
	want := make(map[string]bool, len(l.wanted))
	b := search.Batch{Revision: l.revision}
	var docs []search.SegmentDoc
	chunks := 0
	for _, d := range l.wanted {
		want[d.ID] = true
		if l.loaded[d.ID] == keyOf(d) {
			continue
		}
		doc, err := l.read(ctx, d)
		if err != nil {
			return err
		}
		docs = append(docs, doc)
		l.loaded[d.ID] = keyOf(d)
		if chunks += len(doc.Chunks); chunks >= loaderSegment {
			if err := flushDocs(&b, &docs); err != nil {
				return err
			}
			chunks = 0
		}
	}
	if err := flushDocs(&b, &docs); err != nil {
		return err
	}
	for id := range l.loaded {
		if !want[id] {
			b.Remove = append(b.Remove, id)
			delete(l.loaded, id)
		}
	}
	return l.idx.Apply(b)
}

// loaderSegment is how many chunks of rows become one segment.
const loaderSegment = 8192

func flushDocs(b *search.Batch, docs *[]search.SegmentDoc) error {
	if len(*docs) == 0 {
		return nil
	}
	s, err := search.BuildSegment(*docs)
	if err != nil {
		return err
	}
	b.Add = append(b.Add, s)
	*docs = nil
	return nil
}

// read makes a document of its rows.
func (l *indexLoader) read(ctx context.Context, d *kb.Document) (search.SegmentDoc, error) {
	rows, err := readChunks(ctx, l.deps.Chunks, l.scope, d.Live.Attempt)
	if err != nil {
		return search.SegmentDoc{}, err
	}
	if len(rows) != d.Live.Chunks {
		return search.SegmentDoc{}, fmt.Errorf("%w: attempt %s has %d chunks, the journal says %d",
			journal.ErrCorrupt, d.Live.Attempt, len(rows), d.Live.Chunks)
	}
	var embeddings []pipeline.Embedding
	if d.Live.Embedded {
		hashes := make([]string, len(rows))
		for i, r := range rows {
			hashes[i] = r.Hash
		}
		known, err := l.deps.Chunks.VectorsByHash(ctx, l.scope, d.Live.Model, hashes)
		if err != nil {
			return search.SegmentDoc{}, err
		}
		embeddings = make([]pipeline.Embedding, len(rows))
		for i, h := range hashes {
			embeddings[i] = pipeline.Embedding{Space: pipeline.Space(known[h].Space), Vectors: known[h].Data}
		}
	}
	return segmentDoc(d, d.Live.Version, d.Live.Attempt, d.Live.Content, pipelineChunks(rows), embeddings), nil
}

// restore takes the index snapshot if there is a good one, else starts empty.
func (l *indexLoader) restore(ctx context.Context) {
	l.loaded = make(map[string]liveKey)
	l.idx = search.New(search.Options{})
	if !l.first {
		return
	}
	data, err := l.deps.Store.LoadIndex(ctx, l.id)
	if err == nil {
		var idx *search.Index
		var loaded map[string]liveKey
		if idx, loaded, err = decodeIndex(l.scope.UID, data); err == nil {
			l.idx, l.loaded = idx, loaded
			return
		}
	}
	if !errors.Is(err, journal.ErrNotFound) {
		l.deps.Logger.Warn("index snapshot not used, reading the chunks", "grain", l.id.String(), "error", err)
	}
}

// indexHeader goes before the index in its snapshot.
type indexHeader struct {
	UID  string            `json:"uid"` // incarnation it was made for
	Docs map[string]string `json:"docs"`
	Bare []string          `json:"bare,omitempty"` // documents without vectors
}

func encodeIndex(uid string, v *search.View, loaded map[string]liveKey) ([]byte, error) {
	h := indexHeader{UID: uid, Docs: make(map[string]string, len(loaded))}
	for id, k := range loaded {
		h.Docs[id] = k.attempt
		if !k.embedded {
			h.Bare = append(h.Bare, id)
		}
	}
	head, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(head))))
	b.Write(head)
	if _, err := v.WriteTo(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func decodeIndex(uid string, data []byte) (*search.Index, map[string]liveKey, error) {
	if len(data) < 4 || int64(binary.LittleEndian.Uint32(data)) > int64(len(data)-4) {
		return nil, nil, journal.ErrCorrupt
	}
	n := 4 + int(binary.LittleEndian.Uint32(data))
	var h indexHeader
	if err := json.Unmarshal(data[4:n], &h); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", journal.ErrCorrupt, err)
	}
	if h.UID != uid {
		return nil, nil, journal.ErrNotFound // of a former incarnation
	}
	idx, err := search.Load(bytes.NewReader(data[n:]), search.Options{})
	if err != nil {
		return nil, nil, err
	}
	loaded := make(map[string]liveKey, len(h.Docs))
	for id, attempt := range h.Docs {
		if _, live, ok := idx.View().Live(id); !ok || live != attempt {
			idx.Close()
			return nil, nil, journal.ErrCorrupt
		}
		loaded[id] = liveKey{attempt, !slices.Contains(h.Bare, id)}
	}
	return idx, loaded, nil
}

// saveIndex stores the index if it changed; done runs on the mailbox.
func (g *kbGrain) saveIndex(done func()) {
	if g.work == nil || g.work.index == nil || !g.work.index.ready || g.work.index.changes == 0 || g.work.index.saving || !g.owned {
		done()
		return
	}
	ix := g.work.index
	ix.saving = true
	changes, view, loaded, uid := ix.changes, ix.idx.View(), maps.Clone(ix.loaded), g.kb.UID()
	fence := g.fence
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
		defer cancel()
		data, err := encodeIndex(uid, view, loaded)
		if err == nil {
			err = g.deps.Store.SaveIndex(ctx, fence, data)
		}
		if err != nil {
			g.deps.Logger.Warn("index snapshot not saved", "grain", g.id.String(), "error", err)
		}
		g.tell(&erasedMsg{done: func() {
			ix.saving = false
			if err == nil {
				ix.changes -= changes
			}
			done()
		}})
	}()
}
