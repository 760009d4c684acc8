package cluster

import (
	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/cluster/transport"
)

// Unreach makes the node believe that it has just failed to reach another one.
func (n *Node) Unreach(id protocol.NodeID) { n.shared.dim.note(id, transport.ErrNotSent) }

// Relayed counts the calls that the node has passed on between others.
func (n *Node) Relayed() int64 { return n.shared.relayed.Load() }
