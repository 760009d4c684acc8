package protocol_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"granary.dev/granary/cluster/protocol"
)

func place(t *testing.T, v protocol.View) *protocol.Placement {
	t.Helper()
	p, err := protocol.NewPlacement(v, protocol.NewTables(small, 2))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEachRoundMovesAtMostATenthOfThePartitions_A3(t *testing.T) {
	join := change(t)(viewOf(protocol.Live, protocol.Live, protocol.Live).Join(protocol.Member{NodeID: node(4)}, fp))
	drain := change(t)(viewOf(protocol.Live, protocol.Live, protocol.Live).Drain(node(2)))
	for name, v := range map[string]protocol.View{"join": join, "drain": drain} {
		t.Run(name, func(t *testing.T) {
			before := place(t, v).Partitions()
			total := 0
			for v.Round < protocol.Rounds {
				next, err := v.Advance()
				if err != nil {
					break // the joiner is live: all rounds are over
				}
				v = next
				after := place(t, v).Partitions()
				moved := 0
				for i := range after {
					if after[i] != before[i] {
						moved++
					}
				}
				if most := (len(after) + protocol.Rounds - 1) / protocol.Rounds; moved > most {
					t.Errorf("round %d moves %d partitions, at most %d may", v.Round, moved, most)
				}
				total += moved
				before = after
			}
			want := place(t, viewOf(protocol.Live, protocol.Live, protocol.Live, protocol.Live)).Partitions()
			if name == "drain" {
				want = place(t, viewOf(protocol.Live, protocol.Dead, protocol.Live)).Partitions()
			}
			if !slices.Equal(before, want) {
				t.Error("after the last round the placement is not that of the members who stay")
			}
			if total == 0 {
				t.Error("nothing moved")
			}
		})
	}
}

func TestEveryPartitionHasAnActiveOwner(t *testing.T) {
	all := []protocol.MemberState{protocol.Joining, protocol.Live, protocol.Draining, protocol.Left, protocol.Dead}
	for _, a := range all {
		for _, b := range all {
			for _, c := range all {
				v := viewOf(a, b, c)
				active := a.Active() || b.Active() || c.Active()
				for _, v.Round = range []int{0, 4, 10} {
					p := place(t, v)
					if _, ok := p.Owner(protocol.Identity{Kind: "kb", Tenant: "acme", ID: "x"}); ok != active {
						t.Fatalf("%v round %d: an owner %v, want %v", states(v), v.Round, ok, active)
					}
					for _, id := range p.Partitions() {
						if v.Gone(id) {
							t.Fatalf("%v round %d: %v owns something", states(v), v.Round, id)
						}
					}
				}
			}
		}
	}
}

func TestOverrideCountsWhileItsNodeIsLive_B3(t *testing.T) {
	kb := protocol.Identity{Kind: "kb", Tenant: "acme", ID: "handbook"}
	v := viewOf(protocol.Live, protocol.Live)
	home, _ := place(t, v).Owner(kb)
	other := node(1)
	if home == other {
		other = node(2)
	}
	v.Overrides = []protocol.Override{{Tenant: "acme", Node: other.Name}, {Tenant: "birch", Node: "node-9"}}
	if got, _ := place(t, v).Owner(kb); got != other {
		t.Errorf("with override %v, want %v", got, other)
	}
	for i := range v.Members {
		if v.Members[i].NodeID == other {
			v.Members[i].State = protocol.Draining
		}
	}
	if got, _ := place(t, v).Owner(kb); got != home {
		t.Errorf("while its node drains %v, want %v", got, home)
	}
}

func TestTenureEndsWithAMoveAndWithAMissedView(t *testing.T) {
	kb := protocol.Identity{Kind: "kb", Tenant: "acme", ID: "handbook"}
	at := func(version int64, name string) (protocol.View, *protocol.Placement) {
		v := viewOf(protocol.Live, protocol.Live)
		v.Version, v.CommittedAt = version, start.Add(time.Duration(version)*time.Second)
		if name != "" {
			v.Overrides = []protocol.Override{{Tenant: "acme", Node: name}}
		}
		return v, place(t, v)
	}
	_, home := at(1, "")
	owner, _ := home.Owner(kb)
	other := "node-1"
	if owner.Name == other {
		other = "node-2"
	}
	var ten *protocol.Tenures
	for _, step := range []struct {
		version int64
		on      string
		since   int64
	}{
		{1, "", 1},
		{2, "", 1},
		{3, other, 3},
		{4, other, 3},
		{5, "", 5}, // back home: not since 1
		{6, "", 5},
		{7, owner.Name, 7}, // the same node by another rule: careful is fine
		{8, "", 8},
		{10, "", 10}, // 9 was missed
		{11, "", 10},
	} {
		v, p := at(step.version, step.on)
		ten = ten.Follow(v, p)
		want := protocol.Tenure{Version: step.since, CommittedAt: start.Add(time.Duration(step.since) * time.Second), Through: step.version}
		if got := ten.Of(kb); got != want {
			t.Errorf("view %d on %q: %+v, want %+v", step.version, step.on, got, want)
		}
	}
}

func TestPlacementLookUpDoesNotAllocate(t *testing.T) {
	p := place(t, viewOf(protocol.Live, protocol.Live, protocol.Live))
	kb := protocol.Identity{Kind: "kb", Tenant: "0198c3f0-7e5a-7bd4-9a21-0f2d7c8e1a44", ID: "0198c3f0-7e5a-7bd4-9a21-0f2d7c8e1a45"}
	if n := testing.AllocsPerRun(100, func() { _, _ = p.Owner(kb) }); n != 0 {
		t.Fatalf("%v allocations per look-up, want 0", n)
	}
}

func TestEqualViewsGiveEqualPlacements_I11(t *testing.T) {
	v := viewOf(protocol.Live, protocol.Joining, protocol.Draining, protocol.Live)
	v.Round = 5
	v.Overrides = []protocol.Override{{Tenant: "acme", Node: "node-4"}}
	warm := protocol.NewTables(small, 2)
	for i := range 5 { // other views first, so that the memo forgets and remembers
		if _, err := protocol.NewPlacement(viewOf(slices.Repeat([]protocol.MemberState{protocol.Live}, i+1)...), warm); err != nil {
			t.Fatal(err)
		}
	}
	a, err := protocol.NewPlacement(v, warm)
	if err != nil {
		t.Fatal(err)
	}
	b := place(t, v)
	for i := range 500 {
		kb := protocol.Identity{Kind: "kb", Tenant: []string{"acme", "birch"}[i%2], ID: fmt.Sprint(i)}
		x, _ := a.Owner(kb)
		y, _ := b.Owner(kb)
		if x != y {
			t.Fatalf("%v: %v and %v", kb, x, y)
		}
	}
}
