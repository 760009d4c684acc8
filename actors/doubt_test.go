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
)

// unknown checks that err says that nobody knows what became of a write.
func unknown(t *testing.T, what string, err error) {
	t.Helper()
	unavailable(t, what, err, kb.ReasonInDoubt)
	if notApplied(err) {
		t.Errorf("%s: in doubt, and yet called not applied", what)
	}
}

// I4, I5, I7: after a commit without an answer the grain is acquired anew, and
// the callers are told what became of it; with or without a key.
func TestDoubtIsResolvedByTheNewHead_I7(t *testing.T) {
	for _, key := range []bool{false, true} {
		for _, applied := range []bool{false, true} {
			t.Run(fmt.Sprintf("key=%v applied=%v", key, applied), func(t *testing.T) {
				pair(t, func(t *testing.T, r *realm, a, _ *peer) {
					c := a.created("notes")
					c.mustAdd("old", page("alpha", 2))
					c.ready("old")
					epoch := owner(t, r, "notes").Epoch
					a.faults.failOnce("Append", carrying("document.added"), journal.ErrInDoubt, applied)
					m := c.addCall("doc", page("beta", 1))
					if key {
						m = keyed(m, "k")
					}
					doubtful := a.goDirect("notes", m)
					got := <-doubtful
					if applied != (got.err == nil) || !applied != notApplied(got.err) {
						t.Errorf("got %v, %v", got.reply, got.err)
					}
					if !applied {
						c.call(m)
					}
					c.ready("doc")
					if n := countEvents(t, r, "notes", "document.added"); n != 2 {
						t.Errorf("%d documents were added", n)
					}
					if e := owner(t, r, "notes").Epoch; e <= epoch {
						t.Errorf("epoch %d, was %d", e, epoch)
					}
					if found := c.found("beta"); !slices.Contains(found, "doc@1") {
						t.Errorf("found %v", found)
					}
				})
			})
		}
	}
}

func countEvents(t *testing.T, r *realm, id, typ string) int {
	t.Helper()
	events, err := r.disk.Events(t.Context(), identity(id), 0, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range events {
		if e.Type == typ {
			n++
		}
	}
	return n
}

// What waits beside a commit in doubt was never sent: it is sent on, and so are
// reads; what comes later waits for the next activation.
func TestOnlyWhatWasSentIsInDoubt_I7(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, _ *peer) {
		c := a.created("notes")
		h := a.faults.stubborn("Append", carrying("document.added"))
		first := a.goDirect("notes", c.addCall("sent", page("alpha", 1)))
		<-h.entered
		queued := a.goDirect("notes", c.addCall("queued", page("beta", 1)))
		queuedKey := a.goDirect("notes", keyed(c.addCall("keyed", page("delta", 1)), "k"))
		read := a.goDirect("notes", getCall("sent"))
		synctest.Wait()
		resolving := a.faults.stubborn("Acquire", ofKB)
		h.fail(journal.ErrInDoubt)
		<-resolving.entered
		later := a.goDirect("notes", describeCall())
		for name, w := range map[string]<-chan answer{"queued": queued, "queued with a key": queuedKey, "read": read} {
			if got := now(w); got == nil || !notApplied(got.err) {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if got := now(first); got != nil {
			t.Errorf("answered before anybody could know: %+v", got)
		}
		if now(later) != nil {
			t.Error("a later call did not wait")
		}
		resolving.release()
		if got := <-first; !notApplied(got.err) {
			t.Errorf("the write in doubt: %v, %v", got.reply, got.err)
		}
		if got := <-later; got.err != nil {
			t.Errorf("a later call: %v", got.err)
		}
		if n := countEvents(t, r, "notes", "document.added"); n != 0 {
			t.Errorf("%d documents", n)
		}
	})
}

// Whoever cannot acquire cannot know: OUTCOME_UNKNOWN, within the time that is
// kept for finding out.
func TestDoubtOfAReplacedOwnerStaysUnknown_I7(t *testing.T) {
	for _, how := range []string{"placed elsewhere", "store out"} {
		t.Run(how, func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, _ *peer) {
				c := a.created("notes")
				h := a.faults.stubborn("Append", carrying("document.added"))
				doubtful := a.goDirect("notes", c.addCall("doc", page("alpha", 1)))
				<-h.entered
				if how == "store out" {
					a.faults.on("Acquire", func(op, func() error) error { return journal.ErrUnavailable })
				} else {
					r.place(identity("notes"), "n2")
					a.mu.Lock()
					a.follow(r.view)
					a.mu.Unlock()
				}
				start := time.Now()
				h.fail(journal.ErrInDoubt)
				unknown(t, "the write", (<-doubtful).err)
				if took := time.Since(start); took > 6*time.Second {
					t.Errorf("it took %v", took)
				}
				a.faults.on("Acquire", nil)
			})
		})
	}
}

// When others wrote in between, a key still tells: the response that is
// recorded, or that nothing was applied, unless records were erased meanwhile.
// Without a key nobody knows.
func TestDoubtAcrossAnotherOwner_I5(t *testing.T) {
	for _, fate := range []string{"applied", "not applied", "applied and erased"} {
		t.Run(fate, func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, _ *peer) {
				c := a.created("notes")
				h := a.faults.stubborn("Append", carrying("kb.updated"))
				rename := a.goDirect("notes", renameCall("new"))
				<-h.entered
				withKey := a.goDirect("notes", keyed(c.addCall("one", page("beta", 1)), "k"))
				synctest.Wait()
				bare := a.goDirect("notes", c.addCall("two", page("gamma", 1)))
				synctest.Wait()
				a.faults.on("Append", func(o op, do func() error) error {
					if !carrying("document.added")(o) {
						return do()
					}
					if fate != "not applied" {
						if err := do(); err != nil {
							t.Error(err)
						}
					}
					intrude(t, r, fate == "applied and erased")
					return journal.ErrInDoubt
				})
				h.release()
				if got := <-rename; got.err != nil {
					t.Fatal(got.err)
				}
				switch got := <-withKey; fate {
				case "applied":
					if got.err != nil || got.reply.GetAddDocument().GetDocument() == nil {
						t.Errorf("with a key: %v, %v", got.reply, got.err)
					}
				case "not applied":
					if !notApplied(got.err) {
						t.Errorf("with a key: %v, %v", got.reply, got.err)
					}
				default:
					unknown(t, "with a key", got.err)
				}
				unknown(t, "without a key", (<-bare).err)
				a.faults.on("Append", nil)
			})
		})
	}
}

// intrude writes to notes as another owner does.
func intrude(t *testing.T, r *realm, erase bool) {
	ctx := t.Context()
	f, head, err := r.disk.Acquire(ctx, identity("notes"), journal.Claim{Node: "n9#b1"})
	if err != nil {
		t.Error(err)
		return
	}
	typ, data, err := kb.EncodeEvent(&kb.Updated{DisplayName: "theirs", ConfigVersion: 9})
	if err != nil {
		t.Error(err)
	}
	e := journal.Event{Seq: head + 1, Time: time.Now(), Type: typ, Data: data, Principal: "other"}
	if err := r.disk.Append(ctx, f, journal.Batch{Head: head, Events: []journal.Event{e}}); err != nil {
		t.Error(err)
	}
	if erase {
		if err := errors.Join(r.disk.SaveSnapshot(ctx, f, journal.Snapshot{Seq: head + 1, State: []byte("{}")}), r.disk.Erase(ctx, f)); err != nil {
			t.Error(err)
		}
	}
}

// A node that ends with a commit under way says that it does not know; calls
// that were not sent are sent on.
func TestHardStopLeavesOnlySentWritesInDoubt_I7(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, _ *peer) {
		c := a.created("notes")
		c.mustAdd("doc", page("alpha", 1))
		c.ready("doc")
		h := a.faults.stubborn("Append", carrying("document.added"))
		lookUp := a.faults.stubborn("FindIdempotency", nil)
		sent := a.goDirect("notes", c.addCall("sent", page("beta", 1)))
		<-h.entered
		unsent := map[string]<-chan answer{
			"queued":      a.goDirect("notes", c.addCall("queued", page("gamma", 1))),
			"looked up":   a.goDirect("notes", keyed(c.addCall("keyed", page("delta", 1)), "k")),
			"same key":    a.goDirect("notes", keyed(c.addCall("keyed", page("delta", 1)), "k")),
			"read":        a.goDirect("notes", getCall("sent")),
			"of a future": a.goDirect("notes", searchCall("alpha", 1000)),
		}
		<-lookUp.entered
		synctest.Wait()
		a.host.kill()
		for name, w := range unsent {
			if got := <-w; !notApplied(got.err) {
				t.Errorf("%s: %v, %v", name, got.reply, got.err)
			}
		}
		unknown(t, "the write that was sent", (<-sent).err)
		h.release()
		lookUp.release()
		synctest.Wait()
	})
}
