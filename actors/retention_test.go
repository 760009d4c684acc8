package actors_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// addFor adds a document that has a time to live of its own.
func (c *client) addFor(id, text string, ttl time.Duration) error {
	m := c.addCall(id, text)
	m.GetAddDocument().GetSpec().Expiration = &granaryv1.DocumentSpec_Ttl{Ttl: durationpb.New(ttl)}
	_, err := c.call(m)
	return err
}

// keep sets the retention of the knowledge base.
func (c *client) keep(age time.Duration, from granaryv1.RetentionBasis) error {
	_, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Update{Update: &granaryv1.UpdateKnowledgeBaseRequest{
		KnowledgeBase: &granaryv1.KnowledgeBase{Retention: &granaryv1.Retention{MaxAge: durationpb.New(age), From: from}},
		UpdateMask:    &fieldmaskpb.FieldMask{Paths: []string{"retention"}}}}})
	return err
}

// I3: a document is not found from the moment its time is over, and is erased
// without anybody's call, also when the node was restarted, crashed or had let the
// knowledge base go meanwhile; its neighbour stays.
func TestADocumentExpiresByItself_I3(t *testing.T) {
	for name, between := range map[string]func(*world){
		"active":     func(*world) {},
		"passivated": func(*world) { time.Sleep(30 * time.Minute) },
		"restarted":  (*world).restart,
		"crashed":    (*world).crash,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{waker: true, idle: 10 * time.Minute}, func(t *testing.T, w *world) {
				c := w.kb("notes")
				created, err := c.create()
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				m := c.addCall("short", page("alpha", 3))
				m.GetAddDocument().GetSpec().Expiration = &granaryv1.DocumentSpec_Ttl{Ttl: durationpb.New(2 * time.Hour)}
				if _, err := c.call(m); err != nil {
					t.Fatal(err)
				}
				c.mustAdd("long", "alpha "+page("beta", 3))
				c.ready("short")
				c.ready("long")
				if d, err := c.get("short"); err != nil || !d.GetExpireTime().AsTime().Equal(start.Add(2*time.Hour)) {
					t.Errorf("expire_time: %v, %v", d.GetExpireTime(), err)
				}
				between(w)
				time.Sleep(time.Until(start.Add(2*time.Hour - time.Second)))
				c.wantFound("alpha", "long@1", "short@1")
				time.Sleep(time.Second)
				c.wantFound("alpha", "long@1") // at once: nobody had to erase it before
				between(w)
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if n := w.count("notes", "document.deleted"); n != 1 {
					t.Errorf("%d documents are erased", n)
				}
				if w.rows(created.GetUid()) != 3 || w.blobsLeft([]string{m.GetAddDocument().GetSource().GetBlob()}) != 0 {
					t.Errorf("%d rows are left, or its source is", w.rows(created.GetUid()))
				}
			})
		})
	}
}

// I3: nobody has to ask: the row of a knowledge base that rests is due when its
// next document expires, and is gone when none does any more.
func TestTheWakeUpOfAKnowledgeBaseIsDueAtItsNextExpiry_I3(t *testing.T) {
	bubble(t, setup{waker: true, idle: time.Minute}, func(t *testing.T, w *world) {
		c := w.created("notes")
		due := func() []time.Duration {
			synctest.Wait()
			rows, err := w.disk.DueWakeups(t.Context(), time.Now().Add(1000*time.Hour), 10)
			if err != nil {
				t.Fatal(err)
			}
			var out []time.Duration
			for _, r := range rows {
				out = append(out, time.Until(r.Due).Round(time.Minute))
			}
			return out
		}
		for i, ttl := range []time.Duration{6 * time.Hour, 4 * time.Hour, 2 * time.Hour} {
			id := fmt.Sprintf("d%d", i)
			if err := c.addFor(id, page(id, 1), ttl); err != nil {
				t.Fatal(err)
			}
			c.ready(id)
		}
		if got := due(); len(got) != 1 || got[0] != 2*time.Hour {
			t.Errorf("due in %v", got)
		}
		time.Sleep(3 * time.Hour)
		if got := due(); len(got) != 1 || got[0] != time.Hour {
			t.Errorf("after the first expired, due in %v", got)
		}
		time.Sleep(4 * time.Hour)
		if got := due(); len(got) != 0 {
			t.Errorf("after the last expired, due in %v", got)
		}
		if n := w.count("notes", "document.deleted"); n != 3 {
			t.Errorf("%d documents are erased", n)
		}
	})
}

// I3: a retention holds for the documents that are there, by the basis it names,
// and the earlier of two ends counts.
func TestRetentionHoldsForWhatIsThere_I3(t *testing.T) {
	bubble(t, setup{waker: true}, func(t *testing.T, w *world) {
		c := w.created("notes")
		c.mustAdd("old", page("alpha old", 2))
		c.mustAdd("renewed", page("alpha renewed", 2))
		c.ready("old")
		c.ready("renewed")
		time.Sleep(10 * time.Hour)
		c.mustAdd("renewed", page("alpha again", 2))
		c.ready("renewed")
		if err := c.addFor("brief", page("alpha brief", 2), 2*time.Hour); err != nil {
			t.Fatal(err)
		}
		c.ready("brief")
		c.wantFound("alpha", "brief@1", "old@1", "renewed@2")
		if err := c.keep(5*time.Hour, granaryv1.RetentionBasis_RETENTION_BASIS_LAST_VERSION); err != nil {
			t.Fatal(err)
		}
		c.wantFound("alpha", "brief@1", "renewed@2")
		time.Sleep(2*time.Hour + time.Minute)
		c.wantFound("alpha", "renewed@2")
		if err := c.keep(6*time.Hour, granaryv1.RetentionBasis_RETENTION_BASIS_CREATION); err != nil {
			t.Fatal(err)
		}
		c.wantFound("alpha")
		synctest.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := w.count("notes", "document.deleted"); n != 3 {
			t.Errorf("%d documents are erased", n)
		}
		if k, err := c.describe(); err != nil || k.GetRetention().GetMaxAge().AsDuration() != 6*time.Hour {
			t.Errorf("retention %v, %v", k.GetRetention(), err)
		}
	})
}

// I3: also while the store cannot be written, and with thousands due at once, what
// is over is neither found nor read.
func TestWhatIsOverIsNotSeenBeforeItIsErased_I3(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		const n = 300 // more than expire at a time
		for i := range n {
			if err := c.addFor(fmt.Sprintf("d%d", i), page(fmt.Sprintf("alpha w%d", i), 1), time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		c.mustAdd("stays", page("alpha", 1))
		c.ready("stays")
		for i := range n {
			c.ready(fmt.Sprintf("d%d", i))
		}
		if n := len(c.found("alpha")); n < 40 {
			t.Errorf("%d are found", n)
		}
		deleting := w.faults.hold("DeleteAttempts", nil)
		time.Sleep(time.Hour)
		c.wantFound("alpha", "stays@1")
		if _, err := c.get("d299"); !kb.Is(err, kb.ReasonDocumentNotFound) {
			t.Errorf("get: %v", err)
		}
		r, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ListDocuments{
			ListDocuments: &granaryv1.ListDocumentsRequest{PageSize: 1000}}})
		if err != nil || len(r.GetDocuments().GetDocuments()) != 1 {
			t.Errorf("list: %d documents, %v", len(r.GetDocuments().GetDocuments()), err)
		}
		<-deleting.entered
		deleting.release()
		w.faults.on("DeleteAttempts", nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := w.count("notes", "document.deleted"); got != n {
			t.Errorf("%d documents are erased", got)
		}
		c.wantFound("alpha", "stays@1")
	})
}
