package kb_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"granary.dev/granary/actors/kb"
)

func ptr[T any](v T) *T { return &v }

// full is a layer with every field set, to values that depend on n.
func full(n int) kb.Config {
	return kb.Config{
		Chunking:  kb.ChunkingConfig{TargetWords: ptr(100 + n), MaxWords: ptr(200 + n), OverlapSentences: ptr(n)},
		Embedding: kb.EmbeddingConfig{Model: ptr(fmt.Sprintf("model-%d", n))},
		Retrieval: kb.RetrievalConfig{Mode: ptr(kb.SearchMode(1 + n%3)), TopN: ptr(1 + n), KeywordWeight: ptr(0.1 * float64(n)),
			Fusion: ptr(kb.Fusion(1 + n%2)), MinScore: ptr(0.01 * float64(n)), Candidates: ptr(50 + n)},
	}
}

// leaves maps the mask path of every field of a layer to the field's pointer.
func leaves(c *kb.Config) map[string]reflect.Value {
	out := make(map[string]reflect.Value)
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if f := v.Field(i); f.Kind() == reflect.Struct {
				walk(path+"."+name, f)
			} else {
				out[path+"."+name] = f
			}
		}
	}
	walk("config", reflect.ValueOf(c).Elem())
	return out
}

func TestAMaskPathChangesItsFieldsAndClearsWhatIsUnset_C7(t *testing.T) {
	have, given := full(1), full(2)
	paths := []string{"config", "config.chunking", "config.embedding", "config.retrieval"}
	for path := range leaves(&have) {
		paths = append(paths, path)
	}
	if len(paths) != 4+10 {
		t.Fatalf("%d paths: a field has no test", len(paths))
	}
	for _, path := range paths {
		for what, layer := range map[string]kb.Config{"set": given, "clear": {}} {
			w := newWorld(t)
			w.do(w.k.Create("uid", kb.Patch{DisplayName: "name", Description: "text", Config: have}))
			w.do(w.k.Update("", kb.Patch{DisplayName: "other", Description: "other", Config: layer}, []string{path}))
			got, want := w.k.Config(), have
			for leaf, v := range leaves(&want) {
				if leaf == path || strings.HasPrefix(leaf, path+".") {
					v.Set(leaves(&layer)[leaf])
				}
			}
			if !reflect.DeepEqual(got, want) || w.k.ConfigVersion() != 2 || w.k.DisplayName() != "name" || w.k.Description() != "text" {
				t.Errorf("%s %s: %s, wanted %s", what, path, image(t, got), image(t, want))
			}
		}
	}
}

func TestUpdateMasksTheDescriptiveFieldsAndRefusesOthers_C7(t *testing.T) {
	w := newWorld(t)
	w.do(w.k.Create("uid", kb.Patch{DisplayName: "name", Description: "text", Config: full(1)}))
	w.do(w.k.Update("", kb.Patch{DisplayName: "new name", Description: "x", Config: kb.Config{}}, []string{"display_name"}))
	w.do(w.k.Update("", kb.Patch{DisplayName: "y", Description: "new text", Config: kb.Config{}}, []string{"description"}))
	if w.k.DisplayName() != "new name" || w.k.Description() != "new text" || !reflect.DeepEqual(w.k.Config(), full(1)) {
		t.Errorf("updated to %s", observe(t, w.k, nil))
	}
	w.do(w.k.Update("", kb.Patch{DisplayName: "", Description: "", Config: kb.Config{}}, []string{"display_name", "description", "config.embedding"}))
	if w.k.DisplayName() != "" || w.k.Description() != "" || w.k.Config().Embedding.Model != nil || w.k.ConfigVersion() != 4 {
		t.Errorf("cleared to %s", observe(t, w.k, nil))
	}
	for _, mask := range [][]string{nil, {}, {""}, {"*"}, {"uid"}, {"config."}, {"Config"}, {"display_name", "config.chunking.words"}} {
		_, err := w.k.Update("", kb.Patch{DisplayName: "z", Description: "z", Config: kb.Config{}}, mask)
		e := refused(t, err, kb.CodeInvalidArgument, kb.ReasonFieldMaskInvalid)
		if len(mask) == 2 && e.Metadata["path"] != mask[1] {
			t.Errorf("the error names path %q", e.Metadata["path"])
		}
	}
}

func TestConfigurationIsRefusedOutsideItsRanges_C7(t *testing.T) {
	number := func(path string, low, high float64) (good, bad []float64) {
		step := 1.0
		if strings.HasSuffix(path, "weight") || strings.HasSuffix(path, "score") {
			step = 1e-9
			bad = append(bad, math.NaN(), math.Inf(1), math.Inf(-1))
		}
		if low-step >= 0 || step < 1 || !strings.Contains(path, "mode") && !strings.Contains(path, "fusion") {
			bad = append(bad, low-step)
		}
		return []float64{low, high, (low + high) / 2}, append(bad, high+step)
	}
	for path, r := range map[string][2]float64{
		"config.chunking.target_words": {20, 1000}, "config.chunking.max_words": {20, 2000}, "config.chunking.overlap_sentences": {0, 5},
		"config.retrieval.mode": {1, 3}, "config.retrieval.top_n": {1, 100}, "config.retrieval.keyword_weight": {0, 1},
		"config.retrieval.fusion": {1, 2}, "config.retrieval.min_score": {0, 1}, "config.retrieval.candidates": {10, 1000},
	} {
		good, bad := number(path, r[0], r[1])
		for i, x := range append(good, bad...) {
			var c kb.Config
			field := leaves(&c)[path]
			field.Set(reflect.New(field.Type().Elem()))
			field.Elem().Set(reflect.ValueOf(x).Convert(field.Type().Elem()))
			err := c.Validate(nil)
			if i < len(good) {
				if err != nil {
					t.Errorf("%s = %v: %v", path, x, err)
				}
				continue
			}
			e := refused(t, err, kb.CodeInvalidArgument, kb.ReasonConfigInvalid)
			if len(e.Fields) != 1 || e.Fields[0].Field != path || e.Fields[0].Description == "" {
				t.Errorf("%s = %v: violations %v", path, x, e.Fields)
			}
		}
	}
}

func TestConfigurationNamesEveryViolationAndKnowsItsModels_C7(t *testing.T) {
	if err := (kb.Config{}).Validate(nil); err != nil {
		t.Errorf("an empty layer: %v", err)
	}
	offered := func(m string) bool { return m == "bge-small" }
	if err := kb.BuiltIn("bge-small").Validate(offered); err != nil {
		t.Errorf("the built-in layer: %v", err)
	}
	bad := kb.Config{Retrieval: kb.RetrievalConfig{TopN: ptr(0), MinScore: ptr(math.NaN())}, Embedding: kb.EmbeddingConfig{Model: ptr("other")}}
	e, _ := errors.AsType[*kb.Error](bad.Validate(offered))
	if e == nil || len(e.Fields) != 3 {
		t.Fatalf("three mistakes: %v", e)
	}
	for _, name := range []string{"", " ", "a b", "-a", "a\n", strings.Repeat("m", 129)} {
		if err := (kb.Config{Embedding: kb.EmbeddingConfig{Model: &name}}).Validate(nil); !kb.Is(err, kb.ReasonConfigInvalid) {
			t.Errorf("model %q: %v", name, err)
		}
	}
	if err := (kb.Config{Embedding: kb.EmbeddingConfig{Model: ptr("org/model:v1.5")}}).Validate(nil); err != nil {
		t.Error(err)
	}
}

func TestTheStrongestLayerThatHasAFieldDecidesItAndIsNamed_C7(t *testing.T) {
	layers := [4]kb.Config{full(1), full(2), full(3), full(4)} // built-in, tenant, own, call
	for set := range 8 {                                       // which of the three upper layers have their fields
		given := [4]kb.Config{layers[0]}
		want := 0
		for i := 1; i < 4; i++ {
			if set&(1<<(i-1)) != 0 {
				given[i], want = layers[i], i
			}
		}
		e := kb.Resolve(given[0], given[1], given[2], given[3])
		c := layers[want]
		expected := kb.Effective{TargetWords: *c.Chunking.TargetWords, MaxWords: *c.Chunking.MaxWords, OverlapSentences: *c.Chunking.OverlapSentences,
			Model: *c.Embedding.Model, Mode: *c.Retrieval.Mode, TopN: *c.Retrieval.TopN, KeywordWeight: *c.Retrieval.KeywordWeight,
			Fusion: *c.Retrieval.Fusion, MinScore: *c.Retrieval.MinScore, Candidates: *c.Retrieval.Candidates, Sources: map[string]kb.Layer{}}
		for path := range leaves(&c) {
			expected.Sources[strings.TrimPrefix(path, "config.")] = kb.LayerBuiltIn + kb.Layer(want)
		}
		if !reflect.DeepEqual(e, expected) {
			t.Errorf("layers %03b: %+v, wanted %+v", set, e, expected)
		}
	}
}

func TestEachFieldIsResolvedByItself_C7(t *testing.T) {
	var call kb.Config
	for path := range leaves(&call) {
		one, from := kb.Config{}, full(4)
		leaves(&one)[path].Set(leaves(&from)[path])
		e := kb.Resolve(full(1), kb.Config{}, kb.Config{}, one)
		for other := range leaves(&call) {
			want := kb.LayerBuiltIn
			if other == path {
				want = kb.LayerCall
			}
			if got := e.Sources[strings.TrimPrefix(other, "config.")]; got != want {
				t.Errorf("call sets %s: %s comes from layer %d", path, other, got)
			}
		}
	}
}

func TestLayersThatAreFineApartMayNotBeTogether_C7(t *testing.T) {
	own := kb.Config{Chunking: kb.ChunkingConfig{TargetWords: ptr(200)}}
	if err := own.Validate(nil); err != nil {
		t.Fatal(err)
	}
	e, _ := errors.AsType[*kb.Error](kb.Resolve(kb.BuiltIn("m"), kb.Config{}, own, kb.Config{}).ValidateEffective())
	if e == nil || e.Reason != kb.ReasonConfigInvalid || e.Fields[0].Field != "config.chunking.max_words" {
		t.Errorf("target 200 above the built-in maximum: %v", e)
	}
	own.Chunking.MaxWords = ptr(200)
	if err := kb.Resolve(kb.BuiltIn("m"), kb.Config{}, own, kb.Config{}).ValidateEffective(); err != nil {
		t.Errorf("target = maximum: %v", err)
	}
}
