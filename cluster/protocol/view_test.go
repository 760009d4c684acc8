package protocol_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"granary.dev/granary/cluster/protocol"
)

const fp = "rules"

var start = time.Unix(1000, 0).UTC()

func node(i int) protocol.NodeID {
	return protocol.NodeID{Name: fmt.Sprintf("node-%d", i), Boot: fmt.Sprintf("boot-%d", i)}
}

// viewOf gives a view whose members have the given states, node-1 first.
func viewOf(states ...protocol.MemberState) protocol.View {
	v := protocol.View{Version: 7, Fingerprint: fp, CommittedAt: start}
	for i, s := range states {
		v.Members = append(v.Members, protocol.Member{NodeID: node(i + 1), State: s})
	}
	return v
}

func states(v protocol.View) []protocol.MemberState {
	out := make([]protocol.MemberState, len(v.Members))
	for i, m := range v.Members {
		out[i] = m.State
	}
	return out
}

func change(t *testing.T) func(protocol.View, error) protocol.View {
	return func(v protocol.View, err error) protocol.View {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestJoinAdmitsOnlyWhoFits_I11(t *testing.T) {
	live, dead, joining := protocol.Live, protocol.Dead, protocol.Joining
	moving := viewOf(live, joining)
	moving.Round = 3
	cases := map[string]struct {
		view  protocol.View
		who   protocol.NodeID
		print string
		err   error
		want  []protocol.MemberState
	}{
		"the first is live at once":         {protocol.View{}, node(1), fp, nil, []protocol.MemberState{live}},
		"a later one joins":                 {viewOf(live), node(2), fp, nil, []protocol.MemberState{live, joining}},
		"two may join together":             {viewOf(live, joining), node(3), fp, nil, []protocol.MemberState{live, joining, joining}},
		"nobody left but the dead":          {viewOf(dead), node(2), fp, nil, []protocol.MemberState{dead, live}},
		"a new boot replaces the dead":      {viewOf(live, dead), protocol.NodeID{Name: "node-2", Boot: "x"}, fp, nil, []protocol.MemberState{live, joining}},
		"the dead boot itself":              {viewOf(live, dead), node(2), fp, protocol.ErrFinal, nil},
		"other tables":                      {viewOf(live), node(2), "other", protocol.ErrFingerprint, nil},
		"a second boot of a live name":      {viewOf(live), protocol.NodeID{Name: "node-1", Boot: "x"}, fp, protocol.ErrNameTaken, nil},
		"the same boot twice":               {viewOf(live), node(1), fp, protocol.ErrNameTaken, nil},
		"while partitions move":             {moving, node(3), fp, protocol.ErrMoving, nil},
		"a name that would split the id":    {viewOf(live), protocol.NodeID{Name: "a#b", Boot: "x"}, fp, protocol.ErrInvalidNodeID, nil},
		"without a boot":                    {viewOf(live), protocol.NodeID{Name: "a"}, fp, protocol.ErrInvalidNodeID, nil},
		"members that all left still count": {viewOf(protocol.Left), node(2), "other", protocol.ErrFingerprint, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			before := fmt.Sprint(c.view)
			next, err := c.view.Join(protocol.Member{NodeID: c.who}, c.print)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if fmt.Sprint(c.view) != before {
				t.Fatal("the old view was changed")
			}
			if err == nil && (!slices.Equal(states(next), c.want) || next.Version != c.view.Version+1 || next.Fingerprint != fp) {
				t.Fatalf("got %+v, want states %v", next, c.want)
			}
		})
	}
}

func TestFinalStatesStayFinal(t *testing.T) {
	for _, s := range []protocol.MemberState{protocol.Dead, protocol.Left} {
		v := viewOf(protocol.Live, s)
		if _, err := v.MarkDead([]protocol.NodeID{node(2)}); !errors.Is(err, protocol.ErrNotMember) {
			t.Errorf("%s may be marked dead: %v", s, err)
		}
		if _, err := v.Leave(node(2)); !errors.Is(err, protocol.ErrNotMember) {
			t.Errorf("%s may leave: %v", s, err)
		}
		if _, err := v.Drain(node(2)); !errors.Is(err, protocol.ErrNotMember) {
			t.Errorf("%s may drain: %v", s, err)
		}
		if !v.Gone(node(2)) {
			t.Errorf("%s is not gone", s)
		}
		if !v.Gone(node(3)) || v.Gone(node(1)) {
			t.Error("a stranger is gone, a live member is not")
		}
	}
}

func TestDeathInTheMiddleOfAMoveEndsItsRounds(t *testing.T) {
	v := viewOf(protocol.Live, protocol.Joining)
	v.Round = 4
	v = change(t)(v.MarkDead([]protocol.NodeID{node(2)}))
	if v.Round != 0 || v.Version != 8 {
		t.Fatalf("round %d of view %d, want 0 of 8", v.Round, v.Version)
	}
	v = viewOf(protocol.Live, protocol.Joining, protocol.Draining)
	v.Round = 4
	v = change(t)(v.MarkDead([]protocol.NodeID{node(2), node(3)}))
	if v.Round != 0 || v.Version != 8 {
		t.Fatalf("two at once: round %d of view %d, want 0 of 8", v.Round, v.Version)
	}
}

func TestDrainingMemberStaysUntilItSaysItself(t *testing.T) {
	v := change(t)(viewOf(protocol.Live, protocol.Live).Drain(node(2)))
	for v.Round < protocol.Rounds {
		v = change(t)(v.Advance())
	}
	if m, _ := v.Find(node(2)); m.State != protocol.Draining {
		t.Fatalf("after all rounds it is %s", m.State)
	}
	if _, err := v.Advance(); !errors.Is(err, protocol.ErrUnchanged) {
		t.Fatalf("a round after the last: %v", err)
	}
	if _, err := v.Drain(node(1)); !errors.Is(err, protocol.ErrMoving) {
		t.Fatalf("a second drain meanwhile: %v", err)
	}
	v = change(t)(v.Leave(node(2)))
	if v.Round != 0 || v.Moving() {
		t.Fatalf("after it left: %+v", v)
	}
}

func TestOverridesOfALostNodeGoWithIt_B3(t *testing.T) {
	v := change(t)(viewOf(protocol.Live, protocol.Live, protocol.Draining).Relocate("birch", "node-1"))
	v = change(t)(v.Relocate("acme", "node-2"))
	if _, err := v.Relocate("acme", "node-2"); !errors.Is(err, protocol.ErrUnchanged) {
		t.Errorf("to where it is: %v", err)
	}
	if _, err := v.Relocate("cedar", ""); !errors.Is(err, protocol.ErrUnchanged) {
		t.Errorf("back to where it never left: %v", err)
	}
	for _, name := range []string{"node-3", "node-9"} {
		if _, err := v.Relocate("acme", name); !errors.Is(err, protocol.ErrNotMember) {
			t.Errorf("to %s, which is not live: %v", name, err)
		}
	}
	v = change(t)(v.MarkDead([]protocol.NodeID{node(2)}))
	want := []protocol.Override{{Tenant: "birch", Node: "node-1"}}
	if !slices.Equal(v.Overrides, want) {
		t.Errorf("overrides %v, want %v", v.Overrides, want)
	}
	if v = change(t)(v.Relocate("birch", "")); len(v.Overrides) != 0 {
		t.Errorf("overrides %v, want none", v.Overrides)
	}
}

func TestNodeIDsSurviveTheirText(t *testing.T) {
	if got, err := protocol.ParseNodeID(node(1).String()); err != nil || got != node(1) {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "a", "a#", "#b", "a#b#c", "a b#c"} {
		if _, err := protocol.ParseNodeID(s); !errors.Is(err, protocol.ErrInvalidNodeID) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestTheGoneDoNotAddUp(t *testing.T) {
	v := viewOf(protocol.Live)
	for i := range 200 {
		id := protocol.NodeID{Name: fmt.Sprintf("pod-%d", i), Boot: "b"}
		v = change(t)(v.Join(protocol.Member{NodeID: id}, fp))
		v = change(t)(v.MarkDead([]protocol.NodeID{id}))
		if len(v.Members) > 34 || !v.Gone(id) || v.Gone(node(1)) {
			t.Fatalf("after %d: %d members", i, len(v.Members))
		}
	}
}

func TestWhatAnOperatorWantsIsNotUndoneForLoad_B3(t *testing.T) {
	v := change(t)(viewOf(protocol.Live, protocol.Live).Place(protocol.Override{Tenant: "acme", Node: "node-1", Auto: true}))
	v = change(t)(v.Relocate("acme", "node-1")) // the operator wants it there for good
	if o, _ := v.Override("acme"); o.Auto {
		t.Fatal("it still ends by itself")
	}
	if _, err := v.Place(protocol.Override{Tenant: "acme", Node: "node-1", Auto: true}); !errors.Is(err, protocol.ErrUnchanged) {
		t.Errorf("placing it there for load as well: %v", err)
	}
	if v = change(t)(v.Relocate("acme", "")); len(v.Overrides) != 0 {
		t.Error("it is not given back")
	}
}
