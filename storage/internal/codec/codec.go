// Package codec is the stored form of states and vectors, the same in every
// store: packed where that pays, with a checksum that is verified when read.
// Damage is journal.ErrCorrupt.
package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/klauspost/compress/zstd"

	"granary.dev/granary/actors/journal"
)

// packMin is the size from which packing a state is tried, in bytes.
const packMin = 512

// Codec packs states and writes vectors; safe for concurrent use.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
	crc *crc32.Table
}

// New makes a codec; Close ends it.
func New() (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, fmt.Errorf("codec: zstd: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2))
	if err != nil {
		return nil, fmt.Errorf("codec: zstd: %w", err)
	}
	return &Codec{enc: enc, dec: dec, crc: crc32.MakeTable(crc32.Castagnoli)}, nil
}

// Close ends the codec.
func (c *Codec) Close() {
	_ = c.enc.Close() // was never given a stream
	c.dec.Close()
}

// Sum is the CRC-32C of b.
func (c *Codec) Sum(b []byte) uint32 { return crc32.Checksum(b, c.crc) }

// SealedMark begins whatever was encrypted above the store; no UTF-8 text begins
// with it, nor anything this package writes.
const SealedMark = 0xf5

// Sealed tells whether b was encrypted above the store.
func Sealed(b []byte) bool { return len(b) > 0 && b[0] == SealedMark }

// SumMore goes on with the sum of what came before b.
func (c *Codec) SumMore(sum uint32, b []byte) uint32 { return crc32.Update(sum, c.crc, b) }

// Pack compresses b if that saves at least a tenth. What is encrypted is left as it is.
func (c *Codec) Pack(b []byte) (stored []byte, packed bool) {
	if len(b) < packMin || Sealed(b) {
		return b, false
	}
	z := c.enc.EncodeAll(b, make([]byte, 0, len(b)/2))
	if len(z) > len(b)/10*9 {
		return b, false
	}
	return z, true
}

// Inflate reverses Pack of what was compressed and is known to be whole.
func (c *Codec) Inflate(packed []byte) ([]byte, error) {
	b, err := c.dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: unpack: %w", journal.ErrCorrupt, err)
	}
	return b, nil
}

// Unpack reverses Pack and verifies the checksum of the result.
func (c *Codec) Unpack(stored []byte, packed bool, sum uint32) ([]byte, error) {
	b := stored
	if packed {
		var err error
		if b, err = c.dec.DecodeAll(stored, nil); err != nil {
			return nil, fmt.Errorf("%w: unpack: %w", journal.ErrCorrupt, err)
		}
	}
	if c.Sum(b) != sum {
		return nil, fmt.Errorf("%w: checksum differs", journal.ErrCorrupt)
	}
	return b, nil
}

// Layout of stored vectors, little endian:
//
//	u8 format (1) · u8 zero · u16 windows · u32 dims · windows×dims f32 · u32 crc32c of all before
//
// f32 as they came: halves would save space where they are cheap and cost
// exactness where vectors are rescored.
const (
	vectorFormat = 1
	vectorHead   = 8
	vectorTail   = 4
)

// Vectors is the stored form of v: as it was encrypted, or packed here.
func (c *Codec) Vectors(v *journal.Vectors) ([]byte, error) {
	if v.Sealed == nil {
		return c.PackVectors(v.Data)
	}
	if !Sealed(v.Sealed) {
		return nil, fmt.Errorf("codec: vectors said to be sealed are not")
	}
	return v.Sealed, nil
}

// ReadVectors sets v to what is stored; b may change after it returns.
func (c *Codec) ReadVectors(v *journal.Vectors, b []byte) (err error) {
	if Sealed(b) {
		v.Sealed = bytes.Clone(b)
		return nil
	}
	v.Data, err = c.UnpackVectors(b)
	return err
}

// PackVectors encodes windows of equal dimension.
func (c *Codec) PackVectors(data [][]float32) ([]byte, error) {
	dims := 0
	if len(data) > 0 {
		dims = len(data[0])
	}
	if len(data) > math.MaxUint16 {
		return nil, fmt.Errorf("codec: %d windows in one chunk, at most %d", len(data), math.MaxUint16)
	}
	b := make([]byte, vectorHead, vectorHead+4*dims*len(data)+vectorTail)
	b[0] = vectorFormat
	binary.LittleEndian.PutUint16(b[2:], uint16(len(data)))
	binary.LittleEndian.PutUint32(b[4:], uint32(dims))
	for _, w := range data {
		if len(w) != dims {
			return nil, fmt.Errorf("codec: windows of %d and %d dimensions in one chunk", dims, len(w))
		}
		for _, x := range w {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
	}
	return binary.LittleEndian.AppendUint32(b, c.Sum(b)), nil
}

// UnpackVectors decodes and verifies; the windows share one array.
func (c *Codec) UnpackVectors(b []byte) ([][]float32, error) {
	if len(b) < vectorHead+vectorTail || b[0] != vectorFormat {
		return nil, fmt.Errorf("%w: vectors: unknown layout", journal.ErrCorrupt)
	}
	body, tail := b[:len(b)-vectorTail], b[len(b)-vectorTail:]
	if c.Sum(body) != binary.LittleEndian.Uint32(tail) {
		return nil, fmt.Errorf("%w: vectors: checksum differs", journal.ErrCorrupt)
	}
	windows := int(binary.LittleEndian.Uint16(body[2:]))
	dims := int(binary.LittleEndian.Uint32(body[4:]))
	if len(body)-vectorHead != 4*windows*dims {
		return nil, fmt.Errorf("%w: vectors: length differs from %d × %d", journal.ErrCorrupt, windows, dims)
	}
	flat := make([]float32, windows*dims)
	for i := range flat {
		flat[i] = math.Float32frombits(binary.LittleEndian.Uint32(body[vectorHead+4*i:]))
	}
	out := make([][]float32, windows)
	for i := range out {
		out[i] = flat[i*dims : (i+1)*dims : (i+1)*dims]
	}
	return out, nil
}
