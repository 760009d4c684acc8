package search

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"granary.dev/granary/actors/pipeline"
)

func TestP4_TheKernelAgreesWithPlainGoForEveryLength(t *testing.T) {
	t.Logf("kernel: %s", kernel())
	random := rand.New(rand.NewPCG(1, 1))
	for _, stride := range []int{32, 64, 384, 512, 768, 1024, MaxDims} {
		for _, n := range []int{0, 1, 3, scanBlock} {
			q, rows := make([]int16, stride), make([]int8, n*stride)
			units := (math.MaxInt32 / (127 * stride)) & math.MaxInt16
			for i := range q {
				q[i] = int16(random.IntN(2*units+1) - units)
			}
			for i := range rows {
				rows[i] = int8(random.IntN(255) - 127)
			}
			got, want := make([]int32, n), make([]int32, n)
			dotRows(q, rows, got)
			dotGeneric(q, rows, want)
			if !slices.Equal(got, want) {
				t.Fatalf("stride %d, %d rows: got %v, want %v", stride, n, got, want)
			}
		}
	}
}

// The worst case must not overflow: every product at its largest, all of one sign.
func TestP4_TheLargestVectorsDoNotOverflow(t *testing.T) {
	for _, dims := range []int{1, 31, 384, 1024, MaxDims} {
		x := make([]float32, dims)
		for i := range x {
			x[i] = float32(1 / math.Sqrt(float64(dims)))
		}
		set := vectorSet{dims: dims}
		if !set.push(0, x) {
			t.Fatal("refused")
		}
		q := quantizeQuery(x)
		if got := set.exact(&q, 0); math.Abs(float64(got)-1) > 1e-4 {
			t.Errorf("%d dimensions: %v, want 1", dims, got)
		}
	}
}

// clustered draws unit vectors around a few centres, as embeddings lie.
func clustered(random *rand.Rand, n, dims, clusters int) [][]float32 {
	centres := make([][]float32, clusters)
	for i := range centres {
		centres[i] = make([]float32, dims)
		for j := range centres[i] {
			centres[i][j] = float32(random.NormFloat64())
		}
	}
	out := make([][]float32, n)
	for i := range out {
		c := centres[random.IntN(clusters)]
		out[i] = make([]float32, dims)
		sum := 0.0
		for j := range out[i] {
			out[i][j] = c[j] + 0.6*float32(random.NormFloat64())
			sum += float64(out[i][j]) * float64(out[i][j])
		}
		for j := range out[i] {
			out[i][j] /= float32(math.Sqrt(sum))
		}
	}
	return out
}

func vectorView(t testing.TB, vectors [][]float32, perDoc int) *View {
	t.Helper()
	var docs []SegmentDoc
	for i := 0; i < len(vectors); i += perDoc {
		d := SegmentDoc{ID: string(rune('a'+i%26)) + string(rune('0'+i/26))}
		for _, v := range vectors[i:min(i+perDoc, len(vectors))] {
			d.Chunks = append(d.Chunks, pipeline.Chunk{})
			d.Embeddings = append(d.Embeddings, pipeline.Embedding{Vectors: [][]float32{v}})
		}
		docs = append(docs, d)
	}
	s, err := BuildSegment(docs)
	if err != nil {
		t.Fatal(err)
	}
	x := New(Options{})
	t.Cleanup(x.Close)
	if err := x.Apply(Batch{Add: []*Segment{s}}); err != nil {
		t.Fatal(err)
	}
	return x.View()
}

func TestP4_RecallAgainstExactFloatsIsOneOnClusteredData(t *testing.T) {
	const n, queries, top = 6000, 60, 10
	for _, dims := range []int{100, 384, 512} {
		random := rand.New(rand.NewPCG(uint64(dims), 7))
		all := clustered(random, n+queries, dims, 40)
		vectors, asked := all[:n], all[n:]
		v := vectorView(t, vectors, 1)
		found, exact := 0, 0
		for _, q := range asked {
			r, err := v.Search(context.Background(), Query{Mode: ModeVector, TopN: top, Vectors: []pipeline.QueryVector{{Vector: q}}})
			if err != nil {
				t.Fatal(err)
			}
			if r.Plan.Exact {
				exact++
			}
			bar := nth(vectors, q, top)
			for _, h := range r.Hits {
				if h.Parts.Cosine >= bar-2e-5 { // ties of floats
					found++
				}
			}
		}
		recall := float64(found) / (queries * top)
		t.Logf("%d dimensions: recall@10 %.4f, %d of %d proven exact", dims, recall, exact, queries)
		if recall < 0.999 || exact != queries {
			t.Errorf("%d dimensions: recall@10 %.4f, %d of %d proven exact", dims, recall, exact, queries)
		}
	}
}

// Near-duplicates crowd closer than the high plane can tell apart: only a second
// pass can prove the answer.
func TestP4_NearDuplicatesAreToldApartByASecondPass(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	base := clustered(random, 1, 64, 1)[0]
	vectors := make([][]float32, 2000)
	for i := range vectors {
		vectors[i] = make([]float32, len(base))
		sum := 0.0
		for j := range base {
			vectors[i][j] = base[j] + 0.002*float32(random.NormFloat64())
			sum += float64(vectors[i][j]) * float64(vectors[i][j])
		}
		for j := range base {
			vectors[i][j] /= float32(math.Sqrt(sum))
		}
	}
	v := vectorView(t, vectors, 7)
	for _, q := range vectors[:20] {
		r, err := v.Search(context.Background(), Query{Mode: ModeVector, Candidates: 20, Vectors: []pipeline.QueryVector{{Vector: q}}})
		if err != nil {
			t.Fatal(err)
		}
		if !r.Plan.Exact || r.Plan.Rescored <= 40 {
			t.Fatalf("no second pass: %+v", r.Plan)
		}
		for i, h := range r.Hits {
			if want := nth(vectors, q, i+1); math.Abs(h.Parts.Cosine-want) > 2e-5 {
				t.Fatalf("hit %d: cosine %v, want %v", i, h.Parts.Cosine, want)
			}
		}
	}
}

// nth is the n-th best cosine in floats.
func nth(vectors [][]float32, q []float32, n int) float64 {
	scores := make([]float64, len(vectors))
	for i, v := range vectors {
		for j := range v {
			scores[i] += float64(v[j]) * float64(q[j])
		}
	}
	slices.Sort(scores)
	return scores[len(scores)-n]
}

func TestP4_AParallelScanFindsTheSame(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	all := clustered(random, parallelFrom+scanTask, 32, 20)
	v := vectorView(t, all, 8)
	q := Query{Mode: ModeVector, TopN: 50, Vectors: []pipeline.QueryVector{{Vector: all[17]}}}
	alone, err := v.Search(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	v.shared.scanner = NewScanners(1)
	together, err := v.Search(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	if together.Plan.Goroutines != 2 || alone.Plan.Goroutines != 1 || !slices.Equal(alone.Hits, together.Hits) {
		t.Errorf("%d goroutines, same hits: %v", together.Plan.Goroutines, slices.Equal(alone.Hits, together.Hits))
	}
	if v.shared.scanner.take(9) != 1 {
		t.Error("the scan did not give its allowance back")
	}
}

func TestP4_TwoPlanesHoldAVectorToHalfAStepOfTheLowOne(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 9))
	for _, x := range clustered(random, 50, 384, 3) {
		set := vectorSet{dims: len(x)}
		set.push(0, x)
		worst := 0.0
		for i := range x {
			back := float64(set.scales[0]) * (float64(set.high[i]) + float64(set.low[i])/lowUnits)
			worst = max(worst, math.Abs(back-float64(x[i])))
		}
		if limit := float64(set.scales[0]) / lowUnits * 0.51; worst > limit {
			t.Fatalf("error %g above half a step of the low plane, %g", worst, limit)
		}
	}
}
