package cluster

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"granary.dev/granary/cluster/protocol"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// What an operator asks of one node, from whichever node he is connected to.

// Drain has the node of that name give its share away and leave the cluster; it
// returns when that has begun. Errors: [ErrLone], [ErrNoNode], [ErrNodeState], or
// the network's.
func (n *Node) Drain(ctx context.Context, node string) error {
	_, err := n.adminOn(ctx, node, &nodev1.AdminRequest{Operation: &nodev1.AdminRequest_Drain{Drain: &nodev1.DrainNode{}}})
	return err
}

// Describe tells how the node of that name is. Errors as of [Node.Drain].
func (n *Node) Describe(ctx context.Context, node string) (*nodev1.NodeDescription, error) {
	r, err := n.adminOn(ctx, node, &nodev1.AdminRequest{Operation: &nodev1.AdminRequest_Describe{Describe: &nodev1.DescribeNode{}}})
	return r.GetDescription(), err
}

// ActivationsOn lists up to limit grains active on the node of that name, in the
// order of their identities, those behind after ("" = from the start), only of
// one tenant unless that is "". Errors as of [Node.Drain].
func (n *Node) ActivationsOn(ctx context.Context, node, after, tenant string, limit int) (*nodev1.NodeActivations, error) {
	r, err := n.adminOn(ctx, node, &nodev1.AdminRequest{Operation: &nodev1.AdminRequest_ListActivations{
		ListActivations: &nodev1.ListNodeActivations{After: after, Tenant: tenant, Limit: int32(min(limit, maxActivations))}}})
	return r.GetActivations(), err
}

const maxActivations = 10_000

func (n *Node) adminOn(ctx context.Context, node string, r *nodev1.AdminRequest) (*nodev1.AdminResponse, error) {
	if n.shared == nil || node == n.cfg.Name {
		return n.serveAdmin(ctx, r)
	}
	addr, ok := n.shared.addrOf(node)
	if !ok {
		return nil, ErrNoNode
	}
	return n.shared.admin(ctx, addr, r)
}

// addrOf finds a node by name: a member, or one that gossip knows of and that
// takes no share.
func (s *sharing) addrOf(node string) (string, bool) {
	m, ok := s.node.standing.Load().view.Named(node)
	if ok && m.State.Active() {
		return m.Addr, true
	}
	for _, g := range s.gossip.Load().members() {
		if id, err := protocol.ParseNodeID(g.ID); err == nil && id.Name == node && !g.State.Gone() {
			return g.Meta.Actors, true
		}
	}
	return "", false
}

func (s *sharing) admin(ctx context.Context, addr string, r *nodev1.AdminRequest) (*nodev1.AdminResponse, error) {
	out, err := s.client.Admin(ctx, addr, r)
	if err != nil {
		return nil, err
	}
	if e := out.GetError(); e != nil {
		return nil, &Error{Reason: e.GetReason()}
	}
	return out, nil
}

// Admin serves what another node was asked by an operator.
func (h *server) Admin(ctx context.Context, r *nodev1.AdminRequest) (*nodev1.AdminResponse, error) {
	out, err := h.node.serveAdmin(ctx, r)
	if e, ok := errors.AsType[*Error](err); ok {
		return &nodev1.AdminResponse{Result: &nodev1.AdminResponse_Error{Error: &nodev1.Error{Reason: e.Reason}}}, nil
	}
	return out, err
}

func (n *Node) serveAdmin(ctx context.Context, r *nodev1.AdminRequest) (*nodev1.AdminResponse, error) {
	switch op := r.GetOperation().(type) {
	case *nodev1.AdminRequest_ListActivations:
		return &nodev1.AdminResponse{Result: &nodev1.AdminResponse_Activations{Activations: n.listActivations(op.ListActivations)}}, nil
	case *nodev1.AdminRequest_Describe:
		return &nodev1.AdminResponse{Result: &nodev1.AdminResponse_Description{Description: n.description()}}, nil
	case *nodev1.AdminRequest_Rebalance:
		moves, err := n.rebalance(ctx, op.Rebalance.GetDryRun())
		if err != nil {
			return nil, err
		}
		return &nodev1.AdminResponse{Result: &nodev1.AdminResponse_Moves{Moves: moves}}, nil
	case *nodev1.AdminRequest_Drain:
		if err := n.beginDrain(); err != nil {
			return nil, err
		}
	case *nodev1.AdminRequest_Relocate:
		if err := n.Relocate(ctx, op.Relocate.GetTenant(), op.Relocate.GetNode()); err != nil {
			return nil, err
		}
	default:
		return nil, &Error{Reason: ReasonMalformed}
	}
	return &nodev1.AdminResponse{Result: &nodev1.AdminResponse_Done{Done: &nodev1.Done{}}}, nil
}

// beginDrain lets the node leave; to ask again changes nothing.
func (n *Node) beginDrain() error {
	switch {
	case n.shared == nil:
		return ErrLone
	case n.shared.cfg.Routes:
		return ErrNodeState // it has nothing to give away
	}
	n.shared.draining.Do(func() { close(n.shared.drain) })
	return nil
}

func (n *Node) listActivations(r *nodev1.ListNodeActivations) *nodev1.NodeActivations {
	type entry struct {
		key string
		ActivationInfo
	}
	limit := int(r.GetLimit())
	if limit <= 0 || limit > maxActivations {
		limit = maxActivations
	}
	var all []entry
	n.eachActivation(func(i ActivationInfo) {
		if r.GetTenant() != "" && i.Identity.Tenant != r.GetTenant() {
			return
		}
		if key := i.Identity.String(); key > r.GetAfter() {
			all = append(all, entry{key, i})
		}
	})
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	out := &nodev1.NodeActivations{More: len(all) > limit}
	for _, e := range all[:min(limit, len(all))] {
		out.Activations = append(out.Activations, &nodev1.NodeActivation{Kind: e.Identity.Kind, Tenant: e.Identity.Tenant, Grain: e.Identity.ID,
			Since: timestamppb.New(e.Since), IdleMillis: e.Idle.Milliseconds(), Queued: int32(e.Queued), Pending: int32(e.Pending),
			Served: e.Served, Stopping: e.Stopping || e.Moving})
	}
	return out
}

func (n *Node) description() *nodev1.NodeDescription {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	out := &nodev1.NodeDescription{Node: n.Self().String(), Started: timestamppb.New(n.epoch), Activations: n.alive.Load(),
		Goroutines: int64(runtime.NumGoroutine()), HeapBytes: int64(mem.HeapAlloc), Healthy: true, Phase: "inside", LeaseValid: true}
	s := n.shared
	if s == nil {
		return out
	}
	now := n.standing.Load()
	lease := s.lease.Load()
	out.Version, out.View, out.Phase = s.cfg.Version, now.view.Version, s.phase()
	if out.LeaseValid = lease.Valid(bootClock(), s.cfg.Timing); lease.Held {
		out.LeaseAgeMillis = (bootClock() - lease.Sent).Milliseconds()
	}
	out.Load, out.Pending = s.load(), s.pending.Load()
	out.Lapses, out.Evictions = s.lapses.Load(), s.evictions.Load()
	out.Problems = s.problems()
	out.Healthy = len(out.GetProblems()) == 0
	return out
}

// problems is what is wrong with this node.
func (s *sharing) problems() []string {
	p := slices.Clone(s.cfg.Problems())
	if s.phase() == "inside" && !s.lease.Load().Valid(bootClock(), s.cfg.Timing) {
		p = append(p, "the lease does not hold")
	}
	return p
}

// phase names where the node stands.
func (s *sharing) phase() string {
	switch now := s.node.standing.Load(); {
	case s.cfg.Routes:
		return "routing"
	case s.life.Load() == nil:
		return "over"
	case now.serving:
		return "inside"
	case s.gossip.Load() != nil && now.view.Version > 0:
		if m, ok := now.view.Find(now.self); ok && m.State.Active() {
			return "parting"
		}
	}
	return "outside"
}

// forgetGone drops the connections to members that are gone, which fails what
// waits on them at once.
func (s *sharing) forgetGone(before, now protocol.View) {
	for i := range before.Members {
		m := &before.Members[i]
		if m.State.Active() && now.Gone(m.NodeID) {
			if again, ok := now.Named(m.Name); ok && again.State.Active() && again.Addr == m.Addr {
				continue // its next life listens there
			}
			s.client.Forget(m.Addr)
		}
	}
}

// adminTimeout bounds what is asked of another node in passing.
const adminTimeout = 2 * time.Second
