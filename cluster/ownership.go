package cluster

import "time"

// Right is by what this node may take a grain over; see [protocol.Acquire].
type Right struct {
	Node      string    // id of this life of the node; of a node that is alone, its name
	View      int64     // version of the view that places the grain here; 0 for a node that is alone
	Since     int64     // the first of the views up to View that all place it here, as this node has seen them
	SinceTime time.Time // when that was committed, by the store's clock
}

// Right tells by what right this node may take the grain of id over; false while
// the view it knows places it elsewhere or it gives up what it has.
func (n *Node) Right(id Identity) (Right, bool) {
	s := n.standing.Load()
	if s.lone {
		return Right{Node: s.id}, true
	}
	if !s.local(id.Hash(), id.Tenant) {
		return Right{}, false
	}
	t := s.tenures.Of(id)
	return Right{Node: s.id, View: s.view.Version, Since: t.Version, SinceTime: t.CommittedAt}, true
}

// Lease tells the term of this node's lease, and whether it can be relied on
// now. See [protocol.Prove] and [protocol.MayRead].
func (n *Node) Lease() (term uint64, ok bool) {
	if n.shared == nil {
		return 0, true
	}
	l := n.shared.lease.Load()
	// Terms count within a life: those of an earlier one must never seem to go on.
	return uint64(n.shared.evictions.Load())<<32 | l.Term, l.Valid(bootClock(), n.shared.cfg.Timing)
}

// Outdated tells the node that the store holds a view it does not know.
func (n *Node) Outdated() {
	if n.shared != nil {
		n.shared.heard(n.standing.Load().view.Version + 1)
	}
}
