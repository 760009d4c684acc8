package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/tokens"
)

type p8Flags struct {
	tenants int
	checks  int
	rounds  int
	limit   int64
}

// p8 measures the check of a call's quota at the gateway (P8): what it costs by the account
// that the gateway keeps with each caller, and by the tenant's name, beside a plain map with
// an atomic counter, with many tenants known; and whether more than the limit is ever
// admitted by three nodes when the owner of all tenants crashes, and a node with it.
func p8(ctx context.Context, args []string) error {
	var f p8Flags
	fs := flag.NewFlagSet("p8", flag.ContinueOnError)
	fs.IntVar(&f.tenants, "tenants", 100_000, "tenants")
	fs.IntVar(&f.checks, "checks", 3_000_000, "checks a round")
	fs.IntVar(&f.rounds, "rounds", 5, "rounds of each side, in turns")
	fs.Int64Var(&f.limit, "limit", 10, "calls an hour of each tenant, where it is used up")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if f.tenants < 1 || f.checks < 1 || f.rounds < 1 || f.limit < 1 {
		return errors.New("numbers of p8 are above 0")
	}
	names := make([]string, f.tenants)
	for i := range names {
		names[i] = fmt.Sprintf("tenant-%06d", i)
	}
	if err := f.cost(ctx, names); err != nil {
		return err
	}
	return f.exact(ctx, names)
}

// cost compares CPU times, over few tenants and over all.
func (f p8Flags) cost(ctx context.Context, names []string) error {
	before := heap()
	h := tokens.New("n1", plenty{})
	defer h.Close(ctx)
	for _, t := range names {
		if _, err := h.Take(ctx, t, kb.MeterCalls); err != nil {
			return err
		}
	}
	bytes := float64(heap()-before) / float64(len(names))
	plain := make(map[string]*atomic.Int64, len(names))
	for _, t := range names {
		plain[t] = new(atomic.Int64)
	}
	for _, active := range []int{16, len(names)} {
		order := make([]string, 1<<16)
		callers := make([]*tokens.Account, len(order))
		for i := range order {
			order[i] = names[rand.IntN(min(active, len(names)))]
			callers[i] = h.Account(order[i], kb.MeterCalls)
		}
		var kept, named, theirs, objects []int64
		for range f.rounds {
			start := mallocs()
			k, err := timeChecks(f.checks, callers, func(a *tokens.Account) error { _, err := a.Take(ctx); return err })
			if err != nil {
				return err
			}
			objects = append(objects, int64(mallocs()-start))
			n, err := timeChecks(f.checks, order, func(t string) error { _, err := h.Take(ctx, t, kb.MeterCalls); return err })
			if err != nil {
				return err
			}
			t, err := timeChecks(f.checks, order, func(t string) error { plain[t].Add(1); return nil })
			if err != nil {
				return err
			}
			kept, named, theirs = append(kept, k), append(named, n), append(theirs, t)
		}
		a, b := median(kept), median(theirs)
		row(fmt.Sprintf("P8 quota check of a call, %d tenants known, %d of them calling", len(names), active),
			fmt.Sprintf("%d ns CPU, %.2f allocations; by name %d ns; %.0f bytes a tenant", a, float64(median(objects))/float64(f.checks), median(named), bytes),
			fmt.Sprintf("map with an atomic counter %d ns; goal 150 ns", b), fmt.Sprintf("%.1f", float64(a)/float64(max(b, 1))),
			fmt.Sprintf("medians of %d rounds in turns, %s", f.rounds, machine()))
	}
	return nil
}

// timeChecks gives the nanoseconds of CPU that one check takes.
func timeChecks[T any](n int, order []T, check func(T) error) (int64, error) {
	m := newMeter()
	for i := range n {
		if err := check(order[i&(len(order)-1)]); err != nil {
			return 0, err
		}
	}
	return m.read().cpu.Nanoseconds() / int64(n), nil
}

// exact uses up the limits of all tenants through three nodes.
func (f p8Flags) exact(ctx context.Context, names []string) error {
	owner := newLedger(f.limit)
	admitted := make([]atomic.Int64, len(names))
	var lost, boots atomic.Int64
	var wg sync.WaitGroup
	checks := int64(len(names)) * (f.limit + f.limit/2) / 3
	m := newMeter()
	for n := range 3 {
		wg.Go(func() {
			h := tokens.New(fmt.Sprint("n", n, "#", boots.Add(1)), owner)
			for i := range checks {
				if n == 0 && i == checks/2 { // the owner of all, and this node with tokens in hand
					lost.Store(owner.crash())
					h = tokens.New(fmt.Sprint("n", n, "#", boots.Add(1)), owner)
				}
				t := rand.IntN(len(names))
				if _, err := h.Take(ctx, names[t], kb.MeterCalls); err == nil {
					admitted[t].Add(1)
				}
			}
		})
	}
	wg.Wait()
	over, sum := int64(0), int64(0)
	for i := range admitted {
		n := admitted[i].Load()
		sum += n
		over += max(0, n-f.limit)
	}
	row(fmt.Sprintf("P8 %d tenants of %d calls each through 3 nodes, their owner and one node crash in between", len(names), f.limit),
		fmt.Sprintf("%d of %d admitted, overshoot %d", sum, int64(len(names))*f.limit, over), "goal: overshoot 0",
		map[bool]string{true: "met", false: "**missed**"}[over == 0],
		fmt.Sprintf("%d checks in %v, %d tenants had a reservation, %s", 3*checks, m.read().wall.Round(time.Millisecond), lost.Load(), machine()))
	return ctx.Err()
}

// plenty is an owner whose tenants have calls in hand: what a check costs is not what a
// lease does.
type plenty struct{}

// Lease implements tokens.Lessor.
func (plenty) Lease(_ context.Context, _ string, _ kb.Meter, _ string, q kb.TokenRequest) (kb.TokenLease, string, error) {
	return kb.TokenLease{Seq: q.Seq, Window: 1, Left: time.Hour, Held: q.Held + 1<<30, Base: 1 << 30, Remaining: 1 << 30}, "all", nil
}

// ledger is the owner of all tenants: the grains' rules, without grains.
type ledger struct {
	base  int64
	mu    sync.Mutex
	boot  int
	rates map[string]*kb.Rate
	kept  map[string]kb.RateRecord // what would be durable
}

func newLedger(base int64) *ledger {
	return &ledger{base: base, rates: make(map[string]*kb.Rate), kept: make(map[string]kb.RateRecord)}
}

// Lease implements tokens.Lessor.
func (l *ledger) Lease(_ context.Context, tenant string, m kb.Meter, lessor string, q kb.TokenRequest) (kb.TokenLease, string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rates[tenant]
	if r == nil {
		var rec *kb.RateRecord
		if kept, ok := l.kept[tenant]; ok {
			rec = &kept
		}
		r = kb.NewRate(m, rec)
		l.rates[tenant] = r
	}
	me, now := fmt.Sprint(l.boot), time.Now()
	r.Roll(now, l.base)
	q.Known = lessor == me
	for {
		a, rec := r.Lease(q, now, l.base)
		if rec == nil {
			return a, me, nil
		}
		l.kept[tenant] = *rec
		r.Committed(*rec)
	}
}

// crash forgets all but what is durable, and tells of how many tenants that was.
func (l *ledger) crash() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.boot++
	l.rates = make(map[string]*kb.Rate)
	return int64(len(l.kept))
}

func median(d []int64) int64 { return slices.Sorted(slices.Values(d))[len(d)/2] }

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}
