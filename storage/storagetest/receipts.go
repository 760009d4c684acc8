package storagetest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func receiptPromises() []promise {
	return []promise{
		{"I3_ReceiptsOutliveTheJournalThatWroteThemAndAreWrittenOnce", receiptsOutlive},
		{"I13_ReceiptsAreTheTenantsOrTheClustersAndNobodyElses", receiptsAreKeptApart},
		{"I1_FencedBatchAddsNoReceipt", fencedAddsNoReceipt},
		{"I3_AttemptsAreCountedAsTheyAreDeleted", attemptsAreCounted},
		{"I3_ErasureLeavesTheWakeUpOfItsOwnEnd", erasureIsNotForgotten},
	}
}

func receipt(name, kb string, at int, cluster bool) journal.Receipt {
	return journal.Receipt{Name: name, KnowledgeBase: kb, Cluster: cluster,
		Time: time.Date(2026, 1, 1, 0, 0, at, 0, time.UTC), Body: []byte("proof of " + name)}
}

func (s *suite) wantReceipts(t *testing.T, q journal.ReceiptQuery, want ...string) []journal.ReceiptRow {
	t.Helper()
	if q.Limit == 0 {
		q.Limit = 100
	}
	rows, err := s.Receipts.Receipts(s.ctx, q)
	must(t, err)
	var got []string
	for _, r := range rows {
		got = append(got, r.Tenant+"/"+r.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("receipts %v, want %v", got, want)
	}
	return rows
}

func receiptsOutlive(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: events(0, 2), AddReceipts: []journal.Receipt{
		receipt("b", "k1", 2, false), receipt("a", "k1", 1, false)}}))
	other := receipt("a", "k1", 9, false)
	other.Body = []byte("another")
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: 2, AddReceipts: []journal.Receipt{other, receipt("c", "k2", 2, false)}}))
	must(t, s.Journal.Erase(s.ctx, f))
	got, err := s.Receipts.Receipt(s.ctx, "acme", "a")
	must(t, err)
	if want := receipt("a", "k1", 1, false); string(got.Body) != string(want.Body) || !got.Time.Equal(want.Time) || got.KnowledgeBase != "k1" {
		t.Errorf("receipt %+v, want %+v", got, want)
	}
	page := s.wantReceipts(t, journal.ReceiptQuery{Tenant: "acme", Limit: 2}, "acme/a", "acme/b")
	s.wantReceipts(t, journal.ReceiptQuery{Tenant: "acme", After: page[1]}, "acme/c")
	s.wantReceipts(t, journal.ReceiptQuery{Tenant: "acme", KnowledgeBase: "k2"}, "acme/c")
	s.Stores = s.Reopen(t)
	s.wantReceipts(t, journal.ReceiptQuery{Tenant: "acme"}, "acme/a", "acme/b", "acme/c")
}

func receiptsAreKeptApart(t *testing.T, s *suite) {
	for i, tenant := range []string{"acme", "umbrella"} {
		f, _ := s.acquire(t, grain(tenant, "k1"))
		must(t, s.Journal.Append(s.ctx, f, journal.Batch{AddReceipts: []journal.Receipt{
			receipt("own", "k1", i, false), receipt("gone", "", i, true)}}))
	}
	s.wantReceipts(t, journal.ReceiptQuery{Tenant: "acme"}, "acme/own")
	s.wantReceipts(t, journal.ReceiptQuery{Tenant: "acme", Cluster: true}, "acme/gone")
	s.wantReceipts(t, journal.ReceiptQuery{Cluster: true}, "acme/gone", "umbrella/gone")
	if rows, err := s.Receipts.Receipts(s.ctx, journal.ReceiptQuery{Limit: 10}); err == nil {
		t.Errorf("receipts of all tenants: %v", rows)
	}
	for _, name := range []string{"gone", "nothing", "own\x00"} {
		if _, err := s.Receipts.Receipt(s.ctx, "acme", name); !errors.Is(err, journal.ErrNotFound) {
			t.Errorf("receipt %q: %v", name, err)
		}
	}
	f, head := s.acquire(t, grain("acme", "k2"))
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: head, DropReceipts: true, AddReceipts: []journal.Receipt{receipt("end", "", 5, true)}}))
	s.wantReceipts(t, journal.ReceiptQuery{Tenant: "acme"})
	s.wantReceipts(t, journal.ReceiptQuery{Tenant: "umbrella"}, "umbrella/own")
	s.wantReceipts(t, journal.ReceiptQuery{Cluster: true}, "acme/gone", "umbrella/gone", "acme/end")
}

func fencedAddsNoReceipt(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	old, _ := s.acquire(t, id)
	s.acquire(t, id)
	err := s.Journal.Append(s.ctx, old, journal.Batch{AddReceipts: []journal.Receipt{receipt("a", "k1", 1, false)}, DropReceipts: true})
	if !errors.Is(err, journal.ErrFenced) {
		t.Errorf("append: %v", err)
	}
	s.wantReceipts(t, journal.ReceiptQuery{Tenant: "acme"})
}

// attemptsAreCounted: what is counted before is what a deletion then removes, also
// where attempts share texts.
func attemptsAreCounted(t *testing.T, s *suite) {
	f, _ := s.acquire(t, grain("acme", "k1"))
	sc := journal.Scope{Tenant: "acme", UID: "uid-1"}
	put := func(attempt string, hashes ...string) {
		t.Helper()
		var rows []journal.Chunk
		var vectors []journal.Vectors
		for i, h := range hashes {
			rows = append(rows, journal.Chunk{Ordinal: i, Text: h, Hash: h})
			vectors = append(vectors, journal.Vectors{Hash: h, Data: [][]float32{{1, 2}}})
		}
		must(t, s.Chunks.PutChunks(s.ctx, f, journal.Attempt{Scope: sc, Document: "d", Version: 1, ID: attempt}, rows))
		must(t, s.Chunks.PutVectors(s.ctx, f, sc, "m", vectors))
	}
	put("a1", "h1", "h2", "h3")
	put("a1", "h1", "h2") // replaced
	put("a2", "h2", "h4")
	want := func(attempts []string, chunks, vectors int) {
		t.Helper()
		c, v, err := s.Chunks.CountAttempts(s.ctx, sc, attempts)
		must(t, err)
		if c != chunks || v != vectors {
			t.Errorf("%v has %d chunks and %d vectors, want %d and %d", attempts, c, v, chunks, vectors)
		}
	}
	want([]string{"a1"}, 2, 1)
	want([]string{"a1", "a2"}, 4, 3)
	want([]string{}, 0, 0)
	want([]string{"nothing"}, 0, 0)
	c, v, err := s.Chunks.CountAttempts(s.ctx, sc, nil)
	must(t, err)
	dc, dv, err := s.Chunks.DeleteScope(s.ctx, sc)
	must(t, err)
	if c != dc || v != dv || c != 4 {
		t.Errorf("counted %d chunks and %d vectors, deleted %d and %d", c, v, dc, dv)
	}
}

func erasureIsNotForgotten(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	due := time.Now().Add(-time.Hour)
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Events: events(0, 1),
		SetWakeups: []journal.Wakeup{{Key: "work", Due: due}, {Key: journal.WakeErasing, Due: due}}}))
	must(t, s.Journal.Erase(s.ctx, f))
	rows, err := s.Journal.DueWakeups(s.ctx, time.Now(), 10)
	must(t, err)
	if len(rows) != 1 || rows[0].Key != journal.WakeErasing {
		t.Errorf("wake-ups after the erasure: %+v", rows)
	}
}
