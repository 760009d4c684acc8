package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func journalPromises() []promise {
	return []promise{
		{"I4_EventsComeBackAsTheyWere", eventsComeBack},
		{"EventsArePagedInOrder", eventsPaged},
		{"EventOfAMegabyteComesBack", bigEvent},
		{"UnicodeIdentitiesAreToldApart", unicodeIdentities},
		{"EmptyBatchKeepsTheHead", emptyBatch},
	}
}

func eventsComeBack(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	want := events(0, 3)
	want[1].Data, want[1].Principal, want[1].RequestID, want[1].Remote, want[1].Hash = nil, "", "", "", nil
	want[2].Data = []byte{0, 255, 0, '\'', '"', 1}
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: want[:1]}))
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 1, Events: want[1:]}))
	got := checkGapless(s.ctx, t, s.Journal, id)
	sameEvents(t, got, want)
	if got[0].Time.Location() != time.UTC {
		t.Fatalf("times come back in %v, want UTC", got[0].Time.Location())
	}
}

func eventsPaged(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	want := events(0, 10)
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: want}))
	for _, c := range []struct {
		after       int64
		limit, n    int
		description string
	}{
		{0, 4, 4, "first page"}, {4, 4, 4, "second"}, {8, 4, 2, "the rest"}, {10, 4, 0, "after the last"},
		{99, 4, 0, "far after"}, {0, 0, 0, "no limit asked"}, {0, 100, 10, "all"}, {-5, 3, 3, "before the first"},
	} {
		got, err := s.Journal.Events(s.ctx, id, c.after, c.limit)
		must(t, err)
		if len(got) != c.n {
			t.Fatalf("%s: %d events, want %d", c.description, len(got), c.n)
		}
		if c.n > 0 {
			from := max(c.after, 0)
			sameEvents(t, got, want[from:int(from)+c.n])
		}
	}
}

func bigEvent(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	want := events(0, 3)
	want[1].Data = noise(7, 1<<20)
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: want}))
	sameEvents(t, s.all(t, id), want)
}

func unicodeIdentities(t *testing.T, s *suite) {
	ids := []journal.Identity{
		grain("Żółć", "日本語"), grain("Żółć", "日本"), grain("zolc", "日本語"), grain("ŻÓŁĆ", "日本語"),
		grain("a/b", "c"), grain("a", "b/c"), grain("é", "x"), grain("e\u0301", "x"), // composed and decomposed
		grain("A", "x"), grain("a", "x"), grain("a ", "x"), grain("'; DROP TABLE owner; --", "%_🦀"),
	}
	for i, id := range ids {
		f, head := s.acquire(t, id)
		if head != 0 || f.Epoch != 1 {
			t.Fatalf("%q was mistaken for an earlier one", id)
		}
		s.append(t, f, 0, i+1)
	}
	for i, id := range ids {
		if n := len(checkGapless(s.ctx, t, s.Journal, id)); n != i+1 {
			t.Fatalf("%q has %d events, want %d", id, n, i+1)
		}
	}
}

func emptyBatch(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	head := s.append(t, f, 0, 1)
	for range 3 {
		must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: head}))
	}
	s.append(t, f, head, 1)
	checkGapless(s.ctx, t, s.Journal, id)
}

func idempotencyPromises() []promise {
	return []promise{
		{"I5_ResponseIsFoundUnderItsKeyOnly", keyFound},
		{"I5_AppliedKeyAppliesNoSecondTime", keyAppliesOnce},
		{"I5_ExpiredKeyIsFreeAgain", keyExpires},
		{"I5_FencedBatchRecordsNoKey", fencedRecordsNoKey},
	}
}

func key(method, k string) journal.IdempotencyKey {
	return journal.IdempotencyKey{Principal: "alice", Method: method, Key: k}
}

func record(k journal.IdempotencyKey, response string, expires time.Time) journal.Idempotency {
	return journal.Idempotency{
		IdempotencyKey: k, RequestHash: "hash of " + k.Key, Response: []byte(response),
		Expires: expires.Truncate(time.Microsecond),
	}
}

func (s *suite) wantKey(t *testing.T, id journal.Identity, want journal.Idempotency) {
	t.Helper()
	got, ok, err := s.Journal.FindIdempotency(s.ctx, s.current(t, id), want.IdempotencyKey)
	must(t, err)
	if !ok || got.IdempotencyKey != want.IdempotencyKey || got.RequestHash != want.RequestHash ||
		!bytes.Equal(got.Response, want.Response) || !got.Expires.Equal(want.Expires) {
		t.Fatalf("found %v %+v, want %+v", ok, got, want)
	}
}

func (s *suite) wantNoKey(t *testing.T, id journal.Identity, k journal.IdempotencyKey) {
	t.Helper()
	if got, ok, err := s.Journal.FindIdempotency(s.ctx, s.current(t, id), k); err != nil || ok {
		t.Fatalf("key %+v: found %v %+v, error %v; want none", k, ok, got, err)
	}
}

func keyFound(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	later := time.Now().Add(time.Hour)
	want := []journal.Idempotency{
		record(key("AddDocument", "1"), "first", later), record(key("AddDocument", "2"), "", later),
		record(key("DeleteDocument", "1"), "other method", later),
	}
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: events(0, 2), Idempotency: want}))
	for _, w := range want {
		s.wantKey(t, id, w)
	}
	s.wantNoKey(t, id, key("AddDocument", "3"))
	s.wantNoKey(t, id, journal.IdempotencyKey{Principal: "bob", Method: "AddDocument", Key: "1"})
	s.acquire(t, grain("acme", "k2"))
	s.wantNoKey(t, grain("acme", "k2"), want[0].IdempotencyKey)
	s.acquire(t, id) // the next holder finds them too
	s.wantKey(t, id, want[0])
}

func keyAppliesOnce(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	first := record(key("AddDocument", "1"), "first", time.Now().Add(time.Hour))
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: events(0, 1), Idempotency: []journal.Idempotency{first}}))
	second := record(first.IdempotencyKey, "second", time.Now().Add(2*time.Hour))
	err := s.Journal.Append(s.ctx, f, journal.Batch{
		Head: 1, Events: events(1, 1), Idempotency: []journal.Idempotency{second},
		SetWakeups: []journal.Wakeup{{Key: "d", Due: at(0)}},
	})
	wantErr(t, "applying a key twice", err, journal.ErrFenced)
	s.wantKey(t, id, first)
	if n := len(checkGapless(s.ctx, t, s.Journal, id)); n != 1 {
		t.Fatalf("%d events after applying one key twice", n)
	}
	s.wantDue(t, at(time.Hour), 10)
	s.append(t, f, 1, 1)
}

func keyExpires(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	expired := record(key("AddDocument", "1"), "first", time.Now().Add(-time.Minute))
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: events(0, 1), Idempotency: []journal.Idempotency{expired}}))
	s.wantNoKey(t, id, expired.IdempotencyKey)
	fresh := record(expired.IdempotencyKey, "second", time.Now().Add(time.Hour))
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 1, Events: events(1, 1), Idempotency: []journal.Idempotency{fresh}}))
	s.wantKey(t, id, fresh)
}

func fencedRecordsNoKey(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	stale, _ := s.acquire(t, id)
	s.acquire(t, id)
	rec := record(key("AddDocument", "1"), "first", time.Now().Add(time.Hour))
	err := s.Journal.Append(s.ctx, stale, journal.Batch{Events: events(0, 1), Idempotency: []journal.Idempotency{rec}})
	wantErr(t, "append", err, journal.ErrFenced)
	s.wantNoKey(t, id, rec.IdempotencyKey)
}

func wakeupPromises() []promise {
	return []promise{
		{"I10_WakeupsAreSetMovedAndClearedWithTheEvents", wakeupsMove},
		{"I10_FencedBatchSetsAndClearsNone", fencedMovesNoWakeup},
		{"I10_MostOverdueComeFirst", mostOverdueFirst},
	}
}

// wantDue holds what is due at now against the keys wanted, in order.
func (s *suite) wantDue(t *testing.T, now time.Time, limit int, want ...string) []journal.DueWakeup {
	t.Helper()
	due, err := s.Journal.DueWakeups(s.ctx, now, limit)
	must(t, err)
	var got []string
	for _, d := range due {
		got = append(got, d.Key)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("due are %q, want %q", got, want)
	}
	return due
}

func wakeupsMove(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: events(0, 1), SetWakeups: []journal.Wakeup{
		{Key: "doc-1", Due: at(time.Minute)}, {Key: "doc-2", Due: at(2 * time.Minute)},
	}}))
	s.wantDue(t, at(0), 10)
	due := s.wantDue(t, at(time.Minute), 10, "doc-1") // due at the very moment
	if due[0].Identity != id || !due[0].Due.Equal(at(time.Minute)) {
		t.Fatalf("due is %+v", due[0])
	}
	s.wantDue(t, at(time.Hour), 10, "doc-1", "doc-2")
	// Without events: moved, cleared, and both at once, where setting wins.
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 1,
		SetWakeups:   []journal.Wakeup{{Key: "doc-1", Due: at(3 * time.Minute)}, {Key: "doc-3", Due: at(0)}},
		ClearWakeups: []string{"unknown", "doc-3"},
	}))
	s.wantDue(t, at(time.Hour), 10, "doc-3", "doc-2", "doc-1")
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 1, ClearWakeups: []string{"doc-2", "doc-3"}}))
	s.wantDue(t, at(time.Hour), 10, "doc-1")
}

func fencedMovesNoWakeup(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	stale, _ := s.acquire(t, id)
	must(t, s.Journal.Append(s.ctx, stale, journal.Batch{SetWakeups: []journal.Wakeup{{Key: "kept", Due: at(0)}}}))
	s.acquire(t, id)
	err := s.Journal.Append(s.ctx, stale, journal.Batch{
		SetWakeups: []journal.Wakeup{{Key: "new", Due: at(0)}}, ClearWakeups: []string{"kept"},
	})
	if !errors.Is(err, journal.ErrFenced) {
		t.Fatalf("got %v", err)
	}
	s.wantDue(t, at(time.Hour), 10, "kept")
}

func mostOverdueFirst(t *testing.T, s *suite) {
	for i, tenant := range []string{"zeta", "acme", "mid"} {
		f, _ := s.acquire(t, grain(tenant, "k"))
		var set []journal.Wakeup
		for j := range 4 {
			n := 3*j + i
			set = append(set, journal.Wakeup{Key: fmt.Sprintf("w%02d", n), Due: at(time.Duration(n) * time.Second)})
		}
		slices.Reverse(set)
		must(t, s.Journal.Append(s.ctx, f, journal.Batch{SetWakeups: set}))
	}
	s.wantDue(t, at(time.Hour), 5, "w00", "w01", "w02", "w03", "w04")
	s.wantDue(t, at(2*time.Second), 5, "w00", "w01", "w02")
	s.wantDue(t, at(time.Hour), 0)
}
