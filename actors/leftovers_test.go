package actors_test

import (
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/journal"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// sources lists the blobs the store has of a knowledge base.
func (w *world) sources(id string) []string {
	w.t.Helper()
	list, err := w.disk.ClaimedBlobs(w.t.Context(), identity(id), "", 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// owed counts the wake-up rows.
func (w *world) owed() int {
	w.t.Helper()
	rows, err := w.disk.DueWakeups(w.t.Context(), time.Now().Add(time.Hour), 10)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(rows)
}

// uploaded adds a version and gives its blob.
func (c *client) uploaded(id, text string) (string, error) {
	m := c.addCall(id, text)
	_, err := c.call(m)
	return m.GetAddDocument().GetSource().GetBlob(), err
}

// I3, I10: a process that dies at any operation of a replacement leaves nothing of the
// replaced version for good, though no document refers to it any more.
func TestAReplacedSourceOutlivesNoCrash_I3(t *testing.T) {
	for _, late := range []bool{false, true} {
		for n, over := 1, false; !over; n++ {
			bubble(t, setup{waker: true}, func(t *testing.T, w *world) {
				c := w.created("notes")
				old, err := c.uploaded("doc", page("alpha", 2))
				if err != nil {
					t.Fatal(err)
				}
				c.ready("doc")
				synctest.Wait()
				m := keyed(c.addCall("doc", page("beta", 2)), "again")
				w.faults.dieAt(n, late)
				_, failed := c.call(m)
				time.Sleep(time.Minute)
				synctest.Wait()
				over = !w.faults.burntOut()
				w.crash()
				if failed != nil {
					if _, err := c.call(m); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := w.sources("notes"); len(got) != 1 || w.blobsLeft([]string{old}) != 0 {
					t.Errorf("the store has %d sources, the old one: %d", len(got), w.blobsLeft([]string{old}))
				}
				if w.owed() != 0 {
					t.Error("a wake-up is left")
				}
				c.wantFound("alpha beta", "doc@2")
			})
			if t.Failed() || n > 200 {
				t.Fatalf("crashed at operation %d, late %v", n, late)
			}
		}
	}
}

// replacedDuringExport begins an export and replaces a document's source meanwhile.
func replacedDuringExport(t *testing.T, w *world) (c *client, old string) {
	t.Helper()
	c = w.created("notes")
	old, err := c.uploaded("doc", page("alpha", 2))
	if err != nil {
		t.Fatal(err)
	}
	c.ready("doc")
	if _, err := c.export(&nodev1.ReadExport{Limit: 1}); err != nil {
		t.Fatal(err)
	}
	c.mustAdd("doc", page("beta", 2))
	c.ready("doc")
	synctest.Wait()
	if w.blobsLeft([]string{old}) != 1 {
		t.Fatal("the export does not hold the source")
	}
	return c, old
}

// I3: what an export held is collected when its process dies, and when it is left.
func TestAnExportHoldsNothingBeyondItsEnd_I3(t *testing.T) {
	for name, end := range map[string]func(*world){"crash": (*world).crash, "restart": (*world).restart,
		"nobody reads it": func(*world) { time.Sleep(5 * time.Minute) }} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{waker: true}, func(t *testing.T, w *world) {
				c, old := replacedDuringExport(t, w)
				end(w)
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := w.sources("notes"); len(got) != 1 || w.blobsLeft([]string{old}) != 0 {
					t.Errorf("the store has %d sources, the old one: %d", len(got), w.blobsLeft([]string{old}))
				}
				if w.owed() != 0 {
					t.Error("a wake-up is left")
				}
				c.wantFound("beta", "doc@2")
			})
		})
	}
}

// I3: the erasure of a document, or of the whole, does not wait for an export: what it
// held of former versions is gone when the receipt says so.
func TestAnErasureTakesWhatAnExportHolds_I3(t *testing.T) {
	for name, erase := range map[string]func(*client) error{"document": func(c *client) error { return c.remove("doc") }, "knowledge base": (*client).deleteKB} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{waker: true}, func(t *testing.T, w *world) {
				c, old := replacedDuringExport(t, w)
				if err := erase(c); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if len(w.receipts()) != 1 || w.blobsLeft([]string{old}) != 0 || len(w.sources("notes")) != 0 {
					t.Errorf("%d receipts, %d sources", len(w.receipts()), w.blobsLeft([]string{old}))
				}
			})
		})
	}
}

// I3: a document is not said to be erased while a former version of it cannot be
// removed, nor while nobody has looked for what a crash left of one.
func TestNoReceiptBeforeFormerVersionsAreGone_I3(t *testing.T) {
	for name, between := range map[string]func(*world){"failing store": func(*world) {}, "and a crash": (*world).crash} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				c := w.created("notes")
				old, err := c.uploaded("doc", page("alpha", 2))
				if err != nil {
					t.Fatal(err)
				}
				c.ready("doc")
				away := func(op, func() error) error { return journal.ErrUnavailable }
				w.faults.on("DeleteBlob", away)
				c.mustAdd("doc", page("beta", 2))
				c.ready("doc")
				between(w)
				w.faults.on("DeleteBlob", away)
				if err := c.remove("doc"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(w.receipts()) != 0 || w.blobsLeft([]string{old}) != 1 {
					t.Errorf("%d receipts while the store fails", len(w.receipts()))
				}
				w.faults.on("DeleteBlob", nil)
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(w.receipts()) != 1 || len(w.sources("notes")) != 0 {
					t.Errorf("%d receipts, sources %v", len(w.receipts()), w.sources("notes"))
				}
			})
		})
	}
}
