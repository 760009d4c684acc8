package search

import "math"

// topK keeps the items with the highest scores, the lowest of them first. An
// item enters only above floor, which rises once limit items are held.
type topK struct {
	items []scored
	limit int
	floor float32
}

// scored is a chunk with a score. source and at say where a scan found it.
type scored struct {
	score  float32
	chunk  uint32 // of the view
	source int32
	at     int32
}

func newTopK(limit int) *topK {
	return &topK{limit: limit, floor: float32(math.Inf(-1)), items: make([]scored, 0, min(limit, 128))}
}

// offer adds s; the caller has checked that s.score > t.floor.
func (t *topK) offer(s scored) {
	if len(t.items) < t.limit {
		t.items = append(t.items, s)
		t.up(len(t.items) - 1)
	} else {
		t.items[0] = s
		t.down()
	}
	if len(t.items) == t.limit {
		t.floor = max(t.floor, t.items[0].score)
	}
}

func (t *topK) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if t.items[parent].score <= t.items[i].score {
			return
		}
		t.items[parent], t.items[i] = t.items[i], t.items[parent]
		i = parent
	}
}

func (t *topK) down() {
	i := 0
	for {
		least, left := i, 2*i+1
		if left < len(t.items) && t.items[left].score < t.items[least].score {
			least = left
		}
		if left+1 < len(t.items) && t.items[left+1].score < t.items[least].score {
			least = left + 1
		}
		if least == i {
			return
		}
		t.items[i], t.items[least] = t.items[least], t.items[i]
		i = least
	}
}
