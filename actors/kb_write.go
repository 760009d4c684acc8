package actors

import (
	"errors"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// decision is what a command comes to.
type decision struct {
	events []kb.Event
	reply  func() *nodev1.KnowledgeBaseReply // built after the events are applied
	after  func(send func())                 // delays the reply past the commit; nil: at once
}

// decideAndReply does so once the settings are there. A decision that comes to
// nothing is a read: it is made again on what is known to be current, proven.
func (g *kbGrain) decideAndReply(c call, m *nodev1.KnowledgeBaseCall, key *journal.IdempotencyKey, err error, proven bool) {
	if err == nil {
		err = c.Context().Err() // whoever gave up may have asked again elsewhere
	}
	if err != nil {
		c.Reply(nil, err)
		g.settleKey(key)
		return
	}
	var d decision
	if err = g.admits(m); err == nil {
		d, err = g.decide(m)
	}
	if short, ok := errors.AsType[*kb.StorageShort](err); ok && (proven || !g.quiet() || g.mayRead()) {
		g.needStorage(short.More, func(err error) {
			if err != nil {
				g.storageRefused(c, key, err)
				return
			}
			g.decideAndReply(c, m, key, nil, false)
		})
		return
	}
	if err == nil && len(d.events) > 0 && !validateOnly(m) {
		g.commitDecision(c, m, key, d)
		return
	}
	if !proven && g.quiet() && !g.mayRead() {
		g.current(func(err error) { g.decideAndReply(c, m, key, err, true) })
		return
	}
	if err != nil {
		g.answer(c, errorReply(err))
	} else {
		g.answer(c, d.reply())
	}
	g.settleKey(key)
}

// admits refuses what clients write while their tenant is not active: a gateway may
// not have heard of it yet.
func (g *kbGrain) admits(m *nodev1.KnowledgeBaseCall) error {
	if m.GetHeader().GetInternal() {
		return nil
	}
	return g.work.settings.state.Admits()
}

// settleKey ends what a call without a commit held under its key.
func (g *kbGrain) settleKey(key *journal.IdempotencyKey) {
	if key != nil {
		g.unkey(*key)
	}
}

func validateOnly(m *nodev1.KnowledgeBaseCall) bool {
	return m.GetCreate().GetValidateOnly() || m.GetUpdate().GetValidateOnly() || m.GetAddDocument().GetValidateOnly() ||
		m.GetBeginImport().GetCreate().GetValidateOnly()
}

func (g *kbGrain) commitDecision(c call, m *nodev1.KnowledgeBaseCall, key *journal.IdempotencyKey, d decision) {
	h := m.GetHeader()
	w, err := g.append(originOf(h), d.events)
	if err != nil {
		c.Reply(nil, err)
		g.settleKey(key)
		return
	}
	reply := d.reply()
	reply.Revision = g.head
	if key != nil {
		if data, err := proto.Marshal(reply); err == nil {
			w.idem = &journal.Idempotency{IdempotencyKey: *key, RequestHash: requestHash(m), Response: data,
				Expires: g.deps.Now().Add(idempotencyTTL)}
		}
		if k := g.work.keyed[*key]; k != nil {
			k.first = nil // from now on what becomes of it is the commit's to tell
		}
	}
	w.answer = func(err error) {
		if err != nil {
			c.Reply(nil, err)
			return
		}
		c.Reply(reply, nil)
	}
	w.replay = func(rec journal.Idempotency) { c.Reply(recorded(rec, m), nil) }
	w.done = func(err error) {
		if err == nil && d.after != nil {
			g.owe(func() { w.answer(nil) }, d.after)
		} else {
			w.answer(err)
		}
		g.settleKey(key)
	}
	g.flush(g.owes())
}

// owe answers a committed write after something more, or when the activation
// ends before.
func (g *kbGrain) owe(send func(), after func(func())) {
	w := g.busy()
	o := &owed{send: send}
	if w.owed == nil {
		w.owed = make(map[*owed]struct{})
	}
	w.owed[o] = struct{}{}
	after(func() {
		delete(w.owed, o)
		send()
	})
}

// append queues events of this knowledge base and keeps what they did for the
// time after the commit. An error means a defect: the activation ends.
func (g *kbGrain) append(from origin, events []kb.Event) (*write, error) {
	w := g.busy()
	w.captured = nil
	wr, err := g.enqueue(kbState{KB: g.kb, capture: &w.captured}, from, events)
	if err != nil {
		return nil, err
	}
	wr.effects, w.captured = w.captured, nil
	for _, e := range wr.effects {
		if litters(e) {
			w.litter++ // until its effect counts for itself
		}
	}
	g.freeing(wr)
	return wr, nil
}

// record queues events the knowledge base decides by itself.
func (g *kbGrain) record(events []kb.Event, done func(error)) {
	if len(events) == 0 || g.broken != nil {
		return
	}
	g.recordWith(events, nil, done)
}

// recordWith does so with what goes into the same commit.
func (g *kbGrain) recordWith(events []kb.Event, with func(*write), done func(error)) {
	w, err := g.append(system, events)
	if err != nil {
		return
	}
	if with != nil {
		with(w)
	}
	w.done = done
	g.flush(g.owes())
}

// decide runs the rules of a command.
func (g *kbGrain) decide(m *nodev1.KnowledgeBaseCall) (decision, error) {
	switch op := m.GetOperation().(type) {
	case *nodev1.KnowledgeBaseCall_Create:
		return g.decideCreate(op.Create)
	case *nodev1.KnowledgeBaseCall_Update:
		return g.decideUpdate(op.Update)
	case *nodev1.KnowledgeBaseCall_Delete:
		events, err := g.kb.Delete(op.Delete.GetEtag())
		askedBy(events, m.GetHeader().GetPrincipal())
		return decision{events: events, reply: doneReply, after: g.unregister(g.kb.UID())}, err
	case *nodev1.KnowledgeBaseCall_AddDocument:
		return g.decideAdd(op.AddDocument)
	case *nodev1.KnowledgeBaseCall_DeleteDocument:
		events, err := g.kb.DeleteDocument(docID(op.DeleteDocument.GetName()))
		askedBy(events, m.GetHeader().GetPrincipal())
		return decision{events: events, reply: doneReply}, err
	case *nodev1.KnowledgeBaseCall_BeginImport:
		return g.decideImport(op.BeginImport)
	case *nodev1.KnowledgeBaseCall_EndImport:
		events, err := g.kb.EndImport(op.EndImport.GetUid())
		return decision{events: events, reply: g.kbReply}, err
	case *nodev1.KnowledgeBaseCall_CancelDocument:
		id := docID(op.CancelDocument.GetName())
		events, err := g.kb.Cancel(id)
		return decision{events: events, reply: g.documentReply(id)}, err
	case *nodev1.KnowledgeBaseCall_ReprocessDocument:
		return g.decideReprocess(op.ReprocessDocument)
	}
	return decision{}, kb.Errorf(kb.CodeUnimplemented, kb.ReasonUnknownOperation, "this node does not know the operation")
}

func doneReply() *nodev1.KnowledgeBaseReply {
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Done{Done: &nodev1.Done{}}}
}

func (g *kbGrain) documentReply(id string) func() *nodev1.KnowledgeBaseReply {
	return func() *nodev1.KnowledgeBaseReply {
		return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Document{Document: g.document(g.kb.Document(id))}}
	}
}

func (g *kbGrain) kbReply() *nodev1.KnowledgeBaseReply {
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_KnowledgeBase{KnowledgeBase: g.describe()}}
}

// checkConfig validates a configuration by itself and on top of the layers below.
func (g *kbGrain) checkConfig(own, call kb.Config) error {
	if err := own.Validate(g.deps.knownModel); err != nil {
		return err
	}
	return kb.Resolve(g.deps.builtIn(), g.work.settings.config, own, call).ValidateEffective()
}

func (g *kbGrain) decideCreate(r *granaryv1.CreateKnowledgeBaseRequest) (decision, error) {
	config := configOf(r.GetConfig())
	if err := g.checkConfig(config, kb.Config{}); err != nil {
		return decision{}, err
	}
	events, err := g.kb.Create(uuid.NewString(), kb.Patch{DisplayName: r.GetDisplayName(), Description: r.GetDescription(),
		Config: config, Retention: retentionOf(r.GetRetention())})
	if w := kb.WorkspaceOr(r.GetWorkspace()); err == nil && w != kb.DefaultWorkspace {
		events = append(events, &kb.Placed{Workspace: w})
	}
	d := decision{events: events, reply: g.kbReply, after: g.register}
	if r.GetValidateOnly() {
		d.reply = func() *nodev1.KnowledgeBaseReply {
			return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_KnowledgeBase{
				KnowledgeBase: &granaryv1.KnowledgeBase{Name: kbName(g.id.ID), DisplayName: r.GetDisplayName(),
					Description: r.GetDescription(), Config: r.GetConfig(), Workspace: kb.WorkspaceOr(r.GetWorkspace()),
					Retention: r.GetRetention()}}}
		}
	}
	return d, err
}

func (g *kbGrain) decideUpdate(r *granaryv1.UpdateKnowledgeBaseRequest) (decision, error) {
	k := r.GetKnowledgeBase()
	events, err := g.update(k, r.GetUpdateMask().GetPaths())
	if err != nil {
		return decision{}, err
	}
	for _, e := range events {
		if u, ok := e.(*kb.Updated); ok {
			if err := g.checkConfig(u.Config, kb.Config{}); err != nil {
				return decision{}, err
			}
		}
	}
	d := decision{events: events, reply: g.kbReply}
	if relisted(g.kb, events) {
		d.after = g.register
	}
	return d, nil
}

// update decides what changes along the paths of a mask; the workspace is one
// that has an event of its own.
func (g *kbGrain) update(k *granaryv1.KnowledgeBase, mask []string) (events []kb.Event, err error) {
	rest := slices.DeleteFunc(slices.Clone(mask), func(path string) bool { return path == pathWorkspace })
	if len(rest) > 0 || len(mask) == 0 {
		if events, err = g.kb.Update(k.GetEtag(), patchOf(k), rest); err != nil {
			return nil, err
		}
	}
	if len(rest) == len(mask) {
		return events, nil
	}
	moved, err := g.kb.Move(k.GetEtag(), k.GetWorkspace())
	return append(events, moved...), err
}

// patchOf is what a request says of a knowledge base.
func patchOf(k *granaryv1.KnowledgeBase) kb.Patch {
	return kb.Patch{DisplayName: k.GetDisplayName(), Description: k.GetDescription(), Config: configOf(k.GetConfig()),
		Retention: retentionOf(k.GetRetention())}
}

// relisted reports whether the tenant's list says something else after these events.
func relisted(k *kb.KB, events []kb.Event) bool {
	return slices.ContainsFunc(events, func(e kb.Event) bool {
		switch e := e.(type) {
		case *kb.Updated:
			return e.DisplayName != k.DisplayName()
		case *kb.Placed:
			return true
		}
		return false
	})
}

func (g *kbGrain) decideAdd(r *nodev1.AddDocument) (decision, error) {
	if r.GetDistinct() {
		g.busy().imported = g.deps.Now()
	}
	spec, src := r.GetSpec(), r.GetSource()
	override, err := g.chunkingOverride(spec.GetChunking())
	if err != nil {
		return decision{}, err
	}
	events, id, existing, err := g.kb.Add(kb.AddRequest{
		ID: spec.GetDocumentId(), NewID: uuid.Must(uuid.NewV7()).String(), Name: spec.GetDisplayName(),
		MediaType: spec.GetMediaType(), Metadata: spec.GetMetadata(), OnDuplicate: onDuplicate(spec.GetOnDuplicate()),
		Chunking: override, Limits: g.work.settings.limits, ExpireAt: timeOf(spec.GetExpireTime()), TTL: spec.GetTtl().AsDuration(), Now: g.deps.Now(), Distinct: r.GetDistinct(),
		Granted: g.granted(),
		Source:  kb.Source{Blob: src.GetBlob(), Size: src.GetSizeBytes(), SHA256: src.GetSha256(), URL: src.GetUrl()},
	})
	if err != nil {
		return decision{}, err
	}
	return decision{events: events, reply: func() *nodev1.KnowledgeBaseReply {
		res := &nodev1.AddDocumentResult{Duplicate: existing != nil}
		if d := g.kb.Document(id); d != nil {
			res.Document = g.document(d)
		} else { // validate_only
			res.Document = &granaryv1.Document{DisplayName: spec.GetDisplayName(), MediaType: spec.GetMediaType(),
				Metadata: spec.GetMetadata(), SizeBytes: src.GetSizeBytes(), Sha256: src.GetSha256(), SourceUrl: src.GetUrl()}
		}
		return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_AddDocument{AddDocument: res}}
	}}, nil
}

func onDuplicate(v granaryv1.OnDuplicate) kb.OnDuplicate {
	if v == granaryv1.OnDuplicate_ON_DUPLICATE_UNSPECIFIED {
		return kb.DuplicateReturn
	}
	return kb.OnDuplicate(v)
}

// chunkingOverride checks a call's chunking settings; nil when it has none.
func (g *kbGrain) chunkingOverride(c *granaryv1.ChunkingConfig) (*kb.ChunkingConfig, error) {
	if c == nil {
		return nil, nil
	}
	o := chunkingOf(c)
	call := kb.Config{Chunking: o}
	if err := call.Validate(nil); err != nil {
		return nil, err
	}
	return &o, g.checkConfig(g.kb.Config(), call)
}

func (g *kbGrain) decideReprocess(r *granaryv1.ReprocessDocumentRequest) (decision, error) {
	override, err := g.chunkingOverride(r.GetChunking())
	if err != nil {
		return decision{}, err
	}
	id := docID(r.GetName())
	events, err := g.kb.Reprocess(id, override)
	return decision{events: events, reply: g.documentReply(id)}, err
}
