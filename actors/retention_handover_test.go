package actors_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/kb"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// serveBoth has two nodes renew their leases and look for work; the first ends with stop.
func serveBoth(t *testing.T, a, b *peer) (stop, end func()) {
	t.Helper()
	var all sync.WaitGroup
	start := func(p *peer) context.CancelFunc {
		ctx, cancel := context.WithCancel(t.Context())
		all.Go(func() { p.run(ctx) })
		all.Go(func() { p.grains.Waker().Run(ctx) })
		return cancel
	}
	first, second := start(a), start(b)
	return first, func() {
		first()
		second()
		all.Wait()
	}
}

// I3: what expires at its time also does when its owner has handed over, left or died before
// it, without anybody's call: by its own time to live, and by a retention.
func TestADocumentExpiresWithItsNextOwner_I3(t *testing.T) {
	const ttl = 3 * time.Minute
	for name, leave := range map[string]func(t *testing.T, r *realm, a, b *peer, stop func()){
		"handed over": func(_ *testing.T, r *realm, a, b *peer, _ func()) { r.place(identity("notes"), b.id.Name) },
		"left": func(_ *testing.T, r *realm, a, b *peer, stop func()) {
			r.change(func(v *placing) { v.home, v.places = b.id.Name, nil })
			time.Sleep(5 * time.Second)
			stop()
			a.close()
		},
		"killed": func(_ *testing.T, r *realm, a, b *peer, stop func()) {
			stop()
			a.faults.die()
			a.host.kill()
		},
	} {
		t.Run(name, func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, b *peer) {
				stop, end := serveBoth(t, a, b)
				defer end()
				c, d := a.created("notes"), b.kb("notes")
				created, err := c.describe()
				if err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				if err := c.addFor("short", page("alpha", 2), ttl); err != nil {
					t.Fatal(err)
				}
				c.ready("short")
				time.Sleep(20 * time.Second)
				c.mustAdd("old", page("alpha old", 2))
				c.ready("old")
				if err := c.keep(ttl, granaryv1.RetentionBasis_RETENTION_BASIS_CREATION); err != nil {
					t.Fatal(err)
				}
				time.Sleep(40 * time.Second)
				leave(t, r, a, b, stop)
				time.Sleep(time.Until(begin.Add(ttl - time.Second)))
				d.wantFound("alpha", "old@1", "short@1")
				if got := owner(t, r, "notes"); got.Node != b.id.String() {
					t.Fatalf("it is %s's yet", got.Node)
				}
				time.Sleep(time.Second)
				d.wantFound("alpha", "old@1")
				// From here on nobody asks.
				time.Sleep(time.Minute)
				synctest.Wait()
				rows, err := r.disk.ClaimedBlobs(t.Context(), identity("notes"), "", 10)
				if n := countEvents(t, r, "notes", "document.deleted"); n != 2 || err != nil || len(rows) != 0 {
					t.Errorf("%d documents are erased, sources left %v, %v", n, rows, err)
				}
				if _, err := d.get("old"); !kb.Is(err, kb.ReasonDocumentNotFound) {
					t.Errorf("what a retention ended: %v", err)
				}
				if k, err := d.describe(); err != nil || k.GetUid() != created.GetUid() || k.GetChunkCount() != 0 {
					t.Errorf("the knowledge base: %v, %v", k, err)
				}
			})
		})
	}
}
