package actors_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (c *client) wantFound(query string, want ...string) {
	c.t.Helper()
	got := c.found(query)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		c.t.Errorf("search %q found %v, want %v", query, got, want)
	}
}

// C5: a document is found by its words while its vectors are still being made,
// and by both from then on.
func TestFoundByWordsBeforeVectors_C5(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		embedding := w.faults.hold("Passages", nil)
		c.mustAdd("doc", page("alpha", 3))
		<-embedding.entered
		d := c.waitFor("doc", func(d *granaryv1.Document) bool { return d.GetKeywordSearchable() })
		if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_EMBEDDING || d.GetSearchableVersion() != 1 || d.GetChunkCount() != 3 {
			t.Errorf("while it is embedded: %v", d)
		}
		r, err := c.search("alpha")
		if err != nil || len(r.GetHits()) != 3 || r.GetHits()[0].GetParts().GetHasVector() || r.GetFallbackUsed() != "" {
			t.Errorf("by words: %v, %v", r, err)
		}
		embedding.release()
		if d := c.ready("doc"); d.GetKeywordSearchable() {
			t.Errorf("ready, and still by words only: %v", d)
		}
		if r, err = c.search("alpha"); err != nil || len(r.GetHits()) != 3 || !r.GetHits()[0].GetParts().GetHasVector() {
			t.Errorf("by both: %v, %v", r, err)
		}
	})
}

// C2, I8: the former version is found until the next one is whole, and then the
// next one only, at once.
func TestFormerVersionServesUntilTheNextIsWhole_I8(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		c.mustAdd("doc", page("common old", 3))
		c.ready("doc")
		embedding := w.faults.hold("Passages", nil)
		c.mustAdd("doc", page("common new", 2))
		<-embedding.entered
		synctest.Wait()
		c.wantFound("common", "doc@1")
		w.restart() // the new version is built anew; the old one serves
		c.t = w.t
		embedding = w.faults.hold("Passages", nil)
		c.wantFound("common", "doc@1")
		<-embedding.entered
		c.wantFound("common", "doc@1")
		embedding.release()
		d := c.waitFor("doc", func(d *granaryv1.Document) bool { return d.GetSearchableVersion() == 2 })
		r, err := c.call(searchCall("common", d.GetRevision()))
		if got := documentsOf(r.GetSearch()); err != nil || len(got) != 1 || got[0] != "doc@2" {
			t.Errorf("found %v, %v", got, err)
		}
		// A version that fails does not take the one before away.
		w.faults.on("Parse", func(op, func() error) error { return fmt.Errorf("%w: source", journal.ErrNotFound) })
		c.mustAdd("doc", page("common third", 2))
		c.settle("doc")
		c.wantFound("common", "doc@2")
	})
}

// I8: a document deleted while a search is between the index and the texts is
// not in its answer, whole knowledge bases included.
func TestSearchUnderWayShowsNothingDeletedMeanwhile_I8(t *testing.T) {
	for _, what := range []string{"document", "knowledge base"} {
		t.Run(what, func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				c := w.created("notes")
				c.mustAdd("gone", page("alpha one", 2))
				c.mustAdd("stays", page("alpha two", 2))
				c.ready("gone")
				c.ready("stays")
				texts := w.faults.hold("ChunksByRef", nil)
				deleting := w.faults.hold("DeleteAttempts", nil) // the rows are there all the time
				if what == "knowledge base" {
					deleting = w.faults.hold("DeleteScope", nil)
				}
				found := c.ask(searchCall("alpha", 0))
				<-texts.entered
				var err error
				if what == "document" {
					err = c.remove("gone")
				} else {
					err = c.deleteKB()
				}
				if err != nil {
					t.Fatal(err)
				}
				<-deleting.entered
				texts.release()
				got := <-found
				if what == "document" && (got.err != nil || !slices.Equal(documentsOf(got.reply.GetSearch()), []string{"stays@1"})) {
					t.Errorf("found %v, %v", documentsOf(got.reply.GetSearch()), got.err)
				}
				if what != "document" && len(got.reply.GetSearch().GetHits()) > 0 {
					t.Errorf("found %v in a deleted knowledge base", documentsOf(got.reply.GetSearch()))
				}
				deleting.release()
			})
		})
	}
}

// A search never misses a document because it got its next version meanwhile.
func TestSearchUnderWayFindsTheReplacedDocument(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		c.mustAdd("doc", page("alpha one", 2))
		c.ready("doc")
		texts := w.faults.hold("ChunksByRef", nil)
		found := c.ask(searchCall("alpha", 0))
		<-texts.entered
		c.mustAdd("doc", page("alpha two", 2))
		c.waitFor("doc", func(d *granaryv1.Document) bool { return d.GetSearchableVersion() == 2 })
		synctest.Wait() // the old rows are collected
		texts.release()
		got := <-found
		if d := documentsOf(got.reply.GetSearch()); got.err != nil || !slices.Equal(d, []string{"doc@2"}) {
			t.Errorf("found %v, %v", d, got.err)
		}
	})
}

// What happens while the index is read from the rows is in the first answer.
func TestChangesDuringTheLoadOfTheIndexCount(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		for i := range 4 {
			c.mustAdd(fmt.Sprintf("d%d", i), page(fmt.Sprintf("alpha w%d", i), 1))
			c.ready(fmt.Sprintf("d%d", i))
		}
		w.crash() // no index snapshot
		c.t = w.t
		rows := w.faults.hold("Chunks", nil)
		found := c.ask(searchCall("alpha", 0))
		<-rows.entered
		if err := c.remove("d0"); err != nil {
			t.Fatal(err)
		}
		if err := c.remove("d1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // erased: their rows are gone under the loader
		c.mustAdd("new", page("alpha new", 1))
		c.ready("new")
		c.mustAdd("d3", page("alpha again", 1))
		c.waitFor("d3", func(d *granaryv1.Document) bool { return d.GetSearchableVersion() == 2 })
		if now(found) != nil {
			t.Error("answered before the index was loaded")
		}
		rows.release()
		got := <-found
		d := documentsOf(got.reply.GetSearch())
		slices.Sort(d)
		if got.err != nil || !slices.Equal(d, []string{"d2@1", "d3@2", "new@1"}) {
			t.Errorf("found %v, %v", d, got.err)
		}
	})
}

// A cold index gets ready under steady ingestion: each commit brings its own part.
func TestIndexGetsReadyUnderSteadyIngestion(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		c.mustAdd("first", page("alpha", 1))
		c.ready("first")
		w.crash()
		c.t = w.t
		// Each read of rows sees another document committed before it ends.
		loads := 0
		w.faults.on("Chunks", func(_ op, do func() error) error {
			if loads++; loads < 20 {
				id := fmt.Sprintf("d%d", loads)
				c.mustAdd(id, page("beta "+id, 1))
				c.waitFor(id, func(d *granaryv1.Document) bool { return d.GetState() == granaryv1.DocumentState_DOCUMENT_STATE_READY })
			}
			return do()
		})
		if got := c.found("alpha"); !slices.Contains(got, "first@1") {
			t.Errorf("found %v", got)
		}
		if loads > 2 {
			t.Errorf("rows were read %d times before the index was ready", loads)
		}
	})
}

// An idle knowledge base gives its index back and takes it from the snapshot
// when somebody searches again, without reading a row.
func TestIdleIndexComesBackFromItsSnapshot_P5(t *testing.T) {
	for _, kind := range []string{"trim", "passivate"} {
		t.Run(kind, func(t *testing.T) {
			s := setup{trim: time.Minute, idle: 100 * time.Hour}
			if kind == "passivate" {
				s = setup{idle: time.Hour}
			}
			bubble(t, s, func(t *testing.T, w *world) {
				c := w.created("notes")
				c.mustAdd("doc", page("alpha", 5))
				c.ready("doc")
				c.wantFound("alpha", "doc@1")
				epoch := w.owner("notes").Epoch
				time.Sleep(3 * time.Hour)
				synctest.Wait()
				reads, loads := w.faults.count("Chunks"), w.faults.count("LoadIndex")
				c.wantFound("alpha", "doc@1")
				if got := w.faults.count("Chunks") - reads; got != 0 {
					t.Errorf("%d reads of rows", got)
				}
				if got := w.faults.count("LoadIndex") - loads; got != 1 {
					t.Errorf("the index was loaded %d times", got)
				}
				if got := w.owner("notes").Epoch; (got != epoch) != (kind == "passivate") {
					t.Errorf("epoch %d, was %d", got, epoch)
				}
				c.mustAdd("second", page("alpha beta", 1))
				c.ready("second")
				c.wantFound("alpha", "doc@1", "second@1")
			})
		})
	}
}

// A damaged snapshot of the index costs a read of the rows and nothing else.
func TestDamagedIndexSnapshotFallsBackToRows(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"empty": func([]byte) []byte { return nil }, "cut": func(b []byte) []byte { return b[:len(b)/2] },
		"header": func(b []byte) []byte { return append([]byte{255, 255, 255, 255}, b[4:]...) },
		"body":   func(b []byte) []byte { b[len(b)*3/4] ^= 0xff; return b },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				c := w.created("notes")
				c.mustAdd("doc", page("alpha", 5))
				c.ready("doc")
				w.stop()
				id := identity("notes")
				data, err := w.disk.LoadIndex(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				fence, _, err := w.disk.Acquire(t.Context(), id, journal.Claim{Node: "test"})
				if err != nil {
					t.Fatal(err)
				}
				if err := w.disk.SaveIndex(t.Context(), fence, damage(data)); err != nil {
					t.Fatal(err)
				}
				w.start()
				c.wantFound("alpha", "doc@1")
				if w.faults.count("Chunks") == 0 {
					t.Error("the damaged snapshot was used")
				}
			})
		})
	}
}

// Rows that are missing although the journal speaks of them are an error of that
// search, never an answer without them.
func TestMissingRowsAreNoEmptyAnswer_I9(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.kb("notes")
		created, err := c.create()
		if err != nil {
			t.Fatal(err)
		}
		c.mustAdd("doc", page("alpha", 5))
		c.ready("doc")
		w.crash()
		c.t = w.t
		if _, _, err := w.disk.DeleteScope(t.Context(), journal.Scope{Tenant: tenant, UID: created.GetUid()}); err != nil {
			t.Fatal(err)
		}
		_, err = c.search("alpha")
		unavailable(t, "search", err, kb.ReasonUnavailable)
	})
}

// C5: a search may ask for a revision still to come.
func TestMinRevisionWaitsAndGivesUpInTime_C5(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		embedding := w.faults.hold("Passages", nil)
		c.mustAdd("doc", page("alpha", 1))
		<-embedding.entered
		synctest.Wait()
		at := w.owner("notes").Head
		next := c.ask(searchCall("alpha", at+1))
		never := c.askFor(2*time.Second, searchCall("alpha", at+1000))
		if now(next) != nil || now(never) != nil {
			t.Error("answered before the revision was there")
		}
		embedding.release()
		got := <-next
		if got.err != nil || got.reply.GetSearch().GetRevision() < at+1 || len(got.reply.GetSearch().GetHits()) != 1 {
			t.Errorf("when it is there: %v, %v", got.reply, got.err)
		}
		start := time.Now()
		if got = <-never; !kb.Is(got.err, kb.ReasonRevisionNotReached) {
			t.Errorf("at the deadline: %v, %v", got.reply, got.err)
		}
		if waited := time.Since(start); waited > 2*time.Second {
			t.Errorf("waited %v", waited)
		}
		// An activation that ends sends those who wait on to the next one.
		waiting := c.askFor(5*time.Second, searchCall("alpha", at+2))
		synctest.Wait()
		w.faults.failOnce("Append", ofKB, journal.ErrUnavailable, false)
		if _, err := c.add("x", "x"); err == nil {
			t.Fatal("the commit did not fail")
		}
		c.mustAdd("y", page("beta", 1))
		if got := <-waiting; got.err != nil || got.reply.GetSearch().GetRevision() < at+2 {
			t.Errorf("on the next activation: %v, %v", got.reply, got.err)
		}
	})
}

// askFor is ask with a deadline.
func (c *client) askFor(d time.Duration, m *nodev1.KnowledgeBaseCall) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		ctx, cancel := c.within(d)
		defer cancel()
		r, err := c.callCtx(ctx, m)
		out <- answer{r, err}
	}()
	return out
}
