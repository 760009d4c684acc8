package main

import (
	"context"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/embed"
)

const dims = 384

// fixedEmbedder makes vectors that mean nothing at a fixed cost of CPU per
// chunk: the same work each time, sized once to take the time asked for.
type fixedEmbedder struct {
	rounds int
	sink   atomic.Uint64 // keeps the work from being optimised away
}

// newFixedEmbedder sizes the work; cost 0 does none.
func newFixedEmbedder(cost time.Duration) *fixedEmbedder {
	e := &fixedEmbedder{}
	if cost <= 0 {
		return e
	}
	const trial = 1 << 20
	best := time.Duration(math.MaxInt64)
	for range 9 { // the fastest is the one least disturbed
		start := time.Now()
		e.burn(trial)
		best = min(best, time.Since(start))
	}
	e.rounds = int(float64(trial) * float64(cost) / float64(best))
	return e
}

func (e *fixedEmbedder) burn(rounds int) {
	x := uint64(rounds) | 1
	for range rounds {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	e.sink.Add(x)
}

// Model implements actors.Embedder.
func (e *fixedEmbedder) Model() string { return "fixed-cost" }

// Dims implements actors.Embedder.
func (e *fixedEmbedder) Dims() int { return dims }

// Passages implements actors.Embedder.
func (e *fixedEmbedder) Passages(_ context.Context, in []embed.Input) ([]pipeline.Embedding, error) {
	out := make([]pipeline.Embedding, len(in))
	for i, p := range in {
		e.burn(e.rounds)
		out[i] = pipeline.Embedding{Vectors: [][]float32{vectorOf(p.Text)}}
	}
	return out, nil
}

// Query implements actors.Embedder.
func (e *fixedEmbedder) Query(_ context.Context, in embed.Input) ([]pipeline.QueryVector, error) {
	return []pipeline.QueryVector{{Vector: vectorOf(in.Text)}}, nil
}

// vectorOf gives each text a unit vector of its own.
func vectorOf(text string) []float32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	r := rand.New(rand.NewPCG(h.Sum64(), 0))
	v := make([]float32, dims)
	var sum float64
	for i := range v {
		v[i] = r.Float32() - 0.5
		sum += float64(v[i]) * float64(v[i])
	}
	norm := float32(1 / math.Sqrt(sum))
	for i := range v {
		v[i] *= norm
	}
	return v
}
