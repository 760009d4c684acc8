package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/pprof"
	"time"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	chunksPerKB = 10
	warmPairs   = 200 // active before the heap is looked at: they take what grows once
	trimAfter   = time.Second
	maxSettle   = 2 * time.Minute
)

type p5Flags struct {
	tenants, samples int
	heapProfile      string
	cpuProfile       string
}

// p5 measures what tenants cost that do nothing.
func p5(ctx context.Context, args []string) (err error) {
	var f p5Flags
	fs := flag.NewFlagSet("p5", flag.ContinueOnError)
	fs.IntVar(&f.tenants, "tenants", 10_000, "tenants with one knowledge base each (the goal speaks of 100000)")
	fs.IntVar(&f.samples, "samples", 1000, "activations to time")
	fs.StringVar(&f.heapProfile, "heap-profile", "", "write a profile of the idle heap to this file")
	fs.StringVar(&f.cpuProfile, "cpu-profile", "", "write a CPU profile of the activations to this file")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if f.tenants <= 2*warmPairs || f.samples < 1 {
		return fmt.Errorf("-tenants must be above %d and -samples above 0", 2*warmPairs)
	}
	if f.heapProfile != "" {
		runtime.MemProfileRate = 4 << 10
	}
	c := rigConfig{embedder: newFixedEmbedder(0), trimAfter: trimAfter}
	if c.dir, err = os.MkdirTemp("", "granary-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	r, err := newRig(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close(ctx)) }()
	start := time.Now()
	if err := seed(ctx, r.store, f.tenants); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	note("P5 seeded %d tenants in %v", f.tenants, time.Since(start).Round(time.Millisecond))
	if err := p5Memory(ctx, r, c, f); err != nil {
		return err
	}
	return p5Activate(ctx, r, c, f)
}

// ask searches in the knowledge base of a tenant, and expects its chunks.
func ask(ctx context.Context, r *rig, n int) error {
	res, err := r.search(ctx, tenantName(n), seededKB, &granaryv1.SearchRequest{KnowledgeBase: seededKB, Query: seededQuery(n)})
	if err != nil {
		return err
	}
	if len(res.GetHits()) == 0 {
		return fmt.Errorf("tenant %d finds nothing", n)
	}
	return nil
}

// p5Memory activates every pair of grains by a search, lets the node trim them,
// and looks at the heap.
func p5Memory(ctx context.Context, r *rig, c rigConfig, f p5Flags) error {
	if err := r.start(ctx, c); err != nil {
		return err
	}
	activate := func(from, to int) error {
		err := inParallel(uploaders, to-from, func(i int) error { return ask(ctx, r, from+i) })
		return err
	}
	if err := activate(0, warmPairs); err != nil {
		return err
	}
	before, err := idleHeap(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := activate(warmPairs, f.tenants); err != nil {
		return err
	}
	took := time.Since(start)
	after, err := idleHeap(ctx)
	if err != nil {
		return err
	}
	pairs := f.tenants - warmPairs
	if n := len(r.node.Activations()); n != 2*f.tenants {
		return fmt.Errorf("%d grains are active, not %d", n, 2*f.tenants)
	}
	per := float64(after-before) / float64(pairs)
	note("P5 heap %.1f MB with %d idle pairs, %.1f MB more with %d more; %d goroutines; %.0f first searches/s",
		float64(before)/1e6, warmPairs, float64(after-before)/1e6, pairs, runtime.NumGoroutine(), float64(pairs)/took.Seconds())
	row("P5 idle pair of tenant and KB, in memory", fmt.Sprintf("%.0f bytes", per), "goal ≤ 4096 bytes", fmt.Sprintf("%.2f", per/4096),
		fmt.Sprintf("%d pairs active and trimmed, one document of %d chunks each, live heap after GC", f.tenants, chunksPerKB))
	if err := writeHeap(f.heapProfile); err != nil {
		return err
	}
	start = time.Now()
	if err := r.stop(ctx); err != nil {
		return err
	}
	note("P5 all passivated within %v", time.Since(start).Round(time.Millisecond))
	return nil
}

// idleHeap is the live heap once the grains have been trimmed: when it does not
// shrink any more.
func idleHeap(ctx context.Context) (uint64, error) {
	deadline := time.Now().Add(maxSettle)
	last := heap()
	for calm := 0; calm < 3; {
		select {
		case <-time.After(trimAfter): // polling: the node does not tell when all are trimmed
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		now := heap()
		if float64(now) > 0.998*float64(last) {
			calm++
		} else {
			calm = 0
		}
		last = now
		if time.Now().After(deadline) {
			return 0, errors.New("the heap did not come to rest")
		}
	}
	return last, nil
}

func writeHeap(path string) error {
	if path == "" {
		return nil
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(pprof.WriteHeapProfile(out), out.Close())
}

// p5Activate times the first answers of pairs that are not in memory.
func p5Activate(ctx context.Context, r *rig, c rigConfig, f p5Flags) error {
	c.trimAfter = 0
	if err := r.start(ctx, c); err != nil {
		return err
	}
	order := rand.New(rand.NewPCG(5, 5)).Perm(f.tenants)
	order = order[:min(f.samples+warmPairs, f.tenants)]
	for _, n := range order[:warmPairs] { // statements, caches and code
		if err := ask(ctx, r, n); err != nil {
			return err
		}
	}
	stop, err := startProfile(f.cpuProfile)
	if err != nil {
		return err
	}
	defer stop()
	first := make([]time.Duration, 0, len(order))
	second := make([]time.Duration, 0, len(order))
	m := newMeter()
	for _, n := range order[warmPairs:] {
		start := time.Now()
		if err := ask(ctx, r, n); err != nil {
			return err
		}
		first = append(first, time.Since(start))
	}
	u := m.read()
	for _, n := range order[warmPairs:] {
		start := time.Now()
		if err := ask(ctx, r, n); err != nil {
			return err
		}
		second = append(second, time.Since(start))
	}
	p50, p99 := quantile(first, 0.5), quantile(first, 0.99)
	note("P5 activation: %s CPU each; the same search again, active: p50 %s, p99 %s", ms(u.cpu/time.Duration(len(first))),
		ms(quantile(second, 0.5)), ms(quantile(second, 0.99)))
	row("P5 activate tenant and KB, load, first answer", fmt.Sprintf("p50 %s, p99 %s", ms(p50), ms(p99)), "goal p50 ≤ 1 ms, p99 ≤ 5 ms",
		fmt.Sprintf("%.2f, %.2f", p50.Seconds()*1e3, p99.Seconds()*1e3/5),
		fmt.Sprintf("%d of %d passivated pairs at random, one at a time, hybrid search; %.2f of %s free of other programs",
			len(first), f.tenants, u.ours(), machine()))
	return nil
}
