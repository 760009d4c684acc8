package actors

import (
	"context"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// purgeProof is the receipt of a tenant whose knowledge bases are erased: what theirs
// say in sum, and its own journal, which goes next. It is kept for operators; theirs
// go with the same commit. Made twice, the first one stays.
func (g *tenantGrain) purgeProof(ctx context.Context, asked journal.Event, last journal.Snapshot) (journal.Receipt, error) {
	r := kb.Receipt{Target: "tenants/" + g.id.Tenant, Tenant: g.id.Tenant, RequestedBy: asked.Principal, RequestTime: asked.Time.UTC(),
		CompleteTime: g.deps.Now(), Reason: kb.ErasedByRequest, KeyDestroyed: g.deps.Shredder != nil, Node: g.deps.Node}
	q := journal.ReceiptQuery{Tenant: g.id.Tenant, Limit: purgePage}
	for {
		page, err := g.deps.Receipts.Receipts(ctx, q)
		if err != nil {
			return journal.Receipt{}, err
		}
		for _, row := range page {
			// Of the purge: nobody else deletes knowledge bases in the name of the system.
			if k, err := kb.ReadReceipt(row.Body); err == nil && k.RequestedBy == system.principal && k.Counts.KnowledgeBases > 0 {
				r.Counts.Add(k.Counts)
			}
			q.After = row
		}
		if len(page) < purgePage {
			break
		}
	}
	o, err := g.deps.Store.Owner(ctx, g.id)
	if err != nil {
		return journal.Receipt{}, err
	}
	r.Counts.Events += last.Seq - o.Erased
	id := kb.ReceiptID(g.id.Tenant, "", "", last.Seq)
	r.Name = kb.ReceiptPrefix + id
	body, err := kb.SealReceipt(g.deps.ReceiptKey, r)
	return journal.Receipt{Name: id, Cluster: true, Time: r.CompleteTime, Body: body}, err
}

// whoDeleted finds the event that asked for the tenant's deletion. After its keys are
// destroyed it cannot be read any more: then nobody is named.
func (g *tenantGrain) whoDeleted(ctx context.Context, head int64) (asked journal.Event) {
	for end := head; end > 0; end -= eventPage {
		page, err := g.deps.Store.Events(ctx, g.id, max(0, end-eventPage), int(min(end, eventPage)))
		if err != nil || len(page) == 0 {
			return asked
		}
		for _, e := range page {
			if e.Type == (*kb.TenantDeleteRequested)(nil).Type() {
				asked = e
			}
		}
		if asked.Seq > 0 {
			return asked
		}
	}
	return asked
}
