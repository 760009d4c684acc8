package storagetest

import (
	"bytes"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func snapshotPromises() []promise {
	return []promise{
		{"I12_NewestSnapshotComesBackAsItWas", snapshotComesBack},
		{"I12_OlderSnapshotIsIgnored", olderSnapshot},
		{"I12_SnapshotBeyondTheHeadIsRefused", snapshotBeyondHead},
	}
}

func (s *suite) wantSnapshot(t *testing.T, id journal.Identity, want journal.Snapshot) {
	t.Helper()
	got, err := s.Journal.LoadSnapshot(s.ctx, id)
	must(t, err)
	if got.Seq != want.Seq || !bytes.Equal(got.State, want.State) {
		t.Fatalf("snapshot at %d with %d bytes, want at %d with %d", got.Seq, len(got.State), want.Seq, len(want.State))
	}
}

func snapshotComesBack(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	head := s.append(t, f, 0, 9)
	for i, want := range []journal.Snapshot{
		{Seq: 0, State: []byte("small")},
		{Seq: 1, State: nil},
		{Seq: 2, State: bytes.Repeat([]byte("compresses well "), 10_000)},
		{Seq: 3, State: noise(1, 200_000)},
		{Seq: 4, State: noise(2, 5<<20)},
		{Seq: head, State: []byte("at the head")},
	} {
		must(t, s.Journal.SaveSnapshot(s.ctx, f, want))
		s.wantSnapshot(t, id, want)
		if i%3 == 0 { // the next holder loads and replaces it
			f, _ = s.acquire(t, id)
			s.wantSnapshot(t, id, want)
		}
	}
}

func olderSnapshot(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	s.append(t, f, 0, 5)
	want := journal.Snapshot{Seq: 4, State: []byte("four")}
	must(t, s.Journal.SaveSnapshot(s.ctx, f, want))
	must(t, s.Journal.SaveSnapshot(s.ctx, f, journal.Snapshot{Seq: 3, State: []byte("three")}))
	s.wantSnapshot(t, id, want)
	same := journal.Snapshot{Seq: 4, State: []byte("four again")}
	must(t, s.Journal.SaveSnapshot(s.ctx, f, same))
	s.wantSnapshot(t, id, same)
}

func snapshotBeyondHead(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	head := s.append(t, f, 0, 2)
	if err := s.Journal.SaveSnapshot(s.ctx, f, journal.Snapshot{Seq: head + 1, State: []byte("x")}); err == nil {
		t.Fatal("a snapshot of events that do not exist was accepted")
	}
	_, err := s.Journal.LoadSnapshot(s.ctx, id)
	wantErr(t, "load", err, journal.ErrNotFound)
}

func indexPromises() []promise {
	return []promise{
		{"IndexComesBackAsItWas", indexComesBack},
		{"LargeIndexIsReplacedAsAWhole", largeIndexReplaced},
	}
}

func (s *suite) wantIndex(t *testing.T, id journal.Identity, want []byte) {
	t.Helper()
	got, err := s.Journal.LoadIndex(s.ctx, id)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Fatalf("index of %d bytes differs from the one of %d", len(got), len(want))
	}
}

func indexComesBack(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	for i, n := range []int{10, 0, 256 << 10, 5<<20 + 17, 1 << 20, 100, 3 << 20, 1000} { // grows into parts and shrinks again
		want := noise(uint64(i), n)
		must(t, s.Journal.SaveIndex(s.ctx, f, want))
		s.wantIndex(t, id, want)
		if i%3 == 0 { // the next holder loads and replaces it
			f, _ = s.acquire(t, id)
			s.wantIndex(t, id, want)
		}
	}
}

// largeIndexReplaced loads while another goroutine replaces: every load sees
// one index whole.
func largeIndexReplaced(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	const versions = 12
	want := make([][]byte, versions)
	for i := range want {
		want[i] = noise(uint64(i), 2<<20)
		want[i][0] = byte(i)
	}
	must(t, s.Journal.SaveIndex(s.ctx, f, want[0]))
	saved := make(chan error, 1)
	go func() {
		for _, data := range want[1:] {
			if err := s.Journal.SaveIndex(s.ctx, f, data); err != nil {
				saved <- err
				return
			}
		}
		saved <- nil
	}()
	for done := false; !done; {
		select {
		case err := <-saved:
			must(t, err)
			done = true
		default:
		}
		got, err := s.Journal.LoadIndex(s.ctx, id)
		must(t, err)
		if !bytes.Equal(got, want[got[0]]) {
			t.Fatalf("index version %d is a mixture", got[0])
		}
	}
	s.wantIndex(t, id, want[versions-1])
}

func erasePromises() []promise {
	return []promise{
		{"I3_EraseRemovesAllButEpochAndHead", eraseKeepsHead},
		{"I12_EraseKeepsTheSnapshotAtTheHead", eraseKeepsSnapshotAtHead},
		{"I13_EraseLeavesTheNeighboursAlone", eraseLeavesNeighbours},
	}
}

// fill gives a grain one of everything; its snapshot is at its head.
func (s *suite) fill(t *testing.T, id journal.Identity, n int) (journal.Fence, journal.Idempotency) {
	t.Helper()
	f, head := s.acquire(t, id)
	rec := record(key("AddDocument", "1"), "done", time.Now().Add(time.Hour))
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{
		Head: head, Events: events(head, n), Idempotency: []journal.Idempotency{rec},
		SetWakeups: []journal.Wakeup{{Key: "wake " + id.String(), Due: at(0)}},
	}))
	must(t, s.Journal.SaveSnapshot(s.ctx, f, journal.Snapshot{Seq: head + int64(n), State: []byte("state of " + id.String())}))
	must(t, s.Journal.SaveIndex(s.ctx, f, noise(3, 2<<20)))
	return f, rec
}

func eraseKeepsHead(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, rec := s.fill(t, id, 1300)
	s.append(t, f, 1300, 1) // the snapshot lags the head now
	must(t, s.Journal.Erase(s.ctx, f))
	must(t, s.Journal.Erase(s.ctx, f)) // again: nothing left, no error
	if list := s.all(t, id); len(list) != 0 {
		t.Fatalf("%d events after erasure", len(list))
	}
	_, err := s.Journal.LoadSnapshot(s.ctx, id)
	wantErr(t, "snapshot after erasure", err, journal.ErrNotFound)
	_, err = s.Journal.LoadIndex(s.ctx, id)
	wantErr(t, "index after erasure", err, journal.ErrNotFound)
	s.wantNoKey(t, id, rec.IdempotencyKey)
	s.wantDue(t, at(time.Hour), 10)
	o, err := s.Journal.Owner(s.ctx, id)
	must(t, err)
	if o.Head != 1301 || o.Epoch != f.Epoch || o.Activation != f.Activation {
		t.Fatalf("owner row after erasure is %+v, want head 1301 and fence %+v", o, f)
	}
	// What was on its way when the grain was erased does not come back.
	must(t, s.Journal.SaveSnapshot(s.ctx, f, journal.Snapshot{Seq: 1300, State: []byte("late")}))
	_, err = s.Journal.LoadSnapshot(s.ctx, id)
	wantErr(t, "snapshot of before the erasure", err, journal.ErrNotFound)
	// Life goes on where it was: neither sequence numbers, epochs nor keys start over.
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{
		Head: 1301, Events: events(1301, 2), Idempotency: []journal.Idempotency{rec},
	}))
	sameEvents(t, s.all(t, id), events(1301, 2))
	s.wantKey(t, id, rec)
	must(t, s.Journal.SaveSnapshot(s.ctx, f, journal.Snapshot{Seq: 1302, State: []byte("anew")}))
	must(t, s.Journal.SaveIndex(s.ctx, f, []byte("anew")))
	s.wantIndex(t, id, []byte("anew"))
	next, head := s.acquire(t, id)
	if next.Epoch != f.Epoch+1 || head != 1303 {
		t.Fatalf("acquired epoch %d at head %d", next.Epoch, head)
	}
}

func eraseKeepsSnapshotAtHead(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.fill(t, id, 5)
	tombstone := journal.Snapshot{Seq: 5, State: []byte("erased")}
	must(t, s.Journal.SaveSnapshot(s.ctx, f, tombstone))
	must(t, s.Journal.Erase(s.ctx, f))
	s.wantSnapshot(t, id, tombstone)
	if list := s.all(t, id); len(list) != 0 {
		t.Fatalf("%d events after erasure", len(list))
	}
	_, err := s.Journal.LoadIndex(s.ctx, id)
	wantErr(t, "index after erasure", err, journal.ErrNotFound)
}

func eraseLeavesNeighbours(t *testing.T, s *suite) {
	victim := grain("acme", "k1")
	neighbours := []journal.Identity{grain("acme", "k2"), grain("other", "k1"), {Kind: "tenant", Tenant: "acme", ID: "k1"}}
	recs := map[journal.Identity]journal.Idempotency{}
	for _, id := range neighbours {
		_, recs[id] = s.fill(t, id, 3)
	}
	f, _ := s.fill(t, victim, 3)
	must(t, s.Journal.Erase(s.ctx, f))
	for _, id := range neighbours {
		if n := len(checkGapless(s.ctx, t, s.Journal, id)); n != 3 {
			t.Fatalf("%s has %d events left of 3", id, n)
		}
		s.wantSnapshot(t, id, journal.Snapshot{Seq: 3, State: []byte("state of " + id.String())})
		s.wantIndex(t, id, noise(3, 2<<20))
		s.wantKey(t, id, recs[id])
	}
	due, err := s.Journal.DueWakeups(s.ctx, at(time.Hour), 10)
	must(t, err)
	if len(due) != len(neighbours) {
		t.Fatalf("%d wake-ups left, want %d", len(due), len(neighbours))
	}
}
