package actors

import (
	"context"
	"errors"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	maxEventPage = 500
	maxWatchWait = 30 * time.Second
	maxWatchers  = 1024 // of one knowledge base at a time
)

// watcher is a reader of events that waits for news.
type watcher struct {
	call  call
	req   *nodev1.ReadEvents
	timer *time.Timer
}

type watchDone struct{ w *watcher }

// readEvents answers what happened after a cursor, at once or when something does.
func (g *kbGrain) readEvents(c call, r *nodev1.ReadEvents) {
	if err := g.kb.Exists(); err != nil {
		g.answer(c, errorReply(err))
		return
	}
	if g.unborn(func() { g.readEvents(c, r) }, c) {
		return
	}
	if r.GetAfterRevision() > g.head {
		g.answer(c, errorReply(kb.Errorf(kb.CodeInvalidArgument, kb.ReasonResumeTokenInvalid,
			"revision %d is ahead of the knowledge base, which is at %d", r.GetAfterRevision(), g.head)))
		return
	}
	w := g.busy()
	wt := &watcher{call: c, req: r}
	if g.news(wt) {
		return
	}
	wait := min(r.GetWait().AsDuration(), maxWatchWait)
	if wait <= 0 || len(w.watchers) >= maxWatchers {
		g.sendEvents(wt, nil)
		return
	}
	if w.watchers == nil {
		w.watchers = make(map[*watcher]struct{})
	}
	w.watchers[wt] = struct{}{}
	wt.timer = time.AfterFunc(wait, func() { g.tell(&watchDone{wt}) })
}

// news answers a watcher if there is something for it.
func (g *kbGrain) news(wt *watcher) bool {
	after := wt.req.GetAfterRevision()
	if after >= 0 && after < g.committed {
		g.readJournal(wt, after)
		return true
	}
	if after < 0 {
		// From now on: the first answer only tells where now is.
		g.sendEvents(wt, nil)
		return true
	}
	if wt.req.GetIncludeProgress() && len(g.progressSince(wt.req.GetProgressCursor())) > 0 {
		g.sendEvents(wt, nil)
		return true
	}
	return false
}

// readJournal reads a page of events on a goroutine of its own and answers.
func (g *kbGrain) readJournal(wt *watcher, after int64) {
	limit := int(wt.req.GetLimit())
	if limit <= 0 || limit > maxEventPage {
		limit = maxEventPage
	}
	base := g.eventsReply(wt.req)
	upTo := g.committed
	go func() {
		page, err := g.deps.Store.Events(wt.call.Context(), g.id, after, limit)
		if err != nil {
			wt.call.Reply(nil, readError())
			return
		}
		if len(page) == 0 {
			wt.call.Reply(nil, changedError())
			return
		}
		for _, e := range page {
			if e.Seq > upTo {
				break
			}
			ev, err := kb.DecodeEvent(e.Type, e.Data)
			if err != nil {
				wt.call.Reply(nil, err)
				return
			}
			base.Events = append(base.Events, eventProto(g.id.ID, e.Seq, e.Time, e.Principal, e.RequestID, ev))
		}
		wt.call.Reply(&nodev1.KnowledgeBaseReply{Revision: base.GetRevision(),
			Result: &nodev1.KnowledgeBaseReply_Events{Events: base}}, nil)
	}()
}

func (g *kbGrain) sendEvents(wt *watcher, events []*granaryv1.Event) {
	r := g.eventsReply(wt.req)
	r.Events = events
	wt.call.Reply(&nodev1.KnowledgeBaseReply{Revision: g.committed, Result: &nodev1.KnowledgeBaseReply_Events{Events: r}}, nil)
}

// eventsReply is an answer without events: where things stand.
func (g *kbGrain) eventsReply(r *nodev1.ReadEvents) *nodev1.ReadEventsResult {
	out := &nodev1.ReadEventsResult{Revision: g.committed, Uid: g.kb.UID(), ProgressCursor: r.GetProgressCursor()}
	if r.GetIncludeProgress() {
		out.Progress = g.progressSince(r.GetProgressCursor())
		out.ProgressCursor = g.cursor()
	}
	return out
}

// cursor is where progress stands: activation and tick. Another activation's
// cursor matches nothing, so that the reader gets all there is.
func (g *kbGrain) cursor() string { return g.fence.Activation + "/" + itoa(g.busy().ticks) }

func (g *kbGrain) progressSince(cursor string) []*granaryv1.Progress {
	w := g.busy()
	var out []*granaryv1.Progress
	if cursor == g.cursor() {
		return nil
	}
	since := int64(-1)
	prefix := g.fence.Activation + "/"
	if len(cursor) > len(prefix) && cursor[:len(prefix)] == prefix {
		since = parseInt(cursor[len(prefix):])
	}
	for id, p := range w.progress {
		d := g.kb.Document(id)
		if p.tick <= since || d == nil {
			continue
		}
		out = append(out, &granaryv1.Progress{Document: docName(g.id.ID, id), DisplayName: d.Name, Version: p.version,
			State: granaryv1.DocumentState(p.state), Fraction: p.fraction, RetryTime: timestamp(d.RetryAt),
			WaitReason: p.wait.reason, WaitUntil: timestamp(p.wait.until)})
	}
	return out
}

// notify answers everyone whom a commit concerns.
func (g *kbGrain) notify() {
	w := g.busy()
	for wt := range w.watchers {
		if g.news(wt) {
			g.forgetWatch(wt)
		}
	}
	var waiting []*minRevision
	for _, m := range w.reached {
		if m.revision > g.committed {
			waiting = append(waiting, m)
			continue
		}
		m.stop()
		g.search(m.call, m.request, false) // the commit has shown that it is current
	}
	w.reached = waiting
}

// notifyProgress answers those who watch progress.
func (g *kbGrain) notifyProgress() {
	for wt := range g.work.watchers {
		if wt.req.GetIncludeProgress() && g.news(wt) {
			g.forgetWatch(wt)
		}
	}
}

func (g *kbGrain) forgetWatch(wt *watcher) {
	wt.timer.Stop()
	delete(g.work.watchers, wt)
}

// endWatch answers a watcher whose time is over with where things stand.
func (g *kbGrain) endWatch(wt *watcher) {
	if g.work == nil {
		return
	}
	if _, ok := g.work.watchers[wt]; ok {
		g.forgetWatch(wt)
		g.sendEvents(wt, nil)
	}
}

// listChunks reads a page of the chunks searches see.
func (g *kbGrain) listChunks(c call, r *granaryv1.ListChunksRequest) {
	d, err := g.find(docID(r.GetParent()))
	if err != nil {
		g.answer(c, errorReply(err))
		return
	}
	after := -1
	if t := r.GetPageToken(); t != "" {
		n, ok := pageToken(t, "c")
		if !ok {
			c.Reply(errorReply(pageTokenError()), nil)
			return
		}
		after = int(n)
	}
	size := pageSize(r.GetPageSize(), 500)
	if d.Live == nil {
		g.answer(c, &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Chunks{Chunks: &granaryv1.ListChunksResponse{}}})
		return
	}
	g.readAside(c, func(ctx context.Context, scope journal.Scope) (*nodev1.KnowledgeBaseReply, error) {
		rows, err := g.deps.Chunks.Chunks(ctx, scope, d.Live.Attempt, after, size)
		if err != nil {
			return nil, err
		}
		if len(rows) < min(size, d.Live.Chunks-after-1) {
			return nil, errChanged
		}
		out := &granaryv1.ListChunksResponse{Version: d.Live.Version}
		for _, row := range rows {
			out.Chunks = append(out.Chunks, &granaryv1.Chunk{Ordinal: int32(row.Ordinal), Text: row.Text, Start: int64(row.Start),
				End: int64(row.End), Page: int32(row.Page), Headings: row.Headings, Language: row.Language, Embedded: d.Live.Embedded})
		}
		if len(rows) == size {
			out.NextPageToken = makePageToken("c", int64(rows[len(rows)-1].Ordinal))
		}
		return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Chunks{Chunks: out}}, nil
	})
}

// readAside reads from the store beside the mailbox, based on the state as
// decided when the call came, once that is committed.
func (g *kbGrain) readAside(c call, read func(context.Context, journal.Scope) (*nodev1.KnowledgeBaseReply, error)) {
	scope := g.scope()
	revision := g.head
	g.onQuiet(orReply(c, func() {
		go func() {
			r, err := read(c.Context(), scope)
			switch {
			case c.Context().Err() != nil:
				c.Reply(nil, c.Context().Err())
			case errors.Is(err, errChanged):
				c.Reply(nil, changedError())
			case err != nil:
				g.deps.Logger.Warn("store not read", "grain", g.id.String(), "error", err)
				c.Reply(nil, readError())
			default:
				r.Revision = revision
				c.Reply(r, nil)
			}
		}()
	}))
}

// getText gives a part of a document's extracted text.
func (g *kbGrain) getText(c call, r *granaryv1.GetDocumentTextRequest) {
	d, err := g.find(docID(r.GetName()))
	if err != nil {
		g.answer(c, errorReply(err))
		return
	}
	limit := int(r.GetMaxBytes())
	if limit == 0 {
		limit = 64 << 10
	}
	out := &granaryv1.GetDocumentTextResponse{Offset: r.GetOffset()}
	if d.Live == nil || d.Live.Chunks == 0 {
		g.answer(c, &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Text{Text: out}})
		return
	}
	g.readAside(c, func(ctx context.Context, scope journal.Scope) (*nodev1.KnowledgeBaseReply, error) {
		rows, err := readChunks(ctx, g.deps.Chunks, scope, d.Live.Attempt)
		if err != nil {
			return nil, err
		}
		if len(rows) != d.Live.Chunks {
			return nil, errChanged
		}
		out.Version = d.Live.Version
		if len(rows) > 0 {
			out.TotalBytes = int64(rows[len(rows)-1].End)
		}
		if out.GetOffset() < out.GetTotalBytes() {
			out.Text = assemble(rows, int(out.GetOffset()), limit)
		}
		return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Text{Text: out}}, nil
	})
}

// listDocuments gives a page of documents in order of creation.
func (g *kbGrain) listDocuments(r *granaryv1.ListDocumentsRequest) *nodev1.KnowledgeBaseReply {
	if err := g.kb.Exists(); err != nil {
		return errorReply(err)
	}
	var after int64
	if t := r.GetPageToken(); t != "" {
		var ok bool
		if after, ok = pageToken(t, "d"); !ok {
			return errorReply(pageTokenError())
		}
	}
	want := make(map[granaryv1.DocumentState]bool)
	for _, s := range r.GetStates() {
		want[s] = true
	}
	size := pageSize(r.GetPageSize(), 1000)
	now := g.deps.Now()
	out := &granaryv1.ListDocumentsResponse{Revision: g.head}
	last := int64(0)
	g.kb.After(after, func(d *kb.Document) bool {
		p := g.document(d)
		if d.State == kb.StateDeleting || g.kb.Expired(d, now) || (len(want) > 0 && !want[p.GetState()]) {
			return true
		}
		if len(out.Documents) == size {
			out.NextPageToken = makePageToken("d", last)
			return false
		}
		out.Documents = append(out.Documents, p)
		last = d.CreatedSeq
		return true
	})
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Documents{Documents: out}}
}
