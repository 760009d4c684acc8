//go:build unix

package e2e

import (
	"math"
	"testing"

	"github.com/anishathalye/porcupine"
)

// The checker must see each kind of wrong answer, or the chaos tests prove nothing.
func TestCheckerSeesEachWrongAnswer(t *testing.T) {
	begin := kbState{revision: 2, config: 1}
	put := func(id string, call, end, revision, version int64) *op {
		return &op{id: id, action: actPut, doc: "a", call: call, end: end, fate: fateOK, revision: revision, state: docState{version, id}}
	}
	get := func(call, end int64, d docState) *op {
		return &op{id: "g", action: actGet, doc: "a", call: call, end: end, fate: fateOK, state: d}
	}
	read := func(call, end, revision, config int64, text string) *op {
		return &op{id: "r", action: actRead, call: call, end: end, fate: fateOK, revision: revision, config: config, text: text}
	}
	swap := func(id string, call, end, revision, expect int64) *op {
		return &op{id: id, action: actSwap, call: call, end: end, fate: fateOK, expect: expect, revision: revision, config: expect + 1, text: id}
	}
	lost := func(o *op) *op {
		o.fate, o.state, o.revision, o.config = fateUnknown, docState{}, 0, 0
		return o
	}
	refuse := func(o *op, last int64) *op {
		o.fate, o.last, o.state, o.revision = fateRefused, last, docState{}, 0
		return o
	}
	del := func(call, end int64) *op {
		return &op{id: "d", action: actDelete, doc: "a", call: call, end: end, fate: fateOK}
	}
	list := func(call, end, revision int64, docs map[string]docState) *op {
		return &op{id: "l", action: actList, call: call, end: end, fate: fateOK, revision: revision, docs: docs}
	}
	for name, c := range map[string]struct {
		ops     []*op
		journal map[string]int64
		want    porcupine.CheckResult
	}{
		"reads follow writes":            {ops: []*op{put("x", 1, 2, 3, 1), get(3, 4, docState{1, "x"}), read(5, 6, 7, 1, "")}, want: porcupine.Ok},
		"lost write":                     {ops: []*op{put("x", 1, 2, 3, 1), get(3, 4, docState{})}, want: porcupine.Illegal},
		"stale read":                     {ops: []*op{put("x", 1, 2, 3, 1), put("y", 3, 4, 4, 2), get(5, 6, docState{1, "x"})}, want: porcupine.Illegal},
		"stale list":                     {ops: []*op{put("x", 1, 2, 3, 1), list(3, 4, 3, nil)}, want: porcupine.Illegal},
		"whole list":                     {ops: []*op{put("x", 1, 2, 3, 1), list(3, 4, 3, map[string]docState{"a": {1, "x"}})}, want: porcupine.Ok},
		"revision runs back":             {ops: []*op{read(1, 2, 9, 1, ""), read(3, 4, 8, 1, "")}, want: porcupine.Illegal},
		"two writes, one revision":       {ops: []*op{put("x", 1, 9, 3, 1), swap("s", 1, 9, 3, 1)}, want: porcupine.Illegal},
		"write applied twice":            {ops: []*op{put("x", 1, 2, 3, 1), put("y", 3, 4, 5, 3)}, want: porcupine.Illegal},
		"two swaps of one version":       {ops: []*op{swap("s", 1, 9, 3, 1), swap("t", 1, 9, 4, 1)}, want: porcupine.Illegal},
		"unknown write seen later":       {ops: []*op{lost(put("x", 1, 2, 0, 0)), get(3, 4, docState{}), get(5, 6, docState{1, "x"})}, journal: map[string]int64{"x": 3}, want: porcupine.Ok},
		"unknown write seen, then not":   {ops: []*op{lost(put("x", 1, 2, 0, 0)), get(3, 4, docState{1, "x"}), get(5, 6, docState{})}, journal: map[string]int64{"x": 3}, want: porcupine.Illegal},
		"seen, and not in the journal":   {ops: []*op{lost(put("x", 1, 2, 0, 0)), get(3, 4, docState{1, "x"})}, want: porcupine.Illegal},
		"wrong refusal":                  {ops: []*op{put("x", 1, 2, 3, 1), refuse(del(3, 4), 3)}, want: porcupine.Illegal},
		"right refusal":                  {ops: []*op{put("x", 1, 2, 3, 1), del(3, 4), refuse(put("y", 5, 6, 0, 0), 5)}, journal: map[string]int64{"d": 4}, want: porcupine.Ok},
		"refused, and applied later":     {ops: []*op{refuse(del(1, 2), 1), put("x", 3, 4, 3, 1), get(5, 6, docState{})}, journal: map[string]int64{"d": 4}, want: porcupine.Ok},
		"description of nobody":          {ops: []*op{read(1, 2, 3, 1, "ghost")}, want: porcupine.Illegal},
		"deleted document comes back":    {ops: []*op{put("x", 1, 2, 3, 1), del(3, 4), get(5, 6, docState{1, "x"})}, journal: map[string]int64{"d": 4}, want: porcupine.Illegal},
		"version starts anew after that": {ops: []*op{put("x", 1, 2, 3, 1), del(3, 4), put("y", 5, 6, 6, 1)}, journal: map[string]int64{"d": 4}, want: porcupine.Ok},
	} {
		history := operations(c.ops, func(o *op) int64 { return c.journal[o.id] })
		if got := porcupine.CheckOperationsTimeout(model(begin), history, 0); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if len(operations([]*op{lost(get(1, 2, docState{}))}, func(*op) int64 { return math.MaxInt64 })) != 0 {
		t.Error("a read without an answer is part of the history")
	}
}
