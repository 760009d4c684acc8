package actors_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/cluster/protocol"
)

// renewAll has nodes follow the view.
func renewAll(t *testing.T, peers ...*peer) {
	t.Helper()
	for _, p := range peers {
		if err := p.renew(0); err != nil {
			t.Fatal(err)
		}
	}
}

// A3, A4: who takes a grain over waits while its last owner may answer reads, and
// no longer: until it releases, or its time is over.
func TestTakeoverWaitsForTheLastOwner_A4(t *testing.T) {
	for name, c := range map[string]struct {
		after   time.Duration
		release bool
		least   time.Duration
		most    time.Duration
	}{
		"released":     {after: time.Second, release: true, least: time.Second, most: time.Second + 200*time.Millisecond},
		"silent owner": {least: ttl - time.Millisecond, most: ttl + 200*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, b *peer) {
				a.created("notes")
				r.place(identity("notes"), "n2")
				renewAll(t, b) // a does not hear of it
				start := time.Now()
				got := b.goDirect("notes", describeCall())
				if c.release {
					time.Sleep(c.after)
					renewAll(t, a)
				}
				if got := <-got; got.err != nil {
					t.Error(got.err)
				}
				if took := time.Since(start); took < c.least || took > c.most {
					t.Errorf("taken over after %v, want %v to %v", took, c.least, c.most)
				}
			})
		})
	}
}

// The first write to a name takes it over too, by the same rules.
func TestFirstWriteWaitsForTheLastOwner_A4(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, b *peer) {
		r.place(identity("notes"), "n2")
		renewAll(t, b)
		// Both think they may: a has not heard of the change.
		if _, err := b.direct("notes", describeCall()); !kb.Is(err, kb.ReasonKnowledgeBaseNotFound) {
			t.Fatal(err)
		}
		if _, err := a.direct("notes", createCall("notes", false)); !kb.Is(err, kb.ReasonUnavailable) || a.outdated == 0 {
			t.Errorf("by the former view: %v, reported %d times", err, a.outdated)
		}
		if _, err := b.direct("notes", createCall("notes", false)); err != nil {
			t.Error(err)
		}
	})
}

// A view that moved on is asked for, and the load goes on with it.
func TestOutdatedViewIsReportedAndFollowed_A4(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, _ *peer) {
		a.created("notes")
		a.host.drain(func(id journal.Identity) bool { return id == identity("notes") })
		synctest.Wait()
		r.place(identity("other"), "n2") // a newer view that changes nothing for notes
		got := a.goDirect("notes", describeCall())
		synctest.Wait()
		if a.outdated == 0 {
			t.Error("nobody was told that the view is outdated")
		}
		renewAll(t, a)
		if got := <-got; got.err != nil {
			t.Error(got.err)
		}
	})
}

// A load that waits ends as soon as the node's view gives the grain away, and
// its callers are sent on.
func TestLoadEndsWhenTheGrainIsPlacedElsewhere_A4(t *testing.T) {
	for _, drained := range []bool{false, true} {
		t.Run(fmt.Sprintf("drained=%v", drained), func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, b *peer) {
				a.created("notes")
				r.place(identity("notes"), "n2")
				renewAll(t, b)
				waiting := b.goDirect("notes", describeCall())
				time.Sleep(100 * time.Millisecond)
				r.place(identity("notes"), "n1")
				start := time.Now()
				if drained {
					renewAll(t, b) // asks the grain to hand over as well
				} else {
					b.mu.Lock()
					b.follow(r.view)
					b.mu.Unlock()
				}
				if got := <-waiting; !notApplied(got.err) {
					t.Errorf("got %v, %v", got.reply, got.err)
				}
				if took := time.Since(start); took > 200*time.Millisecond {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// What is acquired for nobody is given back, so that the next owner need not wait.
func TestAcquiredForNobodyIsGivenBack_A4(t *testing.T) {
	for _, how := range []string{"drain", "stop", "view"} {
		t.Run(how, func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, b *peer) {
				a.created("notes")
				a.host.drain(func(id journal.Identity) bool { return id == identity("notes") })
				synctest.Wait()
				h := a.faults.stubborn("LoadSnapshot", ofKB) // acquired, not loaded yet
				waiting := a.goDirect("notes", describeCall())
				<-h.entered
				epoch := owner(t, r, "notes").Epoch
				r.place(identity("notes"), "n2")
				switch how {
				case "drain":
					renewAll(t, a)
				case "stop":
					a.host.kill()
				case "view":
					a.mu.Lock()
					a.follow(r.view)
					a.mu.Unlock()
				}
				h.release()
				if got := <-waiting; !notApplied(got.err) {
					t.Errorf("got %v, %v", got.reply, got.err)
				}
				synctest.Wait()
				if o := owner(t, r, "notes"); !o.Released || o.Epoch != epoch {
					t.Errorf("the grain is still held: %+v", o)
				}
				renewAll(t, b)
			})
		})
	}
}

// I5: what a caller asked for and gave up while the grain was being loaded is not
// done behind its back: with its key it may have been refused elsewhere since.
func TestCallsGivenUpWhileLoadingAreNotServed_I5(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, _ *peer) {
		c := a.created("notes")
		a.host.drain(func(id journal.Identity) bool { return id == identity("notes") })
		synctest.Wait()
		h := a.faults.stubborn("LoadSnapshot", ofKB)
		m := keyed(c.addCall("doc", page("alpha", 1)), "k")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.callCtx(ctx, m); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		<-h.entered
		h.release()
		synctest.Wait()
		if n := countEvents(t, r, "notes", "document.added"); n != 0 {
			t.Errorf("applied %d times", n)
		}
		if _, err := c.call(m); err != nil {
			t.Error(err)
		}
	})
}

// A load that reads what a successor changed meanwhile is no damage: the caller
// is sent on.
func TestLoadBehindASuccessorIsNoDamage_A4(t *testing.T) {
	for _, step := range []string{"LoadSnapshot", "Events"} {
		t.Run(step, func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, _ *peer) {
				c := a.created("notes")
				if step == "Events" {
					c.mustAdd("doc", page("alpha", 1))
					c.ready("doc")
				}
				a.host.drain(func(id journal.Identity) bool { return id == identity("notes") })
				synctest.Wait()
				h := a.faults.stubborn(step, ofKB)
				waiting := a.goDirect("notes", describeCall())
				<-h.entered
				succeed(t, r, step)
				h.release()
				if got := <-waiting; !notApplied(got.err) {
					t.Errorf("got %v, %v", got.reply, got.err)
				}
			})
		})
	}
}

// succeed takes notes over from whoever has it: a snapshot of a later state, or
// an erasure.
func succeed(t *testing.T, r *realm, what string) {
	t.Helper()
	ctx := t.Context()
	f, head, err := r.disk.Acquire(ctx, identity("notes"), journal.Claim{Node: "n9#b1"})
	if err != nil {
		t.Fatal(err)
	}
	later := kb.New("notes")
	later.ResetTo(head + 1)
	state, err := later.Freeze()()
	if err != nil {
		t.Fatal(err)
	}
	if what == "LoadSnapshot" {
		e := journal.Event{Seq: head + 1, Time: time.Now(), Type: "kb.delete_requested", Data: []byte("{}")}
		err = errors.Join(r.disk.Append(ctx, f, journal.Batch{Head: head, Events: []journal.Event{e}}),
			r.disk.SaveSnapshot(ctx, f, journal.Snapshot{Seq: head + 1, State: state}))
	} else {
		err = errors.Join(r.disk.SaveSnapshot(ctx, f, journal.Snapshot{Seq: head, State: []byte("{}")}), r.disk.Erase(ctx, f))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// E5: a node that died holds nobody up longer than its lease.
func TestDeadOwnerIsSucceeded_E5(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, b *peer) {
		c := a.created("notes")
		h := a.faults.stubborn("Parse", nil)
		c.mustAdd("doc", page("alpha", 2))
		<-h.entered
		a.faults.die() // kill -9
		h.fail(errors.New("dead"))
		a.mu.Lock()
		a.cut = true
		a.mu.Unlock()
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go b.run(ctx)
		for {
			if _, err := b.kb("notes").get("doc"); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if took := time.Since(start); took > ttl+time.Second {
			t.Errorf("served again after %v", took)
		}
		b.kb("notes").ready("doc")
		if v := r.view; !v.Gone(protocol.NodeID{Name: "n1", Boot: "b1"}) {
			t.Error("the dead node is still a member")
		}
	})
}
