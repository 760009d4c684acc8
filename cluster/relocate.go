package cluster

import (
	"context"
	"errors"
	"slices"

	"granary.dev/granary/cluster/protocol"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// Relocate places a tenant on the node of that name, whatever the partition
// table says; "" gives it back to the table. It returns when the view says so.
// Errors: [ErrLone], [ErrNoNode], [ErrNodeState], or the store's or network's.
func (n *Node) Relocate(ctx context.Context, tenant, node string) error {
	if n.shared == nil {
		return ErrLone
	}
	return n.shared.relocate(ctx, protocol.Relocate{Tenant: tenant, Node: node})
}

func (s *sharing) relocate(ctx context.Context, want protocol.Relocate) error {
	node := want.Node
	v := s.node.standing.Load().view
	if node != "" {
		switch m, ok := v.Named(node); {
		case !ok:
			return ErrNoNode
		case m.State != protocol.Live:
			return ErrNodeState
		}
	}
	l := s.life.Load()
	if l == nil {
		return s.relocateThere(ctx, v, want)
	}
	r := relocation{Relocate: want, done: make(chan error, 1)}
	select {
	case l.wishes <- r:
	case <-l.ctx.Done():
		return ErrNodeState
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// relocateThere has a member propose it, since this node is none.
func (s *sharing) relocateThere(ctx context.Context, v protocol.View, want protocol.Relocate) error {
	for i := range v.Members {
		if m := &v.Members[i]; m.State == protocol.Live {
			_, err := s.admin(ctx, m.Addr, &nodev1.AdminRequest{Operation: &nodev1.AdminRequest_Relocate{
				Relocate: &nodev1.RelocateTenant{Tenant: want.Tenant, Node: want.Node}}})
			return err
		}
	}
	return ErrNodeState
}

// relocated answers who waits for a relocation that the view has now.
func (l *life) relocated(v protocol.View, w relocation) {
	if o, _ := v.Override(w.Tenant); o.Node == w.Node {
		l.settleRelocation(w.Relocate, nil)
	}
}

// settleRelocation answers everybody who waits for this one. That the view says
// so already is what was asked for.
func (l *life) settleRelocation(done protocol.Relocate, err error) {
	switch {
	case errors.Is(err, protocol.ErrUnchanged):
		err = nil
	case err != nil:
		err = ErrNodeState
	}
	l.waits = slices.DeleteFunc(l.waits, func(w relocation) bool {
		if w.Relocate != done {
			return false
		}
		w.done <- err
		return true
	})
}
