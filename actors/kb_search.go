package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/embed"
	"granary.dev/granary/actors/search"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// kbIndexRetry is what a caller is told to wait when the index is not there.
const kbIndexRetry = 200 * time.Millisecond

// minRevision is a search that waits for a revision still to come.
type minRevision struct {
	revision int64
	call     call
	request  *granaryv1.SearchRequest
	stop     func() bool
}

// search answers a query on the index as committed; stale says that it may not be
// the newest. Everything after the mailbox's look at the state runs on a
// goroutine of its own.
func (g *kbGrain) search(c call, r *granaryv1.SearchRequest, stale bool) {
	if err := g.kb.Exists(); err != nil {
		g.answer(c, errorReply(err))
		return
	}
	if g.unborn(func() { g.search(c, r, stale) }, c) || !stale && g.outdated(func() { g.search(c, r, stale) }, c) {
		return
	}
	if strings.TrimSpace(r.GetQuery()) == "" {
		c.Reply(errorReply(kb.Errorf(kb.CodeInvalidArgument, kb.ReasonQueryEmpty, "the query has no words")), nil)
		return
	}
	override := kb.Config{Retrieval: retrievalOf(r.GetRetrieval())}
	if err := override.Validate(nil); err != nil {
		c.Reply(errorReply(err), nil)
		return
	}
	filter, err := search.ParseFilter(r.GetFilter())
	if err != nil {
		c.Reply(errorReply(filterError(err)), nil)
		return
	}
	if r.GetMinRevision() > g.committed {
		g.awaitRevision(c, r)
		return
	}
	s := g.work.settings
	q := &query{deps: g.deps, kbID: g.id.ID, scope: g.scope(), request: r, filter: filter, stale: stale, retention: g.kb.Retention(),
		eff: kb.Resolve(g.deps.builtIn(), s.config, g.kb.Config(), override), own: g.kb.ConfigVersion(), tenant: s.version}
	g.ensureIndex(orReply(c, func() {
		ix := g.work.index
		idx := ix.idx
		q.view, q.docs, q.gone = idx.View, ix.docs.Load, ix.gone.Load
		go func() {
			reply, err := q.run(c.Context())
			switch {
			case err != nil && c.Context().Err() != nil:
				c.Reply(nil, c.Context().Err())
			case err != nil:
				c.Reply(nil, err)
			default:
				c.Reply(&nodev1.KnowledgeBaseReply{Revision: reply.GetRevision(),
					Result: &nodev1.KnowledgeBaseReply_Search{Search: reply}}, nil)
			}
		}()
	}))
}

func filterError(err error) error {
	why := err.Error()
	if f, ok := errors.AsType[*search.FilterError](err); ok {
		why = fmt.Sprintf("%s (at byte %d)", f.Message, f.Position)
	}
	out := kb.Errorf(kb.CodeInvalidArgument, kb.ReasonFilterInvalid, "the filter is not valid: %s", why)
	out.Fields = []kb.FieldViolation{{Field: "filter", Description: why}}
	return out
}

// awaitRevision keeps a search until its revision is committed or its caller gives up.
func (g *kbGrain) awaitRevision(c call, r *granaryv1.SearchRequest) {
	m := &minRevision{revision: r.GetMinRevision(), call: c, request: r}
	m.stop = context.AfterFunc(c.Context(), func() { g.tell(m) })
	// Leave the caller time to hear why: answer a moment before its deadline.
	if at, ok := c.Context().Deadline(); ok {
		t := time.AfterFunc(max(0, time.Until(at)-revisionMargin), func() { g.tell(m) })
		stop := m.stop
		m.stop = func() bool { t.Stop(); return stop() }
	}
	w := g.busy()
	w.reached = append(w.reached, m)
}

const revisionMargin = 100 * time.Millisecond

// dropWaiting answers a search whose revision did not come in time.
func (g *kbGrain) dropWaiting(m *minRevision) {
	w := g.busy()
	for i, o := range w.reached {
		if o == m {
			w.reached = append(w.reached[:i:i], w.reached[i+1:]...)
			m.stop()
			m.call.Reply(errorReply(kb.Errorf(kb.CodeFailedPrecondition, kb.ReasonRevisionNotReached,
				"revision %d is not reached, the knowledge base is at %d", m.revision, g.committed).
				With("revision", itoa(g.committed))), nil)
			return
		}
	}
}

// query is one search beside the mailbox. Everything in it is immutable or
// safe for concurrent use.
type query struct {
	deps        *Deps
	kbID        string
	scope       journal.Scope
	request     *granaryv1.SearchRequest
	filter      *search.Filter
	eff         kb.Effective
	own, tenant int64
	stale       bool
	retention   kb.Retention
	view        func() *search.View // the newest
	docs        func(key any) (any, bool)
	gone        func() bool // the index was given up

	language    string
	highlighter *search.Highlighter
	fallback    string
	message     string
	steps       []*granaryv1.ExplainStep
}

// run answers the query. So many searches run on a node at a time: more would
// only make all of them slower and hold more memory.
func (q *query) run(ctx context.Context) (*granaryv1.SearchResponse, error) {
	q.language = q.request.GetLanguage()
	if err := q.count(ctx); err != nil {
		return nil, err
	}
	select {
	case q.deps.searching <- struct{}{}:
		defer func() { <-q.deps.searching }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	vectors, err := q.embed(ctx)
	if err != nil {
		return nil, err
	}
	sq := search.Query{Text: q.request.GetQuery(), Language: q.language, Vectors: vectors, Mode: q.mode(),
		Fusion: fusionOf(q.eff.Fusion), TopN: q.eff.TopN, Candidates: q.eff.Candidates, KeywordWeight: &q.eff.KeywordWeight,
		MinScore: q.eff.MinScore, Filter: q.filter, Explain: q.request.GetExplain()}
	start := time.Now()
	var res search.Result
	var hits []*granaryv1.Hit
	for try, moved := 1, true; moved && try <= maxSearches; try++ {
		if res, err = q.view().Search(ctx, sq); err != nil {
			return nil, searchError(err)
		}
		if hits, moved, err = q.hits(ctx, res.Hits); err != nil {
			return nil, err
		}
	}
	if q.gone() {
		return nil, &unapplied{kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the index was given up meanwhile; try again").After(kbIndexRetry)}
	}
	q.step("search", time.Since(start), res.Plan.Why)
	out := &granaryv1.SearchResponse{Hits: hits, Revision: int64(res.Revision), FallbackUsed: q.fallback, Message: q.message, Stale: q.stale,
		Applied: effectiveProto(q.eff, q.own, q.tenant)}
	if q.request.GetExplain() {
		out.Explain = q.explain(res)
	}
	return out, nil
}

// mode is the one asked for, unless what it needs is not there.
func (q *query) mode() search.Mode {
	if q.fallback != "" {
		return search.ModeKeyword
	}
	switch q.eff.Mode {
	case kb.ModeVector:
		return search.ModeVector
	case kb.ModeKeyword:
		return search.ModeKeyword
	}
	return search.ModeHybrid
}

func fusionOf(f kb.Fusion) search.Fusion {
	if f == kb.FusionReciprocalRank {
		return search.FusionReciprocalRank
	}
	return search.FusionConvex
}

// countTime is how long a search waits to hear whether it may use vectors.
const countTime = time.Second

// count takes the vector operation of a search by vectors. A hybrid search for which there
// is none is answered by words, which it asks for as well, and the answer says so; one that
// asks for vectors alone is refused.
func (q *query) count(ctx context.Context) error {
	if q.deps.Meters == nil || q.eff.Mode == kb.ModeKeyword {
		return nil
	}
	within, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	start := time.Now()
	_, err := q.deps.Meters.Take(within, q.scope.Tenant, kb.MeterVectors)
	if err == nil {
		return nil
	}
	own, ok := errors.AsType[*kb.Error](err)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !ok:
		own = kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "The tenant's limits cannot be read now; try again.").After(time.Second)
	}
	if q.eff.Mode == kb.ModeVector {
		return own
	}
	why := "the limit of vector operations cannot be read now"
	if own.Reason == kb.ReasonVectorLimit {
		why = fmt.Sprintf("the limit of %s vector operations a minute is reached", own.Metadata["limit"])
	}
	q.fallback, q.message = "keyword_search", why+"; results are by words only"
	q.step("count", time.Since(start), why)
	return nil
}

// embed makes the query's vectors. An embedder that is down costs ranking, not
// the answer: words are searched instead, and the answer says so.
func (q *query) embed(ctx context.Context) ([]pipeline.QueryVector, error) {
	if q.eff.Mode == kb.ModeKeyword || q.fallback != "" {
		return nil, nil
	}
	start := time.Now()
	v, err := q.deps.Embedder.Query(ctx, embed.Input{Text: q.request.GetQuery(), Language: q.language})
	q.step("embed", time.Since(start), q.deps.Embedder.Model())
	if err == nil {
		return v, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	q.fallback, q.message = "keyword_search", "the embedding model did not answer; results are by words only"
	q.deps.Logger.Warn("query not embedded", "error", err)
	return nil, nil
}

func (q *query) step(name string, took time.Duration, detail string) {
	q.steps = append(q.steps, &granaryv1.ExplainStep{Name: name, Took: durationpb.New(took), Detail: detail})
}

func searchError(err error) error {
	if errors.Is(err, search.ErrInvalidQuery) {
		return errorOf(kb.CodeInvalidArgument, kb.ReasonRequestInvalid, err)
	}
	return err
}

func errorOf(code kb.Code, reason string, err error) error {
	return kb.Errorf(code, reason, "%v", err)
}

// maxSearches is how often a search looks at a newer view because documents it
// found were replaced by their next version meanwhile.
const maxSearches = 5

// hits reads the texts of what was found. A document that went away or moved
// on between the view and now is left out (I8); moved says that one of them is
// there in a newer version, which a newer view has.
func (q *query) hits(ctx context.Context, found []search.Hit) (out []*granaryv1.Hit, moved bool, err error) {
	start := time.Now()
	refs := make([]journal.ChunkRef, 0, len(found))
	for _, h := range found {
		d, replaced := q.live(h)
		moved = moved || replaced
		if d != nil {
			refs = append(refs, journal.ChunkRef{Attempt: h.Attempt, Ordinal: h.Ordinal})
		}
	}
	if len(refs) == 0 {
		return nil, moved, nil
	}
	rows, err := q.texts(ctx, refs)
	textless := err != nil && q.request.GetAllowStale() && ctx.Err() == nil
	switch {
	case textless:
		q.message = "the store does not answer; the hits have no text"
	case err != nil:
		return nil, false, kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the texts of the hits cannot be read; try again").After(time.Second)
	}
	out = make([]*granaryv1.Hit, 0, len(refs))
	for _, h := range found {
		d, replaced := q.live(h)
		moved = moved || replaced
		if d == nil {
			continue
		}
		row, ok := rows[journal.ChunkRef{Attempt: h.Attempt, Ordinal: h.Ordinal}]
		if !ok && textless {
			row.Ordinal = h.Ordinal
		} else if !ok {
			return nil, false, changedError() // never an answer that silently lacks it
		}
		out = append(out, q.hit(h, d, row))
	}
	q.step("texts", time.Since(start), fmt.Sprintf("%d chunks", len(out)))
	return out, moved, nil
}

// texts reads the chunks of hits. A search that may be stale does not wait long
// for a store that is down.
func (q *query) texts(ctx context.Context, refs []journal.ChunkRef) (map[journal.ChunkRef]journal.Chunk, error) {
	if q.request.GetAllowStale() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, staleTexts)
		defer cancel()
	}
	return q.deps.Chunks.ChunksByRef(ctx, q.scope, refs)
}

// live gives the document of a hit if its attempt is still the committed one;
// replaced says that another one is.
func (q *query) live(h search.Hit) (d *kb.Document, replaced bool) {
	v, ok := q.docs(h.DocumentID)
	if !ok {
		return nil, false
	}
	d = v.(*kb.Document)
	switch {
	case !visible(d), q.retention.ExpiredAt(d, q.deps.Now()):
		return nil, false
	case d.Live.Attempt != h.Attempt:
		return nil, true
	}
	return d, false
}

func (q *query) hit(h search.Hit, d *kb.Document, row journal.Chunk) *granaryv1.Hit {
	out := &granaryv1.Hit{
		Document: docName(q.kbID, d.ID), DisplayName: d.Name, Version: d.Live.Version, Title: d.Live.Title,
		Chunk: int32(row.Ordinal), Text: row.Text, Score: h.Score, Headings: row.Headings,
		Start: int64(row.Start), End: int64(row.End), Page: int32(row.Page), Language: row.Language,
		MediaType: d.Live.MediaType, Metadata: d.Metadata, SourceUrl: d.Source.URL,
		Parts: &granaryv1.ScoreParts{Bm25: h.Parts.BM25, Keyword: h.Parts.Keyword, Vector: h.Parts.Cosine, HasVector: h.Parts.HasVector},
	}
	if q.highlighter == nil {
		q.highlighter = search.NewHighlighter(q.request.GetQuery())
	}
	for _, r := range q.highlighter.Highlight(row.Text, row.Language) {
		out.Highlights = append(out.Highlights, &granaryv1.Range{Start: int32(r.Start), End: int32(r.End)})
	}
	return out
}

func (q *query) explain(res search.Result) *granaryv1.Explain {
	p := res.Plan
	st := q.view().Stats()
	out := &granaryv1.Explain{Plan: planText(q.eff, p), Reason: firstOf(q.message, p.Reason), Chunks: int64(p.Chunks),
		Documents: int64(st.Documents), EligibleChunks: int64(p.Allowed), Candidates: int64(res.Candidates), Node: q.deps.Node}
	for _, s := range q.steps {
		if s.GetName() != "search" {
			out.Steps = append(out.Steps, s)
			continue
		}
		for _, part := range []struct {
			name   string
			took   time.Duration
			detail string
		}{
			{"analyze", p.AnalyzeTime, fmt.Sprintf("%d terms", len(p.Terms))},
			{"filter", p.FilterTime, fmt.Sprintf("%d of %d chunks", p.Allowed, p.Chunks)},
			{"keywords", p.KeywordTime, fmt.Sprintf("%d postings, %d candidates", p.Postings, p.KeywordCandidates)},
			{"vectors", p.VectorTime, fmt.Sprintf("%d scanned, %d rescored, %s", p.Vectors, p.Rescored, p.Kernel)},
			{"fuse", p.FuseTime, fmt.Sprintf("%d candidates", res.Candidates)},
		} {
			out.Steps = append(out.Steps, &granaryv1.ExplainStep{Name: part.name, Took: durationpb.New(part.took), Detail: part.detail})
		}
	}
	for _, t := range p.Terms {
		out.Terms = append(out.Terms, t.Word)
	}
	return out
}

// planText says in a line how the answer was made.
func planText(e kb.Effective, p search.Plan) string {
	exact := "exact"
	if !p.Exact {
		exact = "approximate"
	}
	switch p.Mode {
	case search.ModeKeyword:
		return "keyword: bm25"
	case search.ModeVector:
		return fmt.Sprintf("vector: %s int8 scan, rescored", exact)
	}
	if e.Fusion == kb.FusionReciprocalRank {
		return fmt.Sprintf("hybrid: %s int8 scan + bm25, reciprocal rank fusion", exact)
	}
	return fmt.Sprintf("hybrid: %s int8 scan + bm25, convex fusion w=%.2f", exact, e.KeywordWeight)
}
