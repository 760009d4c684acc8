package protocol

import (
	"math"
	"time"
)

// Weights and thresholds of relocation (B2, B3).
const (
	weightLocality = 0.4
	weightLoad     = 0.4
	weightLatency  = 0.2

	overload = 0.8 // a node at or above this load gives tenants away …
	roomy    = 0.6 // … only to nodes below this, and takes its own back below it
)

// Candidate is a live member as a place for one tenant.
type Candidate struct {
	Node     string
	Healthy  bool
	Load     float64       // 0 to 1 and above
	Latency  time.Duration // round trip as seen by the cluster
	Locality float64       // share of the tenant's data and caches there, 0 to 1
}

// Score is how good a node is for a tenant, from 0 (worst) to 1, and of what.
type Score struct {
	Total    float64 // 0.4 Locality + 0.4 Headroom + 0.2 Nearness
	Locality float64 // share of the tenant's data and caches there
	Headroom float64 // what the load leaves: 1 when idle
	Nearness float64 // 1 without delay, 0 for the slowest candidate
}

// Rate gives the score. Latency counts against slowest, the highest among the
// candidates.
func (c Candidate) Rate(slowest time.Duration) Score {
	s := Score{Locality: unit(c.Locality, 0), Headroom: 1 - unit(c.Load, 1), Nearness: 1}
	if slowest > 0 {
		s.Nearness = 1 - min(1, float64(c.Latency)/float64(slowest))
	}
	s.Total = weightLocality*s.Locality + weightLoad*s.Headroom + weightLatency*s.Nearness
	return s
}

// Score is the total of [Candidate.Rate].
func (c Candidate) Score(slowest time.Duration) float64 { return c.Rate(slowest).Total }

// ChooseNode says where a tenant should live that lives on current and whom the
// table places on home. It changes only for a reason, so that tenants do not
// wander: current is missing or sick, or it is overloaded and another has room,
// or home has room again. The score says which other one, not whether: what is
// loaded in memory is always where the tenant lives, and would hold it there
// however full the node is. Ties go to the first by name. It gives current if
// there is nowhere better.
func ChooseNode(current, home string, all []Candidate) string {
	var slowest time.Duration
	var here, own *Candidate
	for i := range all {
		c := &all[i]
		slowest = max(slowest, c.Latency)
		if c.Node == current {
			here = c
		}
		if c.Node == home {
			own = c
		}
	}
	if here != nil && here.Healthy {
		if current != home && own != nil && own.Healthy && own.Load < roomy {
			return home
		}
		if here.Load < overload {
			return current
		}
		if best := bestOf(all, current, roomy, slowest); best != nil {
			return best.Node
		}
		return current
	}
	if best := bestOf(all, current, overload, slowest); best != nil {
		return best.Node
	}
	if best := bestOf(all, current, math.Inf(1), slowest); best != nil {
		return best.Node // all are overloaded; a sick node is worse
	}
	return current
}

// bestOf gives the healthy candidate of the highest score below a load, other
// than not; nil if there is none.
func bestOf(all []Candidate, not string, below float64, slowest time.Duration) *Candidate {
	var best *Candidate
	for i := range all {
		c := &all[i]
		if c.Node == not || !c.Healthy || !(c.Load < below) {
			continue
		}
		if best == nil {
			best = c
			continue
		}
		if a, b := c.Score(slowest), best.Score(slowest); a > b || a == b && c.Node < best.Node {
			best = c
		}
	}
	return best
}

// unit brings a measurement into 0 to 1; what is no number counts as worst.
func unit(x, worst float64) float64 {
	if math.IsNaN(x) {
		return worst
	}
	return min(1, max(0, x))
}
