package protocol

import (
	"errors"
	"slices"
	"time"
)

// ErrUnreachable says that the joining node and a member cannot both reach each other.
var ErrUnreachable = errors.New("a member cannot be reached, or cannot reach this node")

// NodeConfig is what a node knows of itself.
type NodeConfig struct {
	Self        NodeID
	Addr        string
	Zone        string
	Fingerprint string
	Timing      Timing
}

// Phase is where a [Node] stands.
type Phase uint8

// Phases of a [Node]; it only moves forward.
const (
	Outside Phase = iota // not in the view yet
	Inside               // a member
	Parting              // giving up what it holds; serves nothing new
	Over                 // left or evicted
)

// Node is the membership of one process as a state machine: it keeps the lease,
// joins, drains and leaves, gives up members that are gone, and paces the rounds.
// The driver carries its outputs out and its answers back; it reads the clock
// (one that goes on in suspend) and passes the time to every step.
//
// A Node is a value: a step gives the next one and leaves the old one as it was.
type Node struct {
	cfg   *NodeConfig
	phase Phase
	view  View
	lease Lease

	lastStep time.Duration
	renewDue time.Duration
	renewing call
	swapping call
	calls    uint64

	survey   Survey
	surveyed time.Duration        // when survey was asked for
	stale    bool                 // survey is not about the view
	suspects []string             // names, ascending; gossip's word
	needed   [needs]bool          // what somebody has to do …
	since    [needs]time.Duration // … and since when

	probing  bool          // the peers were asked …
	askedAt  time.Duration // … then
	retryAt  time.Duration
	answers  []Probed
	acted    int64 // version of the view the driver acts on
	pending  int
	stopped  bool          // the driver serves nothing any more
	draining bool          // asked to drain
	partedAt time.Duration // when Parting began, or the last round was seen
	wishes   []Relocate
	wishing  bool // the change under way is the first wish
}

// need is work that any member may do and one should.
type need uint8

const (
	needBury    need = iota // members without lease
	needAdvance             // a round is over
	needs                   // how many there are
)

// NewNode makes a node that will join; now is the time of its first step. cfg
// must not change any more. The errors are those of the parts of cfg.
func NewNode(cfg NodeConfig, now time.Duration) (Node, error) {
	if err := cfg.Timing.Validate(); err != nil {
		return Node{}, err
	}
	if !validNodeName(cfg.Self.Name) || !validNodeName(cfg.Self.Boot) {
		return Node{}, ErrInvalidNodeID
	}
	return Node{cfg: &cfg, lastStep: now, renewDue: now}, nil
}

// View is the newest view the node knows.
func (n *Node) View() View { return n.view }

// Phase tells where the node stands.
func (n *Node) Phase() Phase { return n.phase }

// Self is the node's id.
func (n *Node) Self() NodeID { return n.cfg.Self }

// Lease is what reads are decided by, see [MayRead]. A node that gives up what
// it holds has none.
func (n *Node) Lease() Lease {
	l := n.lease
	l.Held = l.Held && n.phase == Inside
	return l
}

// Step takes what happened at now, by the node's clock, into account.
func (n Node) Step(now time.Duration, in Input) (Node, []Output) {
	if n.phase == Over {
		return n, nil
	}
	var out outputs
	n.watch(now, &out)
	switch in := in.(type) {
	case Tick:
		n.tick(now)
	case Renewed:
		n.renewed(now, in, &out)
	case RenewFailed:
		n.renewFailed(now, in, &out)
	case Swapped:
		n.swapped(now, in, &out)
	case SwapFailed:
		if n.swapping.id == in.Call {
			n.lookAgain(now)
		}
	case Suspected:
		n.suspected(now, in)
	case Newer:
		if in.Version > n.view.Version {
			n.renewDue = now
		}
	case Probed:
		n.probed(in)
	case Pending:
		n.pendingChanged(now, in)
	case StartDrain:
		n.draining = true
	case Relocate:
		n.wish(in)
	}
	if n.phase != Over {
		n.decide(now, &out)
		n.renew(now, &out)
	}
	return n, out
}

type outputs []Output

func (o *outputs) add(out Output) { *o = append(*o, out) }

// watch ends the term when the lease has run out, and when the process stood
// still: what it believed before may be long past.
func (n *Node) watch(now time.Duration, out *outputs) {
	paused := now-n.lastStep > n.cfg.Timing.PauseLimit
	n.lastStep = now
	if n.lease.Held && (paused || !n.lease.Valid(now, n.cfg.Timing)) {
		n.lease.lapse()
		n.renewDue = now
		out.add(Lapsed{})
	}
}

// tick gives up on calls without answer. Their answers are ignored from now on,
// so that a late view or lease cannot be taken for a fresh one.
func (n *Node) tick(now time.Duration) {
	limit := n.cfg.Timing.CallTimeout
	if n.renewing.open() && now-n.renewing.sent >= limit {
		n.renewing = call{}
		n.renewDue = now
		n.lease.Steady = now
	}
	if n.swapping.open() && now-n.swapping.sent >= limit {
		n.lookAgain(now)
	}
}

// lookAgain ends a proposal that did not succeed, or that nobody knows about:
// the next renewal brings the view as it is, and nothing is proposed before.
func (n *Node) lookAgain(now time.Duration) {
	n.swapping = call{}
	n.stale = true
	n.renewDue = now
}

func (n *Node) renew(now time.Duration, out *outputs) {
	if n.renewing.open() || now < n.renewDue || n.phase == Over {
		return
	}
	n.calls++
	n.renewing = call{id: n.calls, sent: now}
	n.renewDue = now + n.cfg.Timing.RenewEvery
	out.add(RenewLease{Call: n.calls, RenewRequest: RenewRequest{
		Node: n.cfg.Self, Addr: n.cfg.Addr, Seen: n.acted, Pending: n.pending}})
}

func (n *Node) renewed(now time.Duration, in Renewed, out *outputs) {
	if in.Call != n.renewing.id {
		return
	}
	sent := n.renewing.sent
	n.renewing = call{}
	if !n.lease.renew(sent, now, n.cfg.Timing) {
		n.renewDue = now
		return
	}
	n.adopt(now, in.View, out)
	if in.View.Version == n.view.Version { // else the survey is about an older view
		n.survey, n.surveyed, n.stale = in.Survey, sent, false
		n.lookInTime(now)
	}
}

// lookInTime sees to it that somebody looks the moment a lease runs out that
// was not renewed lately: waiting for the usual renewal costs half of one.
func (n *Node) lookInTime(now time.Duration) {
	t := n.cfg.Timing
	if next := n.survey.Next; next > 0 && next < t.TTL-2*t.RenewEvery {
		n.renewDue = min(n.renewDue, now+next+time.Millisecond)
	}
}

func (n *Node) renewFailed(now time.Duration, in RenewFailed, out *outputs) {
	if in.Call != n.renewing.id {
		return
	}
	n.renewing = call{}
	n.lease.Steady = now
	switch {
	case in.Final && n.phase == Parting:
		n.end(nil, out) // the answer to its leave was lost
	case in.Final:
		n.end(ErrFinal, out)
	}
}

func (n *Node) swapped(now time.Duration, in Swapped, out *outputs) {
	if in.Call != n.swapping.id {
		return
	}
	n.swapping = call{}
	if n.wishing {
		n.wishes = n.wishes[1:]
	}
	n.adopt(now, in.View, out)
}

// adopt takes a later view over; views never go back.
func (n *Node) adopt(now time.Duration, v View, out *outputs) {
	if v.Version <= n.view.Version {
		return
	}
	was := n.phase
	n.view = v
	n.survey, n.surveyed, n.stale = Survey{}, now, true
	n.needed = [needs]bool{}
	m, member := v.Find(n.cfg.Self)
	switch {
	case member && m.State == Left:
		n.end(nil, out)
		return
	case member && m.State == Dead, !member && was != Outside:
		n.end(ErrFinal, out)
		return
	case member && was == Outside:
		n.phase = Inside
	}
	if m.State == Draining && v.Round == Rounds {
		n.partedAt = now
	}
	out.add(ViewChanged{View: v})
}

func (n *Node) end(why error, out *outputs) {
	n.phase = Over
	n.lease.lapse()
	out.add(Ended{Why: why})
}

// wish puts a relocation in the queue, in place of an earlier one for the tenant
// unless that one is being proposed.
func (n *Node) wish(in Relocate) {
	first := 0
	if n.wishing && n.swapping.open() {
		first = 1
	}
	wishes := make([]Relocate, 0, len(n.wishes)+1)
	for i, w := range n.wishes {
		if i < first || w.Tenant != in.Tenant {
			wishes = append(wishes, w)
		}
	}
	wishes = append(wishes, in)
	n.wishes = wishes
}

// pendingChanged notes what the driver made of a view. Others learn of it at
// once if they may wait for it.
func (n *Node) pendingChanged(now time.Duration, in Pending) {
	if n.view.Moving() && in.View > n.acted || n.pending > 0 && in.Grains == 0 {
		n.renewDue = now
	}
	n.acted, n.pending, n.stopped = max(n.acted, in.View), in.Grains, in.All
}

// suspected notes gossip's word. It decides nothing: somebody looks sooner.
func (n *Node) suspected(now time.Duration, in Suspected) {
	if m, ok := n.view.Find(in.Node); !ok || !m.State.Active() {
		return
	}
	at, there := slices.BinarySearch(n.suspects, in.Node.Name)
	switch {
	case in.Gone && !there:
		n.suspects = slices.Insert(slices.Clone(n.suspects), at, in.Node.Name)
		n.renewDue = now
	case !in.Gone && there:
		n.suspects = slices.Delete(slices.Clone(n.suspects), at, at+1)
	}
}
