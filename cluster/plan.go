package cluster

import (
	"context"
	"math"
	"strings"
	"time"

	"granary.dev/granary/cluster/protocol"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

const (
	movesAtOnce = 2 // tenants a node relocates in one look
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
	load := s.load()
	for tenant, n := range calls {
		if total > 0 {
			calls[tenant] = load * n / total
		}
	}
	s.lastShares.Store(&calls)
	return calls
}

// load is how loaded this node is.
func (s *sharing) load() float64 {
	if s.cfg.Load != nil {
		return s.cfg.Load()
	}
	return s.vitals.load()
}

// plan asks the rules which tenants should leave this node.
func (s *sharing) plan(now *standing, shares map[string]float64, most int, stay time.Duration) []protocol.Move {
	in := protocol.PlanInput{Node: s.node.cfg.Name, Candidates: s.candidates(now), Most: most, CoolDown: stay}
	homes := s.homes(now, in.Candidates)
	idle := ""
	for tenant, load := range shares {
		o, guest := now.view.Override(tenant)
		if guest && !o.Auto && s.vitals.healthy() {
			continue // an operator wants it here
		}
		id := Identity{Kind: s.cfg.TenantKind, Tenant: tenant, ID: tenant}
		in.Tenants = append(in.Tenants, protocol.Hosted{Tenant: tenant, Home: homes[tenant], Load: load,
			Placed: time.Since(now.tenures.Of(id).CommittedAt), Locality: map[string]float64{in.Node: 1}})
		if guest && homes[tenant] == "" && in.Tenants[len(in.Tenants)-1].Placed >= stay {
			idle = tenant
		}
	}
	moves := protocol.PlanMoves(in)
	if len(moves) == 0 && idle != "" {
		// All it has in memory would be here by the table too: the override does
		// nothing any more.
		moves = append(moves, protocol.Move{Tenant: idle, From: in.Node, To: in.Node, Back: true, Why: protocol.WhyHome})
	}
	return moves
}

// homes gives for each tenant that an override has brought here the node that
// would feel it most if the tenant went home: the most loaded of those where the
// table has one of its active grains. A tenant has grains on many nodes by the table.
func (s *sharing) homes(now *standing, all []protocol.Candidate) map[string]string {
	load := make(map[string]float64, len(all))
	for _, c := range all {
		load[c.Node] = c.Load
		if !c.Healthy {
			load[c.Node] = math.Inf(1)
		}
	}
	out := make(map[string]string)
	s.node.registry.each(func(a *activation) {
		if o, guest := now.view.Override(a.id.Tenant); !guest || !o.Auto {
			return
		}
		home, ok := now.place.Home(a.hash)
		if was := out[a.id.Tenant]; ok && home.Name != s.node.cfg.Name && (was == "" || load[home.Name] > load[was]) {
			out[a.id.Tenant] = home.Name
		}
	})
	return out
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
		if t := told[m.String()]; t != nil {
			c.Healthy, c.Load = t.Healthy, t.Load
		}
		if m.NodeID == now.self {
			c.Healthy, c.Load = s.vitals.healthy(), s.load()
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
	return s.relocate(ctx, protocol.Relocate{Tenant: m.Tenant, Node: to, Auto: true})
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
