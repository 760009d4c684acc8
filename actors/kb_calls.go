package actors

import (
	"slices"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// handle routes a call of an active grain.
func (g *kbGrain) handle(c call) {
	m, ok := c.Request().(*nodev1.KnowledgeBaseCall)
	if !ok {
		c.Reply(nil, kb.Errorf(kb.CodeUnimplemented, kb.ReasonUnknownOperation, "unknown message"))
		return
	}
	if g.stopping {
		c.Reply(nil, movedError())
		return
	}
	stale := m.GetSearch().GetAllowStale()
	if m.GetHeader().GetUnproven() && (!stale || g.mayRead()) {
		c.Reply(nil, unprovenError())
		return
	}
	if !reads(m) || g.mayRead() {
		g.serve(c, m)
		return
	}
	if stale {
		g.searchStale(c, m)
		return
	}
	g.current(orReply(c, func() { g.serve(c, m) }))
}

// reads reports whether an operation is answered from what is there. Writes are
// too when they come to nothing, which shows later: see write.
func reads(m *nodev1.KnowledgeBaseCall) bool {
	switch m.GetOperation().(type) {
	case *nodev1.KnowledgeBaseCall_Get, *nodev1.KnowledgeBaseCall_GetDocument, *nodev1.KnowledgeBaseCall_ListDocuments,
		*nodev1.KnowledgeBaseCall_ListChunks, *nodev1.KnowledgeBaseCall_GetText, *nodev1.KnowledgeBaseCall_Search,
		*nodev1.KnowledgeBaseCall_ReadEvents, *nodev1.KnowledgeBaseCall_ReadExport, *nodev1.KnowledgeBaseCall_Erased, *nodev1.KnowledgeBaseCall_GetUse:
		return true
	}
	return false
}

// serve carries a call out, on what is current.
func (g *kbGrain) serve(c call, m *nodev1.KnowledgeBaseCall) {
	if g.broken != nil {
		c.Reply(nil, g.broken)
		return
	}
	if err := g.authorize(m); err != nil {
		g.answer(c, errorReply(err))
		return
	}
	g.expire()
	switch op := m.GetOperation().(type) {
	case *nodev1.KnowledgeBaseCall_Get:
		g.withSettings(orReply(c, func() { g.answer(c, g.get()) }))
	case *nodev1.KnowledgeBaseCall_GetDocument:
		g.answer(c, g.getDocument(op.GetDocument))
	case *nodev1.KnowledgeBaseCall_ListDocuments:
		g.answer(c, g.listDocuments(op.ListDocuments))
	case *nodev1.KnowledgeBaseCall_ListChunks:
		g.listChunks(c, op.ListChunks)
	case *nodev1.KnowledgeBaseCall_GetText:
		g.getText(c, op.GetText)
	case *nodev1.KnowledgeBaseCall_Search:
		if g.kb.Exists() == nil {
			g.ensureIndex(nil) // loads while the settings are fetched
		}
		g.withSettings(orReply(c, func() { g.search(c, op.Search, false) }))
	case *nodev1.KnowledgeBaseCall_ReadEvents:
		g.readEvents(c, op.ReadEvents)
	case *nodev1.KnowledgeBaseCall_ReadExport:
		g.withSettings(orReply(c, func() { g.answer(c, g.readExport(op.ReadExport)) }))
	case *nodev1.KnowledgeBaseCall_Erased:
		if g.kb.Phase() != kb.PhaseNone {
			g.answer(c, errorReply(kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "not erased yet").After(time.Second)))
			return
		}
		g.answer(c, doneReply())
	case *nodev1.KnowledgeBaseCall_Wake:
		g.tell(&wakeMsg{erasing: slices.Contains(op.Wake.GetKeys(), journal.WakeErasing), work: slices.Contains(op.Wake.GetKeys(), wakeKey)})
		c.Reply(&nodev1.KnowledgeBaseReply{Revision: g.committed, Result: &nodev1.KnowledgeBaseReply_Done{Done: &nodev1.Done{}}}, nil)
	case *nodev1.KnowledgeBaseCall_TenantChanged:
		g.setSettings(op.TenantChanged)
		g.tell(&wakeMsg{})
		c.Reply(&nodev1.KnowledgeBaseReply{Revision: g.committed, Result: &nodev1.KnowledgeBaseReply_Done{Done: &nodev1.Done{}}}, nil)
	case *nodev1.KnowledgeBaseCall_GetUse:
		g.getUse(c, op.GetUse)
	case *nodev1.KnowledgeBaseCall_Storage:
		g.serveStorage(c, m)
	default:
		g.handleWrite(c, m)
	}
}

// unborn reports whether the creation of the knowledge base is not committed
// yet: then f runs when it is. Else a read beside the journal could speak of
// what may never have been.
func (g *kbGrain) unborn(f func(), c call) bool {
	if g.kb.Listed() || g.quiet() {
		return false
	}
	g.onQuiet(orReply(c, f))
	return true
}

// orReply passes an error on to the caller, and else goes on.
func orReply(c call, f func()) func(error) {
	return func(err error) {
		if err != nil {
			c.Reply(nil, err)
			return
		}
		f()
	}
}

// answer replies with a result based on the state as decided: it waits for the
// commit of everything decided so far, so that nobody sees what may not last.
func (g *kbGrain) answer(c call, r *nodev1.KnowledgeBaseReply) {
	r.Revision = g.head
	g.onQuiet(func(err error) {
		if err != nil {
			c.Reply(nil, err)
			return
		}
		c.Reply(r, nil)
	})
}

func errorReply(err error) *nodev1.KnowledgeBaseReply {
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Error{Error: errorProto(err)}}
}

func (g *kbGrain) getDocument(r *granaryv1.GetDocumentRequest) *nodev1.KnowledgeBaseReply {
	d, err := g.find(docID(r.GetName()))
	if err != nil {
		return errorReply(err)
	}
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Document{Document: g.document(d)}}
}

func (g *kbGrain) document(d *kb.Document) *granaryv1.Document {
	var p *progress
	if g.work != nil {
		p = g.work.progress[d.ID]
	}
	out := documentProto(g.id.ID, d, p)
	out.ExpireTime = timestamp(g.kb.Retention().ExpiryOf(d))
	if d.State == kb.StateQueued && g.waitsForPlace(d.ID) {
		out.WaitReason = kb.ReasonConcurrencyLimit
	}
	return out
}

func (g *kbGrain) get() *nodev1.KnowledgeBaseReply {
	if err := g.kb.Exists(); err != nil {
		return errorReply(err)
	}
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_KnowledgeBase{KnowledgeBase: g.describe()}}
}

// describe is the knowledge base as clients see it; settings must be there.
func (g *kbGrain) describe() *granaryv1.KnowledgeBase {
	s := g.work.settings
	eff := kb.Resolve(g.deps.builtIn(), s.config, g.kb.Config(), kb.Config{})
	out := &granaryv1.KnowledgeBase{
		Name: kbName(g.id.ID), Uid: g.kb.UID(), DisplayName: g.kb.DisplayName(), Description: g.kb.Description(),
		Config: configProto(g.kb.Config()), EffectiveConfig: effectiveProto(eff, g.kb.ConfigVersion(), s.version),
		DocumentCounts: make(map[string]int64), ChunkCount: g.kb.Chunks(), SourceBytes: g.kb.SourceBytes(),
		CreateTime: timestamp(g.kb.CreatedAt()), UpdateTime: timestamp(g.kb.UpdatedAt()), Revision: g.head,
		Etag: g.kb.Etag(), Workspace: g.kb.Workspace(), DocumentLimit: s.limits.DocumentsPerKB,
		Retention: retentionProto(g.kb.Retention()),
	}
	for _, st := range kb.States() {
		if n := g.kb.Count(st); n > 0 {
			out.DocumentCounts[st.String()] = int64(n)
		}
	}
	return out
}
