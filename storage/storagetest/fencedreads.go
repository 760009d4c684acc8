package storagetest

import (
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func fencedReadPromises() []promise {
	return []promise{
		{"I7_VerifyKnowsTheCurrentFenceAndNoOther", verifyKnows},
		{"I7_StaleOwnerIsNotShownTheKeysOfItsSuccessor", staleFindsNoKey},
		{"I7_ReleasedOwnerFindsNoKey", releasedFindsNoKey},
	}
}

// forgeries are fences that differ from f in one thing.
func forgeries(f journal.Fence) map[string]journal.Fence {
	out := map[string]journal.Fence{}
	for name, forge := range map[string]func(*journal.Fence){
		"activation": func(f *journal.Fence) { f.Activation = "00000000-0000-4000-8000-000000000000" },
		"epoch":      func(f *journal.Fence) { f.Epoch++ },
		"kind":       func(f *journal.Fence) { f.Identity.Kind = "tenant" },
		"tenant":     func(f *journal.Fence) { f.Identity.Tenant = "other" },
		"id":         func(f *journal.Fence) { f.Identity.ID += "x" },
	} {
		forged := f
		forge(&forged)
		out[name] = forged
	}
	return out
}

func verifyKnows(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	stale, _ := s.acquire(t, id)
	must(t, s.Journal.Verify(s.ctx, stale))
	f, _ := s.acquire(t, id)
	wantErr(t, "stale fence", s.Journal.Verify(s.ctx, stale), journal.ErrFenced)
	must(t, s.Journal.Verify(s.ctx, f))
	head := s.append(t, f, 0, 2)
	must(t, s.Journal.Verify(s.ctx, f)) // wherever the head is
	for name, forged := range forgeries(f) {
		wantErr(t, "another "+name, s.Journal.Verify(s.ctx, forged), journal.ErrFenced)
	}
	s.append(t, f, head, 1) // none of it had an effect
	must(t, s.Journal.Release(s.ctx, f))
	wantErr(t, "released", s.Journal.Verify(s.ctx, f), journal.ErrFenced)
}

func staleFindsNoKey(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	stale, _ := s.acquire(t, id)
	later := time.Now().Add(time.Hour)
	own := record(key("AddDocument", "own"), "own", later)
	must(t, s.Journal.Append(s.ctx, stale, journal.Batch{Events: events(0, 1), Idempotency: []journal.Idempotency{own}}))
	s.wantKey(t, id, own)
	next, head := s.acquire(t, id)
	theirs := record(key("AddDocument", "theirs"), "theirs", later)
	must(t, s.Journal.Append(s.ctx, next, journal.Batch{Head: head, Events: events(head, 1), Idempotency: []journal.Idempotency{theirs}}))
	for _, k := range []journal.IdempotencyKey{own.IdempotencyKey, theirs.IdempotencyKey, key("AddDocument", "unknown")} {
		_, ok, err := s.Journal.FindIdempotency(s.ctx, stale, k)
		wantErr(t, "look-up of "+k.Key+" under a stale fence", err, journal.ErrFenced)
		if ok {
			t.Fatalf("key %q was shown to a stale owner", k.Key)
		}
	}
	for name, forged := range forgeries(next) {
		_, _, err := s.Journal.FindIdempotency(s.ctx, forged, theirs.IdempotencyKey)
		wantErr(t, "look-up with another "+name, err, journal.ErrFenced)
	}
	s.wantKey(t, id, own)
	s.wantKey(t, id, theirs)
}

func releasedFindsNoKey(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, rec := s.fill(t, id, 1)
	must(t, s.Journal.Release(s.ctx, f))
	_, _, err := s.Journal.FindIdempotency(s.ctx, f, rec.IdempotencyKey)
	wantErr(t, "look-up after release", err, journal.ErrFenced)
	s.acquire(t, id)
	s.wantKey(t, id, rec)
}
