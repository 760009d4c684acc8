package kb_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"granary.dev/granary/actors/kb"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// owner is a meter whose reservations are committed at once.
type rateOwner struct {
	rate *kb.Rate
	rec  *kb.RateRecord
}

func (o *rateOwner) lease(q kb.TokenRequest, now time.Time, base int64) kb.TokenLease {
	o.rate.Roll(now, base)
	for {
		out, rec := o.rate.Lease(q, now, base)
		if rec == nil {
			return out
		}
		o.rec = rec
		o.rate.Committed(*rec)
	}
}

// take uses up to n tokens through one node.
func (o *rateOwner) take(n int64, now time.Time, base int64) (used int64) {
	seq := now.UnixNano()
	q := kb.TokenRequest{Holder: "n1#" + now.String(), Want: n}
	for used < n {
		seq++
		q.Seq, q.Want = seq, n-used
		got := o.lease(q, now, base)
		if got.Held == q.Held && got.Window == q.Window {
			break
		}
		q.Window, q.Held, q.Used, q.Known = got.Window, got.Held, got.Held, true
		used = got.Held
	}
	q.Seq, q.Want = seq+1, 0 // tell what is used
	o.lease(q, now, base)
	return used
}

func newOwner(m kb.Meter) *rateOwner { return &rateOwner{rate: kb.NewRate(m, nil)} }

func TestB4_AWindowGrantsExactlyItsLimit(t *testing.T) {
	for _, tier := range []kb.Tier{kb.TierStarter, kb.TierProfessional, kb.TierEnterprise} {
		l, _ := kb.LimitsOf(tier)
		for _, m := range []kb.Meter{kb.MeterCalls, kb.MeterVectors} {
			o, base := newOwner(m), m.Base(l)
			if got := o.take(2*base, noon.Add(time.Second), base); got != base {
				t.Errorf("%s %s: %d tokens of a fresh tenant, want %d", tier, m, got, base)
			}
			last := noon.Add(m.Period() - time.Nanosecond)
			if got := o.take(1, last, base); got != 0 {
				t.Errorf("%s %s: %d tokens more in the same window", tier, m, got)
			}
			if got := o.take(2*base, noon.Add(m.Period()), base); got != base {
				t.Errorf("%s %s: %d tokens in the next window, want %d: what was used up saved nothing", tier, m, got, base)
			}
		}
	}
}

func TestB5_TheBankFillsFromUnusedWindowsAndIsBounded(t *testing.T) {
	const base = 1000
	o, hour := newOwner(kb.MeterCalls), func(n int) time.Time { return noon.Add(time.Duration(n) * time.Hour) }
	for i, step := range []struct{ at, want, got int64 }{
		{0, 600, 600},
		{1, 5000, base + 100}, // a quarter of the 400 left
		{2, 5000, base},
		{4, 5000, base + 250}, // one idle window between
		{40, 5000, base + 500},
		{41, 900, 900},
		{42, 5000, base + 25},
	} {
		if got := o.take(step.want, hour(int(step.at)), base); got != step.got {
			t.Fatalf("step %d: %d tokens, want %d", i, got, step.got)
		}
	}
	o.take(0, hour(50), base)
	o.rate.Roll(hour(50), base)
	if u := o.rate.Usage(base); u.BurstLeft != 500 || u.Remaining != 1500 || u.Used != 0 || !u.Reset.Equal(hour(51)) {
		t.Fatalf("usage is %+v", u)
	}
	// The base is used before the bank is.
	o.take(base+1, hour(50), base)
	if u := o.rate.Usage(base); u.BurstLeft != 499 || u.Used != base+1 {
		t.Fatalf("usage is %+v", u)
	}
}

// node is a holder as package tokens is one, reduced to its promises.
type rateNode struct {
	id           string
	window       int64
	held, used   int64
	seq          int64
	lessor       int
	credit, paid int64
}

type message struct {
	q      kb.TokenRequest
	lessor int
}

type rateWorld struct {
	meter kb.Meter
	now   time.Time
	skew  time.Duration // of the owner's clock
	base  int64
	owner *rateOwner
	boot  int
	nodes []*rateNode
	stray []message // on their way for long
	used  map[int64]int64
	banks map[int64]int64 // of the windows, as seen
}

func (w *rateWorld) send(t *rapid.T, n *rateNode) message {
	n.seq++
	if rapid.Bool().Draw(t, "give back") {
		n.held = n.used
	}
	return message{kb.TokenRequest{Holder: n.id, Seq: n.seq, Window: n.window, Held: n.held, Used: n.used, Credit: n.credit, Charged: n.paid,
		Want: rapid.SampledFrom([]int64{0, 1, 1, 3, 50}).Draw(t, "want"), Background: rapid.IntRange(0, 3).Draw(t, "background") == 0}, n.lessor}
}

func (w *rateWorld) deliver(m message) (kb.TokenLease, int) {
	m.q.Known = m.lessor == w.boot
	return w.owner.lease(m.q, w.now.Add(w.skew), w.base), w.boot
}

func (w *rateWorld) crash(t *rapid.T) {
	rec := w.owner.rec
	w.boot++
	w.owner = &rateOwner{rate: kb.NewRate(w.meter, rec), rec: rec}
	w.skew = time.Duration(rapid.IntRange(-90, 90).Draw(t, "skew")) * time.Second
}

func (w *rateWorld) actions() map[string]func(*rapid.T) {
	pick := func(t *rapid.T) *rateNode { return rapid.SampledFrom(w.nodes).Draw(t, "node") }
	return map[string]func(*rapid.T){
		"use": func(t *rapid.T) {
			n := pick(t)
			for range rapid.IntRange(1, 20).Draw(t, "calls") {
				if n.used < n.held {
					n.used++
					w.used[n.window]++
				}
			}
		},
		"lease": func(t *rapid.T) {
			n := pick(t)
			m := w.send(t, n)
			got, lessor := w.deliver(m)
			if rapid.IntRange(0, 3).Draw(t, "twice") == 0 {
				got, lessor = w.deliver(m)
			}
			if rapid.IntRange(0, 3).Draw(t, "answer lost") == 0 {
				return
			}
			if got.Window != n.window {
				n.window, n.used = got.Window, 0
			}
			n.held, n.lessor, n.paid = got.Held, lessor, max(n.paid, got.Charged)
		},
		"lose": func(t *rapid.T) {
			n := pick(t)
			if m := w.send(t, n); rapid.Bool().Draw(t, "late") {
				w.stray = append(w.stray, m)
			}
		},
		"late": func(t *rapid.T) {
			if len(w.stray) == 0 {
				return
			}
			i := rapid.IntRange(0, len(w.stray)-1).Draw(t, "which")
			w.deliver(w.stray[i])
			w.stray = append(w.stray[:i], w.stray[i+1:]...)
		},
		"crash": w.crash,
		"leave": func(t *rapid.T) {
			if rec := w.owner.rate.Spare(w.now.Add(w.skew)); rec != nil && rapid.Bool().Draw(t, "committed") {
				w.owner.rec = rec
			}
			w.crash(t)
		},
		"credit": func(t *rapid.T) {
			n := pick(t)
			n.credit++
		},
		"node dies": func(t *rapid.T) {
			n := pick(t)
			*n = rateNode{id: n.id + "'"}
		},
		"wait": func(t *rapid.T) {
			w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 90}).Draw(t, "seconds")) * time.Second)
		},
	}
}

func (w *rateWorld) check(t *rapid.T) {
	w.owner.rate.Roll(w.now.Add(w.skew), w.base)
	u := w.owner.rate.Usage(w.base)
	if u.Bank > w.base/2 || u.Used < 0 || u.Remaining > w.base+u.Bank || u.BurstLeft > u.Bank {
		t.Fatalf("usage is %+v", u)
	}
	w.banks[u.Start.Unix()/60] = max(u.Bank, w.banks[u.Start.Unix()/60])
	for window, used := range w.used {
		bank, seen := w.banks[window]
		if !seen {
			bank = w.base / 2
		}
		if used > w.base+bank {
			t.Fatalf("window %d: %d used of %d and %d saved", window, used, w.base, bank)
		}
	}
}

func TestB4_NoHistoryOfCrashesAndLostMessagesGrantsMoreThanTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &rateWorld{meter: kb.MeterVectors, now: noon, base: rapid.SampledFrom([]int64{1, 7, 30, 300}).Draw(t, "limit"),
			owner: newOwner(kb.MeterVectors), used: make(map[int64]int64), banks: make(map[int64]int64), boot: 1}
		for _, id := range []string{"a", "b", "c"} {
			w.nodes = append(w.nodes, &rateNode{id: id})
		}
		// Of long histories: what goes wrong needs a message that is older than a crash.
		actions := w.actions()
		var names []string
		for _, name := range slices.Sorted(maps.Keys(actions)) {
			names = append(names, slices.Repeat([]string{name}, map[string]int{"use": 6, "lease": 12, "lose": 3, "late": 3, "crash": 2, "wait": 2}[name]+1)...)
		}
		for range 40 {
			for _, name := range rapid.SliceOfN(rapid.SampledFrom(names), 10, 10).Draw(t, "actions") {
				actions[name](t)
			}
			w.check(t)
		}
		// B5: what was saved was left unused before, so that any run of windows
		// stays within its limits and one bank.
		first, last, sum := noon.Unix()/60, noon.Unix()/60, int64(0)
		for window, used := range w.used {
			first, last, sum = min(first, window), max(last, window), sum+used
		}
		if sum > (last-first+1)*w.base {
			t.Fatalf("%d used in %d windows of %d", sum, last-first+1, w.base)
		}
	})
}

func TestB4_CreditIsChargedOnceAndLeavesLess(t *testing.T) {
	o := newOwner(kb.MeterCalls)
	q := kb.TokenRequest{Holder: "a", Seq: 1, Want: 1, Credit: 30}
	got := o.lease(q, noon, 1000)
	if got.Charged != 30 || got.Held != 1 || got.Remaining != 969 {
		t.Fatalf("lease is %+v", got)
	}
	q.Seq, q.Window, q.Held, q.Known, q.Want = 2, got.Window, 1, true, 0
	if got = o.lease(q, noon, 1000); got.Charged != 30 || got.Remaining != 969 {
		t.Fatalf("charged twice: %+v", got)
	}
	// More than a window has is owed by the next ones.
	q.Seq, q.Credit = 3, 1530
	if got = o.lease(q, noon, 1000); got.Remaining != 0 {
		t.Fatalf("lease is %+v", got)
	}
	if got := o.take(5000, noon.Add(time.Hour), 1000); got != 1000-531 {
		t.Fatalf("%d tokens in the window that pays, want %d", got, 1000-531)
	}
}

func TestB4_TheLastTokensAreLeasedOneByOneToAnybody(t *testing.T) {
	o, now := newOwner(kb.MeterCalls), noon
	held, largest := map[string]kb.TokenLease{}, int64(0)
	nodes := []string{"a", "b", "c"}
	for i := 0; ; i++ {
		id := nodes[i%3]
		h := held[id]
		got := o.lease(kb.TokenRequest{Holder: id, Known: i > 2, Seq: int64(i + 1), Window: h.Window, Held: h.Held, Used: h.Held, Want: 1000}, now, 1000)
		if got.RetryAfter > 0 {
			if got.Held != h.Held || got.Remaining != 0 {
				t.Fatalf("refused with %+v", got)
			}
			break
		}
		block := got.Held - h.Held
		if largest = max(largest, block); block > 1 && got.Remaining < 6 {
			t.Fatalf("a block of %d when %d were left", block, got.Remaining)
		}
		held[id] = got
	}
	if sum := held["a"].Held + held["b"].Held + held["c"].Held; sum != 1000 || largest != 1000/64 {
		t.Fatalf("%d tokens in blocks of up to %d", sum, largest)
	}
}

func TestB4_DocumentsLeaveAFifthToSearches(t *testing.T) {
	o, seq, held, window := newOwner(kb.MeterVectors), int64(0), int64(0), int64(0)
	for {
		seq++
		got := o.lease(kb.TokenRequest{Holder: "a", Known: seq > 1, Seq: seq, Window: window, Held: held, Used: held, Want: 10, Background: true}, noon, 100)
		if got.RetryAfter > 0 {
			break
		}
		held, window = got.Held, got.Window
	}
	if held != 80 {
		t.Fatalf("documents got %d of 100", held)
	}
	if got := o.take(100, noon, 100); got != 20 {
		t.Fatalf("searches got %d", got)
	}
}

func TestB4_AnotherTierCountsAtOnce(t *testing.T) {
	o := newOwner(kb.MeterCalls)
	if got := o.take(5000, noon, 1000); got != 1000 {
		t.Fatalf("%d", got)
	}
	if got := o.take(20000, noon.Add(time.Minute), 10_000); got != 9000 {
		t.Fatalf("%d after the tier rose", got)
	}
	if got := o.take(1, noon.Add(2*time.Minute), 1000); got != 0 {
		t.Fatalf("%d after it fell", got)
	}
	if got := o.take(5000, noon.Add(time.Hour), 1000); got > 1000 {
		t.Fatalf("%d in the next window", got)
	}
}

func TestB4_AClockThatIsBehindStaysInTheWindow(t *testing.T) {
	o := newOwner(kb.MeterCalls)
	o.take(400, noon, 1000)
	again := &rateOwner{rate: kb.NewRate(kb.MeterCalls, o.rec), rec: o.rec}
	early := noon.Add(-5 * time.Minute)
	if got := again.take(5000, early, 1000); got > 600 {
		t.Fatalf("%d tokens, want at most 600", got)
	}
	again.rate.Roll(early, 1000)
	if u := again.rate.Usage(1000); !u.Start.Equal(noon) {
		t.Fatalf("window begins %v", u.Start)
	}
	// A clock that was a year ahead does not lock the tenant out for a year.
	wrong := &kb.RateRecord{Window: o.rec.Window + 24*365, Reserved: 700}
	back := &rateOwner{rate: kb.NewRate(kb.MeterCalls, wrong), rec: wrong}
	if got := back.take(5000, noon, 1000); got != 300 {
		t.Fatalf("%d tokens, want the 300 the wrong window had left", got)
	}
}

func TestB4_WhatIsOlderThanAnOwnerGivesNothingBack(t *testing.T) {
	o := newOwner(kb.MeterCalls)
	a := kb.TokenRequest{Holder: "a", Seq: 1, Want: 15}
	first := o.lease(a, noon, 1000)
	late := kb.TokenRequest{Holder: "a", Known: true, Seq: 2, Window: first.Window, Held: first.Held}
	// The next message gives five back, which another node gets and uses.
	back := late
	back.Seq, back.Held = 3, first.Held-5
	o.lease(back, noon, 1000)
	if got := o.take(5000, noon, 1000); got != 1000-10 {
		t.Fatalf("the other node got %d", got)
	}
	for what, known := range map[string]bool{"the same owner": true, "the next owner": false} {
		next := o
		if !known {
			next = &rateOwner{rate: kb.NewRate(kb.MeterCalls, o.rec), rec: o.rec}
		}
		late.Known, back.Known, back.Seq = known, known, 4
		next.lease(late, noon, 1000)
		next.lease(back, noon, 1000)
		if got := next.take(1, noon, 1000); got != 0 {
			t.Fatalf("%s grants %d tokens given back twice", what, got)
		}
		back.Known, back.Seq = true, 5
		next.lease(back, noon, 1000)
		if got := next.take(1, noon, 1000); got != 0 {
			t.Fatalf("%s grants %d tokens given back twice", what, got)
		}
	}
}
