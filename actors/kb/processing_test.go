package kb_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"granary.dev/granary/actors/kb"
)

func TestRetryDelaysGrowAreCappedAndLoseAtMostHalfToJitter_C4(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := kb.RetryPolicy{Initial: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "initial"))}
		p.Max = p.Initial + time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "more"))
		jitter := rapid.Float64Range(0, 0.999999).Draw(t, "jitter")
		last := time.Duration(0)
		for failures := 1; failures <= 80; failures++ {
			whole, d := p.Delay(failures, 0), p.Delay(failures, jitter)
			if whole < last || whole > p.Max || whole < p.Initial {
				t.Fatalf("failure %d waits %v after %v, of %v..%v", failures, whole, last, p.Initial, p.Max)
			}
			if d > whole || d < whole/2 {
				t.Fatalf("jitter %v makes %v of %v", jitter, d, whole)
			}
			last = whole
		}
		if last != p.Max {
			t.Fatalf("waits end at %v, not at %v", last, p.Max)
		}
	})
}

func TestDefaultRetryWaitsAboutTwentyMinutesInAll_C4(t *testing.T) {
	p := kb.DefaultRetry()
	w := active(t)
	w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
	var waited time.Duration
	for n := 1; ; n++ {
		d := w.start("a")
		w.do(w.k.RunFailed("a", d.Version, d.Attempt, kb.DocumentError{Reason: "RATE", Retryable: true}, 0, w.now, 0, p))
		if d = w.k.Document("a"); d.State == kb.StateFailed {
			if n != p.Attempts || d.Error.Reason != "RATE" || d.Runs != p.Attempts {
				t.Errorf("failed after run %d of %d with %+v", n, p.Attempts, d.Error)
			}
			break
		}
		if d.Due(d.RetryAt.Add(-1)) || !d.Due(d.RetryAt) || d.Error.Reason != "RATE" || d.Failures != n {
			t.Errorf("failure %d: %s", n, image(t, d))
		}
		waited += d.RetryAt.Sub(w.now.Add(-time.Second)) // apply moved the clock on by one second
	}
	if waited != 1215*time.Second {
		t.Errorf("waits %v in all", waited)
	}
}

func TestRetryAfterWinsOverAShorterDelay_C4(t *testing.T) {
	p := kb.RetryPolicy{Attempts: 5, Initial: 10 * time.Second, Max: time.Minute}
	for wait, want := range map[time.Duration]time.Duration{
		0: 10 * time.Second, 9 * time.Second: 10 * time.Second, 11 * time.Second: 11 * time.Second, time.Hour: time.Hour,
	} {
		w := active(t)
		w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
		d := w.start("a")
		events, err := w.k.RunFailed("a", d.Version, d.Attempt, kb.DocumentError{Retryable: true}, wait, w.now, 0, p)
		if err != nil {
			t.Fatal(err)
		}
		if got := events[0].(*kb.DocumentRetried).RetryAt.Sub(w.now); got != want {
			t.Errorf("Retry-After %v: waits %v, wanted %v", wait, got, want)
		}
	}
}

// A long document whose embedder refuses now and then gets on: only failures in
// a row, without progress, count.
func TestFailuresAfterProgressDoNotAddUp_C4(t *testing.T) {
	p := kb.RetryPolicy{Attempts: 3, Initial: time.Second, Max: time.Minute}
	w := active(t)
	w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
	cause := kb.DocumentError{Reason: "RATE", Retryable: true}
	for range 20 {
		d, failed := w.start("a"), w.now
		w.do(w.k.RunInterrupted("a", d.Version, d.Attempt, cause, 0, failed, 0, p))
		if got := w.k.Document("a"); got.State != kb.StateQueued || got.RetryAt.Sub(failed) != time.Second {
			t.Fatalf("after progress: %s, again at %v", got.State, got.RetryAt)
		}
	}
	d := w.start("a")
	w.do(w.k.RunFailed("a", d.Version, d.Attempt, cause, 0, w.now, 0, p))
	d = w.start("a")
	w.do(w.k.RunFailed("a", d.Version, d.Attempt, cause, 0, w.now, 0, p))
	if got := w.k.Document("a"); got.State != kb.StateFailed || got.Runs != 22 {
		t.Errorf("after failures in a row: %s after %d runs", got.State, got.Runs)
	}
}

func TestAnErrorThatWillNotPassEndsTheVersionAtOnce_C4(t *testing.T) {
	w := active(t)
	w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
	if d := w.bring("a", kb.StateFailed); d.Runs != 1 || d.Error.Reason != "MALFORMED" || d.Running {
		t.Errorf("failed as %s", image(t, d))
	}
}

// reports are the four ways a run reports, as calls that differ in identity only.
func reports(w *world) map[string]func(id string, version int64, attempt string) error {
	return map[string]func(string, int64, string) error{
		"fetched": func(id string, v int64, a string) error {
			_, err := w.k.Fetched(id, v, a, kb.Source{Blob: "b", SHA256: "s"}, "", "")
			return err
		},
		"chunks": func(id string, v int64, a string) error {
			_, err := w.k.ChunksWritten(id, v, a, 1, "m", kb.Content{})
			return err
		},
		"index": func(id string, v int64, a string) error {
			_, err := w.k.IndexWritten(id, v, a, 3, 3, "m", kb.Content{})
			return err
		},
		"failed": func(id string, v int64, a string) error {
			_, err := w.k.RunFailed(id, v, a, kb.DocumentError{Retryable: true}, 0, w.now, 0, patience)
			return err
		},
	}
}

func TestReportsOfARunThatIsNotCurrentAreDropped_C4(t *testing.T) {
	// Each end takes a running document away from the run that goes on reporting.
	ends := map[string]func(w *world, d *kb.Document){
		"paused": func(w *world, _ *kb.Document) { w.apply(w.k.Pause()...) },
		"failed": func(w *world, d *kb.Document) {
			w.do(w.k.RunFailed(d.ID, d.Version, d.Attempt, kb.DocumentError{}, 0, w.now, 0, patience))
		},
		"waiting for a retry": func(w *world, d *kb.Document) {
			w.do(w.k.RunFailed(d.ID, d.Version, d.Attempt, kb.DocumentError{Retryable: true}, 0, w.now, 0, patience))
		},
		"cancelled":  func(w *world, d *kb.Document) { w.do(w.k.Cancel(d.ID)) },
		"deleted":    func(w *world, d *kb.Document) { w.do(w.k.DeleteDocument(d.ID)) },
		"superseded": func(w *world, d *kb.Document) { w.add(kb.AddRequest{ID: d.ID, Source: inline(w, "y")}) },
		"taken over": func(w *world, d *kb.Document) { w.start(d.ID) },
		"indexed": func(w *world, d *kb.Document) {
			w.do(w.k.IndexWritten(d.ID, d.Version, d.Attempt, 0, 0, "m", kb.Content{}))
		},
		"base fenced": func(w *world, _ *kb.Document) { w.do(w.k.Delete("")) },
		"base erased": func(w *world, _ *kb.Document) { w.do(w.k.Delete("")); w.erase() },
	}
	for name, end := range ends {
		w := active(t)
		w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
		d := w.start("a")
		end(w, d)
		for report, call := range reports(w) {
			if err := call("a", d.Version, d.Attempt); !errors.Is(err, kb.ErrStale) {
				t.Errorf("%s, then %s: %v", name, report, err)
			}
		}
	}
	w := active(t)
	w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
	d := w.start("a")
	for report, call := range reports(w) {
		if err := errors.Join(call("a", d.Version+1, d.Attempt), call("a", d.Version, "other"), call("b", d.Version, d.Attempt)); !errors.Is(err, kb.ErrStale) {
			t.Errorf("%s of another run: %v", report, err)
		}
		if err := call("a", d.Version, d.Attempt); err != nil {
			t.Errorf("%s of the current run: %v", report, err)
		}
	}
}

func TestARunGoesOnWhereTheDurableWorkEnds_C4(t *testing.T) {
	w := active(t)
	w.add(kb.AddRequest{ID: "page", Source: kb.Source{URL: "https://example.com/"}})
	d := w.start("page")
	if d.State != kb.StateFetching {
		t.Fatalf("a URL starts at %s", d.State)
	}
	first := d.Attempt
	w.do(w.k.Fetched("page", d.Version, d.Attempt, kb.Source{Blob: "b", Size: 9, SHA256: "s"}, "text/html", "Page"))
	if d = w.start("page"); d.State != kb.StateParsing || d.Attempt == first || d.Crashes != 1 || d.MediaType != "text/html" || d.Name != "Page" {
		t.Fatalf("after a crash with the bytes stored: %s", image(t, d))
	}
	w.do(w.k.ChunksWritten("page", d.Version, d.Attempt, 0, "m", kb.Content{}))
	if d = w.start("page"); d.State != kb.StateParsing || d.Crashes != 2 || d.Model != "" {
		t.Fatalf("after a crash with no chunks: %s", image(t, d))
	}
	w.do(w.k.ChunksWritten("page", d.Version, d.Attempt, 2, "m", kb.Content{}))
	written := d.Attempt
	if d = w.k.Document("page"); d.Live == nil || d.Live.Attempt != written || d.Live.Embedded || w.k.Chunks() != 2 {
		t.Fatalf("written chunks are not found by keywords: %s", image(t, d))
	}
	w.apply(w.k.Pause()...)
	if d = w.start("page"); d.State != kb.StateEmbedding || d.Attempt != written || d.Crashes != 2 || d.Chunked != 2 {
		t.Fatalf("after a pause with the chunks written: %s", image(t, d))
	}
	if _, err := w.k.IndexWritten("page", d.Version, d.Attempt, 2, 1, "m", kb.Content{}); !kb.Is(err, kb.ReasonInternal) {
		t.Errorf("committed with one of two embeddings: %v", err)
	}
	if _, err := w.k.IndexWritten("page", d.Version, d.Attempt, 1, 1, "m", kb.Content{}); !kb.Is(err, kb.ReasonInternal) {
		t.Errorf("committed one of two written chunks: %v", err)
	}
	if _, err := w.k.Fetched("page", d.Version, d.Attempt, kb.Source{Blob: "c"}, "", ""); !errors.Is(err, kb.ErrStale) {
		t.Errorf("went back from EMBEDDING to PARSING: %v", err)
	}
	w.do(w.k.IndexWritten("page", d.Version, d.Attempt, 2, 2, "m", kb.Content{}))
}

func TestADocumentThatTakesTheProcessDownIsQuarantinedAndCanBeTriedAgain_C4(t *testing.T) {
	w := active(t)
	w.add(kb.AddRequest{ID: "bomb", Source: inline(w, "x")})
	for run := 1; run <= kb.MaxCrashes; run++ {
		if d := w.start("bomb"); d.State != kb.StateParsing || d.Runs != run {
			t.Fatalf("run %d: %s", run, image(t, d))
		}
	}
	w.do(w.k.Start("bomb", "one too many"))
	d := w.k.Document("bomb")
	if d.State != kb.StateFailed || d.Error.Reason != kb.ReasonQuarantined || d.Error.Stage != "parse" || d.Runs != kb.MaxCrashes {
		t.Fatalf("after %d crashes: %s", kb.MaxCrashes, image(t, d))
	}
	w.do(w.k.Reprocess("bomb", nil))
	if d = w.start("bomb"); d.Crashes != 0 || d.Runs != 1 {
		t.Errorf("tried again: %s", image(t, d))
	}
	// Orderly stops are no crashes, however many.
	for range 3 * kb.MaxCrashes {
		w.apply(w.k.Pause()...)
		d = w.start("bomb")
	}
	if d.Crashes != 0 || d.State != kb.StateParsing {
		t.Errorf("after orderly stops: %s", image(t, d))
	}
}

func TestGarbageIsWhatTheNextVersionReplaced_C4(t *testing.T) {
	w := active(t)
	w.add(kb.AddRequest{ID: "a", Source: inline(w, "x")})
	one := w.bring("a", kb.StateReady)
	w.add(kb.AddRequest{ID: "a", Source: inline(w, "y")})
	two := w.start("a")
	if g := kb.GarbageBetween(one, two); len(g.Attempts)+len(g.Blobs) != 0 {
		t.Errorf("while searches see the former version: %v", g)
	}
	w.do(w.k.ChunksWritten("a", two.Version, two.Attempt, 1, "m", kb.Content{}))
	before := w.k.Document("a")
	w.do(w.k.IndexWritten("a", two.Version, two.Attempt, 1, 1, "m", kb.Content{}))
	g := kb.GarbageBetween(before, w.k.Document("a"))
	if len(g.Attempts) != 1 || g.Attempts[0] != one.Attempt || len(g.Blobs) != 1 || g.Blobs[0] != one.Source.Blob {
		t.Errorf("after the new version is whole: %v", g)
	}
	g = kb.GarbageBetween(w.k.Document("a"), nil)
	if len(g.Attempts) != 1 || g.Attempts[0] != two.Attempt || len(g.Blobs) != 1 || g.Blobs[0] != two.Source.Blob {
		t.Errorf("after deletion: %v", g)
	}
	if g = kb.GarbageBetween(nil, one); len(g.Attempts)+len(g.Blobs) != 0 {
		t.Errorf("of a new document: %v", g)
	}
}
