package uselite

import "math"

// Model is the network packed for the kernel: 19 MB of float32 and the 8-bit
// embedding table. It is immutable and safe for concurrent use.
type Model struct {
	embedding Table
	timing    []float32 // MaxTokens × embedWidth
	layers    [layerCount]packedLayer
	head      packedDense
	kernel    kernel
}

type packedDense struct {
	panels
	bias []float32
}

type packedLayer struct {
	width            int // of the input and of q, k and v
	attentionNorm    Norm
	qkv, out         packedDense
	resize           *packedDense // of the residual; nil when width = Dims
	ffnNorm          Norm
	expand, contract packedDense
}

// NewModel packs the weights. It keeps w.Embedding and the slices of w's
// biases and normalisations, which must not be changed afterwards.
func NewModel(w *Weights) (*Model, error) {
	k, _ := bestKernel()
	return newModel(w, k)
}

func newModel(w *Weights, k kernel) (*Model, error) {
	if err := w.Validate(); err != nil {
		return nil, err
	}
	m := &Model{
		embedding: w.Embedding,
		timing:    timingSignal(w.Freqs),
		head:      packDense(&w.Head),
		kernel:    k,
	}
	for i := range w.Layers {
		m.layers[i] = packLayer(&w.Layers[i])
	}
	resize := packDense(&w.Resize)
	m.layers[0].resize = &resize
	return m, nil
}

func packDense(d *Dense) packedDense {
	one := func(int) float32 { return 1 }
	return packedDense{panels: packMatrix(d.W, d.In, d.Out, one), bias: d.B}
}

// packLayer folds the attention's 1/√d into the weights and biases of q.
func packLayer(l *Layer) packedLayer {
	width := l.QKV.In
	factor := float32(1 / math.Sqrt(float64(width/heads)))
	scale := func(col int) float32 {
		if col < width {
			return factor
		}
		return 1
	}
	bias := make([]float32, len(l.QKV.B))
	for i, v := range l.QKV.B {
		bias[i] = v * scale(i)
	}
	return packedLayer{
		width:         width,
		attentionNorm: l.AttentionNorm,
		qkv:           packedDense{panels: packMatrix(l.QKV.W, l.QKV.In, l.QKV.Out, scale), bias: bias},
		out:           packDense(&l.Out),
		ffnNorm:       l.FFNNorm,
		expand:        packDense(&l.FFN1),
		contract:      packDense(&l.FFN2),
	}
}

// timingSignal tells positions apart: sines in the first half of the width,
// cosines in the second.
func timingSignal(freqs []float32) []float32 {
	out := make([]float32, MaxTokens*embedWidth)
	for pos := range MaxTokens {
		row := out[pos*embedWidth : (pos+1)*embedWidth]
		for i, f := range freqs {
			angle := float64(float32(pos) * f)
			row[i] = float32(math.Sin(angle))
			row[len(freqs)+i] = float32(math.Cos(angle))
		}
	}
	return out
}
