//go:build unix

package postgres

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

// BenchmarkCluster: p50 and p99 of what a cluster of ten asks of the store, with
// fsync, one call after the other and 16 at a time.
func BenchmarkCluster(b *testing.B) {
	pg, _ := benchStores(b)
	names := make([]string, 10)
	for i := range names {
		names[i] = fmt.Sprint("n", i)
	}
	v := startCluster(b, pg, names...)
	var last atomic.Int64
	fresh := func() journal.Identity {
		return journal.Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprint("k", last.Add(1))}
	}
	grain := func(i int) journal.Identity {
		return journal.Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprint("g", i)}
	}
	f, _, err := pg.Acquire(b.Context(), fresh(), longPlaced(v, "n0"))
	check(b, err)
	for name, call := range map[string]func(caller, n int) error{
		"Verify": func(int, int) error { return pg.Verify(b.Context(), f) },
		"Renew": func(_, n int) error {
			_, _, err := pg.Renew(b.Context(), renewal(names[n%len(names)]))
			return err
		},
		"AcquireNew": func(caller, _ int) error {
			_, _, err := pg.Acquire(b.Context(), fresh(), longPlaced(v, names[caller%len(names)]))
			return err
		},
		"AcquireOfAnother": func(caller, n int) error {
			_, _, err := pg.Acquire(b.Context(), grain(caller), longPlaced(v, names[n%len(names)]))
			return err
		},
		"AcquireAlone": func(caller, _ int) error {
			_, _, err := pg.Acquire(b.Context(), grain(caller), journal.Claim{Node: "n"})
			return err
		},
	} {
		for _, callers := range []int{1, 16} {
			b.Run(fmt.Sprint(name, "/callers=", callers), func(b *testing.B) { benchCalls(b, callers, call) })
		}
	}
}

func benchCalls(b *testing.B, callers int, call func(caller, n int) error) {
	took := make([][]time.Duration, callers)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := range max(b.N/callers, 1) {
				start := time.Now()
				if err := call(c, n); err != nil {
					b.Error(err)
					return
				}
				took[c] = append(took[c], time.Since(start))
			}
		})
	}
	wg.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	if len(all) > 0 {
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
		b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "calls/s")
	}
}
