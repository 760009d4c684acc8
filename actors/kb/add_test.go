package kb_test

import (
	"fmt"
	"strings"
	"testing"

	"granary.dev/granary/actors/kb"
)

// What a second Add of one document's bytes gives: the document, its next
// version, or a refusal.
const (
	givesExisting = "existing"
	givesVersion  = "next version"
	givesTaken    = kb.ReasonDocumentDuplicate
	givesState    = kb.ReasonDocumentState
	givesNew      = "new document"
)

// outcome names what Add decided, and checks that the answer says the same.
func outcome(t *testing.T, w *world, r kb.AddRequest) string {
	t.Helper()
	r.NewID, r.Limits = w.fresh("new"), unlimited
	events, id, existing, err := w.k.Add(r)
	switch {
	case err != nil:
		if events != nil || id != "" || existing != nil {
			t.Errorf("an answer beside the error: %v %q %v", events, id, existing)
		}
		return reasonOf(err)
	case existing != nil:
		if len(events) > 0 || existing.ID != id {
			t.Errorf("existing %q with id %q and %d events", existing.ID, id, len(events))
		}
		return givesExisting
	}
	w.apply(events...)
	d := w.k.Document(id)
	if d == nil || d.State != kb.StateQueued || d.Source != r.Source {
		t.Fatalf("added %q: %+v", id, d)
	}
	if d.Version > 1 {
		return givesVersion
	}
	return givesNew
}

func reasonOf(err error) string {
	reason, _, _ := strings.Cut(err.Error(), ":")
	return reason
}

// duplicateTable says, per state of the document that is there, what another Add
// gives with on_duplicate = unspecified, RETURN, NEW_VERSION, FAIL.
var duplicateTable = map[kb.DocumentState][4]string{
	kb.StateQueued:     {givesExisting, givesExisting, givesVersion, givesTaken},
	kb.StateParsing:    {givesExisting, givesExisting, givesVersion, givesTaken},
	kb.StateEmbedding:  {givesExisting, givesExisting, givesVersion, givesTaken},
	kb.StateReady:      {givesExisting, givesExisting, givesVersion, givesTaken},
	kb.StateReadyEmpty: {givesExisting, givesExisting, givesVersion, givesTaken},
	kb.StateFailed:     {givesVersion, givesVersion, givesVersion, givesTaken},
	kb.StateCancelled:  {givesVersion, givesVersion, givesVersion, givesTaken},
}

func TestSameBytesMeetTheDocumentThatIsThere_C2(t *testing.T) {
	for state, wants := range duplicateTable {
		for dup, want := range wants {
			// Naming the document that has the bytes, or a new one, changes nothing.
			for _, id := range []string{"", "there", "other"} {
				t.Run(fmt.Sprintf("%s/%d/%s", state, dup, id), func(t *testing.T) {
					w := active(t)
					w.add(kb.AddRequest{ID: "there", Source: inline(w, "x")})
					w.bring("there", state)
					got := outcome(t, w, kb.AddRequest{ID: id, Source: inline(w, "x"), OnDuplicate: kb.OnDuplicate(dup)})
					if got != want {
						t.Errorf("got %s, wanted %s", got, want)
					}
					if w.k.Len() != 1 {
						t.Errorf("%d documents with the same bytes", w.k.Len())
					}
				})
			}
		}
	}
}

func TestOtherBytesUnderAKnownIDAreItsNextVersion_C2(t *testing.T) {
	for state := range duplicateTable {
		for dup := range 4 {
			for _, elsewhere := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/%v", state, dup, elsewhere), func(t *testing.T) {
					w := active(t)
					if elsewhere { // the bytes belong to another document already
						w.add(kb.AddRequest{ID: "other", Source: inline(w, "y")})
					}
					w.add(kb.AddRequest{ID: "there", Name: "name.txt", Source: inline(w, "x")})
					w.bring("there", state)
					want := givesVersion
					if kb.OnDuplicate(dup) == kb.DuplicateFail {
						want = givesTaken
					}
					if got := outcome(t, w, kb.AddRequest{ID: "there", Source: inline(w, "y"), OnDuplicate: kb.OnDuplicate(dup)}); got != want {
						t.Fatalf("got %s, wanted %s", got, want)
					}
					if d := w.k.Document("there"); d.Name != "name.txt" {
						t.Errorf("the display name became %q", d.Name)
					}
				})
			}
		}
	}
}

func TestADocumentBeingDeletedTakesNothingUnderItsIDAndItsBytesAreFree_C2(t *testing.T) {
	for dup := range 4 {
		w := active(t)
		w.add(kb.AddRequest{ID: "gone", Source: inline(w, "x")})
		w.bring("gone", kb.StateDeleting)
		for _, content := range []string{"x", "y"} {
			r := kb.AddRequest{ID: "gone", Source: inline(w, content), OnDuplicate: kb.OnDuplicate(dup)}
			if got := outcome(t, w, r); got != givesState {
				t.Errorf("on_duplicate %d, bytes %s under its id: %s", dup, content, got)
			}
		}
		if got := outcome(t, w, kb.AddRequest{Source: inline(w, "x"), OnDuplicate: kb.OnDuplicate(dup)}); got != givesNew {
			t.Errorf("on_duplicate %d, same bytes: %s", dup, got)
		}
	}
}

func TestTheSameURLMeetsTheDocumentThatIsThere_C2(t *testing.T) {
	for dup, want := range []string{givesExisting, givesExisting, givesVersion, givesTaken} {
		w := active(t)
		w.add(kb.AddRequest{ID: "page", Source: kb.Source{URL: "https://example.com/a"}})
		if got := outcome(t, w, kb.AddRequest{Source: kb.Source{URL: "https://example.com/a"}, OnDuplicate: kb.OnDuplicate(dup)}); got != want {
			t.Errorf("on_duplicate %d: got %s, wanted %s", dup, got, want)
		}
		if got := outcome(t, w, kb.AddRequest{Source: kb.Source{URL: "https://example.com/b"}, OnDuplicate: kb.OnDuplicate(dup)}); got != givesNew {
			t.Errorf("another URL: %s", got)
		}
	}
}

func TestTheURLStaysADuplicatesSignAfterItsBytesWereFetched_C2(t *testing.T) {
	w := active(t)
	w.add(kb.AddRequest{ID: "page", Source: kb.Source{URL: "https://example.com/a"}})
	d := w.start("page")
	w.do(w.k.Fetched("page", d.Version, d.Attempt, kb.Source{Blob: "b", Size: 3, SHA256: "s"}, "", ""))
	if got := outcome(t, w, kb.AddRequest{Source: kb.Source{URL: "https://example.com/a"}}); got != givesExisting {
		t.Errorf("the same URL: %s", got)
	}
	if got := outcome(t, w, kb.AddRequest{Source: kb.Source{Blob: "c", SHA256: "s"}}); got != givesExisting {
		t.Errorf("the same bytes: %s", got)
	}
}

func TestFetchedBytesOfAnotherDocumentFailUnlessANewVersionWasAsked_C2(t *testing.T) {
	for dup := range kb.OnDuplicate(4) {
		w := active(t)
		first := w.add(kb.AddRequest{ID: "first", Source: inline(w, "x")})
		w.add(kb.AddRequest{ID: "page", Source: kb.Source{URL: "https://example.com/a"}, OnDuplicate: dup})
		d := w.start("page")
		fetch := func(d *kb.Document) *kb.Document {
			source := kb.Source{Blob: w.fresh("blob"), Size: 1, SHA256: first.Source.SHA256}
			w.do(w.k.Fetched("page", d.Version, d.Attempt, source, "", ""))
			return w.k.Document("page")
		}
		d = fetch(d)
		if dup == kb.DuplicateNewVersion {
			if d.State != kb.StateParsing {
				t.Errorf("NEW_VERSION: %s", d.State)
			}
			continue
		}
		if d.State != kb.StateFailed || d.Error.Reason != kb.ReasonDuplicate || !strings.Contains(d.Error.Message, "first") {
			t.Errorf("on_duplicate %d: %s %+v", dup, d.State, d.Error)
		}
		// Processing it again asks for no second document with these bytes either.
		w.do(w.k.Reprocess("page", nil))
		if d = fetch(w.start("page")); d.State != kb.StateFailed {
			t.Errorf("on_duplicate %d, reprocessed: %s", dup, d.State)
		}
	}
}

func TestTheOldestHolderOfABytesAnswersForThemAndIsFollowedByTheNext_C2_I12(t *testing.T) {
	w := active(t)
	w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
	w.add(kb.AddRequest{ID: "b", Source: inline(w, "y")})
	w.add(kb.AddRequest{ID: "b", Source: inline(w, "x")}) // named: both have x now
	holder := func() string {
		t.Helper()
		_, id, existing, err := w.k.Add(kb.AddRequest{Source: inline(w, "x"), NewID: "new", Limits: unlimited})
		if err != nil {
			t.Fatal(err)
		}
		if existing == nil {
			return ""
		}
		return id
	}
	w.start("a") // a change of a must not hand its bytes to b
	if got := holder(); got != "a" {
		t.Errorf("holder %q, wanted a", got)
	}
	w.do(w.k.DeleteDocument("a"))
	if got := holder(); got != "b" {
		t.Errorf("holder %q after a's deletion, wanted b", got)
	}
	w.do(w.k.DeleteDocument("b"))
	if got := holder(); got != "" {
		t.Errorf("holder %q after both deletions", got)
	}
}
