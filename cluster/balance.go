package cluster

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"granary.dev/granary/cluster/protocol"
)

const (
	// latencyWeight is how much the newest round trip counts in the average.
	latencyWeight = 0.3
)

// latencies are the averaged round trips to other nodes.
type latencies struct {
	mu sync.Mutex
	of map[protocol.NodeID]time.Duration
}

func (l *latencies) note(id protocol.NodeID, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = make(map[protocol.NodeID]time.Duration)
	}
	was, ok := l.of[id]
	if !ok {
		was = took
	}
	l.of[id] = was + time.Duration(latencyWeight*float64(took-was))
}

func (l *latencies) get(id protocol.NodeID) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of[id]
}

// keep forgets nodes that are no active members.
func (l *latencies) keep(v protocol.View) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.of {
		if v.Gone(id) {
			delete(l.of, id)
		}
	}
}

// relieve relocates a few tenants when this node is sick or overloaded, or when
// its guests can go home. Not soon after the view changed: what the load is then
// shows only in a while.
func (s *sharing) relieve(now *standing) {
	load := s.shares()
	if !now.serving || now.view.Moving() || s.vitals.healthy() && time.Since(s.changedAt()) < s.cfg.Settle {
		return
	}
	for _, m := range s.plan(now, load, movesAtOnce, s.cfg.CoolDown) {
		s.log.Info("a tenant is relocated", slog.String("tenant", m.Tenant), slog.String("to", m.To), slog.String("why", m.Why))
		if err := s.carryOut(s.ctx, m); err != nil {
			s.log.Warn("a tenant was not relocated", slog.String("tenant", m.Tenant), slog.Any("error", err))
		}
	}
}

// balance looks at the cluster every few seconds: how far the others are, how
// this node is, and whether some of its tenants should live elsewhere.
func (s *sharing) balance() {
	t := time.NewTicker(s.cfg.BalanceEvery)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		s.vitals.look(len(s.problems()) > 0)
		now := s.node.standing.Load()
		if g := s.gossip.Load(); g != nil {
			g.tell(now.view.Version, s.phase() == "parting")
		}
		s.measure(now)
		s.relieve(now)
	}
}

// measure takes the round trips to the other members.
func (s *sharing) measure(now *standing) {
	s.far.keep(now.view)
	s.dim.keep(now.view)
	var all sync.WaitGroup
	for i := range now.view.Members {
		m := now.view.Members[i]
		if !m.State.Active() || m.NodeID == now.self {
			continue
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeout(s.ctx, adminTimeout)
			defer cancel()
			start := time.Now()
			if _, err := s.ping(ctx, m.Addr, now.id, now.view.Version, ""); err != nil {
				s.far.note(m.NodeID, adminTimeout) // far indeed
				return
			}
			s.far.note(m.NodeID, time.Since(start))
		})
	}
	all.Wait()
}
