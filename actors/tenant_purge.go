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

// Shredder destroys what makes a tenant's stored bytes readable.
type Shredder interface {
	// Destroy ends the tenant's keys on every node, for good. Without any it does nothing.
	Destroy(ctx context.Context, tenant string) error
}

// The purge of a deleted tenant, when the time to take the deletion back is over:
//
//  1. tenant.purge_started is committed: there is no way back
//  2. every knowledge base that has an owner row is deleted and erased, and then what
//     was uploaded and became no document
//  3. the keys of the tenant are destroyed
//  4. its own journal is erased; the name is free
//
// Each step may be done twice; a wake-up row stands until the last is done, so
// that the next activation goes on where this one ends.

const (
	purgeRetry   = 2 * time.Second
	purgeTimeout = 10 * time.Minute // of one try; the next one goes on
	purgePage    = 200
)

// purgeMsg: look whether a purge is due; purgedMsg: a try has ended.
type (
	purgeMsg  struct{}
	purgedMsg struct {
		fence    journal.Fence
		finished bool // the tenant itself is gone; else its knowledge bases are
		err      error
	}
)

// purgeWhenDue begins or goes on with what is due, or comes back when it is.
func (g *tenantGrain) purgeWhenDue() {
	if g.phase != phaseActive || g.broken != nil || g.stopping || g.purging {
		return
	}
	at := g.tenant.PurgeAt()
	switch {
	case at.IsZero():
		return
	case g.tenant.State() == kb.TenantPurging:
		g.purge()
		return
	case g.deps.Now().Before(at):
		g.purgeAgain(at.Sub(g.deps.Now()))
		return
	}
	g.purging = true
	w, err := g.enqueue(tenantState{g.tenant}, system, g.tenant.Purge(g.deps.Now()))
	if err != nil {
		return
	}
	w.done = func(err error) {
		g.purging = false
		if err == nil {
			g.publish(g.settings(), func() { g.tell(&purgeMsg{}) })
		}
	}
	g.flush(g.owes())
}

// purgeAgain looks again later; a timer of a day is renewed by then.
func (g *tenantGrain) purgeAgain(after time.Duration) {
	if g.purgeTimer != nil {
		g.purgeTimer.Stop()
	}
	g.purgeTimer = time.AfterFunc(min(max(after, time.Millisecond), 24*time.Hour), func() { g.tell(&purgeMsg{}) })
}

// owes reports whether there is work that must not be forgotten.
func (g *tenantGrain) owes() bool { return g.tenant.State() == kb.TenantPurging }

// dueLater is when a tenant that owes nothing will.
func (g *tenantGrain) dueLater() time.Time {
	if g.tenant == nil {
		return time.Time{}
	}
	return g.tenant.PurgeAt()
}

// purge has the knowledge bases erased, beside the mailbox. They tell the tenant of
// their end, so that its journal goes on until they are.
func (g *tenantGrain) purge() {
	g.purging = true
	fence := g.fence
	g.asidePurge(func(ctx context.Context) { g.tell(&purgedMsg{fence: fence, err: g.purgeKnowledgeBases(ctx)}) })
}

func (g *tenantGrain) asidePurge(work func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.Background(), purgeTimeout)
	g.endPurge = cancel
	go func() {
		defer cancel()
		work(ctx)
	}()
}

// finishPurge ends the tenant itself. Nothing is decided from here on.
func (g *tenantGrain) finishPurge() {
	g.finishing = true
	if !g.quiet() {
		g.onQuiet(func(err error) {
			if err == nil {
				g.finishPurge()
			}
		})
		return
	}
	fence, last := g.fence, g.at()
	blank := g.tenant.Remains()
	still := blank.Freeze()
	g.purgedAt = g.deps.Now()
	blank.ResetTo(last.Seq, g.purgedAt)
	free := blank.Freeze()
	g.asidePurge(func(ctx context.Context) {
		g.tell(&purgedMsg{fence: fence, finished: true, err: g.eraseSelf(ctx, fence, last, still, free)})
	})
}

// eraseSelf destroys the keys and erases the journal, between two snapshots at its
// head. The first says "purging", and nothing else, until all is gone: whoever
// takes over in between goes on instead of showing the rest to the next of the name.
func (g *tenantGrain) eraseSelf(ctx context.Context, fence journal.Fence, last journal.Snapshot, still, free func() ([]byte, error)) error {
	save := func(encode func() ([]byte, error)) error {
		state, err := encode()
		if err != nil {
			return err
		}
		return g.deps.Store.SaveSnapshot(ctx, fence, journal.Snapshot{Seq: last.Seq, State: state, Hash: last.Hash, Blank: true})
	}
	if err := save(still); err != nil {
		return err
	}
	asked := g.whoDeleted(ctx, last.Seq)
	if g.deps.Shredder != nil {
		if err := g.deps.Shredder.Destroy(ctx, g.id.Tenant); err != nil {
			return err
		}
	}
	proof, err := g.purgeProof(ctx, asked, last)
	if err != nil {
		return err
	}
	err = g.deps.Store.Append(ctx, fence, journal.Batch{Head: last.Seq, DropReceipts: true, AddReceipts: []journal.Receipt{proof}})
	if err != nil {
		return err
	}
	if err := g.deps.Store.EndTenant(ctx, fence); err != nil {
		return err
	}
	// The wake-up row goes with the journal: all that must not be forgotten is done.
	if err := g.deps.Store.Erase(ctx, fence); err != nil {
		return err
	}
	return save(free)
}

// purgeKnowledgeBases deletes all there ever were and waits for their erasure. It
// goes by the owner rows, which also those have that the tenant was never told of,
// until a whole pass finds nothing left.
func (g *tenantGrain) purgeKnowledgeBases(ctx context.Context) error {
	for {
		left, err := g.purgePass(ctx)
		if err != nil {
			return err
		}
		if left == 0 {
			return g.purgeUploads(ctx)
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// purgeUploads removes the sources that no document has claimed. What is uploaded yet,
// nobody can read: its key goes next.
func (g *tenantGrain) purgeUploads(ctx context.Context) error {
	loose, err := pages(func(after string) ([]string, error) {
		return g.deps.Blobs.ClaimedBlobs(ctx, journal.Identity{Tenant: g.id.Tenant}, after, blobPage)
	})
	for _, b := range loose {
		if err == nil {
			err = g.deps.Blobs.DeleteBlob(ctx, g.id.Tenant, b)
		}
	}
	return err
}

// purgePass asks each knowledge base once and counts those that are not erased.
func (g *tenantGrain) purgePass(ctx context.Context) (left int, err error) {
	q := journal.OwnerQuery{Kind: KindKB, Tenant: g.id.Tenant, Limit: purgePage}
	for {
		page, err := g.deps.Directory.Owners(ctx, q)
		if err != nil {
			return left, err
		}
		for _, o := range page {
			gone, err := g.purgeKnowledgeBase(ctx, o.Identity.ID)
			if err != nil {
				return left, err
			}
			if !gone {
				left++
			}
			q.After = o.Identity
		}
		if len(page) < purgePage {
			return left, nil
		}
	}
}

// purgeKnowledgeBase has one deleted, and tells whether it is erased.
func (g *tenantGrain) purgeKnowledgeBase(ctx context.Context, id string) (gone bool, err error) {
	ask := func(m *nodev1.KnowledgeBaseCall) error {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		m.Header = &nodev1.Header{Tenant: g.id.Tenant, Principal: system.principal, Internal: true}
		r, err := g.deps.Asker.Ask(ctx, KindKB, g.id.Tenant, id, m)
		if err != nil {
			return err
		}
		if e := r.(*nodev1.KnowledgeBaseReply).GetError(); e != nil {
			return fromError(e)
		}
		return nil
	}
	err = ask(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Delete{Delete: &granaryv1.DeleteKnowledgeBaseRequest{}}})
	if err != nil && !kb.Is(err, kb.ReasonKnowledgeBaseNotFound) {
		return false, err
	}
	err = ask(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Erased{Erased: &nodev1.CheckErased{}}})
	if kb.Is(err, kb.ReasonUnavailable) {
		return false, nil
	}
	return err == nil, err
}

// purged takes the end of a try.
func (g *tenantGrain) purged(m *purgedMsg) {
	if m.fence != g.fence || g.phase != phaseActive || g.broken != nil {
		return
	}
	if m.err == nil && !m.finished {
		g.finishPurge()
		return
	}
	g.purging, g.finishing = false, false
	switch {
	case errors.Is(m.err, journal.ErrFenced):
		g.tell(&lostMsg{m.fence})
	case m.err != nil:
		g.deps.counts.purgeFailures.Add(1)
		g.log().Warn("tenant not erased yet", "error", m.err)
		g.purgeAgain(purgeRetry)
	default:
		g.deps.counts.erasedTenants.Add(1)
		g.log().Info("tenant erased")
		g.tenant.ResetTo(g.tenant.Revision(), g.purgedAt)
		g.snapshot, g.wakeSet, g.wakeDue = g.committed, false, time.Time{}
		g.counters, g.rates, g.used, g.subscribers = nil, nil, nil, nil
	}
}
