package search_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/search"
)

// library is the documents that the filters of these tests look at.
func library(t testing.TB) *search.View {
	t.Helper()
	made := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return indexOf(t,
		search.SegmentDoc{
			ID: "a", Version: 1, Name: "Foobar.pdf", Title: "Ops handbook", MediaType: "application/pdf", Language: "en",
			Created: made, Metadata: map[string]string{"team": "ops-eu", "rank": "9"},
			Chunks: []pipeline.Chunk{{Text: "common", Page: 1}, {Text: "common", Page: 2}, {Text: "common", Page: 3}},
		},
		search.SegmentDoc{
			ID: "b", Version: 2, Name: "notes.md", MediaType: "text/markdown", Language: "de",
			Created: made.AddDate(0, 1, 0), Metadata: map[string]string{"team": "", "rank": "10"},
			Chunks: []pipeline.Chunk{{Text: "common"}},
		},
		search.SegmentDoc{ID: "c", Version: 1, Name: "x \"y\"", Chunks: []pipeline.Chunk{{Text: "common"}}},
	)
}

func TestC5_FiltersSelectWhatTheySay(t *testing.T) {
	v := library(t)
	for text, want := range map[string]string{
		``:                                           "a/0 a/1 a/2 b/0 c/0",
		`document = "a"`:                             "a/0 a/1 a/2",
		`document != "a"`:                            "b/0 c/0",
		`-document = a`:                              "b/0 c/0",
		`NOT document = a`:                           "b/0 c/0",
		`document IN ["a", c]`:                       "a/0 a/1 a/2 c/0",
		`type = application/pdf`:                     "a/0 a/1 a/2",
		`language = 'de'`:                            "b/0",
		`name : "foo*"`:                              "a/0 a/1 a/2",
		`name : "*.MD"`:                              "b/0",
		`name : ob`:                                  "a/0 a/1 a/2",
		`name = "x \"y\""`:                           "c/0",
		`title : *`:                                  "a/0 a/1 a/2",
		`metadata.team = "ops-eu"`:                   "a/0 a/1 a/2",
		`metadata.team : *`:                          "a/0 a/1 a/2",
		`metadata : team`:                            "a/0 a/1 a/2 b/0",
		`metadata.rank > 9`:                          "b/0",
		`metadata.rank <= "9"`:                       "a/0 a/1 a/2",
		`metadata.rank != 9`:                         "b/0 c/0",
		`metadata.none = ""`:                         "",
		`page >= 2`:                                  "a/1 a/2",
		`page = 0`:                                   "b/0 c/0",
		`version > 1`:                                "b/0",
		`version > -1`:                               "a/0 a/1 a/2 b/0 c/0",
		`created > "2026-03-15T00:00:00Z"`:           "b/0",
		`created < 2026-03-15T00:00:00+01:00`:        "a/0 a/1 a/2",
		`created != "2026-03-01T12:00:00Z"`:          "b/0 c/0",
		`language = en AND page = 1`:                 "a/0",
		`(language = en OR language = de)`:           "a/0 a/1 a/2 b/0",
		`document = c OR language = en AND page=2`:   "a/1",
		`document = c OR (language = en AND page=2)`: "a/1 c/0",
		`NOT (document = a OR document = b)`:         "c/0",
	} {
		f, err := search.ParseFilter(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		q := words("common")
		q.Filter = f
		got := ids(find(t, v, q).Hits)
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", text, got, want)
		}
	}
}

func TestC5_WrongFiltersSayWhyAndWhere(t *testing.T) {
	nested := strings.Repeat("(", search.MaxFilterDepth+1) + "page=1" + strings.Repeat(")", search.MaxFilterDepth+1)
	list := "document IN [" + strings.TrimSuffix(strings.Repeat("a,", search.MaxFilterTerms+1), ",") + "]"
	for _, c := range []struct {
		text, reason string
		at           int
	}{
		{strings.Repeat(" ", search.MaxFilterBytes+1), search.FilterTooLong, search.MaxFilterBytes},
		{nested, search.FilterTooDeep, search.MaxFilterDepth},
		{strings.Repeat("NOT ", 40) + "page=1", search.FilterTooDeep, 4 * search.MaxFilterDepth},
		{list, search.FilterTooManyTerms, 13 + 2*search.MaxFilterTerms},
		{`colour = red`, search.FilterUnknownField, 0},
		{`metadata. = red`, search.FilterUnknownField, 0},
		{`page = 1 AND`, search.FilterSyntax, 12},
		{`page = 1 page = 2`, search.FilterSyntax, 9},
		{`page 1`, search.FilterSyntax, 5},
		{`page =`, search.FilterSyntax, 6},
		{`AND page = 1`, search.FilterSyntax, 0},
		{`page = AND`, search.FilterSyntax, 7},
		{`(page = 1`, search.FilterSyntax, 9},
		{`page IN 1`, search.FilterSyntax, 8},
		{`page IN [1`, search.FilterSyntax, 10},
		{`name = "open`, search.FilterSyntax, 7},
		{`name ! x`, search.FilterSyntax, 5},
		{`name = #`, search.FilterSyntax, 7},
		{"name = \"\xff\"", search.FilterSyntax, 7},
		{`page : 1`, search.FilterBadOperator, 5},
		{`metadata = x`, search.FilterBadOperator, 9},
		{`page = one`, search.FilterBadValue, 7},
		{`created > yesterday`, search.FilterBadValue, 10},
	} {
		_, err := search.ParseFilter(c.text)
		var wrong *search.FilterError
		if !errors.As(err, &wrong) || wrong.Reason != c.reason || wrong.Position != c.at {
			t.Errorf("%.40q: got %v (%+v), want %s at %d", c.text, err, wrong, c.reason, c.at)
		}
	}
}

func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{`document = "a" AND (page > 1 OR NOT name : "x*")`, `metadata.k IN [1,-2,"\""]`, `-created<2026-01-01T00:00:00Z`, `type=a/b`, "name:'\\", "metadata.0 IN[0,0,!", "metadata.0 IN [0,0\"\"",
		"-created<000000000 ", "document = \"a\"0", "document = \"a\" AND (pag\xe8\xe8OR NOT name : \"x*\")"} {
		f.Add(s)
	}
	v := library(f)
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := search.ParseFilter(text)
		if err != nil {
			var wrong *search.FilterError
			if !errors.As(err, &wrong) || wrong.Position < 0 || wrong.Position > len(text) {
				t.Fatalf("%v", err)
			}
			return
		}
		q := words("common")
		q.Filter = filter
		got := len(find(t, v, q).Hits)
		if filter == nil {
			return
		}
		opposite, err := search.ParseFilter("NOT (" + text + ")")
		var limit *search.FilterError
		if errors.As(err, &limit) && (limit.Reason == search.FilterTooDeep || limit.Reason == search.FilterTooLong) {
			return
		}
		if err != nil {
			t.Fatalf("the opposite does not parse: %v", err)
		}
		q.Filter = opposite
		if rest := len(find(t, v, q).Hits); got+rest != 5 {
			t.Fatalf("%d chunks match and %d do not, of 5", got, rest)
		}
	})
}

func TestC5_HighlightsAreTheQuerysWordsInTheirForms(t *testing.T) {
	for _, c := range []struct{ text, query, language, want string }{
		{"Harvests of wheat; the rye. Wheat's.", "harvest the wheat", "en", "Harvests|wheat|Wheat's"},
		{"use snake_case_name here", "snake_case_name", "en", "snake_case_name"},
		{"use snake_case_name here", "case", "en", "case"},
		{"粮仓保存小麦和大麦", "小麦", "zh", "小麦"},
		{"粮仓保存小麦", "保存小麦", "zh", "保存小麦"},
		{"ＷＨＥＡＴ", "wheat", "", "ＷＨＥＡＴ"},
		{"nothing", "wheat", "en", ""},
		{"nothing", "", "en", ""},
	} {
		var got []string
		for _, r := range search.Highlight(c.text, c.query, c.language) {
			got = append(got, c.text[r.Start:r.End])
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%q in %q: %v", c.query, c.text, got)
		}
	}
}

func TestC5_TheBestPassageHasTheMostDifferentWords(t *testing.T) {
	text := "wheat wheat wheat wheat. " + strings.Repeat("filler ", 50) + "the rye and the wheat grow. " + strings.Repeat("ende ", 50)
	r := search.BestPassage(text, "wheat rye", "en", 60)
	if got := text[r.Start:r.End]; !strings.Contains(got, "rye and the wheat") || len(got) > 60 || strings.TrimSpace(got) != got {
		t.Errorf("got %q", got)
	}
	if r := search.BestPassage(text, "unknown", "en", 30); r.Start != 0 || text[:r.End] != "wheat wheat wheat wheat." {
		t.Errorf("without a match: %q", text[r.Start:r.End])
	}
	if r := search.BestPassage("short", "x", "", 30); fmt.Sprint(r) != "{0 5}" {
		t.Errorf("a short text: %v", r)
	}
}
