package node

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/cluster"
	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/gateway"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// operators is the cluster as operators see and steer it.
type operators struct{ n *Node }

// operators gives nil on a node that is alone: the gateway says so then.
func (n *Node) operators() gateway.Cluster {
	if !n.cfg.shared() {
		return nil
	}
	return &operators{n}
}

// describeTime bounds how long one node may take to tell how it is.
const describeTime = time.Second

// Nodes implements gateway.Cluster.
func (o *operators) Nodes(ctx context.Context) ([]gateway.ClusterNode, error) {
	nodes := o.known()
	var all sync.WaitGroup
	for i := range nodes {
		if node := &nodes[i]; node.State != gateway.NodeDead && node.State != gateway.NodeLeft || node.GossipState == gateway.GossipAlive {
			all.Go(func() { o.describe(ctx, node) })
		}
	}
	all.Wait()
	return nodes, ctx.Err()
}

// known merges the view and gossip. A node that left may be back under the same
// name as one that only sends calls on: gossip knows it then.
func (o *operators) known() []gateway.ClusterNode {
	view, shares := o.n.cluster.View(), o.n.cluster.Shares()
	byName := make(map[string]*gateway.ClusterNode)
	for i := range view.Members {
		m := &view.Members[i]
		byName[m.Name] = &gateway.ClusterNode{Name: m.Name, Boot: m.Boot, Actors: m.Addr, Zone: m.Zone, State: gateway.NodeState(m.State),
			Partitions: shares[m.NodeID], Self: m.Name == o.n.cfg.Node}
	}
	for _, g := range o.n.cluster.Gossip() {
		id, err := protocol.ParseNodeID(g.ID)
		if err != nil {
			continue
		}
		node, there := byName[id.Name]
		gone := g.State.Gone()
		switch {
		case !there && gone:
			continue
		case !there:
			node = &gateway.ClusterNode{Name: id.Name, Boot: id.Boot, State: gateway.NodeAbsent, Self: id.Name == o.n.cfg.Node}
			byName[id.Name] = node
		case gone && (node.Boot != id.Boot || node.GossipState == gateway.GossipAlive):
			continue // an earlier life
		}
		node.GossipState = gateway.GossipState(g.State.String())
		if gone {
			node.GossipState = gateway.GossipGone
		}
		node.API, node.Gossip, node.Roles, node.Version, node.Load = g.Meta.API, g.Addr, g.Meta.Roles, g.Meta.Version, g.Meta.Load
	}
	out := make([]gateway.ClusterNode, 0, len(byName))
	for _, n := range byName {
		out = append(out, *n)
	}
	slices.SortFunc(out, func(a, b gateway.ClusterNode) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// describe asks a node how it is.
func (o *operators) describe(ctx context.Context, node *gateway.ClusterNode) {
	ctx, cancel := context.WithTimeout(ctx, describeTime)
	defer cancel()
	d, err := o.n.cluster.Describe(ctx, node.Name)
	if err != nil {
		node.Problems = []string{notAnswering}
		return
	}
	node.Load, node.Problems, node.Activations, node.PendingHandover = d.GetLoad(), d.GetProblems(), d.GetActivations(), d.GetPending()
	node.LeaseAge, node.Started = time.Duration(d.GetLeaseAgeMillis())*time.Millisecond, d.GetStarted().AsTime()
	if d.GetVersion() != "" {
		node.Version = d.GetVersion()
	}
}

// View implements gateway.Cluster.
func (o *operators) View(context.Context) (gateway.ClusterView, error) {
	v := o.n.cluster.View()
	out := gateway.ClusterView{Version: v.Version, Round: v.Round, Rounds: protocol.Rounds, Fingerprint: v.Fingerprint, CommittedAt: v.CommittedAt}
	for i := range v.Members {
		m := &v.Members[i]
		out.Members = append(out.Members, gateway.ClusterMember{Name: m.Name, Boot: m.Boot, Actors: m.Addr, Zone: m.Zone, State: gateway.NodeState(m.State)})
	}
	for _, x := range v.Overrides {
		out.Overrides = append(out.Overrides, gateway.ClusterOverride{Tenant: x.Tenant, Node: x.Node, Automatic: x.Auto})
	}
	return out, nil
}

// Placement implements gateway.Cluster.
func (o *operators) Placement(ctx context.Context, tenant, name string) (gateway.ClusterPlacement, error) {
	id := cluster.Identity{Kind: actors.KindKB, Tenant: tenant, ID: name}
	if name == "" {
		id = cluster.Identity{Kind: actors.KindTenant, Tenant: tenant, ID: tenant}
	}
	p, err := o.n.cluster.Placement(id)
	if err != nil {
		return gateway.ClusterPlacement{}, kb.Errorf(kb.CodeInvalidArgument, kb.ReasonRequestInvalid, "The name is not valid.")
	}
	if p.Owner == "" {
		return gateway.ClusterPlacement{}, kb.Errorf(kb.CodeUnavailable, kb.ReasonNodeUnreachable, "No node owns anything now.").After(time.Second)
	}
	out := gateway.ClusterPlacement{Partition: p.Partition, Partitions: o.n.cluster.Partitions(), Node: p.Owner, TableNode: p.TableOwner,
		Overridden: p.Override, View: p.View, Since: p.Tenure.Version, SinceTime: p.Tenure.CommittedAt}
	out.Active = o.active(ctx, p.Owner, id)
	row, err := o.n.store.Owner(ctx, journal.Identity{Kind: id.Kind, Tenant: id.Tenant, ID: id.ID})
	switch {
	case errors.Is(err, journal.ErrNotFound):
	case err != nil:
		return gateway.ClusterPlacement{}, err
	default:
		if out.Epoch = row.Epoch; !row.Released {
			out.Holder = row.Node
		}
	}
	return out, nil
}

// active tells whether a grain is in memory where it belongs; nil if nobody knows.
func (o *operators) active(ctx context.Context, node string, id cluster.Identity) *bool {
	ctx, cancel := context.WithTimeout(ctx, describeTime)
	defer cancel()
	key := id.String()
	r, err := o.n.cluster.ActivationsOn(ctx, node, justBefore(key), id.Tenant, 1)
	if err != nil {
		return nil
	}
	is := len(r.GetActivations()) == 1 && activationKey(r.GetActivations()[0]) == key
	return &is
}

// justBefore gives a text that sorts before key and after everything shorter.
func justBefore(key string) string { return key[:len(key)-1] + string(key[len(key)-1]-1) + "\x7f" }

func activationKey(a *nodev1.NodeActivation) string {
	return a.GetKind() + "/" + a.GetTenant() + "/" + a.GetGrain()
}

// Activations implements gateway.Cluster. A position is a node and a key on it;
// nodes come in the order of their names.
func (o *operators) Activations(ctx context.Context, q gateway.ActivationQuery) (gateway.ClusterActivations, error) {
	node, after, _ := strings.Cut(q.After, "|")
	var out gateway.ClusterActivations
	for _, name := range o.hosts(q.Node) {
		if name < node {
			continue
		}
		from := ""
		if name == node {
			from = after
		}
		r, err := o.n.cluster.ActivationsOn(ctx, name, from, q.Tenant, q.Limit-len(out.Items))
		if err != nil {
			if q.Node != "" {
				return out, nodeError(err, q.Node)
			}
			out.Unreachable = append(out.Unreachable, name)
			continue
		}
		last := from
		for _, a := range r.GetActivations() {
			last = activationKey(a)
			out.Items = append(out.Items, gateway.ClusterActivation{Node: name, Kind: a.GetKind(), Tenant: a.GetTenant(), ID: a.GetGrain(),
				Since: a.GetSince().AsTime(), Idle: time.Duration(a.GetIdleMillis()) * time.Millisecond, Queued: int(a.GetQueued()),
				Pending: int(a.GetPending()), Served: int64(a.GetServed()), Stopping: a.GetStopping()})
		}
		if r.GetMore() || len(out.Items) >= q.Limit {
			out.Next = name + "|" + last
			return out, nil
		}
	}
	return out, nil
}

// hosts are the names of the nodes that may have grains: one, or all active members.
func (o *operators) hosts(only string) []string {
	if only != "" {
		return []string{only}
	}
	var names []string
	v := o.n.cluster.View()
	for i := range v.Members {
		if v.Members[i].State.Active() {
			names = append(names, v.Members[i].Name)
		}
	}
	return names
}

func noNode(name string) error {
	return kb.Errorf(kb.CodeNotFound, kb.ReasonNodeNotFound, "The cluster has no node %s.", name)
}

// Drain implements gateway.Cluster.
func (o *operators) Drain(ctx context.Context, node string) error {
	v := o.n.cluster.View()
	m, ok := v.Named(node)
	switch {
	case ok && (m.State == protocol.Left || m.State == protocol.Draining):
		return nil
	case ok && m.State != protocol.Live:
		return nodeState("The node is %s; only a live one can be drained.", m.State)
	case ok && len(o.hosts("")) == 1:
		return nodeState("The node is the last one: nobody could take its share. Stop it instead.")
	case v.Moving():
		return kb.Errorf(kb.CodeAborted, kb.ReasonClusterMoving, "Partitions are changing hands; try again when they have settled.").After(time.Second)
	}
	return nodeError(o.n.cluster.Drain(ctx, node), node)
}

func nodeState(format string, args ...any) error {
	return kb.Errorf(kb.CodeFailedPrecondition, kb.ReasonNodeState, format, args...)
}

func unreachable(node string) error {
	return kb.Errorf(kb.CodeUnavailable, kb.ReasonNodeUnreachable, "The node %s does not answer.", node).After(time.Second)
}

// Relocate implements gateway.Cluster.
func (o *operators) Relocate(ctx context.Context, tenant, node string) error {
	return nodeError(o.n.cluster.Relocate(ctx, tenant, node), node)
}

func nodeError(err error, node string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cluster.ErrNoNode):
		return noNode(node)
	case errors.Is(err, cluster.ErrNodeState):
		return nodeState("The node is not in a state for that; look at granary cluster nodes.")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	}
	return unreachable(node)
}

// Rebalance implements gateway.Cluster.
func (o *operators) Rebalance(ctx context.Context, dryRun bool) ([]gateway.ClusterMove, error) {
	moves, err := o.n.cluster.Rebalance(ctx, dryRun)
	if err != nil {
		return nil, nodeError(err, "")
	}
	out := make([]gateway.ClusterMove, 0, len(moves))
	for _, m := range moves {
		out = append(out, clusterMove(m))
	}
	return out, nil
}

// letterPosition is a place in the list of dead letters.
type letterPosition struct{ T, K, I, D string }

// DeadLetters implements gateway.Cluster.
func (o *operators) DeadLetters(ctx context.Context, after string, limit int) ([]gateway.ClusterDeadLetter, string, error) {
	var from journal.DeadLetterRow
	if after != "" {
		var p letterPosition
		raw, err := base64.RawURLEncoding.DecodeString(after)
		if err != nil || json.Unmarshal(raw, &p) != nil {
			return nil, "", kb.Errorf(kb.CodeInvalidArgument, kb.ReasonPageTokenInvalid, "The page token is not one of this list.")
		}
		from = journal.DeadLetterRow{Identity: journal.Identity{Tenant: p.T, Kind: p.K, ID: p.I}, DeadLetter: journal.DeadLetter{Key: p.D}}
	}
	rows, err := o.n.store.DeadLetters(ctx, from, limit)
	if err != nil {
		return nil, "", err
	}
	var out []gateway.ClusterDeadLetter
	for _, r := range rows {
		out = append(out, gateway.ClusterDeadLetter{Tenant: r.Identity.Tenant, KnowledgeBase: r.Identity.ID, Document: r.Key,
			DisplayName: r.Name, Reason: r.Reason, Since: r.Since})
	}
	if len(rows) < limit {
		return out, "", nil
	}
	last := rows[len(rows)-1]
	raw, err := json.Marshal(letterPosition{last.Identity.Tenant, last.Identity.Kind, last.Identity.ID, last.Key})
	return out, base64.RawURLEncoding.EncodeToString(raw), err
}

// DeadLetter implements gateway.Cluster: an operator must not process a document
// again that is well.
func (o *operators) DeadLetter(ctx context.Context, tenant, name, document string) error {
	id := journal.Identity{Tenant: tenant, Kind: actors.KindKB, ID: name}
	before := journal.DeadLetterRow{Identity: id, DeadLetter: journal.DeadLetter{Key: justBefore(document)}}
	rows, err := o.n.store.DeadLetters(ctx, before, 1)
	switch {
	case err != nil:
		return err
	case len(rows) == 0 || rows[0].Identity != id || rows[0].Key != document:
		return kb.Errorf(kb.CodeNotFound, kb.ReasonDeadLetterNotFound, "No document of that name was given up.")
	}
	return nil
}

func clusterMove(m *nodev1.NodeMove) gateway.ClusterMove {
	out := gateway.ClusterMove{Tenant: m.GetTenant(), From: m.GetFrom(), To: m.GetTo()}
	switch m.GetWhy() {
	case "overloaded":
		out.Reason = gateway.MoveOverloaded
	case "sick":
		out.Reason = gateway.MoveSick
	default:
		out.Reason = gateway.MoveHome
	}
	score := func(s *nodev1.NodeScore) *gateway.PlacementScore {
		if s == nil {
			return nil
		}
		return &gateway.PlacementScore{Total: s.GetTotal(), Locality: s.GetLocality(), Headroom: s.GetHeadroom(), Nearness: s.GetNearness()}
	}
	out.FromScore, out.ToScore = score(m.GetFromScore()), score(m.GetToScore())
	return out
}
