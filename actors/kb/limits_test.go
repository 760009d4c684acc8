package kb_test

import (
	"fmt"
	"strings"
	"testing"

	"granary.dev/granary/actors/kb"
)

func TestTiersAllowExactlyWhatTheTableSays_B4(t *testing.T) {
	for tier, want := range map[kb.Tier]kb.Limits{
		kb.TierStarter: {ConcurrentProcessing: 5, DocumentsPerKB: 1_000, StorageBytes: 10_000_000_000,
			APICallsPerHour: 1_000, VectorOperationsPerMinute: 100},
		kb.TierProfessional: {ConcurrentProcessing: 20, DocumentsPerKB: 10_000, StorageBytes: 100_000_000_000,
			APICallsPerHour: 10_000, VectorOperationsPerMinute: 500},
		kb.TierEnterprise: {ConcurrentProcessing: 100, DocumentsPerKB: 100_000, StorageBytes: 1_000_000_000_000,
			APICallsPerHour: 100_000, VectorOperationsPerMinute: 2_000},
	} {
		if got, ok := kb.LimitsOf(tier); !ok || got != want {
			t.Errorf("%s: %+v, wanted %+v", tier, got, want)
		}
		if got := kb.NewTenant("acme", tier).Limits(); got != want {
			t.Errorf("tenant of tier %s: %+v", tier, got)
		}
	}
	if got, ok := kb.LimitsOf("gold"); ok || got != (kb.Limits{}) {
		t.Errorf("an unknown tier has limits %+v", got)
	}
	if got := kb.NewTenant("acme", "gold").Limits(); got.DocumentsPerKB != 1_000 {
		t.Errorf("a tenant of an unknown tier may hold %d documents", got.DocumentsPerKB)
	}
}

// filled is a knowledge base with n documents of one byte each, from a snapshot.
func filled(t *testing.T, n int64) *world {
	t.Helper()
	docs := make([]string, n)
	for i := range docs {
		docs[i] = fmt.Sprintf(`{"id":"d%d","version":1,"state":1,"created_seq":%d,"source":{"size":1,"sha256":"s%d"}}`, i, i+2, i)
	}
	data := fmt.Sprintf(`{"format":1,"phase":1,"revision":%d,"documents":[%s]}`, n+1, strings.Join(docs, ","))
	k, err := kb.Restore("docs", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.k = k
	return w
}

func TestTheLastDocumentOfATierFitsAndOneMoreDoesNot_B4_C2(t *testing.T) {
	for _, tier := range []kb.Tier{kb.TierStarter, kb.TierProfessional, kb.TierEnterprise} {
		limits, _ := kb.LimitsOf(tier)
		w := filled(t, limits.DocumentsPerKB-1)
		w.add(kb.AddRequest{ID: "last", Limits: limits})
		_, _, _, err := w.k.Add(kb.AddRequest{NewID: "more", Limits: limits})
		e := refused(t, err, kb.CodeResourceExhausted, kb.ReasonDocumentLimit)
		if e.Metadata["limit"] != fmt.Sprint(limits.DocumentsPerKB) {
			t.Errorf("%s: the error names limit %q", tier, e.Metadata["limit"])
		}
		// A version is not a further document, not even of one without bytes.
		w.add(kb.AddRequest{ID: "last", Source: inline(w, "bytes"), Limits: limits})
		w.add(kb.AddRequest{ID: "d0", Source: inline(w, "other"), Limits: limits})
		// One that is there is answered, not refused.
		if _, id, existing, err := w.k.Add(kb.AddRequest{Source: kb.Source{SHA256: "s1"}, Limits: limits}); err != nil || existing == nil || id != "d1" {
			t.Errorf("%s: duplicate at the limit: %q %v", tier, id, err)
		}
		// Room comes back when the bytes are gone, not when deletion is asked for.
		w.do(w.k.DeleteDocument("d2"))
		_, _, _, err = w.k.Add(kb.AddRequest{NewID: "more", Limits: limits})
		refused(t, err, kb.CodeResourceExhausted, kb.ReasonDocumentLimit)
		w.apply(&kb.DocumentDeleted{ID: "d2"})
		w.add(kb.AddRequest{ID: "more", Limits: limits})
	}
}

func TestTheLastByteOfATierFitsAndOneMoreDoesNot_B4_C2(t *testing.T) {
	for _, tier := range []kb.Tier{kb.TierStarter, kb.TierProfessional, kb.TierEnterprise} {
		limits, _ := kb.LimitsOf(tier)
		w := active(t)
		w.add(kb.AddRequest{ID: "a", Source: kb.Source{SHA256: "a", Size: limits.StorageBytes - 10}, Limits: limits})
		w.add(kb.AddRequest{ID: "b", Source: kb.Source{SHA256: "b", Size: 10}, Limits: limits})
		_, _, _, err := w.k.Add(kb.AddRequest{NewID: "c", Source: kb.Source{SHA256: "c", Size: 1}, Limits: limits})
		if e := refused(t, err, kb.CodeResourceExhausted, kb.ReasonStorageLimit); e.Metadata["limit"] != fmt.Sprint(limits.StorageBytes) {
			t.Errorf("%s: the error names limit %q", tier, e.Metadata["limit"])
		}
		// A new version gives the bytes of the former back.
		_, _, _, err = w.k.Add(kb.AddRequest{ID: "b", Source: kb.Source{SHA256: "b2", Size: 11}, Limits: limits})
		refused(t, err, kb.CodeResourceExhausted, kb.ReasonStorageLimit)
		w.add(kb.AddRequest{ID: "b", Source: kb.Source{SHA256: "b2", Size: 9}, Limits: limits})
		w.add(kb.AddRequest{ID: "c", Source: kb.Source{SHA256: "c", Size: 1}, Limits: limits})
		if got := w.k.SourceBytes(); got != limits.StorageBytes {
			t.Errorf("%s: holds %d bytes of %d", tier, got, limits.StorageBytes)
		}
	}
}

func TestTheBytesOfAURLAreCheckedWhenTheyAreKnown_B4_C2(t *testing.T) {
	w := active(t)
	limits := kb.Limits{DocumentsPerKB: 10, StorageBytes: 100}
	w.add(kb.AddRequest{ID: "a", Source: kb.Source{SHA256: "a", Size: 60}, Limits: limits})
	w.add(kb.AddRequest{ID: "page", Source: kb.Source{URL: "https://example.com/"}, Limits: limits})
	if err := w.k.CheckStorage("page", 40, limits, nil); err != nil {
		t.Errorf("40 bytes where 40 are free: %v", err)
	}
	refused(t, w.k.CheckStorage("page", 41, limits, nil), kb.CodeResourceExhausted, kb.ReasonStorageLimit)
	refused(t, w.k.CheckStorage("page", 1<<62, limits, nil), kb.CodeResourceExhausted, kb.ReasonStorageLimit)
	if err := w.k.CheckStorage("a", 100, limits, nil); err != nil {
		t.Errorf("a document's own bytes count against it: %v", err)
	}
}
