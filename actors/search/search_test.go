package search_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/search"
)

// in makes a document of one chunk in a language, with an optional vector.
func in(language, id, text string, vector ...float32) search.SegmentDoc {
	d := doc(id, 1, text)
	d.Language = language
	if vector != nil {
		d.Embeddings = []pipeline.Embedding{{Vectors: [][]float32{vector}}}
	}
	return d
}

func indexOf(t testing.TB, docs ...search.SegmentDoc) *search.View {
	t.Helper()
	x := search.New(search.Options{})
	t.Cleanup(x.Close)
	apply(t, x, search.Batch{Revision: 1, Add: []*search.Segment{segment(t, docs...)}})
	return x.View()
}

func TestC5_WordsAreFoundInTheFormsOfTheirLanguage(t *testing.T) {
	v := indexOf(t,
		in("en", "en", "The farmers' harvested fields. Peter's café uses snake_case_name and parseHTTPRequest in v1.2.3 of foo.bar."),
		in("de", "de", "Die Häuser der Bäuerinnen wurden verkauft."),
		in("fr", "fr", "L'eau des rivières françaises."),
		in("zh", "zh", "粮仓保存小麦和大麦"),
		in("ja", "ja", "ＡＢＣ 小麦を貯蔵する"),
		in("th", "th", "ข้าวสาลี"),
	)
	for query, want := range map[string]string{
		"harvest": "en", "FIELD": "en", "peter": "en", "café": "en", "snake_case_name": "en", "case": "en",
		"http": "en", "parsehttprequest": "en", "1.2.3": "en", "v1.2.3": "en", "foo.bar": "en", "bar": "en",
		"haus": "de", "Häusern": "de", "verkaufen": "", "Bäuerinnen": "de",
		"rivière": "fr", "eau": "fr", "小麦": "zh ja", "保存": "zh", "abc": "ja", "สาลี": "th",
	} {
		q := words(query)
		var got []string
		for _, h := range find(t, v, q).Hits {
			got = append(got, h.DocumentID)
		}
		slices.SortFunc(got, func(a, b string) int { return strings.Compare(b, a) })
		if strings.Join(got, " ") != want {
			t.Errorf("%q: found %v, want %q", query, got, want)
		}
	}
}

func TestC5_StopWordsCountOnlyWhenThereIsNothingElse(t *testing.T) {
	v := indexOf(t, in("en", "a", "to be or not to be"), in("en", "b", "the wheat"))
	if got := ids(find(t, v, words("to be or not to be")).Hits); !slices.Equal(got, []string{"a/0"}) {
		t.Errorf("got %v", got)
	}
	if got := ids(find(t, v, words("what is the wheat to be")).Hits); !slices.Equal(got, []string{"b/0"}) {
		t.Errorf("got %v", got)
	}
}

func TestC5_HeadingsAndTitlesAreSearched(t *testing.T) {
	d := in("en", "a", "Keep it dry.")
	d.Title, d.Chunks[0].Headings = "Granary handbook", []string{"Storage", "Silos"}
	v := indexOf(t, d, in("en", "b", "Something else."))
	for _, q := range []string{"handbook", "silo", "storage"} {
		if got := ids(find(t, v, words(q)).Hits); !slices.Equal(got, []string{"a/0"}) {
			t.Errorf("%s: %v", q, got)
		}
	}
}

func TestC5_ConvexFusionAddsBothExactPartsOfEveryCandidate(t *testing.T) {
	v := indexOf(t,
		in("", "both", "wheat silo", 0.6, 0.8), in("", "words", "wheat silo silo", -1, 0),
		in("", "meaning", "rye", 1, 0), in("", "neither", "oats", 0, 1),
	)
	weight := 0.25
	q := search.Query{Text: "wheat silo", KeywordWeight: &weight, Vectors: []pipeline.QueryVector{{Vector: []float32{1, 0}}}, Explain: true}
	r := find(t, v, q)
	if r.Candidates != 4 || len(r.Plan.Terms) != 2 || r.Plan.Mode != search.ModeHybrid || r.Plan.Reason != "" {
		t.Errorf("candidates %d, plan %+v", r.Candidates, r.Plan)
	}
	cosines := map[string]float64{"both": .6, "words": -1, "meaning": 1, "neither": 0}
	for _, h := range r.Hits {
		if math.Abs(h.Parts.Cosine-cosines[h.DocumentID]) > 1e-4 || !h.Parts.HasVector {
			t.Errorf("%s: parts %+v", h.DocumentID, h.Parts)
		}
		want := weight*h.Parts.Keyword + (1-weight)*max(0, h.Parts.Cosine)
		if math.Abs(h.Score-want) > 1e-9 || h.Score < 0 || h.Score > 1 {
			t.Errorf("%s: score %v, want %v", h.DocumentID, h.Score, want)
		}
	}
	if got := ids(r.Hits)[:2]; !slices.Equal(got, []string{"meaning/0", "both/0"}) {
		t.Errorf("order %v", got)
	}
	q.Fusion = search.FusionReciprocalRank
	if r = find(t, v, q); r.Hits[0].DocumentID != "both" && r.Hits[0].DocumentID != "meaning" || r.Hits[0].Score > 1 {
		t.Errorf("rank fusion: %+v", r.Hits[0])
	}
	q.Fusion, q.MinScore = search.FusionConvex, 0.5
	if r = find(t, v, q); len(r.Hits) != 2 {
		t.Errorf("%d hits above the least score", len(r.Hits))
	}
}

// While vectors are behind, a chunk without one must neither sink below nor rise
// above its equals.
func TestC5_AChunkNotEmbeddedYetRanksAmongItsEquals(t *testing.T) {
	v := indexOf(t,
		in("", "near", "wheat silo", 1, 0), in("", "far", "wheat silo", 0, 1),
		in("", "pending", "wheat silo"), in("", "unrelated", "oats", 0.7, 0.7),
	)
	r := find(t, v, search.Query{Text: "wheat silo", Vectors: []pipeline.QueryVector{{Vector: []float32{1, 0}}}})
	if got := ids(r.Hits); !slices.Equal(got, []string{"near/0", "pending/0", "unrelated/0", "far/0"}) {
		t.Errorf("order %v", got)
	}
	if r.Plan.Pending != 1 || r.Hits[1].Parts.HasVector {
		t.Errorf("pending %d, parts %+v", r.Plan.Pending, r.Hits[1].Parts)
	}
	r = find(t, v, search.Query{Mode: search.ModeVector, Vectors: []pipeline.QueryVector{{Vector: []float32{1, 0}}}})
	if len(r.Hits) != 3 {
		t.Errorf("a search by vectors found %v", ids(r.Hits))
	}
}

func TestE3_WithoutVectorsTheAnswerComesFromWordsAndSaysSo(t *testing.T) {
	v := indexOf(t, in("", "a", "wheat"), in("", "b", "rye"))
	r := find(t, v, search.Query{Text: "wheat"})
	if r.Plan.Mode != search.ModeKeyword || r.Plan.Reason != search.ReasonNoQueryVectors || len(r.Hits) != 1 || r.Hits[0].Score != r.Hits[0].Parts.Keyword {
		t.Errorf("%+v", r)
	}
	vector := []pipeline.QueryVector{{Vector: []float32{1, 0}}}
	if r = find(t, v, search.Query{Text: "wheat", Vectors: vector}); r.Plan.Mode != search.ModeKeyword || r.Plan.Reason != search.ReasonNoVectors || len(r.Hits) != 1 {
		t.Errorf("%+v", r)
	}
	v = indexOf(t, in("", "a", "wheat", 1, 0))
	if r = find(t, v, search.Query{Text: "?!", Vectors: vector}); r.Plan.Mode != search.ModeVector || r.Plan.Reason != search.ReasonNoWords || len(r.Hits) != 1 {
		t.Errorf("%+v", r)
	}
	if r = find(t, v, search.Query{Mode: search.ModeVector, Text: "wheat"}); len(r.Hits) != 0 || r.Plan.Reason != search.ReasonNoQueryVectors {
		t.Errorf("%+v", r)
	}
}

func TestI8_VectorsOfAnotherSpaceOrSizeAreNeverCompared(t *testing.T) {
	d := in("", "ngrams", "x")
	d.Embeddings = []pipeline.Embedding{{Space: pipeline.SpaceNGrams, Vectors: [][]float32{{1, 0}}}}
	v := indexOf(t, d, in("", "model", "x", 0, 1), in("", "wide", "x", 1, 0, 0))
	q := search.Query{Mode: search.ModeVector, Vectors: []pipeline.QueryVector{{Space: pipeline.SpaceNGrams, Vector: []float32{1, 0}}}}
	if got := ids(find(t, v, q).Hits); !slices.Equal(got, []string{"ngrams/0"}) {
		t.Errorf("got %v", got)
	}
	q.Vectors = append(q.Vectors, pipeline.QueryVector{Vector: []float32{0.6, 0.8}})
	if got := ids(find(t, v, q).Hits); !slices.Equal(got, []string{"ngrams/0", "model/0"}) {
		t.Errorf("got %v", got)
	}
}

func TestC5_FiltersHoldForBothListsAndDeletes(t *testing.T) {
	var docs []search.SegmentDoc
	for i := range 300 {
		d := in("", string(rune('A'+i%26))+string(rune('a'+i/26)), "wheat", 1, float32(i)/300)
		d.Metadata = map[string]string{"team": []string{"x", "y", "z"}[i%3]}
		docs = append(docs, d)
	}
	x := search.New(search.Options{})
	defer x.Close()
	apply(t, x, search.Batch{Add: []*search.Segment{segment(t, docs...)}, Remove: []string{"nobody"}})
	apply(t, x, search.Batch{Remove: []string{docs[0].ID, docs[3].ID}})
	f, err := search.ParseFilter(`metadata.team = x`)
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []search.Mode{search.ModeHybrid, search.ModeKeyword, search.ModeVector} {
		r := find(t, x.View(), search.Query{Text: "wheat", Mode: mode, TopN: 500, Filter: f, Vectors: []pipeline.QueryVector{{Vector: []float32{1, 0}}}})
		if len(r.Hits) != 98 || r.Plan.Allowed != 98 || r.Plan.Chunks != 298 {
			t.Errorf("mode %d: %d hits, plan %+v", mode, len(r.Hits), r.Plan)
		}
	}
}

func TestC5_InvalidQueriesAndCancelledOnesFail(t *testing.T) {
	v := indexOf(t, in("", "a", "wheat", 1, 0))
	nan := math.NaN()
	half := 1.5
	for i, q := range []search.Query{
		{Mode: 9}, {Fusion: 9}, {TopN: -1}, {TopN: search.MaxTopN + 1}, {Candidates: search.MaxCandidates + 1},
		{KeywordWeight: &nan}, {KeywordWeight: &half}, {MinScore: nan},
		{Vectors: []pipeline.QueryVector{{}}}, {Vectors: []pipeline.QueryVector{{Vector: []float32{float32(nan)}}}},
	} {
		if _, err := v.Search(context.Background(), q); !errors.Is(err, search.ErrInvalidQuery) {
			t.Errorf("query %d: %v", i, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := v.Search(ctx, search.Query{Text: "wheat"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzQuery(f *testing.F) {
	v := indexOf(f, in("en", "a", "wheat snake_case", 1, 0), in("de", "b", "Häuser 粮仓", 0, 1), in("ru", "c", "дома"))
	for _, s := range []string{"wheat", "don't l'eau ''", "a_b.c__D9É", "粮", "HTTPServer\u0301 ﬁ", "ſ’s", "\xff\xfe"} {
		f.Add(s, "en")
	}
	languages := []string{"da", "de", "en", "es", "fi", "fr", "hu", "it", "nl", "no", "pt", "ro", "ru", "sv", "tr"}
	f.Fuzz(func(t *testing.T, text, language string) {
		if len(language) > 0 {
			language = languages[int(language[0])%len(languages)]
		}
		r := find(t, v, search.Query{Text: text, Language: language})
		for _, h := range r.Hits {
			if !(h.Score >= 0 && h.Score <= 1) {
				t.Fatalf("score %v", h.Score)
			}
		}
		if _, err := search.BuildSegment([]search.SegmentDoc{in(language, "x", text)}); err != nil {
			t.Fatal(err)
		}
		last := 0
		for _, r := range search.Highlight(text, text, language) {
			if r.Start < last || r.End <= r.Start || r.End > len(text) {
				t.Fatalf("range %v in %d bytes", r, len(text))
			}
			last = r.End
		}
		if p := search.BestPassage(text, text, language, 10); p.Start < 0 || p.End < p.Start || p.End > len(text) || p.End-p.Start > 10 {
			t.Fatalf("passage %v of %d bytes", p, len(text))
		}
	})
}
