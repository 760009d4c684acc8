package sim

import (
	"errors"
	"strconv"
	"time"

	"granary.dev/granary/cluster/protocol"
)

const (
	fingerprint  = "rules-1"
	foreign      = "rules-2" // of a node that must never get in
	tickEvery    = 200 * time.Millisecond
	storeTimeout = 1500 * time.Millisecond // of a grain's statements
	lateAnswers  = 3 * time.Second         // how long answers to a node's own calls may still come
	scanEvery    = 5                       // ticks between two looks at the wake-ups
)

// node drives one [protocol.Node] and hosts the grains of its process.
type node struct {
	w    *world
	slot int
	name string

	up       bool
	left     bool // it went on purpose
	draining bool
	boot     int
	bootID   string
	m        protocol.Node
	place    *protocol.Placement
	grains   [maxKeys]grain
	tenures  *protocol.Tenures
	follows  int64 // version the tenures were told
	reported int   // grains pending, -1 if the machine waits for the number

	stoppedUntil time.Duration
	slept        time.Duration // all the time it was stopped
	offset       time.Duration // its clock's start
	rate         float64       // its clock's speed
	ticks        int
	fingerprint  string

	receipt time.Duration // when the last renewal was answered
	alive   [slots]bool   // gossip's belief
}

func newNode(w *world, slot int) *node {
	n := &node{w: w, slot: slot, name: "n" + strconv.Itoa(slot+1), fingerprint: fingerprint,
		offset: w.between(time.Hour, 100*time.Hour), rate: 1 + w.cfg.drift*(2*w.rng.Float64()-1)}
	for k := range n.grains {
		n.grains[k] = grain{n: n, k: k}
	}
	return n
}

// String is the node's id.
func (n *node) String() string { return n.name + "#" + n.bootID }

func (n *node) id() protocol.NodeID { return protocol.NodeID{Name: n.name, Boot: n.bootID} }

// clock is the node's own.
func (n *node) clock() time.Duration {
	t := n.w.now
	if n.w.rules.ClockStops {
		t -= n.slept
	}
	return n.offset + time.Duration(float64(t)*n.rate)
}

// boot0 starts a new life without letting it act yet.
func (n *node) boot0() {
	w := n.w
	n.up, n.left, n.draining = true, false, false
	n.boot++
	n.bootID = w.newBoot()
	n.stoppedUntil = 0
	n.place = w.store.places[0]
	n.tenures = (*protocol.Tenures)(nil).Follow(protocol.View{}, n.place)
	n.reported = 0
	n.receipt = 0
	n.follows = 0
	n.alive = [slots]bool{}
	n.alive[n.slot] = true
	for k := range n.grains {
		n.grains[k].reset()
	}
	m, err := protocol.NewNode(protocol.NodeConfig{Self: n.id(), Addr: n.name, Fingerprint: n.fingerprint, Timing: w.cfg.timing}, n.clock())
	if err != nil {
		w.fail("node: %v", err)
	}
	n.m = m
}

func (n *node) restart() {
	if n.up {
		return
	}
	n.fingerprint = fingerprint
	if !n.w.healed && n.w.chance(0.02) {
		n.fingerprint = foreign
		n.w.after(2*time.Second, nil, func() { n.w.crash(n) })
	}
	n.boot0()
	n.w.log("%s starts", n)
	n.tick()
}

func (n *node) tick() {
	w := n.w
	n.w.after(tickEvery-w.upTo(20*time.Millisecond), n, n.tick)
	n.ticks++
	if n.ticks%2 == 0 {
		n.gossip()
	}
	n.step(protocol.Tick{})
	if n.up && n.ticks%scanEvery == 0 && w.store.anyWake() {
		n.scanWakeups()
	}
}

// gossip pings one other node. What it learns is a hint.
func (n *node) gossip() {
	w := n.w
	p := w.nodes[w.rng.IntN(len(w.nodes))]
	if p == n {
		return
	}
	ok := p.up && p.stoppedUntil <= w.now && w.links.open(n, p) && w.links.open(p, n)
	n.alive[p.slot] = ok
	view := n.m.View()
	if ok {
		n.step(protocol.Newer{Version: p.view().Version})
	}
	if m, known := view.Named(p.name); known && m.State.Active() {
		n.step(protocol.Suspected{Node: m.NodeID, Gone: !ok})
		if w.rules.EvictOnSuspicion && !ok {
			if next, err := view.MarkDead([]protocol.NodeID{m.NodeID}); err == nil {
				n.swap(protocol.SwapView{Next: next})
			}
		}
	}
	if w.rules.GossipPlacement {
		n.placeByGossip()
	}
}

func (n *node) view() protocol.View { return n.m.View() }

// step feeds the machine and carries out what it wants.
func (n *node) step(in protocol.Input) {
	next, out := n.m.Step(n.clock(), in)
	n.m = next
	for _, o := range out {
		switch o := o.(type) {
		case protocol.RenewLease:
			n.renew(o)
		case protocol.SwapView:
			n.swap(o)
		case protocol.Probe:
			n.probe(o.Peers)
		case protocol.ViewChanged:
			n.viewChanged(o.View)
		case protocol.Lapsed:
			n.w.stats.Lapses++
		case protocol.Leaving:
			n.w.log("%s leaves", n)
			for k := range n.grains {
				n.grains[k].leave()
			}
			n.reported = -1
			n.report()
		case protocol.Ended:
			n.ended(o.Why)
		case protocol.JoinRefused:
			n.w.stats.Refused++
		}
	}
}

func (n *node) renew(o protocol.RenewLease) {
	w := n.w
	if w.rules.SeenBeforeActing {
		o.Seen, o.Pending = 1<<40, 0
	}
	in := protocol.Renewed{Call: o.Call}
	var err error
	exec := func() { in.View, in.Survey, err = w.store.renew(o.RenewRequest) }
	n.request(lateAnswers, nil, exec, func(res outcome) {
		switch {
		case res == silent: // the machine gave up long ago
		case res == refused || err != nil:
			n.step(protocol.RenewFailed{Call: o.Call, Final: errors.Is(err, protocol.ErrFinal)})
		default:
			n.receipt = n.clock()
			n.step(in)
		}
	})
}

func (n *node) swap(o protocol.SwapView) {
	w, by := n.w, n.id()
	var v protocol.View
	var err error
	if w.tracing() {
		w.log("%s proposes view %d round %d %s", n, o.Next.Version, o.Next.Round, describe(o.Next))
	}
	exec := func() { v, err = w.store.swap(o.Next, by) }
	n.request(lateAnswers, nil, exec, func(res outcome) {
		switch {
		case res == silent:
		case res == refused || err != nil:
			n.step(protocol.SwapFailed{Call: o.Call})
		default:
			n.step(protocol.Swapped{Call: o.Call, View: v})
		}
	})
}

func (n *node) probe(peers []protocol.NodeID) {
	w := n.w
	for _, id := range peers {
		for _, p := range w.nodes {
			if p.name != id.Name || p.bootID != id.Boot {
				continue
			}
			w.links.send(n, p, func() {
				w.links.send(p, n, func() { n.step(protocol.Probed{Peer: id, Out: true, In: true}) })
			})
		}
	}
}

func (n *node) viewChanged(v protocol.View) {
	w := n.w
	w.check.viewSeen(n, v)
	if w.tracing() {
		w.log("%s sees view %d", n, v.Version)
	}
	if w.rules.GossipPlacement {
		return
	}
	n.place = w.store.placement(v)
	if w.rules.TenureOverGaps && n.follows > 0 {
		v.Version = n.follows + 1
	}
	n.follows = v.Version
	n.tenures = n.tenures.Follow(v, n.place)
	n.reported = -1
	n.placed()
}

// placed hands over what is not placed here any more.
func (n *node) placed() {
	for k := range n.grains {
		if g := &n.grains[k]; !n.owns(k) {
			g.leave()
		}
	}
	n.report()
}

// owns tells whether the node's own view gives it the grain.
func (n *node) owns(k int) bool {
	o, ok := n.place.Owner(identity(k))
	return ok && o.Name == n.name && o.Boot == n.bootID
}

// report tells the machine how many grains wait to be handed over.
func (n *node) report() {
	if n.m.Phase() == protocol.Over {
		return
	}
	c, all := 0, n.m.Phase() == protocol.Parting
	for k := range n.grains {
		if g := &n.grains[k]; g.holds() && (all || !n.owns(k)) {
			c++
		}
	}
	if c != n.reported {
		n.reported = c
		n.step(protocol.Pending{View: n.place.Version(), Grains: c, All: all})
	}
}

// ended is the end of this life.
func (n *node) ended(why error) {
	w := n.w
	n.up = false
	if why == nil {
		w.log("%s has left", n)
		n.left = true
		w.stats.Drains++
		if w.chance(0.5) {
			w.after(w.between(500*time.Millisecond, 3*time.Second), nil, n.restart)
		}
		return
	}
	w.log("%s learns that it was given up", n)
	w.after(w.between(50*time.Millisecond, 500*time.Millisecond), nil, n.restart)
}

// placeByGossip is what a cluster without a view would do.
func (n *node) placeByGossip() {
	v := protocol.View{Version: 1}
	for i, p := range n.w.nodes {
		if n.alive[i] {
			v.Members = append(v.Members, protocol.Member{NodeID: p.id(), State: protocol.Live})
		}
	}
	place, err := protocol.NewPlacement(v, n.w.bench.tables)
	if err == nil {
		n.place = place
		n.placed()
	}
}

// lease is what reads are decided by.
func (n *node) lease() protocol.Lease {
	l := n.m.Lease()
	if n.w.rules.LeaseFromReceipt && n.m.Phase() == protocol.Inside && n.receipt > 0 {
		return protocol.Lease{Held: true, Sent: n.receipt}
	}
	return l
}

// scanWakeups finds unfinished work: its own is done, and what others should
// have done long ago is sent to them.
func (n *node) scanWakeups() {
	w := n.w
	var due, overdue [maxKeys]bool
	exec := func() {
		for k := range w.cfg.keys {
			due[k], overdue[k] = w.store.due(k)
		}
	}
	n.request(storeTimeout, nil, exec, func(res outcome) {
		if res != answered {
			return
		}
		for k := range w.cfg.keys {
			switch {
			case due[k] && n.owns(k):
				n.grains[k].wake()
			case overdue[k]:
				if p := w.owner(n, k); p != nil {
					w.stats.Woke++
					w.links.send(n, p, func() { p.grains[k].wake() })
				}
			}
		}
	})
}

// owner is the node that n's view gives k to, if that life of it is still there.
func (w *world) owner(n *node, k int) *node {
	o, ok := n.place.Owner(identity(k))
	if !ok {
		return nil
	}
	for _, p := range w.nodes {
		if p.name == o.Name && p.bootID == o.Boot && p.up {
			return p
		}
	}
	return nil
}

func describe(v protocol.View) string {
	s := ""
	for _, m := range v.Members {
		s += m.String() + "=" + string(m.State) + " "
	}
	for _, o := range v.Overrides {
		s += o.Tenant + "→" + o.Node + " "
	}
	return s
}
