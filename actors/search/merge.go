package search

import (
	"bytes"
	"slices"
)

// mergeSegments makes one segment of the live documents of segs, in order. moved
// tells for each source where its documents went, -1 for the dead. The result is
// nil when nothing lives or when stop said so.
func mergeSegments(segs []segView, stop func() bool) (out *Segment, moved [][]int) {
	m := merger{segs: segs, chunkAt: make([][]int32, len(segs)), moved: make([][]int, len(segs))}
	m.documents()
	if len(m.out.docs) == 0 {
		return nil, m.moved
	}
	m.out.orderByID()
	for i := range segs {
		if stop() {
			return nil, m.moved
		}
		m.copyVectors(i)
	}
	if !m.words(stop) {
		return nil, m.moved
	}
	return &m.out, m.moved
}

type merger struct {
	segs    []segView
	chunkAt [][]int32 // per source: chunk → chunk in out, -1 when dead
	moved   [][]int   // per source: document → document in out, -1 when dead
	out     Segment
}

// documents lays out documents and chunks.
func (m *merger) documents() {
	s := &m.out
	s.docStart = append(s.docStart, 0)
	pages := slices.ContainsFunc(m.segs, func(v segView) bool { return v.seg.pages != nil })
	for i := range m.segs {
		v := &m.segs[i]
		m.chunkAt[i] = make([]int32, v.seg.Chunks())
		m.moved[i] = make([]int, len(v.seg.docs))
		for d := range v.seg.docs {
			from, to := v.seg.docStart[d], v.seg.docStart[d+1]
			if v.deadDocs.has(uint32(d)) {
				m.moved[i][d] = -1
				for c := from; c < to; c++ {
					m.chunkAt[i][c] = -1
				}
				continue
			}
			m.moved[i][d] = len(s.docs)
			s.docs = append(s.docs, v.seg.docs[d])
			for c := from; c < to; c++ {
				m.chunkAt[i][c] = int32(len(s.lengths))
				s.lengths = append(s.lengths, v.seg.lengths[c])
				s.total += uint64(v.seg.lengths[c])
				if pages {
					s.pages = append(s.pages, v.seg.page(c))
				}
			}
			s.docStart = append(s.docStart, uint32(len(s.lengths)))
		}
		for _, l := range v.seg.languages {
			if !slices.Contains(s.languages, l) {
				s.languages = append(s.languages, l)
			}
		}
	}
	slices.Sort(s.languages)
}

func (s *Segment) page(chunk uint32) uint32 {
	if s.pages == nil {
		return 0
	}
	return s.pages[chunk]
}

// copyVectors moves the quantised rows as they are.
func (m *merger) copyVectors(i int) {
	b := vectorBuilder{sets: m.out.vectors}
	for j := range m.segs[i].seg.vectors {
		from := &m.segs[i].seg.vectors[j]
		to := findVectors(b.sets, from.space, from.dims)
		if to == nil {
			b.sets = append(b.sets, vectorSet{space: from.space, dims: from.dims})
			to = &b.sets[len(b.sets)-1]
		}
		stride := from.stride()
		for k := 0; k < len(from.chunks); {
			end := k // rows [k, end) live and stand together
			for end < len(from.chunks) && m.chunkAt[i][from.chunks[end]] >= 0 {
				to.chunks = append(to.chunks, uint32(m.chunkAt[i][from.chunks[end]]))
				end++
			}
			to.scales = append(to.scales, from.scales[k:end]...)
			to.high = append(to.high, from.high[k*stride:end*stride]...)
			to.low = append(to.low, from.low[k*stride:end*stride]...)
			k = end + 1
		}
		if len(to.chunks) == 0 {
			b.sets = slices.DeleteFunc(b.sets, func(v vectorSet) bool { return len(v.chunks) == 0 })
		}
	}
	m.out.vectors = b.finish()
}

// cursor is a place in the sorted terms of one source.
type cursor struct {
	source, term int
	text         []byte
}

func (c *cursor) before(o *cursor) bool {
	order := bytes.Compare(c.text, o.text)
	return order < 0 || order == 0 && c.source < o.source
}

// words merges the dictionaries and postings; false when stop said so.
func (m *merger) words(stop func() bool) bool {
	h := make([]cursor, 0, len(m.segs))
	blob, postings := 0, 0
	for i := range m.segs {
		d := &m.segs[i].seg.terms
		blob, postings = max(blob, len(d.blob)), postings+len(d.postings)
		if d.len() > 0 {
			h = append(h, cursor{source: i, text: d.term(0)})
		}
	}
	for i := len(h)/2 - 1; i >= 0; i-- {
		sink(h, i)
	}
	out := termDict{blob: make([]byte, 0, blob), postings: make([]byte, 0, postings), offsets: []uint32{0}, starts: []uint32{0}}
	var group []cursor
	var hits []occurrence
	for n := 0; len(h) > 0; n++ {
		if n%4096 == 0 && stop() {
			return false
		}
		term := h[0].text
		group = group[:0]
		for len(h) > 0 && bytes.Equal(h[0].text, term) {
			group = append(group, h[0])
			h = m.advance(h)
		}
		hits = m.collect(group, hits[:0])
		if len(hits) == 0 {
			continue
		}
		w := beginPostings(out.postings, len(hits))
		for _, o := range hits {
			w.add(o.chunk, o.freq)
		}
		out.postings = w.out
		out.blob = append(out.blob, term...)
		out.offsets = append(out.offsets, uint32(len(out.blob)))
		out.starts = append(out.starts, uint32(len(out.postings)))
	}
	out.blob, out.postings = slices.Clip(out.blob), slices.Clip(out.postings)
	m.out.terms = out
	return true
}

// collect gathers the live postings of one term; they rise because sources are
// laid out in order.
func (m *merger) collect(group []cursor, hits []occurrence) []occurrence {
	for _, c := range group {
		at := m.chunkAt[c.source]
		r := readPostings(m.segs[c.source].seg.terms.list(c.term))
		for r.next() {
			if to := at[r.chunk]; to >= 0 {
				hits = append(hits, occurrence{chunk: uint32(to), freq: r.freq})
			}
		}
	}
	return hits
}

// advance moves the first cursor of the heap to its next term.
func (m *merger) advance(h []cursor) []cursor {
	c := &h[0]
	d := &m.segs[c.source].seg.terms
	if c.term++; c.term < d.len() {
		c.text = d.term(c.term)
	} else {
		h[0] = h[len(h)-1]
		h = h[:len(h)-1]
	}
	sink(h, 0)
	return h
}

// sink restores the heap below i.
func sink(h []cursor, i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h); child++ {
			if h[child].before(&h[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}
