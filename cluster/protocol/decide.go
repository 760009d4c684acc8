package protocol

import (
	"slices"
	"time"
)

// decide proposes at most one change of the view. Only a node whose lease holds
// proposes: it has just seen the store's view.
func (n *Node) decide(now time.Duration, out *outputs) {
	if n.swapping.open() || n.stale || !n.lease.Valid(now, n.cfg.Timing) {
		return
	}
	if n.bury(now, out) {
		return
	}
	switch n.phase {
	case Outside:
		n.join(now, out)
	case Inside:
		if n.drain(now, out) || n.advance(now, out) {
			return
		}
		n.relocate(now, out)
	case Parting:
		if n.stopped && n.pending == 0 || now-n.partedAt >= n.cfg.Timing.DrainTimeout {
			n.swap(now, out, propose(n.view.Leave(n.cfg.Self)))
		}
	}
}

// proposal is a changed view, or why there is none.
type proposal struct {
	view View
	err  error
}

func propose(v View, err error) proposal { return proposal{v, err} }

func (n *Node) swap(now time.Duration, out *outputs, p proposal) bool {
	if p.err != nil {
		return false
	}
	n.wishing = false
	n.calls++
	n.swapping = call{id: n.calls, sent: now}
	out.add(SwapView{Call: n.calls, Next: p.view})
	return true
}

// bury gives members up whose leases have expired. A node whose own renewals
// failed of late must not: the store may have been away for everyone, and the
// others need a chance to renew too.
func (n *Node) bury(now time.Duration, out *outputs) bool {
	gone := n.survey.Expired
	if at := slices.Index(gone, n.cfg.Self); at >= 0 {
		gone = slices.Delete(slices.Clone(gone), at, at+1)
	}
	if len(gone) == 0 {
		n.done(needBury)
		return false
	}
	if now-n.lease.Steady < n.cfg.Timing.TTL || !n.myTurn(now, needBury) {
		return false
	}
	return n.swap(now, out, propose(n.view.MarkDead(gone)))
}

// join asks all members whose leases hold for the way there and back first: a
// member that others cannot reach would own grains nobody can call.
func (n *Node) join(now time.Duration, out *outputs) {
	if n.draining {
		n.end(nil, out) // it owns nothing yet
		return
	}
	if now < n.retryAt {
		return
	}
	next, err := n.view.Join(Member{NodeID: n.cfg.Self, Addr: n.cfg.Addr, Zone: n.cfg.Zone}, n.cfg.Fingerprint)
	if err != nil {
		n.refuse(now, out, err)
		return
	}
	peers := n.peers()
	if !n.probing {
		n.probing, n.answers = true, nil
		if len(peers) > 0 {
			n.askedAt = now
			out.add(Probe{Peers: peers})
			return
		}
	}
	for _, p := range peers {
		switch a, ok := n.answer(p); {
		case ok && a.Out && a.In:
		case ok || now-n.askedAt >= n.cfg.Timing.CallTimeout:
			n.refuse(now, out, ErrUnreachable)
			return
		default:
			return // not answered yet
		}
	}
	n.probing = false
	n.swap(now, out, proposal{view: next})
}

func (n *Node) refuse(now time.Duration, out *outputs, why error) {
	n.probing = false
	n.retryAt = now + n.cfg.Timing.RenewEvery
	out.add(JoinRefused{Why: why})
}

// peers are the active members whose leases hold.
func (n *Node) peers() []NodeID {
	var ids []NodeID
	for i := range n.view.Members {
		if m := &n.view.Members[i]; m.State.Active() && !slices.Contains(n.survey.Expired, m.NodeID) {
			ids = append(ids, m.NodeID)
		}
	}
	return ids
}

func (n *Node) probed(in Probed) {
	if n.probing {
		n.answers = append(slices.Clone(n.answers), in)
	}
}

func (n *Node) answer(peer NodeID) (Probed, bool) {
	for _, a := range n.answers {
		if a.Peer == peer {
			return a, true
		}
	}
	return Probed{}, false
}

// drain takes this node out, step by step. It reports whether it proposed or
// announced something.
func (n *Node) drain(now time.Duration, out *outputs) bool {
	m, ok := n.view.Find(n.cfg.Self)
	if !n.draining || !ok {
		return false
	}
	switch m.State {
	case Live:
		if n.sole() { // there is nobody to give anything to, round by round
			n.phase, n.partedAt = Parting, now
			out.add(Leaving{})
			return true
		}
		return n.swap(now, out, propose(n.view.Drain(n.cfg.Self)))
	case Draining:
		if n.view.Round < Rounds || n.pending > 0 && now-n.partedAt < n.cfg.Timing.DrainTimeout {
			return false
		}
		n.phase, n.partedAt = Parting, now
		out.add(Leaving{})
		return true
	}
	return false
}

// sole tells whether this node is the only active member.
func (n *Node) sole() bool {
	for i := range n.view.Members {
		if m := &n.view.Members[i]; m.State.Active() && m.NodeID != n.cfg.Self {
			return false
		}
	}
	return true
}

// advance starts the next round when the last has settled, or has had its time:
// whoever waits for a grain of it may take it one TTL after the view, and must
// get to it before the next view makes that wait begin again.
func (n *Node) advance(now time.Duration, out *outputs) bool {
	ttl := n.cfg.Timing.TTL
	over := n.survey.Settled || n.survey.Age+now-n.surveyed >= ttl+ttl/2
	next, err := n.view.Advance()
	if err != nil || !over {
		n.done(needAdvance)
		return false
	}
	return n.myTurn(now, needAdvance) && n.swap(now, out, proposal{view: next})
}

// relocate serves the oldest wish. It is done with the first view that has it:
// two nodes that wish otherwise must not go on forever.
func (n *Node) relocate(now time.Duration, out *outputs) {
	if len(n.wishes) == 0 {
		return
	}
	w := n.wishes[0]
	next, err := n.view.Place(Override(w))
	if err == nil {
		n.wishing = n.swap(now, out, proposal{view: next})
		return
	}
	n.wishes = n.wishes[1:]
	out.add(RelocateRefused{Relocate: w, Why: err}) // unchanged, too: nothing else tells who waits
}

// myTurn spreads work that every member sees at the same time: the first member
// by name whom nobody suspects does it at once, the next one half a renewal
// later if it is still there, and so on. The compare-and-swap makes it safe; this
// only makes it quiet.
func (n *Node) myTurn(now time.Duration, what need) bool {
	if !n.needed[what] {
		n.needed[what], n.since[what] = true, now
	}
	rank := 0
	for _, p := range n.peers() {
		if p == n.cfg.Self {
			break
		}
		if _, suspect := slices.BinarySearch(n.suspects, p.Name); !suspect {
			rank++
		}
	}
	return now-n.since[what] >= min(time.Duration(rank)*n.cfg.Timing.RenewEvery/2, n.cfg.Timing.TTL)
}

func (n *Node) done(what need) { n.needed[what] = false }
