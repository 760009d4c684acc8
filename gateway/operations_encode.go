package gateway

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// States of the port on the wire. What is not in a table is UNSPECIFIED.
var (
	nodeStates = map[NodeState]v1.NodeState{
		NodeJoining: v1.NodeState_NODE_STATE_JOINING, NodeLive: v1.NodeState_NODE_STATE_LIVE,
		NodeDraining: v1.NodeState_NODE_STATE_DRAINING, NodeLeft: v1.NodeState_NODE_STATE_LEFT,
		NodeDead: v1.NodeState_NODE_STATE_DEAD, NodeAbsent: v1.NodeState_NODE_STATE_ABSENT,
	}
	gossipStates = map[GossipState]v1.GossipState{
		GossipAlive: v1.GossipState_GOSSIP_STATE_ALIVE, GossipSuspect: v1.GossipState_GOSSIP_STATE_SUSPECT,
		GossipGone: v1.GossipState_GOSSIP_STATE_GONE,
	}
	healthStates = map[HealthState]v1.HealthState{
		HealthOK: v1.HealthState_HEALTH_STATE_OK, HealthDegraded: v1.HealthState_HEALTH_STATE_DEGRADED,
		HealthUnavailable: v1.HealthState_HEALTH_STATE_UNAVAILABLE,
	}
)

func encodeNode(n ClusterNode) *v1.Node {
	return &v1.Node{
		Name: nodesPrefix + n.Name, Id: n.Name + "#" + n.Boot,
		ApiAddress: n.API, ActorsAddress: n.Actors, GossipAddress: n.Gossip, Zone: n.Zone, Roles: n.Roles,
		State: nodeStates[n.State], Gossip: gossipStates[n.GossipState], Version: n.Version, Load: n.Load,
		Healthy: len(n.Problems) == 0, Problems: n.Problems, Partitions: int32(n.Partitions),
		Activations: n.Activations, PendingHandovers: n.PendingHandover,
		LeaseAge: known(n.LeaseAge), StartTime: timeOf(n.Started), Self: n.Self,
	}
}

func encodeView(v ClusterView) *v1.ClusterView {
	out := &v1.ClusterView{
		Version: v.Version, Round: int32(v.Round), RoundCount: int32(v.Rounds),
		Fingerprint: v.Fingerprint, CommitTime: timeOf(v.CommittedAt),
	}
	for _, m := range v.Members {
		out.Members = append(out.Members, &v1.ViewMember{
			Node: nodesPrefix + m.Name, Id: m.Name + "#" + m.Boot, Address: m.Actors, Zone: m.Zone, State: nodeStates[m.State],
		})
	}
	for _, o := range v.Overrides {
		out.Overrides = append(out.Overrides, &v1.ViewOverride{Tenant: tenantsPrefix + o.Tenant, Node: nodesPrefix + o.Node, Automatic: o.Automatic})
	}
	return out
}

func encodePlacement(p ClusterPlacement) *v1.Placement {
	return &v1.Placement{
		Partition: int32(p.Partition), PartitionCount: int32(p.Partitions),
		Node: nodeName(p.Node), TableNode: nodeName(p.TableNode), Overridden: p.Overridden, Active: p.Active,
		ViewVersion: p.View, SinceVersion: p.Since, SinceTime: timeOf(p.SinceTime), Holder: p.Holder, Epoch: p.Epoch,
	}
}

func encodeActivation(a ClusterActivation) *v1.Activation {
	return &v1.Activation{
		Node: nodesPrefix + a.Node, Kind: a.Kind, Tenant: tenantsPrefix + a.Tenant, Id: a.ID,
		StartTime: timeOf(a.Since), Idle: durationpb.New(a.Idle),
		Queued: int32(a.Queued), Pending: int32(a.Pending), Served: a.Served, Stopping: a.Stopping,
	}
}

// encodeHealth sums the problems up: the worst one tells the state.
func encodeHealth(h ClusterHealth) *v1.ClusterHealth {
	out := &v1.ClusterHealth{
		State: v1.HealthState_HEALTH_STATE_OK, ViewVersion: h.View, ActiveMembers: int32(h.Active),
	}
	for _, p := range h.Problems {
		state := healthStates[p.State]
		out.State = max(out.State, state)
		out.Problems = append(out.Problems, &v1.HealthProblem{
			Reason: p.Reason, Message: p.Message, State: state, Node: nodeName(p.Node), Count: p.Count,
		})
	}
	return out
}

func encodeMove(m ClusterMove) *v1.TenantMove {
	return &v1.TenantMove{
		Tenant: tenantsPrefix + m.Tenant, From: nodeName(m.From), To: nodeName(m.To), Reason: m.Reason,
		FromScore: encodeScore(m.FromScore), ToScore: encodeScore(m.ToScore),
	}
}

func encodeScore(s *PlacementScore) *v1.PlacementScore {
	if s == nil {
		return nil
	}
	return &v1.PlacementScore{Total: s.Total, Locality: s.Locality, Headroom: s.Headroom, Nearness: s.Nearness}
}

func encodeDeadLetter(d ClusterDeadLetter) *v1.DeadLetter {
	return &v1.DeadLetter{
		Tenant: tenantsPrefix + d.Tenant, Document: knowledgeBasesPrefix + d.KnowledgeBase + documentsInfix + d.Document,
		DisplayName: d.DisplayName, Reason: d.Reason, Time: timeOf(d.Since),
	}
}

// nodeName is the resource name of a node, "" for none.
func nodeName(name string) string {
	if name == "" {
		return ""
	}
	return nodesPrefix + name
}

// timeOf leaves a time out that is not known.
func timeOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// known leaves a duration out that is not known.
func known(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
