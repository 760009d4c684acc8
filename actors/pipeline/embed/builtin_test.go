package embed

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/embed/uselite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// embedder is what a consumer would declare.
type embedder interface {
	Model() string
	Dims() int
	Passages(ctx context.Context, in []Input) ([]pipeline.Embedding, error)
	Query(ctx context.Context, in Input) ([]pipeline.QueryVector, error)
}

var (
	_ embedder = (*Builtin)(nil)
	_ embedder = (*OpenAI)(nil)
)

func checkUnit(t *testing.T, v []float32) {
	t.Helper()
	if len(v) != uselite.Dims || math.Abs(dot(v, v)-1) > 1e-5 {
		t.Errorf("%d dimensions, squared length %v", len(v), dot(v, v))
	}
}

func TestPassagesGoToTheSpaceOfTheirLanguage(t *testing.T) {
	for _, c := range []struct {
		in    Input
		space pipeline.Space
	}{
		{Input{"The moon shines.", "en"}, pipeline.SpaceModel},
		{Input{"The moon shines.", ""}, pipeline.SpaceModel},
		{Input{"12:30 – 14:00 !!!", ""}, pipeline.SpaceModel},
		{Input{"Der Mond scheint.", "de"}, pipeline.SpaceNGrams},
		{Input{"Луна светит.", ""}, pipeline.SpaceNGrams},
		{Input{"月亮很亮。", ""}, pipeline.SpaceNGrams},
		{Input{"月", "zh"}, pipeline.SpaceNGrams},
		{Input{"!!!", "de"}, pipeline.SpaceNGrams},
		{Input{"\u200b", "de"}, pipeline.SpaceNGrams},
		{Input{"\xff\xfe", "en"}, pipeline.SpaceModel},
		{Input{"\xff\xfe", "fr"}, pipeline.SpaceNGrams},
	} {
		got, err := newBuiltin(t).Passages(t.Context(), []Input{c.in})
		if err != nil || got[0].Space != c.space || len(got[0].Vectors) != 1 {
			t.Fatalf("%+v: %+v, %v", c.in, got, err)
		}
		checkUnit(t, got[0].Vectors[0])
	}
}

func TestQueriesGoToEverySpaceThatMayAnswer(t *testing.T) {
	b := newBuiltin(t)
	for text, want := range map[string][]pipeline.Space{
		"how do I log in":                {pipeline.SpaceModel, pipeline.SpaceNGrams},
		"怎么登录":                           {pipeline.SpaceNGrams},
		strings.Repeat("word ", 100_000): {pipeline.SpaceModel, pipeline.SpaceNGrams},
	} {
		got, err := b.Query(t.Context(), Input{Text: text})
		if err != nil {
			t.Fatal(err)
		}
		var spaces []pipeline.Space
		for _, v := range got {
			spaces = append(spaces, v.Space)
			checkUnit(t, v.Vector)
		}
		if !slices.Equal(spaces, want) {
			t.Errorf("%.20q: spaces %v, want %v", text, spaces, want)
		}
	}
	if got, err := b.Query(t.Context(), Input{Text: "how", Language: "de"}); err != nil || len(got) != 1 {
		t.Errorf("German query: %d vectors, %v", len(got), err)
	}
	if _, err := b.Query(t.Context(), Input{Text: " \n"}); pipeline.ReasonOf(err) != ReasonEmptyText {
		t.Errorf("blank query: %v", err)
	}
}

func TestLongPassagesHaveOverlappingWindows(t *testing.T) {
	b := newBuiltin(t)
	words := func(n int) string { return strings.TrimSpace(strings.Repeat("word ", n)) }
	for n, want := range map[int]int{1: 1, 64: 1, 65: 2, 112: 2, 113: 3, 700: 15, 1000: maxWindows} {
		got, err := b.Passages(t.Context(), []Input{{Text: words(n), Language: "en"}})
		if err != nil || len(got[0].Vectors) != want {
			t.Errorf("%d words (%d tokens): %d windows, want %d, %v", n, len(b.Tokens(words(n))), len(got[0].Vectors), want, err)
		}
	}
	ids := make([]int, 300)
	for i := range ids {
		ids[i] = i
	}
	next := 0
	for _, w := range windows(ids) {
		if len(w) != WindowTokens || w[0] > next {
			t.Errorf("window of %d from %d leaves a gap after %d", len(w), w[0], next)
		}
		next = w[len(w)-1] + 1
	}
	if next != len(ids) {
		t.Errorf("windows end at %d of %d", next, len(ids))
	}
}

func TestPassagesKeepTheirOrderAcrossBatches(t *testing.T) {
	b := newBuiltin(t)
	var in []Input
	for _, p := range readSet(t, paraphrases).Passages {
		in = append(in, Input{Text: p.Text, Language: "en"}, Input{Text: p.Text, Language: "fr"}, Input{Text: " "})
	}
	all, err := b.Passages(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for i, input := range in {
		single, err := b.Passages(t.Context(), []Input{input})
		if err != nil || len(single[0].Vectors) != len(all[i].Vectors) || (len(all[i].Vectors) == 0) != isBlank(input.Text) {
			t.Fatalf("input %d: %d vectors, alone %d, %v", i, len(all[i].Vectors), len(single[0].Vectors), err)
		}
		for j, v := range single[0].Vectors {
			if dot(v, all[i].Vectors[j]) < 0.99999 {
				t.Errorf("input %d, window %d differs in a batch", i, j)
			}
		}
	}
}

func TestCancelledCallsStop(t *testing.T) {
	b := newBuiltin(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Passages(ctx, []Input{{Text: "x"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("passages: %v", err)
	}
	if _, err := b.Query(ctx, Input{Text: "x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("query: %v", err)
	}
	if _, err := b.Query(ctx, Input{Text: "月"}); !errors.Is(err, context.Canceled) {
		t.Errorf("n-gram query: %v", err)
	}
}

// A waiter for a busy workspace leaves when its context ends, and queries do
// not wait for passages at all.
func TestQueriesDoNotWaitForPassages(t *testing.T) {
	b, err := NewBuiltin(1)
	if err != nil {
		t.Fatal(err)
	}
	held, err := b.bulk.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Query(t.Context(), Input{Text: "hello"}); err != nil {
		t.Errorf("query: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := b.Passages(ctx, []Input{{Text: "hello"}})
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("passages: %v", err)
	}
	b.bulk.give(held)
	if _, err := b.Passages(t.Context(), []Input{{Text: "hello"}}); err != nil {
		t.Errorf("after release: %v", err)
	}
}

func TestBuiltinServesManyGoroutines(t *testing.T) {
	b, err := NewBuiltin(2)
	if err != nil {
		t.Fatal(err)
	}
	in := []Input{{Text: "The moon shines."}, {Text: "Der Mond scheint.", Language: "de"}}
	want, err := b.Passages(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			got, err := b.Passages(t.Context(), in)
			if err != nil || !slices.Equal(got[0].Vectors[0], want[0].Vectors[0]) || !slices.Equal(got[1].Vectors[0], want[1].Vectors[0]) {
				t.Errorf("another answer, %v", err)
			}
		})
	}
	wg.Wait()
}

func TestNGramVectors(t *testing.T) {
	near := func(a, b string) float64 { return dot(ngramVector(a), ngramVector(b)) }
	if got := near("Rechnung", "Rechnungen"); got < 0.6 {
		t.Errorf("inflected form: %.2f", got)
	}
	if got := near("Rechnung", "Gewitter"); got > 0.3 {
		t.Errorf("another word: %.2f", got)
	}
	if got := near("STRASSE １", "strasse 1"); got < 0.9999 {
		t.Errorf("case and width: %.2f", got)
	}
	if got := near("数据库备份", "备份数据库"); got < 0.7 {
		t.Errorf("Chinese word order: %.2f", got)
	}
	long := strings.Repeat("Donaudampfschifffahrtsgesellschaft ", 100)
	if n := len(ngramWindows(long)); n < 10 || n > 20 {
		t.Errorf("%d windows of %d characters", n, len(long))
	}
	if n := len(ngramWindows(strings.Repeat("数据库备份", 60))); n != 4 {
		t.Errorf("%d windows of 300 Chinese characters, want 4", n)
	}
}

func FuzzNGrams(f *testing.F) {
	for _, s := range []string{"", " ", "a", "hello world", "数据 mixed Straße", "\xff", "\u200b", strings.Repeat("ab ", 400)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		windows := ngramWindows(text)
		if (len(windows) == 0) != isBlank(text) {
			t.Fatalf("%d windows", len(windows))
		}
		for i, again := range ngramWindows(text) {
			checkUnit(t, windows[i])
			if !slices.Equal(windows[i], again) {
				t.Fatal("not deterministic")
			}
		}
	})
}

func BenchmarkPassages(b *testing.B) {
	builtin := newBuiltin(b)
	set := readSet(b, paraphrases)
	for name, language := range map[string]string{"model": "en", "ngrams": "de"} {
		in := make([]Input, len(set.Passages))
		for i, p := range set.Passages {
			in[i] = Input{Text: p.Text, Language: language}
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := builtin.Passages(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*len(in))/b.Elapsed().Seconds(), "passages/s")
		})
	}
}
