package search

import (
	"context"
	"math/bits"
	"slices"
)

// The policy: segments are grouped in tiers, each eight times as large as the one
// below; eight of a tier become one. So a segment is rewritten once per tier, and
// ten thousand documents that arrived one by one end in a few dozen segments. A
// segment of which a third is dead is rewritten by itself, which bounds how far
// document frequencies, counted with the dead, can be off.
const (
	tierWidth    = 8   // segments of one tier that start a merge
	mergeAtMost  = 128 // segments in one merge
	smallSegment = 16  // chunks; the lowest tier
)

func tierOf(s *segView) int {
	live := s.seg.Chunks() - s.dead
	return (bits.Len(uint(live/smallSegment)) + 2) / 3
}

func mostlyDead(s *segView) bool {
	return s.dead*3 > s.seg.Chunks() || s.deadCount*3 > len(s.seg.docs) && s.seg.Chunks() == 0
}

// pickMerge returns the segments to merge next, nil when there is nothing to do.
func pickMerge(segs []segView) []segView {
	var counts [12]int
	for i := range segs {
		counts[min(tierOf(&segs[i]), len(counts)-1)]++
	}
	for tier, n := range counts {
		if n < tierWidth {
			continue
		}
		var picked []segView
		chunks := 0
		for i := range segs {
			if tierOf(&segs[i]) != tier || len(picked) == mergeAtMost {
				continue
			}
			if chunks += segs[i].seg.Chunks(); chunks > MaxSegmentChunks {
				break
			}
			picked = append(picked, segs[i])
		}
		if len(picked) > 1 {
			return picked
		}
	}
	for i := range segs {
		if mostlyDead(&segs[i]) {
			return segs[i : i+1 : i+1]
		}
	}
	return nil
}

// mergeLoop merges until nothing is left to merge or the index is closed.
func (x *Index) mergeLoop() {
	for {
		picked := pickMerge(x.view.Load().segs)
		if len(picked) > 0 {
			x.mergeOnce(picked)
		}
		x.mu.Lock()
		if x.ctx.Err() != nil || len(pickMerge(x.view.Load().segs)) == 0 {
			x.merged()
			x.mu.Unlock()
			return
		}
		x.mu.Unlock()
	}
}

// mergeOnce merges picked beside the running index and then puts the result in
// their place, with what has died in them meanwhile.
func (x *Index) mergeOnce(picked []segView) {
	merged, moved := mergeSegments(picked, func() bool { return x.ctx.Err() != nil })
	if x.ctx.Err() != nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return
	}
	now := x.view.Load()
	e := edit{view: &View{}}
	e.begin()
	if merged != nil {
		e.add(segView{seg: merged})
	}
	var rest []segView
	current := make(map[*Segment]*segView, len(picked))
	for i := range now.segs {
		s := &now.segs[i]
		if slices.ContainsFunc(picked, func(p segView) bool { return p.seg == s.seg }) {
			current[s.seg] = s
			continue
		}
		rest = append(rest, *s)
	}
	for i := range picked {
		for doc, to := range moved[i] {
			s := current[picked[i].seg] // nil: all of it has died
			if to >= 0 && (s == nil || s.deadDocs.has(uint32(doc))) {
				e.killAt(0, uint32(to))
			}
		}
	}
	x.publish(append(rest, e.segs...), now.revision)
}

// Compact waits for merges under way and then makes one segment of all, for
// instance before a snapshot. It returns [ErrClosed] after Close, or ctx's error.
func (x *Index) Compact(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		x.mu.Lock()
		if x.closed {
			x.mu.Unlock()
			return ErrClosed
		}
		if busy := x.merging; busy != nil {
			x.mu.Unlock()
			select {
			case <-busy:
			case <-ctx.Done():
			}
			continue
		}
		segs := x.view.Load().segs
		if len(segs) == 0 || len(segs) == 1 && segs[0].deadCount == 0 || x.view.Load().chunks > MaxSegmentChunks {
			x.mu.Unlock()
			return nil
		}
		x.merging = make(chan struct{}) // keeps the background merge out
		x.mu.Unlock()
		x.mergeOnce(segs)
		x.mu.Lock()
		x.merged()
		x.mu.Unlock()
	}
}
