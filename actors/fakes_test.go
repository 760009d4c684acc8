package actors_test

import (
	"context"
	"hash/fnv"
	"io"
	"math"
	"strings"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/embed"
)

// chunks is the chunk store with faults.
type chunks struct {
	journal.ChunkStore
	f *faults
}

func (c *chunks) PutChunks(ctx context.Context, f journal.Fence, a journal.Attempt, rows []journal.Chunk) error {
	return c.f.run(op{ctx: ctx, name: "PutChunks", grain: f.Identity}, func() error { return c.ChunkStore.PutChunks(ctx, f, a, rows) })
}

func (c *chunks) Chunks(ctx context.Context, s journal.Scope, attempt string, after, limit int) (out []journal.Chunk, err error) {
	err = c.f.run(op{ctx: ctx, name: "Chunks"}, func() (e error) { out, e = c.ChunkStore.Chunks(ctx, s, attempt, after, limit); return e })
	return out, err
}

func (c *chunks) ChunksByRef(ctx context.Context, s journal.Scope, refs []journal.ChunkRef) (out map[journal.ChunkRef]journal.Chunk, err error) {
	err = c.f.run(op{ctx: ctx, name: "ChunksByRef"}, func() (e error) { out, e = c.ChunkStore.ChunksByRef(ctx, s, refs); return e })
	return out, err
}

func (c *chunks) PutVectors(ctx context.Context, f journal.Fence, s journal.Scope, model string, v []journal.Vectors) error {
	c.f.mu.Lock()
	for _, x := range v {
		c.f.seen[x.Hash] = true
	}
	c.f.mu.Unlock()
	return c.f.run(op{ctx: ctx, name: "PutVectors", grain: f.Identity}, func() error { return c.ChunkStore.PutVectors(ctx, f, s, model, v) })
}

func (c *chunks) VectorsByHash(ctx context.Context, s journal.Scope, model string, hashes []string) (out map[string]journal.Vectors, err error) {
	err = c.f.run(op{ctx: ctx, name: "VectorsByHash"}, func() (e error) { out, e = c.ChunkStore.VectorsByHash(ctx, s, model, hashes); return e })
	return out, err
}

func (c *chunks) DeleteAttempts(ctx context.Context, s journal.Scope, attempts []string) (n int, err error) {
	err = c.f.run(op{ctx: ctx, name: "DeleteAttempts"}, func() (e error) { n, e = c.ChunkStore.DeleteAttempts(ctx, s, attempts); return e })
	return n, err
}

func (c *chunks) CountAttempts(ctx context.Context, s journal.Scope, attempts []string) (n, v int, err error) {
	err = c.f.run(op{ctx: ctx, name: "CountAttempts"}, func() (e error) { n, v, e = c.ChunkStore.CountAttempts(ctx, s, attempts); return e })
	return n, v, err
}

func (c *chunks) DeleteScope(ctx context.Context, s journal.Scope) (n, v int, err error) {
	err = c.f.run(op{ctx: ctx, name: "DeleteScope"}, func() (e error) { n, v, e = c.ChunkStore.DeleteScope(ctx, s); return e })
	return n, v, err
}

func (c *chunks) AttemptsOf(ctx context.Context, s journal.Scope) (out []journal.Attempt, err error) {
	err = c.f.run(op{ctx: ctx, name: "AttemptsOf"}, func() (e error) { out, e = c.ChunkStore.AttemptsOf(ctx, s); return e })
	return out, err
}

// parser takes each paragraph for a block.
type parser struct{ f *faults }

func (p parser) Parse(ctx context.Context, r actors.ParseRequest) (out *pipeline.Parsed, err error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	err = p.f.run(op{ctx: ctx, name: "Parse", text: string(data)}, func() error {
		out = &pipeline.Parsed{MediaType: "text/plain", Language: "en", Text: string(data)}
		for at := 0; at < len(data); {
			end := strings.Index(string(data[at:]), "\n\n")
			if end < 0 {
				end = len(data) - at
			}
			if end > 0 {
				out.Blocks = append(out.Blocks, pipeline.Block{Start: at, End: at + end})
			}
			at += end + 2
		}
		return nil
	})
	return out, err
}

// fetcher delivers the URL's path as text.
type fetcher struct{ f *faults }

func (f fetcher) Fetch(ctx context.Context, url string, w io.Writer) (out actors.Fetched, err error) {
	err = f.f.run(op{ctx: ctx, name: "Fetch"}, func() error {
		_, e := io.WriteString(w, url[strings.LastIndexByte(url, '/')+1:])
		out = actors.Fetched{MediaType: "text/plain", FileName: "page.txt"}
		return e
	})
	return out, err
}

const (
	model = "fake/8"
	dims  = 8
)

// embedder makes a vector of a text's hash. A failing hook may have embedded a
// part of the batch: see partial.
type embedder struct{ f *faults }

func (embedder) Model() string { return model }
func (embedder) Dims() int     { return dims }

func (e embedder) Passages(ctx context.Context, in []embed.Input) (out []pipeline.Embedding, err error) {
	err = e.f.run(op{ctx: ctx, name: "Passages"}, func() error {
		for _, i := range in {
			e.f.tally("passages", 1)
			out = append(out, pipeline.Embedding{Vectors: [][]float32{vectorOf(i.Text)}})
		}
		return nil
	})
	return out, err
}

func (e embedder) Query(ctx context.Context, in embed.Input) (out []pipeline.QueryVector, err error) {
	err = e.f.run(op{ctx: ctx, name: "Query"}, func() error {
		out = []pipeline.QueryVector{{Vector: vectorOf(in.Text)}}
		return nil
	})
	return out, err
}

// tally counts something that is no operation.
func (f *faults) tally(name string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[name] += n
}

func vectorOf(text string) []float32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	x, v, sum := h.Sum64()|1, make([]float32, dims), 0.0
	for i := range v {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		v[i] = float32(int64(x%2001) - 1000)
		sum += float64(v[i]) * float64(v[i])
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(sum))
	}
	return v
}
