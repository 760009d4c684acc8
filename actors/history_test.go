package actors_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// step is one operation of a history: when it began and ended, and what came.
type step struct {
	kind       string   // "add", "remove", "get"
	begin, end int64    // order; an outcome that is not known may come at any time
	version    int64    // of a success
	revision   int64    // that an answer named, 0 for none
	doc        string   // of a history of several documents
	text, hash string   // what an add brought
	found      []string // what a search found
	result     string   // "ok", "missing", "leaving" (it is being deleted), "unknown", "none" (refused, nothing done)
}

// docModel is a document as the specification has it.
type docModel struct {
	version int64 // 0: not there
	leaving bool  // deleted, maybe not erased yet
}

// after gives the states a step can lead to from m, none if it is impossible.
func (m docModel) after(s step) []docModel {
	added := docModel{version: m.version + 1}
	removed := docModel{leaving: true}
	switch {
	case s.result == "none":
		return []docModel{m}
	case s.kind == "get" && s.result == "ok" && m.version == s.version,
		s.kind != "add" && s.result == "missing" && m.version == 0,
		s.kind == "add" && s.result == "leaving" && m.version == 0 && m.leaving:
		return []docModel{m}
	case s.kind == "add" && s.result == "ok" && s.version == added.version:
		return []docModel{added}
	case s.kind == "remove" && s.result == "ok" && m.version > 0:
		return []docModel{removed}
	case s.kind == "add" && s.result == "unknown":
		return []docModel{added, m}
	case s.kind == "remove" && s.result == "unknown" && m.version > 0:
		return []docModel{removed, m}
	case s.result == "unknown":
		return []docModel{m}
	}
	return nil
}

// linearizable reports whether some order of the steps that keeps the order of
// those that did not overlap is a history of the model.
func linearizable(steps []step) bool {
	type point struct {
		done uint64
		at   docModel
	}
	seen := make(map[point]bool)
	var search func(done uint64, at docModel) bool
	search = func(done uint64, at docModel) bool {
		if done == 1<<len(steps)-1 {
			return true
		}
		if seen[point{done, at}] {
			return false
		}
		seen[point{done, at}] = true
		first := int64(math.MaxInt64) // nobody may go before a step that ended before it began
		for i, s := range steps {
			if done&(1<<i) == 0 {
				first = min(first, s.end)
			}
		}
		for i, s := range steps {
			if done&(1<<i) != 0 || s.begin > first {
				continue
			}
			for _, next := range at.after(s) {
				if search(done|1<<i, next) {
					return true
				}
			}
		}
		return false
	}
	return search(0, docModel{})
}

// The checker tells good histories from bad ones.
func TestCheckerKnowsGoodFromBad(t *testing.T) {
	op := func(kind string, b, e, v int64, result string) step {
		return step{kind: kind, begin: b, end: e, version: v, result: result}
	}
	add := func(b, e, v int64) step { return op("add", b, e, v, "ok") }
	get := func(b, e, v int64) step { return op("get", b, e, v, "ok") }
	for name, c := range map[string]struct {
		steps []step
		want  bool
	}{
		"in order":                 {[]step{add(1, 2, 1), get(3, 4, 1), add(5, 6, 2)}, true},
		"overlapping":              {[]step{add(1, 6, 1), get(2, 5, 1)}, true},
		"stale read":               {[]step{add(1, 2, 1), add(3, 4, 2), get(5, 6, 1)}, false},
		"lost":                     {[]step{add(1, 2, 1), op("get", 3, 4, 0, "missing")}, false},
		"twice":                    {[]step{add(1, 2, 1), add(3, 4, 1)}, false},
		"doubt applied late":       {[]step{op("add", 1, math.MaxInt64, 0, "unknown"), op("get", 3, 4, 0, "missing"), get(5, 6, 1)}, true},
		"doubt flickers":           {[]step{op("add", 1, math.MaxInt64, 0, "unknown"), get(3, 4, 1), op("get", 5, 6, 0, "missing")}, false},
		"refused but there":        {[]step{op("add", 1, 2, 0, "none"), get(3, 4, 1)}, false},
		"back after it was erased": {[]step{add(1, 2, 1), op("remove", 3, 4, 0, "ok"), get(5, 6, 1)}, false},
	} {
		if got := linearizable(c.steps); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// I6, I4, I5: with a store that fails before and after commits and owners that
// are fenced, each document's history is linearizable.
func TestHistoriesAreLinearizable_I6(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				c := w.created("notes")
				fates := injectFates(w, seed)
				var order atomic.Int64
				var mu sync.Mutex
				var steps []step
				var clients sync.WaitGroup
				for n := range 5 {
					r := rand.New(rand.NewPCG(seed, uint64(n)))
					clients.Go(func() {
						for i := range 10 {
							s := c.randomStep(r, fmt.Sprintf("%d-%d", n, i), &order)
							mu.Lock()
							steps = append(steps, s)
							mu.Unlock()
							time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond)
						}
					})
				}
				clients.Wait()
				w.faults.on("Append", nil)
				if !linearizable(steps) {
					t.Errorf("no order of these steps explains them: %v", steps)
				}
				t.Logf("%d steps, fates %v", len(steps), fates())
			})
		})
	}
}

// injectFates makes commits of knowledge bases fail in all ways there are.
func injectFates(w *world, seed uint64) (counts func() map[string]int) {
	r := rand.New(rand.NewPCG(seed, 99))
	var mu sync.Mutex
	n := make(map[string]int)
	w.faults.on("Append", func(o op, do func() error) error {
		if !ofKB(o) {
			return do()
		}
		mu.Lock()
		fate := r.IntN(100)
		name := "committed"
		switch {
		case fate < 12:
			name = "unavailable"
		case fate < 18:
			name = "in doubt, applied"
		case fate < 24:
			name = "in doubt, not applied"
		case fate < 28:
			name = "fenced"
		}
		n[name]++
		mu.Unlock()
		switch name {
		case "unavailable":
			return journal.ErrUnavailable
		case "in doubt, applied":
			if err := do(); err != nil {
				return err
			}
			return journal.ErrInDoubt
		case "in doubt, not applied":
			return journal.ErrInDoubt
		case "fenced":
			if _, _, err := w.disk.Acquire(o.ctx, o.grain, journal.Claim{Node: "thief"}); err != nil {
				return err
			}
		}
		return do()
	})
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

func (c *client) randomStep(r *rand.Rand, text string, order *atomic.Int64) step {
	s := step{begin: order.Add(1)}
	var err error
	switch n := r.IntN(10); {
	case n < 5:
		s.kind = "get"
		var d *granaryv1.Document
		d, err = c.get("doc")
		s.version = d.GetVersion()
	case n < 8:
		s.kind = "add"
		m := c.addCall("doc", text)
		m.GetAddDocument().GetSpec().OnDuplicate = granaryv1.OnDuplicate_ON_DUPLICATE_NEW_VERSION
		reply, e := c.call(m)
		err, s.version = e, reply.GetAddDocument().GetDocument().GetVersion()
	default:
		s.kind = "remove"
		err = c.remove("doc")
	}
	s.end = order.Add(1)
	e, _ := errors.AsType[*kb.Error](err)
	switch {
	case err == nil:
		s.result = "ok"
	case kb.Is(err, kb.ReasonDocumentNotFound):
		s.result = "missing"
	case kb.Is(err, kb.ReasonDocumentState):
		s.result = "leaving"
	case kb.Is(err, kb.ReasonUnavailable) && e.Code == kb.CodeUnavailable:
		s.result = "none" // nothing was done: the client was told so
	case kb.Is(err, kb.ReasonInDoubt):
		s.result, s.end = "unknown", math.MaxInt64
	default:
		c.t.Errorf("%s: %v", s.kind, err)
	}
	return s
}
