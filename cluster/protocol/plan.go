package protocol

import (
	"cmp"
	"slices"
	"time"
)

// Why a tenant moves.
const (
	WhyOverloaded = "OVERLOADED" // its node is
	WhySick       = "SICK"       // its node is
	WhyHome       = "HOME"       // the table's node has room again
)

// Hosted is a tenant with grains on the node that plans.
type Hosted struct {
	Tenant string
	// Home is the node where the table has the tenant, if an override has brought
	// it here; "" if it is here by the table.
	Home     string
	Load     float64            // what it adds to the node's load, in the unit of Candidate.Load
	Placed   time.Duration      // how long it has been here; 0 if that is not known
	Locality map[string]float64 // by node: share of its data and caches there, 0 to 1
}

// PlanInput is what one node knows when it looks for tenants to relocate.
type PlanInput struct {
	Node       string      // who plans, for the tenants it hosts and no others
	Candidates []Candidate // live members, this one too; Locality is that of each tenant instead
	Tenants    []Hosted
	Most       int           // moves at a time, at least 1
	CoolDown   time.Duration // how long a tenant stays where it came, unless the node is sick
}

// Move is a tenant that should be relocated.
type Move struct {
	Tenant, From, To string
	Back             bool   // to the table: the override goes
	Why              string // one of the Why constants
	FromScore        Score
	ToScore          Score // with the tenant there
}

// PlanMoves says which tenants leave the node. It is for each node by itself, and
// careful, since all plan at the same time on what gossip said a moment ago:
//
//   - An overloaded node gives away just enough to be below the threshold, in few
//     moves: the lightest tenant that suffices, or else the heaviest. A sick one
//     gives all, the heaviest first.
//   - A tenant goes only where [ChooseNode] would have it with its load added
//     there. One that would overload any node stays, and lighter ones go.
//   - Each node with room is offered to one of the nodes that give away, so that
//     they do not fill the same one together.
//   - A guest goes home if that leaves room there, one at a time and the lightest
//     first: others may do the same, and the next look shows what came of it.
func PlanMoves(in PlanInput) []Move {
	p := planner{in: in, loads: make(map[string]float64, len(in.Candidates))}
	for i := range in.Candidates {
		c := &in.Candidates[i]
		p.loads[c.Node] = c.Load
		if c.Node == in.Node {
			p.here = c
		}
	}
	if p.here == nil || in.Most < 1 {
		return nil
	}
	p.offers()
	switch {
	case !p.here.Healthy:
		p.leave()
	case p.overloaded():
		p.relieve()
	default:
		p.giveBack()
	}
	return p.moves
}

// planner is the state of one [PlanMoves].
type planner struct {
	in      PlanInput
	here    *Candidate
	offered []Candidate        // in.Candidates without those that others fill
	loads   map[string]float64 // with the moves so far
	moves   []Move
}

func (p *planner) overloaded() bool { return !(p.loads[p.in.Node] < overload) }

// offers deals the nodes that can take something to those that give away, worst
// first. A node that is dealt none waits.
func (p *planner) offers() {
	var givers, takers []*Candidate
	for i := range p.in.Candidates {
		switch c := &p.in.Candidates[i]; {
		case !c.Healthy || !(c.Load < overload):
			givers = append(givers, c)
		case c.Load < roomy:
			takers = append(takers, c)
		}
	}
	slices.SortFunc(givers, worseFirst)
	slices.SortFunc(takers, func(a, b *Candidate) int {
		return cmp.Or(cmp.Compare(a.Load, b.Load), cmp.Compare(a.Node, b.Node))
	})
	taken := make(map[string]bool)
	for i, t := range takers {
		taken[t.Node] = givers != nil && givers[i%len(givers)].Node != p.in.Node
	}
	for _, c := range p.in.Candidates {
		if !taken[c.Node] || c.Node == p.in.Node {
			p.offered = append(p.offered, c)
		}
	}
}

// worseFirst orders the sick before the overloaded and these by load.
func worseFirst(a, b *Candidate) int {
	if a.Healthy != b.Healthy {
		if b.Healthy {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(b.Load, a.Load), cmp.Compare(a.Node, b.Node))
}

// leave empties a sick node.
func (p *planner) leave() {
	tenants := slices.Clone(p.in.Tenants)
	slices.SortFunc(tenants, heaviestFirst)
	for i := range tenants[:min(len(tenants), maxTries)] {
		if len(p.moves) < p.in.Most {
			p.try(&tenants[i], p.offered, WhySick)
		}
	}
}

// maxTries is how many tenants a node looks at in vain: with thousands of them
// and nodes a look must stay short, and the next one comes soon.
const maxTries = 100

// relieve brings an overloaded node below the threshold.
func (p *planner) relieve() {
	tenants := p.settled(func(h *Hosted) bool { return h.Load > 0 })
	slices.SortFunc(tenants, heaviestFirst)
	for tries := 0; len(tenants) > 0 && len(p.moves) < p.in.Most && p.overloaded() && tries < maxTries; tries++ {
		excess := p.loads[p.in.Node] - overload
		next := 0 // the heaviest, or the lightest that is enough
		for next+1 < len(tenants) && tenants[next+1].Load > excess {
			next++
		}
		if !p.try(&tenants[next], p.offered, WhyOverloaded) {
			tenants = tenants[next+1:] // where this one has no place, a heavier one has none
			continue
		}
		tenants = slices.Delete(tenants, next, next+1)
	}
}

// giveBack lets one guest go home.
func (p *planner) giveBack() {
	guests := p.settled(func(h *Hosted) bool { return h.Home != "" && h.Home != p.in.Node })
	slices.SortFunc(guests, heaviestFirst)
	slices.Reverse(guests)
	for i := range guests[:min(len(guests), maxTries)] {
		if p.try(&guests[i], p.in.Candidates, WhyHome) {
			return
		}
	}
}

// settled gives the tenants that have been here for long enough.
func (p *planner) settled(which func(*Hosted) bool) []Hosted {
	var out []Hosted
	for i := range p.in.Tenants {
		if h := &p.in.Tenants[i]; h.Placed >= p.in.CoolDown && which(h) {
			out = append(out, *h)
		}
	}
	return out
}

func heaviestFirst(a, b Hosted) int {
	return cmp.Or(cmp.Compare(b.Load, a.Load), cmp.Compare(a.Tenant, b.Tenant))
}

// try moves a tenant if there is a better place among the candidates.
func (p *planner) try(h *Hosted, among []Candidate, why string) bool {
	all := make([]Candidate, len(among))
	var slowest time.Duration
	for i, c := range among {
		c.Load = p.loads[c.Node]
		if c.Node != p.in.Node {
			c.Load += h.Load
		}
		c.Locality = h.Locality[c.Node]
		slowest = max(slowest, c.Latency)
		all[i] = c
	}
	home := cmp.Or(h.Home, p.in.Node)
	to := ChooseNode(p.in.Node, home, all)
	if to == p.in.Node {
		return false
	}
	m := Move{Tenant: h.Tenant, From: p.in.Node, To: to, Back: to == home, Why: why}
	for _, c := range all {
		switch c.Node {
		case m.From:
			m.FromScore = c.Rate(slowest)
		case m.To:
			m.ToScore = c.Rate(slowest)
		}
	}
	p.loads[m.From] -= h.Load
	p.loads[m.To] += h.Load
	p.moves = append(p.moves, m)
	return true
}
