package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/chunk"
	"granary.dev/granary/actors/pipeline/embed"
	"granary.dev/granary/actors/pipeline/sandbox"
	"granary.dev/granary/actors/search"
	"granary.dev/granary/storage/sealed"
)

// stage is what one step costs by itself.
type stage struct {
	name string
	cpu  time.Duration // per document
}

// stageRun measures each step of the pipeline alone over the same documents, on
// all cores at once, as the limit that follows from it counts all cores: two
// threads of one core slow each other down.
type stageRun struct {
	docs     [][]byte
	embedder *fixedEmbedder
	parsed   []*pipeline.Parsed
	chunks   [][]pipeline.Chunk
	vectors  [][]pipeline.Embedding
}

// chunksPerDoc is the mean number of chunks.
func (s *stageRun) chunksPerDoc() float64 {
	n := 0
	for _, c := range s.chunks {
		n += len(c)
	}
	return float64(n) / float64(len(s.docs))
}

// measure gives the stages and the sum of their CPU per document.
func (s *stageRun) measure(ctx context.Context) (stages []stage, sum time.Duration, err error) {
	for _, st := range []struct {
		name string
		run  func(context.Context) error
	}{{"parse", s.parse}, {"chunk", s.chunk}, {"embed", s.embed}, {"segment", s.segment}, {"store", s.store}} {
		m := newMeter()
		if err := st.run(ctx); err != nil {
			return nil, 0, fmt.Errorf("stage %s: %w", st.name, err)
		}
		per := m.read().cpu / time.Duration(len(s.docs))
		stages = append(stages, stage{st.name, per})
		sum += per
	}
	return stages, sum, nil
}

// parse runs the documents through worker processes, whose start, once in 200
// documents, is a part of what parsing costs.
func (s *stageRun) parse(ctx context.Context) error {
	pool, err := sandbox.NewPool(sandbox.Config{Size: runtime.GOMAXPROCS(0)})
	if err != nil {
		return err
	}
	s.parsed = make([]*pipeline.Parsed, len(s.docs))
	err = s.each(func(i int) (err error) {
		d := s.docs[i]
		s.parsed[i], err = pool.Parse(ctx, sandbox.Request{Name: fmt.Sprintf("%d.md", i), Data: bytes.NewReader(d), Size: int64(len(d))})
		return err
	})
	return errors.Join(err, pool.Close()) // the workers' CPU counts once they have ended
}

// each runs f for every document, one at a time on each core.
func (s *stageRun) each(f func(i int) error) error {
	return inParallel(runtime.GOMAXPROCS(0), len(s.docs), f)
}

func (s *stageRun) chunk(context.Context) error {
	s.chunks = make([][]pipeline.Chunk, len(s.docs))
	return s.each(func(i int) (err error) {
		s.chunks[i], err = chunk.Split(s.parsed[i], chunk.DefaultOptions())
		return err
	})
}

func (s *stageRun) embed(ctx context.Context) error {
	s.vectors = make([][]pipeline.Embedding, len(s.docs))
	return s.each(func(i int) (err error) {
		in := make([]embed.Input, len(s.chunks[i]))
		for j, c := range s.chunks[i] {
			in[j] = embed.Input{Text: chunk.EmbedText(c, s.parsed[i].Title), Language: c.Language}
		}
		s.vectors[i], err = s.embedder.Passages(ctx, in)
		return err
	})
}

// segment builds what is searched: the words when the chunks are written, the
// vectors when they are there, and the change of the index by both.
func (s *stageRun) segment(context.Context) error {
	idx := search.New(search.Options{})
	defer idx.Close()
	var mu sync.Mutex // an index is changed by one at a time
	var revision uint64
	return s.each(func(i int) error {
		words, err := search.BuildSegment([]search.SegmentDoc{{ID: fmt.Sprint(i), Version: 1, Attempt: "a", Chunks: s.chunks[i]}})
		if err != nil {
			return err
		}
		whole, err := words.WithVectors(s.vectors[i])
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, seg := range []*search.Segment{words, whole} {
			revision++
			if err := idx.Apply(search.Batch{Revision: revision, Add: []*search.Segment{seg}}); err != nil {
				return err
			}
		}
		return nil
	})
}

// storers is how many documents are stored at a time: the store commits what
// waits as a group, and one at a time would pay for a commit each.
const storers = 32

// store does to the store what a document of the pipeline does, each storer
// with a knowledge base of its own.
func (s *stageRun) store(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "granary-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, err := openStore(ctx, dir)
	if err != nil {
		return err
	}
	errs := make([]error, storers)
	var wg sync.WaitGroup
	for w := range storers {
		wg.Go(func() {
			id := journal.Identity{Kind: "kb", Tenant: "t", ID: fmt.Sprint("k", w)}
			j := &storedKB{store: store, scope: journal.Scope{Tenant: "t", UID: uuid.NewString()}}
			if j.fence, _, errs[w] = store.Acquire(ctx, id, journal.Claim{Node: "bench"}); errs[w] != nil {
				return
			}
			for i := w; i < len(s.docs); i += storers {
				if errs[w] = j.document(ctx, s.docs[i], s.chunks[i], s.vectors[i]); errs[w] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, store.Close())...)
}

// storedKB writes one knowledge base.
type storedKB struct {
	store *sealed.Store
	scope journal.Scope
	fence journal.Fence
	head  int64
}

func (j *storedKB) append(ctx context.Context, claim []string, e kb.Event) error {
	typ, data, err := kb.EncodeEvent(e)
	if err != nil {
		return err
	}
	b := journal.Batch{Head: j.head, ClaimBlobs: claim, Events: []journal.Event{{Seq: j.head + 1, Time: time.Now().UTC(), Type: typ, Data: data}}}
	j.head++
	return j.store.Append(ctx, j.fence, b)
}

func (j *storedKB) document(ctx context.Context, data []byte, chunks []pipeline.Chunk, vectors []pipeline.Embedding) error {
	w, err := j.store.CreateBlob(ctx, j.scope.Tenant)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return err
	}
	blob, err := w.Commit(ctx)
	if err != nil {
		return err
	}
	id, attempt := uuid.NewString(), uuid.NewString()
	err = errors.Join(
		j.append(ctx, []string{blob.ID}, &kb.DocumentAdded{ID: id, Version: 1, Name: "report.md",
			Source: kb.Source{Blob: blob.ID, Size: blob.Size, SHA256: blob.SHA256}}),
		j.append(ctx, nil, &kb.DocumentStarted{ID: id, Version: 1, Attempt: attempt, Stage: kb.StateParsing}))
	if err != nil {
		return err
	}
	body, _, err := j.store.OpenBlob(ctx, j.scope.Tenant, blob.ID)
	if err != nil {
		return err
	}
	if err := body.Close(); err != nil {
		return err
	}
	content := kb.Content{MediaType: "text/markdown", Language: "en", Title: "Report"}
	return errors.Join(
		j.putChunks(ctx, id, attempt, chunks),
		j.append(ctx, nil, &kb.DocumentChunked{ID: id, Version: 1, Attempt: attempt, Chunks: len(chunks), Model: "fixed-cost", Content: content}),
		j.putVectors(ctx, attempt, chunks, vectors),
		j.append(ctx, nil, &kb.DocumentIndexed{ID: id, Version: 1, Attempt: attempt, Chunks: len(chunks), Model: "fixed-cost", Content: content}))
}

func (j *storedKB) putChunks(ctx context.Context, id, attempt string, chunks []pipeline.Chunk) error {
	rows := make([]journal.Chunk, len(chunks))
	for i, c := range chunks {
		rows[i] = journal.Chunk{Ordinal: c.Ordinal, Text: c.Text, Start: c.Start, End: c.End, Headings: c.Headings,
			Language: c.Language, Hash: chunk.Hash(c, ""), Model: "fixed-cost"}
	}
	return j.store.PutChunks(ctx, j.fence, journal.Attempt{Scope: j.scope, Document: id, Version: 1, ID: attempt}, rows)
}

func (j *storedKB) putVectors(ctx context.Context, attempt string, chunks []pipeline.Chunk, vectors []pipeline.Embedding) error {
	hashes := make([]string, len(chunks))
	rows := make([]journal.Vectors, len(chunks))
	for i, c := range chunks {
		hashes[i] = chunk.Hash(c, "")
		rows[i] = journal.Vectors{Hash: hashes[i], Data: vectors[i].Vectors}
	}
	if _, err := j.store.VectorsByHash(ctx, j.scope, "fixed-cost", hashes); err != nil {
		return err
	}
	if err := j.store.PutVectors(ctx, j.fence, j.scope, "fixed-cost", rows); err != nil {
		return err
	}
	_, _, err := j.store.CountChunks(ctx, j.scope, attempt, "fixed-cost")
	return err
}
