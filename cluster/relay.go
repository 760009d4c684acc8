package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"granary.dev/granary/cluster/gossip"
	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/cluster/transport"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// tryAgain is after which time the direct way is tried again.
const tryAgain = 2 * time.Second

// unreached are the members whose direct way failed lately.
type unreached struct {
	mu    sync.RWMutex
	since map[protocol.NodeID]time.Time // when it failed last
}

// note takes down how a call on the direct way went.
func (u *unreached) note(id protocol.NodeID, err error) {
	failed := errors.Is(err, transport.ErrNotSent)
	if !failed && !u.holds(id) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case !failed:
		delete(u.since, id)
	case u.since == nil:
		u.since = map[protocol.NodeID]time.Time{id: time.Now()}
	case time.Since(u.since[id]) > tryAgain:
		u.since[id] = time.Now()
	}
}

func (u *unreached) holds(id protocol.NodeID) bool {
	u.mu.RLock()
	defer u.mu.RUnlock()
	_, ok := u.since[id]
	return ok
}

// lately tells whether the direct way failed a moment ago.
func (u *unreached) lately(id protocol.NodeID) bool {
	u.mu.RLock()
	defer u.mu.RUnlock()
	at, ok := u.since[id]
	return ok && time.Since(at) < tryAgain
}

// keep forgets members that are gone.
func (u *unreached) keep(v protocol.View) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id := range u.since {
		if v.Gone(id) {
			delete(u.since, id)
		}
	}
}

// wayTo gives the address to send a call at: the owner's, or that of some other
// member that sends it on when the owner cannot be reached from here though
// gossip, which asks the others too, has it alive: the network is cut between
// the two of us, and the owner holds its lease.
func (s *sharing) wayTo(now *standing, owner protocol.NodeID) (addr string, relay bool) {
	direct := now.addr(owner)
	if !s.dim.lately(owner) || !s.aliveByGossip(owner) {
		return direct, false
	}
	var others []string
	for i := range now.view.Members {
		m := &now.view.Members[i]
		if m.State.Active() && m.NodeID != owner && m.NodeID != now.self && !s.dim.lately(m.NodeID) {
			others = append(others, m.Addr)
		}
	}
	if len(others) == 0 {
		return direct, false
	}
	return others[rand.IntN(len(others))], true
}

func (s *sharing) aliveByGossip(id protocol.NodeID) bool {
	for _, m := range s.gossip.Load().members() {
		if m.ID == id.String() {
			return m.State == gossip.Alive
		}
	}
	return false
}

// passOn sends a call of another node on to its owner; from there it goes no
// further.
func (s *sharing) passOn(ctx context.Context, c *nodev1.Call, hash uint64, reply func(*nodev1.Reply)) {
	now := s.node.standing.Load()
	owner, ok := now.owner(hash, c.GetTenant())
	if !ok || owner == now.self {
		reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_MOVED})
		return
	}
	s.relayed.Add(1)
	r, err := s.client.Call(ctx, now.addr(owner), &nodev1.Call{Kind: c.GetKind(), Tenant: c.GetTenant(), Grain: c.GetGrain(),
		Request: c.GetRequest(), View: now.view.Version})
	switch {
	case err == nil:
		reply(&nodev1.Reply{Outcome: r.GetOutcome(), Reply: r.GetReply(), Error: r.GetError(), NotApplied: r.GetNotApplied(),
			RetryAfterMicros: r.GetRetryAfterMicros()})
	case errors.Is(err, transport.ErrNotSent):
		reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_MOVED})
	case errors.Is(err, transport.ErrFull):
		reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_BUSY, RetryAfterMicros: hintUnknown.Microseconds()})
	case ctx.Err() != nil:
		reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_EXPIRED})
	default:
		reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_GONE})
	}
}
