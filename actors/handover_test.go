package actors_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// handOver gives notes to b and waits until a has let go of it.
func handOver(t *testing.T, r *realm, a, b *peer, most time.Duration) {
	t.Helper()
	r.place(identity("notes"), b.id.Name)
	start := time.Now()
	renewAll(t, a, b)
	for a.holds("notes") {
		time.Sleep(10 * time.Millisecond)
		if time.Since(start) > 30*time.Second {
			t.Fatal("never handed over")
		}
	}
	if took := time.Since(start); took > most {
		t.Errorf("handed over after %v, want at most %v", took, most)
	}
}

func (p *peer) holds(id string) bool {
	for _, i := range p.host.active() {
		if i == identity(id) {
			return true
		}
	}
	return false
}

// A4: a grain goes to another node with its state and its work; callers see a
// delay and no error, and followers go on where they were.
func TestHandOverLosesNothing_A4(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, b *peer) {
		c, d := a.created("notes"), b.kb("notes")
		h := a.faults.hold("Passages", nil)
		c.mustAdd("doc", page("alpha", 3))
		<-h.entered
		synctest.Wait()
		o := owner(t, r, "notes")
		watch := d.ask(watchCall(o.Head, 20*time.Second))
		synctest.Wait()
		handOver(t, r, a, b, 100*time.Millisecond)
		if got := now(watch); got == nil || got.err != nil || got.reply.GetEvents().GetRevision() < o.Head {
			t.Errorf("a follower got %+v", got)
		}
		doc := d.ready("doc")
		if doc.GetAttempts() != 2 || doc.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY {
			t.Errorf("%v", doc)
		}
		if n := countEvents(t, r, "notes", "document.paused"); n != 1 {
			t.Errorf("paused %d times", n)
		}
		if is := owner(t, r, "notes"); is.Node != b.id.String() || is.Epoch != o.Epoch+1 {
			t.Errorf("owner %v", is)
		}
		d.wantFound("alpha", "doc@1")
		c.wantFound("alpha", "doc@1") // by way of the former owner
	})
}

// Calls that wait for something are sent on at once; what is on its way to the
// journal is answered.
func TestHandOverSendsWaitingCallsOn_A4(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, b *peer) {
		c := a.created("notes")
		commit := a.faults.stubborn("Append", carrying("document.added"))
		lookUp := a.faults.stubborn("FindIdempotency", nil)
		sent := a.goDirect("notes", c.addCall("sent", page("alpha", 1)))
		<-commit.entered
		queued := a.goDirect("notes", c.addCall("queued", page("beta", 1)))
		unsent := map[string]<-chan answer{
			"keyed":  a.goDirect("notes", keyed(c.addCall("keyed", page("delta", 1)), "k")),
			"future": a.goDirect("notes", searchCall("alpha", 1000)),
		}
		watch := a.goDirect("notes", watchCall(owner(t, r, "notes").Head, 20*time.Second))
		<-lookUp.entered
		synctest.Wait()
		r.place(identity("notes"), "n2")
		renewAll(t, a, b)
		if got := now(watch); got == nil || got.err != nil {
			t.Errorf("a follower: %+v", got)
		}
		for name, w := range unsent {
			if got := now(w); got == nil || !notApplied(got.err) {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if got, err := a.direct("notes", describeCall()); !notApplied(err) {
			t.Errorf("a new call: %v, %v", got, err)
		}
		lookUp.release()
		commit.release()
		for name, w := range map[string]<-chan answer{"sent": sent, "queued": queued} {
			if got := <-w; got.err != nil {
				t.Errorf("%s: %v", name, got.err)
			}
		}
		synctest.Wait()
		if a.holds("notes") || !owner(t, r, "notes").Released {
			t.Error("not handed over")
		}
	})
}

// Whatever a grain is doing, a hand-over ends in time.
func TestHandOverEndsInTime_A4(t *testing.T) {
	hang := func(o op, _ func() error) error { <-o.ctx.Done(); return o.ctx.Err() }
	for name, c := range map[string]struct {
		start func(t *testing.T, a *peer, c *client)
		most  time.Duration
	}{
		"an erasure that hangs": {most: time.Second, start: func(t *testing.T, a *peer, c *client) {
			a.faults.on("DeleteAttempts", hang)
			if err := c.remove("doc"); err != nil {
				t.Fatal(err)
			}
		}},
		"an erasure that is to be repeated": {most: time.Second, start: func(t *testing.T, a *peer, c *client) {
			a.faults.on("DeleteAttempts", func(op, func() error) error { return journal.ErrUnavailable })
			if err := c.remove("doc"); err != nil {
				t.Fatal(err)
			}
		}},
		"a deletion that hangs": {most: time.Second, start: func(t *testing.T, a *peer, c *client) {
			a.faults.on("DeleteScope", hang)
			if err := c.deleteKB(); err != nil {
				t.Fatal(err)
			}
		}},
		"an index that loads": {most: time.Second, start: func(_ *testing.T, a *peer, c *client) {
			a.faults.on("LoadIndex", hang)
			a.goDirect("notes", searchCall("alpha", 0))
		}},
		"a verification that hangs": {most: time.Second, start: func(_ *testing.T, a *peer, c *client) {
			time.Sleep(ttl * 95 / 100)
			a.faults.on("Verify", hang)
			a.goDirect("notes", getCall("doc"))
		}},
		"a run that heeds nothing": {most: time.Second, start: func(t *testing.T, a *peer, c *client) {
			h := a.faults.stubborn("Parse", nil)
			time.AfterFunc(time.Minute, h.release)
			c.mustAdd("other", page("beta", 1))
			<-h.entered
		}},
		"a commit that hangs": {most: 10 * time.Second, start: func(_ *testing.T, a *peer, c *client) {
			a.faults.on("Append", func(o op, do func() error) error {
				if ofKB(o) {
					time.Sleep(time.Minute)
				}
				return do()
			})
			a.goDirect("notes", renameCall("x"))
		}},
		"a release that fails": {most: 4 * time.Second, start: func(_ *testing.T, a *peer, _ *client) {
			a.faults.on("Release", func(op, func() error) error { return journal.ErrUnavailable })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, b *peer) {
				cl := a.created("notes")
				cl.mustAdd("doc", page("alpha", 2))
				cl.ready("doc")
				c.start(t, a, cl)
				synctest.Wait()
				handOver(t, r, a, b, c.most)
				if _, err := b.kb("notes").call(getCall("doc")); kb.Is(err, kb.ReasonUnavailable) {
					t.Errorf("the next owner: %v", err)
				}
				for _, op := range []string{"Release", "Verify"} {
					a.faults.on(op, nil)
				}
			})
		})
	}
}

// I10: what the last owner was erasing is finished by the next one.
func TestErasureGoesOnElsewhere_I10(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, b *peer) {
		c := a.created("notes")
		c.mustAdd("doc", page("alpha", 2))
		c.ready("doc")
		a.faults.on("DeleteAttempts", func(o op, _ func() error) error { <-o.ctx.Done(); return o.ctx.Err() })
		if err := c.remove("doc"); err != nil {
			t.Fatal(err)
		}
		handOver(t, r, a, b, time.Second)
		renewAll(t, b)
		if _, err := b.kb("notes").get("doc"); !kb.Is(err, kb.ReasonDocumentNotFound) {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := countEvents(t, r, "notes", "document.deleted"); n != 1 {
			t.Errorf("erased %d times", n)
		}
	})
}

// A write that is committed is acknowledged although what was to follow it
// does not come about here.
func TestCommittedWriteIsAcknowledgedAtHandOver_I4(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, b *peer) {
		c := a.kb("notes")
		a.faults.on("Append", func(o op, do func() error) error {
			if o.grain.Kind == actors.KindTenant {
				time.Sleep(4 * time.Second)
			}
			return do()
		})
		creation := make(chan error, 1)
		go func() {
			_, err := c.create()
			creation <- err
		}()
		for countEventsOrNone(r, "kb.created") == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		handOver(t, r, a, b, time.Second)
		if err := <-creation; err != nil {
			t.Error(err)
		}
		a.faults.on("Append", nil)
		time.Sleep(10 * time.Second)
	})
}

func countEventsOrNone(r *realm, typ string) (n int) {
	events, _ := r.disk.Events(context.Background(), identity("notes"), 0, 1000)
	for _, e := range events {
		if e.Type == typ {
			n++
		}
	}
	return n
}

// The slots of paused runs are free at once.
func TestHandOverGivesSlotsBack_B4(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, b *peer) {
		c := a.created("notes")
		a.faults.on("Passages", func(o op, _ func() error) error { <-o.ctx.Done(); return o.ctx.Err() })
		for i := range 8 {
			c.mustAdd(fmt.Sprintf("d%d", i), page(fmt.Sprintf("w%d", i), 1))
		}
		synctest.Wait()
		handOver(t, r, a, b, time.Second)
		var free []func()
		for i := range 4 { // as many as there are; nobody alone gets all
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			release, err := a.slots.Acquire(ctx, fmt.Sprint("other", i), "kb", 4, actors.Work{})
			cancel()
			if err != nil {
				t.Fatal("a slot is held after the hand-over")
			}
			free = append(free, release)
		}
		for _, f := range free {
			f()
		}
		for i := range 8 {
			b.kb("notes").ready(fmt.Sprintf("d%d", i))
		}
	})
}

// A small grain is handed over without a word to the store but its release; a
// large one takes its index and its state along.
func TestHandOverSavesOnlyWhatPays_A4(t *testing.T) {
	for _, docs := range []int{3, 80} {
		t.Run(fmt.Sprint(docs), func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, b *peer) {
				c := a.created("notes")
				for i := range docs {
					c.mustAdd(fmt.Sprintf("d%d", i), page(fmt.Sprintf("w%d", i), 1))
				}
				for i := range docs {
					c.ready(fmt.Sprintf("d%d", i))
				}
				c.found("w1")
				index, state := a.faults.count("SaveIndex/kb"), a.faults.count("SaveSnapshot/kb")
				handOver(t, r, a, b, time.Second)
				want := 0
				if docs > 64 {
					want = 1
				}
				if n := a.faults.count("SaveIndex/kb") - index; n != want {
					t.Errorf("the index was saved %d times", n)
				}
				if n := a.faults.count("SaveSnapshot/kb") - state; n != want {
					t.Errorf("the state was saved %d times", n)
				}
				if found := b.kb("notes").found("w1filler0x1"); !slices.Contains(found, "d1@1") {
					t.Errorf("found %v", found)
				}
			})
		})
	}
}

// A tenant is handed over with its settings and its list.
func TestTenantIsHandedOver_A4(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, b *peer) {
		a.created("notes")
		id := journal.Identity{Kind: actors.KindTenant, Tenant: tenant, ID: tenant}
		r.place(id, "n2")
		renewAll(t, a, b)
		synctest.Wait()
		for _, i := range a.host.active() {
			if i == id {
				t.Error("not handed over")
			}
		}
		for _, p := range []*peer{a, b} {
			reply, err := p.Ask(t.Context(), actors.KindTenant, tenant, tenant, &nodev1.TenantCall{
				Header:    &nodev1.Header{Tenant: tenant, Principal: "tester", Internal: true},
				Operation: &nodev1.TenantCall_List{List: &granaryv1.ListKnowledgeBasesRequest{}}})
			if err != nil || len(reply.(*nodev1.TenantReply).GetList().GetKnowledgeBases()) != 1 {
				t.Errorf("%v, %v", reply, err)
			}
		}
	})
}

// I9: an owner that was replaced while it listed leftovers collects nothing of
// its successor's.
func TestReplacedOwnerCollectsNothing_I9(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, b *peer) {
		c := a.created("notes")
		h := a.faults.stubborn("Passages", nil)
		c.mustAdd("doc", page("alpha", 2))
		<-h.entered
		a.reboot() // the next activation finds a run that nobody ended
		r.change(func(v *placing) { v.home = "n1" })
		renewAll(t, a, b)
		h.release()
		listing := a.faults.stubborn("AttemptsOf", nil)
		a.goDirect("notes", describeCall())
		<-listing.entered
		r.place(identity("notes"), "n2")
		time.Sleep(ttl)
		if err := b.renew(0); err != nil {
			t.Fatal(err)
		}
		d := b.kb("notes")
		d.mustAdd("theirs", page("beta", 2))
		d.ready("theirs")
		listing.release()
		time.Sleep(time.Minute)
		synctest.Wait()
		b.renew(0)
		if chunks, err := d.call(chunksCall("theirs")); err != nil || len(chunks.GetChunks().GetChunks()) != 2 {
			t.Errorf("the successor's chunks: %v, %v", chunks, err)
		}
	})
}

// A run that finds its owner replaced ends the activation, and the document is
// the next owner's business.
func TestFencedRunEndsTheActivation_I1(t *testing.T) {
	for _, write := range []string{"PutChunks", "PutVectors"} {
		t.Run(write, func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, _ *peer) {
				c := a.created("notes")
				h := a.faults.stubborn(write, nil)
				c.mustAdd("doc", page("alpha", 2))
				<-h.entered
				intrude(t, r, false)
				h.release()
				synctest.Wait()
				if a.holds("notes") {
					t.Error("the activation goes on")
				}
				if d := c.ready("doc"); d.GetError() != nil {
					t.Errorf("%v", d)
				}
			})
		})
	}
}
