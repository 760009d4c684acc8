package actors

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	exportIdle     = 2 * time.Minute // an export nobody reads any more is over
	maxExports     = 16              // of one knowledge base at a time
	importPatience = 2 * time.Minute // an import nothing is heard of for so long has failed
)

// export is a knowledge base as it was at one revision, while it is being read.
// Sources that are replaced meanwhile are kept for it. Those of documents that are
// deleted are not: erasure does not wait.
type export struct {
	docs   []*kb.Document
	pinned map[string]string // blobs, and the documents they are of
	held   []string          // of them, those that are garbage by now
	timer  *time.Timer
}

// readExport gives a page of an export, which the first call begins.
func (g *kbGrain) readExport(r *nodev1.ReadExport) *nodev1.KnowledgeBaseReply {
	if err := g.kb.Exists(); err != nil {
		return errorReply(err)
	}
	id, w := r.GetExport(), g.busy()
	out := &nodev1.ExportPage{Revision: g.head}
	if id == "" {
		if len(w.exports) >= maxExports {
			return errorReply(busyError())
		}
		id = g.beginExport()
		out.KnowledgeBase = g.describe()
	}
	x := w.exports[id]
	if x == nil {
		return errorReply(kb.Errorf(kb.CodeAborted, kb.ReasonUnavailable, "the export was cut off; begin it anew"))
	}
	out.Export = id
	if r.GetEnd() {
		g.endExport(id)
		return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_ExportPage{ExportPage: out}}
	}
	x.timer.Reset(exportIdle)
	at, _ := slices.BinarySearchFunc(x.docs, r.GetAfter()+1, func(d *kb.Document, seq int64) int { return int(min(max(d.CreatedSeq-seq, -1), 1)) })
	end := min(at+pageSize(r.GetLimit(), 500), len(x.docs))
	for _, d := range x.docs[at:end] {
		out.Documents = append(out.Documents, g.exportDocument(d))
	}
	out.Last = end == len(x.docs)
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_ExportPage{ExportPage: out}}
}

func (g *kbGrain) beginExport() string {
	w, id, now := g.busy(), uuid.NewString(), g.deps.Now()
	x := &export{pinned: make(map[string]string)}
	for d := range g.kb.All {
		if d.State != kb.StateDeleting && !g.kb.Expired(d, now) {
			x.docs = append(x.docs, d)
			x.pinned[d.Source.Blob] = d.ID
		}
	}
	x.timer = time.AfterFunc(exportIdle, func() { g.tell(&erasedMsg{of: w, done: func() { g.endExport(id) }}) })
	if w.exports == nil {
		w.exports = make(map[string]*export)
	}
	w.exports[id] = x
	return id
}

// endExport lets go what was kept for an export.
func (g *kbGrain) endExport(id string) {
	x := g.work.exports[id]
	if x == nil {
		return
	}
	x.timer.Stop()
	delete(g.work.exports, id)
	g.collect(kb.Garbage{Blobs: x.held})
}

// hold keeps what an export still has to read out of the garbage.
func (g *kbGrain) hold(garbage kb.Garbage) kb.Garbage {
	if g.work == nil {
		return garbage
	}
	for _, x := range g.work.exports {
		garbage.Blobs = slices.DeleteFunc(slices.Clone(garbage.Blobs), func(b string) bool {
			_, pinned := x.pinned[b]
			if pinned {
				x.held = append(x.held, b)
			}
			return pinned
		})
	}
	return garbage
}

// letGo gives up what exports hold of a document that is being deleted: its former
// sources go with it.
func (g *kbGrain) letGo(id string) {
	for _, x := range g.work.exports {
		var gone []string
		x.held = slices.DeleteFunc(x.held, func(b string) bool {
			mine := x.pinned[b] == id
			if mine {
				gone = append(gone, b)
			}
			return mine
		})
		for b, doc := range x.pinned {
			if doc == id {
				delete(x.pinned, b)
			}
		}
		g.collect(kb.Garbage{Blobs: gone})
	}
}

func (g *kbGrain) exportDocument(d *kb.Document) *nodev1.ExportDocument {
	out := &nodev1.ExportDocument{CreatedRevision: d.CreatedSeq, Document: g.document(d),
		Spec: &granaryv1.DocumentSpec{DocumentId: d.ID, DisplayName: d.Name, MediaType: d.MediaType, Metadata: d.Metadata,
			OnDuplicate: granaryv1.OnDuplicate(d.OnDuplicate)},
		Source: &nodev1.SourceRef{Blob: d.Source.Blob, SizeBytes: d.Source.Size, Sha256: d.Source.SHA256, Url: d.Source.URL}}
	if d.Chunking != nil {
		out.Spec.Chunking = configProto(kb.Config{Chunking: *d.Chunking}).GetChunking()
	}
	return out
}

// decideImport creates a knowledge base that is erased again unless its import ends.
func (g *kbGrain) decideImport(r *nodev1.BeginImport) (decision, error) {
	d, err := g.decideCreate(r.GetCreate())
	for _, e := range d.events {
		if c, ok := e.(*kb.Created); ok {
			c.Importing = r.GetArchive()
		}
	}
	g.busy().imported = g.deps.Now()
	return d, err
}

// giveUpImport has a knowledge base erased whose import nobody carries on.
func (g *kbGrain) giveUpImport() {
	if !g.kb.Importing() || g.stopping {
		return
	}
	w, now := g.busy(), g.deps.Now()
	switch {
	case w.imported.IsZero():
		w.imported = now
	case now.Sub(w.imported) >= importPatience:
		g.log().Warn("the import was cut off, what it brought is erased")
		events, err := g.kb.Delete("")
		if err == nil {
			g.record(events, nil)
		}
	}
}
