package kb_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"granary.dev/granary/actors/kb"
)

// holder is who uses an allotment, with all it can go through: it moves, and its
// messages are lost, repeated and late.
type holder struct {
	epoch, seq int64
	known      bool
	held, used int64
	waits      int64 // version of the word it waits for an answer to
}

type word struct {
	kb.AllotmentRequest
	need int64
}

// division plays the owner of a limit, its store, the network and the holders.
type division struct {
	t       *rapid.T
	limit   int64
	g       *kb.Allotments
	durable map[string]kb.Allotment
	holders map[string]*holder
	network []word
}

func (d *division) word(id string, need int64) word {
	h := d.holders[id]
	h.seq++
	h.waits = h.epoch<<24 | h.seq
	w := word{kb.AllotmentRequest{Holder: id, Version: h.waits, Held: -1, Used: h.used}, need}
	if h.known {
		w.Held = h.held
	}
	return w
}

// deliver has the owner take a word and make it durable, and the holder hear the answer
// unless it is lost.
func (d *division) deliver(w word, heard bool) {
	had, _ := d.g.Of(w.Holder)
	if d.g.Take(w.AllotmentRequest) {
		d.g.Grow(w.Holder, w.need, w.need+4, d.limit, 3)
		had, _ = d.g.Of(w.Holder)
		d.durable[w.Holder] = had
	}
	if h := d.holders[w.Holder]; heard && h.waits == w.Version && had.Version == w.Version {
		h.known, h.held, h.waits = true, had.Value, 0
	}
}

// crash loses the owner's memory.
func (d *division) crash() {
	d.g = kb.NewAllotments()
	for id, a := range d.durable {
		d.g.Load(id, a.Version, a.Value)
	}
}

func (d *division) check() {
	sum, used := int64(0), int64(0)
	for id, h := range d.holders {
		a, _ := d.g.Of(id)
		if a.Value < h.used || h.known && h.held > a.Value {
			d.t.Fatalf("%s uses %d and holds %d of %d granted", id, h.used, h.held, a.Value)
		}
		sum += a.Value
		used += h.used
	}
	if sum != d.g.Sum() || used > d.limit || sum > d.limit {
		d.t.Fatalf("%d used and %d (%d) granted of %d", used, sum, d.g.Sum(), d.limit)
	}
}

// B4: whatever is lost, repeated, late or crashes, what is used is granted durably, and
// what is granted is within the limit.
func TestAllotmentsNeverExceedTheLimit_B4(t *testing.T) {
	for range 20 { // a hundred schedules each
		rapid.Check(t, allotmentSchedule)
	}
}

func allotmentSchedule(t *rapid.T) {
	d := &division{t: t, limit: 20, g: kb.NewAllotments(), durable: make(map[string]kb.Allotment), holders: make(map[string]*holder)}
	for i := range 2 {
		d.holders[fmt.Sprint("kb", i)] = &holder{epoch: 1}
	}
	id := rapid.SampledFrom([]string{"kb0", "kb1"})
	t.Repeat(map[string]func(*rapid.T){
		"ask": func(t *rapid.T) {
			who := id.Draw(t, "who")
			h := d.holders[who]
			need := max(h.used, h.held)
			d.network = append(d.network, d.word(who, need+rapid.Int64Range(1, 12).Draw(t, "more")))
		},
		"use": func(t *rapid.T) {
			if h := d.holders[id.Draw(t, "who")]; h.known {
				h.used += rapid.Int64Range(0, max(0, h.held-h.used)).Draw(t, "bytes")
			}
		},
		"free": func(t *rapid.T) {
			h := d.holders[id.Draw(t, "who")]
			h.used -= rapid.Int64Range(0, h.used).Draw(t, "bytes")
		},
		"give back": func(t *rapid.T) {
			who := id.Draw(t, "who")
			d.holders[who].known, d.holders[who].held = true, d.holders[who].used
			d.network = append(d.network, d.word(who, 0))
		},
		"deliver": func(t *rapid.T) {
			if n := len(d.network); n > 0 {
				at := rapid.IntRange(0, n-1).Draw(t, "which")
				w := d.network[at]
				if rapid.IntRange(0, 3).Draw(t, "once") > 0 {
					d.network = slices.Delete(d.network, at, at+1)
				}
				d.deliver(w, rapid.Bool().Draw(t, "heard"))
			}
		},
		"move": func(t *rapid.T) {
			h := d.holders[id.Draw(t, "who")]
			*h = holder{epoch: h.epoch + 1, used: h.used}
		},
		"crash": func(*rapid.T) { d.crash() },
		"":      func(*rapid.T) { d.check() },
	})
	// Nobody is refused for what others hold and do not use.
	for who, h := range d.holders {
		h.known, h.held = true, h.used
		d.deliver(d.word(who, 0), true)
	}
	used := int64(0)
	for _, h := range d.holders {
		used += h.used
	}
	if d.deliver(d.word("kb0", d.holders["kb0"].used+d.limit-used), true); used != d.limit && d.holders["kb0"].held != d.holders["kb0"].used+d.limit-used {
		t.Fatalf("%d of %d are used, kb0 holds %d", used, d.limit, d.holders["kb0"].held)
	}
	d.check()
}

func TestSharesGiveNobodyMoreThanItWishesAndWasteNothing_B4(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(0, 50).Draw(t, "limit")
		wishes := rapid.SliceOfN(rapid.Int64Range(0, 30), 1, 8).Draw(t, "wishes")
		got, sum, asked := kb.Shares(limit, wishes), int64(0), int64(0)
		for i := range got {
			if got[i] < 0 || got[i] > wishes[i] {
				t.Fatalf("%v of %v", got, wishes)
			}
			for j := range got {
				if got[i] < wishes[i] && got[j] > got[i]+1 {
					t.Fatalf("%v of %v: %d has more than %d, which wants more", got, wishes, j, i)
				}
			}
			sum, asked = sum+got[i], asked+wishes[i]
		}
		if sum != min(limit, asked) {
			t.Fatalf("%v of %v is not %d", got, wishes, min(limit, asked))
		}
	})
}
