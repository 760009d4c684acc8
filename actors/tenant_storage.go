package actors

import (
	"context"
	"strings"
	"sync"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// tenantStorage divides the tenant's storage among its knowledge bases. A request for
// which there is no room waits while what others hold and do not use is recalled; it is
// refused when there is none left to recall.
type tenantStorage struct {
	grants  *kb.Allotments
	parked  []*storageAsk // wait for the recall under way
	next    []*storageAsk // came since, and wait for the next one
	pending bool          // a recall is under way
}

type storageAsk struct {
	call    call
	q       *nodev1.LeaseStorage
	recount bool // waits for the recall itself
}

// recalledMsg is what knowledge bases gave back.
type recalledMsg struct {
	of    *tenantStorage
	held  map[string]*nodev1.StorageHeld // by knowledge base
	unmet map[string]int64               // could not be asked, and may hold so much for nothing
}

const storagePrefix = "storage/"

// serveStorage carries out what concerns stored bytes; false when the operation is not of
// these.
func (g *tenantGrain) serveStorage(c call, m *nodev1.TenantCall) bool {
	switch op := m.GetOperation().(type) {
	case *nodev1.TenantCall_LeaseStorage:
		g.leaseStorage(c, op.LeaseStorage)
	case *nodev1.TenantCall_CheckStorage:
		g.current(orReply(c, func() { g.answer(c, g.checkStorage(op.CheckStorage.GetBytes())) }))
	case *nodev1.TenantCall_RecountUsage:
		g.recount(c, nil)
	default:
		return false
	}
	return true
}

// stored gives the grants, from what is durable.
func (g *tenantGrain) stored() *tenantStorage {
	if g.storage == nil {
		g.storage = &tenantStorage{grants: kb.NewAllotments()}
		for _, c := range g.counters {
			if id, ok := strings.CutPrefix(c.Name, storagePrefix); ok {
				g.storage.grants.Load(id, c.Epoch, c.Value)
			}
		}
	}
	return g.storage
}

func (g *tenantGrain) leaseStorage(c call, q *nodev1.LeaseStorage) {
	if g.broken != nil {
		c.Reply(nil, g.broken)
		return
	}
	s := g.stored()
	if q.GetNeed() > 0 && !g.tenant.ListsUID(q.GetId(), q.GetUid()) {
		// It registers again and comes back; one that is being deleted does not.
		g.answer(c, tenantError(kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the knowledge base is not registered yet; try again").After(time.Second)))
		return
	}
	if !s.grants.Take(kb.AllotmentRequest{Holder: q.GetId(), Version: q.GetVersion(), Held: q.GetHeld(), Used: q.GetUsed(), Wish: q.GetWish()}) {
		had, _ := s.grants.Of(q.GetId())
		g.answer(c, storageReply(had, nil))
		return
	}
	g.decideStorage(c, q, nil)
}

// decideStorage grants what is needed, or has it recalled, or refuses it when a recall
// has just been: unmet is then what could not be asked.
func (g *tenantGrain) decideStorage(c call, q *nodev1.LeaseStorage, recalled *recalledMsg) {
	s, limit := g.stored(), g.tenant.Limits().StorageBytes
	had, ok := s.grants.Of(q.GetId())
	if !ok || had.Version != q.GetVersion() {
		g.answer(c, storageReply(had, nil)) // asked anew meanwhile
		return
	}
	wish, block := q.GetWish(), kb.StorageBlock(limit)
	if wish > 0 {
		wish += block
	}
	if s.pending || recalled != nil {
		wish = 0 // others are short
	}
	if q.GetNeed() <= 0 || s.grants.Grow(q.GetId(), q.GetNeed(), wish, limit, 4*block) {
		g.commitStorage(c, q, nil)
		return
	}
	_, slack := s.grants.Slack(q.GetId())
	missing := q.GetNeed() - had.Value - (limit - s.grants.Sum())
	switch {
	case recalled == nil && slack > 0 && missing <= slack:
		g.recall(&storageAsk{call: c, q: q})
	case recalled != nil && missing <= recalled.most():
		g.commitStorage(c, q, kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable,
			"storage that other knowledge bases do not use cannot be had back now; try again").After(time.Second))
	default:
		used := s.grants.Sum() - had.Value + had.Used
		g.commitStorage(c, q, kb.StorageLimitError(limit, used, q.GetNeed()-had.Value))
	}
}

func (m *recalledMsg) most() int64 {
	n := int64(0)
	for _, u := range m.unmet {
		n += u
	}
	return n
}

// commitStorage makes a holder's allotment durable and answers. A holder relies on its
// word having been taken, so that is committed too when it gets nothing.
func (g *tenantGrain) commitStorage(c call, q *nodev1.LeaseStorage, refusal *kb.Error) {
	s := g.stored()
	now, _ := s.grants.Of(q.GetId())
	var err error
	var w *write
	if now.Value == 0 && q.GetNeed() == 0 && !g.tenant.ListsUID(q.GetId(), q.GetUid()) {
		s.grants.Drop(q.GetId())
		w, err = g.count(nil, storagePrefix+q.GetId())
	} else {
		w, err = g.count([]journal.Counter{{Name: storagePrefix + q.GetId(), Epoch: now.Version, Value: now.Value}})
	}
	if err != nil {
		c.Reply(nil, err)
		return
	}
	w.done = orReply(c, func() { c.Reply(storageReply(now, refusal), nil) })
	g.flush(g.owes())
}

func storageReply(a kb.Allotment, refusal *kb.Error) *nodev1.TenantReply {
	out := &nodev1.StorageGrant{Version: a.Version, Granted: a.Value}
	if refusal != nil {
		out.Refusal = errorProto(refusal)
	}
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_StorageGrant{StorageGrant: out}}
}

// recall asks all knowledge bases for what they hold and do not use.
func (g *tenantGrain) recall(a *storageAsk) {
	s := g.stored()
	if len(s.parked)+len(s.next) >= maxWaiting {
		a.call.Reply(nil, busyError())
		return
	}
	if s.pending {
		s.next = append(s.next, a)
		return
	}
	s.parked, s.pending = append(s.parked, a), true
	holders, _ := s.grants.Slack("")
	most := make(map[string]int64, len(holders))
	for _, id := range holders {
		had, _ := s.grants.Of(id)
		most[id] = had.Slack()
	}
	go func() {
		m := &recalledMsg{of: s, held: make(map[string]*nodev1.StorageHeld), unmet: make(map[string]int64)}
		ctx, cancel := context.WithTimeout(context.Background(), recallTimeout)
		defer cancel()
		var mu sync.Mutex
		g.askAll(ctx, holders, func() *nodev1.KnowledgeBaseCall {
			return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Storage{Storage: &nodev1.StorageCall{GiveBack: true}}}
		}, func(id string, r *nodev1.KnowledgeBaseReply, err error) {
			mu.Lock()
			defer mu.Unlock()
			if h := r.GetStorageHeld(); err == nil && h != nil {
				m.held[id] = h
				return
			}
			m.unmet[id] = most[id]
		})
		g.tell(m)
	}()
}

const (
	recallTimeout = 4 * time.Second // below the time a knowledge base waits for the tenant
	askAtOnce     = 16
)

// askAll asks knowledge bases, some at a time, and returns when all have answered; got
// is called from several goroutines.
func (g *tenantGrain) askAll(ctx context.Context, ids []string, what func() *nodev1.KnowledgeBaseCall,
	got func(id string, r *nodev1.KnowledgeBaseReply, err error),
) {
	room := make(chan struct{}, askAtOnce)
	var all sync.WaitGroup
	for _, id := range ids {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			m := what()
			m.Header = &nodev1.Header{Tenant: g.id.Tenant, Principal: system.principal, Internal: true}
			r, err := g.deps.Asker.Ask(ctx, KindKB, g.id.Tenant, id, m)
			reply, _ := r.(*nodev1.KnowledgeBaseReply)
			got(id, reply, err)
		})
	}
	all.Wait()
}

// recalled takes back what was given back, and decides on those who waited.
func (g *tenantGrain) recalled(m *recalledMsg) {
	s := g.storage
	if s == nil || s != m.of || g.broken != nil {
		return
	}
	var back []journal.Counter
	for id, h := range m.held {
		if _, there := s.grants.Of(id); !there {
			continue
		}
		if s.grants.Take(kb.AllotmentRequest{Holder: id, Version: h.GetVersion(), Held: h.GetHeld(), Used: h.GetUsed()}) {
			now, _ := s.grants.Of(id)
			back = append(back, journal.Counter{Name: storagePrefix + id, Epoch: now.Version, Value: now.Value})
		}
	}
	if len(back) > 0 {
		// Committed before, or with, what is granted out of it.
		if _, err := g.count(back); err != nil {
			return
		}
	}
	parked := s.parked
	s.parked, s.pending = nil, false
	for _, a := range parked {
		switch {
		case expired(a.call):
		case a.recount:
			g.onQuiet(orReply(a.call, func() { g.recount(a.call, m) }))
		default:
			g.decideStorage(a.call, a.q, m)
		}
	}
	next := s.next
	s.next = nil
	for _, a := range next {
		switch {
		case expired(a.call):
		case a.recount:
			g.recount(a.call, nil)
		default:
			g.decideStorage(a.call, a.q, nil)
		}
	}
	g.flush(g.owes())
}

// recalling reports whether somebody waits for a recall.
func (g *tenantGrain) recalling() bool { return g.storage != nil && g.storage.pending }

// refuseStorage answers those who wait for a recall when the activation ends.
func (g *tenantGrain) refuseStorage(err error) {
	if g.storage == nil {
		return
	}
	for _, a := range append(g.storage.parked, g.storage.next...) {
		a.call.Reply(nil, err)
	}
	g.storage = nil
}

// checkStorage tells whether an upload whose knowledge base is not known yet has a chance.
func (g *tenantGrain) checkStorage(bytes int64) *nodev1.TenantReply {
	s, limit := g.stored(), g.tenant.Limits().StorageBytes
	_, slack := s.grants.Slack("")
	if used := s.grants.Sum() - slack; bytes > limit-used {
		return tenantError(kb.StorageLimitError(limit, used, bytes))
	}
	return tenantDone()
}
