package search

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"unsafe"
)

// A snapshot is, little-endian:
//
//	magic (8) · version (uint32) · length of the payload (uint64) · payload · CRC-32C of all before (uint32)
//
// The payload is the revision and then each segment with its dead. It is a plain
// stream of bytes: whoever stores it encrypts it.
const (
	snapshotMagic   = "GRNINDEX"
	snapshotVersion = 1
	snapshotHeader  = len(snapshotMagic) + 4 + 8
)

// castagnoli is computed by the processor on the machines we run on.
func newChecksum() *crcWriter { return &crcWriter{table: crc32.MakeTable(crc32.Castagnoli)} }

type crcWriter struct {
	table *crc32.Table
	sum   uint32
}

func (c *crcWriter) Write(p []byte) (int, error) {
	c.sum = crc32.Update(c.sum, c.table, p)
	return len(p), nil
}

// WriteTo writes a snapshot of v and returns the number of bytes written. Errors
// are those of w.
func (v *View) WriteTo(w io.Writer) (int64, error) {
	size := &encoder{dry: true}
	size.view(v)
	sum := newChecksum()
	buffered := bufio.NewWriterSize(w, 64<<10)
	e := &encoder{w: io.MultiWriter(buffered, sum)}
	e.raw([]byte(snapshotMagic))
	e.u32(snapshotVersion)
	e.u64(uint64(size.n))
	e.view(v)
	e.u32(sum.sum)
	if e.err == nil {
		e.err = buffered.Flush()
	}
	return e.n, e.err
}

// encoder writes values and remembers the first error; dry, it only counts.
type encoder struct {
	w       io.Writer
	n       int64
	err     error
	dry     bool
	scratch [4096]byte
}

func (e *encoder) raw(p []byte) {
	e.n += int64(len(p))
	if e.dry || e.err != nil || len(p) == 0 {
		return
	}
	_, e.err = e.w.Write(p)
}

func (e *encoder) u8(x uint8) { e.raw([]byte{x}) }

func (e *encoder) u32(x uint32) { e.raw(binary.LittleEndian.AppendUint32(e.scratch[:0], x)) }

func (e *encoder) u64(x uint64) { e.raw(binary.LittleEndian.AppendUint64(e.scratch[:0], x)) }

func (e *encoder) text(s string) {
	e.u32(uint32(len(s)))
	e.raw([]byte(s))
}

func (e *encoder) blob(p []byte) {
	e.u32(uint32(len(p)))
	e.raw(p)
}

func (e *encoder) words(x []uint32) {
	for len(x) > 0 {
		n := min(len(x), len(e.scratch)/4)
		for i, w := range x[:n] {
			binary.LittleEndian.PutUint32(e.scratch[4*i:], w)
		}
		e.raw(e.scratch[:4*n])
		x = x[n:]
	}
}

func (e *encoder) view(v *View) {
	e.u64(v.revision)
	e.u32(uint32(len(v.segs)))
	for i := range v.segs {
		e.segment(&v.segs[i])
	}
}

func (e *encoder) segment(v *segView) {
	s := v.seg
	e.u32(uint32(len(s.docs)))
	e.u32(uint32(len(s.lengths)))
	for i := range s.docs {
		e.doc(&s.docs[i])
		if v.deadDocs.has(uint32(i)) {
			e.u8(1)
		} else {
			e.u8(0)
		}
	}
	e.words(s.docStart[1:])
	if s.pages == nil {
		e.u8(0)
	} else {
		e.u8(1)
		e.words(s.pages)
	}
	for _, n := range s.lengths {
		e.raw(binary.LittleEndian.AppendUint16(e.scratch[:0], n))
	}
	e.u32(uint32(len(s.languages)))
	for _, l := range s.languages {
		e.text(l)
	}
	e.u32(uint32(s.terms.len()))
	if n := s.terms.len(); n > 0 {
		e.words(s.terms.offsets[1:])
		e.words(s.terms.starts[1:])
	}
	e.blob(s.terms.blob)
	e.blob(s.terms.postings)
	e.u32(uint32(len(s.vectors)))
	for i := range s.vectors {
		e.vectors(&s.vectors[i])
	}
}

func (e *encoder) doc(d *docMeta) {
	e.text(d.id)
	e.u64(uint64(d.version))
	e.text(d.attempt)
	e.text(d.name)
	e.text(d.title)
	e.text(d.mediaType)
	e.text(d.language)
	e.u64(uint64(d.created))
	e.u32(uint32(len(d.metadata)))
	for _, p := range d.metadata {
		e.text(p.key)
		e.text(p.value)
	}
}

func (e *encoder) vectors(v *vectorSet) {
	e.u8(uint8(v.space))
	e.u32(uint32(v.dims))
	e.u32(uint32(len(v.chunks)))
	e.words(v.chunks)
	for _, f := range v.scales {
		e.u32(math.Float32bits(f))
	}
	e.raw(asBytes(v.high))
	e.raw(asBytes(v.low))
}

// asBytes views int8 as the bytes they are.
func asBytes(x []int8) []byte {
	if len(x) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&x[0])), len(x))
}

// asInt8 views bytes as int8.
func asInt8(x []byte) []int8 {
	if len(x) == 0 {
		return nil
	}
	return unsafe.Slice((*int8)(unsafe.Pointer(&x[0])), len(x))
}
