package uselite

import (
	"errors"
	"fmt"
)

// Shape of the model.
const (
	Dims      = 512 // length of an embedding
	MaxTokens = 128 // tokens beyond are not read

	embedWidth = 256  // width of token embeddings and of layer 0
	ffnWidth   = 1536 // width inside the feed-forward blocks
	heads      = 4    // attention heads of each layer
	layerCount = 2
)

// Dense is a fully connected layer: y = x·W + B.
type Dense struct {
	In, Out int
	W       []float32 // In × Out, row-major
	B       []float32 // Out
}

// Norm holds the parameters of a layer normalisation.
type Norm struct{ Scale, Bias []float32 }

// Layer is one transformer layer.
type Layer struct {
	AttentionNorm Norm
	QKV           Dense // q, k and v side by side
	Out           Dense
	FFNNorm       Norm
	FFN1, FFN2    Dense
}

// Weights is the whole model in a form independent of how it is run.
type Weights struct {
	Vocabulary []Piece
	Embedding  Table     // vocabulary (and a few unused rows) × 256
	Freqs      []float32 // 128 frequencies of the timing signal
	Layers     [layerCount]Layer
	Resize     Dense // residual of layer 0, 256 → 512
	Head       Dense // 512 → 512, before tanh
}

// Table is the embedding table: either float32 values, or 8-bit values with a
// scale per row. The 8-bit form may alias read-only memory.
type Table struct {
	Rows, Cols int
	F32        []float32 // Rows × Cols, nil for the 8-bit form
	Q          []byte    // Rows × Cols values of type int8, nil for the float32 form
	Scale      []float32 // Rows, with Q only
}

// row writes factor × row id into dst.
func (t *Table) row(dst []float32, id int, factor float32) {
	if t.F32 != nil {
		for i, v := range t.F32[id*t.Cols : (id+1)*t.Cols] {
			dst[i] = factor * v
		}
		return
	}
	factor *= t.Scale[id]
	for i, q := range t.Q[id*t.Cols : (id+1)*t.Cols] {
		dst[i] = factor * float32(int8(q))
	}
}

// denses lists the matrices in the order in which they are stored.
func (w *Weights) denses() []*Dense {
	var out []*Dense
	for i := range w.Layers {
		l := &w.Layers[i]
		out = append(out, &l.QKV, &l.Out, &l.FFN1, &l.FFN2)
	}
	return append(out, &w.Resize, &w.Head)
}

// norms lists the normalisations in the order in which they are stored.
func (w *Weights) norms() []*Norm {
	var out []*Norm
	for i := range w.Layers {
		out = append(out, &w.Layers[i].AttentionNorm, &w.Layers[i].FFNNorm)
	}
	return out
}

// denseShapes gives [in, out] of each of [Weights.denses].
func denseShapes() [][2]int {
	return [][2]int{
		{embedWidth, 3 * embedWidth}, {embedWidth, Dims}, {Dims, ffnWidth}, {ffnWidth, Dims},
		{Dims, 3 * Dims}, {Dims, Dims}, {Dims, ffnWidth}, {ffnWidth, Dims},
		{embedWidth, Dims}, {Dims, Dims},
	}
}

// normWidths gives the width of each of [Weights.norms].
func normWidths() []int { return []int{embedWidth, Dims, Dims, Dims} }

// Validate checks every shape, so that the forward pass need not.
func (w *Weights) Validate() error {
	if w.Embedding.Cols != embedWidth || w.Embedding.Rows < len(w.Vocabulary) {
		return fmt.Errorf("uselite: embedding table is %d×%d for %d pieces",
			w.Embedding.Rows, w.Embedding.Cols, len(w.Vocabulary))
	}
	cells := w.Embedding.Rows * w.Embedding.Cols
	f32 := len(w.Embedding.F32) == cells
	q := len(w.Embedding.Q) == cells && len(w.Embedding.Scale) == w.Embedding.Rows
	if !f32 && !q {
		return errors.New("uselite: embedding table has no values")
	}
	if len(w.Freqs) != embedWidth/2 {
		return fmt.Errorf("uselite: %d timing frequencies, want %d", len(w.Freqs), embedWidth/2)
	}
	shapes := denseShapes()
	for i, d := range w.denses() {
		if d.In != shapes[i][0] || d.Out != shapes[i][1] || len(d.W) != d.In*d.Out || len(d.B) != d.Out {
			return fmt.Errorf("uselite: matrix %d is %d×%d, want %d×%d", i, d.In, d.Out, shapes[i][0], shapes[i][1])
		}
	}
	widths := normWidths()
	for i, n := range w.norms() {
		if len(n.Scale) != widths[i] || len(n.Bias) != widths[i] {
			return fmt.Errorf("uselite: normalisation %d has width %d, want %d", i, len(n.Scale), widths[i])
		}
	}
	return nil
}
