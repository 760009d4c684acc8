package actors_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// answer is what a read gave, and nil while it waits.
type answer struct {
	reply *nodev1.KnowledgeBaseReply
	err   error
}

// ask starts a call and gives where its answer will be.
func (c *client) ask(m *nodev1.KnowledgeBaseCall) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		r, err := c.call(m)
		out <- answer{r, err}
	}()
	return out
}

// now gives the answer if it is there by the time nothing moves any more.
func now(a <-chan answer) *answer {
	synctest.Wait()
	select {
	case got := <-a:
		return &got
	default:
		return nil
	}
}

func getCall(id string) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_GetDocument{GetDocument: &granaryv1.GetDocumentRequest{Name: id}}}
}

func listCall() *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ListDocuments{ListDocuments: &granaryv1.ListDocumentsRequest{}}}
}

func chunksCall(id string) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ListChunks{ListChunks: &granaryv1.ListChunksRequest{Parent: id}}}
}

func textCall(id string) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_GetText{GetText: &granaryv1.GetDocumentTextRequest{Name: id}}}
}

func eventsCall(after int64) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ReadEvents{ReadEvents: &nodev1.ReadEvents{AfterRevision: after}}}
}

func watchCall(after int64, wait time.Duration) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ReadEvents{
		ReadEvents: &nodev1.ReadEvents{AfterRevision: after, Wait: durationpb.New(wait)}}}
}

func removeCall(id string) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_DeleteDocument{DeleteDocument: &granaryv1.DeleteDocumentRequest{Name: id}}}
}

// I6, I7: while a deletion is being committed, each read either waits for it or
// answers with the state before; when the commit then fails, nobody was told
// that it had happened.
func TestReadsShowNoUncommittedDeletion_I7(t *testing.T) {
	for _, commits := range []bool{true, false} {
		t.Run(fmt.Sprintf("commits=%v", commits), func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				c := w.created("notes")
				c.mustAdd("old", page("alpha", 2))
				before := c.ready("old").GetRevision()
				commit := w.faults.hold("Append", carrying("document.delete_requested"))
				deletion := c.ask(removeCall("old"))
				<-commit.entered
				reads := map[string]<-chan answer{
					"get": c.ask(getCall("old")), "list": c.ask(listCall()), "chunks": c.ask(chunksCall("old")),
					"text": c.ask(textCall("old")), "search": c.ask(searchCall("alpha", 0)), "events": c.ask(eventsCall(0)),
				}
				early := make(map[string]bool)
				for name, a := range reads {
					got := now(a)
					if got == nil {
						continue
					}
					early[name] = true
					if got.err != nil || got.reply.GetRevision() > before {
						t.Errorf("%s answered %v, %v before the commit", name, got.reply, got.err)
					}
					if s := got.reply.GetSearch(); name == "search" && len(s.GetHits()) == 0 {
						t.Error("a search did not find what is not deleted yet")
					}
				}
				if now(deletion) != nil {
					t.Error("the deletion was acknowledged before its commit")
				}
				if commits {
					commit.release()
				} else {
					commit.fail(journal.ErrUnavailable)
				}
				done := <-deletion
				for name, a := range reads {
					if early[name] {
						continue
					}
					got := <-a
					switch {
					case !commits: // sent again, to the next activation
						if got.err != nil || got.reply.GetRevision() != before {
							t.Errorf("%s gave %v, %v after the commit failed", name, got.reply, got.err)
						}
					case name == "list" && (got.err != nil || len(got.reply.GetDocuments().GetDocuments()) != 0):
						t.Errorf("list gave %v, %v after the deletion", got.reply, got.err)
					case name != "list" && !kb.Is(got.err, kb.ReasonDocumentNotFound):
						t.Errorf("%s gave %v, %v after the deletion", name, got.reply, got.err)
					}
				}
				if commits {
					if done.err != nil {
						t.Errorf("deletion: %v", done.err)
					}
					return
				}
				unavailable(t, "the deletion", done.err, kb.ReasonUnavailable)
				if d, err := c.get("old"); err != nil || d.GetRevision() != before {
					t.Errorf("get: %v, %v", d, err)
				}
				if got := c.found("alpha"); len(got) != 1 {
					t.Errorf("found %v", got)
				}
			})
		})
	}
}

// I7, I8: chunks of an attempt are shown when its event is committed, not before.
func TestReadsShowNoUncommittedChunks_I8(t *testing.T) {
	for _, event := range []string{"document.chunked", "document.indexed"} {
		t.Run(event, func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				c := w.created("notes")
				c.mustAdd("doc", page("alpha", 2))
				before := c.ready("doc").GetRevision()
				commit := w.faults.hold("Append", carrying(event))
				c.mustAdd("doc", page("beta", 3)) // its second version
				if event == "document.chunked" {
					// Its chunks are in the commit held, or in the one behind it.
					added := c.ask(c.addCall("new", page("gamma", 3)))
					defer func() {
						if a := <-added; a.err != nil {
							t.Error(a.err)
						}
						c.ready("new")
					}()
				}
				<-commit.entered
				synctest.Wait()
				for name, m := range map[string]*nodev1.KnowledgeBaseCall{"chunks": chunksCall("doc"), "text": textCall("doc"),
					"chunks of new": chunksCall("new"), "search": searchCall("beta gamma", 0)} {
					a := c.ask(m)
					got := now(a)
					if got == nil {
						continue // it waits for the commit
					}
					if got.err != nil {
						if name != "chunks of new" {
							t.Errorf("%s: %v", name, got.err)
						}
						continue
					}
					if v := got.reply.GetChunks().GetVersion(); v > 1 || (name == "chunks of new" && v > 0) {
						t.Errorf("%s shows version %d before it is committed", name, v)
					}
					if v := got.reply.GetText().GetVersion(); v > 1 {
						t.Errorf("text of version %d before it is committed", v)
					}
					for _, found := range documentsOf(got.reply.GetSearch()) {
						if found != "doc@1" {
							t.Errorf("search shows %s before it is committed", found)
						}
					}
				}
				if r := now(c.ask(eventsCall(before))); r != nil {
					for _, e := range r.reply.GetEvents().GetEvents() {
						if e.GetType() == event {
							t.Errorf("the event is shown before it is committed")
						}
					}
				}
				commit.release()
				c.waitFor("doc", func(d *granaryv1.Document) bool { return d.GetSearchableVersion() == 2 })
			})
		})
	}
}

// I7: a knowledge base that is being created is not there before its commit,
// for no kind of read.
func TestReadsShowNoUncommittedKnowledgeBase_I7(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.kb("notes")
		commit := w.faults.hold("Append", carrying("kb.created"))
		creation := make(chan error, 1)
		go func() {
			_, err := c.create()
			creation <- err
		}()
		<-commit.entered
		describe := &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Get{Get: &granaryv1.GetKnowledgeBaseRequest{}}}
		reads := map[string]<-chan answer{"get": c.ask(describe), "list": c.ask(listCall()),
			"search": c.ask(searchCall("x", 0)), "events": c.ask(eventsCall(0))}
		for name, a := range reads {
			if got := now(a); got != nil && got.err == nil {
				t.Errorf("%s answered %v before the creation was committed", name, got.reply)
			}
		}
		commit.fail(journal.ErrUnavailable)
		unavailable(t, "the creation", <-creation, kb.ReasonUnavailable)
		for name, m := range map[string]*nodev1.KnowledgeBaseCall{"get": describe, "search": searchCall("x", 0), "events": eventsCall(0)} {
			if _, err := c.call(m); !kb.Is(err, kb.ReasonKnowledgeBaseNotFound) {
				t.Errorf("%s after the failed creation: %v", name, err)
			}
		}
		if _, err := c.create(); err != nil {
			t.Errorf("create again: %v", err)
		}
	})
}

// A read of the store that fails is told as such and hurts nobody else; the
// same call works afterwards.
func TestFailedReadsAreUnavailableAndPass(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		c.mustAdd("doc", page("alpha", 2))
		c.ready("doc")
		c.found("alpha") // the index is loaded
		for name, m := range map[string]*nodev1.KnowledgeBaseCall{
			"Chunks": chunksCall("doc"), "ChunksByRef": searchCall("alpha", 0), "Events": eventsCall(0),
			"FindIdempotency": keyed(c.addCall("new", page("beta", 1)), "k"),
		} {
			w.faults.failOnce(name, nil, journal.ErrUnavailable, false)
			_, err := c.call(m)
			unavailable(t, name, err, kb.ReasonUnavailable)
			if _, err := c.call(m); err != nil {
				t.Errorf("%s after the failure: %v", name, err)
			}
		}
		c.ready("new")
		if n := w.count("notes", "document.added"); n != 2 {
			t.Errorf("%d documents added", n)
		}
	})
}

// A grain that cannot be loaded says so, to all who wait, and the next call
// tries again.
func TestFailedActivationIsUnavailableAndPasses(t *testing.T) {
	for _, step := range []string{"Owner", "Acquire", "LoadSnapshot", "Events"} {
		t.Run(step, func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				c := w.created("notes")
				c.mustAdd("doc", page("alpha", 1))
				c.ready("doc")
				w.crash() // no snapshot: the events are read
				c.t = w.t
				h := w.faults.hold(step, ofKB)
				waiting := make([]<-chan answer, 5)
				for i := range waiting {
					waiting[i] = c.ask(getCall("doc"))
				}
				<-h.entered
				synctest.Wait()
				h.fail(journal.ErrUnavailable)
				for _, a := range waiting {
					unavailable(t, step, (<-a).err, kb.ReasonUnavailable)
				}
				if d, err := c.get("doc"); err != nil || d.GetVersion() != 1 {
					t.Errorf("after the failure: %v, %v", d, err)
				}
			})
		})
	}
}

// Damage is not told as an outage: coming again does not help.
func TestCorruptJournalIsInternal(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		w.restart()
		w.faults.failOnce("LoadSnapshot", ofKB, fmt.Errorf("%w: bits", journal.ErrCorrupt), false)
		var e *kb.Error
		if _, err := c.describe(); !errors.As(err, &e) || e.Code != kb.CodeInternal || e.RetryAfter != 0 {
			t.Errorf("got %v", err)
		}
		if _, err := c.describe(); err != nil {
			t.Errorf("the next activation: %v", err)
		}
	})
}

// A caller that gives up is answered at once, and what it asked for happens once.
func TestCallerThatGivesUpLosesNothing_I4(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		commit := w.faults.hold("Append", carrying("document.added"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.callCtx(ctx, c.addCall("doc", page("alpha", 1)))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		commit.release()
		c.ready("doc")
	})
}
