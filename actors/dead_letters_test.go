package actors_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
)

// letters lists the dead letters of notes as "key name reason".
func (w *world) letters() []string {
	w.t.Helper()
	rows, err := w.disk.DeadLetters(w.t.Context(), journal.DeadLetterRow{}, 100)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, r := range rows {
		if r.Identity != identity("notes") || r.Since.IsZero() {
			w.t.Errorf("row %+v", r)
		}
		out = append(out, fmt.Sprintf("%s %s %s", r.Key, r.Name, r.Reason))
	}
	return out
}

func (w *world) wantLetters(when string, want ...string) {
	w.t.Helper()
	synctest.Wait()
	if got := w.letters(); !slices.Equal(got, want) {
		w.t.Errorf("%s: dead letters %v, want %v", when, got, want)
	}
}

func failing(retryable bool) hook {
	return func(op, func() error) error {
		return &pipeline.Error{Stage: "parse", Reason: "BROKEN", Message: "broken", Retryable: retryable}
	}
}

// A7, A5: work that the system gave up is listed until somebody has it tried
// again, replaces it or deletes it; what failed for what it is is not.
func TestGivenUpWorkIsListedUntilItIsTakenUp_A7(t *testing.T) {
	for how, c := range map[string]struct {
		end  func(c *client) error
		gone bool
	}{
		"reprocessed": {end: func(c *client) error { return c.reprocess("doc") }},
		"replaced":    {end: func(c *client) error { c.mustAdd("doc", page("beta", 1)); return nil }},
		"deleted":     {end: func(c *client) error { return c.remove("doc") }, gone: true},
		"all deleted": {end: func(c *client) error { return c.deleteKB() }, gone: true},
	} {
		t.Run(how, func(t *testing.T) {
			bubble(t, setup{retry: kb.RetryPolicy{Attempts: 3, Initial: time.Second, Max: time.Second}}, func(t *testing.T, w *world) {
				cl := w.created("notes")
				w.faults.on("Parse", failing(false))
				cl.mustAdd("refused", page("gamma", 1))
				cl.settle("refused")
				w.wantLetters("a document that cannot be read")
				w.faults.on("Parse", failing(true))
				cl.mustAdd("doc", page("alpha", 1))
				w.wantLetters("while it is tried")
				cl.settle("doc")
				w.wantLetters("given up", "doc doc.txt BROKEN")
				w.restart()
				cl.t = w.t
				w.wantLetters("after a restart", "doc doc.txt BROKEN")
				if err := c.end(cl); err != nil {
					t.Fatal(err)
				}
				w.wantLetters("taken up")
				if !c.gone {
					cl.ready("doc")
					w.wantLetters("ready")
				}
			})
		})
	}
}

// A5: so is a document that takes the process down, and one whose run crashes.
func TestCrashesEndAsDeadLetters_A5(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		for range kb.MaxCrashes {
			h := w.faults.stubborn("Parse", nil)
			if len(w.events("notes")) < 3 {
				c.mustAdd("killer", page("alpha", 1))
			} else if _, err := c.get("killer"); err != nil {
				t.Fatal(err)
			}
			<-h.entered
			h.fail(errors.New("killed"))
			w.faults.die()
			w.crash()
		}
		c.settle("killer")
		w.wantLetters("quarantined", "killer killer.txt QUARANTINED")
		if err := c.reprocess("killer"); err != nil {
			t.Fatal(err)
		}
		w.wantLetters("reprocessed")
		c.ready("killer")
		w.faults.on("Parse", func(op, func() error) error { panic("no") })
		c.mustAdd("panics", page("beta", 1))
		c.settle("panics")
		w.wantLetters("crashed", "panics panics.txt CRASHED")
	})
}

// Within one commit the last word about a document counts.
func TestLastWordOfABatchCounts_A7(t *testing.T) {
	bubble(t, setup{retry: kb.RetryPolicy{Attempts: 1, Initial: time.Second, Max: time.Second}}, func(t *testing.T, w *world) {
		c := w.created("notes")
		w.faults.on("Parse", failing(true))
		c.mustAdd("doc", page("alpha", 1))
		c.settle("doc")
		// Reprocessed and given up again while another commit is under way.
		h := w.faults.stubborn("Append", carrying("kb.updated"))
		rename := c.ask(renameCall("x"))
		<-h.entered
		again := c.ask(reprocessCall("doc"))
		synctest.Wait()
		gone := c.ask(removeCall("doc"))
		synctest.Wait()
		h.release()
		for _, a := range []<-chan answer{rename, again, gone} {
			if got := <-a; got.err != nil {
				t.Error(got.err)
			}
		}
		w.wantLetters("at the end")
	})
}
