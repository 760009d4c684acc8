package uselite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// newTestModel returns the built-in model with the given kernel.
func newTestModel(t testing.TB, k kernel) *Model {
	t.Helper()
	w, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	m, err := newModel(w, k)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func bestModel(t testing.TB) *Model {
	k, _ := bestKernel()
	return newTestModel(t, k)
}

// kernels are the kernels that this machine can run.
func kernels() map[string]kernel {
	best, name := bestKernel()
	return map[string]kernel{"go": genericKernel, name: best}
}

func cut(ids []int) []int { return ids[:min(len(ids), MaxTokens)] }

func embedOne(t testing.TB, m *Model, text string) []float32 {
	t.Helper()
	vectors, err := m.Forward(NewWorkspace(BatchTokens), [][]int{cut(testTokenizer(t).Encode(text))})
	if err != nil {
		t.Fatal(err)
	}
	return vectors[0]
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	return ab / math.Sqrt(aa*bb)
}

func TestVectorsMatchThePublishedModel(t *testing.T) {
	for name, k := range kernels() {
		m := newTestModel(t, k)
		for _, s := range readSamples(t, "testdata/reference.json") {
			got := embedOne(t, m, s.Text)
			if c := cosine(got, s.Embedding); c < 0.999 {
				t.Errorf("%s: cosine %.6f for %.40q", name, c, s.Text)
			}
			if norm := cosineNorm(got); math.Abs(norm-1) > 1e-5 {
				t.Errorf("%s: length %.7f for %.40q", name, norm, s.Text)
			}
		}
	}
}

func cosineNorm(v []float32) float64 {
	sum := 0.0
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	return math.Sqrt(sum)
}

// testdata/f32.bin is what the float32 weights give for the lines of texts.txt;
// cmd/internal/uselite-pack makes it.
func TestQuantisedModelStaysCloseToFloat32(t *testing.T) {
	texts, err := os.ReadFile("testdata/texts.txt")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("testdata/f32.bin")
	if err != nil {
		t.Fatal(err)
	}
	m := bestModel(t)
	lowest, count, full, half := 1.0, 0, 0, 0
	for line := range strings.Lines(string(texts)) {
		text := strings.TrimSuffix(line, "\n")
		want := make([]float32, Dims)
		for i := range want {
			want[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*(count*Dims+i):]))
		}
		count++
		ids := testTokenizer(t).Encode(text)
		if len(ids) >= MaxTokens {
			full++
		} else if len(ids) >= MaxTokens/2 {
			half++
		}
		c := cosine(embedOne(t, m, text), want)
		lowest = min(lowest, c)
		if c < 0.999 {
			t.Errorf("cosine %.6f for %.60q", c, text)
		}
	}
	if len(data) != 4*Dims*count || count < 40 || full < 4 || half < 4 {
		t.Errorf("test data: %d texts (%d full, %d half), %d bytes", count, full, half, len(data))
	}
	t.Logf("lowest cosine to float32 of %d texts: %.6f", count, lowest)
}

func TestKernelsAgree(t *testing.T) {
	best, name := bestKernel()
	random := rand.New(rand.NewPCG(1, 2))
	fill := func(n int) []float32 {
		out := make([]float32, n)
		for i := range out {
			out[i] = float32(random.NormFloat64())
		}
		return out
	}
	for _, depth := range []int{1, 2, 3, 4, 5, 7, 8, 63, 64, 128, 511, 512} {
		lda, ldc := depth+random.IntN(9), tileCols+random.IntN(9)
		a, b, c := fill(tileRows*lda), fill(depth*tileCols), fill(tileRows*ldc)
		got, want := slices.Clone(c), slices.Clone(c)
		best(depth, a, lda, b, got, ldc)
		genericKernel(depth, a, lda, b, want, ldc)
		for i := range got {
			if math.Abs(float64(got[i]-want[i])) > 1e-4*math.Sqrt(float64(depth)) {
				t.Fatalf("%s, depth %d, element %d: %v, want %v", name, depth, i, got[i], want[i])
			}
			if i%ldc >= tileCols && got[i] != c[i] {
				t.Fatalf("%s, depth %d: wrote outside the tile", name, depth)
			}
		}
	}
}

func TestModelsAgreeAcrossKernels(t *testing.T) {
	best, name := bestKernel()
	a, b := newTestModel(t, best), newTestModel(t, genericKernel)
	for i, s := range readSamples(t, "testdata/tokens.json") {
		if i%4 != 0 || len(s.Tokens) == 0 { // plain Go is slow
			continue
		}
		if c := cosine(embedOne(t, a, s.Text), embedOne(t, b, s.Text)); c < 0.99999 {
			t.Errorf("%s and go: cosine %.7f for %q", name, c, s.Text)
		}
	}
}

func TestKernelChecksItsBounds(t *testing.T) {
	for name, k := range kernels() {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s accepted a slice that is too short", name)
				}
			}()
			k(8, make([]float32, 5*8+7), 8, make([]float32, 8*tileCols), make([]float32, 6*tileCols), tileCols)
		}()
	}
}

func TestVectorDoesNotDependOnItsBatch(t *testing.T) {
	m := bestModel(t)
	ws := NewWorkspace(BatchTokens)
	var batch [][]int
	total := 0
	for _, s := range readSamples(t, "testdata/tokens.json") {
		ids := cut(s.Tokens)
		if len(ids) == 0 {
			continue
		}
		if total+len(ids) > BatchTokens {
			compareBatch(t, m, ws, batch)
			batch, total = nil, 0
		}
		batch, total = append(batch, ids), total+len(ids)
	}
	compareBatch(t, m, ws, batch)
}

func compareBatch(t *testing.T, m *Model, ws *Workspace, batch [][]int) {
	t.Helper()
	together, err := m.Forward(ws, batch)
	if err != nil {
		t.Fatal(err)
	}
	alone := NewWorkspace(BatchTokens)
	for i, ids := range batch {
		single, err := m.Forward(alone, [][]int{ids})
		if err != nil {
			t.Fatal(err)
		}
		if c := cosine(single[0], together[i]); c < 0.99999 {
			t.Errorf("text %d of %d: cosine %.7f", i, len(batch), c)
		}
	}
}

func TestForwardRefusesBadBatches(t *testing.T) {
	m := bestModel(t)
	long := make([]int, MaxTokens)
	for name, batch := range map[string][][]int{
		"empty text":  {{}},
		"too long":    {make([]int, MaxTokens+1)},
		"bad id":      {{m.embedding.Rows}},
		"negative id": {{-1}},
		"too much":    {long, long, long, long},
	} {
		if _, err := m.Forward(NewWorkspace(BatchTokens), batch); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if out, err := m.Forward(NewWorkspace(BatchTokens), nil); err != nil || out != nil {
		t.Errorf("no texts: %v, %v", out, err)
	}
}

func TestOneModelServesManyGoroutines(t *testing.T) {
	m := bestModel(t)
	want := embedOne(t, m, "safe for concurrent use")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			ids := testTokenizer(t).Encode("safe for concurrent use")
			got, err := m.Forward(NewWorkspace(BatchTokens), [][]int{ids})
			if err != nil || !slices.Equal(got[0], want) {
				t.Errorf("another vector (%v)", err)
			}
		})
	}
	wg.Wait()
}

func TestExpNegative(t *testing.T) {
	for x := float32(0); x > -86; x -= 0.0137 {
		want := math.Exp(float64(x))
		if got := float64(expNegative(x)); math.Abs(got-want) > 3e-7*want {
			t.Fatalf("exp(%v) = %v, want %v", x, got, want)
		}
	}
	if expNegative(-100) != 0 {
		t.Error("far below zero is not 0")
	}
}

func TestDamagedBlobIsRefused(t *testing.T) {
	flipped := slices.Clone(builtinBlob)
	flipped[len(flipped)/2] ^= 1
	for name, blob := range map[string][]byte{
		"empty": nil, "magic": []byte("GRUSEL99xxxxxxxx"), "short": builtinBlob[:len(builtinBlob)-1], "flipped": flipped,
	} {
		if _, err := DecodeBlob(blob); !errors.Is(err, ErrBlob) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBlobSurvivesARoundTrip(t *testing.T) {
	w, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	again, err := EncodeBlob(w)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(again, builtinBlob) {
		t.Error("quantising the quantised weights changed them")
	}
	if len(again) > 10_000_000 {
		t.Errorf("%d bytes, at most 10 MB allowed", len(again))
	}
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		w, err := Builtin()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := NewModel(w); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkForward runs the kernels side by side. texts/cs is per second of
// CPU time, which a busy machine disturbs less than the wall clock.
func BenchmarkForward(b *testing.B) {
	short, long := make([]int, 8), make([]int, MaxTokens)
	for i := range long {
		long[i] = 100 + 7*i
	}
	copy(short, long)
	for name, k := range kernels() {
		m := newTestModel(b, k)
		for label, batch := range map[string][][]int{
			"query":  {short},
			"short":  slices.Repeat([][]int{short}, BatchTokens/len(short)),
			"long":   slices.Repeat([][]int{long}, BatchTokens/len(long)),
			"single": {long},
		} {
			b.Run(fmt.Sprintf("%s/%s", label, name), func(b *testing.B) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				ws := NewWorkspace(BatchTokens)
				before := threadCPU()
				for b.Loop() {
					if _, err := m.Forward(ws, batch); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N*len(batch))/(threadCPU()-before).Seconds(), "texts/cs")
			})
		}
	}
}
