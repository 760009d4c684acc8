package storagetest

import (
	"math"
	"reflect"
	"testing"

	"granary.dev/granary/actors/journal"
)

// vectorsOf makes vectors for the hashes of chunks; every second has two windows.
func vectorsOf(chunks []journal.Chunk, dims int) []journal.Vectors {
	out := make([]journal.Vectors, len(chunks))
	for i, c := range chunks {
		out[i] = journal.Vectors{Hash: c.Hash, Space: uint8(i % 2)}
		for w := range 1 + i%2 {
			v := make([]float32, dims)
			for d := range v {
				v[d] = float32(math.Sin(float64(31*c.Ordinal + 7*w + d)))
			}
			out[i].Data = append(out[i].Data, v)
		}
	}
	return out
}

func hashesOf(v []journal.Vectors) []string {
	out := make([]string, len(v))
	for i := range v {
		out[i] = v[i].Hash
	}
	return out
}

func vectorPromises() []promise {
	return []promise{
		{"C4_VectorsComeBackExactly", vectorsComeBack},
		{"C4_FinishedVectorsAreKept", vectorsKept},
		{"C4_ModelsDoNotMix", modelsDoNotMix},
	}
}

func (s *suite) wantVectors(t *testing.T, sc journal.Scope, model string, ask []string, want []journal.Vectors) {
	t.Helper()
	got, err := s.Chunks.VectorsByHash(s.ctx, sc, model, ask)
	must(t, err)
	if len(got) != len(want) {
		t.Fatalf("%d vectors under %s, want %d", len(got), model, len(want))
	}
	for _, w := range want {
		if !reflect.DeepEqual(got[w.Hash], w) {
			t.Fatalf("vectors of %s differ: got %+v, want %+v", w.Hash, got[w.Hash], w)
		}
	}
}

func vectorsComeBack(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	want := vectorsOf(chunksOf(1200), 96)
	want[0].Data[0][0] = float32(math.Inf(-1))
	want[1].Data[0][1] = math.SmallestNonzeroFloat32
	must(t, s.putVectors(t, sc, "m1", want))
	s.wantVectors(t, sc, "m1", append(hashesOf(want), "unknown", want[0].Hash), want)
	s.wantVectors(t, sc, "m1", []string{"unknown"}, nil)
	s.wantVectors(t, sc, "m1", nil, nil)
}

func vectorsKept(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	first := vectorsOf(chunksOf(4), 8)
	must(t, s.putVectors(t, sc, "m1", first[:2]))
	second := vectorsOf(chunksOf(4), 8)
	for i := range second {
		second[i].Data[0][0] = 42
	}
	must(t, s.putVectors(t, sc, "m1", second))
	s.wantVectors(t, sc, "m1", hashesOf(first), append(first[:2:2], second[2:]...))
}

func modelsDoNotMix(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	small, large := vectorsOf(chunksOf(3), 4), vectorsOf(chunksOf(3), 16)
	must(t, s.putVectors(t, sc, "small", small))
	must(t, s.putVectors(t, sc, "large", large))
	s.wantVectors(t, sc, "small", hashesOf(small), small)
	s.wantVectors(t, sc, "large", hashesOf(small), large)
	s.wantVectors(t, sc, "other", hashesOf(small), nil)
}

func deletePromises() []promise {
	return []promise{
		{"I9_DeleteAttemptsKeepsVectorsStillReferredTo", deleteAttempts},
		{"I9_DeleteAttemptsOfThousandsOfChunks", deleteManyChunks},
		{"I13_DeleteScopeRemovesAllAndOnlyItsOwn", deleteScope},
	}
}

func deleteAttempts(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	chunks := chunksOf(6)
	old, newer := chunks[:4], chunks[2:] // share h2 and h3
	must(t, s.putChunks(t, attemptOf(sc, "d1", "old"), old))
	must(t, s.putChunks(t, attemptOf(sc, "d1", "new"), newer))
	m1, m2 := vectorsOf(chunks, 4), vectorsOf(chunks, 8)
	must(t, s.putVectors(t, sc, "m1", m1))
	must(t, s.putVectors(t, sc, "m2", m2))
	n, err := s.Chunks.DeleteAttempts(s.ctx, sc, []string{"old", "unknown"})
	must(t, err)
	if n != 4 {
		t.Fatalf("removed %d chunks, want 4", n)
	}
	s.wantChunks(t, sc, "old", nil)
	s.wantChunks(t, sc, "new", newer)
	s.wantVectors(t, sc, "m1", hashesOf(m1), m1[2:])
	s.wantVectors(t, sc, "m2", hashesOf(m2), m2[2:])
	if n, err = s.Chunks.DeleteAttempts(s.ctx, sc, []string{"old"}); err != nil || n != 0 {
		t.Fatalf("removed %d chunks again, %v", n, err)
	}
	if n, err = s.Chunks.DeleteAttempts(s.ctx, sc, []string{"new"}); err != nil || n != 4 {
		t.Fatalf("removed %d chunks, %v; want 4", n, err)
	}
	s.wantVectors(t, sc, "m1", hashesOf(m1), nil)
	s.wantVectors(t, sc, "m2", hashesOf(m2), nil)
}

func deleteManyChunks(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	chunks := chunksOf(1500)
	for _, a := range []string{"a1", "a2", "a3"} { // all of one text: vectors go with the last
		must(t, s.putChunks(t, attemptOf(sc, "d1", a), chunks))
	}
	v := vectorsOf(chunks, 4)
	must(t, s.putVectors(t, sc, "m1", v))
	if n, err := s.Chunks.DeleteAttempts(s.ctx, sc, []string{"a1", "a3"}); err != nil || n != 3000 {
		t.Fatalf("removed %d chunks, %v; want 3000", n, err)
	}
	s.wantVectors(t, sc, "m1", hashesOf(v), v)
	s.wantCount(t, sc, "a2", "m1", 1500, 1500)
	if n, err := s.Chunks.DeleteAttempts(s.ctx, sc, []string{"a2"}); err != nil || n != 1500 {
		t.Fatalf("removed %d chunks, %v; want 1500", n, err)
	}
	s.wantVectors(t, sc, "m1", hashesOf(v), nil)
	if list, err := s.Chunks.AttemptsOf(s.ctx, sc); err != nil || len(list) != 0 {
		t.Fatalf("attempts left: %+v, %v", list, err)
	}
}

func deleteScope(t *testing.T, s *suite) {
	victim := scope("acme", "u1")
	others := []journal.Scope{scope("acme", "u2"), scope("other", "u1")}
	chunks := chunksOf(700)
	v := vectorsOf(chunks[:600], 4)
	v = append(v, journal.Vectors{Hash: "of no chunk", Data: [][]float32{{1}}})
	for _, sc := range append(others, victim) {
		must(t, s.putChunks(t, attemptOf(sc, "d1", "a1"), chunks))
		must(t, s.putChunks(t, attemptOf(sc, "d2", "a2"), chunks[:5]))
		must(t, s.putVectors(t, sc, "m1", v))
	}
	c, n, err := s.Chunks.DeleteScope(s.ctx, victim)
	must(t, err)
	if c != 705 || n != 601 {
		t.Fatalf("removed %d chunks and %d vectors, want 705 and 601", c, n)
	}
	s.wantChunks(t, victim, "a1", nil)
	s.wantVectors(t, victim, "m1", hashesOf(v), nil)
	for _, sc := range others {
		s.wantChunks(t, sc, "a1", chunks)
		s.wantVectors(t, sc, "m1", hashesOf(v), v)
	}
	if c, n, err = s.Chunks.DeleteScope(s.ctx, victim); err != nil || c != 0 || n != 0 {
		t.Fatalf("removed %d and %d again, %v", c, n, err)
	}
}
