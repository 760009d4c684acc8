package uselite

import (
	"fmt"
	"math"
)

// BatchTokens is a good size of a [Workspace] for bulk work: 192 rows make the
// traffic of the weights cheap (384 were no faster in alternating runs), and a pass
// is short enough that others need not wait long for their turn. A workspace of that
// size is 3.5 MB.
const BatchTokens = 192

// Workspace is the memory of one forward pass. It serves one call at a time and
// can be reused without limit.
type Workspace struct {
	tokens    int       // capacity
	narrow    []float32 // rows × embedWidth: residual of layer 0
	residual  []float32 // rows × Dims
	normed    []float32 // rows × Dims
	attended  []float32 // rows × Dims
	wide      []float32 // rows × ffnWidth: q, k and v, later the feed-forward
	pooled    []float32 // texts × Dims, rounded up to tiles
	headOut   []float32
	attention attentionSpace
}

// NewWorkspace allocates for batches of the given number of tokens, about 18 KB
// for each.
func NewWorkspace(tokens int) *Workspace {
	// One more tile than the batch: attention reads whole tiles that begin at
	// any row.
	rows := roundUp(tokens, tileRows) + tileRows
	return &Workspace{
		tokens:    tokens,
		narrow:    make([]float32, rows*embedWidth),
		residual:  make([]float32, rows*Dims),
		normed:    make([]float32, rows*Dims),
		attended:  make([]float32, rows*Dims),
		wide:      make([]float32, rows*ffnWidth),
		attention: newAttentionSpace(),
	}
}

// Forward embeds the token lists of one batch and returns a unit vector of
// [Dims] for each, in newly allocated memory. Each list has 1 to [MaxTokens]
// tokens, all together at most what ws was made for.
func (m *Model) Forward(ws *Workspace, batch [][]int) ([][]float32, error) {
	total, err := m.checkBatch(batch, ws.tokens)
	if err != nil || total == 0 {
		return nil, err
	}
	rows := roundUp(total, tileRows)
	m.embed(ws, batch, total, rows)
	input := ws.narrow
	for i := range m.layers {
		m.layer(ws, &m.layers[i], input, batch, rows)
		input = ws.residual
	}
	return m.pool(ws, batch), nil
}

func (m *Model) checkBatch(batch [][]int, capacity int) (int, error) {
	total := 0
	for _, ids := range batch {
		if len(ids) == 0 || len(ids) > MaxTokens {
			return 0, fmt.Errorf("uselite: text of %d tokens, want 1 to %d", len(ids), MaxTokens)
		}
		for _, id := range ids {
			if id < 0 || id >= m.embedding.Rows {
				return 0, fmt.Errorf("uselite: no token %d", id)
			}
		}
		total += len(ids)
	}
	if total > capacity {
		return 0, fmt.Errorf("uselite: batch of %d tokens, at most %d", total, capacity)
	}
	return total, nil
}

// embed fills ws.narrow. The published graph adds the embedding twice.
func (m *Model) embed(ws *Workspace, batch [][]int, total, rows int) {
	at := 0
	for _, ids := range batch {
		for pos, id := range ids {
			row := ws.narrow[at : at+embedWidth]
			m.embedding.row(row, id, 2)
			for i, v := range m.timing[pos*embedWidth : (pos+1)*embedWidth] {
				row[i] += v
			}
			at += embedWidth
		}
	}
	clear(ws.narrow[total*embedWidth : rows*embedWidth])
}

// layer computes one transformer layer from in (rows × l.width) to ws.residual.
func (m *Model) layer(ws *Workspace, l *packedLayer, in []float32, batch [][]int, rows int) {
	normalise(ws.normed, in, rows, l.attentionNorm)
	spread(ws.wide, rows, l.qkv.bias)
	m.kernel.multiplyAdd(rows, ws.normed, l.width, l.qkv.panels, ws.wide, l.qkv.cols)

	first := 0
	for _, ids := range batch {
		m.attend(ws, first, len(ids), l.width)
		first += len(ids)
	}
	clear(ws.attended[first*l.width : rows*l.width])

	if l.resize != nil {
		spread(ws.residual, rows, l.resize.bias)
		m.kernel.multiplyAdd(rows, in, l.width, l.resize.panels, ws.residual, Dims)
	}
	addBias(ws.residual, rows, l.out.bias)
	m.kernel.multiplyAdd(rows, ws.attended, l.width, l.out.panels, ws.residual, Dims)

	normalise(ws.normed, ws.residual, rows, l.ffnNorm)
	spread(ws.wide, rows, l.expand.bias)
	m.kernel.multiplyAdd(rows, ws.normed, Dims, l.expand.panels, ws.wide, ffnWidth)
	relu(ws.wide[:rows*ffnWidth])
	addBias(ws.residual, rows, l.contract.bias)
	m.kernel.multiplyAdd(rows, ws.wide, ffnWidth, l.contract.panels, ws.residual, Dims)
}

// pool takes the mean over each text's tokens through the last dense layer.
func (m *Model) pool(ws *Workspace, batch [][]int) [][]float32 {
	rows := roundUp(len(batch), tileRows)
	if len(ws.pooled) < rows*Dims {
		ws.pooled, ws.headOut = make([]float32, rows*Dims), make([]float32, rows*Dims)
	}
	clear(ws.pooled[:rows*Dims])
	at := 0
	for i, ids := range batch {
		mean := ws.pooled[i*Dims : (i+1)*Dims]
		for range ids {
			for j, v := range ws.residual[at : at+Dims] {
				mean[j] += v
			}
			at += Dims
		}
		for j := range mean {
			mean[j] /= float32(len(ids))
		}
	}
	spread(ws.headOut, rows, m.head.bias)
	m.kernel.multiplyAdd(rows, ws.pooled, Dims, m.head.panels, ws.headOut, Dims)

	values := make([]float32, len(batch)*Dims)
	out := make([][]float32, len(batch))
	for i := range out {
		out[i] = values[i*Dims : (i+1)*Dims : (i+1)*Dims]
		unitTanh(out[i], ws.headOut[i*Dims:])
	}
	return out
}

// unitTanh writes tanh(src), scaled to unit length, to dst.
func unitTanh(dst, src []float32) {
	sum := 0.0
	for i := range dst {
		t := math.Tanh(float64(src[i]))
		dst[i] = float32(t)
		sum += t * t
	}
	inverse := float32(1 / math.Sqrt(max(sum, 1e-12)))
	for i := range dst {
		dst[i] *= inverse
	}
}
