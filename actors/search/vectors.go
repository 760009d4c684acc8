package search

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"

	"granary.dev/granary/actors/pipeline"
)

// vectorSet holds the vectors of one space in two planes of int8. The high plane
// alone is scanned; candidates are scored with both, which is about 16 bits:
//
//	x ≈ scale × (high + low/lowUnits)
//
// Rows are padded with zeros to a multiple of lanes.
type vectorSet struct {
	space  pipeline.Space
	dims   int
	chunks []uint32 // vector → chunk; rises, a chunk's windows stand together
	scales []float32
	high   []int8
	low    []int8
	widest float32 // largest of scales, which bounds the error of the high plane
}

const (
	lanes    = 32  // row length is a multiple of this
	lowUnits = 254 // the low plane divides a step of the high plane into this many
)

func strideOf(dims int) int { return (dims + lanes - 1) / lanes * lanes }

func (v *vectorSet) stride() int { return strideOf(v.dims) }

// findVectors returns the set of a space and dimension.
func findVectors(sets []vectorSet, space pipeline.Space, dims int) *vectorSet {
	for i := range sets {
		if sets[i].space == space && sets[i].dims == dims {
			return &sets[i]
		}
	}
	return nil
}

// vectorBuilder gathers vectors in order of chunks.
type vectorBuilder struct{ sets []vectorSet }

// reserve makes room for all of these, so that planes of many megabytes are
// neither copied while they grow nor kept larger than they are.
func (b *vectorBuilder) reserve(embeddings []pipeline.Embedding) {
	type shape struct {
		space pipeline.Space
		dims  int
	}
	counts := make(map[shape]int)
	for _, e := range embeddings {
		for _, x := range e.Vectors {
			counts[shape{e.Space, len(x)}]++
		}
	}
	for s, n := range counts {
		if s.dims == 0 || s.dims > MaxDims {
			continue // add refuses it
		}
		bytes := n * strideOf(s.dims)
		b.sets = append(b.sets, vectorSet{space: s.space, dims: s.dims, chunks: make([]uint32, 0, n), scales: make([]float32, 0, n),
			high: make([]int8, 0, bytes), low: make([]int8, 0, bytes)})
	}
}

// add quantises the windows of one chunk; chunks must rise.
func (b *vectorBuilder) add(chunk uint32, e *pipeline.Embedding) error {
	for i, x := range e.Vectors {
		if len(x) == 0 || len(x) > MaxDims || len(x) != len(e.Vectors[0]) {
			return fmt.Errorf("%w: window %d of chunk %d has %d dimensions", ErrInvalidVectors, i, chunk, len(x))
		}
		set := findVectors(b.sets, e.Space, len(x))
		if set == nil {
			b.sets = append(b.sets, vectorSet{space: e.Space, dims: len(x)})
			set = &b.sets[len(b.sets)-1]
		}
		if !set.push(chunk, x) {
			return fmt.Errorf("%w: window %d of chunk %d is not finite", ErrInvalidVectors, i, chunk)
		}
	}
	return nil
}

func (b *vectorBuilder) finish() []vectorSet {
	slices.SortFunc(b.sets, func(x, y vectorSet) int {
		return cmp.Or(cmp.Compare(x.space, y.space), cmp.Compare(x.dims, y.dims))
	})
	for i := range b.sets {
		v := &b.sets[i]
		v.chunks, v.scales = slices.Clip(v.chunks), slices.Clip(v.scales)
		v.high, v.low = slices.Clip(v.high), slices.Clip(v.low)
		v.widest = slices.Max(v.scales) // a set is never empty
	}
	return b.sets
}

// push quantises x and appends it; false when x has a value that is not finite.
func (v *vectorSet) push(chunk uint32, x []float32) bool {
	var largest float64
	for _, f := range x {
		a := math.Abs(float64(f))
		if !(a <= math.MaxFloat32/256) { // also catches NaN
			return false
		}
		largest = max(largest, a)
	}
	scale := largest / 127
	at := len(v.high)
	v.high = append(v.high, make([]int8, v.stride())...)
	v.low = append(v.low, make([]int8, v.stride())...)
	if scale > 0 {
		high, low := v.high[at:at+len(x)], v.low[at:at+len(x)]
		for i, f := range x {
			units := float64(f) / scale
			h := math.Round(units)
			high[i] = int8(h)
			low[i] = int8(math.Round((units - h) * lowUnits))
		}
	}
	v.chunks = append(v.chunks, chunk)
	v.scales = append(v.scales, float32(scale))
	return true
}

// queryVector is a query quantised for one space: as many bits as the sum of a
// row can hold in 32 bits, up to 15.
type queryVector struct {
	values []int16 // padded
	scale  float32 // one unit of values
	sum    float32 // Σ|x|, which bounds the error of the high plane
}

func quantizeQuery(x []float32) queryVector {
	var largest, sum float64
	for _, f := range x {
		largest = max(largest, math.Abs(float64(f)))
		sum += math.Abs(float64(f))
	}
	q := queryVector{values: make([]int16, strideOf(len(x))), sum: float32(sum)}
	if largest == 0 {
		return q
	}
	// 127 × units × dims must stay below 2³¹.
	units := math.Min(math.MaxInt16, math.Floor(math.MaxInt32/(127*float64(len(x)))))
	scale := largest / units
	for i, f := range x {
		q.values[i] = int16(math.Round(float64(f) / scale))
	}
	q.scale = float32(scale)
	return q
}

// exact returns the cosine of q with vector i from both planes.
func (v *vectorSet) exact(q *queryVector, i int) float32 {
	var out [1]int32
	stride := v.stride()
	dotRows(q.values, v.high[i*stride:(i+1)*stride], out[:])
	high := float64(out[0])
	dotRows(q.values, v.low[i*stride:(i+1)*stride], out[:])
	return float32((high + float64(out[0])/lowUnits) * float64(v.scales[i]) * float64(q.scale))
}

// best returns the highest cosine among the windows of a chunk and its window,
// and false when the chunk has no vector in this set.
func (v *vectorSet) best(q *queryVector, chunk uint32) (cosine float32, window int, ok bool) {
	at := sort.Search(len(v.chunks), func(i int) bool { return v.chunks[i] >= chunk })
	if at == len(v.chunks) || v.chunks[at] != chunk {
		return 0, 0, false
	}
	cosine, window = v.bestAt(q, at)
	return cosine, window, true
}

// bestAt is best for the chunk of row at.
func (v *vectorSet) bestAt(q *queryVector, at int) (cosine float32, window int) {
	chunk := v.chunks[at]
	for at > 0 && v.chunks[at-1] == chunk {
		at--
	}
	for i := at; i < len(v.chunks) && v.chunks[i] == chunk; i++ {
		if c := v.exact(q, i); i == at || c > cosine {
			cosine, window = c, i-at
		}
	}
	return cosine, window
}
