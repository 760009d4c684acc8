package actors_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// direct asks this node's activation, whatever any view says.
func (p *peer) direct(id string, m *nodev1.KnowledgeBaseCall) (*nodev1.KnowledgeBaseReply, error) {
	if m.Header == nil {
		m.Header = &nodev1.Header{Tenant: tenant, Principal: "tester", Internal: true}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := p.host.ask(ctx, identity(id), m)
	if err != nil {
		return nil, err
	}
	reply := r.(*nodev1.KnowledgeBaseReply)
	if e := reply.GetError(); e != nil {
		return nil, &kb.Error{Code: kb.Code(e.GetCode()), Reason: e.GetReason(), Message: e.GetMessage()}
	}
	return reply, nil
}

// goDirect starts such a call.
func (p *peer) goDirect(id string, m *nodev1.KnowledgeBaseCall) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		r, err := p.direct(id, m)
		out <- answer{r, err}
	}()
	return out
}

func describeCall() *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Get{Get: &granaryv1.GetKnowledgeBaseRequest{}}}
}

func renameCall(name string) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Update{Update: &granaryv1.UpdateKnowledgeBaseRequest{
		KnowledgeBase: &granaryv1.KnowledgeBase{DisplayName: name}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}}}}}
}

func cancelCall(id string) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_CancelDocument{
		CancelDocument: &granaryv1.CancelDocumentRequest{Name: id}}}
}

func createCall(id string, validate bool) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Create{Create: &granaryv1.CreateKnowledgeBaseRequest{
		KnowledgeBaseId: id, ValidateOnly: validate}}}
}

// allReads is a call of each kind that is answered from what is there, refused
// writes included.
func allReads(c *client) map[string]*nodev1.KnowledgeBaseCall {
	valid := c.addCall("other", page("gamma", 1))
	valid.GetAddDocument().ValidateOnly = true
	return map[string]*nodev1.KnowledgeBaseCall{"describe": describeCall(), "get": getCall("doc"), "list": listCall(),
		"chunks": chunksCall("doc"), "text": textCall("doc"), "search": searchCall("alpha", 0), "events": eventsCall(0),
		"nothing there": getCall("nothing"), "refused write": cancelCall("doc"), "refused keyed write": keyed(cancelCall("doc"), "k"),
		"write that is only checked": valid, "creation of what exists": createCall("notes", false),
		"creation that is only checked": createCall("notes", true)}
}

// I6: with a lease and a proof every read is answered from memory.
func TestLeasedReadsAskNobody_I6(t *testing.T) {
	pair(t, func(t *testing.T, _ *realm, a, _ *peer) {
		c := a.created("notes")
		c.mustAdd("doc", page("alpha", 2))
		c.ready("doc")
		c.wantFound("alpha", "doc@1")
		if err := a.renew(0); err != nil {
			t.Fatal(err)
		}
		before := a.faults.count("Verify/kb") + a.faults.count("Owner/kb")
		for name, m := range allReads(c) {
			if _, err := a.direct("notes", m); err != nil && notApplied(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := a.faults.count("Verify/kb") + a.faults.count("Owner/kb") - before; n != 0 {
			t.Errorf("the store was asked %d times who owns the grain", n)
		}
	})
}

// I6: without a valid lease the store is asked first, once for all reads that
// came before; with the lease back, the first good answer is a new proof.
func TestReadsWithoutALeaseAreVerified_I6(t *testing.T) {
	pair(t, func(t *testing.T, _ *realm, a, _ *peer) {
		c := a.created("notes")
		c.mustAdd("doc", page("alpha", 2))
		c.ready("doc")
		time.Sleep(ttl)
		asked := func(what string, want int, do func()) {
			t.Helper()
			before := a.faults.count("Verify/kb")
			do()
			synctest.Wait()
			if n := a.faults.count("Verify/kb") - before; n != want {
				t.Errorf("%s: the store was asked %d times, want %d", what, n, want)
			}
		}
		get := func() {
			if d, err := a.direct("notes", getCall("doc")); err != nil || d.GetDocument().GetVersion() != 1 {
				t.Errorf("get: %v, %v", d, err)
			}
		}
		asked("without a lease", 2, func() { get(); get() })
		asked("together", 2, func() {
			h := a.faults.hold("Verify", ofKB)
			first := a.goDirect("notes", getCall("doc"))
			<-h.entered
			var later []<-chan answer
			for range 20 {
				later = append(later, a.goDirect("notes", getCall("doc")))
			}
			synctest.Wait()
			if now(first) != nil || now(later[0]) != nil {
				t.Error("answered before the store was asked")
			}
			h.release()
			for _, l := range append(later, first) {
				if got := <-l; got.err != nil {
					t.Error(got.err)
				}
			}
		})
		if err := a.renew(0); err != nil {
			t.Fatal(err)
		}
		asked("with a new lease", 1, func() { get(); get(); get() })
	})
}

// I6: an answer that took so long that the lease was lost meanwhile proves nothing.
func TestLateAnswersProveNothing_I6(t *testing.T) {
	for name, m := range map[string]*nodev1.KnowledgeBaseCall{"Acquire": describeCall(), "Append": renameCall("new"), "Verify": describeCall()} {
		t.Run(name, func(t *testing.T) {
			pair(t, func(t *testing.T, _ *realm, a, _ *peer) {
				a.created("notes")
				time.Sleep(ttl) // the proof of the creation is void
				if err := a.renew(0); err != nil {
					t.Fatal(err)
				}
				if name == "Acquire" {
					a.host.drain(func(id journal.Identity) bool { return id == identity("notes") })
					synctest.Wait()
				}
				before := a.faults.count("Verify/kb")
				h := a.faults.stubborn(name, ofKB)
				slow := a.goDirect("notes", m)
				<-h.entered
				time.Sleep(ttl)
				if err := a.renew(0); err != nil { // a new term
					t.Fatal(err)
				}
				h.release()
				if got := <-slow; got.err != nil {
					t.Fatal(got.err)
				}
				if _, err := a.direct("notes", describeCall()); err != nil {
					t.Fatal(err)
				}
				want := 1 // by the read that waited for the load, or by the one after
				if name == "Verify" {
					want = 2
				}
				if n := a.faults.count("Verify/kb") - before; n != want {
					t.Errorf("the store was asked %d times, want %d", n, want)
				}
			})
		})
	}
}

// I6: an owner that was replaced answers no kind of read, and its activation ends.
func TestReplacedOwnerAnswersNothing_I6(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, b *peer) {
		c := a.created("notes")
		c.mustAdd("doc", page("alpha", 2))
		c.ready("doc")
		reads := allReads(c)
		for name := range reads {
			// a holds the grain, knows nothing of the change and is out of time.
			if _, err := a.direct("notes", describeCall()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if name == "search" {
				if _, err := a.direct("notes", reads[name]); err != nil { // its index is in memory
					t.Fatal(err)
				}
			}
			r.place(identity("notes"), "n2")
			if err := b.renew(0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(ttl)
			if err := b.renew(0); err != nil {
				t.Fatal(err)
			}
			if _, err := b.direct("notes", describeCall()); err != nil {
				t.Fatalf("%s: the new owner: %v", name, err)
			}
			got, err := a.direct("notes", reads[name])
			if !notApplied(err) {
				t.Errorf("%s: a replaced owner said %v, %v", name, got, err)
			}
			synctest.Wait()
			for _, id := range a.host.active() {
				if id == identity("notes") {
					t.Errorf("%s: the activation goes on", name)
				}
			}
			backTo(t, r, a, b)
		}
	})
}

// backTo gives everything back to a, which comes as a new life of its node.
func backTo(t *testing.T, r *realm, a, b *peer) {
	t.Helper()
	a.reboot()
	r.place(identity("notes"), "n1")
	r.change(func(v *placing) { v.home = "n1" })
	for _, p := range []*peer{a, b} {
		if err := p.renew(0); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

// A store that does not answer is told as such, hurts no later read, and does
// not end the activation.
func TestUnverifiedReadsAreUnavailable(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, _ *peer) {
		a.created("notes")
		time.Sleep(ttl)
		epoch := owner(t, r, "notes").Epoch
		a.faults.failOnce("Verify", ofKB, journal.ErrUnavailable, false)
		_, err := a.direct("notes", describeCall())
		unavailable(t, "the read", err, kb.ReasonUnavailable)
		if notApplied(err) {
			t.Error("the cluster would repeat it against a store that is out")
		}
		if _, err := a.direct("notes", describeCall()); err != nil {
			t.Error(err)
		}
		if got := owner(t, r, "notes").Epoch; got != epoch {
			t.Errorf("epoch %d, was %d", got, epoch)
		}
	})
}

// A name nobody wrote to has no fence: the store is asked at each read, and a
// row that another node made ends the activation.
func TestUnwrittenNamesAreLookedUpAgain_I6(t *testing.T) {
	for name, m := range map[string]*nodev1.KnowledgeBaseCall{"describe": describeCall(), "get": getCall("doc"),
		"refused write": cancelCall("doc"), "events": eventsCall(0), "search": searchCall("x", 0)} {
		t.Run(name, func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, b *peer) {
				for range 3 {
					before := a.faults.count("Owner/kb")
					if _, err := a.direct("ghost", m); !kb.Is(err, kb.ReasonKnowledgeBaseNotFound) {
						t.Fatalf("got %v", err)
					}
					if a.faults.count("Owner/kb") == before {
						t.Error("the store was not asked")
					}
				}
				r.place(identity("ghost"), "n2")
				if err := b.renew(0); err != nil {
					t.Fatal(err)
				}
				b.created("ghost")
				if got, err := a.direct("ghost", m); !notApplied(err) {
					t.Errorf("got %v, %v", got, err)
				}
			})
		})
	}
}

// The first write to a name makes the row that its own readers find.
func TestReadersOfAFirstWriteWaitForIt(t *testing.T) {
	pair(t, func(t *testing.T, _ *realm, a, _ *peer) {
		c := a.kb("notes")
		h := a.faults.hold("Append", ofKB)
		creation := make(chan error, 1)
		go func() {
			_, err := c.create()
			creation <- err
		}()
		<-h.entered // the row is there, the event is not
		var reads []<-chan answer
		for range 3 {
			reads = append(reads, a.goDirect("notes", describeCall()))
		}
		synctest.Wait()
		h.release()
		if err := <-creation; err != nil {
			t.Fatal(err)
		}
		for i, r := range reads {
			if got := <-r; got.err != nil {
				t.Errorf("read %d: %v", i, got.err)
			}
		}
	})
}

// I8, I9: rows that went away between the look at the state and the look at the
// store (the next owner may have collected them) make no answer that lacks them:
// the read is sent again.
func TestRowsGoneMeanwhileAreNoAnswer_I9(t *testing.T) {
	for name, m := range map[string]*nodev1.KnowledgeBaseCall{"chunks": chunksCall("doc"), "text": textCall("doc"), "search": searchCall("alpha", 0)} {
		t.Run(name, func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, _ *peer) {
				c := a.created("notes")
				c.mustAdd("doc", page("alpha", 3))
				c.ready("doc")
				c.wantFound("alpha", "doc@1")
				d, err := c.describe()
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := r.disk.DeleteScope(t.Context(), journal.Scope{Tenant: tenant, UID: d.GetUid()}); err != nil {
					t.Fatal(err)
				}
				if got, err := a.direct("notes", m); !notApplied(err) {
					t.Errorf("got %v, %v", got, err)
				}
			})
		})
	}
}
