package actors

import (
	"context"
	"errors"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// kbStorage is what the knowledge base may store: the tenant grants it bytes ahead, so
// that a document costs no question, and keeps the grant durable; here it is only
// remembered. What an activation was not told it asks for before it takes more in.
//
//	reserve: a decision is taken only while it fits into held
//	commit:  with the event that names the bytes
//	release: when the document's erasure is committed, never before
type kbStorage struct {
	known bool
	held  int64
	seq   int64 // of this activation's requests
	freed int64 // bytes that decisions not yet committed give up: they may still be there
}

// shortage is somebody who waits for more bytes to be granted.
type shortage struct {
	more int64
	then func(error)
}

// storageMsg is the tenant's answer.
type storageMsg struct {
	of      *kbWork
	version int64
	grant   *nodev1.StorageGrant
	err     error
}

// stored is the most that may be stored, whatever becomes of the commits under way.
func (g *kbGrain) stored() int64 { return g.kb.SourceBytes() + g.storage.freed }

// holds is what may be used.
func (g *kbGrain) holds() int64 {
	if !g.storage.known {
		return g.stored()
	}
	return g.storage.held
}

// granted is what decisions may come to.
func (g *kbGrain) granted() *int64 {
	n := g.holds() - g.storage.freed
	return &n
}

// freeing notes what a decision gives up until it is committed.
func (g *kbGrain) freeing(w *write) { g.storage.freed += freedBy(w) }

// freed takes it off again.
func (g *kbGrain) freed(done []*write) {
	n := int64(0)
	for _, w := range done {
		n += freedBy(w)
	}
	g.storage.freed -= n
	if n > 0 {
		g.spareStorage()
	}
}

// freedBy is by how much a decision makes the sources smaller.
func freedBy(w *write) int64 {
	n := int64(0)
	for _, e := range w.effects {
		if e.before != nil {
			n += e.before.Source.Size
		}
		if e.after != nil {
			n -= e.after.Source.Size
		}
	}
	return max(0, n)
}

// needStorage has then called when more bytes may be stored, with a *kb.Error if they
// cannot be had: STORAGE_LIMIT if the tenant has no room.
func (g *kbGrain) needStorage(more int64, then func(error)) {
	w := g.busy()
	if len(w.short) >= maxWaiting {
		then(busyError())
		return
	}
	w.short = append(w.short, &shortage{more, then})
	g.askStorage()
}

// askStorage asks for what the first needs, and for all if there is room.
func (g *kbGrain) askStorage() {
	w := g.work
	if w.leasing || len(w.short) == 0 {
		return
	}
	need, wish := g.holds()+w.short[0].more, g.holds()
	for _, s := range w.short {
		wish += s.more
	}
	w.leasing, w.asked = true, len(w.short)
	g.leaseStorage(need, wish)
}

// spareStorage tells the tenant of bytes that are not needed, when that is worth a message.
func (g *kbGrain) spareStorage() {
	w := g.work
	if w == nil || w.settings == nil || w.leasing || !g.storage.known || g.stopping || g.kb.Phase() != kb.PhaseActive {
		return
	}
	block := kb.StorageBlock(w.settings.limits.StorageBytes)
	if keep := g.stored() + block; g.storage.held > keep+block {
		g.storage.held = keep
		w.leasing, w.asked = true, 0
		g.leaseStorage(0, 0)
	}
}

// leaseStorage asks the tenant beside the mailbox.
func (g *kbGrain) leaseStorage(need, wish int64) {
	q := g.storageWord()
	q.Need, q.Wish = need, wish
	w := g.work
	go func() {
		r, err := g.askTenant(&nodev1.TenantCall{Operation: &nodev1.TenantCall_LeaseStorage{LeaseStorage: q}})
		g.tell(&storageMsg{of: w, version: q.GetVersion(), grant: r.GetStorageGrant(), err: err})
	}()
}

// storageWord is what the knowledge base says of its bytes. With it every answer to an
// earlier word is void.
func (g *kbGrain) storageWord() *nodev1.LeaseStorage {
	g.storage.seq++
	q := &nodev1.LeaseStorage{Id: g.id.ID, Uid: g.kb.UID(), Version: g.storageVersion(), Held: -1, Used: g.stored()}
	if g.storage.known {
		q.Held = g.storage.held
	}
	return q
}

// epochShift leaves room for the words of one activation: those of the next are later.
const epochShift = 24

func (g *kbGrain) storageVersion() int64 { return g.fence.Epoch<<epochShift | g.storage.seq }

// receiveStorage takes the tenant's answer and goes on with those who wait.
func (g *kbGrain) receiveStorage(m *storageMsg) {
	w := g.work
	if w == nil || w != m.of || g.broken != nil {
		return
	}
	waiting, asked := w.short, w.asked
	w.short = nil
	var refused *kb.Error
	switch {
	case m.err != nil:
		g.log().Warn("no storage granted", "error", m.err)
		err := kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the tenant's storage cannot be asked for; try again").After(time.Second)
		w.leasing = false
		for _, s := range waiting {
			s.then(err)
		}
		return
	case m.grant.GetVersion()>>epochShift > g.fence.Epoch:
		g.tell(&lostMsg{g.fence}) // a later activation has spoken
		w.short, w.leasing = waiting, false
		return
	case m.version != g.storageVersion() || m.grant.GetVersion() != m.version:
		// What was said since may be less than what was granted.
	default:
		g.storage.known, g.storage.held = true, m.grant.GetGranted()
		if e := m.grant.GetRefusal(); e != nil {
			refused, _ = errors.AsType[*kb.Error](fromError(e))
		}
	}
	// Who came after the question was asked was not refused by its answer.
	for i, s := range waiting {
		if refused != nil && i < asked && s.more >= waiting[0].more {
			s.then(refused)
			continue
		}
		s.then(nil)
	}
	w.leasing = false
	g.askStorage()
	g.idle()
}

// storageRefused answers a call for which there is no room, as a decision that came to
// nothing; any other error is one of the delivery.
func (g *kbGrain) storageRefused(c call, key *journal.IdempotencyKey, err error) {
	if !kb.Is(err, kb.ReasonStorageLimit) {
		c.Reply(nil, err)
		g.settleKey(key)
		return
	}
	g.current(func(lost error) {
		if lost != nil {
			c.Reply(nil, lost)
		} else {
			g.answer(c, errorReply(err))
		}
		g.settleKey(key)
	})
}

// serveStorage answers questions about the storage.
func (g *kbGrain) serveStorage(c call, m *nodev1.KnowledgeBaseCall) {
	q := m.GetStorage()
	if q.GetGiveBack() {
		g.storage.known, g.storage.held = true, g.stored()
		word := g.storageWord()
		c.Reply(&nodev1.KnowledgeBaseReply{Revision: g.committed, Result: &nodev1.KnowledgeBaseReply_StorageHeld{
			StorageHeld: &nodev1.StorageHeld{Version: word.GetVersion(), Held: word.GetHeld(), Used: word.GetUsed()}}}, nil)
		return
	}
	g.withSettings(orReply(c, func() { g.checkRoom(c, m) }))
}

// checkRoom tells whether an upload has a chance, before its bytes travel.
func (g *kbGrain) checkRoom(c call, m *nodev1.KnowledgeBaseCall) {
	q := m.GetStorage()
	err := g.kb.Exists()
	if err == nil {
		err = g.kb.CheckStorage(q.GetDocument(), q.GetCheck(), g.work.settings.limits, g.granted())
	}
	if short, ok := errors.AsType[*kb.StorageShort](err); ok {
		g.needStorage(short.More, func(err error) {
			switch {
			case err == nil && !expired(c):
				g.checkRoom(c, m)
			case err != nil:
				g.noRoom(c, m, err)
			}
		})
		return
	}
	if err != nil {
		g.noRoom(c, m, err)
		return
	}
	g.answer(c, doneReply())
}

// noRoom refuses, unless the request was applied before: then its answer is there.
func (g *kbGrain) noRoom(c call, m *nodev1.KnowledgeBaseCall, err error) {
	if _, ok := errors.AsType[*kb.Error](err); !ok || !kb.Is(err, kb.ReasonStorageLimit) && !kb.Is(err, kb.ReasonKnowledgeBaseNotFound) {
		c.Reply(nil, err)
		return
	}
	h := m.GetHeader()
	if h.GetIdempotencyKey() == "" || !g.owned {
		g.answer(c, errorReply(err))
		return
	}
	key := journal.IdempotencyKey{Principal: h.GetPrincipal(), Method: h.GetMethod(), Key: h.GetIdempotencyKey()}
	fence, refusal, revision := g.fence, errorReply(err), g.committed
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), commitTimeout)
		defer cancel()
		_, known, err := g.deps.Store.FindIdempotency(ctx, fence, key)
		switch {
		case err != nil:
			c.Reply(nil, readError())
		case known:
			done := doneReply()
			done.Revision = revision
			c.Reply(done, nil)
		default:
			refusal.Revision = revision
			c.Reply(refusal, nil)
		}
	}()
}

// fetched decides what a URL delivered; the run waits for it.
func (g *kbGrain) fetched(m *fetchedReport) {
	r := m.run
	err := g.kb.CheckStorage(r.doc, m.source.Size, g.work.settings.limits, g.granted())
	if short, ok := errors.AsType[*kb.StorageShort](err); ok {
		g.needStorage(short.More, func(err error) {
			if c := g.work.children[r.doc]; c == nil || c.run != r || g.stopping || g.broken != nil {
				g.refuse(m)
				return
			}
			if err != nil {
				g.settleFetched(m, nil, err)
				return
			}
			g.fetched(m)
		})
		return
	}
	var events []kb.Event
	if err == nil {
		events, err = g.kb.Fetched(r.doc, r.version, r.attempt, m.source, m.mediaType, m.name)
	}
	g.settleFetched(m, events, err)
}

func (g *kbGrain) settleFetched(m *fetchedReport, events []kb.Event, err error) {
	if err != nil || !claims(events) {
		g.discard(m.source.Blob)
	}
	if own, ok := errors.AsType[*kb.Error](err); ok && own.Code == kb.CodeUnavailable {
		m.decided <- false
		g.receiveFailure(&failedReport{run: m.run, wait: own.RetryAfter, cause: err,
			err: kb.DocumentError{Reason: own.Reason, Message: own.Message, Stage: "fetch", Retryable: true}})
		return
	}
	g.decideReport(m.run, "fetch", events, err, m.decided)
}

// returnStorage gives all back for a knowledge base that is erased; it runs beside the
// mailbox.
func (g *kbGrain) returnStorage(word *nodev1.LeaseStorage) error {
	_, err := g.askTenant(&nodev1.TenantCall{Operation: &nodev1.TenantCall_LeaseStorage{LeaseStorage: word}})
	return err
}
