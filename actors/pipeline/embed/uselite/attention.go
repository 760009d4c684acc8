package uselite

// attentionSpace is the memory of one head over one text.
type attentionSpace struct {
	keys   []float32 // packed kᵀ: depth × tokens, later packed v: tokens × depth
	scores []float32 // tokens × tokens, both rounded up to tiles
	out    []float32 // tokens × depth
}

func newAttentionSpace() attentionSpace {
	const depth = Dims / heads // of layer 1, the larger one
	rows, cols := roundUp(MaxTokens, tileRows), roundUp(MaxTokens, tileCols)
	return attentionSpace{
		keys:   make([]float32, cols*depth),
		scores: make([]float32, rows*cols),
		out:    make([]float32, rows*depth),
	}
}

// attend computes softmax(q·kᵀ)·v for the tokens [first, first+n) of the batch,
// from ws.wide (q, k and v side by side, each of the given width) to
// ws.attended. The factor 1/√depth is already part of q.
func (m *Model) attend(ws *Workspace, first, n, width int) {
	stride, depth := 3*width, width/heads
	rows, cols := roundUp(n, tileRows), roundUp(n, tileCols)
	space := &ws.attention
	scores := space.scores[:rows*cols]
	out := space.out[:rows*depth]
	for head := range heads {
		// Tiles may reach into the rows of the next text: what comes of that lies
		// in rows of scores and out that are not read.
		q := ws.wide[first*stride+head*depth:]
		k := q[width:]
		v := k[width:]

		clear(scores)
		keys := packTransposed(space.keys, k, n, depth, stride)
		m.kernel.multiplyAdd(rows, q, stride, keys, scores, cols)
		for r := range n {
			softmax(scores[r*cols:(r+1)*cols], n)
		}

		clear(out)
		values := packRows(space.keys, v, n, depth, stride)
		m.kernel.multiplyAdd(rows, scores, cols, values, out, depth)
		for r := range n {
			to := (first+r)*width + head*depth
			copy(ws.attended[to:to+depth], out[r*depth:(r+1)*depth])
		}
	}
}

// packTransposed packs n rows of src as columns: the result is depth × n.
func packTransposed(dst, src []float32, n, depth, stride int) panels {
	p := panels{rows: depth, cols: roundUp(n, tileCols)}
	p.data = dst[:p.rows*p.cols]
	clear(p.data[(p.cols-tileCols)*depth:]) // the last panel may not be full
	for r := range n {
		to := p.data[(r/tileCols)*depth*tileCols+r%tileCols:]
		for i, v := range src[r*stride : r*stride+depth] {
			to[i*tileCols] = v
		}
	}
	return p
}

// packRows packs n rows of src as rows: the result is n × depth, where depth is
// a multiple of tileCols.
func packRows(dst, src []float32, n, depth, stride int) panels {
	p := panels{rows: n, cols: depth, data: dst[:n*depth]}
	for col := 0; col < depth; col += tileCols {
		for r := range n {
			copy(p.data[col*n+r*tileCols:][:tileCols], src[r*stride+col:])
		}
	}
	return p
}

// softmax replaces the first n values by their softmax and clears the others.
func softmax(row []float32, n int) {
	clear(row[n:])
	row = row[:n]
	top := row[0]
	for _, v := range row {
		top = max(top, v)
	}
	var total float32
	for i, v := range row {
		e := expNegative(v - top)
		row[i] = e
		total += e
	}
	inverse := 1 / total
	for i := range row {
		row[i] *= inverse
	}
}
