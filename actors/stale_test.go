package actors_test

import (
	"testing"
	"time"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

func staleCall(query string, min int64) *nodev1.KnowledgeBaseCall {
	m := searchCall(query, min)
	m.GetSearch().AllowStale = true
	return m
}

// unproven says that the tenant could not be asked who calls.
func unproven(m *nodev1.KnowledgeBaseCall) *nodev1.KnowledgeBaseCall {
	m.Header = &nodev1.Header{Tenant: tenant, Principal: "tester", Internal: true, Unproven: true}
	return m
}

// Design 7: with the store down and the lease over, only a search that allows it
// is answered, from memory, and says so.
func TestStaleSearchIsAnsweredWhileTheStoreIsDown(t *testing.T) {
	for _, how := range []string{"refuses", "hangs"} {
		t.Run(how, func(t *testing.T) {
			pair(t, func(t *testing.T, _ *realm, a, _ *peer) {
				c := a.created("notes")
				c.mustAdd("doc", page("alpha", 2))
				c.ready("doc")
				c.found("alpha")
				if r, err := a.direct("notes", staleCall("alpha", 0)); err != nil || r.GetSearch().GetStale() {
					t.Errorf("with a lease: %v, %v", r, err)
				}
				time.Sleep(ttl * 95 / 100)
				if r, err := a.direct("notes", staleCall("alpha", 0)); err != nil || r.GetSearch().GetStale() {
					t.Errorf("without a lease, verified: %v, %v", r, err)
				}
				_, err := a.direct("notes", unproven(staleCall("alpha", 0)))
				unavailable(t, "a caller whose tenant cannot be asked, with a lease", err, kb.ReasonUnavailable)
				time.Sleep(ttl * 95 / 100)
				_, err = a.direct("notes", unproven(staleCall("alpha", 0)))
				unavailable(t, "such a caller without a lease, verified", err, kb.ReasonUnavailable)
				down := func(o op, do func() error) error {
					if o.grain.Kind == actors.KindTenant {
						return do()
					}
					if how == "hangs" {
						<-o.ctx.Done()
					}
					return journal.ErrUnavailable
				}
				a.faults.on("Verify", down)
				start := time.Now()
				r, err := a.direct("notes", staleCall("alpha", 0))
				if err != nil || !r.GetSearch().GetStale() || len(r.GetSearch().GetHits()) != 2 || r.GetSearch().GetHits()[0].GetText() == "" {
					t.Errorf("while the store is down: %v, %v", r, err)
				}
				if took := time.Since(start); took > time.Second {
					t.Errorf("answered after %v", took)
				}
				_, err = a.direct("notes", searchCall("alpha", 0))
				unavailable(t, "a search that wants the newest", err, kb.ReasonUnavailable)
				if r, err := a.direct("notes", unproven(staleCall("alpha", 0))); err != nil || !r.GetSearch().GetStale() {
					t.Errorf("of a caller whose tenant cannot be asked: %v, %v", r, err)
				}
				_, err = a.direct("notes", unproven(searchCall("alpha", 0)))
				unavailable(t, "a search of such a caller that wants the newest", err, kb.ReasonUnavailable)
				a.faults.on("ChunksByRef", down)
				r, err = a.direct("notes", staleCall("alpha", 0))
				if err != nil || !r.GetSearch().GetStale() || len(r.GetSearch().GetHits()) != 2 || r.GetSearch().GetMessage() == "" {
					t.Errorf("without texts: %v, %v", r, err)
				}
				if _, err = a.direct("ghost", staleCall("alpha", 0)); kb.Is(err, kb.ReasonUnavailable) {
					t.Errorf("a name that was looked up just now: %v", err)
				}
				a.faults.on("Owner", down)
				_, err = a.direct("ghost", staleCall("alpha", 0))
				unavailable(t, "a name nobody wrote to", err, kb.ReasonUnavailable)
				for _, name := range []string{"Verify", "ChunksByRef", "Owner"} {
					a.faults.on(name, nil)
				}
			})
		})
	}
}

// A replaced owner does not answer stale searches once it knows.
func TestStaleSearchOfAReplacedOwnerIsSentOn(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, _ *peer) {
		c := a.created("notes")
		c.mustAdd("doc", page("alpha", 2))
		c.ready("doc")
		c.found("alpha")
		time.Sleep(ttl * 95 / 100)
		intrude(t, r, false)
		if got, err := a.direct("notes", staleCall("alpha", 0)); !notApplied(err) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}
