package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	scaleTenants = 8
	writeShare   = 5 // one operation in this many writes
	warmUp       = 3 * time.Second
)

type scaleFlags struct {
	binary    string
	sizes     []int
	share     float64
	lasts     time.Duration
	kbs, docs int
	workers   int
}

// scale measures how much more a cluster does with more processes (P6): each is
// held to the same share of a core, all share one PostgreSQL, and the same mix of
// searches and writes keeps them busy.
func scale(ctx context.Context, args []string) (err error) {
	f, err := parseScale(args)
	if err != nil {
		return err
	}
	if f.share > 0 && !canCap() {
		row("P6 processes", "not measured", "goal ≥ 0.8 at 8", "–", errNoCap.Error()+": needs root, or -share 0")
		return nil
	}
	fl, err := newFleet(ctx, f.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fl.close()) }()
	c := newFleetClient(fl)
	var kbs []fleetKB
	var one scaled
	for _, n := range f.sizes {
		if err := fl.grow(ctx, n, f.share > 0); err != nil {
			return err
		}
		if kbs == nil {
			if kbs, err = fl.fill(ctx, c, f.kbs, f.docs); err != nil {
				return err
			}
		}
		got, err := measureScale(ctx, f, fl, c, kbs)
		if err != nil {
			return fmt.Errorf("%d processes: %w", n, err)
		}
		if one.rate == 0 {
			one = got
		}
		scaleRow(f, n, got, one)
	}
	return nil
}

func parseScale(args []string) (f scaleFlags, err error) {
	fs := flag.NewFlagSet("scale", flag.ContinueOnError)
	fs.StringVar(&f.binary, "granary", "bin/granary", "the program")
	sizes := fs.String("sizes", "1,2,3,4,8", "processes, ascending")
	fs.Float64Var(&f.share, "share", 0.15, "share of a core of each process, 0 for no limit")
	fs.DurationVar(&f.lasts, "lasts", 15*time.Second, "how long each size is measured")
	fs.IntVar(&f.kbs, "kbs", 400, "knowledge bases")
	fs.IntVar(&f.docs, "docs", 3, "documents in each")
	fs.IntVar(&f.workers, "workers", 32, "requests under way, for each process")
	if err := fs.Parse(args); err != nil {
		return f, err
	}
	f.sizes, err = sizesOf(*sizes, 1)
	return f, err
}

// grow starts nodes until there are n, and waits until all have their share.
func (f *fleet) grow(ctx context.Context, n int, capped bool) error {
	for len(f.members) < n {
		m, err := f.add(ctx)
		if err != nil {
			return err
		}
		if capped {
			if m.cap, err = newCPUCap(fmt.Sprintf("granary-bench-%d-%s", os.Getpid(), m.name)); err != nil {
				return err
			}
			if err := m.cap.hold(m.cmd.Process.Pid); err != nil {
				return err
			}
		}
	}
	_, err := f.settle(ctx)
	return err
}

// fill makes knowledge bases of several tenants, with documents.
func (f *fleet) fill(ctx context.Context, c *fleetClient, kbs, docs int) ([]fleetKB, error) {
	out := make([]fleetKB, kbs)
	text := string(newDocuments(6, 2<<10).document(0))
	err := inParallel(scaleTenants, kbs, func(i int) error {
		out[i] = fleetKB{tenant: fmt.Sprintf("tenant-%d", i%scaleTenants), name: fmt.Sprintf("kb-%d", i)}
		var err error
		if out[i].token, err = f.token(out[i].tenant); err != nil {
			return err
		}
		return c.create(ctx, f.members[0], out[i], text, docs)
	})
	return out, err
}

// scaled is what a number of processes did.
type scaled struct {
	rate   float64       // operations a second
	cpu    time.Duration // of the processes, for an operation
	busy   float64       // share of a core each process used
	idle   float64       // and used before, without requests
	failed int64
}

// measureScale holds every process to its share and keeps them busy.
func measureScale(ctx context.Context, f scaleFlags, fl *fleet, c *fleetClient, kbs []fleetKB) (s scaled, err error) {
	if s.idle, err = fl.idle(ctx); err != nil {
		return s, err
	}
	if err := fl.limit(f.share); err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, fl.limit(0)) }()
	var done, failed atomic.Int64
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	for i := range f.workers * len(fl.members) {
		all.Go(func() { busyWorker(ctx, i, fl, c, kbs, &done, &failed) })
	}
	defer all.Wait()
	defer stop()
	if err := pause(ctx, warmUp); err != nil {
		return s, err
	}
	before, err := fl.cpu()
	if err != nil {
		return s, err
	}
	start, ops, fails := time.Now(), done.Load(), failed.Load()
	if err := pause(ctx, f.lasts); err != nil {
		return s, err
	}
	took, n := time.Since(start), float64(done.Load()-ops)
	after, err := fl.cpu()
	if err != nil {
		return s, err
	}
	if n == 0 {
		return s, errors.New("no operation succeeded")
	}
	s.rate, s.cpu, s.failed = n/took.Seconds(), time.Duration(float64(after-before)/n), failed.Load()-fails
	s.busy = float64(after-before) / float64(took) / float64(len(fl.members))
	return s, nil
}

// idle is the share of a core that each node uses when nobody asks anything.
func (f *fleet) idle(ctx context.Context) (float64, error) {
	before, err := f.cpu()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := pause(ctx, warmUp); err != nil {
		return 0, err
	}
	after, err := f.cpu()
	return float64(after-before) / float64(time.Since(start)) / float64(len(f.members)), err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d): // the length of a measurement
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// limit sets the share of each process.
func (f *fleet) limit(share float64) error {
	var errs []error
	for _, m := range f.members {
		if m.cap != nil {
			errs = append(errs, m.cap.limit(share))
		}
	}
	return errors.Join(errs...)
}

// cpu is the CPU time that the nodes have used.
func (f *fleet) cpu() (sum time.Duration, err error) {
	for _, m := range f.members {
		d, err := cpuOfProcess(m.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// busyWorker sends one request after the other, to any node.
func busyWorker(ctx context.Context, number int, fl *fleet, c *fleetClient, kbs []fleetKB, done, failed *atomic.Int64) {
	random := rand.New(rand.NewPCG(uint64(number), 6))
	text := newDocuments(uint64(number), 0)
	for i := 0; ctx.Err() == nil; i++ {
		kb, m := kbs[random.IntN(len(kbs))], fl.members[random.IntN(len(fl.members))]
		var err error
		if i%writeShare == 0 {
			key := fmt.Sprintf("w-%d-%d-%d", len(fl.members), number, i)
			err = c.describe(ctx, m, kb, key, key)
		} else {
			err = c.find(ctx, m, kb, text.sentence(6))
		}
		switch {
		case err == nil:
			done.Add(1)
		case ctx.Err() == nil:
			if failed.Add(1) == 1 {
				note("P6 a request failed: %v", err)
			}
		}
	}
}

func scaleRow(f scaleFlags, n int, got, one scaled) {
	efficiency := got.rate / one.rate / float64(n) * float64(f.sizes[0])
	goal := "goal ≥ 0.8"
	switch {
	case n == f.sizes[0]:
		goal = "the measure"
	case n <= 4:
		goal = "goal ≥ 0.9"
	}
	held := "not capped"
	if f.share > 0 {
		held = fmt.Sprintf("each held to %.2f of a core by its control group, used %.3f, idle %.3f", f.share, got.busy, got.idle)
	}
	row(fmt.Sprintf("P6 %d processes", n), fmt.Sprintf("%.0f/s, %s CPU each", got.rate, nanos(float64(got.cpu))), goal,
		fmt.Sprintf("%.2f; by CPU %.2f", efficiency, float64(one.cpu)/float64(got.cpu)),
		fmt.Sprintf("%s; %d KBs, hybrid searches and 1 write in %d through any node, %d requests under way a process, %d failed; %s",
			held, f.kbs, writeShare, f.workers, got.failed, machine()))
}
