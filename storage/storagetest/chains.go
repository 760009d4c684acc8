package storagetest

import (
	"bytes"
	"testing"

	"granary.dev/granary/actors/journal"
)

func chainPromises() []promise {
	return []promise{
		{"I1_OwnerRowHasTheHashOfTheHead", ownerHasHash},
		{"I1_SnapshotKeepsTheHashItWasMadeAt", snapshotHasHash},
		{"I1_ErasedJournalKeepsTheAnchorItsChainGoesOnFrom", eraseKeepsAnchor},
	}
}

func (s *suite) wantOwner(t *testing.T, id journal.Identity, head int64, hash []byte, erased int64, anchor []byte) {
	t.Helper()
	o, err := s.Journal.Owner(s.ctx, id)
	must(t, err)
	if o.Head != head || !bytes.Equal(o.Hash, hash) || o.Erased != erased || !bytes.Equal(o.Anchor, anchor) {
		t.Fatalf("owner of %s is %+v, want head %d with %x, erased to %d with %x", id, o, head, hash, erased, anchor)
	}
}

func ownerHasHash(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	s.wantOwner(t, id, 0, nil, 0, nil)
	list := events(0, 3)
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: list}))
	s.wantOwner(t, id, 3, list[2].Hash, 0, nil)
	// Nothing but an event moves it.
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 3, SetWakeups: []journal.Wakeup{{Key: "w", Due: at(0)}}}))
	f, _ = s.acquire(t, id)
	must(t, s.Journal.Release(s.ctx, f))
	s.wantOwner(t, id, 3, list[2].Hash, 0, nil)
	// One of an older version, without a hash, leaves none that would be wrong.
	f, _ = s.acquire(t, id)
	bare := events(3, 1)
	bare[0].Hash = nil
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 3, Events: bare}))
	s.wantOwner(t, id, 4, nil, 0, nil)
	s.Stores = s.Reopen(t)
	s.append(t, s.current(t, id), 4, 1)
	s.wantOwner(t, id, 5, events(4, 1)[0].Hash, 0, nil)
}

func snapshotHasHash(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	s.append(t, f, 0, 4)
	for _, want := range []journal.Snapshot{{Seq: 2, State: []byte("two"), Hash: noise(2, journal.HashSize)}, {Seq: 3, State: []byte("three")}} {
		must(t, s.Journal.SaveSnapshot(s.ctx, f, want))
		got, err := s.Journal.LoadSnapshot(s.ctx, id)
		must(t, err)
		if got.Seq != want.Seq || !bytes.Equal(got.State, want.State) || !bytes.Equal(got.Hash, want.Hash) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	}
}

func eraseKeepsAnchor(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	list := events(0, 5)
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: list[:3]}))
	must(t, s.Journal.SaveSnapshot(s.ctx, f, journal.Snapshot{Seq: 3, State: []byte("gone"), Hash: list[2].Hash}))
	must(t, s.Journal.Erase(s.ctx, f))
	s.wantOwner(t, id, 3, list[2].Hash, 3, list[2].Hash)
	snap, err := s.Journal.LoadSnapshot(s.ctx, id)
	must(t, err)
	if snap.Seq != 3 || !bytes.Equal(snap.Hash, list[2].Hash) {
		t.Fatalf("the snapshot that stays is %+v", snap)
	}
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 3, Events: list[3:]}))
	s.wantOwner(t, id, 5, list[4].Hash, 3, list[2].Hash)
	s.Stores = s.Reopen(t)
	s.wantOwner(t, id, 5, list[4].Hash, 3, list[2].Hash)
	sameEvents(t, s.all(t, id), list[3:])
}
