package actors

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// tenantSlots divides the tenant's places of concurrent processing among nodes. What a
// node was granted is durable: the next owner of the tenant knows it, so that there are
// never more than the limit, whoever moves or crashes. It comes back by the node's word,
// at once when the view says that the node is gone, or after the time of a lease in which
// nothing was heard of it, by which time the node has ended its runs by itself.
type tenantSlots struct {
	grants *kb.Allotments
	heard  map[string]time.Time
	loaded time.Time
}

const slotPrefix = "places/"

// serveSlots carries out what concerns places of concurrent processing; false when
// the operation is not of these.
func (g *tenantGrain) serveSlots(c call, m *nodev1.TenantCall) bool {
	op, ok := m.GetOperation().(*nodev1.TenantCall_LeasePlaces)
	if ok {
		// A renewal without a commit must not come from an owner that was replaced.
		g.current(orReply(c, func() { g.leasePlaces(c, op.LeasePlaces) }))
	}
	return ok
}

func (g *tenantGrain) places() *tenantSlots {
	if g.slots == nil {
		g.slots = &tenantSlots{grants: kb.NewAllotments(), heard: make(map[string]time.Time), loaded: g.deps.Now()}
		for _, c := range g.counters {
			if holder, ok := strings.CutPrefix(c.Name, slotPrefix); ok {
				g.slots.grants.Load(holder, c.Epoch, c.Value)
			}
		}
	}
	return g.slots
}

// gonePlaces takes back what nodes hold that are gone, and returns their names.
func (g *tenantGrain) gonePlaces(but string) (clear []string) {
	s, now := g.places(), g.deps.Now()
	for _, h := range s.grants.Holders() {
		heard, ok := s.heard[h]
		if !ok {
			heard = s.loaded
		}
		if h != but && (now.Sub(heard) > placeTTL || g.deps.lone || g.deps.Gone != nil && g.deps.Gone(h)) {
			s.grants.Drop(h)
			delete(s.heard, h)
			clear = append(clear, slotPrefix+h)
		}
	}
	return clear
}

func (g *tenantGrain) leasePlaces(c call, q *nodev1.LeasePlaces) {
	if g.broken != nil {
		c.Reply(nil, g.broken)
		return
	}
	if g.deps.Gone != nil && g.deps.Gone(q.GetHolder()) { // it was given up, and does not know it yet
		c.Reply(nil, movedError())
		return
	}
	s, limit := g.places(), g.tenant.Limits().ConcurrentProcessing
	clear := g.gonePlaces(q.GetHolder())
	had, there := s.grants.Of(q.GetHolder())
	used := q.GetUsed()
	if !there {
		used = 0 // of a grant that has ended: others may have its places by now
	}
	if !s.grants.Take(kb.AllotmentRequest{Holder: q.GetHolder(), Version: q.GetVersion(), Held: q.GetHeld(), Used: used, Wish: q.GetWant()}) {
		g.answer(c, placeReply(had, had.Value, limit))
		return
	}
	s.heard[q.GetHolder()] = g.deps.Now()
	share := g.placeShare(q.GetHolder(), limit)
	held, _ := s.grants.Of(q.GetHolder())
	// As many as there are, up to the share.
	if more := min(share-held.Value, limit-s.grants.Sum()); more > 0 {
		s.grants.Grow(q.GetHolder(), held.Value+more, 0, limit, 0)
	}
	now, _ := s.grants.Of(q.GetHolder())
	reply := placeReply(now, share, limit)
	var set []journal.Counter
	switch {
	case now.Value == 0 && q.GetWant() == 0:
		s.grants.Drop(q.GetHolder())
		delete(s.heard, q.GetHolder())
		clear = append(clear, slotPrefix+q.GetHolder())
	case !there || now.Value != had.Value || q.GetHeld() != had.Value:
		set = append(set, journal.Counter{Name: slotPrefix + q.GetHolder(), Epoch: now.Version, Value: now.Value})
	}
	if len(set) == 0 && len(clear) == 0 {
		g.answer(c, reply)
		return
	}
	w, err := g.count(set, clear...)
	if err != nil {
		c.Reply(nil, err)
		return
	}
	w.done = orReply(c, func() { c.Reply(reply, nil) })
	g.flush(false)
}

// placeShare is what a node may have while others want places too.
func (g *tenantGrain) placeShare(holder string, limit int64) int64 {
	s := g.places()
	holders := s.grants.Holders()
	wishes, at := make([]int64, len(holders)), 0
	for i, h := range holders {
		a, _ := s.grants.Of(h)
		wishes[i] = max(a.Wish, a.Used)
		if !a.Told {
			wishes[i] = a.Value
		}
		if h == holder {
			at = i
		}
	}
	return kb.Shares(limit, wishes)[at]
}

func placeReply(a kb.Allotment, share, limit int64) *nodev1.TenantReply {
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_PlaceLease{PlaceLease: &nodev1.PlaceLease{
		Version: a.Version, Granted: a.Value, Share: share, Limit: limit, Ttl: durationpb.New(placeTTL)}}}
}

// running is how many places runs have, as nodes told last.
func (g *tenantGrain) running() int64 {
	s, n := g.places(), int64(0)
	for _, h := range s.grants.Holders() {
		a, _ := s.grants.Of(h)
		n += a.Used
	}
	return n
}

func (g *tenantGrain) placeQuota() *granaryv1.Quota {
	limit, sum, used := g.tenant.Limits().ConcurrentProcessing, g.places().grants.Sum(), g.running()
	return &granaryv1.Quota{Metric: metricProcessing, Limit: limit, Base: limit, Used: used,
		GrantedUnused: max(0, sum-used), Remaining: max(0, limit-max(sum, used))}
}
