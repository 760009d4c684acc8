package actors

import (
	"context"
	"errors"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// use tells what the knowledge base uses of its tenant's limits.
func (g *kbGrain) use() *nodev1.Use {
	u := &nodev1.Use{Uid: g.kb.UID(), Documents: int64(g.kb.Len()), SourceBytes: g.kb.SourceBytes(), Granted: g.holds(),
		Deleting: g.kb.Phase() == kb.PhaseDeleting || g.kb.Phase() == kb.PhaseDeleted}
	if g.work != nil {
		u.Running = int64(len(g.work.children))
	}
	return u
}

func useReply(u *nodev1.Use) *nodev1.KnowledgeBaseReply {
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Use{Use: u}}
}

// getUse answers with the counters, or with a recount: the journal is folded anew, and
// the store asked for the bytes of every document it tells of.
func (g *kbGrain) getUse(c call, q *nodev1.GetUse) {
	if !q.GetRecount() {
		g.answer(c, useReply(g.use()))
		return
	}
	if !g.quiet() {
		g.onQuiet(orReply(c, func() { g.getUse(c, q) }))
		return
	}
	u, head := g.use(), g.committed
	if !g.owned {
		c.Reply(useReply(u), nil)
		return
	}
	ctx := context.WithoutCancel(c.Context())
	go func() {
		ctx, cancel := context.WithTimeout(ctx, recountTimeout)
		defer cancel()
		if err := g.countAnew(ctx, head, u); err != nil {
			g.log().Warn("not recounted", "error", err)
			c.Reply(nil, readError())
			return
		}
		c.Reply(useReply(u), nil)
	}()
}

// countAnew runs beside the mailbox.
func (g *kbGrain) countAnew(ctx context.Context, head int64, u *nodev1.Use) error {
	m := &loadedMsg{acquired: acquired{head: head}}
	if err := g.fold(ctx, m, g.restore); err != nil {
		return err
	}
	for d := range m.state.(kbState).All {
		u.DocumentsCounted++
		if d.Source.Blob == "" {
			continue // a URL not fetched yet
		}
		r, info, err := g.deps.Blobs.OpenBlob(ctx, g.id.Tenant, d.Source.Blob)
		switch {
		case errors.Is(err, journal.ErrNotFound) && d.State == kb.StateDeleting:
			u.SourceBytesCounted += d.Source.Size // counts until its erasure is committed
		case errors.Is(err, journal.ErrNotFound):
			u.BlobsMissing++
		case err != nil:
			return err
		default:
			_ = r.Close()
			u.SourceBytesCounted += info.Size
		}
	}
	return nil
}
