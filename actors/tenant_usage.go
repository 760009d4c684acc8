package actors

import (
	"slices"

	"context"
	"sync"
	"time"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	usageTimeout   = 3 * time.Second // a knowledge base that does not answer is shown as the tenant knows it
	recountTimeout = 25 * time.Second
	usageMost      = 1000 // knowledge bases asked for a picture of the usage
)

// The limits' names, as users see them.
const (
	metricStorage    = "storage_bytes"
	metricDocuments  = "documents_per_knowledge_base"
	metricProcessing = "concurrent_processing"
)

// usage shows what is used of all limits; of knowledge bases only those that the caller
// may view. It asks them, so that the figures are of now.
func (g *tenantGrain) usage(c call, h *nodev1.Header) {
	limits, rates := g.tenant.Limits(), g.rateQuotas()
	places := g.placeQuota()
	entries := g.viewable(h)
	known := make(map[string]kb.Allotment)
	sum := g.stored().grants.Sum()
	for _, id := range g.stored().grants.Holders() {
		known[id], _ = g.stored().grants.Of(id)
	}
	all, _ := g.tenant.List("", usageMost)
	go func() {
		uses := g.uses(all, false, usageTimeout)
		storage := &granaryv1.Quota{Metric: metricStorage, Limit: limits.StorageBytes, Base: limits.StorageBytes}
		for id, u := range uses {
			if u != nil {
				storage.Used += u.GetSourceBytes()
				continue
			}
			storage.Used += known[id].Value - known[id].Slack()
		}
		storage.GrantedUnused = max(0, sum-storage.GetUsed())
		storage.Remaining = max(0, limits.StorageBytes-max(sum, storage.GetUsed()))
		quotas := slices.Concat(rates, []*granaryv1.Quota{storage, places})
		for _, e := range entries {
			q := &granaryv1.Quota{Metric: metricDocuments, Limit: limits.DocumentsPerKB, Base: limits.DocumentsPerKB, KnowledgeBase: kbName(e.ID)}
			if u := uses[e.ID]; u != nil {
				q.Used, q.Remaining = u.GetDocuments(), max(0, limits.DocumentsPerKB-u.GetDocuments())
				quotas = append(quotas, q)
			}
		}
		c.Reply(&nodev1.TenantReply{Result: &nodev1.TenantReply_Usage{Usage: &granaryv1.Usage{Quotas: quotas}}}, nil)
	}()
}

func (g *tenantGrain) viewable(h *nodev1.Header) []kb.KBEntry {
	grants := grantsOf(h)
	out, _ := g.tenant.ListWhere("", usageMost, func(e kb.KBEntry) bool {
		return h.GetInternal() || kb.AllowsKB(grants, kb.RoleViewer, kb.WorkspaceOr(e.Workspace), e.ID)
	})
	return out
}

// uses asks knowledge bases what they use; nil for those that do not answer. It runs
// beside the mailbox.
func (g *tenantGrain) uses(entries []kb.KBEntry, recount bool, timeout time.Duration) map[string]*nodev1.Use {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	ids, out := make([]string, len(entries)), make(map[string]*nodev1.Use, len(entries))
	for i, e := range entries {
		ids[i], out[e.ID] = e.ID, nil
	}
	var mu sync.Mutex
	g.askAll(ctx, ids, func() *nodev1.KnowledgeBaseCall {
		return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_GetUse{GetUse: &nodev1.GetUse{Recount: recount}}}
	}, func(id string, r *nodev1.KnowledgeBaseReply, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			out[id] = r.GetUse()
		}
	})
	return out
}

// recount compares the counters with what is there. First everything that is granted and
// not used is recalled: what is durable as granted must then be what is stored.
func (g *tenantGrain) recount(c call, then *recalledMsg) {
	if then == nil {
		g.recall(&storageAsk{call: c, recount: true})
		return
	}
	s := g.stored()
	granted, running := s.grants.Sum(), g.running()
	listed, _ := g.tenant.List("", 1<<20)
	go func() {
		uses := g.uses(listed, true, recountTimeout)
		total := &granaryv1.Recount{Metric: metricStorage, Counter: granted}
		places := &granaryv1.Recount{Metric: metricProcessing, Counter: running}
		var lines []*granaryv1.Recount
		for _, e := range listed {
			u := uses[e.ID]
			storage := &granaryv1.Recount{Metric: metricStorage, KnowledgeBase: kbName(e.ID), Counter: u.GetSourceBytes(), Recount: u.GetSourceBytesCounted()}
			documents := &granaryv1.Recount{Metric: metricDocuments, KnowledgeBase: kbName(e.ID), Counter: u.GetDocuments(), Recount: u.GetDocumentsCounted()}
			switch {
			case u == nil:
				storage.Note, documents.Note = "not counted: it does not answer", "not counted: it does not answer"
				total.Note, places.Note = "incomplete", "incomplete"
			case u.GetDeleting():
				storage.Note, documents.Note = "is being deleted", "is being deleted"
			}
			total.Recount += u.GetSourceBytesCounted()
			places.Recount += u.GetRunning()
			lines = append(lines, storage, documents)
		}
		if len(then.unmet) > 0 {
			total.Note = "incomplete"
		}
		lines = append([]*granaryv1.Recount{total, places}, lines...)
		for _, l := range lines {
			if l.GetNote() == "" {
				l.Drift = l.GetCounter() - l.GetRecount()
			}
		}
		c.Reply(&nodev1.TenantReply{Result: &nodev1.TenantReply_Recount{Recount: &granaryv1.RecountUsageResponse{Recounts: lines}}}, nil)
	}()
}
