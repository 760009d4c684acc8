package actors_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// I4, I7: an outage of the store is told as such, changes nothing, and is over
// with the next call.
func TestUnavailableCommitChangesNothing_I7(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		c.mustAdd("kept", page("alpha", 1))
		c.ready("kept")
		epoch := w.owner("notes").Epoch
		w.faults.failOnce("Append", carrying("document.added"), journal.ErrUnavailable, false)
		_, err := c.add("lost", page("beta", 1))
		unavailable(t, "the add", err, kb.ReasonUnavailable)
		if _, err := c.get("lost"); !kb.Is(err, kb.ReasonDocumentNotFound) {
			t.Errorf("get after the failed commit: %v", err)
		}
		if d, err := c.get("kept"); err != nil || d.GetVersion() != 1 {
			t.Errorf("what was acknowledged: %v, %v", d, err)
		}
		c.mustAdd("lost", page("beta", 1))
		c.ready("lost")
		if got := w.owner("notes").Epoch; got != epoch+1 {
			t.Errorf("epoch %d after one failed commit, was %d: the activation did not end just once", got, epoch)
		}
		if n := w.count("notes", "document.added"); n != 2 {
			t.Errorf("%d documents in the journal", n)
		}
	})
}

// I5: a commit in doubt is found out about before its caller hears of it; the
// same key gives one application and one response, whether it had happened or not.
func TestDoubtIsResolvedBeforeTheAnswer_I5(t *testing.T) {
	for _, applied := range []bool{false, true} {
		t.Run(fmt.Sprintf("applied=%v", applied), func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				c := w.created("notes")
				w.faults.failOnce("Append", carrying("document.added"), journal.ErrInDoubt, applied)
				m := keyed(c.addCall("", page("alpha", 1)), "k1")
				first, err := c.call(m) // what was not applied is sent again at once
				if err != nil {
					t.Fatalf("the first try: %v", err)
				}
				c.ready(first.GetAddDocument().GetDocument().GetName())
				again, err := c.call(m)
				if err != nil || !proto.Equal(first, again) {
					t.Errorf("second try %v, %v; the first gave %v", again, err, first)
				}
				if n := w.count("notes", "document.added"); n != 1 {
					t.Errorf("applied %d times", n)
				}
				other := keyed(c.addCall("", page("beta", 1)), "k1")
				if _, err := c.call(other); !kb.Is(err, kb.ReasonIdempotencyMisuse) {
					t.Errorf("another request under the key: %v", err)
				}
			})
		})
	}
}

// I5: many tries at once under one key are one application.
func TestKeyedTriesAtOnceApplyOnce_I5(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		m := keyed(c.addCall("", page("alpha", 1)), "k1")
		names := make([]string, 40)
		var wg sync.WaitGroup
		for i := range names {
			wg.Go(func() {
				r, err := c.call(m)
				if err != nil {
					t.Errorf("try %d: %v", i, err)
				}
				names[i] = r.GetAddDocument().GetDocument().GetName()
			})
		}
		wg.Wait()
		for _, n := range names {
			if n != names[0] {
				t.Errorf("one key made %s and %s", names[0], n)
			}
		}
		if n := w.count("notes", "document.added"); n != 1 {
			t.Errorf("applied %d times", n)
		}
		c.ready(names[0])
	})
}

// I1, I7: an activation whose grain was taken over can neither commit nor
// answer, and the next one continues from the journal.
func TestFencedActivationCannotCommit_I1(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		c.mustAdd("before", page("alpha", 1))
		c.ready("before")
		thief, head, err := w.disk.Acquire(t.Context(), identity("notes"), journal.Claim{Node: "node-2"})
		if err != nil {
			t.Fatal(err)
		}
		var refused int
		w.faults.on("Append", func(o op, do func() error) error {
			err := do()
			if errors.Is(err, journal.ErrFenced) {
				if refused++; w.owner("notes").Head != head {
					t.Error("a stale owner moved the head")
				}
			}
			return err
		})
		c.mustAdd("after", page("gamma", 1)) // sent again, to the next activation
		c.ready("after")
		if n := w.count("notes", "document.added"); refused != 1 || n != 2 {
			t.Errorf("%d commits were refused, %d documents added", refused, n)
		}
		if got := w.owner("notes").Epoch; got <= thief.Epoch {
			t.Errorf("epoch %d, the thief had %d", got, thief.Epoch)
		}
		err = w.disk.Append(t.Context(), thief, journal.Batch{Head: head})
		if !errors.Is(err, journal.ErrFenced) {
			t.Errorf("the thief still commits: %v", err)
		}
	})
}

// Commits are pipelined: what comes while one is under way becomes one batch.
func TestWaitingWritesBecomeOneCommit(t *testing.T) {
	bubble(t, setup{children: 1}, func(t *testing.T, w *world) {
		c := w.created("notes")
		parsing := w.faults.hold("Parse", nil)
		c.mustAdd("first", page("alpha", 1))
		<-parsing.entered // its run is under way; nothing else is written now
		var mu sync.Mutex
		var batches []int
		first := make(chan struct{})
		let := make(chan struct{})
		w.faults.on("Append", func(o op, do func() error) error {
			if ofKB(o) {
				mu.Lock()
				batches = append(batches, len(o.batch.Events))
				n := len(batches)
				mu.Unlock()
				if n == 1 {
					close(first)
					<-let
				}
			}
			return do()
		})
		const n = 50
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { c.mustAdd(fmt.Sprintf("d%d", i), page(fmt.Sprintf("w%d", i), 1)) })
		}
		<-first
		synctest.Wait()
		close(let)
		wg.Wait()
		mu.Lock()
		if len(batches) != 2 || batches[0]+batches[1] != n {
			t.Errorf("commits of %v events, want one and all the others", batches)
		}
		mu.Unlock()
		w.faults.on("Append", nil)
		parsing.release()
		for i := range n {
			c.ready(fmt.Sprintf("d%d", i))
		}
	})
}
