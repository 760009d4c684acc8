package search

import (
	"slices"
	"sync"
)

// View is one state of an index. It never changes and may be used by any number
// of goroutines, also after newer views exist and after Close.
type View struct {
	segs      []segView
	chunks    int    // in all segments, dead ones included
	total     uint64 // sum of their lengths
	languages []string
	revision  uint64
	shared    *shared
}

// segView is a segment with what has died in it since it was built.
type segView struct {
	seg        *Segment
	deadDocs   bitmap // nil when none
	deadChunks bitmap
	dead       int    // number of dead chunks
	deadCount  int    // number of dead documents
	base       uint32 // chunk c of this segment is base+c in the view
}

// shared is what the views of one index have in common.
type shared struct {
	scores  sync.Pool // *accumulator
	scanner *Scanners
}

// Revision is the revision given with the batch that made this state.
func (v *View) Revision() uint64 { return v.revision }

// live finds the segment and the index of the live document with that id.
func (v *View) live(id string) (at int, doc uint32, ok bool) {
	for i := range v.segs {
		if doc, found := v.segs[i].seg.find(id); found && !v.segs[i].deadDocs.has(doc) {
			return i, doc, true
		}
	}
	return 0, 0, false
}

// Live returns the version and attempt of a document that searches see, and
// false when there is none.
func (v *View) Live(id string) (version int64, attempt string, ok bool) {
	at, doc, ok := v.live(id)
	if !ok {
		return 0, "", false
	}
	d := &v.segs[at].seg.docs[doc]
	return d.version, d.attempt, true
}

// Extract returns a segment of one live document by itself, so that vectors can
// be attached to it by somebody who no longer has the segment it came in. It
// reads the whole segment the document is in: call it outside the mailbox.
func (v *View) Extract(id string) (*Segment, bool) {
	at, doc, ok := v.live(id)
	if !ok {
		return nil, false
	}
	source := v.segs[at]
	source.deadDocs = newBitmap(len(source.seg.docs))
	source.deadDocs.setRange(0, uint32(len(source.seg.docs)))
	source.deadDocs[doc>>6] &^= 1 << (doc & 63)
	source.deadChunks = newBitmap(source.seg.Chunks())
	source.deadChunks.setRange(0, source.seg.docStart[doc])
	source.deadChunks.setRange(source.seg.docStart[doc+1], uint32(source.seg.Chunks()))
	merged, _ := mergeSegments([]segView{source}, func() bool { return false })
	return merged, merged != nil
}

// Stats says how large a view is.
type Stats struct {
	Documents  int   // live
	Chunks     int   // live
	Vectors    int   // of live and dead chunks
	Segments   int   //
	DeadChunks int   // still in memory, never found
	Bytes      int64 // memory held, in bytes
}

// Stats counts. It reads no posting and no vector.
func (v *View) Stats() Stats {
	var s Stats
	for i := range v.segs {
		sv := &v.segs[i]
		s.Documents += len(sv.seg.docs) - sv.deadCount
		s.Chunks += sv.seg.Chunks() - sv.dead
		s.DeadChunks += sv.dead
		s.Vectors += sv.seg.Vectors()
		s.Bytes += sv.seg.bytes() + int64(len(sv.deadDocs)+len(sv.deadChunks))*8
	}
	s.Segments = len(v.segs)
	return s
}

// Pending returns how many live chunks have no vector in any space: 0 when the
// index answers by meaning everywhere.
func (v *View) Pending() int {
	n := 0
	for i := range v.segs {
		sv := &v.segs[i]
		has := newBitmap(sv.seg.Chunks())
		for j := range sv.seg.vectors {
			for _, c := range sv.seg.vectors[j].chunks {
				has.set(c)
			}
		}
		for j, w := range sv.deadChunks {
			has[j] |= w
		}
		n += sv.seg.Chunks() - has.count()
	}
	return n
}

// arrange gives each segment its place in the view and sums what searches need.
func (v *View) arrange() {
	v.chunks, v.total, v.languages = 0, 0, nil
	for i := range v.segs {
		sv := &v.segs[i]
		sv.base = uint32(v.chunks)
		v.chunks += sv.seg.Chunks()
		v.total += sv.seg.total
		for _, l := range sv.seg.languages {
			if !slices.Contains(v.languages, l) {
				v.languages = append(v.languages, l)
			}
		}
	}
	slices.Sort(v.languages)
}

// segmentOf returns the segment that holds a chunk of the view.
func (v *View) segmentOf(chunk uint32) *segView { return &v.segs[v.segmentAt(chunk)] }

func (v *View) segmentAt(chunk uint32) int {
	lo, hi := 0, len(v.segs)-1
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if v.segs[mid].base <= chunk {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	// Segments without chunks share their base with the next one; the last of
	// them is the one that holds the chunk.
	return lo
}
