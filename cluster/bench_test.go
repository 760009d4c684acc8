package cluster_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"granary.dev/granary/cluster"
)

// BenchmarkAsk is one call to an active grain; package bench compares it.
func BenchmarkAsk(b *testing.B) {
	n := startNode(b, cluster.Config{Kinds: kinds(func(string) actor.Actor { return polite(echo) })})
	payload := wrapperspb.Bytes(make([]byte, 64))
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	for _, c := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("c=%d", c), func(b *testing.B) {
			b.ReportAllocs()
			var wg sync.WaitGroup
			for i := range c {
				wg.Go(func() {
					for range (b.N + i) / c {
						if _, err := n.Ask(ctx, kb("a"), payload); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func BenchmarkActivate(b *testing.B) {
	n := startNode(b, cluster.Config{Kinds: kinds(func(string) actor.Actor { return polite(echo) })})
	b.ReportAllocs()
	for i := range b.N {
		if _, err := n.Ask(context.Background(), kb(fmt.Sprint(i)), text("")); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAskToAnActiveGrainAllocatesAtMostTwice_P1(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor { return polite(echo) })})
	payload := wrapperspb.Bytes(make([]byte, 64))
	for name, ctx := range map[string]context.Context{
		"own deadline":     deadline(t, time.Hour),
		"default deadline": context.Background(),
	} {
		got := testing.AllocsPerRun(2000, func() {
			if _, err := n.Ask(ctx, kb("a"), payload); err != nil {
				t.Error(err)
			}
		})
		t.Logf("%s: %v allocations", name, got)
		if got > 2 {
			t.Errorf("%s: %v allocations per call, want at most 2", name, got)
		}
	}
}

func TestIdleGrainsAreSmallAndHaveNoGoroutine_P5(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("measures memory")
	}
	const grains = 100_000
	n := startNode(t, cluster.Config{Kinds: kinds(func(string) actor.Actor { return polite(echo) })})
	ids := make([]cluster.Identity, grains)
	for i := range ids { // what the callers hold is not the grains' memory
		ids[i] = kb(fmt.Sprintf("0198c3f0-7e5a-7bd4-9a21-%012d", i))
	}
	ask := func(id cluster.Identity) {
		if _, err := n.Ask(context.Background(), id, text("")); err != nil {
			t.Fatal(err)
		}
	}
	ask(kb("warm"))
	before, routines := heap(), runtime.NumGoroutine()
	start := time.Now()
	for _, id := range ids {
		ask(id)
	}
	took := time.Since(start)
	per := float64(heap()-before) / grains
	t.Logf("%.0f bytes per idle grain, %.0f activations/s", per, grains/took.Seconds())
	if per > 1400 {
		t.Errorf("an idle grain takes %.0f bytes, want at most 1400", per)
	}
	// The workers that ran them wait for the sweep to end them.
	if now := runtime.NumGoroutine(); now > routines+64 {
		t.Errorf("%d goroutines for idle grains", now-routines)
	}
	runtime.KeepAlive(ids)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
