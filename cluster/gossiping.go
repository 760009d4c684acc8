package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"granary.dev/granary/cluster/gossip"
	"granary.dev/granary/cluster/protocol"
)

// gossipLeave bounds how long a node takes to say goodbye.
const gossipLeave = 2 * time.Second

// gossiping is gossip under one id of the node. Without it (its port is taken
// for a moment, say) the node works: it only hears later of what happens.
type gossiping struct {
	s *sharing
	g *gossip.Gossip // nil: none
}

func (s *sharing) startGossip(id protocol.NodeID) *gossiping {
	out := &gossiping{s: s}
	defer s.gossip.Store(out)
	c := s.cfg.Gossip
	if c.Bind == "" {
		return out
	}
	for try := 1; ; try++ {
		g, err := gossip.Start(s.ctx, gossip.Config{ID: id.String(), Bind: c.Bind, Advertise: c.Advertise, Join: c.Join, Keys: c.Keys, Cluster: c.Cluster,
			Meta: s.meta(s.node.standing.Load().view.Version, false), Logger: s.log})
		if err == nil {
			out.g = g
			return out
		}
		if errors.Is(err, gossip.ErrConfig) {
			s.ready(fmt.Errorf("%w: %w", ErrConfig, err)) // no later try will do better
		}
		if s.ctx.Err() != nil || try == 5 || errors.Is(err, gossip.ErrConfig) {
			s.log.Error("no gossip", slog.Any("error", err))
			return out
		}
		select {
		case <-time.After(time.Duration(try) * 100 * time.Millisecond):
		case <-s.ctx.Done():
		}
	}
}

func (s *sharing) stopGossip(g *gossiping) {
	if g.g == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), gossipLeave)
	defer cancel()
	if err := g.g.Leave(ctx); err != nil {
		s.log.Debug("gossip was not told of the leave", slog.Any("error", err))
	}
	if err := g.g.Stop(); err != nil {
		s.log.Warn("gossip did not stop well", slog.Any("error", err))
	}
}

// changed is poked when gossip has news; nil without gossip.
func (g *gossiping) changed() <-chan struct{} {
	if g.g == nil {
		return nil
	}
	return g.g.Changed()
}

// tell spreads what this node wants others to know of it.
func (g *gossiping) tell(view int64, draining bool) {
	if g.g != nil {
		g.g.SetMeta(g.s.meta(view, draining))
	}
}

// members gives what gossip knows; nil without gossip.
func (g *gossiping) members() []gossip.Member {
	if g == nil || g.g == nil {
		return nil
	}
	return g.g.Members()
}

func (s *sharing) meta(view int64, draining bool) gossip.Meta {
	var roles []string
	if s.cfg.API != "" {
		roles = append(roles, "gateway")
	}
	if !s.cfg.Routes {
		roles = append(roles, "host")
	}
	return gossip.Meta{Actors: s.addr, API: s.cfg.API, Roles: roles, Zone: s.cfg.Zone, Version: s.cfg.Version,
		Draining: draining, Healthy: s.vitals.healthy(), Load: s.load(), View: view}
}

// hints passes on what gossip says: who may be gone, and who acts on a later view.
func (l *life) hints() {
	view := l.m.View()
	for _, m := range l.gossip.members() {
		if m.Meta.View > view.Version {
			l.s.heard(m.Meta.View)
		}
		id, err := protocol.ParseNodeID(m.ID)
		if err != nil || id == l.id {
			continue
		}
		if member, ok := view.Find(id); ok && member.State.Active() {
			l.step(protocol.Suspected{Node: id, Gone: m.State != gossip.Alive})
		}
	}
}
