package kb_test

import (
	"strings"
	"testing"
	"time"

	"granary.dev/granary/actors/kb"
)

func TestIDsFollowTheirPatterns_C1(t *testing.T) {
	long := strings.Repeat("a", 128)
	for id, want := range map[string]bool{
		"a": true, "docs": true, "a-b": true, "a1": true, long[:63]: true,
		"": false, "A": false, "1a": false, "-a": false, "a-": false, "a_b": false, "a.b": false, "a\n": false, "ä": false, long[:64]: false,
	} {
		if got := kb.ValidID(id); got != want {
			t.Errorf("knowledge base id %q: %v", id, got)
		}
	}
	for id, want := range map[string]bool{
		"a": true, "A": true, "7": true, "Report.v2_final-1": true, long: true,
		"": false, ".a": false, "a.": false, "-a": false, "a/b": false, "a b": false, "a\n": false, "é": false, long + "a": false,
	} {
		if got := kb.ValidDocumentID(id); got != want {
			t.Errorf("document id %q: %v", id, got)
		}
	}
}

func TestAddRefusesABadIDAndABadURL_C3(t *testing.T) {
	w := active(t)
	_, _, _, err := w.k.Add(kb.AddRequest{ID: "a/b", Limits: unlimited})
	refused(t, err, kb.CodeInvalidArgument, kb.ReasonRequestInvalid)
	for _, u := range []string{"ftp://example.com/", "file:///etc/passwd", "example.com", "http://", "http://:80/", "//example.com/",
		"http://user:secret@example.com/", "http://user@example.com/", "http://[::1", "javascript:alert(1)"} {
		_, _, _, err := w.k.Add(kb.AddRequest{NewID: "x", Source: kb.Source{URL: u}, Limits: unlimited})
		if e := refused(t, err, kb.CodeInvalidArgument, kb.ReasonURLNotValid); strings.Contains(e.Message, "secret") {
			t.Errorf("the message tells the password: %s", e.Message)
		}
	}
	for _, u := range []string{"http://example.com", "HTTPS://example.com:8443/a?b=c#d"} {
		w.add(kb.AddRequest{Source: kb.Source{URL: u}})
	}
}

func TestAKnowledgeBaseLivesFromCreateToErasure_C1(t *testing.T) {
	w := newWorld(t)
	refused(t, w.k.Exists(), kb.CodeNotFound, kb.ReasonKnowledgeBaseNotFound)
	if _, err := kb.New("No").Create("uid", kb.Patch{DisplayName: "", Description: "", Config: kb.Config{}}); !kb.Is(err, kb.ReasonRequestInvalid) {
		t.Errorf("a bad id: %v", err)
	}
	top := 7
	w.do(w.k.Create("uid-1", kb.Patch{DisplayName: "Docs", Description: "all of them", Config: kb.Config{Retrieval: kb.RetrievalConfig{TopN: &top}}}))
	if w.k.UID() != "uid-1" || w.k.DisplayName() != "Docs" || w.k.Description() != "all of them" || *w.k.Config().Retrieval.TopN != 7 ||
		w.k.ConfigVersion() != 1 || !w.k.CreatedAt().Equal(w.now) || w.k.Listed() || w.k.Phase() != kb.PhaseActive {
		t.Errorf("created as %s", observe(t, w.k, nil))
	}
	w.apply(&kb.Registered{})
	_, err := w.k.Create("uid-2", kb.Patch{DisplayName: "", Description: "", Config: kb.Config{}})
	refused(t, err, kb.CodeAlreadyExists, kb.ReasonKnowledgeBaseExists)
	w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
	w.start("a")

	w.do(w.k.Delete(""))
	if _, err := w.k.Create("uid-2", kb.Patch{DisplayName: "", Description: "", Config: kb.Config{}}); refused(t, err, kb.CodeUnavailable, kb.ReasonUnavailable).RetryAfter != time.Second {
		t.Errorf("no retry hint: %v", err)
	}
	nothingWorks(t, w)

	w.apply(&kb.Deleted{})
	if _, err := w.k.Create("uid-2", kb.Patch{DisplayName: "", Description: "", Config: kb.Config{}}); !kb.Is(err, kb.ReasonUnavailable) {
		t.Errorf("created although the journal is still there: %v", err)
	}
	revision := w.k.Revision()
	w.k.Reset()
	w.journal[len(w.journal)-1].reset = true
	nothingWorks(t, w)
	if w.k.Len() != 0 || w.k.UID() != "" || w.k.Listed() || w.k.Revision() != revision || w.k.Phase() != kb.PhaseNone {
		t.Errorf("left after erasure: %s", observe(t, w.k, nil))
	}
	erased := kb.New("docs") // as it is loaded when the journal is gone
	erased.ResetTo(revision)
	if observe(t, erased, nil) != observe(t, w.k, nil) {
		t.Errorf("reset to %s", observe(t, erased, nil))
	}
	w.do(w.k.Create("uid-2", kb.Patch{DisplayName: "", Description: "", Config: kb.Config{}}))
	if w.k.Revision() != revision+1 || w.k.UID() != "uid-2" || w.k.Etag() == "uid-1-1" {
		t.Errorf("the second incarnation: %s", observe(t, w.k, nil))
	}
}

// nothingWorks: a fenced or absent knowledge base finds and starts nothing.
func nothingWorks(t *testing.T, w *world) {
	t.Helper()
	_, _, _, errAdd := w.k.Add(kb.AddRequest{NewID: "x", Limits: unlimited})
	_, errFind := w.k.Find("a")
	_, errCancel := w.k.Cancel("a")
	_, errReprocess := w.k.Reprocess("a", nil)
	_, errDocument := w.k.DeleteDocument("a")
	_, errUpdate := w.k.Update("", kb.Patch{DisplayName: "", Description: "", Config: kb.Config{}}, []string{"display_name"})
	_, errDelete := w.k.Delete("")
	for i, err := range []error{errAdd, errFind, errCancel, errReprocess, errDocument, errUpdate, errDelete} {
		if !kb.Is(err, kb.ReasonKnowledgeBaseNotFound) {
			t.Errorf("command %d: %v", i, err)
		}
	}
	if events, err := w.k.Start("a", "attempt"); err != kb.ErrStale {
		t.Errorf("a run starts: %v %v", events, err)
	}
}

func TestAnEtagOfYesterdayChangesNothing_C7(t *testing.T) {
	w := active(t)
	old := w.k.Etag()
	w.do(w.k.Update(old, kb.Patch{DisplayName: "one", Description: "", Config: kb.Config{}}, []string{"display_name"}))
	if w.k.Etag() == old {
		t.Error("the etag did not change")
	}
	_, err := w.k.Update(old, kb.Patch{DisplayName: "two", Description: "", Config: kb.Config{}}, []string{"display_name"})
	refused(t, err, kb.CodeAborted, kb.ReasonEtagMismatch)
	_, err = w.k.Delete(old)
	refused(t, err, kb.CodeAborted, kb.ReasonEtagMismatch)
	w.add(kb.AddRequest{ID: "a"})
	w.do(w.k.Delete(w.k.Etag())) // a document's arrival is no change of the knowledge base's own fields
}

func TestDocumentCommandsRefuseTheWrongState_C2_C4(t *testing.T) {
	cases := []struct {
		state                     kb.DocumentState
		cancel, reprocess, delete string // reason of refusal, "" = allowed
	}{
		{kb.StateQueued, "", kb.ReasonDocumentState, ""},
		{kb.StateParsing, "", kb.ReasonDocumentState, ""},
		{kb.StateEmbedding, "", kb.ReasonDocumentState, ""},
		{kb.StateReady, kb.ReasonDocumentState, "", ""},
		{kb.StateReadyEmpty, kb.ReasonDocumentState, "", ""},
		{kb.StateFailed, kb.ReasonDocumentState, "", ""},
		{kb.StateCancelled, kb.ReasonDocumentState, "", ""},
		{kb.StateDeleting, kb.ReasonDocumentNotFound, kb.ReasonDocumentNotFound, kb.ReasonDocumentNotFound},
	}
	for _, c := range cases {
		w := active(t)
		w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
		w.bring("a", c.state)
		_, errCancel := w.k.Cancel("a")
		_, errReprocess := w.k.Reprocess("a", nil)
		_, errDelete := w.k.DeleteDocument("a")
		for command, pair := range map[string][2]any{
			"cancel": {errCancel, c.cancel}, "reprocess": {errReprocess, c.reprocess}, "delete": {errDelete, c.delete},
		} {
			got := ""
			if err, ok := pair[0].(error); ok {
				got = reasonOf(err)
			}
			if got != pair[1] {
				t.Errorf("%s in %s: %q, wanted %q", command, c.state, got, pair[1])
			}
		}
	}
	_, err := active(t).k.Cancel("nobody")
	refused(t, err, kb.CodeNotFound, kb.ReasonDocumentNotFound)
}

func TestReprocessingKeepsTheSourceAndWhatIsSearchable_C4(t *testing.T) {
	w := active(t)
	words := 50
	before := w.add(kb.AddRequest{ID: "a", Name: "a.txt", MediaType: "text/plain", Metadata: map[string]string{"k": "v"},
		Source: inline(w, "x"), Chunking: &kb.ChunkingConfig{TargetWords: &words}})
	ready := w.bring("a", kb.StateReady)
	w.do(w.k.Reprocess("a", nil))
	d := w.k.Document("a")
	if d.Version != 2 || d.State != kb.StateQueued || d.Source != before.Source || d.Name != "a.txt" || d.MediaType != "text/plain" ||
		d.Metadata["k"] != "v" || *d.Chunking.TargetWords != 50 || d.Live != ready.Live || d.Runs != 0 || d.Attempt != "" {
		t.Errorf("reprocessed as %s", image(t, d))
	}
	w.do(w.k.Cancel("a"))
	other := 60
	w.do(w.k.Reprocess("a", &kb.ChunkingConfig{TargetWords: &other}))
	if d = w.k.Document("a"); *d.Chunking.TargetWords != 60 || d.Live != ready.Live {
		t.Errorf("reprocessed with other chunking as %s", image(t, d))
	}
}

func TestDocumentsAreListedInOrderAfterARevision_C1(t *testing.T) {
	w := active(t)
	for _, id := range []string{"c", "a", "b", "d"} {
		w.add(kb.AddRequest{ID: id, Source: inline(w, id)})
	}
	w.do(w.k.DeleteDocument("a"))
	w.apply(&kb.DocumentDeleted{ID: "a"})
	list := func(seq int64, limit int) (ids string) {
		for d := range func(yield func(*kb.Document) bool) { w.k.After(seq, yield) } {
			if ids += d.ID; len(ids) == limit {
				break
			}
		}
		return ids
	}
	if got := list(0, 2) + "|" + list(w.k.Document("b").CreatedSeq, 2) + "|" + list(w.k.Revision(), 2); got != "cb|d|" {
		t.Errorf("pages %s", got)
	}
}
