package actors_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// I3: whoever follows the events from a cursor gets each once, in order, while
// others commit, and each answer is committed.
func TestFollowersSeeEveryEventOnce_I3(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		const docs = 40
		var writers, readers sync.WaitGroup
		for i := range docs {
			writers.Go(func() { c.mustAdd(fmt.Sprintf("d%d", i), page(fmt.Sprintf("w%d", i), 1)) })
		}
		follow := func(limit int32) {
			at, ready := int64(0), 0
			for ready < docs {
				r, err := c.readAll(&nodev1.ReadEvents{AfterRevision: at, Limit: limit, Wait: durationpb.New(time.Minute)})
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range r.GetEvents() {
					if at++; e.GetRevision() != at {
						t.Errorf("event %d came as number %d", e.GetRevision(), at)
						return
					}
					if e.GetRevision() > w.owner("notes").Head {
						t.Errorf("event %d is not committed", e.GetRevision())
					}
					if e.GetType() == "document.indexed" {
						ready++
					}
				}
			}
		}
		for _, limit := range []int32{0, 1, 7} {
			readers.Go(func() { follow(limit) })
		}
		writers.Wait()
		readers.Wait()
	})
}

// A reader waits for news, not longer than it asked, and a cursor of the future
// is refused.
func TestReadersWaitForNewsAsLongAsTheyAsked(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		synctest.Wait()
		head := w.owner("notes").Head
		start := time.Now()
		r, err := c.read(head, 7*time.Second)
		if err != nil || len(r.GetEvents()) != 0 || r.GetRevision() != head || time.Since(start) != 7*time.Second {
			t.Errorf("without news: %v, %v after %v", r, err, time.Since(start))
		}
		if r, err = c.read(-1, time.Minute); err != nil || r.GetRevision() != head || len(r.GetEvents()) != 0 || time.Since(start) != 7*time.Second {
			t.Errorf("from now on: %v, %v", r, err)
		}
		got := c.ask(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ReadEvents{
			ReadEvents: &nodev1.ReadEvents{AfterRevision: head, Wait: durationpb.New(time.Minute)}}})
		if now(got) != nil {
			t.Error("answered without news")
		}
		c.mustAdd("doc", page("alpha", 1))
		if a := <-got; a.err != nil || a.reply.GetEvents().GetEvents()[0].GetRevision() != head+1 {
			t.Errorf("with news: %v, %v", a.reply, a.err)
		}
		c.ready("doc")
		if _, err := c.read(head+1000, 0); !kb.Is(err, kb.ReasonResumeTokenInvalid) {
			t.Errorf("a cursor of the future: %v", err)
		}
	})
}

// Progress is told to those who ask for it, each step once per cursor.
func TestProgressFollowsItsCursor_C4(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		embedding := w.faults.hold("Passages", nil)
		c.mustAdd("doc", page("alpha", 3))
		<-embedding.entered
		synctest.Wait()
		head := w.owner("notes").Head
		read := func(cursor string, wait time.Duration) *nodev1.ReadEventsResult {
			t.Helper()
			r, err := c.readAll(&nodev1.ReadEvents{AfterRevision: head, IncludeProgress: true, ProgressCursor: cursor, Wait: durationpb.New(wait)})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		first := read("", time.Minute)
		if len(first.GetProgress()) != 1 || first.GetProgress()[0].GetState() != granaryv1.DocumentState_DOCUMENT_STATE_EMBEDDING {
			t.Errorf("progress: %v", first)
		}
		start := time.Now()
		if again := read(first.GetProgressCursor(), 3*time.Second); len(again.GetProgress()) != 0 || time.Since(start) != 3*time.Second {
			t.Errorf("told again: %v after %v", again, time.Since(start))
		}
		if other := read("other-activation/99", time.Minute); len(other.GetProgress()) != 1 {
			t.Errorf("another activation's cursor: %v", other)
		}
		embedding.release()
		c.ready("doc")
	})
}

// Readers beyond the limit are told at once where things stand and may poll;
// those within keep their place, and the node's stop answers them all.
func TestWatchersAreBoundedAndAnsweredAtTheEnd(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		synctest.Wait()
		head := w.owner("notes").Head
		watch := func() <-chan answer {
			return c.ask(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ReadEvents{
				ReadEvents: &nodev1.ReadEvents{AfterRevision: head, Wait: durationpb.New(20 * time.Second)}}})
		}
		within := make([]<-chan answer, 1024)
		for i := range within {
			within[i] = watch()
		}
		synctest.Wait()
		beyond := now(watch())
		if beyond == nil {
			t.Fatal("a watcher too many was kept")
		}
		if beyond.err != nil || beyond.reply.GetEvents().GetRevision() != head {
			t.Errorf("a watcher too many got %v, %v", beyond.reply, beyond.err)
		}
		if now(within[0]) != nil {
			t.Error("a watcher lost its place")
		}
		w.restart()
		for _, a := range within {
			if got := <-a; got.err != nil || got.reply.GetEvents().GetRevision() != head {
				t.Errorf("at the node's stop: %v, %v", got.reply, got.err)
			}
		}
	})
}

// C7: who changed the tenant's settings finds them applied in knowledge bases
// that had cached the former ones.
func TestTenantSettingsArePushed_C7(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		var all []*client
		for i := range 5 {
			c := w.created(fmt.Sprintf("kb-%d", i))
			c.mustAdd("doc", page("alpha", 12))
			c.ready("doc")
			all = append(all, c)
		}
		for n := int32(2); n < 6; n++ {
			r := w.tenantCall(&nodev1.TenantCall{Operation: &nodev1.TenantCall_UpdateConfig{UpdateConfig: &granaryv1.UpdateTenantConfigRequest{
				DefaultConfig: &granaryv1.Config{Retrieval: &granaryv1.RetrievalConfig{TopN: ptr(n)}}}}})
			if r.GetTenant().GetConfigVersion() != int64(n-1) {
				t.Fatalf("update: %v", r)
			}
			for _, c := range all {
				m := searchCall("alpha", 0)
				m.GetSearch().Retrieval = nil
				got, err := c.call(m)
				if err != nil || len(got.GetSearch().GetHits()) != int(n) {
					t.Errorf("%s: %d hits, %v; want %d", c.id, len(got.GetSearch().GetHits()), err, n)
				}
			}
		}
	})
}

// stubbornTenant refuses the first calls of one kind.
type stubbornTenant struct {
	actors.Asker
	mu     sync.Mutex
	refuse int
	match  func(*nodev1.TenantCall) bool
}

func (s *stubbornTenant) Ask(ctx context.Context, kind, tenant, id string, m proto.Message) (proto.Message, error) {
	if tc, ok := m.(*nodev1.TenantCall); ok && s.match(tc) {
		s.mu.Lock()
		refuse := s.refuse > 0
		s.refuse--
		s.mu.Unlock()
		if refuse {
			return nil, kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "not now").After(time.Second)
		}
	}
	return s.Asker.Ask(ctx, kind, tenant, id, m)
}

func (w *world) listed() []string {
	var out []string
	r := w.tenantCall(&nodev1.TenantCall{Operation: &nodev1.TenantCall_List{List: &granaryv1.ListKnowledgeBasesRequest{}}})
	for _, k := range r.GetList().GetKnowledgeBases() {
		out = append(out, k.GetName())
	}
	return out
}

// C1, I10: a knowledge base whose tenant could not be told of it is listed
// nevertheless, without anybody's call.
func TestListingHappensThoughTheTenantRefusedAtFirst_I10(t *testing.T) {
	s := setup{waker: true, asker: func(a actors.Asker) actors.Asker {
		return &stubbornTenant{Asker: a, refuse: 2, match: func(m *nodev1.TenantCall) bool { return m.GetRegister() != nil }}
	}}
	bubble(t, s, func(t *testing.T, w *world) {
		w.created("notes")
		if got := w.listed(); len(got) != 0 {
			t.Fatalf("listed at once: %v", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := w.listed(); len(got) != 1 {
			t.Errorf("listed after a minute: %v", got)
		}
		if n := w.count("notes", "kb.registered"); n != 1 {
			t.Errorf("%d events of the listing", n)
		}
		due, err := w.disk.DueWakeups(t.Context(), time.Now().Add(time.Hour), 10)
		if err != nil || len(due) != 0 {
			t.Errorf("wake-ups left: %v, %v", due, err)
		}
	})
}

// C1: a deleted knowledge base leaves its tenant's list also when the tenant
// could not be told at first.
func TestUnlistingHappensThoughTheTenantRefusedAtFirst(t *testing.T) {
	s := setup{asker: func(a actors.Asker) actors.Asker {
		return &stubbornTenant{Asker: a, refuse: 3, match: func(m *nodev1.TenantCall) bool { return m.GetUnregister() != nil }}
	}}
	bubble(t, s, func(t *testing.T, w *world) {
		c := w.created("notes")
		if err := c.deleteKB(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := w.listed(); len(got) != 0 {
			t.Errorf("still listed: %v", got)
		}
		if _, err := c.create(); err != nil {
			t.Errorf("the name is not free: %v", err)
		}
	})
}
