package sim

import (
	"errors"
	"time"

	"granary.dev/granary/cluster/protocol"
)

// store is the model of the database: rows, and the statements of package
// protocol executed on them, each at one instant.
type store struct {
	w      *world
	view   protocol.View
	leases []protocol.LeaseRow
	places map[int64]*protocol.Placement // by version
	kbs    [maxKeys]kbRows
}

// kbRows is what the store holds of one knowledge base.
type kbRows struct {
	owner   protocol.OwnerRow
	journal []entry
	keys    []keyRecord
	wake    [docs]wakeRow
}

type wakeRow struct {
	set bool
	due time.Duration
}

// keyRecord is an idempotency record.
type keyRecord struct {
	op  *op
	seq int64
}

// outcome of a request to a store.
type outcome uint8

const (
	answered outcome = iota
	refused          // it was certainly not executed
	silent           // nobody knows
)

func (s *store) init(w *world) {
	s.w = w
	s.places = make(map[int64]*protocol.Placement, 16)
	s.places[0] = &protocol.Placement{}
}

// form starts with a cluster that has been there for long.
func (s *store) form(nodes []*node) {
	v := protocol.View{Version: 1, Fingerprint: fingerprint, CommittedAt: epoch}
	for _, n := range nodes {
		id := n.id()
		v.Members = append(v.Members, protocol.Member{NodeID: id, Addr: id.Name, State: protocol.Live})
		s.leases = append(s.leases, protocol.LeaseRow{Node: id, Addr: id.Name, Expires: epoch.Add(s.w.cfg.timing.TTL), Seen: 1})
	}
	s.view = v
	s.w.check.viewCommitted(protocol.View{}, v)
}

// request executes exec at the store and done at the node, unless something
// comes between. check, if set, is a part of the statement that happens a little
// before exec; the true protocol has none.
func (n *node) request(timeout time.Duration, check, exec func(), done func(outcome)) {
	w, sent := n.w, n.w.now
	giveUp := func() { w.at(sent+timeout, n, func() { done(silent) }) }
	if w.links.toStore[n.slot] > w.now || w.links.awayUntil > w.now {
		if w.chance(0.3) { // the connection is refused at once
			w.after(time.Millisecond, n, func() { done(refused) })
			return
		}
		giveUp()
		return
	}
	arrive := func() {
		if w.links.awayUntil > w.now {
			giveUp()
			return
		}
		exec()
		back := w.links.storeWay(n)
		if w.links.fromStore[n.slot] > w.now || w.now+back-sent > timeout {
			giveUp()
			return
		}
		w.after(back, n, func() { done(answered) })
	}
	there := w.links.storeWay(n)
	if check == nil {
		w.after(there, nil, arrive)
		return
	}
	w.after(there, nil, func() {
		check()
		gap := w.links.storeWay(n)
		if w.chance(0.2) { // it waits for a lock
			gap += w.upTo(time.Second)
		}
		w.after(gap, nil, arrive)
	})
}

func (s *store) lease(id protocol.NodeID) (protocol.LeaseRow, bool) {
	for i := range s.leases {
		if s.leases[i].Node == id {
			return s.leases[i], true
		}
	}
	return protocol.LeaseRow{}, false
}

func (s *store) putLease(row protocol.LeaseRow) {
	for i := range s.leases {
		if s.leases[i].Node == row.Node {
			s.leases[i] = row
			return
		}
	}
	s.leases = append(s.leases, row)
}

func (s *store) renew(r protocol.RenewRequest) (protocol.View, protocol.Survey, error) {
	var old *protocol.LeaseRow
	if row, ok := s.lease(r.Node); ok {
		old = &row
	}
	row, err := protocol.Renew(old, r, s.w.storeTime(), s.w.cfg.timing.TTL)
	if err != nil {
		return protocol.View{}, protocol.Survey{}, err
	}
	s.putLease(row)
	return s.view, protocol.Look(s.view, s.lease, s.w.storeTime()), nil
}

func (s *store) swap(next protocol.View, by protocol.NodeID) (protocol.View, error) {
	cur := s.view
	if s.w.rules.SwapAnyVersion {
		cur.Version = next.Version - 1
	}
	lease := s.lease
	if s.w.rules.EvictOnSuspicion {
		lease = func(id protocol.NodeID) (protocol.LeaseRow, bool) {
			row, ok := s.lease(id)
			if id != by {
				row.Expires = time.Time{}
			}
			return row, ok
		}
	}
	v, final, err := protocol.Swap(cur, next, by, lease, s.w.storeTime())
	if err != nil {
		return v, err
	}
	s.w.check.viewCommitted(s.view, v)
	s.view = v
	for _, row := range final {
		s.putLease(row)
	}
	return v, nil
}

// placement of a view the store has held.
func (s *store) placement(v protocol.View) *protocol.Placement {
	if p, ok := s.places[v.Version]; ok {
		return p
	}
	p, err := protocol.NewPlacement(v, s.w.bench.tables)
	if err != nil {
		s.w.fail("I11: no placement for view %d: %v", v.Version, err)
		p = &protocol.Placement{}
	}
	s.places[v.Version] = p
	return p
}

// mayAcquire is the part of acquire that looks at the view.
func (s *store) mayAcquire(k int, r protocol.AcquireRequest) (protocol.OwnerRow, error) {
	id := r.Node
	row, ttl := s.kbs[k].owner, s.w.cfg.timing.TTL
	if s.w.rules.NoWait || s.w.rules.GossipPlacement {
		ttl = 0
	}
	placed, _ := s.placement(s.view).Owner(identity(k))
	v := s.view
	if s.w.rules.GossipPlacement {
		placed = id
		v = protocol.View{CommittedAt: epoch, Members: []protocol.Member{{NodeID: id, State: protocol.Live}}}
	}
	last, _ := s.lease(row.Node)
	next, err := protocol.Acquire(v, placed, row, last, r, s.w.storeTime(), ttl)
	if err == nil && s.w.rules.SameEpoch {
		next.Activation = ""
		if row.Node.Name == id.Name {
			next.Epoch = row.Epoch
		}
	}
	return next, err
}

// take writes the owner row of an acquisition that is allowed.
func (s *store) take(k int, row protocol.OwnerRow, act int) protocol.OwnerRow {
	kb := &s.kbs[k]
	if s.w.rules.AcquireUnlocked { // allowed some time ago
		row.Epoch, row.Head = kb.owner.Epoch+1, kb.owner.Head
	}
	s.w.check.acquired(k, row, act)
	kb.owner = row
	return row
}

// batch is what one commit writes.
type batch struct {
	fence   protocol.Fence
	head    int64
	entries []entry
	setWake [docs]bool
	clear   [docs]bool
}

func (s *store) mayAppend(k int, b *batch) (protocol.OwnerRow, error) {
	row := s.kbs[k].owner
	if s.w.rules.NoFence {
		b.fence = row.Fence
		row.Released = false
	}
	return protocol.Append(row, b.fence, b.head, len(b.entries))
}

// insert writes a batch that is allowed; act is the activation it comes from.
func (s *store) insert(k int, b *batch, act int) error {
	kb := &s.kbs[k]
	if int64(len(kb.journal)) != b.head { // unique (kind, tenant, id, seq)
		return protocol.ErrFenced
	}
	for _, e := range b.entries {
		kb.journal = append(kb.journal, e)
		if e.op != nil && !s.w.rules.IdempotencyApart {
			kb.keys = append(kb.keys, keyRecord{e.op, int64(len(kb.journal))})
		}
	}
	kb.owner.Head = int64(len(kb.journal))
	if !s.w.rules.WakeupApart {
		s.wakeups(k, b)
	}
	s.w.check.committed(k, b, act)
	return nil
}

func (s *store) wakeups(k int, b *batch) {
	for d := range docs {
		switch wake := &s.kbs[k].wake[d]; {
		case b.setWake[d]:
			*wake = wakeRow{set: true, due: s.w.now + wakeAfter}
		case b.clear[d]:
			wake.set = false
		}
	}
}

func (s *store) verify(k int, f protocol.Fence) error { return protocol.Verify(s.kbs[k].owner, f) }

func (s *store) release(k int, f protocol.Fence) {
	s.kbs[k].owner = protocol.Release(s.kbs[k].owner, f)
}

// due tells whether a wake-up of k is due, and whether long since.
func (s *store) due(k int) (due, overdue bool) {
	for d := range docs {
		wake := s.kbs[k].wake[d]
		due = due || wake.set && wake.due <= s.w.now
		overdue = overdue || wake.set && wake.due+wakeOverdue <= s.w.now
	}
	return due, overdue
}

func (s *store) anyWake() bool {
	for k := range s.w.cfg.keys {
		for d := range docs {
			if s.kbs[k].wake[d].set {
				return true
			}
		}
	}
	return false
}

func isHeld(err error) (time.Duration, bool) {
	var held *protocol.HeldError
	if errors.As(err, &held) {
		return held.RetryAfter, true
	}
	return 0, false
}
