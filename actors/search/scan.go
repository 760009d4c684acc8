package search

import (
	"context"
	"math"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"granary.dev/granary/actors/pipeline"
)

const (
	scanBlock    = 256    // rows per call of the kernel
	scanTask     = 16_384 // rows a goroutine takes at a time
	parallelFrom = 50_000 // vectors worth more than one goroutine: ~1 ms of scanning
	provenUpTo   = 40_000 // vectors for which a second pass proves the answer exact
)

// Scanners is an allowance of extra goroutines for large scans, shared by all
// indexes of a node: a scan takes what is free at its start and never waits.
type Scanners struct{ free atomic.Int64 }

// NewScanners allows n extra goroutines; a node gives its number of cores less
// those that should stay free for other work.
func NewScanners(n int) *Scanners {
	s := &Scanners{}
	s.free.Store(int64(n))
	return s
}

func (s *Scanners) take(most int) int {
	if s == nil {
		return 0
	}
	for {
		free := s.free.Load()
		n := min(free, int64(most))
		if n <= 0 {
			return 0
		}
		if s.free.CompareAndSwap(free, free-n) {
			return int(n)
		}
	}
}

func (s *Scanners) give(n int) {
	if s != nil {
		s.free.Add(int64(n))
	}
}

// source is a set of vectors that a query is compared with.
type source struct {
	set     *vectorSet
	query   *queryVector
	allowed bitmap // nil: all chunks
	base    uint32
}

// nearest is a chunk with its exact cosine.
type nearest struct {
	chunk  uint32
	cosine float32
	window int
	space  pipeline.Space
}

// scan is one search by vectors.
type scan struct {
	sources  []source
	vectors  int
	rescored int
	workers  int
	exact    bool
	scanners *Scanners
}

// sourcesOf lists what the query's vectors can be compared with.
func (v *View) sourcesOf(vectors []pipeline.QueryVector, allowed []bitmap) *scan {
	s := &scan{scanners: v.shared.scanner}
	for i := range vectors {
		q := quantizeQuery(vectors[i].Vector)
		for j := range v.segs {
			seg := &v.segs[j]
			if set := findVectors(seg.seg.vectors, vectors[i].Space, len(vectors[i].Vector)); set != nil {
				s.sources = append(s.sources, source{set: set, query: &q, allowed: allowed[j], base: seg.base})
				s.vectors += len(set.chunks)
			}
		}
	}
	return s
}

// run returns the limit nearest chunks, best first. The first n of them are the
// true nearest when s.exact is set.
func (s *scan) run(ctx context.Context, limit, n int) ([]nearest, error) {
	top, err := s.pass(ctx, limit, float32(math.Inf(-1)))
	if err != nil {
		return nil, err
	}
	found := s.rescore(top.items)
	s.exact = len(top.items) < limit
	if s.exact || len(found) == 0 {
		return found, nil
	}
	// What the first pass left out has a high-plane score of at most floor. Only
	// if that plus the error reaches the n-th exact score can it matter.
	worst := found[min(n, len(found))-1].cosine
	if top.floor+s.slack() < worst {
		s.exact = true
		return found, nil
	}
	if s.vectors > provenUpTo {
		return found, nil
	}
	all, err := s.pass(ctx, s.vectors, worst-s.slack())
	if err != nil {
		return nil, err
	}
	s.exact = true
	found = s.rescore(all.items)
	return found[:min(limit, len(found))], nil
}

// slack is the most by which a score of the high plane can differ from the exact
// one: half a step in every value of the vector, and the rounding of the query.
func (s *scan) slack() float32 {
	var e float64
	for i := range s.sources {
		src := &s.sources[i]
		e = max(e, float64(src.set.widest)*(0.5*float64(src.query.sum)+64*float64(src.set.dims)*float64(src.query.scale)))
	}
	return float32(e) + 1e-6
}

// task is a range of rows of a source.
type task struct{ source, from, to int }

// pass scans the high planes for the limit best chunks above floor.
func (s *scan) pass(ctx context.Context, limit int, floor float32) (*topK, error) {
	var tasks []task
	for i := range s.sources {
		n := len(s.sources[i].set.chunks)
		for from := 0; from < n; from += scanTask {
			tasks = append(tasks, task{i, from, min(from+scanTask, n)})
		}
	}
	extra := 0
	if s.vectors >= parallelFrom {
		extra = s.scanners.take(len(tasks)/2 - 1)
		defer s.scanners.give(extra)
	}
	s.workers = 1 + extra
	var next atomic.Int64
	work := func(top *topK) {
		for ctx.Err() == nil {
			i := int(next.Add(1)) - 1
			if i >= len(tasks) {
				return
			}
			s.rows(tasks[i], top)
		}
	}
	tops := make([]*topK, s.workers)
	var helpers sync.WaitGroup
	for i := range tops {
		tops[i] = newTopK(limit)
		tops[i].floor = floor
		if i > 0 {
			helpers.Go(func() { work(tops[i]) })
		}
	}
	work(tops[0])
	helpers.Wait()
	for _, other := range tops[1:] {
		for _, item := range other.items {
			if item.score > tops[0].floor {
				tops[0].offer(item)
			}
		}
	}
	return tops[0], ctx.Err()
}

// rows scans the rows of one task.
func (s *scan) rows(t task, top *topK) {
	src := &s.sources[t.source]
	set, stride := src.set, src.set.stride()
	var out [scanBlock]int32
	for from := t.from; from < t.to; {
		to := min(from+scanBlock, t.to)
		if src.allowed != nil {
			if from, to = nextRun(set.chunks, src.allowed, from, to, t.to); from == to {
				continue
			}
		}
		dotRows(src.query.values, set.high[from*stride:to*stride], out[:to-from])
		for i := 0; i < to-from; i++ {
			score := float32(out[i]) * set.scales[from+i] * src.query.scale
			if score <= top.floor {
				continue
			}
			at, chunk := from+i, set.chunks[from+i]
			for i+1 < to-from && set.chunks[from+i+1] == chunk { // its other windows
				i++
				score = max(score, float32(out[i])*set.scales[from+i]*src.query.scale)
			}
			top.offer(scored{score: score, chunk: src.base + chunk, source: int32(t.source), at: int32(at)})
		}
		from = to
	}
}

// nextRun returns the next rows of allowed chunks: from ≤ row < to ≤ limit, empty
// when the search goes on at from, which is end when there are none left.
func nextRun(chunks []uint32, allowed bitmap, from, limit, end int) (int, int) {
	if !allowed.has(chunks[from]) {
		chunk, ok := allowed.next(chunks[from])
		if !ok {
			return end, end
		}
		from += sort.Search(end-from, func(i int) bool { return chunks[from+i] >= chunk })
		return from, from
	}
	to := from + 1
	for to < limit && allowed.has(chunks[to]) {
		to++
	}
	return from, to
}

// rescore computes the exact cosine of the best window of each chunk, best first.
func (s *scan) rescore(items []scored) []nearest {
	slices.SortFunc(items, func(a, b scored) int { return int(a.chunk) - int(b.chunk) })
	found := make([]nearest, 0, len(items))
	for _, item := range items {
		src := &s.sources[item.source]
		n := nearest{chunk: item.chunk, space: src.set.space}
		n.cosine, n.window = src.set.bestAt(src.query, int(item.at))
		if last := len(found) - 1; last >= 0 && found[last].chunk == n.chunk {
			if n.cosine > found[last].cosine {
				found[last] = n
			}
			continue
		}
		found = append(found, n)
	}
	s.rescored += len(found)
	slices.SortFunc(found, func(a, b nearest) int {
		switch {
		case a.cosine > b.cosine:
			return -1
		case a.cosine < b.cosine:
			return 1
		}
		return int(a.chunk) - int(b.chunk)
	})
	return found
}

// cosine computes the exact cosine of one chunk of the view, and false when it
// has no vector in any space of the query.
func (s *scan) cosine(v *View, chunk uint32) (n nearest, ok bool) {
	base := v.segmentOf(chunk).base
	for i := range s.sources {
		src := &s.sources[i]
		if src.base != base {
			continue
		}
		if c, w, has := src.set.best(src.query, chunk-base); has && (!ok || c > n.cosine) {
			n, ok = nearest{chunk: chunk, cosine: c, window: w, space: src.set.space}, true
		}
	}
	return n, ok
}
