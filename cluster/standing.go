package cluster

import (
	"granary.dev/granary/cluster/protocol"
)

// standing is what this node knows of the cluster and of its own place in it at
// one moment. It is replaced as a whole and never changed, so that a call sees
// one view from start to end.
type standing struct {
	lone bool // the node shares with nobody: everything is placed here

	view    protocol.View
	place   *protocol.Placement
	tenures *protocol.Tenures
	self    protocol.NodeID
	id      string // of self, as in owner rows
	serving bool   // a member that takes calls for what is placed on it

	replaced chan struct{} // closed when another standing has taken its place
}

// loneStanding is the standing of a node that is alone.
func loneStanding(name string) *standing {
	return &standing{lone: true, self: protocol.NodeID{Name: name}, id: name, serving: true, replaced: make(chan struct{})}
}

// owner gives the node that owns a grain; false when the view has no member.
func (s *standing) owner(hash uint64, tenant string) (protocol.NodeID, bool) {
	if s.lone {
		return s.self, true
	}
	return s.place.At(hash, tenant)
}

// local tells whether a grain may live on this node.
func (s *standing) local(hash uint64, tenant string) bool {
	if s.lone {
		return true
	}
	if !s.serving {
		return false
	}
	o, ok := s.place.At(hash, tenant)
	return ok && o == s.self
}

// addr is where the node of a member takes calls.
func (s *standing) addr(id protocol.NodeID) string {
	m, _ := s.view.Find(id)
	return m.Addr
}
