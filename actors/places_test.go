package actors_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// gauge counts runs that work at a time, over all nodes that have it.
type gauge struct {
	mu        sync.Mutex
	now, most int
	took      time.Duration
}

func (g *gauge) on(f *faults) {
	f.on("Parse", func(o op, do func() error) error {
		g.mu.Lock()
		g.now++
		g.most = max(g.most, g.now)
		g.mu.Unlock()
		defer func() {
			g.mu.Lock()
			g.now--
			g.mu.Unlock()
		}()
		if sleepCtx(o, g.took) != nil {
			return o.ctx.Err()
		}
		return do()
	})
}

// peak is the most there were at a time.
func (g *gauge) peak() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.most
}

// forget leaves out what a dead node had.
func (g *gauge) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now = 0
}

func sleepCtx(o op, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-o.ctx.Done():
		return o.ctx.Err()
	}
}

// slotRows reads what is durably granted to nodes.
func (r *realm) slotRows(t *testing.T) (sum int64, holders []string) { return slotRows(t, r.disk) }

func slotRows(t *testing.T, disk journal.CounterStore) (sum int64, holders []string) {
	t.Helper()
	list, err := disk.Counters(t.Context(), journal.Identity{Kind: "tenant", Tenant: tenant, ID: tenant})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if h, ok := strings.CutPrefix(c.Name, "places/"); ok {
			sum, holders = sum+c.Value, append(holders, h)
		}
	}
	return sum, holders
}

// B4, A5: the limit of concurrent processing is the tenant's, over all its knowledge
// bases; a document that waits for it says so.
func TestTenantNeverProcessesMoreThanItsLimit_B4_A5(t *testing.T) {
	bubble(t, setup{slots: 64, children: 8}, func(t *testing.T, w *world) { // starter: 5
		g := &gauge{took: time.Second}
		g.on(w.faults)
		var clients []*client
		for i := range 4 {
			clients = append(clients, w.created(fmt.Sprint("kb", i)))
		}
		for i := range 10 {
			for _, c := range clients {
				c.mustAdd(fmt.Sprint("doc", i), page(fmt.Sprint(c.id, i), 1))
			}
		}
		time.Sleep(1500 * time.Millisecond)
		waits := 0
		for i := range 10 {
			for _, c := range clients {
				if d, err := c.get(fmt.Sprint("doc", i)); err == nil && d.GetWaitReason() == kb.ReasonConcurrencyLimit {
					waits++
				}
			}
		}
		if waits < 20 {
			t.Errorf("%d documents say that they wait for a place", waits)
		}
		for i := range 10 {
			for _, c := range clients {
				c.ready(fmt.Sprint("doc", i))
			}
		}
		if g.peak() != 5 {
			t.Errorf("%d were processed at a time, the limit is 5", g.peak())
		}
		time.Sleep(time.Minute)
		if sum, rows := slotRows(t, w.disk); sum != 0 || len(rows) != 0 {
			t.Errorf("%d places are left with %v", sum, rows)
		}
	})
}

// A5: places come back however runs end.
func TestPlacesComeBackAfterCancellationsPanicsAndCrashes_A5(t *testing.T) {
	bubble(t, setup{slots: 64, children: 8, waker: true}, func(t *testing.T, w *world) {
		r := rand.New(rand.NewPCG(1, 2))
		g := &gauge{took: 50 * time.Millisecond}
		g.on(w.faults)
		a, b := w.created("a"), w.created("b")
		for i := range 1000 {
			c := []*client{a, b}[i%2]
			id := fmt.Sprint("doc", i%40)
			_, _ = c.add(id, page(fmt.Sprint(id, i), 1))
			time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
			_ = c.cancel(fmt.Sprint("doc", r.IntN(40)))
		}
		if g.peak() > 5 {
			t.Errorf("%d were processed at a time", g.peak())
		}
		w.crash()
		g = &gauge{took: 50 * time.Millisecond}
		w.faults.on("Parse", func(o op, do func() error) error {
			if r.IntN(3) == 0 {
				panic("bad")
			}
			return do()
		})
		for i := range 20 {
			_, _ = a.add(fmt.Sprint("new", i), page(fmt.Sprint("n", i), 1))
		}
		for i := range 20 {
			a.settle(fmt.Sprint("new", i))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if sum, rows := slotRows(t, w.disk); sum != 0 || len(rows) != 0 {
			t.Errorf("%d places are left with %v", sum, rows)
		}
		w.wantNoDrift()
	})
}

// B4: two nodes share the limit, a node that dies gives its places back within the time
// of a lease, and a tenant that moves knows what was granted.
func TestPlacesOfADeadNodeReturn_B4(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, b *peer) {
		g := &gauge{took: 2 * time.Second}
		g.on(a.faults)
		g.on(b.faults)
		ctx, cancel := context.WithCancel(t.Context())
		var nodes sync.WaitGroup
		defer nodes.Wait()
		defer cancel()
		dead, kill := context.WithCancel(ctx)
		nodes.Go(func() { a.run(ctx) })
		nodes.Go(func() { b.run(dead) })
		r.place(identity("there"), b.id.Name)
		time.Sleep(time.Second)
		here, there := a.created("here"), a.created("there")
		for i := range 12 {
			here.mustAdd(fmt.Sprint("doc", i), page(fmt.Sprint("h", i), 1))
			there.mustAdd(fmt.Sprint("doc", i), page(fmt.Sprint("t", i), 1))
		}
		time.Sleep(5 * time.Second)
		if _, holders := r.slotRows(t); len(holders) != 2 {
			t.Errorf("places are held by %v", holders)
		}
		b.faults.die() // kill -9
		b.mu.Lock()
		b.cut, b.view = true, placing{}
		b.mu.Unlock()
		kill()
		g.forget() // what the dead node had is over
		died := time.Now()
		for i := range 12 {
			here.settle(fmt.Sprint("doc", i))
			there.settle(fmt.Sprint("doc", i))
		}
		if took := time.Since(died); took > time.Minute {
			t.Errorf("the rest took %v", took)
		}
		if g.peak() > 5 {
			t.Errorf("%d were processed at a time, the limit is 5", g.peak())
		}
		if d := there.settle("doc11"); d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY {
			t.Errorf("ended as %v", d)
		}
	})
}

// B4: what a node says of places it had until it was given up for lost counts no more:
// others have them by then.
func TestPlacesOfALostNodeAreNotBelievedWhenItSpeaksAgain_B4(t *testing.T) {
	pair(t, func(t *testing.T, r *realm, a, _ *peer) {
		version := int64(0)
		lease := func(holder string, held, used, want int64) int64 {
			t.Helper()
			version++
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			reply, err := a.host.ask(ctx, journal.Identity{Kind: actors.KindTenant, Tenant: tenant, ID: tenant}, &nodev1.TenantCall{
				Header:    &nodev1.Header{Tenant: tenant, Principal: "system", Internal: true},
				Operation: &nodev1.TenantCall_LeasePlaces{LeasePlaces: &nodev1.LeasePlaces{Holder: holder, Version: version, Held: held, Used: used, Want: want}}})
			if err != nil {
				t.Fatal(err)
			}
			return reply.(*nodev1.TenantReply).GetPlaceLease().GetGranted()
		}
		if got := lease("lost#1", 0, 0, 5); got != 5 {
			t.Fatalf("granted %d", got)
		}
		time.Sleep(16 * time.Second)
		if got := lease("other#1", 0, 0, 5); got != 5 {
			t.Errorf("the other was granted %d", got)
		}
		if got := lease("lost#1", 5, 5, 5); got != 0 {
			t.Errorf("the lost one keeps %d", got)
		}
		if sum, holders := r.slotRows(t); sum > 5 {
			t.Errorf("%d places are held by %v", sum, holders)
		}
	})
}
