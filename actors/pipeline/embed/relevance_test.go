package embed

import (
	"cmp"
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"granary.dev/granary/actors/pipeline"
)

// relevanceSet is a labelled set of passages and questions. Grades go from 1
// (touches the question) to 3 (answers it).
type relevanceSet struct {
	Passages  []struct{ ID, Title, Text string }
	Questions []struct {
		ID, Text string
		Relevant map[string]int
	}
}

func readSet(t testing.TB, path string) relevanceSet {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var set relevanceSet
	if err := json.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	return set
}

const paraphrases = "../../search/testdata/paraphrases.json"

func newBuiltin(t testing.TB) *Builtin {
	t.Helper()
	b, err := NewBuiltin(0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rank returns the mean nDCG@10 over the questions, by the best window of each
// passage in one space.
func rank(t testing.TB, b *Builtin, set relevanceSet, language string, space pipeline.Space) float64 {
	t.Helper()
	inputs := make([]Input, len(set.Passages))
	for i, p := range set.Passages {
		inputs[i] = Input{Text: p.Text, Language: language}
	}
	embedded, err := b.Passages(t.Context(), inputs)
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for _, q := range set.Questions {
		vectors, err := b.Query(t.Context(), Input{Text: q.Text, Language: language})
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(vectors, func(v pipeline.QueryVector) bool { return v.Space == space })
		scores := map[string]float64{}
		for i, e := range embedded {
			if e.Space != space {
				t.Fatalf("passage %s is in space %d", set.Passages[i].ID, e.Space)
			}
			scores[set.Passages[i].ID] = bestWindow(e, vectors[at].Vector)
		}
		score := ndcg(scores, q.Relevant)
		if score < 0.5 {
			t.Logf("nDCG %.2f for %s %q", score, q.ID, q.Text)
		}
		total += score
	}
	return total / float64(len(set.Questions))
}

func bestWindow(e pipeline.Embedding, query []float32) float64 {
	best := math.Inf(-1)
	for _, v := range e.Vectors {
		best = max(best, dot(v, query))
	}
	return best
}

func dot(a, b []float32) float64 {
	sum := 0.0
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

// ndcg is the normalised discounted cumulative gain of the first ten, with gain
// 2^grade − 1.
func ndcg(scores map[string]float64, relevant map[string]int) float64 {
	ids := make([]string, 0, len(scores))
	for id := range scores {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int {
		return cmp.Or(cmp.Compare(scores[b], scores[a]), strings.Compare(a, b))
	})
	grades := make([]int, 0, len(relevant))
	for _, g := range relevant {
		grades = append(grades, g)
	}
	slices.SortFunc(grades, func(a, b int) int { return b - a })
	gain := func(grade, place int) float64 {
		return (math.Exp2(float64(grade)) - 1) / math.Log2(float64(place+2))
	}
	got, ideal := 0.0, 0.0
	for i, id := range ids[:min(10, len(ids))] {
		got += gain(relevant[id], i)
	}
	for i, g := range grades[:min(10, len(grades))] {
		ideal += gain(g, i)
	}
	return got / ideal
}

func TestParaphrasesAreFoundByTheModel(t *testing.T) {
	set := readSet(t, paraphrases)
	got := rank(t, newBuiltin(t), set, "en", pipeline.SpaceModel)
	t.Logf("nDCG@10 over %d questions: %.3f", len(set.Questions), got)
	if got < 0.80 {
		t.Errorf("nDCG@10 %.3f, want at least 0.80", got)
	}
}

// Without few shared words the set would measure spelling, not meaning.
func TestParaphrasesShareFewWordsWithTheirPassages(t *testing.T) {
	set := readSet(t, paraphrases)
	if len(set.Passages) < 60 || len(set.Questions) < 60 {
		t.Errorf("%d passages, %d questions, want 60 of each", len(set.Passages), len(set.Questions))
	}
	words := map[string]map[string]bool{}
	for _, p := range set.Passages {
		words[p.ID] = contentWords(p.Title + " " + p.Text)
	}
	sum, n := 0.0, 0
	for _, q := range set.Questions {
		asked := contentWords(q.Text)
		if len(q.Relevant) < 1 || len(q.Relevant) > 3 || len(asked) == 0 {
			t.Errorf("%s: %d relevant passages, %d content words", q.ID, len(q.Relevant), len(asked))
		}
		for id, grade := range q.Relevant {
			if words[id] == nil || grade < 1 || grade > 3 {
				t.Errorf("%s: bad grade %d for %s", q.ID, grade, id)
			}
			if grade < 3 {
				continue
			}
			shared := 0
			for w := range asked {
				if words[id][w] {
					shared++
				}
			}
			sum, n = sum+float64(shared)/float64(len(asked)), n+1
		}
	}
	t.Logf("mean overlap of content words: %.1f %%", 100*sum/float64(n))
	if sum/float64(n) >= 0.20 {
		t.Errorf("mean overlap %.3f, want below 0.20", sum/float64(n))
	}
}

// contentWords are the words of text but for function words, without the most
// usual endings.
func contentWords(text string) map[string]bool {
	const function = ` a about after all allowed am an and any are as at be because been before but by can could did do
		does doing done down each for from get give go goes had has have he her his how i if in into is it its
		keep let like make makes many may me more most much must my no not now of off on once one only or our
		out over own so some someone something than that the their them then there these they this those
		through to too up us was way we were what when where whether which while who whom why will with
		without would you your yours `
	out := map[string]bool{}
	for _, w := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) }) {
		if len(w) < 2 || slices.Contains(strings.Fields(function), w) {
			continue
		}
		for _, ending := range []string{"ing", "ed", "es", "s"} {
			if stem, ok := strings.CutSuffix(w, ending); ok && len(stem) > 2 {
				w = stem
				break
			}
		}
		out[w] = true
	}
	return out
}

// Character n-grams find what shares stems and compounds, also in languages
// that write no spaces.
func TestOtherLanguagesAreFoundByNGrams(t *testing.T) {
	b := newBuiltin(t)
	for language, want := range map[string]float64{"de": 0.85, "zh": 0.85} {
		set := readSet(t, map[string]string{"de": "testdata/german.json", "zh": "testdata/chinese.json"}[language])
		got := rank(t, b, set, language, pipeline.SpaceNGrams)
		t.Logf("%s: nDCG@10 over %d questions: %.3f", language, len(set.Questions), got)
		if got < want {
			t.Errorf("%s: nDCG@10 %.3f, want at least %.2f", language, got, want)
		}
	}
}

// grouped joins n passages to one, far apart in the set, so that an answer is
// only a part of what it is found by.
func grouped(set relevanceSet, n int) relevanceSet {
	var out relevanceSet
	count := len(set.Passages) / n
	home := map[string]string{}
	for i := range count {
		joined := set.Passages[i]
		home[joined.ID] = joined.ID
		for j := 1; j < n; j++ {
			other := set.Passages[i+j*count]
			home[other.ID] = joined.ID
			joined.Text += " " + other.Text
		}
		out.Passages = append(out.Passages, joined)
	}
	for _, q := range set.Questions {
		relevant := map[string]int{}
		for id, grade := range q.Relevant {
			relevant[home[id]] = max(relevant[home[id]], grade)
		}
		q.Relevant = relevant
		out.Questions = append(out.Questions, q)
	}
	return out
}

// The floors lie above what is measured without windows: 0.69, 0.88 and 0.93.
func TestWindowsFindAnswersInLongPassages(t *testing.T) {
	b := newBuiltin(t)
	for _, c := range []struct {
		path, language string
		joined         int
		space          pipeline.Space
		want           float64
	}{
		{paraphrases, "en", 3, pipeline.SpaceModel, 0.75},
		{"testdata/german.json", "de", 4, pipeline.SpaceNGrams, 0.90},
		{"testdata/chinese.json", "zh", 6, pipeline.SpaceNGrams, 0.95},
	} {
		got := rank(t, b, grouped(readSet(t, c.path), c.joined), c.language, c.space)
		t.Logf("%s: nDCG@10 %.3f", c.language, got)
		if got < c.want {
			t.Errorf("%s: nDCG@10 %.3f, want at least %.2f", c.language, got, c.want)
		}
	}
}
