package search_test

import (
	"cmp"
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/chunk"
	"granary.dev/granary/actors/pipeline/embed"
	"granary.dev/granary/actors/search"
)

// relevanceSet is a labelled set of passages and questions, which are worded
// without the words of the passages. Grades go from 1 (touches the question) to
// 3 (answers it).
type relevanceSet struct {
	Passages  []struct{ ID, Title, Text string }
	Questions []struct {
		ID, Text string
		Relevant map[string]int
	}
}

// ndcg is the normalised discounted cumulative gain of the first ten.
func ndcg(order []string, relevant map[string]int) float64 {
	gain := func(grade, rank int) float64 { return (math.Exp2(float64(grade)) - 1) / math.Log2(float64(rank+2)) }
	got, best := 0.0, 0.0
	for i, id := range order[:min(10, len(order))] {
		got += gain(relevant[id], i)
	}
	var grades []int
	for _, g := range relevant {
		grades = append(grades, g)
	}
	slices.SortFunc(grades, func(a, b int) int { return cmp.Compare(b, a) })
	for i, g := range grades[:min(10, len(grades))] {
		best += gain(g, i)
	}
	return got / best
}

// relevanceIndex embeds the passages as text says and indexes them.
func relevanceIndex(t *testing.T, b *embed.Builtin, set relevanceSet, text func(pipeline.Chunk, string) string) *search.Index {
	t.Helper()
	var docs []search.SegmentDoc
	var inputs []embed.Input
	for _, p := range set.Passages {
		c := pipeline.Chunk{Text: p.Text, Language: "en"}
		docs = append(docs, search.SegmentDoc{ID: p.ID, Version: 1, Title: p.Title, Language: "en", Chunks: []pipeline.Chunk{c}})
		inputs = append(inputs, embed.Input{Text: text(c, p.Title), Language: "en"})
	}
	vectors, err := b.Passages(t.Context(), inputs)
	if err != nil {
		t.Fatal(err)
	}
	for i := range docs {
		docs[i].Embeddings = vectors[i : i+1]
	}
	x := search.New(search.Options{})
	apply(t, x, search.Batch{Revision: 1, Add: []*search.Segment{segment(t, docs...)}})
	return x
}

func meanNDCG(t *testing.T, b *embed.Builtin, set relevanceSet, x *search.Index, q search.Query) float64 {
	t.Helper()
	sum := 0.0
	for _, question := range set.Questions {
		vectors, err := b.Query(t.Context(), embed.Input{Text: question.Text, Language: "en"})
		if err != nil {
			t.Fatal(err)
		}
		q.Text, q.Language, q.Vectors = question.Text, "en", vectors
		var order []string
		for _, h := range find(t, x.View(), q).Hits {
			order = append(order, h.DocumentID)
		}
		sum += ndcg(order, question.Relevant)
	}
	return sum / float64(len(set.Questions))
}

func TestC5_HybridSearchAnswersParaphrasedQuestions(t *testing.T) {
	data, err := os.ReadFile("testdata/paraphrases.json")
	if err != nil {
		t.Fatal(err)
	}
	var set relevanceSet
	if err := json.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	b, err := embed.NewBuiltin(0)
	if err != nil {
		t.Fatal(err)
	}
	ours := relevanceIndex(t, b, set, chunk.EmbedText)
	defer ours.Close()
	titled := relevanceIndex(t, b, set, func(c pipeline.Chunk, title string) string { return title + "\n" + c.Text })
	defer titled.Close()
	weight := func(w float64) *float64 { return &w }
	for _, c := range []struct {
		name  string
		query search.Query
		least float64
	}{
		{"keyword", search.Query{Mode: search.ModeKeyword}, 0},
		{"vector", search.Query{Mode: search.ModeVector}, 0.80},
		{"hybrid convex w=.3", search.Query{KeywordWeight: weight(.3)}, 0.80},
		{"hybrid convex w=.5", search.Query{}, 0.80},
		{"hybrid rrf", search.Query{Fusion: search.FusionReciprocalRank}, 0},
	} {
		got := meanNDCG(t, b, set, ours, c.query)
		t.Logf("%-20s nDCG@10 %.3f, with titles embedded %.3f", c.name, got, meanNDCG(t, b, set, titled, c.query))
		if got < c.least {
			t.Errorf("%s: nDCG@10 %.3f, want at least %.2f", c.name, got, c.least)
		}
	}
}
