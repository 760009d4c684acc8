package storagetest

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"granary.dev/granary/actors/journal"
)

func scope(tenant, uid string) journal.Scope { return journal.Scope{Tenant: tenant, UID: uid} }

func attemptOf(sc journal.Scope, document, id string) journal.Attempt {
	return journal.Attempt{Scope: sc, Document: document, Version: 3, ID: id}
}

// chunksOf makes n chunks with hashes h0, h1 …; every third has headings.
func chunksOf(n int) []journal.Chunk {
	out := make([]journal.Chunk, n)
	for i := range out {
		out[i] = journal.Chunk{
			Ordinal: i, Text: fmt.Sprintf("chunk %d: zażółć \"gęślą\" jaźń 日本語", i), Start: 100 * i, End: 100*i + 90,
			Page: i / 4, Language: "pl", Kind: uint8(i % 6), Hash: fmt.Sprintf("h%d", i),
		}
		if i%3 == 0 {
			out[i].Headings = []string{"Chapter \"1\"", fmt.Sprintf("§ %d", i)}
			out[i].Model = "use-lite"
		}
	}
	return out
}

func chunkPromises() []promise {
	return []promise{
		{"C4_ChunksComeBackAsTheyWere", chunksComeBack},
		{"C4_PutReplacesWhatTheAttemptHad", chunksReplaced},
		{"C4_ThousandsOfChunksArePagedInOrder", chunksPaged},
		{"C5_ChunksAreReadByReference", chunksByRef},
		{"C4_CountsTellWhatIsEmbedded", chunksCounted},
		{"C4_AttemptsAreListedForCollection", attemptsListed},
		{"C4_MalformedChunksAreRefused", malformedChunks},
	}
}

// chunks reads a whole attempt, a page at a time.
func (s *suite) chunks(t *testing.T, sc journal.Scope, attempt string) []journal.Chunk {
	t.Helper()
	var out []journal.Chunk
	for after := -1; ; after = out[len(out)-1].Ordinal {
		page, err := s.Chunks.Chunks(s.ctx, sc, attempt, after, 700)
		must(t, err)
		if len(page) == 0 {
			return out
		}
		out = append(out, page...)
	}
}

func (s *suite) wantChunks(t *testing.T, sc journal.Scope, attempt string, want []journal.Chunk) {
	t.Helper()
	got := s.chunks(t, sc, attempt)
	if len(got) != len(want) {
		t.Fatalf("attempt %s has %d chunks, want %d", attempt, len(got), len(want))
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("chunk %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
}

func chunksComeBack(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	want := chunksOf(20)
	must(t, s.putChunks(t, attemptOf(sc, "d1", "a1"), want))
	s.wantChunks(t, sc, "a1", want)
	s.wantChunks(t, sc, "a2", nil)
}

func chunksReplaced(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	a := attemptOf(sc, "d1", "a1")
	other := chunksOf(5)
	must(t, s.putChunks(t, attemptOf(sc, "d2", "a2"), other))
	for _, n := range []int{20, 3, 1500, 7, 0, 4} {
		want := chunksOf(n)
		for i := range want {
			want[i].Text += fmt.Sprint(" of ", n)
		}
		must(t, s.putChunks(t, a, want))
		s.wantChunks(t, sc, "a1", want)
	}
	s.wantChunks(t, sc, "a2", other)
	if n, err := s.Chunks.DeleteAttempts(s.ctx, sc, []string{"a1"}); err != nil || n != 4 {
		t.Fatalf("deleting the attempt removed %d chunks (%v), want 4: replaced rows must not linger", n, err)
	}
}

func chunksPaged(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	want := chunksOf(3000)
	shuffled := slices.Clone(want)
	slices.Reverse(shuffled)
	must(t, s.putChunks(t, attemptOf(sc, "d1", "a1"), shuffled))
	s.wantChunks(t, sc, "a1", want)
	page, err := s.Chunks.Chunks(s.ctx, sc, "a1", 9, 5)
	must(t, err)
	if len(page) != 5 || page[0].Ordinal != 10 || page[4].Ordinal != 14 {
		t.Fatalf("page after 9 is %+v", page)
	}
	if page, err = s.Chunks.Chunks(s.ctx, sc, "a1", -1, 0); err != nil || len(page) != 0 {
		t.Fatalf("page of none: %d, %v", len(page), err)
	}
}

func chunksByRef(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	one, two := chunksOf(900), chunksOf(10)
	for i := range two {
		two[i].Text = "second " + two[i].Text
	}
	must(t, s.putChunks(t, attemptOf(sc, "d1", "a1"), one))
	must(t, s.putChunks(t, attemptOf(sc, "d2", "a2"), two))
	got, err := s.Chunks.ChunksByRef(s.ctx, sc, []journal.ChunkRef{
		{Attempt: "a2", Ordinal: 3}, {Attempt: "a1", Ordinal: 899}, {Attempt: "a1", Ordinal: 0}, {Attempt: "a1", Ordinal: 0},
		{Attempt: "a1", Ordinal: 900}, {Attempt: "gone", Ordinal: 0}, {Attempt: "a2", Ordinal: -1},
	})
	must(t, err)
	want := map[journal.ChunkRef]journal.Chunk{
		{Attempt: "a2", Ordinal: 3}: two[3], {Attempt: "a1", Ordinal: 899}: one[899], {Attempt: "a1", Ordinal: 0}: one[0],
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	many := make([]journal.ChunkRef, 0, len(one))
	for i := range one {
		many = append(many, journal.ChunkRef{Attempt: "a1", Ordinal: i})
	}
	if got, err = s.Chunks.ChunksByRef(s.ctx, sc, many); err != nil || len(got) != len(one) {
		t.Fatalf("%d of %d references, %v", len(got), len(one), err)
	}
	if got, err = s.Chunks.ChunksByRef(s.ctx, sc, nil); err != nil || len(got) != 0 {
		t.Fatalf("no references gave %d chunks, %v", len(got), err)
	}
}

func (s *suite) wantCount(t *testing.T, sc journal.Scope, attempt, model string, chunks, embedded int) {
	t.Helper()
	c, e, err := s.Chunks.CountChunks(s.ctx, sc, attempt, model)
	must(t, err)
	if c != chunks || e != embedded {
		t.Fatalf("attempt %s under %s: %d chunks, %d embedded; want %d and %d", attempt, model, c, e, chunks, embedded)
	}
}

func chunksCounted(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	chunks := chunksOf(6)
	chunks[5].Hash = chunks[4].Hash // two chunks of one text share their vectors
	must(t, s.putChunks(t, attemptOf(sc, "d1", "a1"), chunks))
	s.wantCount(t, sc, "a1", "m1", 6, 0)
	must(t, s.putVectors(t, sc, "m1", vectorsOf(chunks[3:5], 4)))
	s.wantCount(t, sc, "a1", "m1", 6, 3)
	s.wantCount(t, sc, "a1", "m2", 6, 0)
	s.wantCount(t, sc, "a2", "m1", 0, 0)
}

func attemptsListed(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	want := []journal.Attempt{attemptOf(sc, "d1", "a1"), attemptOf(sc, "d1", "a2"), attemptOf(sc, "d2", "a3")}
	for _, a := range want {
		must(t, s.putChunks(t, a, chunksOf(2)))
	}
	must(t, s.putChunks(t, attemptOf(sc, "d9", "empty"), nil))
	must(t, s.putChunks(t, attemptOf(scope("acme", "u2"), "d1", "elsewhere"), chunksOf(2)))
	want[1].Version = 4 // rewritten for a newer version
	must(t, s.putChunks(t, want[1], chunksOf(1)))
	got, err := s.Chunks.AttemptsOf(s.ctx, sc)
	must(t, err)
	slices.SortFunc(got, func(x, y journal.Attempt) int { return slices.Compare([]byte(x.ID), []byte(y.ID)) })
	if !slices.Equal(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

func malformedChunks(t *testing.T, s *suite) {
	sc := scope("acme", "u1")
	twice := chunksOf(3)
	twice[2].Ordinal = 1
	if err := s.putChunks(t, attemptOf(sc, "d1", "a1"), twice); err == nil {
		t.Fatal("an ordinal was accepted twice")
	}
	if err := s.putChunks(t, attemptOf(scope("", "u1"), "d1", "a1"), chunksOf(1)); err == nil {
		t.Fatal("a scope without a tenant was accepted")
	}
	ragged := []journal.Vectors{{Hash: "h", Data: [][]float32{{1, 2}, {1, 2, 3}}}}
	if err := s.putVectors(t, sc, "m", ragged); err == nil {
		t.Fatal("windows of different dimensions were accepted")
	}
	s.wantChunks(t, sc, "a1", nil)
}
