package actors_test

import (
	"bytes"
	"database/sql"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// wantChain follows a journal from its anchor to its head.
func (w *world) wantChain(id string) {
	w.t.Helper()
	o := w.owner(id)
	chain := journal.Chain{Seq: o.Erased, Hash: o.Anchor}
	for _, e := range w.events(id) {
		if len(e.Hash) != journal.HashSize {
			w.t.Fatalf("event %d has a hash of %d bytes", e.Seq, len(e.Hash))
		}
		if err := chain.Follow(identity(id), e); err != nil {
			w.t.Fatal(err)
		}
	}
	if chain.Seq != o.Head || !bytes.Equal(chain.Hash, o.Hash) {
		w.t.Fatalf("the chain ends at %d with %x, the owner row has %d with %x", chain.Seq, chain.Hash, o.Head, o.Hash)
	}
}

func TestJournalIsOneHashChainThroughLoadsSnapshotsAndErasures_I1(t *testing.T) {
	bubble(t, setup{waker: true}, func(t *testing.T, w *world) {
		c := w.kb("notes")
		if _, err := c.create(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.add("a", page("alpha", 3)); err != nil {
			t.Fatal(err)
		}
		c.ready("a")
		w.wantChain("notes")
		w.restart() // from a snapshot
		if _, err := c.add("b", page("beta", 3)); err != nil {
			t.Fatal(err)
		}
		c.ready("b")
		w.wantChain("notes")
		w.crash() // from events behind it
		if _, err := c.add("c", page("gamma", 3)); err != nil {
			t.Fatal(err)
		}
		c.ready("c")
		w.wantChain("notes")
		if err := c.deleteKB(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if o := w.owner("notes"); o.Erased != o.Head || len(o.Anchor) != journal.HashSize {
			t.Fatalf("after the erasure the owner row is %+v", o)
		}
		if _, err := c.create(); err != nil {
			t.Fatal(err)
		}
		w.wantChain("notes")
		w.restart()
		if _, err := c.add("a", page("delta", 3)); err != nil {
			t.Fatal(err)
		}
		c.ready("a")
		w.wantChain("notes")
	})
}

func TestEventsSayFromWhereTheyWereCaused_I1(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		m := &nodev1.KnowledgeBaseCall{Header: &nodev1.Header{Tenant: tenant, Principal: "tester", Internal: true, RequestId: "r-1", Remote: "192.0.2.7"},
			Operation: &nodev1.KnowledgeBaseCall_Create{Create: &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "notes"}}}
		if _, err := w.ask(t.Context(), "kb", "notes", m); err != nil {
			t.Fatal(err)
		}
		e := w.events("notes")[0]
		if e.Principal != "tester" || e.RequestID != "r-1" || e.Remote != "192.0.2.7" {
			t.Fatalf("the first event is %+v", e)
		}
		for _, e := range w.events("notes")[1:] {
			if e.Principal == "system" && e.Remote != "" {
				t.Fatalf("the grain's own event says it comes from %s", e.Remote)
			}
		}
	})
}

func TestGrainWithABrokenChainIsQuarantinedAlone_I1(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		sick, well := w.kb("sick"), w.kb("well")
		for _, c := range []*client{sick, well} {
			if _, err := c.create(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.add("a", page("alpha", 2)); err != nil {
				t.Fatal(err)
			}
			c.ready("a")
		}
		w.crash() // no snapshot hides the events
		w.tamper(`UPDATE events SET principal = 'mallory' WHERE id = 'sick' AND seq = 2`)
		if _, err := sick.describe(); !kb.Is(err, kb.ReasonInternal) {
			t.Fatalf("the grain with the changed journal answers %v", err)
		}
		if n := w.grains.BrokenChains(); n == 0 {
			t.Fatal("nothing was counted")
		}
		if _, err := well.describe(); err != nil {
			t.Fatalf("its neighbour answers %v", err)
		}
	})
}

// tamper changes rows behind the store's back.
func (w *world) tamper(query string) {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	r, err := db.Exec(query)
	if err != nil {
		w.t.Fatal(err)
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		w.t.Fatalf("%d rows were changed, %v", n, err)
	}
}
