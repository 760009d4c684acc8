package actors

import "sync/atomic"

// Stats count what the grains of a node did since its start, and what they do now.
type Stats struct {
	BrokenChains int64 // loads that failed since the hash chain of the journal did not hold

	ErasedDocuments, ErasedKnowledgeBases, ErasedTenants int64 // erasures that are over
	// Steps of erasures that failed and are repeated: of documents and knowledge bases,
	// and of whole tenants.
	ErasureFailures, PurgeFailures int64

	Places PlaceStats
	Slots  SlotStats
}

// PlaceStats are the places of processing that this node has of its tenants' limits.
type PlaceStats struct {
	Granted int64 // by tenants
	InUse   int64 // by runs
	Waiting int64 // knowledge bases that could use one
}

// SlotStats are the node's own slots, which units of work of runs take in turn.
type SlotStats struct{ Total, InUse, Waiting int64 }

// Stats reads the counters. It costs a look at each tenant that is at work.
func (g *Grains) Stats() Stats {
	s := g.deps.counts.stats()
	s.Places = g.deps.places.stats()
	if g.deps.Slots != nil {
		s.Slots = g.deps.Slots.Stats()
	}
	return s
}

// counts are the counters of a node's grains.
type counts struct {
	brokenChains                                         atomic.Int64
	erasedDocuments, erasedKnowledgeBases, erasedTenants atomic.Int64
	erasureFailures, purgeFailures                       atomic.Int64
}

func (c *counts) stats() Stats {
	return Stats{BrokenChains: c.brokenChains.Load(), ErasedDocuments: c.erasedDocuments.Load(), ErasedKnowledgeBases: c.erasedKnowledgeBases.Load(),
		ErasedTenants: c.erasedTenants.Load(), ErasureFailures: c.erasureFailures.Load(), PurgeFailures: c.purgeFailures.Load()}
}

func (p *places) stats() (s PlaceStats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tenants {
		s.Granted += t.granted
		s.InUse += int64(len(t.running))
		s.Waiting += int64(len(t.waiting) + len(t.offers))
	}
	return s
}

// Stats tells how the slots are used now.
func (s *Scheduler) Stats() SlotStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := SlotStats{Total: int64(s.slots), InUse: int64(s.slots - s.free)}
	for _, t := range s.tenants {
		for _, k := range t.kbs {
			out.Waiting += int64(len(k.waiters))
		}
	}
	return out
}
