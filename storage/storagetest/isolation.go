package storagetest

import (
	"bytes"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func isolationPromises() []promise {
	return []promise{
		{"I13_TenantsWithTheSameIdsShareNothingInTheJournal", journalIsolation},
		{"I13_TenantsWithTheSameIdsShareNoChunksOrVectors", chunkIsolation},
	}
}

func journalIsolation(t *testing.T, s *suite) {
	a, b := grain("acme", "same"), grain("other", "same")
	fa, rec := s.fill(t, a, 3)
	fb, head := s.acquire(t, b)
	if head != 0 || fb.Epoch != 1 {
		t.Fatalf("the other tenant's grain begins at epoch %d, head %d", fb.Epoch, head)
	}
	if list := s.all(t, b); len(list) != 0 {
		t.Fatalf("it sees %d events", len(list))
	}
	_, err := s.Journal.LoadSnapshot(s.ctx, b)
	wantErr(t, "snapshot", err, journal.ErrNotFound)
	_, err = s.Journal.LoadIndex(s.ctx, b)
	wantErr(t, "index", err, journal.ErrNotFound)
	s.wantNoKey(t, b, rec.IdempotencyKey)
	crossed := fa
	crossed.Identity = b
	wantErr(t, "append", s.Journal.Append(s.ctx, crossed, journal.Batch{Events: events(0, 1)}), journal.ErrFenced)
	wantErr(t, "snapshot", s.Journal.SaveSnapshot(s.ctx, crossed, journal.Snapshot{}), journal.ErrFenced)
	wantErr(t, "index", s.Journal.SaveIndex(s.ctx, crossed, []byte("i")), journal.ErrFenced)
	wantErr(t, "erase", s.Journal.Erase(s.ctx, crossed), journal.ErrFenced)
	must(t, s.Journal.Release(s.ctx, crossed))

	other := record(rec.IdempotencyKey, "of the other", time.Now().Add(time.Hour))
	must(t, s.Journal.Append(s.ctx, fb, journal.Batch{
		Events: events(0, 1), Idempotency: []journal.Idempotency{other},
		SetWakeups: []journal.Wakeup{{Key: "wake " + a.String(), Due: at(time.Minute)}}, // the same key as the first tenant's
	}))
	s.wantKey(t, a, rec)
	s.wantKey(t, b, other)
	due := s.wantDue(t, at(time.Hour), 10, "wake "+a.String(), "wake "+a.String())
	if due[0].Identity != a || due[1].Identity != b {
		t.Fatalf("wake-ups are of %v and %v", due[0].Identity, due[1].Identity)
	}
	must(t, s.Journal.Append(s.ctx, fb, journal.Batch{Head: 1, ClearWakeups: []string{"wake " + a.String()}}))
	s.wantDue(t, at(time.Hour), 10, "wake "+a.String())
	o, err := s.Journal.Owner(s.ctx, b)
	must(t, err)
	if o.Fence != fb || o.Released {
		t.Fatalf("owner row of the other is %+v", o)
	}
	must(t, s.Journal.SaveIndex(s.ctx, fb, []byte("of the other")))
	s.wantIndex(t, a, noise(3, 2<<20))
	must(t, s.Journal.Erase(s.ctx, fb))
	s.wantIndex(t, a, noise(3, 2<<20))
	if n := len(checkGapless(s.ctx, t, s.Journal, a)); n != 3 {
		t.Fatalf("%d events of 3 left", n)
	}
}

func chunkIsolation(t *testing.T, s *suite) {
	// The same ids in another tenant, and in another incarnation of the same knowledge base.
	a := scope("acme", "same")
	for _, b := range []journal.Scope{scope("other", "same"), scope("acme", "recreated")} {
		chunks := chunksOf(5)
		v := vectorsOf(chunks, 4)
		must(t, s.putChunks(t, attemptOf(a, "d", "a1"), chunks))
		must(t, s.putVectors(t, a, "m", v))
		s.wantChunks(t, b, "a1", nil)
		s.wantVectors(t, b, "m", hashesOf(v), nil)
		s.wantCount(t, b, "a1", "m", 0, 0)
		got, err := s.Chunks.ChunksByRef(s.ctx, b, []journal.ChunkRef{{Attempt: "a1", Ordinal: 0}})
		must(t, err)
		list, err := s.Chunks.AttemptsOf(s.ctx, b)
		must(t, err)
		if len(got)+len(list) != 0 {
			t.Fatalf("%v sees %v and %v of %v", b, got, list, a)
		}
		mine := chunksOf(2)
		mine[0].Text = "mine"
		must(t, s.putChunks(t, attemptOf(b, "d", "a1"), mine))
		s.wantCount(t, b, "a1", "m", 2, 0) // the same hashes, but embedded only over there
		s.wantChunks(t, a, "a1", chunks)
		if n, err := s.Chunks.DeleteAttempts(s.ctx, b, []string{"a1"}); err != nil || n != 2 {
			t.Fatalf("removed %d, %v", n, err)
		}
		if c, n, err := s.Chunks.DeleteScope(s.ctx, b); err != nil || c+n != 0 {
			t.Fatalf("removed %d and %d, %v", c, n, err)
		}
		s.wantChunks(t, a, "a1", chunks)
		s.wantVectors(t, a, "m", hashesOf(v), v)
	}
}

func durabilityPromises() []promise {
	return []promise{
		{"I4_EverythingIsThereAfterReopening", func(t *testing.T, s *suite) { survives(t, s, s.Reopen) }},
		{"I4_EverythingAcknowledgedIsThereAfterACrash", func(t *testing.T, s *suite) { survives(t, s, s.Crash) }},
	}
}

func survives(t *testing.T, s *suite, again func(*testing.T) Stores) {
	if again == nil {
		t.Skip("this adapter cannot be opened that way")
	}
	id := grain("acme", "k1")
	f, rec := s.fill(t, id, 50)
	info := s.putBlob(t, "acme", noise(1, 100))
	large := s.putBlob(t, "acme", noise(2, 300_000))
	must(t, s.claim(f, 50, info.ID, large.ID))
	sc := scope("acme", "u1")
	chunks := chunksOf(600)
	v := vectorsOf(chunks, 16)
	must(t, s.putChunks(t, attemptOf(sc, "d", "a1"), chunks))
	must(t, s.putVectors(t, sc, "m", v))
	want := s.all(t, id)

	s.Stores = again(t)
	sameEvents(t, checkGapless(s.ctx, t, s.Journal, id), want)
	s.wantKey(t, id, rec)
	s.wantSnapshot(t, id, journal.Snapshot{Seq: 50, State: []byte("state of " + id.String())})
	s.wantIndex(t, id, noise(3, 2<<20))
	s.wantDue(t, at(time.Hour), 10, "wake "+id.String())
	s.wantChunks(t, sc, "a1", chunks)
	s.wantVectors(t, sc, "m", hashesOf(v), v)
	if !bytes.Equal(s.blob(t, "acme", info.ID), noise(1, 100)) || !bytes.Equal(s.blob(t, "acme", large.ID), noise(2, 300_000)) {
		t.Fatal("a blob came back different")
	}
	s.append(t, f, 51, 1) // the fence outlives the process: only an acquisition ends it
	next, head := s.acquire(t, id)
	if next.Epoch != f.Epoch+1 || head != 52 {
		t.Fatalf("acquired epoch %d at head %d, want %d at 52", next.Epoch, head, f.Epoch+1)
	}
}
