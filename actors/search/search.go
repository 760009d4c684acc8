package search

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// Search answers q from this state. It returns ctx's error when ctx ends first,
// and errors that wrap [ErrInvalidQuery]; nothing else can fail.
func (v *View) Search(ctx context.Context, q Query) (Result, error) {
	q, err := q.complete()
	if err != nil {
		return Result{}, err
	}
	r := run{view: v, query: q}
	if err := r.do(ctx); err != nil {
		return Result{}, fmt.Errorf("search: %w", err)
	}
	return r.result, nil
}

// run is one search under way.
type run struct {
	view   *View
	query  Query
	result Result

	allowed []bitmap // per segment; nil: all chunks
	terms   []wordTerm
	bound   float64
	scores  *accumulator
	scan    *scan
	found   []candidate
}

// candidate is a chunk with both its exact scores.
type candidate struct {
	chunk      uint32
	bm25       float64
	near       nearest
	embedded   bool // near is real, not an estimate
	score      float64
	doc        *docMeta // with ordinal and page, once located
	ordinal    int
	page       int
	wordRank   int
	vectorRank int
}

func (r *run) do(ctx context.Context) error {
	v, plan := r.view, &r.result.Plan
	r.result.Revision = v.revision
	plan.Kernel = kernel()
	plan.Segments = len(v.segs)
	r.scores = v.shared.accumulator(v.chunks)
	defer v.shared.release(r.scores)

	clock := time.Now()
	step := func(d *time.Duration) {
		now := time.Now()
		*d, clock = now.Sub(clock), now
	}
	if r.query.Mode != ModeVector {
		r.terms, plan.Postings = v.lookUp(analyzeQuery(r.query.Text, v.languagesFor(r.query.Language)))
		r.bound = bound(r.terms)
	}
	step(&plan.AnalyzeTime)
	if err := r.allow(ctx); err != nil {
		return err
	}
	step(&plan.FilterTime)
	if err := v.scoreWords(ctx, r.terms, r.scores); err != nil {
		return err
	}
	limit := r.query.Candidates
	if r.query.Mode == ModeKeyword {
		limit = r.query.TopN // nothing can change the order
	}
	words := v.bestWords(r.scores, r.allowed, limit)
	step(&plan.KeywordTime)
	near, err := r.vectors(ctx)
	if err != nil {
		return err
	}
	step(&plan.VectorTime)
	r.decide()
	r.gather(words.items, near)
	r.fuse()
	r.hits()
	step(&plan.FuseTime)
	r.explain()
	return nil
}

// languagesFor is the languages in which a query is analysed.
func (v *View) languagesFor(language string) []string {
	if language == "" || slices.Contains(v.languages, language) {
		return v.languages
	}
	return append(slices.Clone(v.languages), language)
}

// allow evaluates the filter and takes out the dead.
func (r *run) allow(ctx context.Context) error {
	r.allowed = make([]bitmap, len(r.view.segs))
	plan := &r.result.Plan
	for i := range r.view.segs {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := &r.view.segs[i]
		n := s.seg.Chunks()
		plan.Chunks += n - s.dead
		switch {
		case r.query.Filter != nil:
			r.allowed[i] = r.query.Filter.chunks(s)
			plan.Allowed += r.allowed[i].count()
		case s.dead > 0:
			r.allowed[i] = s.deadChunks.without(n)
			plan.Allowed += n - s.dead
		default:
			plan.Allowed += n
		}
	}
	return nil
}

// vectors scans for the nearest chunks.
func (r *run) vectors(ctx context.Context) ([]nearest, error) {
	plan := &r.result.Plan
	plan.Exact, plan.Why = true, "words only"
	if r.query.Mode == ModeKeyword || len(r.query.Vectors) == 0 {
		return nil, nil
	}
	r.scan = r.view.sourcesOf(r.query.Vectors, r.allowed)
	near, err := r.scan.run(ctx, r.query.Candidates, r.query.TopN)
	if err != nil {
		return nil, err
	}
	plan.Vectors, plan.Rescored, plan.Goroutines = r.scan.vectors, r.scan.rescored, r.scan.workers
	plan.Exact = r.scan.exact
	plan.Why = "flat scan of all vectors, candidates rescored at 16 bits, proven by the error bound"
	if !plan.Exact {
		plan.Why = "flat scan of all vectors, candidates rescored at 16 bits; too many vectors for a second pass to prove it"
	}
	return near, nil
}

// decide settles the mode that can be carried out.
func (r *run) decide() {
	plan := &r.result.Plan
	plan.Mode = r.query.Mode
	noVectors := ""
	switch {
	case len(r.query.Vectors) == 0:
		noVectors = ReasonNoQueryVectors
	case r.scan != nil && len(r.scan.sources) == 0:
		noVectors = ReasonNoVectors
	}
	switch {
	case r.query.Mode == ModeKeyword:
	case noVectors != "":
		plan.Reason = noVectors
		if r.query.Mode == ModeHybrid {
			plan.Mode = ModeKeyword
		}
	case r.query.Mode == ModeHybrid && len(r.terms) == 0:
		plan.Mode, plan.Reason = ModeVector, ReasonNoWords
	}
}

// gather joins both lists and computes the score that each candidate lacks.
func (r *run) gather(words []scored, near []nearest) {
	plan := &r.result.Plan
	plan.KeywordCandidates, plan.VectorCandidates = len(words), len(near)
	r.found = make([]candidate, 0, len(words)+len(near))
	seen := make(map[uint32]bool, len(near))
	for _, n := range near {
		seen[n.chunk] = true
		r.found = append(r.found, candidate{chunk: n.chunk, bm25: float64(r.scores.scores[n.chunk]), near: n, embedded: true})
	}
	for _, w := range words {
		if seen[w.chunk] {
			continue
		}
		c := candidate{chunk: w.chunk, bm25: float64(w.score)}
		if r.scan != nil {
			c.near, c.embedded = r.scan.cosine(r.view, w.chunk)
		}
		if !c.embedded {
			plan.Pending++
		}
		r.found = append(r.found, c)
	}
	if r.scan == nil {
		plan.Pending = 0
	}
	r.result.Candidates = len(r.found)
}

// locate looks up what document a candidate belongs to, once.
func (r *run) locate(c *candidate) {
	if c.doc != nil {
		return
	}
	s := r.view.segmentOf(c.chunk)
	doc := s.seg.docOf(c.chunk - s.base)
	c.doc, c.page = &s.seg.docs[doc], int(s.seg.page(c.chunk-s.base))
	c.ordinal = int(c.chunk - s.base - s.seg.docStart[doc])
}

// compare orders candidates: by score, then by document and ordinal, so that
// equals come in the same order however the index is cut into segments.
func (r *run) compare(a, b *candidate) int {
	if a.score != b.score {
		return cmp.Compare(b.score, a.score)
	}
	r.locate(a)
	r.locate(b)
	return cmp.Or(cmp.Compare(a.doc.id, b.doc.id), cmp.Compare(a.ordinal, b.ordinal))
}

// order lists the candidates, best first.
func (r *run) order() []*candidate {
	order := make([]*candidate, len(r.found))
	for i := range r.found {
		order[i] = &r.found[i]
	}
	slices.SortFunc(order, r.compare)
	return order
}

// hits turns the best candidates into references.
func (r *run) hits() {
	r.result.Hits = make([]Hit, 0, min(r.query.TopN, len(r.found)))
	for _, c := range r.order() {
		if len(r.result.Hits) == r.query.TopN || c.score < r.query.MinScore {
			break
		}
		r.locate(c)
		r.result.Hits = append(r.result.Hits, Hit{
			DocumentID: c.doc.id, Version: c.doc.version, Attempt: c.doc.attempt,
			Ordinal: c.ordinal, Page: c.page, Score: c.score,
			Parts: Parts{
				BM25: c.bm25, Keyword: r.keyword(c), Cosine: float64(c.near.cosine),
				HasVector: c.embedded, Space: c.near.space, Window: c.near.window,
			},
		})
	}
}

func (r *run) explain() {
	if !r.query.Explain {
		return
	}
	for i := range r.terms {
		t := &r.terms[i]
		r.result.Plan.Terms = append(r.result.Plan.Terms, TermPlan{Word: t.word, Forms: t.forms, Chunks: t.df, IDF: t.idf})
	}
}
