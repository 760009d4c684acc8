package actors_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"granary.dev/granary/actors/journal"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// gone is who was deleted before a search began.
type gone struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (g *gone) add(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ids[id] = true
}

func (g *gone) snapshot() map[string]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[string]bool, len(g.ids))
	for id := range g.ids {
		out[id] = true
	}
	return out
}

// C4, C5, I8: while documents come, change and go, a search finds what was ready
// before it began and was not touched, in one version, and nothing that was
// deleted before it began.
func TestSearchIsRightWhileDocumentsComeAndGo_I8(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.kb("notes")
		created, err := c.create()
		if err != nil {
			t.Fatal(err)
		}
		c.mustAdd("rock", page("common rock", 2))
		c.ready("rock")
		c.mustAdd("tide", page("common tide 0", 2))
		c.ready("tide")
		deleted := &gone{ids: make(map[string]bool)}
		stop := make(chan struct{})
		var workers, searchers sync.WaitGroup
		for n := range 3 {
			workers.Go(func() {
				for i := range 12 {
					c.comeAndGo(fmt.Sprintf("d%d-%d", n, i), deleted)
				}
			})
		}
		workers.Go(func() {
			for i := range 12 {
				c.mustAdd("tide", page(fmt.Sprintf("common tide %d", i+1), 2))
				c.waitFor("tide", func(d *granaryv1.Document) bool { return d.GetSearchableVersion() == int64(i+2) })
			}
		})
		searches := make([]int, 2)
		for n := range searches {
			searchers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						c.checkSearch(deleted.snapshot())
						searches[n]++
					}
				}
			})
		}
		workers.Wait()
		close(stop)
		searchers.Wait()
		synctest.Wait()
		left, err := w.disk.AttemptsOf(t.Context(), journal.Scope{Tenant: tenant, UID: created.GetUid()})
		if err != nil || len(left) != 2 {
			t.Errorf("rows are left of %v, %v; want rock and tide", left, err)
		}
		t.Logf("%v searches", searches)
	})
}

// comeAndGo is a document's life, seen by its owner.
func (c *client) comeAndGo(id string, deleted *gone) {
	c.mustAdd(id, page("common "+id, 2))
	d := c.ready(id)
	r, err := c.call(searchCall("common "+id, d.GetRevision()))
	if err != nil || !strings.Contains(fmt.Sprint(documentsOf(r.GetSearch())), id+"@1") {
		c.t.Errorf("%s is ready and not found: %v, %v", id, documentsOf(r.GetSearch()), err)
	}
	if err := c.remove(id); err != nil {
		c.t.Errorf("remove %s: %v", id, err)
		return
	}
	deleted.add(id)
}

func (c *client) checkSearch(deleted map[string]bool) {
	r, err := c.search("common rock tide")
	if err != nil {
		c.t.Errorf("search: %v", err)
		return
	}
	found := make(map[string]bool)
	for _, d := range documentsOf(r) {
		id, _, _ := strings.Cut(d, "@")
		if found[id] {
			c.t.Errorf("two versions of %s in one answer", id)
		}
		found[id] = true
		if deleted[id] {
			c.t.Errorf("%s was deleted before the search", id)
		}
	}
	if !found["rock"] || !found["tide"] {
		c.t.Errorf("missing: %v", found)
	}
}
