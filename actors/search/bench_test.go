package search_test

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/blevesearch/bleve/v2"
	"github.com/philippgille/chromem-go"
	_ "modernc.org/sqlite" // the SQLite that has FTS5 built in

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/search"
)

// large tells whether the sizes that take minutes to build were asked for.
func large() bool { return os.Getenv("GRANARY_BENCH_LARGE") != "" }

// unit draws a unit vector around one of 64 centres.
func unit(random *rand.Rand, centres [][]float32, dims int) []float32 {
	c := centres[random.IntN(len(centres))]
	out := make([]float32, dims)
	sum := 0.0
	for i := range out {
		out[i] = c[i] + 0.7*float32(random.NormFloat64())
		sum += float64(out[i]) * float64(out[i])
	}
	for i := range out {
		out[i] /= float32(math.Sqrt(sum))
	}
	return out
}

// corpus is a synthetic collection: 80 words a chunk drawn by Zipf's law from
// 50,000, and vectors around 64 centres.
type corpus struct {
	random     *rand.Rand
	zipf       *rand.Zipf
	vocabulary []string
	centres    [][]float32
	dims       int
}

func newCorpus(dims int) *corpus {
	c := &corpus{random: rand.New(rand.NewPCG(4, 4)), dims: dims}
	c.zipf = rand.NewZipf(c.random, 1.1, 4, 49_999)
	for range 50_000 {
		word := make([]byte, 3+c.random.IntN(7))
		for i := range word {
			word[i] = byte('a' + c.random.IntN(26))
		}
		c.vocabulary = append(c.vocabulary, string(word))
	}
	for range 64 {
		centre := make([]float32, dims)
		for i := range centre {
			centre[i] = float32(c.random.NormFloat64())
		}
		c.centres = append(c.centres, centre)
	}
	return c
}

func (c *corpus) text(words int) string {
	out := make([]string, words)
	for i := range out {
		out[i] = c.vocabulary[c.zipf.Uint64()]
	}
	return strings.Join(out, " ")
}

// question is a common word, one in between and a rare one; the twenty commonest,
// which stand for stop words, are left out.
func (c *corpus) question() string {
	pick := func(from, to int) string { return c.vocabulary[from+c.random.IntN(to-from)] }
	return pick(20, 200) + " " + pick(200, 2000) + " " + pick(2000, 20_000)
}

func (c *corpus) vector() []float32 { return unit(c.random, c.centres, c.dims) }

// corpusIndex builds an index of n chunks, ten a document, in one segment.
func corpusIndex(tb testing.TB, n, dims, windows int) *search.Index {
	tb.Helper()
	c := newCorpus(max(dims, 1))
	x := search.New(search.Options{})
	tb.Cleanup(x.Close)
	const perSegment = 2000
	for from := 0; from < n; from += perSegment {
		var docs []search.SegmentDoc
		for i := from; i < min(from+perSegment, n); i += 10 {
			d := search.SegmentDoc{ID: fmt.Sprintf("doc%07d", i), Version: 1, Metadata: map[string]string{"bucket": fmt.Sprint(i / 10 % 100)}}
			for j := i; j < min(i+10, n); j++ {
				d.Chunks = append(d.Chunks, pipeline.Chunk{Text: c.text(80)})
				if windows > 0 {
					var e pipeline.Embedding
					for range windows {
						e.Vectors = append(e.Vectors, c.vector())
					}
					d.Embeddings = append(d.Embeddings, e)
				}
			}
			docs = append(docs, d)
		}
		apply(tb, x, search.Batch{Add: []*search.Segment{segment(tb, docs...)}})
	}
	if err := x.Compact(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return x
}

func sizes() []int {
	if large() {
		return []int{1_000, 10_000, 100_000, 1_000_000}
	}
	return []int{1_000, 10_000, 100_000}
}

// timed runs one contender and returns its CPU nanoseconds per operation, which
// a busy machine disturbs less than wall time; the ratio to the first contender
// is reported when base is not 0.
func timed(b *testing.B, name string, base float64, run func(i int)) float64 {
	var perOp float64
	b.Run(name, func(b *testing.B) {
		run(0) // pools and pages
		i := 0
		start := cpuTime()
		for b.Loop() {
			run(i)
			i++
		}
		perOp = float64(cpuTime()-start) / float64(i)
		b.ReportMetric(perOp, "cpu-ns/op")
		if base > 0 {
			b.ReportMetric(perOp/base, "ratio")
		}
	})
	return perOp
}

// BenchmarkP4_Vectors: the 10 nearest of n vectors of 384 dimensions.
func BenchmarkP4_Vectors(b *testing.B) {
	const dims, queries = 384, 64
	for _, n := range sizes() {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := newCorpus(dims)
			x := corpusIndex(b, n, dims, 1)
			asked := make([][]float32, queries)
			for i := range asked {
				asked[i] = c.vector()
			}
			v := x.View()
			base := timed(b, "granary", 0, func(i int) {
				find(b, v, search.Query{Mode: search.ModeVector, Vectors: []pipeline.QueryVector{{Vector: asked[i%queries]}}})
			})
			f, err := search.ParseFilter("metadata.bucket = 7")
			if err != nil {
				b.Fatal(err)
			}
			timed(b, "granary-filter-1pct", base, func(i int) {
				find(b, v, search.Query{Mode: search.ModeVector, Filter: f, Vectors: []pipeline.QueryVector{{Vector: asked[i%queries]}}})
			})
			if n > 100_000 {
				return
			}
			vectors := make([][]float32, n)
			for i := range vectors {
				vectors[i] = c.vector()
			}
			timed(b, "brute-f32", base, func(i int) { brute(vectors, asked[i%queries]) })
			collection := chromemOf(b, vectors)
			timed(b, "chromem", base, func(i int) {
				if _, err := collection.QueryEmbedding(b.Context(), asked[i%queries], 10, nil, nil); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// brute is the plain exact search in floats.
func brute(vectors [][]float32, q []float32) []float32 {
	top := make([]float32, 0, 11)
	for _, v := range vectors {
		var sum float32
		for j := range v {
			sum += v[j] * q[j]
		}
		if len(top) == 10 && sum <= top[9] {
			continue
		}
		at, _ := slices.BinarySearchFunc(top, sum, func(a, b float32) int {
			if a > b {
				return -1
			}
			return 1
		})
		top = slices.Insert(top, at, sum)
		top = top[:min(10, len(top))]
	}
	return top
}

func chromemOf(b *testing.B, vectors [][]float32) *chromem.Collection {
	b.Helper()
	none := func(context.Context, string) ([]float32, error) { return nil, nil }
	collection, err := chromem.NewDB().CreateCollection("bench", nil, none)
	if err != nil {
		b.Fatal(err)
	}
	docs := make([]chromem.Document, len(vectors))
	for i := range docs {
		docs[i] = chromem.Document{ID: fmt.Sprint(i), Content: "x", Embedding: vectors[i]}
	}
	if err := collection.AddDocuments(b.Context(), docs, runtime.NumCPU()); err != nil {
		b.Fatal(err)
	}
	return collection
}

// BenchmarkP4_Words: BM25, the 10 best of n chunks for three words, any of them.
func BenchmarkP4_Words(b *testing.B) {
	const queries = 256
	for _, n := range sizes() {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			x := corpusIndex(b, n, 0, 0)
			c := newCorpus(1)
			texts := make([]string, 0, n)
			if n <= 10_000 || large() && n <= 100_000 {
				for range n {
					texts = append(texts, c.text(80))
				}
			}
			asked := make([]string, queries)
			for i := range asked {
				asked[i] = c.question()
			}
			v := x.View()
			base := timed(b, "granary", 0, func(i int) {
				find(b, v, search.Query{Mode: search.ModeKeyword, Text: asked[i%queries]})
			})
			if len(texts) == 0 {
				return
			}
			ftsSearch := ftsOf(b, texts)
			timed(b, "sqlite-fts5", base, func(i int) { ftsSearch(strings.ReplaceAll(asked[i%queries], " ", " OR ")) })
			index := bleveOf(b, texts)
			timed(b, "bleve", base, func(i int) {
				if _, err := index.Search(bleve.NewSearchRequest(bleve.NewMatchQuery(asked[i%queries]))); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

func ftsOf(b *testing.B, texts []string) func(match string) {
	b.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1) // each connection would have a database of its own
	if _, err := db.Exec(`CREATE VIRTUAL TABLE t USING fts5(body, tokenize='porter unicode61')`); err != nil {
		b.Fatal(err)
	}
	tx, err := db.Begin()
	if err != nil {
		b.Fatal(err)
	}
	for _, text := range texts {
		if _, err := tx.Exec(`INSERT INTO t(body) VALUES (?)`, text); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	statement, err := db.Prepare(`SELECT rowid FROM t WHERE t MATCH ? ORDER BY rank LIMIT 10`)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = statement.Close() })
	return func(match string) {
		rows, err := statement.Query(match)
		if err != nil {
			b.Fatal(err)
		}
		for rows.Next() {
			var id int64
			if err := rows.Scan(&id); err != nil {
				b.Fatal(err)
			}
		}
		if err := rows.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func bleveOf(b *testing.B, texts []string) bleve.Index {
	b.Helper()
	mapping := bleve.NewIndexMapping()
	mapping.DefaultAnalyzer = "standard"
	index, err := bleve.NewUsing(b.TempDir()+"/bleve", mapping, "scorch", "scorch", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = index.Close() })
	for from := 0; from < len(texts); from += 1000 {
		batch := index.NewBatch()
		for i := from; i < min(from+1000, len(texts)); i++ {
			if err := batch.Index(fmt.Sprint(i), map[string]string{"body": texts[i]}); err != nil {
				b.Fatal(err)
			}
		}
		if err := index.Batch(batch); err != nil {
			b.Fatal(err)
		}
	}
	return index
}

// BenchmarkP4_Hybrid: the whole search, 10k chunks of two windows.
func BenchmarkP4_Hybrid(b *testing.B) {
	for _, dims := range []int{384, 512} {
		b.Run(fmt.Sprint(dims), func(b *testing.B) {
			x := corpusIndex(b, 10_000, dims, 2)
			c := newCorpus(dims)
			v, vector, text := x.View(), c.vector(), c.question()
			b.ReportAllocs()
			for b.Loop() {
				find(b, v, search.Query{Text: text, Vectors: []pipeline.QueryVector{{Vector: vector}}})
			}
			b.ReportMetric(float64(v.Stats().Bytes)/1e6, "MB")
		})
	}
}

// BenchmarkP3_Build: analysis and indexing of one document of ten chunks.
func BenchmarkP3_Build(b *testing.B) {
	c := newCorpus(384)
	d := search.SegmentDoc{ID: "a"}
	for range 10 {
		d.Chunks = append(d.Chunks, pipeline.Chunk{Text: c.text(120), Language: "en"})
		d.Embeddings = append(d.Embeddings, pipeline.Embedding{Vectors: [][]float32{c.vector(), c.vector()}})
	}
	b.ReportAllocs()
	for b.Loop() {
		segment(b, d)
	}
}
