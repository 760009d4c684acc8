package actors

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// idempotencyTTL is how long a keyed request is remembered.
const idempotencyTTL = 72 * time.Hour

// foundKeyMsg is the answer of a look-up of an idempotency key.
type foundKeyMsg struct {
	call  call
	msg   *nodev1.KnowledgeBaseCall
	key   journal.IdempotencyKey
	fence journal.Fence // it was looked up under
	rec   journal.Idempotency
	ok    bool
	err   error
}

// keyedCall is a request under way that carries an idempotency key.
type keyedCall struct {
	first   call   // until its decision is queued
	waiting []call // came later under the same key
}

// refuse answers those whose decision is not on its way.
func (k *keyedCall) refuse(err error) {
	if k.first != nil {
		k.first.Reply(nil, err)
	}
	for _, c := range k.waiting {
		c.Reply(nil, err)
	}
	k.first, k.waiting = nil, nil
}

// handleWrite runs a call that changes something. A keyed one is looked up
// first; a second one under the same key waits for the first.
func (g *kbGrain) handleWrite(c call, m *nodev1.KnowledgeBaseCall) {
	h := m.GetHeader()
	if h.GetIdempotencyKey() == "" {
		g.write(c, m, nil)
		return
	}
	key := journal.IdempotencyKey{Principal: h.GetPrincipal(), Method: h.GetMethod(), Key: h.GetIdempotencyKey()}
	w := g.busy()
	if k := w.keyed[key]; k != nil {
		k.waiting = append(k.waiting, c)
		return
	}
	if w.keyed == nil {
		w.keyed = make(map[journal.IdempotencyKey]*keyedCall)
	}
	w.keyed[key] = &keyedCall{first: c}
	if !g.owned { // nobody ever wrote, so there is no record
		g.write(c, m, &key)
		return
	}
	fence := g.fence
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), commitTimeout)
		defer cancel()
		rec, ok, err := g.deps.Store.FindIdempotency(ctx, fence, key)
		g.tell(&foundKeyMsg{call: c, msg: m, key: key, fence: fence, rec: rec, ok: ok, err: err})
	}()
}

func (g *kbGrain) foundKey(ctx actor.Context, m *foundKeyMsg) {
	switch {
	case g.broken != nil || g.stopping || g.phase != phaseActive || m.fence != g.fence:
		m.call.Reply(nil, movedError()) // nothing of it was decided
	case errors.Is(m.err, journal.ErrFenced):
		m.call.Reply(nil, movedError())
		g.unkey(m.key)
		g.lose(ctx)
	case m.err != nil:
		m.call.Reply(nil, commitError(m.err))
		g.unkey(m.key)
	case m.ok:
		m.call.Reply(recorded(m.rec, m.msg), nil)
		g.unkey(m.key)
	default:
		g.write(m.call, m.msg, &m.key)
	}
}

// recorded is the answer to a request that was applied before.
func recorded(rec journal.Idempotency, m *nodev1.KnowledgeBaseCall) *nodev1.KnowledgeBaseReply {
	r := &nodev1.KnowledgeBaseReply{}
	switch {
	case rec.RequestHash != requestHash(m):
		return errorReply(keyMisused())
	case proto.Unmarshal(rec.Response, r) != nil:
		return errorReply(kb.Errorf(kb.CodeInternal, kb.ReasonInternal, "the stored response cannot be read"))
	}
	return r
}

// unkey lets the requests that waited for a key try in turn.
func (g *kbGrain) unkey(key journal.IdempotencyKey) {
	if g.work == nil {
		return
	}
	k := g.work.keyed[key]
	if k == nil {
		return
	}
	delete(g.work.keyed, key)
	for _, c := range k.waiting {
		g.handle(c)
	}
}

// requestHash identifies what was asked. The blob differs between two tries of
// the same upload; its hash does not.
func requestHash(m *nodev1.KnowledgeBaseCall) string {
	m = proto.CloneOf(m)
	m.Header = nil
	if s := m.GetAddDocument().GetSource(); s != nil {
		s.Blob = ""
	}
	return messageHash(m)
}

func keyMisused() error {
	return kb.Errorf(kb.CodeInvalidArgument, kb.ReasonIdempotencyMisuse, "the idempotency key was used for a different request")
}

func messageHash(m proto.Message) string {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
