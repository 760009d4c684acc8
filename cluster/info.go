package cluster

import (
	"time"

	"granary.dev/granary/cluster/gossip"
	"granary.dev/granary/cluster/protocol"
)

// ActivationInfo describes one grain that is active on this node.
type ActivationInfo struct {
	Identity Identity
	Since    time.Time     // activation, as exact as Config.SweepInterval
	Idle     time.Duration // time since the last message, as exact as Config.SweepInterval
	Queued   int           // calls that wait in its mailbox
	Pending  int           // calls it took and will answer later
	Served   uint32        // calls handed to it since it was activated
	Stopping bool          // it takes no more calls; those queued wait for the next activation
	Moving   bool          // it is being handed over to another node
}

// Activations lists the grains active on this node, in no order. It copies: a
// million take about 150 MB.
func (n *Node) Activations() []ActivationInfo {
	out := make([]ActivationInfo, 0, max(0, n.alive.Load()))
	n.eachActivation(func(i ActivationInfo) { out = append(out, i) })
	return out
}

func (n *Node) eachActivation(f func(ActivationInfo)) {
	now := n.clock.Load()
	n.registry.each(func(a *activation) {
		a.mu.Lock()
		i := ActivationInfo{
			Identity: a.id,
			Since:    n.epoch.Add(time.Duration(a.since)),
			Idle:     max(0, time.Duration(now-a.lastUsed)),
			Queued:   a.box.calls.len(),
			Pending:  int(a.nparked),
			Served:   a.served,
			Stopping: a.box.stopping,
			Moving:   a.moving,
		}
		gone := a.stopped
		a.mu.Unlock()
		if !gone {
			f(i)
		}
	})
}

// PlacementInfo says where a grain belongs.
type PlacementInfo struct {
	Partition  int
	Owner      string          // name of the node that owns the grain, "" if the view has no member
	Node       protocol.NodeID // that life of it
	Override   bool            // its tenant was relocated there
	TableOwner string          // name of the node the table gives it to
	Tenure     protocol.Tenure // since when, as this node has seen it; zero on a node that takes no share
	View       int64           // version of the view that says so
	Local      bool            // that is this node
	Active     bool            // it is active on this node
}

// Placement tells where the grain of id belongs, as this node sees it. The error
// wraps [protocol.ErrInvalidIdentity].
func (n *Node) Placement(id Identity) (PlacementInfo, error) {
	if err := id.Validate(); err != nil {
		return PlacementInfo{}, err
	}
	hash := id.Hash()
	s := n.standing.Load()
	owner, _ := s.owner(hash, id.Tenant)
	out := PlacementInfo{Owner: owner.Name, Node: owner, View: s.view.Version, Local: s.local(hash, id.Tenant),
		Active: n.registry.find(&id, hash) != nil}
	if s.lone {
		out.Partition, out.TableOwner = n.cfg.table.Partition(hash), owner.Name
		return out, nil
	}
	if home, ok := s.place.Home(hash); ok {
		out.TableOwner = home.Name
	}
	out.Partition = s.place.Partition(hash)
	out.Override = s.place.Overridden(id.Tenant)
	if s.tenures != nil {
		out.Tenure = s.tenures.Of(id)
	}
	return out, nil
}

// Partitions is how many there are.
func (n *Node) Partitions() int {
	if n.shared == nil {
		return n.cfg.table.Partitions()
	}
	return n.shared.cfg.Table.Partitions
}

// Self is the id of this life of the node.
func (n *Node) Self() protocol.NodeID {
	if n.shared != nil {
		if l := n.shared.life.Load(); l != nil {
			return l.id
		}
	}
	return n.standing.Load().self
}

// View is the view this node acts on; the zero view on a node that is alone.
func (n *Node) View() protocol.View { return n.standing.Load().view }

// Shares counts the partitions of each life of a node, overrides aside.
func (n *Node) Shares() map[protocol.NodeID]int {
	s := n.standing.Load()
	out := make(map[protocol.NodeID]int)
	if s.lone {
		out[s.self] = n.cfg.table.Partitions()
		return out
	}
	for _, id := range s.place.Partitions() {
		out[id]++
	}
	return out
}

// Gossip is what gossip knows of the nodes, this one included.
func (n *Node) Gossip() []gossip.Member {
	if n.shared == nil {
		return nil
	}
	return n.shared.gossip.Load().members()
}

// Stats count what this node saw of the cluster since its start, and tell how it stands.
type Stats struct {
	Activations int64 // grains in memory
	// Of a node that shares a store; zero when it is alone.
	LeaseValid bool
	Lapses     int64   // times the lease ran out before it was renewed
	Evictions  int64   // times the node was given up by others and came back
	Handovers  int64   // grains being handed over now
	View       int64   // version of the view it acts on
	Load       float64 // share of its processors in use, 0 to 1, averaged over some seconds
}

// Stats reads the counters.
func (n *Node) Stats() Stats {
	out := Stats{Activations: n.alive.Load()}
	s := n.shared
	if s == nil {
		return out
	}
	out.LeaseValid = s.lease.Load().Valid(bootClock(), s.cfg.Timing)
	out.Lapses, out.Evictions, out.Handovers = s.lapses.Load(), s.evictions.Load(), s.pending.Load()
	out.View, out.Load = n.standing.Load().view.Version, s.load()
	return out
}
