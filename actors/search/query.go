package search

import (
	"errors"
	"fmt"
	"math"
	"time"

	"granary.dev/granary/actors/pipeline"
)

// Mode says which lists a search uses. Numbers as in granary.v1.SearchMode.
type Mode uint8

// The modes. The zero Mode means ModeHybrid.
const (
	ModeHybrid  Mode = 1 // words and vectors, fused
	ModeVector  Mode = 2 // vectors alone
	ModeKeyword Mode = 3 // words alone
)

// Fusion says how two lists become one. Numbers as in granary.v1.Fusion.
type Fusion uint8

// The fusions. The zero Fusion means FusionConvex.
const (
	// FusionConvex is w × bm25/Σ(idf·(k1+1)) + (1−w) × cosine: both parts lie in
	// 0..1 whatever else was found, so scores of two searches compare.
	FusionConvex Fusion = 1
	// FusionReciprocalRank is w × 61/(60+rank by words) + (1−w) × 61/(60+rank by vectors).
	FusionReciprocalRank Fusion = 2
)

// Defaults and limits of a [Query].
const (
	DefaultTopN          = 10
	DefaultCandidates    = 100
	DefaultKeywordWeight = 0.5 // best of 0..1 in steps of .1 on two of three question sets
	MaxTopN              = 1000
	MaxCandidates        = 10000
)

// ErrInvalidQuery is the cause of every error about a query itself.
var ErrInvalidQuery = errors.New("search: invalid query")

// Query asks one question.
type Query struct {
	Text          string                 // the question's words, at most MaxQueryBytes are read
	Language      string                 // ISO 639-1 of Text, "" when unknown
	Vectors       []pipeline.QueryVector // the question embedded, one per space it is known in
	Mode          Mode
	Fusion        Fusion
	TopN          int      // hits wanted, 0 = DefaultTopN
	Candidates    int      // taken from each list before fusion, 0 = DefaultCandidates
	KeywordWeight *float64 // w, 0..1; nil = DefaultKeywordWeight
	MinScore      float64  // hits below are dropped
	Filter        *Filter  // nil: everything
	Explain       bool     // fill Plan.Terms
}

// complete checks q and fills the defaults; errors wrap [ErrInvalidQuery].
func (q Query) complete() (Query, error) {
	if q.Mode == 0 {
		q.Mode = ModeHybrid
	}
	if q.Fusion == 0 {
		q.Fusion = FusionConvex
	}
	if q.TopN == 0 {
		q.TopN = DefaultTopN
	}
	if q.Candidates == 0 {
		q.Candidates = DefaultCandidates
	}
	q.Candidates = max(q.Candidates, q.TopN)
	if q.KeywordWeight == nil {
		w := DefaultKeywordWeight
		q.KeywordWeight = &w
	}
	w := *q.KeywordWeight
	switch {
	case q.Mode > ModeKeyword:
		return q, fmt.Errorf("%w: mode %d", ErrInvalidQuery, q.Mode)
	case q.Fusion > FusionReciprocalRank:
		return q, fmt.Errorf("%w: fusion %d", ErrInvalidQuery, q.Fusion)
	case q.TopN < 1 || q.TopN > MaxTopN:
		return q, fmt.Errorf("%w: top n %d outside 1..%d", ErrInvalidQuery, q.TopN, MaxTopN)
	case q.Candidates > MaxCandidates:
		return q, fmt.Errorf("%w: candidates %d above %d", ErrInvalidQuery, q.Candidates, MaxCandidates)
	case math.IsNaN(w) || w < 0 || w > 1:
		return q, fmt.Errorf("%w: keyword weight %v outside 0..1", ErrInvalidQuery, w)
	case math.IsNaN(q.MinScore):
		return q, fmt.Errorf("%w: min score is not a number", ErrInvalidQuery)
	}
	for _, v := range q.Vectors {
		if len(v.Vector) == 0 || len(v.Vector) > MaxDims {
			return q, fmt.Errorf("%w: a vector of %d dimensions", ErrInvalidQuery, len(v.Vector))
		}
		for _, f := range v.Vector {
			if !(math.Abs(float64(f)) <= math.MaxFloat32/256) {
				return q, fmt.Errorf("%w: a vector that is not finite", ErrInvalidQuery)
			}
		}
	}
	return q, nil
}

// Result answers a [Query].
type Result struct {
	Hits       []Hit  // best first
	Candidates int    // chunks that were scored by both lists
	Revision   uint64 // of the view that answered
	Plan       Plan
}

// Hit refers to one chunk.
type Hit struct {
	DocumentID string
	Version    int64
	Attempt    string
	Ordinal    int // position of the chunk in its document
	Page       int // 1-based, 0 when the format has none
	Score      float64
	Parts      Parts
}

// Parts says what a hit's score is made of.
type Parts struct {
	BM25      float64        // raw, k1 1.2, b 0.75
	Keyword   float64        // BM25 / Σ(idf·(k1+1)) over the query's words, 0..1
	Cosine    float64        // of the best window; an estimate when HasVector is false
	HasVector bool           // the chunk has a vector in a space of the query
	Space     pipeline.Space // space of the best window
	Window    int            // index of the best window in the chunk
}

// The reasons why a search was answered with less than its mode asked for.
const (
	ReasonNoQueryVectors = "NO_QUERY_VECTORS" // the query was not embedded
	ReasonNoVectors      = "NO_VECTORS"       // no chunk has a vector in a space of the query yet
	ReasonNoWords        = "NO_WORDS"         // the query has no words
)

// Plan says how an answer came about.
type Plan struct {
	Mode              Mode   // the mode carried out
	Reason            string // why it is not the one asked for, "" when it is
	Exact             bool   // the vector list's first TopN are proven to be the nearest
	Why               string // in words
	Kernel            string // "avx2" or "go"
	Segments          int
	Chunks            int // live
	Allowed           int // of those, chunks that the filter lets through
	Postings          int // read
	Vectors           int // scanned
	Rescored          int // chunks scored with both planes
	Goroutines        int // that scanned
	KeywordCandidates int
	VectorCandidates  int
	Pending           int // candidates by words that have no vector in a space of the query

	AnalyzeTime, FilterTime, KeywordTime, VectorTime, FuseTime time.Duration

	Terms []TermPlan // with Query.Explain
}

// TermPlan is one word of the query in a [Plan].
type TermPlan struct {
	Word   string
	Forms  []string // as indexed, one per language of the index at most
	Chunks int      // that hold it, not-yet-merged dead ones included
	IDF    float64
}
