package storagetest

import (
	"math"
	"slices"
	"strings"
	"testing"

	"granary.dev/granary/actors/journal"
)

func counterPromises() []promise {
	return []promise{
		{"B4_CountersAreSetReplacedAndClearedWithEventsAndWithout", countersMove},
		{"B4_CountersAndEventsAreOneCommit", countersAreOfTheCommit},
		{"I1_FencedBatchSetsAndClearsNoCounter", fencedMovesNoCounter},
		{"I13_CountersOfGrainsDoNotMixAndAreErasedWithTheirs", eraseRemovesCounters},
		{"B4_CountersOutliveTheStoreThatWroteThem", countersOutlive},
	}
}

func (s *suite) wantCounters(t *testing.T, id journal.Identity, want ...journal.Counter) {
	t.Helper()
	got, err := s.Counters.Counters(s.ctx, id)
	must(t, err)
	if !slices.Equal(got, want) {
		t.Fatalf("counters of %s are %+v, want %+v", id, got, want)
	}
}

func countersMove(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	s.wantCounters(t, id)
	f, _ := s.acquire(t, id)
	s.wantCounters(t, id)
	calls, stored := journal.Counter{Name: "calls", Epoch: 7, Value: 20}, journal.Counter{Name: "storage/ŻÓŁĆ", Value: -1}
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: events(0, 2), SetCounters: []journal.Counter{stored, calls}}))
	s.wantCounters(t, id, calls, stored)
	// Without events: replaced, cleared, set twice, and set and cleared at once, where setting wins.
	most := journal.Counter{Name: "a", Epoch: math.MinInt64, Value: math.MaxInt64}
	again := journal.Counter{Name: "calls", Epoch: 8, Value: 0}
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 2,
		SetCounters: []journal.Counter{calls, again, most}, ClearCounters: []string{"unknown", stored.Name, "a"}}))
	s.wantCounters(t, id, most, again)
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 2, ClearCounters: []string{"a", "calls"}}))
	s.wantCounters(t, id)
	checkGapless(s.ctx, t, s.Journal, id)
}

func countersAreOfTheCommit(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	kept := journal.Counter{Name: "calls", Epoch: 1, Value: 1}
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: events(0, 1), SetCounters: []journal.Counter{kept}}))
	moved := journal.Counter{Name: "calls", Epoch: 1, Value: 2}
	for what, b := range map[string]journal.Batch{
		"at a wrong head, without events": {Head: 0, SetCounters: []journal.Counter{moved}},
		"at a wrong head":                 {Head: 2, Events: events(2, 1), SetCounters: []journal.Counter{moved}},
		"clearing at a wrong head":        {Head: 0, ClearCounters: []string{"calls"}},
	} {
		wantErr(t, what, s.Journal.Append(s.ctx, f, b), journal.ErrFenced)
	}
	// What fails behind the counters takes them with it.
	wantErr(t, "with a blob that is not there", s.Journal.Append(s.ctx, f, journal.Batch{Head: 1, Events: events(1, 1),
		SetCounters: []journal.Counter{moved}, ClaimBlobs: []string{"none"}}), journal.ErrNotFound)
	if err := s.Journal.Append(s.ctx, f, journal.Batch{Head: 1, SetCounters: []journal.Counter{moved, {}}}); err == nil {
		t.Fatal("a counter without a name was taken")
	}
	if err := s.Journal.Append(s.ctx, f, journal.Batch{Head: 1, SetCounters: []journal.Counter{{Name: strings.Repeat("n", 5000)}}}); err == nil {
		t.Fatal("a name of 5,000 bytes was taken")
	}
	s.wantCounters(t, id, kept)
}

func fencedMovesNoCounter(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	stale, _ := s.acquire(t, id)
	kept := journal.Counter{Name: "kept", Epoch: 1, Value: 1}
	must(t, s.Journal.Append(s.ctx, stale, journal.Batch{SetCounters: []journal.Counter{kept}}))
	f, _ := s.acquire(t, id)
	for _, b := range []journal.Batch{
		{SetCounters: []journal.Counter{{Name: "kept", Epoch: 9, Value: 9}, {Name: "new"}}},
		{ClearCounters: []string{"kept"}},
		{Events: events(0, 1), SetCounters: []journal.Counter{{Name: "new"}}, ClearCounters: []string{"kept"}},
	} {
		wantErr(t, "append", s.Journal.Append(s.ctx, stale, b), journal.ErrFenced)
	}
	s.wantCounters(t, id, kept)
	must(t, s.Journal.Release(s.ctx, f))
	wantErr(t, "after the release", s.Journal.Append(s.ctx, f, journal.Batch{ClearCounters: []string{"kept"}}), journal.ErrFenced)
	s.wantCounters(t, id, kept)
}

func eraseRemovesCounters(t *testing.T, s *suite) {
	list := []journal.Identity{grain("acme", "k1"), grain("acme", "k2"), {Kind: "tenant", Tenant: "acme", ID: "k1"}, grain("other", "k1")}
	for i, id := range list {
		f, _ := s.acquire(t, id)
		must(t, s.Journal.Append(s.ctx, f, journal.Batch{SetCounters: []journal.Counter{{Name: "n", Value: int64(i)}}}))
	}
	must(t, s.Journal.Erase(s.ctx, s.current(t, list[0])))
	s.wantCounters(t, list[0])
	for i, id := range list[1:] {
		s.wantCounters(t, id, journal.Counter{Name: "n", Value: int64(i + 1)})
	}
}

func countersOutlive(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	want := journal.Counter{Name: "calls", Epoch: 490_000, Value: 1_000}
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{SetCounters: []journal.Counter{want}}))
	if s.Crash != nil {
		crashed := &suite{Stores: s.Crash(t), opts: s.opts, ctx: s.ctx}
		crashed.wantCounters(t, id, want)
	}
	s.Stores = s.Reopen(t)
	s.wantCounters(t, id, want)
}
