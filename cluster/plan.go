package cluster

import (
	"context"
	"strings"
	"time"

	"granary.dev/granary/cluster/protocol"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

const (
	movesAtOnce = 2               // tenants a node relocates in one look
	coolDown    = 2 * time.Minute // how long a tenant stays where it came
	// rebalanceMost is how many a node relocates when an operator asks for it.
	rebalanceMost = 20
)

// shares measures how much of the node's load each of its tenants makes: by the
// calls its grains took since the last look.
func (s *sharing) shares() map[string]float64 {
	calls, total := make(map[string]float64), 0.0
	s.node.registry.each(func(a *activation) {
		a.mu.Lock()
		n := float64(a.served - a.counted)
		a.counted = a.served
		a.mu.Unlock()
		calls[a.id.Tenant] += n
		total += n
	})
	load := s.vitals.load()
	for tenant, n := range calls {
		if total > 0 {
			calls[tenant] = load * n / total
		}
	}
	s.lastShares.Store(&calls)
	return calls
}

// plan asks the rules which tenants should leave this node.
func (s *sharing) plan(now *standing, shares map[string]float64, most int, stay time.Duration) []protocol.Move {
	in := protocol.PlanInput{Node: s.node.cfg.Name, Candidates: s.candidates(now), Most: most, CoolDown: stay}
	for tenant, load := range shares {
		id := Identity{Kind: s.cfg.TenantKind, Tenant: tenant, ID: tenant}
		h := protocol.Hosted{Tenant: tenant, Load: load, Placed: time.Since(now.tenures.Of(id).CommittedAt),
			Locality: map[string]float64{in.Node: 1}}
		if now.place.Overridden(tenant) {
			if home, ok := now.place.Home(id.Hash()); ok {
				h.Home = home.Name
			}
		}
		in.Tenants = append(in.Tenants, h)
	}
	return protocol.PlanMoves(in)
}

// candidates are the live members as gossip describes them. One that gossip does
// not know counts as sick.
func (s *sharing) candidates(now *standing) []protocol.Candidate {
	told := make(map[string]*protocol.Candidate)
	for _, m := range s.gossip.Load().members() {
		if !m.State.Gone() {
			told[m.ID] = &protocol.Candidate{Healthy: m.Meta.Healthy, Load: m.Meta.Load}
		}
	}
	var out []protocol.Candidate
	for i := range now.view.Members {
		m := &now.view.Members[i]
		if m.State != protocol.Live {
			continue
		}
		c := protocol.Candidate{Node: m.Name, Latency: s.far.get(m.NodeID)}
		if t := told[m.NodeID.String()]; t != nil {
			c.Healthy, c.Load = t.Healthy, t.Load
		}
		if m.NodeID == now.self {
			c.Healthy, c.Load = s.vitals.healthy(), s.vitals.load()
		}
		out = append(out, c)
	}
	return out
}

// carryOut relocates one tenant.
func (s *sharing) carryOut(ctx context.Context, m protocol.Move) error {
	to := m.To
	if m.Back {
		to = ""
	}
	ctx, cancel := context.WithTimeout(ctx, relocateTime)
	defer cancel()
	return s.relocate(ctx, m.Tenant, to)
}

// relocateTime bounds how long the view may take to say so.
const relocateTime = 10 * time.Second

// Rebalance has every member look at its tenants and relocate those that should
// live elsewhere; with dryRun they only say what they would do.
func (n *Node) Rebalance(ctx context.Context, dryRun bool) ([]*nodev1.NodeMove, error) {
	if n.shared == nil {
		return nil, ErrLone
	}
	v := n.standing.Load().view
	var moves []*nodev1.NodeMove
	for i := range v.Members {
		if v.Members[i].State != protocol.Live {
			continue
		}
		r, err := n.adminOn(ctx, v.Members[i].Name, &nodev1.AdminRequest{Operation: &nodev1.AdminRequest_Rebalance{
			Rebalance: &nodev1.RebalanceNode{DryRun: dryRun}}})
		if err != nil {
			return moves, err
		}
		moves = append(moves, r.GetMoves().GetMoves()...)
	}
	return moves, nil
}

// rebalance is one node's part of it, without waiting for anything to settle.
func (n *Node) rebalance(ctx context.Context, dryRun bool) (*nodev1.NodeMoves, error) {
	s := n.shared
	if s == nil {
		return nil, ErrLone
	}
	now, shares := n.standing.Load(), s.lastShares.Load()
	out := &nodev1.NodeMoves{}
	if !now.serving || shares == nil {
		return out, nil
	}
	for _, m := range s.plan(now, *shares, rebalanceMost, 0) {
		if !dryRun {
			if err := s.carryOut(ctx, m); err != nil {
				return out, err
			}
		}
		out.Moves = append(out.Moves, &nodev1.NodeMove{Tenant: m.Tenant, From: m.From, To: m.To, Why: strings.ToLower(m.Why),
			FromScore: nodeScore(m.FromScore), ToScore: nodeScore(m.ToScore)})
	}
	return out, nil
}

func nodeScore(s protocol.Score) *nodev1.NodeScore {
	return &nodev1.NodeScore{Total: s.Total, Locality: s.Locality, Headroom: s.Headroom, Nearness: s.Nearness}
}
