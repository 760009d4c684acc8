package actors

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"granary.dev/granary/actors/kb"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// expireBatch is how many documents expire by one write.
const expireBatch = maxBatchEvents

// expire asks for the deletion of documents whose time is over. Whoever reads looks
// at the clock too, so that none is seen meanwhile.
func (g *kbGrain) expire() {
	if g.phase != phaseActive || g.broken != nil || g.stopping || g.kb.Phase() != kb.PhaseActive {
		return
	}
	now := g.deps.Now()
	for {
		events := g.kb.Expire(now, expireBatch)
		if len(events) == 0 || g.broken != nil {
			return
		}
		w := g.busy()
		w.expiring++
		g.record(events, func(error) { w.expiring-- })
	}
}

// outdated reports whether documents that are over are still in the index: then f
// runs when they are not, so that what is found is as much as was asked for.
func (g *kbGrain) outdated(f func(), c call) bool {
	if g.work == nil || g.work.expiring == 0 || g.quiet() {
		return false
	}
	g.onQuiet(orReply(c, f))
	return true
}

// nextExpiry is when the knowledge base must look at its documents again.
func (g *kbGrain) nextExpiry() time.Time {
	if g.kb == nil || g.kb.Phase() != kb.PhaseActive {
		return time.Time{}
	}
	return g.kb.NextExpiry()
}

// find looks a document up that is there and whose time is not over.
func (g *kbGrain) find(id string) (*kb.Document, error) {
	d, err := g.kb.Find(id)
	if err == nil && g.kb.Expired(d, g.deps.Now()) {
		return nil, kb.NoDocument(g.id.ID, id)
	}
	return d, err
}

func retentionOf(r *granaryv1.Retention) kb.Retention {
	if r.GetMaxAge() == nil {
		return kb.Retention{}
	}
	from := kb.FromCreation
	if r.GetFrom() == granaryv1.RetentionBasis_RETENTION_BASIS_LAST_VERSION {
		from = kb.FromLastVersion
	}
	return kb.Retention{MaxAge: r.GetMaxAge().AsDuration(), From: from}
}

func retentionProto(r kb.Retention) *granaryv1.Retention {
	if r.MaxAge == 0 {
		return nil
	}
	return &granaryv1.Retention{MaxAge: durationpb.New(r.MaxAge), From: granaryv1.RetentionBasis(r.From)}
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
