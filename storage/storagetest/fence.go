package storagetest

import (
	"context"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func fencePromises() []promise {
	return []promise{
		{"I2_AcquireRaisesTheEpoch", acquireRaisesEpoch},
		{"I1_StaleFenceCannotAppend", staleCannotAppend},
		{"I1_StaleFenceCannotSaveASnapshotOrAnIndex", staleCannotSave},
		{"I1_StaleFenceCannotErase", staleCannotErase},
		{"I1_StaleFenceCannotRelease", staleCannotRelease},
		{"I1_ForgedFenceIsFenced", forgedIsFenced},
		{"I1_ReleasedFenceIsFencedUntilAcquiredAgain", releasedIsFenced},
		{"I3_WrongHeadIsFenced", wrongHeadIsFenced},
		{"NeverActivatedGrainIsNotFound", neverActivated},
		{"MalformedBatchIsRefusedAndWritesNothing", malformedBatch},
		{"ContextEndedBeforeYieldsItsErrorAndWritesNothing", contextEnded},
	}
}

func acquireRaisesEpoch(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	seen := map[string]bool{}
	for want := int64(1); want <= 5; want++ {
		f, head, err := s.Journal.Acquire(s.ctx, id, journal.Claim{Node: "node-1"})
		must(t, err)
		if f.Epoch != want || f.Identity != id || f.Node != "node-1" || head != want-1 {
			t.Fatalf("acquisition %d gave %+v at head %d", want, f, head)
		}
		if f.Activation == "" || seen[f.Activation] {
			t.Fatalf("activation %q was given before", f.Activation)
		}
		seen[f.Activation] = true
		s.append(t, f, head, 1)
		o, err := s.Journal.Owner(s.ctx, id)
		must(t, err)
		if o.Fence != f || o.Head != want || o.Released || o.Since.IsZero() {
			t.Fatalf("owner row is %+v, want fence %+v at head %d", o, f, want)
		}
	}
}

func staleCannotAppend(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	stale, _ := s.acquire(t, id)
	head := s.append(t, stale, 0, 2)
	s.acquire(t, id)
	before := s.all(t, id)
	err := s.Journal.Append(s.ctx, stale, journal.Batch{Head: head, Events: events(head, 1)})
	wantErr(t, "append under a stale fence", err, journal.ErrFenced)
	err = s.Journal.Append(s.ctx, stale, journal.Batch{Head: head})
	wantErr(t, "empty batch under a stale fence", err, journal.ErrFenced)
	sameEvents(t, checkGapless(s.ctx, t, s.Journal, id), before)
}

func staleCannotSave(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	stale, _ := s.acquire(t, id)
	head := s.append(t, stale, 0, 2)
	s.acquire(t, id)
	err := s.Journal.SaveSnapshot(s.ctx, stale, journal.Snapshot{Seq: head, State: []byte("s")})
	wantErr(t, "snapshot under a stale fence", err, journal.ErrFenced)
	for _, n := range []int{0, 10, 3 << 20} {
		wantErr(t, "index under a stale fence", s.Journal.SaveIndex(s.ctx, stale, noise(1, n)), journal.ErrFenced)
	}
	_, err = s.Journal.LoadSnapshot(s.ctx, id)
	wantErr(t, "load snapshot", err, journal.ErrNotFound)
	_, err = s.Journal.LoadIndex(s.ctx, id)
	wantErr(t, "load index", err, journal.ErrNotFound)
}

func staleCannotErase(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	stale, _ := s.acquire(t, id)
	s.append(t, stale, 0, 3)
	s.acquire(t, id)
	wantErr(t, "erase", s.Journal.Erase(s.ctx, stale), journal.ErrFenced)
	if n := len(checkGapless(s.ctx, t, s.Journal, id)); n != 3 {
		t.Fatalf("%d events left of 3", n)
	}
}

func staleCannotRelease(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	stale, _ := s.acquire(t, id)
	live, _ := s.acquire(t, id)
	must(t, s.Journal.Release(s.ctx, stale)) // no error, and no effect
	s.append(t, live, 0, 1)
	o, err := s.Journal.Owner(s.ctx, id)
	must(t, err)
	if o.Released {
		t.Fatal("a stale fence released the grain of its successor")
	}
}

func forgedIsFenced(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	for name, forged := range forgeries(f) {
		err := s.Journal.Append(s.ctx, forged, journal.Batch{Events: events(0, 1)})
		wantErr(t, "append with another "+name, err, journal.ErrFenced)
	}
	s.append(t, f, 0, 1)
}

func releasedIsFenced(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	head := s.append(t, f, 0, 1)
	must(t, s.Journal.Release(s.ctx, f))
	o, err := s.Journal.Owner(s.ctx, id)
	must(t, err)
	if !o.Released || o.Head != head {
		t.Fatalf("owner row after release is %+v", o)
	}
	err = s.Journal.Append(s.ctx, f, journal.Batch{Head: head, Events: events(head, 1)})
	wantErr(t, "append after release", err, journal.ErrFenced)
	err = s.Journal.SaveSnapshot(s.ctx, f, journal.Snapshot{Seq: head, State: []byte("s")})
	wantErr(t, "snapshot after release", err, journal.ErrFenced)
	wantErr(t, "index after release", s.Journal.SaveIndex(s.ctx, f, []byte("i")), journal.ErrFenced)
	wantErr(t, "erase after release", s.Journal.Erase(s.ctx, f), journal.ErrFenced)
	next, got := s.acquire(t, id)
	if got != head || next.Epoch != f.Epoch+1 {
		t.Fatalf("acquired epoch %d at head %d after epoch %d at %d", next.Epoch, got, f.Epoch, head)
	}
	if o, err = s.Journal.Owner(s.ctx, id); err != nil || o.Released {
		t.Fatalf("owner row after acquiring again is %+v, %v", o, err)
	}
	s.append(t, next, head, 1)
}

func wrongHeadIsFenced(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	head := s.append(t, f, 0, 3)
	for _, wrong := range []int64{0, head - 1, head + 1} {
		err := s.Journal.Append(s.ctx, f, journal.Batch{Head: wrong, Events: events(wrong, 1)})
		wantErr(t, "append at a wrong head", err, journal.ErrFenced)
	}
	checkGapless(s.ctx, t, s.Journal, id)
	s.append(t, f, head, 1)
}

func neverActivated(t *testing.T, s *suite) {
	id := grain("acme", "never")
	_, err := s.Journal.Owner(s.ctx, id)
	wantErr(t, "owner", err, journal.ErrNotFound)
	_, err = s.Journal.LoadSnapshot(s.ctx, id)
	wantErr(t, "snapshot", err, journal.ErrNotFound)
	_, err = s.Journal.LoadIndex(s.ctx, id)
	wantErr(t, "index", err, journal.ErrNotFound)
	if list, err := s.Journal.Events(s.ctx, id, 0, 10); err != nil || len(list) != 0 {
		t.Fatalf("events: %v, %v", list, err)
	}
	f := journal.Fence{Identity: id, Epoch: 1, Activation: "00000000-0000-4000-8000-000000000000"}
	wantErr(t, "verify", s.Journal.Verify(s.ctx, f), journal.ErrFenced)
	_, _, err = s.Journal.FindIdempotency(s.ctx, f, key("AddDocument", "1"))
	wantErr(t, "look-up of a key", err, journal.ErrFenced)
	wantErr(t, "append", s.Journal.Append(s.ctx, f, journal.Batch{Events: events(0, 1)}), journal.ErrFenced)
	must(t, s.Journal.Release(s.ctx, f))
}

func malformedBatch(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	gap := events(0, 3)
	gap[2].Seq = 5
	if err := s.Journal.Append(s.ctx, f, journal.Batch{Events: gap}); err == nil {
		t.Fatal("a batch with a gap was accepted")
	}
	if err := s.Journal.Append(s.ctx, f, journal.Batch{Events: events(1, 1)}); err == nil {
		t.Fatal("a batch that does not begin after its head was accepted")
	}
	for name, id := range map[string]journal.Identity{
		"no tenant":  {Kind: "kb", ID: "x"},
		"no kind":    {Tenant: "acme", ID: "x"},
		"no id":      {Kind: "kb", Tenant: "acme"},
		"NUL":        grain("ac\x00me", "x"),
		"not UTF-8":  grain("ac\xffme", "x"),
		"very long":  grain("acme", strings.Repeat("x", 5000)),
		"all absent": {},
	} {
		if _, _, err := s.Journal.Acquire(s.ctx, id, journal.Claim{Node: "node-1"}); err == nil {
			t.Fatalf("an identity was accepted: %s", name)
		}
	}
	if n := len(checkGapless(s.ctx, t, s.Journal, id)); n != 0 {
		t.Fatalf("%d events were written", n)
	}
}

func contextEnded(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	head := s.append(t, f, 0, 1)
	ended, cancel := context.WithCancel(s.ctx)
	cancel()
	_, _, err := s.Journal.Acquire(ended, id, journal.Claim{Node: "node-2"})
	wantErr(t, "acquire", err, context.Canceled)
	wantErr(t, "release", s.Journal.Release(ended, f), context.Canceled)
	wantErr(t, "erase", s.Journal.Erase(ended, f), context.Canceled)
	wantErr(t, "append", s.Journal.Append(ended, f, journal.Batch{Head: head, Events: events(head, 1)}), context.Canceled)
	wantErr(t, "snapshot", s.Journal.SaveSnapshot(ended, f, journal.Snapshot{Seq: head}), context.Canceled)
	wantErr(t, "index", s.Journal.SaveIndex(ended, f, noise(1, 2<<20)), context.Canceled)
	wantErr(t, "verify", s.Journal.Verify(ended, f), context.Canceled)
	_, _, err = s.Journal.FindIdempotency(ended, f, key("AddDocument", "1"))
	wantErr(t, "look-up of a key", err, context.Canceled)
	_, err = s.Journal.DeadLetters(ended, journal.DeadLetterRow{}, 10)
	wantErr(t, "dead letters", err, context.Canceled)
	_, err = s.Journal.Events(ended, id, 0, 10)
	wantErr(t, "events", err, context.Canceled)
	late, cancel2 := context.WithDeadline(s.ctx, time.Now().Add(-time.Second))
	defer cancel2()
	_, err = s.Journal.Owner(late, id)
	wantErr(t, "owner", err, context.DeadlineExceeded)
	sc := journal.Scope{Tenant: "acme", UID: "u"}
	wantErr(t, "chunks", s.Chunks.PutChunks(ended, f, attemptOf(sc, "d", "a1"), chunksOf(3)), context.Canceled)
	wantErr(t, "vectors", s.Chunks.PutVectors(ended, f, sc, "m", vectorsOf(chunksOf(3), 4)), context.Canceled)
	s.append(t, f, head, 1) // the fence still holds: nothing above had an effect
	if list, err := s.Chunks.AttemptsOf(s.ctx, sc); err != nil || len(list) != 0 {
		t.Fatalf("attempts: %v, %v", list, err)
	}
}
