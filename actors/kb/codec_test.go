package kb_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/actors/kb"
)

// samples is one event of each type with its fields set.
func samples() []kb.Event {
	content := kb.Content{MediaType: "text/html", Language: "en", Title: "T", Pages: 2, Warnings: []string{"w"}}
	source := kb.Source{Blob: "b", Size: 9, SHA256: "s", URL: "https://example.com/"}
	cause := kb.DocumentError{Reason: "R", Message: "m", Stage: "parse", Retryable: true}
	return []kb.Event{
		&kb.Created{UID: "u", DisplayName: "n", Description: "d", Config: full(1), Retention: kb.Retention{MaxAge: 5, From: kb.FromCreation}, Importing: "h"},
		&kb.Registered{},
		&kb.Imported{},
		&kb.Updated{DisplayName: "n", Description: "d", Config: full(2), ConfigVersion: 2},
		&kb.DeleteRequested{By: "p"},
		&kb.Erasing{Counts: kb.ErasureCounts{Documents: 1}},
		&kb.Deleted{Receipt: "r"},
		&kb.DocumentAdded{ID: "a", Version: 1, Name: "n", MediaType: "t", Metadata: map[string]string{"k": "v"}, Source: source,
			OnDuplicate: kb.DuplicateFail, Chunking: &kb.ChunkingConfig{MaxWords: ptr(9)}, ExpireAt: epoch},
		&kb.DocumentStarted{ID: "a", Version: 1, Attempt: "x", Stage: kb.StateParsing},
		&kb.DocumentFetched{ID: "a", Version: 1, Source: source, MediaType: "t", Name: "n"},
		&kb.DocumentChunked{ID: "a", Version: 1, Attempt: "x", Chunks: 3, Model: "m", Content: content},
		&kb.DocumentIndexed{ID: "a", Version: 1, Attempt: "x", Chunks: 3, Model: "m", Content: content},
		&kb.DocumentPaused{ID: "a", Version: 1},
		&kb.DocumentRetried{ID: "a", Version: 1, Error: cause, RetryAt: epoch, Progressed: true},
		&kb.DocumentFailed{ID: "a", Version: 1, Error: cause},
		&kb.DocumentCancelled{ID: "a", Version: 1},
		&kb.DocumentDeleteRequested{ID: "a", Expired: true, By: "p"},
		&kb.DocumentErasing{ID: "a", Counts: kb.ErasureCounts{Documents: 1, Chunks: 3}},
		&kb.DocumentDeleted{ID: "a", Receipt: "r"},
		&kb.TenantConfigured{Config: full(3), Version: 4},
		&kb.KBRegistered{ID: "k", UID: "u", DisplayName: "n", Created: epoch},
		&kb.KBUnregistered{ID: "k", UID: "u"},
	}
}

func TestEveryEventSurvivesItsStoredFormUnderATypeOfItsOwn_I12(t *testing.T) {
	types := make(map[string]bool)
	for _, e := range samples() {
		typ, data, err := kb.EncodeEvent(e)
		if err != nil || typ != e.Type() || types[typ] {
			t.Errorf("%s stored as %q: %v", e.Type(), typ, err)
		}
		types[typ] = true
		back, err := kb.DecodeEvent(typ, data)
		if err != nil || !reflect.DeepEqual(back, e) {
			t.Errorf("%s came back as %+v: %v", typ, back, err)
		}
		if v := reflect.ValueOf(e).Elem(); v.IsZero() && v.NumField() > 0 {
			t.Errorf("%s: the sample says nothing", typ)
		}
		if about := kb.Subject(e); (about == "a") != strings.HasPrefix(typ, "document.") {
			t.Errorf("%s is about document %q", typ, about)
		}
	}
}

func TestAnEventOfANewerReleaseAndABrokenOneAreErrors_I12(t *testing.T) {
	for _, typ := range []string{"", "kb.merged", "document.", "Document.Added"} {
		if e, err := kb.DecodeEvent(typ, []byte("{}")); err == nil || e != nil {
			t.Errorf("type %q was read as %v", typ, e)
		}
	}
	for _, data := range []string{"", "{", "[]", `{"version":"one"}`, `{"version":1.5}`} {
		if e, err := kb.DecodeEvent("document.added", []byte(data)); err == nil || e != nil {
			t.Errorf("%q was read as %v", data, e)
		}
	}
}

func TestASnapshotOfANewerReleaseAndAnImpossibleOneAreErrors_I12(t *testing.T) {
	for name, data := range map[string]string{
		"empty": "", "no format": "{}", "newer": `{"format":2}`, "not JSON": "{", "not a snapshot": "[]",
		"no document":    `{"format":1,"documents":[null]}`,
		"no state":       `{"format":1,"documents":[{"id":"a","created_seq":1}]}`,
		"unknown state":  `{"format":1,"documents":[{"id":"a","created_seq":1,"state":99}]}`,
		"the same twice": `{"format":1,"documents":[{"id":"a","created_seq":1,"state":1},{"id":"a","created_seq":2,"state":1}]}`,
		"out of order":   `{"format":1,"documents":[{"id":"a","created_seq":2,"state":1},{"id":"b","created_seq":1,"state":1}]}`,
	} {
		if _, err := kb.Restore("docs", []byte(data)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestAnEventThatDoesNotFitIsAnErrorAndChangesNothing_I12(t *testing.T) {
	w := active(t)
	w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
	w.bring("a", kb.StateReady)
	before := observe(t, w.k, allSources())
	next := w.k.Revision() + 1
	for _, seq := range []int64{0, next - 1, next + 1} {
		if err := w.k.Apply(seq, w.now, &kb.Registered{}); err == nil || !strings.Contains(err.Error(), "gap") {
			t.Errorf("event %d where %d is next: %v", seq, next, err)
		}
	}
	for name, e := range map[string]kb.Event{
		"created twice":         &kb.Created{},
		"tenant's":              &kb.TenantConfigured{},
		"unknown document":      &kb.DocumentPaused{ID: "b", Version: 1},
		"other version":         &kb.DocumentCancelled{ID: "a", Version: 2},
		"not pending":           &kb.DocumentStarted{ID: "a", Version: 1, Stage: kb.StateParsing},
		"version left out":      &kb.DocumentAdded{ID: "a", Version: 3},
		"not being deleted":     &kb.DocumentDeleted{ID: "a"},
		"unknown being deleted": &kb.DocumentDeleted{ID: "b"},
	} {
		if err := w.k.Apply(next, w.now, e); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if after := observe(t, w.k, allSources()); after != before {
		t.Errorf("changed from\n%s\nto\n%s", before, after)
	}
	w.do(w.k.Reprocess("a", nil))
	for _, stage := range []kb.DocumentState{kb.StateNone, kb.StateQueued, kb.StateReady, kb.StateDeleting, 99} {
		if err := w.k.Apply(next+1, w.now, &kb.DocumentStarted{ID: "a", Version: 2, Stage: stage}); err == nil {
			t.Errorf("a run started at %s", stage)
		}
	}
}

func FuzzDecodeEventNeverPanicsNorDoesItsFold_I12(f *testing.F) {
	for _, e := range samples() {
		typ, data, err := kb.EncodeEvent(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(typ, data)
	}
	f.Add("document.started", []byte(`{"id":"a","version":1,"stage":200}`))
	f.Add("document.added", []byte("null"))
	f.Fuzz(func(t *testing.T, typ string, data []byte) {
		e, err := kb.DecodeEvent(typ, data)
		if err != nil {
			return
		}
		again, raw, err := kb.EncodeEvent(e)
		if err != nil || again != typ {
			t.Fatalf("read as %s, but not written again: %v", again, err)
		}
		if _, err := kb.DecodeEvent(again, raw); err != nil {
			t.Fatalf("written again, but not read: %v", err)
		}
		_ = kb.NewTenant("acme", kb.TierStarter).Apply(1, e)
		_ = kb.New("docs").Apply(1, epoch, e)
		w := active(t)
		w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
		_ = w.k.Apply(w.k.Revision()+1, epoch, e) // an error is fine, a panic is not
		observe(t, w.k, allSources())
	})
}

func FuzzRestoreNeverPanics_I12(f *testing.F) {
	w := active(f)
	w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
	w.bring("a", kb.StateReady)
	data, err := w.k.Freeze()()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"format":1,"documents":[null]}`))
	f.Add([]byte(`{"format":1,"phase":1,"documents":[{"id":"a","created_seq":1,"state":255}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = kb.RestoreTenant("acme", kb.TierStarter, data)
		k, err := kb.Restore("docs", data)
		if err != nil {
			return
		}
		once, err := k.Freeze()()
		if err != nil {
			return // a time outside what JSON holds
		}
		again, err := kb.Restore("docs", once)
		if err != nil {
			t.Fatalf("restored, but not from its own snapshot: %v", err)
		}
		if twice, err := again.Freeze()(); err != nil || string(twice) != string(once) {
			t.Fatalf("snapshot %s became %s (%v)", once, twice, err)
		}
		for d := range k.All {
			_, _ = k.Start(d.ID, "attempt")
			_, _ = k.Reprocess(d.ID, nil)
			_ = d.Due(time.Time{})
			kb.GarbageBetween(d, nil)
		}
		k.Pause()
	})
}
