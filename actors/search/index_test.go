package search_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/search"
)

// The workers are those of a library that the benchmarks compare with; it starts
// them when it is imported.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/blevesearch/bleve_index_api.AnalysisWorker"))
}

// doc makes a document whose chunks hold the given texts.
func doc(id string, version int64, texts ...string) search.SegmentDoc {
	d := search.SegmentDoc{ID: id, Version: version, Attempt: fmt.Sprintf("attempt-%d", version)}
	for i, text := range texts {
		d.Chunks = append(d.Chunks, pipeline.Chunk{Ordinal: i, Text: text})
	}
	return d
}

func segment(t testing.TB, docs ...search.SegmentDoc) *search.Segment {
	t.Helper()
	s, err := search.BuildSegment(docs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func apply(t testing.TB, x *search.Index, b search.Batch) {
	t.Helper()
	if err := x.Apply(b); err != nil {
		t.Fatal(err)
	}
}

func find(t testing.TB, v *search.View, q search.Query) search.Result {
	t.Helper()
	r, err := v.Search(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func words(text string) search.Query {
	return search.Query{Text: text, Mode: search.ModeKeyword, TopN: search.MaxTopN}
}

// ids lists the hits as document/ordinal.
func ids(hits []search.Hit) []string {
	var out []string
	for _, h := range hits {
		out = append(out, fmt.Sprintf("%s/%d", h.DocumentID, h.Ordinal))
	}
	return out
}

func TestC5_AnApplyIsSeenAtOnceAndOldViewsStayAsTheyWere(t *testing.T) {
	x := search.New(search.Options{})
	defer x.Close()
	apply(t, x, search.Batch{Revision: 1, Add: []*search.Segment{segment(t, doc("a", 1, "wheat harvest"), doc("b", 1, "wheat storage"))}})
	old := x.View()
	apply(t, x, search.Batch{Revision: 2, Add: []*search.Segment{segment(t, doc("a", 2, "rye harvest"))}, Remove: []string{"b", "unknown"}})
	if got := ids(find(t, old, words("wheat")).Hits); !slices.Equal(got, []string{"a/0", "b/0"}) {
		t.Errorf("the old view changed: %v", got)
	}
	r := find(t, x.View(), words("wheat rye harvest storage"))
	if got := ids(r.Hits); !slices.Equal(got, []string{"a/0"}) || r.Hits[0].Version != 2 || r.Hits[0].Attempt != "attempt-2" || r.Revision != 2 {
		t.Errorf("got %v at revision %d", r.Hits, r.Revision)
	}
	if version, attempt, ok := x.View().Live("a"); !ok || version != 2 || attempt != "attempt-2" {
		t.Errorf("live: %d %s %v", version, attempt, ok)
	}
	if _, _, ok := x.View().Live("b"); ok {
		t.Error("a removed document is live")
	}
}

func TestC4_VectorsComeBehindTheWordsAndNeverReviveADocument(t *testing.T) {
	x := search.New(search.Options{})
	defer x.Close()
	seg := segment(t, doc("a", 1, "wheat", "rye"))
	apply(t, x, search.Batch{Revision: 1, Add: []*search.Segment{seg}})
	if n := x.View().Pending(); n != 2 {
		t.Errorf("pending %d, want 2", n)
	}
	full, err := seg.WithVectors([]pipeline.Embedding{{Vectors: [][]float32{{1, 0}}}, {Vectors: [][]float32{{0, 1}, {1, 0}}}})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, x, search.Batch{Revision: 2, Attach: []*search.Segment{full}})
	q := search.Query{Mode: search.ModeVector, Vectors: []pipeline.QueryVector{{Vector: []float32{0, 1}}}}
	r := find(t, x.View(), q)
	if got := ids(r.Hits); !slices.Equal(got, []string{"a/1", "a/0"}) || x.View().Pending() != 0 || x.View().Stats().Documents != 1 {
		t.Fatalf("got %v, pending %d", got, x.View().Pending())
	}
	if math.Abs(r.Hits[0].Score-1) > 1e-4 || r.Hits[0].Parts.Window != 0 || !r.Plan.Exact {
		t.Errorf("hit %+v plan %+v", r.Hits[0], r.Plan)
	}
	alone, ok := x.View().Extract("a")
	if !ok || alone.Documents() != 1 || alone.Chunks() != 2 || alone.Vectors() != 3 {
		t.Error("extract did not give the document back")
	}
	apply(t, x, search.Batch{Revision: 3, Remove: []string{"a"}})
	apply(t, x, search.Batch{Revision: 4, Attach: []*search.Segment{full}})
	if s := x.View().Stats(); s.Documents != 0 || s.Segments != 0 {
		t.Errorf("late vectors brought a removed document back: %+v", s)
	}
	apply(t, x, search.Batch{Revision: 5, Add: []*search.Segment{segment(t, doc("a", 2, "oats"))}})
	apply(t, x, search.Batch{Revision: 6, Attach: []*search.Segment{full}})
	if version, _, _ := x.View().Live("a"); version != 2 {
		t.Errorf("late vectors brought version %d back", version)
	}
}

func TestC5_InvalidSegmentsAreRefused(t *testing.T) {
	nan := float32(math.NaN())
	vec := func(v ...[]float32) search.SegmentDoc {
		d := doc("a", 1, "x")
		d.Embeddings = []pipeline.Embedding{{Vectors: v}}
		return d
	}
	for i, docs := range [][]search.SegmentDoc{
		{doc("", 1, "x")}, {doc("a", 1, "x"), doc("a", 2, "y")}, {vec([]float32{nan})}, {vec([]float32{})},
		{vec([]float32{1, 0}, []float32{1})}, {vec(make([]float32, search.MaxDims+1))},
		{{ID: "a", Chunks: make([]pipeline.Chunk, 2), Embeddings: make([]pipeline.Embedding, 1)}},
	} {
		if _, err := search.BuildSegment(docs); err == nil {
			t.Errorf("case %d was accepted", i)
		}
	}
	if _, err := segment(t, doc("a", 1, "x")).WithVectors(nil); err == nil {
		t.Error("missing embeddings were accepted")
	}
	if _, err := segment(t, doc("a", 1, "x"), doc("b", 1, "y")).WithVectors(make([]pipeline.Embedding, 2)); err == nil {
		t.Error("vectors for two documents were accepted")
	}
}

func TestC5_TenThousandSingleDocumentsEndInFewSegments(t *testing.T) {
	x := search.New(search.Options{})
	defer x.Close()
	const n = 10_000
	for i := range n {
		apply(t, x, search.Batch{Revision: uint64(i), Add: []*search.Segment{segment(t, doc(fmt.Sprint(i), 1, fmt.Sprintf("common word%d", i%97)))}})
	}
	waitForMerges(t, x)
	s := x.View().Stats()
	if s.Documents != n || s.Segments > 40 {
		t.Errorf("%+v", s)
	}
	if r := find(t, x.View(), words("word13")); len(r.Hits) != 103 || r.Revision != n-1 {
		t.Errorf("%d hits at revision %d", len(r.Hits), r.Revision)
	}
	if err := x.Compact(context.Background()); err != nil || x.View().Stats().Segments != 1 {
		t.Errorf("compact: %v, %+v", err, x.View().Stats())
	}
}

// waitForMerges returns when the background has nothing left to merge: Compact
// takes its turn only then, and a view of one segment is left alone.
func waitForMerges(t testing.TB, x *search.Index) {
	t.Helper()
	search.WaitForMerges(x)
}

func TestC5_CloseStopsMergesAndRefusesChanges(t *testing.T) {
	x := search.New(search.Options{})
	for i := range 500 {
		apply(t, x, search.Batch{Add: []*search.Segment{segment(t, doc(fmt.Sprint(i), 1, "wheat"))}})
	}
	x.Close()
	x.Close()
	if err := x.Apply(search.Batch{}); err != search.ErrClosed {
		t.Errorf("apply after close: %v", err)
	}
	if err := x.Compact(context.Background()); err != search.ErrClosed {
		t.Errorf("compact after close: %v", err)
	}
	if r := find(t, x.View(), words("wheat")); len(r.Hits) != 500 {
		t.Errorf("%d hits from the last view", len(r.Hits))
	}
}

// model is the naive index: a map and plain BM25 over it.
type model map[string]search.SegmentDoc

func (m model) bm25(query []string) map[string]float64 {
	total, n := 0, 0
	df := make(map[string]int)
	for _, d := range m {
		for _, c := range d.Chunks {
			fields := strings.Fields(c.Text)
			total, n = total+len(fields), n+1
			slices.Sort(fields)
			for _, w := range slices.Compact(fields) {
				df[w]++
			}
		}
	}
	average := float64(total) / float64(n)
	out := make(map[string]float64)
	for id, d := range m {
		for i, c := range d.Chunks {
			fields := strings.Fields(c.Text)
			score := 0.0
			for _, q := range query {
				tf := 0.0
				for _, f := range fields {
					if f == q {
						tf++
					}
				}
				if tf > 0 {
					idf := math.Log(1 + (float64(n-df[q])+0.5)/(float64(df[q])+0.5))
					score += idf * tf * 2.2 / (tf + 1.2*(0.25+0.75*float64(len(fields))/average))
				}
			}
			if score > 0 {
				out[fmt.Sprintf("%s/%d", id, i)] = score
			}
		}
	}
	return out
}

func TestC5_AnySequenceOfChangesAgreesWithANaiveModel(t *testing.T) {
	vocabulary := strings.Fields("zero alpha beta gamma delta epsilon zeta eta theta iota kappa lambda")
	rapid.Check(t, func(t *rapid.T) {
		x := search.New(search.Options{})
		defer x.Close()
		m := model{}
		version := int64(0)
		text := rapid.Map(rapid.SliceOfN(rapid.SampledFrom(vocabulary), 1, 12), func(w []string) string { return strings.Join(w, " ") })
		id := rapid.Map(rapid.IntRange(0, 20), func(i int) string { return fmt.Sprintf("doc%d", i) })
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			var b search.Batch
			version++
			b.Revision = uint64(version)
			switch rapid.IntRange(0, 4).Draw(t, "op") {
			case 0, 1, 2:
				var docs []search.SegmentDoc
				for _, id := range rapid.SliceOfNDistinct(id, 1, 4, func(s string) string { return s }).Draw(t, "ids") {
					d := doc(id, version, rapid.SliceOfN(text, 0, 4).Draw(t, "texts")...)
					docs = append(docs, d)
					m[id] = d
				}
				seg, err := search.BuildSegment(docs)
				if err != nil {
					t.Fatal(err)
				}
				b.Add = append(b.Add, seg)
			case 3:
				b.Remove = rapid.SliceOfN(id, 0, 6).Draw(t, "remove")
				for _, id := range b.Remove {
					delete(m, id)
				}
			case 4:
				if err := x.Compact(context.Background()); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := x.Apply(b); err != nil {
				t.Fatal(err)
			}
			checkLive(t, x.View(), m, vocabulary)
		}
		if err := x.Compact(context.Background()); err != nil {
			t.Fatal(err)
		}
		checkLive(t, x.View(), m, vocabulary)
		checkScores(t, x.View(), m, rapid.SliceOfNDistinct(rapid.SampledFrom(vocabulary), 1, 4, func(s string) string { return s }).Draw(t, "query"))
	})
}

// checkLive holds that exactly the model's chunks are found, each in its version.
func checkLive(t *rapid.T, v *search.View, m model, vocabulary []string) {
	r, err := v.Search(context.Background(), words(strings.Join(vocabulary, " ")))
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for id, d := range m {
		for i := range d.Chunks {
			want = append(want, fmt.Sprintf("%s/%d@%d", id, i, d.Version))
		}
	}
	for _, h := range r.Hits {
		got = append(got, fmt.Sprintf("%s/%d@%d", h.DocumentID, h.Ordinal, h.Version))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("found %v, want %v", got, want)
	}
	if s := v.Stats(); s.Documents != len(m) || s.Chunks != len(want) {
		t.Fatalf("stats %+v, want %d documents and %d chunks", s, len(m), len(want))
	}
}

// checkScores holds scores and order, which without deletes are exact.
func checkScores(t *rapid.T, v *search.View, m model, query []string) {
	r, err := v.Search(context.Background(), words(strings.Join(query, " ")))
	if err != nil {
		t.Fatal(err)
	}
	want := m.bm25(query)
	if len(r.Hits) != len(want) {
		t.Fatalf("%d hits, want %d", len(r.Hits), len(want))
	}
	for _, h := range r.Hits {
		if w := want[fmt.Sprintf("%s/%d", h.DocumentID, h.Ordinal)]; math.Abs(h.Parts.BM25-w) > 1e-4*(1+w) {
			t.Fatalf("%s/%d: bm25 %v, want %v", h.DocumentID, h.Ordinal, h.Parts.BM25, w)
		}
	}
	if !slices.IsSortedFunc(r.Hits, func(a, b search.Hit) int { return cmp.Compare(b.Score, a.Score) }) {
		t.Fatal("hits out of order")
	}
}

// Readers, a writer and merges at once: every view must hold whole batches only.
func TestI8_SearchesSeeWholeBatchesWhileWritesAndMergesRun(t *testing.T) {
	x := search.New(search.Options{Scanners: search.NewScanners(1)})
	defer x.Close()
	var readers sync.WaitGroup
	var done atomic.Bool
	for range 3 {
		readers.Go(func() {
			for !done.Load() {
				v := x.View()
				r, err := v.Search(context.Background(), search.Query{
					Text: "common", TopN: search.MaxTopN, Mode: search.ModeHybrid,
					Vectors: []pipeline.QueryVector{{Vector: []float32{1, 0, 0}}},
				})
				if err != nil {
					t.Error(err)
					return
				}
				checkWhole(t, r.Hits)
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 600 {
		k := random.IntN(20)
		pair := []search.SegmentDoc{doc(fmt.Sprint("x", k), int64(i), "common one", "common two"), doc(fmt.Sprint("y", k), int64(i), "common one", "common two")}
		for j := range pair {
			pair[j].Embeddings = []pipeline.Embedding{{Vectors: [][]float32{{1, 0, 0}}}, {Vectors: [][]float32{{0, 1, 0}}}}
		}
		b := search.Batch{Revision: uint64(i), Add: []*search.Segment{segment(t, pair[0]), segment(t, pair[1])}}
		if i%7 == 0 {
			b = search.Batch{Revision: uint64(i), Remove: []string{fmt.Sprint("x", k), fmt.Sprint("y", k)}}
		}
		apply(t, x, b)
		if i%100 == 50 {
			if err := x.Compact(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	done.Store(true)
	readers.Wait()
}

// checkWhole holds that each document is found in one version with both its
// chunks, and documents in pairs, as the writer applies them.
func checkWhole(t *testing.T, hits []search.Hit) {
	versions := make(map[string]map[int64]int)
	for _, h := range hits {
		if versions[h.DocumentID] == nil {
			versions[h.DocumentID] = make(map[int64]int)
		}
		versions[h.DocumentID][h.Version]++
	}
	for id, seen := range versions {
		for version, n := range seen {
			if len(seen) != 1 || n != 2 {
				t.Errorf("document %s: version %d with %d chunks of 2", id, version, n)
			}
		}
	}
	if len(versions)%2 != 0 {
		t.Errorf("half a batch: %d documents", len(versions))
	}
}
