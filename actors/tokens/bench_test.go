package tokens_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/tokens"
)

// generous grants whatever is asked, at once.
type generous struct{}

func (generous) Lease(_ context.Context, _ string, _ kb.Meter, _ string, q kb.TokenRequest) (kb.TokenLease, string, error) {
	return kb.TokenLease{Seq: q.Seq, Window: 1, Left: time.Hour, Held: q.Held + 1<<16, Base: 1 << 30, Remaining: 1 << 30}, "l", nil
}

// BenchmarkTake is P8: the check of a call at the gateway, with 100,000 tenants, by an
// account that is kept and by the tenant's name, beside a plain map with an atomic counter.
func BenchmarkTake(b *testing.B) {
	const n = 100_000
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("tenant-%06d", i)
	}
	h := tokens.New("n1", generous{})
	defer h.Close(context.Background())
	accounts := make([]*tokens.Account, n)
	counters := make(map[string]*atomic.Int64, n)
	for i, t := range names {
		accounts[i] = h.Account(t, kb.MeterCalls)
		if _, err := h.Take(context.Background(), t, kb.MeterCalls); err != nil {
			b.Fatal(err)
		}
		counters[t] = new(atomic.Int64)
	}
	for _, active := range []int{16, n} {
		b.Run(fmt.Sprint("kept/active=", active), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := accounts[i%active].Take(context.Background()); err != nil {
					b.Fatal(err)
				}
				i += 7919
			}
		})
		b.Run(fmt.Sprint("take/active=", active), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := h.Take(context.Background(), names[i%active], kb.MeterCalls); err != nil {
					b.Fatal(err)
				}
				i += 7919
			}
		})
		b.Run(fmt.Sprint("map+atomic/active=", active), func(b *testing.B) {
			i := 0
			for b.Loop() {
				counters[names[i%active]].Add(1)
				i += 7919
			}
		})
	}
	b.Run("take/parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for i := 0; p.Next(); i += 7919 {
				if _, err := h.Take(context.Background(), names[i%16], kb.MeterCalls); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// BenchmarkMemory tells the bytes a tenant takes at a gateway.
func BenchmarkMemory(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		h := tokens.New("n1", generous{})
		for i := range n {
			if _, err := h.Take(context.Background(), fmt.Sprintf("tenant-%06d", i), kb.MeterCalls); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/tenant")
		h.Close(context.Background())
	}
}
