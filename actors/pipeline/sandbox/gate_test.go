package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// A5: one tenant's long files leave a worker to the others, whatever it queues.
func TestNoTenantHasAllWorkers_A5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(3)
		for range 2 {
			if err := g.enter(t.Context(), "flood"); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		third := make(chan error, 1)
		go func() { third <- g.enter(ctx, "flood") }()
		synctest.Wait()
		if err := g.enter(t.Context(), "calm"); err != nil {
			t.Fatal(err)
		}
		g.leave("calm")
		synctest.Wait()
		select {
		case err := <-third:
			t.Fatalf("a tenant got the last worker: %v", err)
		default:
		}
		cancel()
		if err := <-third; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// A5: tenants that wait are served in turn, not in the order of their files.
func TestTenantsTakeTurns_A5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		if err := g.enter(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []string
		var all sync.WaitGroup
		for i := range 9 {
			tenant := "a"
			if i >= 6 {
				tenant = fmt.Sprint("b", i)
			}
			all.Go(func() {
				if err := g.enter(t.Context(), tenant); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, tenant)
				mu.Unlock()
				g.leave(tenant)
			})
			synctest.Wait()
		}
		g.leave("a")
		all.Wait()
		if first := order[:3]; slices.Contains(first, "a") {
			t.Errorf("served in the order %v: the others come first, who had none", order)
		}
		if g.free != 1 {
			t.Errorf("%d workers are free, want 1", g.free)
		}
	})
}
