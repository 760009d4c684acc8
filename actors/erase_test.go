package actors_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// steps bounds the operations a deletion takes; the test fails if it needs more.
const steps = 60

// C1, I10: a deletion that the process dies in, at any operation of the store,
// is finished by the next one; the name is free then, and whoever takes it sees
// nothing of before, while epochs and revisions go on.
func TestDeletionOutlivesACrashAtEachStep_I10(t *testing.T) {
	for _, late := range []bool{false, true} {
		n := 1
		for done := false; !done; n++ {
			if n > steps {
				t.Fatalf("a deletion takes more than %d operations", steps)
			}
			t.Run(fmt.Sprintf("operation %d late=%v", n, late), func(t *testing.T) {
				bubble(t, setup{waker: true}, func(t *testing.T, w *world) { done = deletionWithCrash(t, w, n, late) })
			})
		}
		t.Logf("late=%v: died at each of %d operations", late, n-2)
	}
}

// deletionWithCrash reports whether the deletion was over before the crash.
func deletionWithCrash(t *testing.T, w *world, n int, late bool) (over bool) {
	c := w.kb("notes")
	created, err := c.create()
	if err != nil {
		t.Fatal(err)
	}
	var sources []string
	for i := range 2 {
		m := keyed(c.addCall(fmt.Sprintf("d%d", i), page(fmt.Sprintf("alpha%d", i), 3)), fmt.Sprintf("key-%d", i))
		sources = append(sources, m.GetAddDocument().GetSource().GetBlob())
		if _, err := c.call(m); err != nil {
			t.Fatal(err)
		}
		c.ready(fmt.Sprintf("d%d", i))
	}
	synctest.Wait()
	before, hashes := w.owner("notes"), w.faults.hashes()
	w.faults.dieAt(n, late)
	deleted := c.deleteKB()
	time.Sleep(time.Minute)
	synctest.Wait()
	if over = !w.faults.burntOut(); over && deleted != nil {
		t.Errorf("delete: %v", deleted)
	}
	w.crash()
	if deleted != nil {
		// Not acknowledged: the client says it again until it is gone.
		if err := c.deleteKB(); err != nil && !kb.Is(err, kb.ReasonKnowledgeBaseNotFound) {
			t.Errorf("delete again: %v", err)
		}
	}
	time.Sleep(time.Minute) // the waker finds what is left
	synctest.Wait()
	w.faults.tallyHashes(hashes)
	checkErased(t, w, created.GetUid(), sources)
	checkReceipts(t, w, &before.Head, kb.Receipt{Target: "knowledgeBases/notes", UID: created.GetUid(), RequestedBy: "tester", Reason: kb.ErasedByRequest,
		Counts: kb.ErasureCounts{KnowledgeBases: 1, Documents: 2, Chunks: 6, Vectors: 6, Blobs: 2}})
	checkNewIncarnation(t, w, c, before.Epoch, before.Head)
	return over
}

// tallyHashes lets a new node's faults know of hashes embedded before.
func (f *faults) tallyHashes(hashes []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range hashes {
		f.seen[h] = true
	}
}

func checkErased(t *testing.T, w *world, uid string, sources []string) {
	t.Helper()
	if n := w.rows(uid); n != 0 {
		t.Errorf("%d chunk rows are left", n)
	}
	if n := w.vectors(uid); n != 0 {
		t.Errorf("%d vectors are left", n)
	}
	if n := w.blobsLeft(sources); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
	if e := w.events("notes"); len(e) != 0 {
		t.Errorf("%d events are left, the last %s", len(e), e[len(e)-1].Type)
	}
	if got := w.listed(); len(got) != 0 {
		t.Errorf("still listed: %v", got)
	}
	if _, err := w.disk.LoadIndex(t.Context(), identity("notes")); !errors.Is(err, journal.ErrNotFound) {
		t.Errorf("the index is left: %v", err)
	}
	if due, err := w.disk.DueWakeups(t.Context(), time.Now().Add(time.Hour), 10); err != nil || len(due) != 0 {
		t.Errorf("wake-ups left: %v, %v", due, err)
	}
}

func checkNewIncarnation(t *testing.T, w *world, c *client, epoch, head int64) {
	t.Helper()
	again, err := c.create()
	if kb.Is(err, kb.ReasonUnavailable) {
		// Nobody asked since the crash: the call that does finishes the last step.
		time.Sleep(time.Second)
		again, err = c.create()
	}
	if err != nil {
		t.Fatalf("the name is not free: %v", err)
	}
	if again.GetRevision() <= head || w.owner("notes").Epoch <= epoch {
		t.Errorf("revision %d and epoch %d after %d and %d", again.GetRevision(), w.owner("notes").Epoch, head, epoch)
	}
	c.wantFound("alpha0 alpha1")
	r, err := c.read(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range r.GetEvents() {
		if e.GetRevision() <= head {
			t.Errorf("event %d of the former incarnation is shown: %s", e.GetRevision(), e.GetType())
		}
	}
	// A key of before means nothing to the new one.
	m := keyed(c.addCall("d0", page("alpha0", 3)), "key-0")
	got, err := c.call(m)
	if err != nil || got.GetRevision() <= head {
		t.Errorf("the key of a former incarnation: %v, %v", got, err)
	}
	c.ready("d0")
	c.wantFound("alpha0", "d0@1")
}

// receipts reads the receipts of the tenant, checked.
func (w *world) receipts() []kb.Receipt {
	w.t.Helper()
	rows, err := w.disk.Receipts(w.t.Context(), journal.ReceiptQuery{Tenant: tenant, Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	var out []kb.Receipt
	for _, row := range rows {
		r, err := kb.VerifyReceipt(row.Body, receiptKey().Public().(ed25519.PublicKey))
		if err != nil || r.Name != kb.ReceiptPrefix+row.Name || !r.CompleteTime.Truncate(time.Microsecond).Equal(row.Time) {
			w.t.Errorf("receipt %s: %+v, %v", row.Name, r, err)
		}
		if r.RequestTime.IsZero() || r.CompleteTime.Before(r.RequestTime) || r.Tenant != tenant || r.Node != "node-1" {
			w.t.Errorf("receipt %+v", r)
		}
		out = append(out, r)
	}
	return out
}

// receiptKey signs the receipts of tests.
func receiptKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) }

// checkReceipts wants exactly these, but for names and times. The events of a
// knowledge base are head and those of its deletion: request, count, end.
func checkReceipts(t *testing.T, w *world, head *int64, want ...kb.Receipt) {
	t.Helper()
	got := w.receipts()
	for i := range got {
		r := &got[i]
		if head != nil && (r.Counts.Events < *head+3 || r.Counts.Events > *head+4) {
			t.Errorf("the receipt counts %d events, before the deletion there were %d", r.Counts.Events, *head)
		}
		r.Name, r.Tenant, r.Node, r.RequestTime, r.CompleteTime, r.Counts.Events, r.Counts.CachedChunks = "", "", "", time.Time{}, time.Time{}, 0, 0
	}
	slices.SortFunc(got, func(a, b kb.Receipt) int { return strings.Compare(a.Target, b.Target) })
	if !slices.Equal(got, want) {
		t.Errorf("receipts\n%+v, want\n%+v", got, want)
	}
}

// I3, I10: the erasure of documents outlives a crash at each operation of the
// store; each gets its receipt once, and no count is lost to the crash.
func TestErasureOfDocumentsIsProvedThroughCrashes_I3(t *testing.T) {
	for _, late := range []bool{false, true} {
		n := 1
		for done := false; !done; n++ {
			if n > steps {
				t.Fatalf("an erasure takes more than %d operations", steps)
			}
			t.Run(fmt.Sprintf("operation %d late=%v", n, late), func(t *testing.T) {
				bubble(t, setup{waker: true}, func(t *testing.T, w *world) { done = documentsWithCrash(t, w, n, late) })
			})
		}
		t.Logf("late=%v: died at each of %d operations", late, n-2)
	}
}

func documentsWithCrash(t *testing.T, w *world, n int, late bool) (over bool) {
	c := w.kb("notes")
	created, err := c.create()
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"a": page("alpha", 3), "b": page("beta", 2) + page("alpha", 3), "stays": page("gamma", 2) + page("beta", 2)}
	var sources []string
	for _, id := range []string{"a", "b", "stays"} {
		m := c.addCall(id, texts[id])
		if id != "stays" {
			sources = append(sources, m.GetAddDocument().GetSource().GetBlob())
		}
		if _, err := c.call(m); err != nil {
			t.Fatal(err)
		}
		c.ready(id)
	}
	synctest.Wait()
	w.faults.dieAt(n, late)
	errs := []error{c.remove("a"), c.remove("b")}
	time.Sleep(time.Minute)
	synctest.Wait()
	over = !w.faults.burntOut()
	w.crash()
	for i, id := range []string{"a", "b"} {
		if errs[i] != nil {
			if err := c.remove(id); err != nil && !kb.Is(err, kb.ReasonDocumentNotFound) {
				t.Errorf("delete again: %v", err)
			}
		}
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	if w.rows(created.GetUid()) != 4 || w.blobsLeft(sources) != 0 || w.count("notes", "document.deleted") != 2 {
		t.Errorf("%d rows, %d blobs, %d deleted", w.rows(created.GetUid()), w.blobsLeft(sources), w.count("notes", "document.deleted"))
	}
	got := w.receipts()
	var sum kb.ErasureCounts
	for _, r := range got {
		sum.Add(r.Counts)
		if r.RequestedBy != "tester" || r.UID != created.GetUid() {
			t.Errorf("receipt %+v", r)
		}
	}
	sum.CachedChunks = 0
	// "a" and "b" share three texts; two of "b" are also those of what stays.
	if want := (kb.ErasureCounts{Documents: 2, Chunks: 8, Vectors: 3, Blobs: 2}); len(got) != 2 || sum != want {
		t.Errorf("%d receipts count %+v, want %+v", len(got), sum, want)
	}
	c.wantFound("alpha beta gamma", "stays@1")
	return over
}

// A failing store delays the erasure of a document, and the grain insists.
func TestErasureInsists_C4(t *testing.T) {
	for _, name := range []string{"DeleteAttempts", "DeleteBlob"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				c := w.kb("notes")
				created, err := c.create()
				if err != nil {
					t.Fatal(err)
				}
				m := c.addCall("doc", page("alpha", 3))
				if _, err := c.call(m); err != nil {
					t.Fatal(err)
				}
				c.ready("doc")
				failures := 0
				w.faults.on(name, func(_ op, do func() error) error {
					if failures++; failures <= 4 {
						return journal.ErrUnavailable
					}
					return do()
				})
				if err := c.remove("doc"); err != nil {
					t.Fatal(err)
				}
				c.wantFound("alpha")
				time.Sleep(time.Minute)
				synctest.Wait()
				if w.rows(created.GetUid()) != 0 || w.blobsLeft([]string{m.GetAddDocument().GetSource().GetBlob()}) != 0 {
					t.Error("something is left")
				}
				if n := w.count("notes", "document.deleted"); n != 1 {
					t.Errorf("%d events of the erasure", n)
				}
			})
		})
	}
}

// A document that was being deleted when the process died is erased by the next
// one, with rows its journal did not speak of any more.
func TestErasureOfADocumentOutlivesACrash_I10(t *testing.T) {
	bubble(t, setup{waker: true}, func(t *testing.T, w *world) {
		c := w.kb("notes")
		created, err := c.create()
		if err != nil {
			t.Fatal(err)
		}
		embedding := w.faults.hold("Passages", nil)
		c.mustAdd("doc", page("alpha", 3))
		<-embedding.entered // its chunks are written, its vectors are not
		deleting := w.faults.hold("DeleteAttempts", nil)
		if err := c.remove("doc"); err != nil {
			t.Fatal(err)
		}
		<-deleting.entered
		w.faults.die()
		deleting.release()
		w.crash()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := w.rows(created.GetUid()); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		if n := w.count("notes", "document.deleted"); n != 1 {
			t.Errorf("%d events of the erasure", n)
		}
	})
}

// I10: what was unfinished when the process died goes on without anybody's call.
func TestUnfinishedWorkGoesOnByItself_I10(t *testing.T) {
	bubble(t, setup{waker: true}, func(t *testing.T, w *world) {
		const kbs = 30
		for _, stage := range []string{"Parse", "Passages"} {
			h := w.faults.stubborn(stage, nil)
			for i := range kbs {
				c := w.kb(fmt.Sprintf("%s-%d", strings.ToLower(stage), i))
				if _, err := c.create(); err != nil {
					t.Fatal(err)
				}
				c.mustAdd("doc", page("alpha", 2))
			}
			<-h.entered
			w.faults.die()
			h.release()
			w.crash()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, stage := range []string{"parse", "passages"} {
			for i := range kbs {
				id := fmt.Sprintf("%s-%d", stage, i)
				if n := w.count(id, "document.indexed"); n != 1 {
					t.Errorf("%s: %d documents are whole a minute after the crash", id, n)
				}
			}
		}
	})
}
