//go:build unix

package postgres

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"granary.dev/granary/actors/journal"
)

// BenchmarkIsolation: what naming the tenant costs. The same statements run as the
// role of tenants, each behind one that names its tenant, and as the login, which
// row-level security does not concern, by turns on one server with fsync; the ratio
// is plain over isolated in time: 1 is that it costs nothing.
func BenchmarkIsolation(b *testing.B) {
	s, _ := benchStores(b)
	id := func(w int) journal.Identity {
		return journal.Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprint("k", w)}
	}
	const grains = 64
	fences := make([]journal.Fence, grains)
	heads := make([]int64, grains)
	for w := range grains {
		f, _, err := s.Acquire(b.Context(), id(w), journal.Claim{Node: "n"})
		fences[w] = f
		check(b, err, s.Append(b.Context(), f, journal.Batch{Events: testEvents(0, 20, "e")}))
		heads[w] = 20
	}
	scoped, plain := runner(s.commits.of("acme")), runner(root(b, s.commits))
	b.Cleanup(root(b, s.commits).Close)
	works := map[string]func(p runner, w int) error{
		"append": func(p runner, w int) error {
			batch := journal.Batch{Head: heads[w], Events: testEvents(heads[w], 1, "document.added")}
			err := p.write(context.Background(), func(ctx context.Context, q querier) error { return s.appendBatch(ctx, q, fences[w], batch) })
			heads[w]++
			return err
		},
		"verify": func(p runner, w int) error {
			return p.read(context.Background(), func(ctx context.Context, q querier) error { return verifyOn(ctx, q, fences[w]) })
		},
	}
	for _, name := range []string{"append", "verify"} {
		for _, writers := range []int{1, 16} {
			b.Run(fmt.Sprint(name, "/at once=", writers), func(b *testing.B) {
				n := max(b.N, 20*writers) / writers
				run := func(p runner) func() {
					return func() {
						var wg sync.WaitGroup
						for w := range writers {
							wg.Go(func() {
								for range n {
									if err := works[name](p, w); err != nil {
										b.Error(err)
										return
									}
								}
							})
						}
						wg.Wait()
					}
				}
				run(scoped)() // connections and plans
				run(plain)()
				b.ResetTimer()
				ta, tb := turns(run(scoped), run(plain))
				b.ReportMetric(float64(n*writers)/ta.Seconds(), "isolated/s")
				b.ReportMetric(float64(n*writers)/tb.Seconds(), "plain/s")
				b.ReportMetric(tb.Seconds()/ta.Seconds(), "ratio")
			})
		}
	}
}
