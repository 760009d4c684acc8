package actors_test

import (
	"testing"
	"testing/synctest"

	"granary.dev/granary/actors/kb"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// stages are where a run can be when somebody decides against it.
var stages = []struct {
	name string
	op   string
	url  bool
	late bool // the operation does not heed its context: it ends after the decision
}{
	{"fetching", "Fetch", true, false},
	{"storing the fetched", "CommitBlob", true, true},
	{"parsing", "Parse", false, false},
	{"parsing late", "Parse", false, true},
	{"writing chunks", "PutChunks", false, true},
	{"embedding", "Passages", false, false},
	{"embedding late", "Passages", false, true},
	{"writing vectors", "PutVectors", false, true},
}

// against are the decisions against a run.
var against = []struct {
	name string
	do   func(c *client) error
	left int // chunks that stay when all is over
}{
	{"cancel", func(c *client) error { return c.cancel("doc") }, 0},
	{"delete", func(c *client) error { return c.remove("doc") }, 0},
	{"new version", func(c *client) error { _, err := c.add("doc", page("second", 2)); return err }, 2},
	{"delete the knowledge base", func(c *client) error { return c.deleteKB() }, 0},
}

// C4: a run that is decided against in any stage changes nothing any more, and
// what it wrote, even late, is gone when all is at rest.
func TestRunDecidedAgainstLeavesNothing_C4(t *testing.T) {
	for _, stage := range stages {
		for _, decision := range against {
			t.Run(stage.name+"/"+decision.name, func(t *testing.T) {
				bubble(t, setup{}, func(t *testing.T, w *world) {
					c := w.kb("notes")
					created, err := c.create()
					if err != nil {
						t.Fatal(err)
					}
					h := w.faults.hold(stage.op, nil)
					if stage.late {
						h = w.faults.stubborn(stage.op, nil)
					}
					var source []string
					if stage.url {
						err = c.addURL("doc", "https://example.org/first")
					} else {
						m := c.addCall("doc", page("first", 3))
						source = append(source, m.GetAddDocument().GetSource().GetBlob())
						_, err = c.call(m)
					}
					if err != nil {
						t.Fatal(err)
					}
					<-h.entered
					if err := decision.do(c); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					w.faults.on(stage.op, nil)
					h.release()
					synctest.Wait()
					checkDecision(t, c, decision.name)
					// The others' rows and blobs are gone, whatever the run still wrote.
					if n := w.rows(created.GetUid()); n != decision.left {
						t.Errorf("%d chunk rows are left, want %d", n, decision.left)
					}
					if n := w.vectors(created.GetUid()); n != decision.left {
						t.Errorf("vectors of %d chunks are left, want %d", n, decision.left)
					}
					if decision.name == "cancel" {
						return // its source stays, so that it can be reprocessed
					}
					if n := w.blobsLeft(append(source, w.faults.created...)); n != 0 {
						t.Errorf("%d blobs are left", n)
					}
				})
			})
		}
	}
}

func checkDecision(t *testing.T, c *client, decision string) {
	t.Helper()
	switch decision {
	case "cancel":
		if d, err := c.get("doc"); err != nil || d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_CANCELLED || d.GetSearchableVersion() != 0 {
			t.Errorf("after the cancellation: %v, %v", d, err)
		}
		if got := c.found("first"); len(got) != 0 {
			t.Errorf("found %v", got)
		}
	case "delete":
		if _, err := c.get("doc"); !kb.Is(err, kb.ReasonDocumentNotFound) {
			t.Errorf("after the deletion: %v", err)
		}
		if n := c.w.count("notes", "document.deleted"); n != 1 {
			t.Errorf("erased %d times", n)
		}
	case "new version":
		c.ready("doc")
		if got := c.found("second"); len(got) != 1 || got[0] != "doc@2" {
			t.Errorf("found %v", got)
		}
	default:
		if _, err := c.describe(); !kb.Is(err, kb.ReasonKnowledgeBaseNotFound) {
			t.Errorf("after the deletion: %v", err)
		}
		if _, err := c.create(); err != nil {
			t.Errorf("the name is not free: %v", err)
		}
	}
}

// C2: what a fetch found to be a duplicate leaves no bytes behind.
func TestFetchedDuplicateLeavesNoBlob_C2(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		c.mustAdd("there", "same")
		c.ready("there")
		if err := c.addURL("doc", "https://example.org/same"); err != nil {
			t.Fatal(err)
		}
		d := c.settle("doc")
		if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_FAILED || d.GetError().GetReason() != kb.ReasonDuplicate {
			t.Errorf("ended as %v: %v", d.GetState(), d.GetError())
		}
		synctest.Wait()
		if n := w.blobsLeft(w.faults.created); n != 0 {
			t.Errorf("%d blobs are left", n)
		}
	})
}
