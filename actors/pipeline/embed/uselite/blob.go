package uselite

import (
	_ "embed" // weights.bin
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// The blob, all numbers little-endian:
//
//	magic            8 bytes "GRUSEL01"
//	pieces           u32 count, then per piece: f64 score, u8 length, text
//	embedding        u32 rows, u32 cols, f32 scale per row, int8 rows × cols
//	frequencies      f32 × 128
//	normalisations   4 × (f32 scale, f32 bias)
//	matrices         10 × (f32 bias, f32 scale per column, int8 in × out row-major)
//	checksum         u32 CRC-32C of everything before it
//
// Value = scale × int8. Shapes are those of denseShapes and normWidths.
const blobMagic = "GRUSEL01"

// ErrBlob says that a weight file is damaged or of another version.
var ErrBlob = errors.New("uselite: weight file is damaged")

//go:embed weights.bin
var builtinBlob []byte

// Builtin returns the weights that are part of the binary. The embedding table
// aliases them; everything else is expanded to float32 (about 20 MB).
func Builtin() (*Weights, error) { return DecodeBlob(builtinBlob) }

// BuiltinVocabulary returns the pieces alone, which is much cheaper. The
// checksum is not verified: [Builtin] does that.
func BuiltinVocabulary() ([]Piece, error) {
	r := &blobReader{data: builtinBlob}
	if string(r.bytes(len(blobMagic))) != blobMagic {
		return nil, ErrBlob
	}
	pieces := r.pieces()
	return pieces, r.err
}

// EncodeBlob quantises w and returns the blob.
func EncodeBlob(w *Weights) ([]byte, error) {
	if err := w.Validate(); err != nil {
		return nil, err
	}
	out := []byte(blobMagic)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(w.Vocabulary)))
	for _, p := range w.Vocabulary {
		if len(p.Text) > math.MaxUint8 {
			return nil, fmt.Errorf("uselite: piece of %d bytes", len(p.Text))
		}
		out = binary.LittleEndian.AppendUint64(out, math.Float64bits(p.Score))
		out = append(out, byte(len(p.Text)))
		out = append(out, p.Text...)
	}
	out = appendTable(out, &w.Embedding)
	out = appendFloats(out, w.Freqs)
	for _, n := range w.norms() {
		out = appendFloats(appendFloats(out, n.Scale), n.Bias)
	}
	for _, d := range w.denses() {
		out = appendDense(out, d)
	}
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, crc32.MakeTable(crc32.Castagnoli))), nil
}

func appendFloats(out []byte, values []float32) []byte {
	for _, v := range values {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}

func appendTable(out []byte, t *Table) []byte {
	out = binary.LittleEndian.AppendUint32(out, uint32(t.Rows))
	out = binary.LittleEndian.AppendUint32(out, uint32(t.Cols))
	scales := make([]float32, t.Rows)
	q := make([]byte, t.Rows*t.Cols)
	row := make([]float32, t.Cols)
	for r := range t.Rows {
		t.row(row, r, 1)
		scales[r] = quantScale(row, 0, 1)
		for c, v := range row {
			q[r*t.Cols+c] = quantise(v, scales[r])
		}
	}
	return append(appendFloats(out, scales), q...)
}

func appendDense(out []byte, d *Dense) []byte {
	out = appendFloats(out, d.B)
	scales := make([]float32, d.Out)
	for c := range d.Out {
		scales[c] = quantScale(d.W, c, d.Out)
	}
	out = appendFloats(out, scales)
	for i, v := range d.W {
		out = append(out, quantise(v, scales[i%d.Out]))
	}
	return out
}

// quantScale maps the largest magnitude of a channel to 127.
func quantScale(w []float32, first, stride int) float32 {
	var top float32
	for i := first; i < len(w); i += stride {
		top = max(top, w[i], -w[i])
	}
	return top / 127
}

func quantise(v, scale float32) byte {
	if scale == 0 {
		return 0
	}
	return byte(int8(math.RoundToEven(float64(v / scale))))
}

// DecodeBlob checks and expands a blob. Errors match [ErrBlob].
func DecodeBlob(data []byte) (*Weights, error) {
	const sum = 4
	if len(data) < len(blobMagic)+sum || string(data[:len(blobMagic)]) != blobMagic {
		return nil, fmt.Errorf("%w: no such format", ErrBlob)
	}
	body := data[:len(data)-sum]
	if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(data[len(body):]) {
		return nil, fmt.Errorf("%w: checksum", ErrBlob)
	}
	r := &blobReader{data: body[len(blobMagic):]}
	w := &Weights{Vocabulary: r.pieces()}
	w.Embedding = r.table()
	w.Freqs = r.floats(embedWidth / 2)
	for i, n := range w.norms() {
		n.Scale = r.floats(normWidths()[i])
		n.Bias = r.floats(normWidths()[i])
	}
	for i, d := range w.denses() {
		*d = r.dense(denseShapes()[i])
	}
	if r.err == nil && len(r.data) != 0 {
		r.err = fmt.Errorf("%w: %d bytes too many", ErrBlob, len(r.data))
	}
	if r.err != nil {
		return nil, r.err
	}
	return w, w.Validate()
}

// blobReader reads with a sticky error, so that a short blob cannot panic.
type blobReader struct {
	data []byte
	err  error
}

func (r *blobReader) bytes(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.data) {
		if r.err == nil {
			r.err = fmt.Errorf("%w: too short", ErrBlob)
		}
		return nil
	}
	out := r.data[:n:n]
	r.data = r.data[n:]
	return out
}

func (r *blobReader) u32() int {
	if b := r.bytes(4); b != nil {
		return int(binary.LittleEndian.Uint32(b))
	}
	return 0
}

func (r *blobReader) floats(n int) []float32 {
	b := r.bytes(4 * n)
	if b == nil {
		return nil
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}

func (r *blobReader) pieces() []Piece {
	n := r.u32()
	const least = 9 // score and length
	if n*least > len(r.data) {
		r.err = fmt.Errorf("%w: %d pieces", ErrBlob, n)
		return nil
	}
	out := make([]Piece, 0, n)
	for range n {
		head := r.bytes(least)
		if head == nil {
			return nil
		}
		score := math.Float64frombits(binary.LittleEndian.Uint64(head))
		out = append(out, Piece{Text: string(r.bytes(int(head[8]))), Score: score})
	}
	return out
}

func (r *blobReader) table() Table {
	t := Table{Rows: r.u32(), Cols: r.u32()}
	if t.Cols != embedWidth || t.Rows > len(r.data)/embedWidth {
		r.err = errors.Join(r.err, fmt.Errorf("%w: table %d×%d", ErrBlob, t.Rows, t.Cols))
		return Table{}
	}
	t.Scale = r.floats(t.Rows)
	t.Q = r.bytes(t.Rows * t.Cols)
	return t
}

func (r *blobReader) dense(shape [2]int) Dense {
	d := Dense{In: shape[0], Out: shape[1]}
	d.B = r.floats(d.Out)
	scales := r.floats(d.Out)
	q := r.bytes(d.In * d.Out)
	if q == nil {
		return Dense{}
	}
	d.W = make([]float32, len(q))
	for row := range d.In {
		src, dst := q[row*d.Out:(row+1)*d.Out], d.W[row*d.Out:(row+1)*d.Out]
		for c := range dst {
			dst[c] = scales[c] * float32(int8(src[c]))
		}
	}
	return d
}
