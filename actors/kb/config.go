package kb

import (
	"fmt"
	"regexp"
)

// SearchMode says which lists a search uses. Numbers as in granary.v1.SearchMode.
type SearchMode uint8

// The modes.
const (
	ModeHybrid  SearchMode = 1
	ModeVector  SearchMode = 2
	ModeKeyword SearchMode = 3
)

// Fusion says how two ranked lists become one. Numbers as in granary.v1.Fusion.
type Fusion uint8

// The fusions.
const (
	FusionConvex         Fusion = 1
	FusionReciprocalRank Fusion = 2
)

// Config is one layer of settings; nil fields fall through to the layer below.
type Config struct {
	Chunking  ChunkingConfig  `json:"chunking,omitzero"`
	Embedding EmbeddingConfig `json:"embedding,omitzero"`
	Retrieval RetrievalConfig `json:"retrieval,omitzero"`
}

// ChunkingConfig says how documents are cut; sizes are in words.
type ChunkingConfig struct {
	TargetWords      *int `json:"target_words,omitempty"`
	MaxWords         *int `json:"max_words,omitempty"`
	OverlapSentences *int `json:"overlap_sentences,omitempty"`
}

// EmbeddingConfig names the model.
type EmbeddingConfig struct {
	Model *string `json:"model,omitempty"`
}

// RetrievalConfig shapes answers.
type RetrievalConfig struct {
	Mode          *SearchMode `json:"mode,omitempty"`
	TopN          *int        `json:"top_n,omitempty"`
	KeywordWeight *float64    `json:"keyword_weight,omitempty"`
	Fusion        *Fusion     `json:"fusion,omitempty"`
	MinScore      *float64    `json:"min_score,omitempty"`
	Candidates    *int        `json:"candidates,omitempty"`
}

// Effective is a configuration with every field decided.
type Effective struct {
	TargetWords      int
	MaxWords         int
	OverlapSentences int
	Model            string
	Mode             SearchMode
	TopN             int
	KeywordWeight    float64
	Fusion           Fusion
	MinScore         float64
	Candidates       int
	// Sources maps a field path to the layer that decided it.
	Sources map[string]Layer
}

// Layer names where a setting came from, weakest first. Numbers as in granary.v1.ConfigLayer.
type Layer uint8

// The layers.
const (
	LayerBuiltIn Layer = 1
	LayerTenant  Layer = 2
	LayerKB      Layer = 3
	LayerCall    Layer = 4
)

// BuiltIn is the lowest layer. Chunk sizes and the fusion weight are the best
// of the settings measured on paraphrased questions (see ARCHITECTURE.md).
func BuiltIn(model string) Config {
	return Config{
		Chunking:  ChunkingConfig{TargetWords: ptr(120), MaxWords: ptr(150), OverlapSentences: ptr(1)},
		Embedding: EmbeddingConfig{Model: &model},
		Retrieval: RetrievalConfig{Mode: ptr(ModeHybrid), TopN: ptr(10), KeywordWeight: ptr(0.5),
			Fusion: ptr(FusionConvex), MinScore: ptr(0.0), Candidates: ptr(100)},
	}
}

func ptr[T any](v T) *T { return &v }

// Resolve decides every field: call > knowledge base > tenant > built-in.
// builtIn must be complete.
func Resolve(builtIn, tenant, own, call Config) Effective {
	e := Effective{Sources: make(map[string]Layer, 10)}
	layers := [...]*Config{&builtIn, &tenant, &own, &call}
	pick(&e, "chunking.target_words", &e.TargetWords, layers, func(c *Config) *int { return c.Chunking.TargetWords })
	pick(&e, "chunking.max_words", &e.MaxWords, layers, func(c *Config) *int { return c.Chunking.MaxWords })
	pick(&e, "chunking.overlap_sentences", &e.OverlapSentences, layers, func(c *Config) *int { return c.Chunking.OverlapSentences })
	pick(&e, "embedding.model", &e.Model, layers, func(c *Config) *string { return c.Embedding.Model })
	pick(&e, "retrieval.mode", &e.Mode, layers, func(c *Config) *SearchMode { return c.Retrieval.Mode })
	pick(&e, "retrieval.top_n", &e.TopN, layers, func(c *Config) *int { return c.Retrieval.TopN })
	pick(&e, "retrieval.keyword_weight", &e.KeywordWeight, layers, func(c *Config) *float64 { return c.Retrieval.KeywordWeight })
	pick(&e, "retrieval.fusion", &e.Fusion, layers, func(c *Config) *Fusion { return c.Retrieval.Fusion })
	pick(&e, "retrieval.min_score", &e.MinScore, layers, func(c *Config) *float64 { return c.Retrieval.MinScore })
	pick(&e, "retrieval.candidates", &e.Candidates, layers, func(c *Config) *int { return c.Retrieval.Candidates })
	return e
}

// pick sets dst from the strongest layer that has the field.
func pick[T any](e *Effective, path string, dst *T, layers [4]*Config, get func(*Config) *T) {
	for i := len(layers) - 1; i >= 0; i-- {
		if v := get(layers[i]); v != nil {
			*dst = *v
			e.Sources[path] = Layer(i + 1)
			return
		}
	}
}

var modelPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$`)

// Validate checks one layer by itself against the ranges of the API. known
// tells whether a model is offered; nil accepts every well-formed name.
func (c Config) Validate(known func(model string) bool) error {
	var v []FieldViolation
	v = checkRange(v, "config.chunking.target_words", c.Chunking.TargetWords, 20, 1000)
	v = checkRange(v, "config.chunking.max_words", c.Chunking.MaxWords, 20, 2000)
	v = checkRange(v, "config.chunking.overlap_sentences", c.Chunking.OverlapSentences, 0, 5)
	v = checkRange(v, "config.retrieval.mode", c.Retrieval.Mode, ModeHybrid, ModeKeyword)
	v = checkRange(v, "config.retrieval.top_n", c.Retrieval.TopN, 1, 100)
	v = checkRange(v, "config.retrieval.keyword_weight", c.Retrieval.KeywordWeight, 0, 1)
	v = checkRange(v, "config.retrieval.fusion", c.Retrieval.Fusion, FusionConvex, FusionReciprocalRank)
	v = checkRange(v, "config.retrieval.min_score", c.Retrieval.MinScore, 0, 1)
	v = checkRange(v, "config.retrieval.candidates", c.Retrieval.Candidates, 10, 1000)
	if m := c.Embedding.Model; m != nil {
		switch {
		case !modelPattern.MatchString(*m):
			v = append(v, FieldViolation{"config.embedding.model", "not a model id"})
		case known != nil && !known(*m):
			v = append(v, FieldViolation{"config.embedding.model", fmt.Sprintf("model %q is not offered by this server", *m)})
		}
	}
	return configError(v)
}

// ValidateEffective checks what only shows when all layers are known.
func (e Effective) ValidateEffective() error {
	if e.MaxWords < e.TargetWords {
		return configError([]FieldViolation{{"config.chunking.max_words",
			fmt.Sprintf("max_words %d is below target_words %d", e.MaxWords, e.TargetWords)}})
	}
	return nil
}

func configError(v []FieldViolation) error {
	if len(v) == 0 {
		return nil
	}
	e := Errorf(CodeInvalidArgument, ReasonConfigInvalid, "the configuration is not valid: %s: %s", v[0].Field, v[0].Description)
	e.Fields = v
	return e
}

// checkRange appends a violation when the value is set and outside [low, high]. NaN is outside.
func checkRange[T ~int | ~uint8 | ~float64](v []FieldViolation, field string, value *T, low, high T) []FieldViolation {
	if value == nil || (*value >= low && *value <= high) {
		return v
	}
	return append(v, FieldViolation{field, fmt.Sprintf("%v is outside %v..%v", *value, low, high)})
}

// configFields are the paths an update mask may name, with what they copy.
var configFields = map[string]func(dst, src *Config){
	"config":                            func(d, s *Config) { *d = *s },
	"config.chunking":                   func(d, s *Config) { d.Chunking = s.Chunking },
	"config.embedding":                  func(d, s *Config) { d.Embedding = s.Embedding },
	"config.retrieval":                  func(d, s *Config) { d.Retrieval = s.Retrieval },
	"config.chunking.target_words":      func(d, s *Config) { d.Chunking.TargetWords = s.Chunking.TargetWords },
	"config.chunking.max_words":         func(d, s *Config) { d.Chunking.MaxWords = s.Chunking.MaxWords },
	"config.chunking.overlap_sentences": func(d, s *Config) { d.Chunking.OverlapSentences = s.Chunking.OverlapSentences },
	"config.embedding.model":            func(d, s *Config) { d.Embedding.Model = s.Embedding.Model },
	"config.retrieval.mode":             func(d, s *Config) { d.Retrieval.Mode = s.Retrieval.Mode },
	"config.retrieval.top_n":            func(d, s *Config) { d.Retrieval.TopN = s.Retrieval.TopN },
	"config.retrieval.keyword_weight":   func(d, s *Config) { d.Retrieval.KeywordWeight = s.Retrieval.KeywordWeight },
	"config.retrieval.fusion":           func(d, s *Config) { d.Retrieval.Fusion = s.Retrieval.Fusion },
	"config.retrieval.min_score":        func(d, s *Config) { d.Retrieval.MinScore = s.Retrieval.MinScore },
	"config.retrieval.candidates":       func(d, s *Config) { d.Retrieval.Candidates = s.Retrieval.Candidates },
}
