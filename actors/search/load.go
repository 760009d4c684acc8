package search

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"granary.dev/granary/actors/pipeline"
)

// Errors of [Load]. A snapshot that cannot be loaded costs a rebuild from the
// journal's chunks, never data.
var (
	// ErrCorrupt: the bytes are not a whole snapshot.
	ErrCorrupt = errors.New("search: corrupt snapshot")
	// ErrVersion: a snapshot written by another version of this package.
	ErrVersion = errors.New("search: snapshot of an unknown version")
)

// Load reads a snapshot written by [View.WriteTo] and returns an index at its
// revision. Errors wrap [ErrCorrupt], [ErrVersion] or the reader's error; memory
// grows only with the bytes that really came.
func Load(r io.Reader, opt Options) (*Index, error) {
	d := newDecoder(r)
	v := &View{shared: &shared{scanner: opt.Scanners}}
	if err := d.run(v); err != nil {
		return nil, err
	}
	return newIndex(v), nil
}

// decoder reads values and remembers the first error; after it, everything reads
// as zero and lengths as 0, so loops end.
type decoder struct {
	r    *bufio.Reader
	sum  *crcWriter
	left uint64 // bytes of the payload not read yet
	err  error
}

func newDecoder(r io.Reader) *decoder {
	return &decoder{r: bufio.NewReaderSize(r, 64<<10), sum: newChecksum(), left: uint64(snapshotHeader)}
}

func (d *decoder) run(v *View) error {
	magic := string(d.take(len(snapshotMagic)))
	version := d.u32()
	d.left = d.u64()
	switch {
	case d.err != nil:
		return d.err
	case magic != snapshotMagic:
		return fmt.Errorf("%w: not a snapshot", ErrCorrupt)
	case version != snapshotVersion:
		return fmt.Errorf("%w: %d", ErrVersion, version)
	}
	v.revision = d.u64()
	chunks := 0
	for range d.u32() {
		s := d.segment()
		if d.err != nil {
			return d.err
		}
		if chunks += s.seg.Chunks(); chunks > math.MaxInt32 {
			return fmt.Errorf("%w: too many chunks", ErrCorrupt)
		}
		v.segs = append(v.segs, s)
	}
	if d.err == nil && d.left != 0 {
		d.fail("bytes left over")
	}
	sum := d.sum.sum
	d.left = 4
	if got := d.u32(); d.err == nil && got != sum {
		d.fail("wrong checksum")
	}
	if d.err == nil && !uniqueLive(v.segs) {
		d.fail("a document is live twice")
	}
	return d.err
}

// uniqueLive tells whether each id is live in one segment only.
func uniqueLive(segs []segView) bool {
	if len(segs) < 2 {
		return true // ids differ inside a segment
	}
	seen := make(map[string]bool)
	for i := range segs {
		for j := range segs[i].seg.docs {
			if id := segs[i].seg.docs[j].id; !segs[i].deadDocs.has(uint32(j)) {
				if seen[id] {
					return false
				}
				seen[id] = true
			}
		}
	}
	return true
}

func (d *decoder) fail(why string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrCorrupt, why)
	}
}

// take reads n bytes into new memory, which grows only as bytes come in.
func (d *decoder) take(n int) []byte {
	if d.err == nil && (n < 0 || uint64(n) > d.left) {
		d.fail("a length beyond the end")
	}
	if d.err != nil || n == 0 {
		return nil
	}
	const first = 8 << 20
	out := make([]byte, min(n, first))
	for at := 0; ; {
		if _, err := io.ReadFull(d.r, out[at:]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				d.fail("cut short")
			} else {
				d.err = fmt.Errorf("search: read snapshot: %w", err)
			}
			return nil
		}
		_, _ = d.sum.Write(out[at:]) // never fails
		if at = len(out); at == n {
			break
		}
		more := make([]byte, min(n, 4*len(out)))
		copy(more, out)
		out = more
	}
	d.left -= uint64(n)
	return out
}

// number reads n ≤ 8 bytes as a little-endian number.
func (d *decoder) number(n int) uint64 {
	var buf [8]byte
	if d.err == nil && uint64(n) > d.left {
		d.fail("cut short")
	}
	if d.err != nil {
		return 0
	}
	if _, err := io.ReadFull(d.r, buf[:n]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			d.fail("cut short")
		} else {
			d.err = fmt.Errorf("search: read snapshot: %w", err)
		}
		return 0
	}
	_, _ = d.sum.Write(buf[:n]) // never fails
	d.left -= uint64(n)
	return binary.LittleEndian.Uint64(buf[:])
}

func (d *decoder) u8() uint8 { return uint8(d.number(1)) }

func (d *decoder) u32() uint32 { return uint32(d.number(4)) }

func (d *decoder) u64() uint64 { return d.number(8) }

func (d *decoder) text() string { return string(d.blob()) }

func (d *decoder) blob() []byte { return d.take(int(d.u32())) }

// words reads n numbers after room.
func (d *decoder) words(n int, room ...uint32) []uint32 {
	raw := d.take(4 * n)
	if d.err != nil {
		return nil
	}
	out := make([]uint32, len(room)+n)
	copy(out, room)
	for i := range n {
		out[len(room)+i] = binary.LittleEndian.Uint32(raw[4*i:])
	}
	return out
}

// rising tells whether x begins with 0, never falls and ends with last.
func rising(x []uint32, last int) bool {
	return len(x) > 0 && x[0] == 0 && slices.IsSorted(x) && x[len(x)-1] == uint32(last)
}

func (d *decoder) segment() segView {
	docs, chunks := int(d.u32()), int(d.u32())
	if docs > MaxSegmentChunks || chunks > MaxSegmentChunks {
		d.fail("a segment is too large")
	}
	s := &Segment{}
	v := segView{seg: s}
	for i := 0; i < docs && d.err == nil; i++ {
		s.docs = append(s.docs, d.doc())
		if d.u8() != 0 {
			v.deadCount++
			for len(v.deadDocs) <= i>>6 {
				v.deadDocs = append(v.deadDocs, 0)
			}
			v.deadDocs.set(uint32(i))
		}
	}
	s.docs = slices.Clip(s.docs)
	s.docStart = d.words(docs, 0)
	if d.err == nil && (!rising(s.docStart, chunks) || !s.orderByID()) {
		d.fail("the documents of a segment do not fit together")
	}
	if d.u8() != 0 {
		s.pages = d.words(chunks)
	}
	raw := d.take(2 * chunks)
	s.lengths = make([]uint16, len(raw)/2)
	for i := range s.lengths {
		s.lengths[i] = binary.LittleEndian.Uint16(raw[2*i:])
		s.total += uint64(s.lengths[i])
	}
	for i := d.u32(); i > 0 && d.err == nil; i-- {
		s.languages = append(s.languages, d.text())
	}
	s.terms = d.terms(chunks)
	for i := d.u32(); i > 0 && d.err == nil; i-- {
		s.vectors = append(s.vectors, d.vectors(chunks))
	}
	d.checkVectors(s.vectors)
	d.bury(&v)
	return v
}

// bury makes the bitmaps of a segment's dead whole.
func (d *decoder) bury(v *segView) {
	if d.err != nil || v.deadCount == 0 {
		return
	}
	v.deadDocs = cloneBitmap(v.deadDocs, len(v.seg.docs))
	v.deadChunks = newBitmap(v.seg.Chunks())
	for i := range v.seg.docs {
		if v.deadDocs.has(uint32(i)) {
			from, to := v.seg.docStart[i], v.seg.docStart[i+1]
			v.deadChunks.setRange(from, to)
			v.dead += int(to - from)
		}
	}
}

func (d *decoder) doc() docMeta {
	m := docMeta{
		id: d.text(), version: int64(d.u64()), attempt: d.text(), name: d.text(), title: d.text(),
		mediaType: d.text(), language: d.text(), created: int64(d.u64()),
	}
	for i := d.u32(); i > 0 && d.err == nil; i-- {
		p := pair{d.text(), d.text()}
		if n := len(m.metadata); n > 0 && m.metadata[n-1].key >= p.key {
			d.fail("metadata out of order")
		}
		m.metadata = append(m.metadata, p)
	}
	if m.id == "" {
		d.fail("a document without an id")
	}
	return m
}

func (d *decoder) terms(chunks int) termDict {
	n := int(d.u32())
	t := termDict{offsets: d.words(n, 0), starts: d.words(n, 0), blob: d.blob(), postings: d.blob()}
	if d.err != nil {
		return termDict{}
	}
	if !rising(t.offsets, len(t.blob)) || !rising(t.starts, len(t.postings)) {
		d.fail("the terms of a segment do not fit together")
		return termDict{}
	}
	for i := range n {
		if i > 0 && string(t.term(i-1)) >= string(t.term(i)) || !validPostings(t.list(i), chunks) {
			d.fail("a term is out of order or its postings are broken")
			return termDict{}
		}
	}
	return t
}

func (d *decoder) vectors(chunks int) vectorSet {
	v := vectorSet{space: pipeline.Space(d.u8()), dims: int(d.u32())}
	n := int(d.u32())
	if v.dims < 1 || v.dims > MaxDims || n < 1 {
		d.fail("a vector set of a wrong size")
		return v
	}
	v.chunks = d.words(n)
	for _, bits := range d.words(n) {
		scale := math.Float32frombits(bits)
		if math.IsNaN(float64(scale)) || scale < 0 || scale > math.MaxFloat32 {
			d.fail("a scale that is not a number")
		}
		v.scales = append(v.scales, scale)
		v.widest = max(v.widest, scale)
	}
	v.scales = slices.Clip(v.scales)
	v.high, v.low = asInt8(d.take(n*v.stride())), asInt8(d.take(n*v.stride()))
	if d.err == nil && (!slices.IsSorted(v.chunks) || int(v.chunks[n-1]) >= chunks) {
		d.fail("vectors of chunks that are not there")
	}
	return v
}

// checkVectors holds the order that findVectors and merges rely on.
func (d *decoder) checkVectors(sets []vectorSet) {
	for i := 1; i < len(sets) && d.err == nil; i++ {
		a, b := &sets[i-1], &sets[i]
		if a.space > b.space || a.space == b.space && a.dims >= b.dims {
			d.fail("vector sets out of order")
		}
	}
}
