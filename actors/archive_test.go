package actors_test

import (
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (c *client) export(r *nodev1.ReadExport) (*nodev1.ExportPage, error) {
	reply, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ReadExport{ReadExport: r}})
	return reply.GetExportPage(), err
}

// I3: an export shows one revision while writes go on. What was replaced meanwhile is
// kept until it was read, what was deleted is not; and an export that nobody reads any
// more keeps nothing.
func TestExportIsOfOneRevision_I3(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		var blobs []string
		for _, id := range []string{"a", "b", "c"} {
			m := c.addCall(id, page(id, 2))
			blobs = append(blobs, m.GetAddDocument().GetSource().GetBlob())
			if _, err := c.call(m); err != nil {
				t.Fatal(err)
			}
			c.ready(id)
		}
		first, err := c.export(&nodev1.ReadExport{Limit: 1})
		if err != nil || len(first.GetDocuments()) != 1 || first.GetLast() {
			t.Fatalf("first page: %v, %v", first, err)
		}
		c.mustAdd("b", page("newer", 2))
		c.ready("b")
		if err := c.remove("c"); err != nil {
			t.Fatal(err)
		}
		c.mustAdd("d", page("late", 2))
		c.ready("d")
		time.Sleep(time.Minute)
		second, err := c.export(&nodev1.ReadExport{Export: first.GetExport(), After: first.GetDocuments()[0].GetCreatedRevision(), Limit: 10})
		if err != nil || len(second.GetDocuments()) != 2 || !second.GetLast() || second.GetDocuments()[0].GetDocument().GetVersion() != 1 {
			t.Fatalf("second page: %v, %v", second, err)
		}
		if w.blobsLeft(blobs[1:2]) != 1 || w.blobsLeft(blobs[2:]) != 0 {
			t.Error("the replaced source is gone, or the deleted one is there")
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if w.blobsLeft(blobs[1:2]) != 0 {
			t.Error("an export that nobody reads keeps a source")
		}
		if _, err := c.export(&nodev1.ReadExport{Export: first.GetExport()}); err == nil {
			t.Error("it goes on after its time")
		}
	})
}

// I3: an import that nobody carries on erases what it has made, also after a crash;
// one that ended stays.
func TestAnImportThatIsCutOffErasesItself_I3(t *testing.T) {
	begin := func(c *client) *granaryv1.KnowledgeBase {
		r, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_BeginImport{BeginImport: &nodev1.BeginImport{
			Archive: "hash", Create: &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: c.id}}}})
		if err != nil {
			c.t.Fatal(err)
		}
		c.mustAdd("doc", page("alpha", 2))
		c.ready("doc")
		return r.GetKnowledgeBase()
	}
	for name, between := range map[string]func(*world){"running": func(*world) {}, "crashed": (*world).crash, "restarted": (*world).restart} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{waker: true}, func(t *testing.T, w *world) {
				cut, whole := w.kb("cut"), w.kb("whole")
				lost, kept := begin(cut), begin(whole)
				if _, err := whole.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_EndImport{
					EndImport: &nodev1.EndImport{Uid: kept.GetUid()}}}); err != nil {
					t.Fatal(err)
				}
				between(w)
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if _, err := cut.describe(); !kb.Is(err, kb.ReasonKnowledgeBaseNotFound) {
					t.Errorf("the one that was cut off: %v", err)
				}
				if w.rows(lost.GetUid()) != 0 || w.rows(kept.GetUid()) == 0 {
					t.Errorf("%d rows are left of it, %d of the other", w.rows(lost.GetUid()), w.rows(kept.GetUid()))
				}
				whole.wantFound("alpha", "doc@1")
			})
		})
	}
}
