package search

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrClosed is returned by a method that changes an index after Close.
var ErrClosed = errors.New("search: the index is closed")

// Options of an [Index].
type Options struct {
	// Scanners is the node's allowance for spreading one large scan over several
	// cores, shared by its indexes. Nil: every search runs on its own goroutine.
	Scanners *Scanners
}

// Index is the search index of one knowledge base. All methods may be called
// from any goroutine; writers take turns, readers never wait.
type Index struct {
	mu      sync.Mutex // held by writers, for microseconds
	view    atomic.Pointer[View]
	merging chan struct{} // closed when the merge under way ends; nil when there is none
	closed  bool
	ctx     context.Context // ends merges
	stop    context.CancelFunc
	merges  sync.WaitGroup
}

// New returns an empty index at revision 0. It starts no goroutine.
func New(opt Options) *Index {
	return newIndex(&View{shared: &shared{scanner: opt.Scanners}})
}

func newIndex(v *View) *Index {
	v.arrange()
	x := &Index{}
	x.ctx, x.stop = context.WithCancel(context.Background())
	x.view.Store(v)
	return x
}

// View returns the current state.
func (x *Index) View() *View { return x.view.Load() }

// Batch is a change that searches see at once or not at all.
type Batch struct {
	Revision uint64     // of the knowledge base after the change
	Add      []*Segment // each document replaces the live one with its id
	// Attach replaces a document only while its live version and attempt are the
	// same, and is dropped otherwise: vectors that come after the document was
	// replaced or removed do not bring it back.
	Attach []*Segment
	Remove []string // document ids, removed before anything is added; unknown ones are ignored
}

// Apply makes the next view. Within a batch, later segments win. It returns
// [ErrClosed] after Close and no other error.
func (x *Index) Apply(b Batch) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return ErrClosed
	}
	e := edit{view: x.view.Load()}
	e.begin()
	for _, id := range b.Remove {
		e.kill(id)
	}
	for _, s := range b.Add {
		for i := range s.docs {
			e.kill(s.docs[i].id)
		}
		e.add(segView{seg: s})
	}
	for _, s := range b.Attach {
		e.attach(s)
	}
	x.publish(e.segs, b.Revision)
	return nil
}

// publish stores the next view and starts merging when there is something to
// merge. The caller holds mu.
func (x *Index) publish(segs []segView, revision uint64) {
	old := x.view.Load()
	segs = slices.DeleteFunc(segs, func(s segView) bool { return s.deadCount == len(s.seg.docs) })
	next := &View{segs: segs, revision: revision, shared: old.shared}
	next.arrange()
	x.view.Store(next)
	if x.merging == nil && !x.closed && len(pickMerge(segs)) > 0 {
		x.merging = make(chan struct{})
		x.merges.Go(x.mergeLoop)
	}
}

// merged says that the merge under way has ended. The caller holds mu.
func (x *Index) merged() {
	close(x.merging)
	x.merging = nil
}

// Close stops merging and waits for it. Views stay usable. It is idempotent.
func (x *Index) Close() {
	x.mu.Lock()
	x.closed = true
	x.stop()
	x.mu.Unlock()
	x.merges.Wait()
}

// edit is a change of the list of segments under way. Segments and bitmaps of
// the old view are never written to.
type edit struct {
	view  *View
	segs  []segView
	owned []bool // the bitmaps of segs[i] are ours to write
}

func (e *edit) begin() {
	e.segs = make([]segView, len(e.view.segs), len(e.view.segs)+1)
	copy(e.segs, e.view.segs)
	e.owned = make([]bool, len(e.segs), len(e.segs)+1)
}

func (e *edit) add(s segView) {
	e.segs = append(e.segs, s)
	e.owned = append(e.owned, false)
}

// kill takes the live document with that id out.
func (e *edit) kill(id string) {
	for i := range e.segs {
		if doc, ok := e.segs[i].seg.find(id); ok && !e.segs[i].deadDocs.has(doc) {
			e.killAt(i, doc)
		}
	}
}

func (e *edit) killAt(i int, doc uint32) {
	s := &e.segs[i]
	if !e.owned[i] {
		s.deadDocs = cloneBitmap(s.deadDocs, len(s.seg.docs))
		s.deadChunks = cloneBitmap(s.deadChunks, s.seg.Chunks())
		e.owned[i] = true
	}
	from, to := s.seg.docStart[doc], s.seg.docStart[doc+1]
	s.deadDocs.set(doc)
	s.deadChunks.setRange(from, to)
	s.dead += int(to - from)
	s.deadCount++
}

// attach adds the documents of s whose live version and attempt are the same.
func (e *edit) attach(s *Segment) {
	e.add(segView{seg: s})
	last := len(e.segs) - 1
	for doc := range s.docs {
		at, old, ok := e.same(&s.docs[doc], last)
		if !ok {
			e.killAt(last, uint32(doc))
			continue
		}
		e.killAt(at, old)
	}
}

// same finds the live document of which d is another build.
func (e *edit) same(d *docMeta, before int) (at int, doc uint32, ok bool) {
	for i := range e.segs[:before] {
		s := &e.segs[i]
		if doc, found := s.seg.find(d.id); found && !s.deadDocs.has(doc) {
			old := &s.seg.docs[doc]
			return i, doc, old.version == d.version && old.attempt == d.attempt
		}
	}
	return 0, 0, false
}

func cloneBitmap(b bitmap, n int) bitmap {
	out := newBitmap(n)
	copy(out, b)
	return out
}
