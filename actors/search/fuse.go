package search

import "slices"

// rankOffset is the usual constant of reciprocal rank fusion.
const rankOffset = 60

// keyword is the bounded score by words of a candidate, 0..1.
func (r *run) keyword(c *candidate) float64 {
	if r.bound == 0 {
		return 0
	}
	return min(1, c.bm25/r.bound)
}

// fuse gives every candidate its score and drops those that do not belong to the
// mode.
func (r *run) fuse() {
	switch r.result.Plan.Mode {
	case ModeKeyword:
		r.found = slices.DeleteFunc(r.found, func(c candidate) bool { return c.bm25 == 0 })
		for i := range r.found {
			r.found[i].score = r.keyword(&r.found[i])
		}
	case ModeVector:
		r.found = slices.DeleteFunc(r.found, func(c candidate) bool { return !c.embedded })
		for i := range r.found {
			r.found[i].score = clip(r.found[i].near.cosine)
		}
	default:
		r.estimate()
		if r.query.Fusion == FusionReciprocalRank {
			r.fuseRanks()
			return
		}
		w := *r.query.KeywordWeight
		for i := range r.found {
			c := &r.found[i]
			c.score = w*r.keyword(c) + (1-w)*clip(c.near.cosine)
		}
	}
}

func clip(cosine float32) float64 { return max(0, min(1, float64(cosine))) }

// estimate gives candidates without a vector (not embedded yet, or in a space
// that the query is not known in) the mean cosine of the candidates by words
// that have one. With zero they would sink below every embedded chunk for the
// minutes that embedding takes; scored by words alone they would rise above.
// When no candidate by words has a vector, the lowest cosine found stands in.
func (r *run) estimate() {
	sum, n, lowest, known := 0.0, 0, 1.0, false
	for i := range r.found {
		if c := &r.found[i]; c.embedded {
			lowest, known = min(lowest, clip(c.near.cosine)), true
			if c.bm25 > 0 {
				sum += clip(c.near.cosine)
				n++
			}
		}
	}
	guess := 0.0
	switch {
	case n > 0:
		guess = sum / float64(n)
	case known:
		guess = lowest
	}
	for i := range r.found {
		if c := &r.found[i]; !c.embedded {
			c.near.cosine = float32(guess)
		}
	}
}

// fuseRanks scores by the ranks in both orders; a score of zero has no rank.
func (r *run) fuseRanks() {
	for i := range r.found {
		r.found[i].score = r.found[i].bm25
	}
	for i, c := range r.order() {
		c.wordRank = i + 1
	}
	for i := range r.found {
		r.found[i].score = clip(r.found[i].near.cosine)
	}
	order := r.order()
	for i, c := range order {
		c.vectorRank = i + 1
	}
	w := *r.query.KeywordWeight
	for _, c := range order {
		c.score = 0
		if c.bm25 > 0 {
			c.score += w * (rankOffset + 1) / float64(rankOffset+c.wordRank)
		}
		if c.near.cosine > 0 {
			c.score += (1 - w) * (rankOffset + 1) / float64(rankOffset+c.vectorRank)
		}
	}
}
