package cluster

import "time"

// ActivationInfo describes one grain that is active on this node.
type ActivationInfo struct {
	Identity Identity
	Since    time.Time     // activation, as exact as Config.SweepInterval
	Idle     time.Duration // time since the last message, as exact as Config.SweepInterval
	Queued   int           // calls that wait in its mailbox
	Pending  int           // calls it took and will answer later
	Served   uint32        // calls handed to it since it was activated
	Stopping bool          // it takes no more calls; those queued wait for the next activation
}

// Activations lists the grains active on this node, in no order. It copies: a
// million take about 150 MB.
func (n *Node) Activations() []ActivationInfo {
	out := make([]ActivationInfo, 0, max(0, n.alive.Load()))
	now := n.clock.Load()
	n.registry.each(func(a *activation) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.stopped {
			return
		}
		out = append(out, ActivationInfo{
			Identity: a.id,
			Since:    n.epoch.Add(time.Duration(a.since)),
			Idle:     max(0, time.Duration(now-a.lastUsed)),
			Queued:   a.box.calls.len(),
			Pending:  int(a.nparked),
			Served:   a.served,
			Stopping: a.box.stopping,
		})
	})
	return out
}

// PlacementInfo says where a grain belongs.
type PlacementInfo struct {
	Partition int
	Owner     string // name of the node that owns the partition
	Local     bool   // that is this node
	Active    bool   // it is active on this node
}

// Placement tells where the grain of id belongs. The error wraps
// [protocol.ErrInvalidIdentity].
func (n *Node) Placement(id Identity) (PlacementInfo, error) {
	if err := id.Validate(); err != nil {
		return PlacementInfo{}, err
	}
	hash := id.Hash()
	p := n.placement.Load()
	partition := p.table.Partition(hash)
	return PlacementInfo{
		Partition: partition,
		Owner:     p.table.Owner(partition),
		Local:     p.table.OwnerIndex(hash) == p.self,
		Active:    n.registry.find(&id, hash) != nil,
	}, nil
}
