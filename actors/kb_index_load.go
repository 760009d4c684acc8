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
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/search"
)

// indexLoader reads an index from its snapshot and the rows.
type indexLoader struct {
	deps     *Deps
	id       journal.Identity
	scope    journal.Scope
	fence    journal.Fence
	idx      *search.Index
	loaded   map[string]liveKey
	broken   map[string]liveKey
	wanted   []*kb.Document
	revision uint64
	first    bool
	fresh    int // documents that the snapshot lacked or had too many
}

func (l *indexLoader) run(ctx context.Context) error {
	if l.idx == nil {
		if err := l.restore(ctx); err != nil {
			return err
		}
	}
	l.broken = make(map[string]liveKey)
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
		if errors.Is(err, journal.ErrCorrupt) {
			l.broken[d.ID] = keyOf(d)
			continue
		}
		if err != nil {
			return err
		}
		docs = append(docs, doc)
		l.loaded[d.ID] = keyOf(d)
		l.fresh++
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
			l.fresh++
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
func (l *indexLoader) restore(ctx context.Context) error {
	l.loaded = make(map[string]liveKey)
	l.idx = search.New(search.Options{})
	if !l.first {
		return nil
	}
	data, err := l.deps.Store.LoadIndex(ctx, l.id)
	if err == nil && len(data) == 0 {
		return nil // an erasure took it away
	}
	if err == nil {
		var idx *search.Index
		var loaded map[string]liveKey
		if idx, loaded, err = decodeIndex(l.scope.UID, data); err == nil && idx.View().Revision() > l.revision {
			idx.Close()
			if err = l.successor(ctx); errors.Is(err, journal.ErrFenced) {
				return err
			}
		}
		if err == nil {
			l.idx, l.loaded = idx, loaded
			return nil
		}
	}
	if !errors.Is(err, journal.ErrNotFound) {
		l.deps.Logger.Warn("index snapshot not used, reading the chunks", "grain", l.id.String(), "error", err)
	}
	return nil
}

// successor tells whether a snapshot that is ahead of this activation was written
// by the next one; else it is damaged.
func (l *indexLoader) successor(ctx context.Context) error {
	if !l.deps.lone {
		if err := l.deps.Store.Verify(ctx, l.fence); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: the index is ahead of the journal", journal.ErrCorrupt)
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
// One that takes longer than timeout is given up.
func (g *kbGrain) saveIndex(timeout time.Duration, done func()) {
	if g.work == nil || g.work.index == nil || !g.work.index.ready || g.work.index.changes == 0 || g.work.index.saving || !g.owned {
		done()
		return
	}
	w, ix := g.work, g.work.index
	ix.saving = true
	changes, view, loaded, uid := ix.changes, ix.idx.View(), maps.Clone(ix.loaded), g.kb.UID()
	fence := g.fence
	go func() {
		ctx, cancel := context.WithTimeout(w.ctx, timeout)
		defer cancel()
		data, err := encodeIndex(uid, view, loaded)
		if err == nil {
			err = g.deps.Store.SaveIndex(ctx, fence, data)
		}
		if err != nil {
			g.deps.Logger.Warn("index snapshot not saved", "grain", g.id.String(), "error", err)
		}
		if errors.Is(err, journal.ErrFenced) {
			g.tell(&lostMsg{fence})
		}
		g.tell(&erasedMsg{of: w, done: func() {
			ix.saving = false
			if err == nil {
				ix.changes -= changes
			}
			done()
		}})
	}()
}
