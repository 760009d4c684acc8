package storagetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"granary.dev/granary/actors/journal"
)

func fencedBulkPromises() []promise {
	return []promise{
		{"I8_StaleOwnerWritesNoChunks", staleWritesNoChunks},
		{"I8_StaleOwnerReplacesAndRemovesNoChunks", staleReplacesNoChunks},
		{"I8_StaleOwnerWritesNoVectors", staleWritesNoVectors},
		{"I13_FenceOfAnotherTenantWritesNothing", foreignFenceWritesNothing},
		{"I8_NoRowsComeAfterTheNewOwnerHasListedThem", nothingAfterTheList},
	}
}

// bulkSizes are written in one step and in several.
var bulkSizes = []int{1, 20, 3000}

// ended gives two fences that hold no more: one taken over, one released.
func (s *suite) ended(t *testing.T, tenant string) map[string]journal.Fence {
	t.Helper()
	stale, _ := s.acquire(t, grain(tenant, "k1"))
	s.acquire(t, grain(tenant, "k1"))
	released, _ := s.acquire(t, grain(tenant, "k2"))
	must(t, s.Journal.Release(s.ctx, released))
	never := journal.Fence{Identity: grain(tenant, "never"), Epoch: 1, Activation: "00000000-0000-4000-8000-000000000000"}
	return map[string]journal.Fence{"stale": stale, "released": released, "never acquired": never}
}

func (s *suite) wantNoAttempts(t *testing.T, sc journal.Scope) {
	t.Helper()
	if list, err := s.Chunks.AttemptsOf(s.ctx, sc); err != nil || len(list) != 0 {
		t.Fatalf("attempts of %v: %+v, %v; want none", sc, list, err)
	}
}

func staleWritesNoChunks(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	for name, f := range s.ended(t, "acme") {
		for _, n := range append(bulkSizes, 0) {
			err := s.Chunks.PutChunks(s.ctx, f, attemptOf(sc, "d1", "a1"), chunksOf(n))
			wantErr(t, fmt.Sprint(n, " chunks, fence ", name), err, journal.ErrFenced)
		}
	}
	s.wantChunks(t, sc, "a1", nil)
	s.wantNoAttempts(t, sc)
}

func staleReplacesNoChunks(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	want := chunksOf(30)
	a := attemptOf(sc, "d1", "a1")
	must(t, s.putChunks(t, a, want))
	v := vectorsOf(want, 4)
	must(t, s.putVectors(t, sc, "m1", v))
	for name, f := range s.ended(t, "acme") {
		for _, n := range append(bulkSizes, 0) {
			err := s.Chunks.PutChunks(s.ctx, f, a, chunksOf(n))
			wantErr(t, fmt.Sprint(n, " chunks in place of others, fence ", name), err, journal.ErrFenced)
		}
	}
	s.wantChunks(t, sc, "a1", want)
	s.wantVectors(t, sc, "m1", hashesOf(v), v)
	s.wantCount(t, sc, "a1", "m1", len(want), len(want))
}

func staleWritesNoVectors(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	for name, f := range s.ended(t, "acme") {
		for _, n := range append(bulkSizes, 0) {
			v := vectorsOf(chunksOf(n), 4)
			wantErr(t, fmt.Sprint(n, " vectors, fence ", name), s.Chunks.PutVectors(s.ctx, f, sc, "m1", v), journal.ErrFenced)
			s.wantVectors(t, sc, "m1", hashesOf(v), nil)
		}
	}
	if _, n, err := s.Chunks.DeleteScope(s.ctx, sc); err != nil || n != 0 {
		t.Fatalf("%d vectors were there, %v", n, err)
	}
}

func foreignFenceWritesNothing(t *testing.T, s *suite) {
	f, _ := s.acquire(t, grain("acme", "k1"))
	sc := scope("other", "u1")
	if err := s.Chunks.PutChunks(s.ctx, f, attemptOf(sc, "d1", "a1"), chunksOf(3)); err == nil {
		t.Fatal("chunks were written under the fence of another tenant")
	}
	v := vectorsOf(chunksOf(3), 4)
	if err := s.Chunks.PutVectors(s.ctx, f, sc, "m1", v); err == nil {
		t.Fatal("vectors were written under the fence of another tenant")
	}
	s.wantNoAttempts(t, sc)
	s.wantVectors(t, sc, "m1", hashesOf(v), nil)
}

// nothingAfterTheList lets writers of the old owner write beside a takeover.
// What the new owner then lists, or removes, is all there will be of them.
func nothingAfterTheList(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	for round := range 5 {
		stale, _ := s.acquire(t, id)
		sc := scope("acme", fmt.Sprint("u", round))
		errs := make([]error, 4)
		begun := make(chan struct{}, 16*len(errs))
		var wg sync.WaitGroup
		for w := range errs {
			chunks := chunksOf([]int{5, 900}[w%2])
			wg.Go(func() {
				for i := 0; errs[w] == nil; i++ {
					errs[w] = s.Chunks.PutChunks(s.ctx, stale, attemptOf(sc, "d", fmt.Sprintf("%d-%d", w, i)), chunks)
					if errs[w] == nil {
						errs[w] = s.Chunks.PutVectors(s.ctx, stale, sc, "m", vectorsOf(chunks, 4))
					}
					select {
					case begun <- struct{}{}:
					default:
					}
				}
			})
		}
		for range errs { // so that writes are under way
			<-begun
		}
		s.acquire(t, id)
		listed, err := s.Chunks.AttemptsOf(s.ctx, sc)
		must(t, err)
		removed, _, err := s.Chunks.DeleteScope(s.ctx, sc)
		must(t, err)
		wg.Wait()
		for _, err := range errs {
			if !errors.Is(err, journal.ErrFenced) {
				t.Fatalf("a writer of the old owner ended with %v", err)
			}
		}
		if len(listed) == 0 || removed == 0 {
			t.Fatalf("%d attempts listed, %d chunks removed: the test shows nothing", len(listed), removed)
		}
		s.wantNoAttempts(t, sc)
		if c, v, err := s.Chunks.DeleteScope(s.ctx, sc); err != nil || c+v != 0 {
			t.Fatalf("%d chunks and %d vectors came after the scope was removed, %v", c, v, err)
		}
	}
}
