package storagetest

import (
	"slices"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func deadLetterPromises() []promise {
	return []promise{
		{"A7_DeadLettersAreSetReplacedAndClearedWithTheEvents", deadLettersMove},
		{"A7_FencedBatchSetsAndClearsNone", fencedMovesNoDeadLetter},
		{"A7_DeadLettersOfAllGrainsArePagedInOrder", deadLettersPaged},
		{"I13_EraseRemovesTheDeadLettersOfItsGrainOnly", eraseRemovesDeadLetters},
	}
}

func dead(k string, since time.Time) journal.DeadLetter {
	return journal.DeadLetter{Key: k, Name: "ŻÓŁĆ of " + k + ".pdf", Reason: "QUARANTINED", Since: since}
}

// wantDead reads all dead letters, two at a time.
func (s *suite) wantDead(t *testing.T, want ...journal.DeadLetterRow) {
	t.Helper()
	var got []journal.DeadLetterRow
	var last journal.DeadLetterRow
	for {
		page, err := s.Journal.DeadLetters(s.ctx, last, 2)
		must(t, err)
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		last = page[len(page)-1]
	}
	if !slices.EqualFunc(got, want, func(a, b journal.DeadLetterRow) bool {
		return a.Identity == b.Identity && a.Key == b.Key && a.Name == b.Name && a.Reason == b.Reason && a.Since.Equal(b.Since)
	}) {
		t.Fatalf("dead letters are %+v, want %+v", got, want)
	}
}

func rowOf(id journal.Identity, d journal.DeadLetter) journal.DeadLetterRow {
	return journal.DeadLetterRow{Identity: id, DeadLetter: d}
}

func deadLettersMove(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	s.wantDead(t)
	one, two := dead("doc-1", at(0)), dead("doc-2", at(time.Minute))
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: events(0, 1), SetDeadLetters: []journal.DeadLetter{two, one}}))
	s.wantDead(t, rowOf(id, one), rowOf(id, two))
	// Without events: replaced, cleared, and both at once, where setting wins.
	again, three := one, dead("doc-3", at(0))
	again.Reason, again.Name, again.Since = "TOO_LARGE", "", at(time.Hour)
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 1,
		SetDeadLetters: []journal.DeadLetter{one, again, three}, ClearDeadLetters: []string{"unknown", "doc-2", "doc-3"}}))
	s.wantDead(t, rowOf(id, again), rowOf(id, three))
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 1, ClearDeadLetters: []string{"doc-1", "doc-3"}}))
	s.wantDead(t)
	if list, err := s.Journal.DeadLetters(s.ctx, journal.DeadLetterRow{}, 0); err != nil || len(list) != 0 {
		t.Fatalf("no limit asked: %+v, %v", list, err)
	}
}

func fencedMovesNoDeadLetter(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	stale, _ := s.acquire(t, id)
	kept := dead("kept", at(0))
	must(t, s.Journal.Append(s.ctx, stale, journal.Batch{SetDeadLetters: []journal.DeadLetter{kept}}))
	s.acquire(t, id)
	wantErr(t, "append", s.Journal.Append(s.ctx, stale, journal.Batch{
		SetDeadLetters: []journal.DeadLetter{dead("new", at(0))}, ClearDeadLetters: []string{"kept"}}), journal.ErrFenced)
	s.wantDead(t, rowOf(id, kept))
}

func deadLettersPaged(t *testing.T, s *suite) {
	var want []journal.DeadLetterRow
	for _, id := range []journal.Identity{ // in the order of (tenant, kind, id)
		grain("acme", "k1"), grain("acme", "k2"), {Kind: "tenant", Tenant: "acme", ID: "k0"}, grain("other", "k1"), grain("Żółć", "a"),
	} {
		f, _ := s.acquire(t, id)
		var set []journal.DeadLetter
		for _, k := range []string{"A", "a", "b", "é"} {
			d := dead(k, at(0))
			set = append(set, d)
			want = append(want, rowOf(id, d))
		}
		slices.Reverse(set)
		must(t, s.Journal.Append(s.ctx, f, journal.Batch{SetDeadLetters: set}))
	}
	s.wantDead(t, want...)
	for i := range want { // from any row on, whether it is still there or not
		page, err := s.Journal.DeadLetters(s.ctx, want[i], 100)
		must(t, err)
		if len(page) != len(want)-i-1 {
			t.Fatalf("%d dead letters after number %d of %d", len(page), i+1, len(want))
		}
	}
}

func eraseRemovesDeadLetters(t *testing.T, s *suite) {
	victim, other := grain("acme", "k1"), grain("other", "k1")
	d := dead("doc", at(0))
	f, _ := s.acquire(t, victim)
	g, _ := s.acquire(t, other)
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{SetDeadLetters: []journal.DeadLetter{d}}))
	must(t, s.Journal.Append(s.ctx, g, journal.Batch{SetDeadLetters: []journal.DeadLetter{d}}))
	must(t, s.Journal.Erase(s.ctx, f))
	s.wantDead(t, rowOf(other, d))
}
