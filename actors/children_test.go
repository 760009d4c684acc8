package actors_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/embed"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func retryable(reason string) error {
	return &pipeline.Error{Stage: "embed", Reason: reason, Message: "come again", Retryable: true}
}

// A5: a parser that panics costs its own document, after some tries, and
// nothing else.
func TestPanickingParserFailsItsDocumentAlone_A5(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		tries := 0
		w.faults.on("Parse", func(o op, do func() error) error {
			if strings.Contains(o.text, "alpha") {
				tries++
				panic("bad file")
			}
			return do()
		})
		c.mustAdd("bad", page("alpha", 1))
		c.mustAdd("good", page("beta", 1))
		c.ready("good")
		d := c.settle("bad")
		if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_FAILED || d.GetError().GetReason() != "CRASHED" || tries < 2 {
			t.Errorf("ended as %v after %d tries: %v", d.GetState(), tries, d.GetError())
		}
		if w.owner("notes").Epoch != 1 {
			t.Error("the knowledge base was activated anew")
		}
	})
}

// A5: retryable errors are tried again after a growing wait, the last one is
// kept and shown meanwhile, and after the last try the version fails with it.
func TestRetriesBackOffAndKeepTheLastError_A5(t *testing.T) {
	bubble(t, setup{retry: kb.RetryPolicy{Attempts: 3, Initial: 5 * time.Second, Max: time.Minute}}, func(t *testing.T, w *world) {
		c := w.created("notes")
		var tries []time.Time
		w.faults.on("Parse", func(op, func() error) error {
			tries = append(tries, time.Now())
			return retryable(fmt.Sprintf("TRY_%d", len(tries)))
		})
		c.mustAdd("doc", page("alpha", 1))
		d := c.waitFor("doc", func(d *granaryv1.Document) bool { return d.GetError() != nil })
		if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_QUEUED || d.GetError().GetReason() != "TRY_1" ||
			!d.GetError().GetRetryTime().AsTime().Equal(tries[0].Add(5*time.Second)) {
			t.Errorf("between the tries: %v", d)
		}
		d = c.settle("doc")
		if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_FAILED || d.GetError().GetReason() != "TRY_3" || d.GetAttempts() != 3 {
			t.Errorf("in the end: %v", d)
		}
		if len(tries) != 3 || tries[1].Sub(tries[0]).Round(time.Second) != 5*time.Second ||
			tries[2].Sub(tries[1]).Round(time.Second) != 10*time.Second {
			t.Errorf("tried at %v", tries)
		}
	})
}

// Retry-After counts when it is longer than the own wait.
func TestRetryAfterIsHonoured(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		var tries []time.Time
		w.faults.on("Passages", func(_ op, do func() error) error {
			if tries = append(tries, time.Now()); len(tries) == 1 {
				return &embed.RetryAfterError{After: 3 * time.Minute, Err: retryable("EMBEDDER_RATE_LIMITED")}
			}
			return do()
		})
		c.mustAdd("doc", page("alpha", 1))
		c.ready("doc")
		if waited := tries[1].Sub(tries[0]); waited < 3*time.Minute || waited > 3*time.Minute+time.Second {
			t.Errorf("came again after %v", waited)
		}
	})
}

// Documents that wait for different times are each tried at theirs.
func TestEachDocumentIsRetriedAtItsOwnTime(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		waits := []time.Duration{10 * time.Second, 40 * time.Minute, time.Minute}
		tries := 0
		w.faults.on("Passages", func(_ op, do func() error) error {
			if tries++; tries <= len(waits) {
				return &embed.RetryAfterError{After: waits[tries-1], Err: retryable("EMBEDDER_RATE_LIMITED")}
			}
			return do()
		})
		start := time.Now()
		for i := range waits {
			id := fmt.Sprintf("d%d", i)
			c.mustAdd(id, page(id, 1))
			c.waitFor(id, func(d *granaryv1.Document) bool { return d.GetError() != nil })
		}
		for _, i := range []int{0, 2, 1} {
			c.ready(fmt.Sprintf("d%d", i))
			if late := time.Since(start) - waits[i]; late > 2*time.Second {
				t.Errorf("document %d was tried %v late", i, late)
			}
		}
	})
}

// C4, E3: with the embedder down a document waits with the reason and the time
// of the next try, is found by its words, and queries say that words answered.
func TestEmbedderDownCostsRankingNotAnswers_E3(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		down := func(op, func() error) error { return retryable("EMBEDDER_UNAVAILABLE") }
		w.faults.on("Passages", down)
		w.faults.on("Query", down)
		c.mustAdd("doc", page("alpha", 3))
		d := c.waitFor("doc", func(d *granaryv1.Document) bool { return d.GetError() != nil })
		if d.GetError().GetReason() != "EMBEDDER_UNAVAILABLE" || !d.GetError().GetRetryable() ||
			!d.GetError().GetRetryTime().AsTime().After(time.Now()) || !d.GetKeywordSearchable() || d.GetSearchableVersion() != 1 {
			t.Errorf("while the embedder is down: %v", d)
		}
		r, err := c.search("alpha")
		if err != nil || len(r.GetHits()) == 0 || r.GetFallbackUsed() != "keyword_search" || r.GetMessage() == "" {
			t.Errorf("search: %v, %v", r, err)
		}
		w.faults.on("Passages", nil)
		w.faults.on("Query", nil)
		if d := c.ready("doc"); d.GetKeywordSearchable() || d.GetError() != nil {
			t.Errorf("when it is back: %v", d)
		}
		if r, err := c.search("alpha"); err != nil || r.GetFallbackUsed() != "" || !r.GetHits()[0].GetParts().GetHasVector() {
			t.Errorf("search when it is back: %v, %v", r, err)
		}
	})
}

// The checkpoint: with 20 % of the calls refused and two crashes, each between
// an embedded batch and its checkpoint, the embedder works at most 2 % more than
// once per chunk.
func TestRefusalsAndCrashesRepeatNoFinishedChunk(t *testing.T) {
	const n = 4000
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		calls, embedded := 0, 0
		arm := func(checkpoints int) *held {
			w.faults.on("Passages", func(_ op, do func() error) error {
				if calls++; calls%5 == 0 {
					return retryable("EMBEDDER_RATE_LIMITED")
				}
				return do()
			})
			return w.faults.stubborn("PutVectors", func(op) bool {
				checkpoints--
				return checkpoints == 0
			})
		}
		crash := arm(20)
		c.mustAdd("doc", page("alpha", n))
		for _, next := range []int{50, 0} {
			<-crash.entered
			w.faults.die()
			crash.release()
			embedded += w.faults.count("passages")
			w.crash()
			crash = arm(next)
			if _, err := c.get("doc"); err != nil { // activates it
				t.Fatal(err)
			}
		}
		d := c.ready("doc")
		embedded += w.faults.count("passages")
		if d.GetChunkCount() != n || d.GetEmbeddedChunkCount() != n {
			t.Fatalf("%d chunks, %d embedded", d.GetChunkCount(), d.GetEmbeddedChunkCount())
		}
		if embedded < n || embedded > n*102/100 {
			t.Errorf("%d chunks were embedded %d times", n, embedded)
		}
		t.Logf("%d chunks, %d embedded in %d calls, 2 crashes", n, embedded, calls)
	})
}

// A5: a document that takes the process down five times is quarantined, visible
// and retryable; others are not.
func TestCrashingDocumentIsQuarantined_A5(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		for n := 1; n <= kb.MaxCrashes; n++ {
			h := w.faults.stubborn("Parse", nil)
			if n == 1 {
				c.mustAdd("killer", page("alpha", 1))
			} else if d, err := c.get("killer"); err != nil || d.GetState() == granaryv1.DocumentState_DOCUMENT_STATE_FAILED {
				t.Fatalf("given up after %d crashes: %v, %v", n-1, d, err)
			}
			<-h.entered
			h.fail(errors.New("killed"))
			w.faults.die()
			w.crash()
		}
		d := c.settle("killer")
		if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_FAILED || d.GetError().GetReason() != kb.ReasonQuarantined {
			t.Fatalf("after %d crashes: %v %v", kb.MaxCrashes, d.GetState(), d.GetError())
		}
		if err := c.reprocess("killer"); err != nil {
			t.Fatal(err)
		}
		c.ready("killer")
	})
}

// An outage of the store is no crash of the document that was being processed.
func TestStoreOutagesDoNotQuarantine_A5(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		h := w.faults.hold("Parse", nil)
		c.mustAdd("doc", page("alpha", 1))
		for i := range 2 * kb.MaxCrashes {
			<-h.entered
			w.faults.failOnce("Append", carrying("document.added"), journal.ErrUnavailable, false)
			if _, err := c.add("other", page(fmt.Sprintf("beta%d", i), 1)); err == nil {
				t.Fatal("the store was not out")
			}
			h = w.faults.hold("Parse", nil)
			if _, err := c.get("doc"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		<-h.entered
		h.release()
		c.ready("doc")
	})
}

// An orderly stop is no crash, and the next node goes on.
func TestRestartsDoNotQuarantine_A4(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		for i := range 2 * kb.MaxCrashes {
			h := w.faults.hold("Parse", nil)
			if i == 0 {
				c.mustAdd("doc", page("alpha", 1))
			} else if _, err := c.get("doc"); err != nil {
				t.Fatal(err)
			}
			<-h.entered
			w.restart()
		}
		if d := c.ready("doc"); d.GetAttempts() != 2*kb.MaxCrashes+1 {
			t.Errorf("%d runs", d.GetAttempts())
		}
	})
}
