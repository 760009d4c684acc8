package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

const (
	documentSize = 4 << 10
	uploaders    = 16
	stageDocs    = 400 // documents for the cost of the stages
	maxTenants   = 10  // that the knowledge bases of a run are spread over
)

type p3Flags struct {
	docs, latencyDocs int
	kbs               []int
	cost              time.Duration
	profile           string
}

// p3 measures ingestion.
func p3(ctx context.Context, args []string) error {
	var f p3Flags
	fs := flag.NewFlagSet("p3", flag.ContinueOnError)
	fs.IntVar(&f.docs, "docs", 2000, "documents of each run (the goal speaks of 10000)")
	fs.IntVar(&f.latencyDocs, "latency-docs", 500, "documents of the run for latency")
	fs.DurationVar(&f.cost, "embed", 500*time.Microsecond, "CPU that the embedder burns for a chunk")
	fs.StringVar(&f.profile, "profile", "", "write a CPU profile of the last run to this file")
	kbs := fs.String("kbs", "1,10,100,1000", "knowledge bases of the runs")
	if err := fs.Parse(args); err != nil {
		return err
	}
	for _, s := range strings.Split(*kbs, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fmt.Errorf("-kbs: %q is not a number above 0", s)
		}
		f.kbs = append(f.kbs, n)
	}
	embedder := newFixedEmbedder(f.cost)
	// The same work costs more CPU while other programs share the cores' caches
	// and threads, so the stages are measured before and after each run.
	before, err := p3Stages(ctx, embedder)
	if err != nil {
		return err
	}
	rate := 0.0
	for i, n := range f.kbs {
		profile := ""
		if i == len(f.kbs)-1 {
			profile = f.profile
		}
		var u usage
		if rate, u, err = p3Throughput(ctx, f, embedder, n, profile); err != nil {
			return err
		}
		after, err := p3Stages(ctx, embedder)
		if err != nil {
			return err
		}
		p3Row(f, n, (before+after)/2, rate, u)
		before = after
	}
	if err := p3Fairness(ctx, embedder); err != nil {
		return err
	}
	return p3Latency(ctx, f, embedder, rate)
}

// p3Stages measures the stages alone and gives the sum of their CPU per document.
func p3Stages(ctx context.Context, embedder *fixedEmbedder) (time.Duration, error) {
	d := newDocuments(1, documentSize)
	s := &stageRun{embedder: embedder}
	for n := range stageDocs {
		s.docs = append(s.docs, d.document(n))
	}
	stages, sum, err := s.measure(ctx)
	if err != nil {
		return 0, err
	}
	var parts []string
	for _, st := range stages {
		parts = append(parts, st.name+" "+ms(st.cpu))
	}
	note("P3 stages alone, CPU per document of %d KB and %.1f chunks: %s; sum %s", documentSize>>10, s.chunksPerDoc(),
		strings.Join(parts, ", "), ms(sum))
	return sum, nil
}

// place is a knowledge base of a run.
type place struct{ tenant, id string }

func places(n int) []place {
	out := make([]place, n)
	for i := range out {
		out[i] = place{fmt.Sprint("tenant-", i%maxTenants), fmt.Sprint("kb-", i)}
	}
	return out
}

// counter counts documents that came to rest.
type counter struct {
	want   int64
	done   atomic.Int64
	failed atomic.Int64
	all    chan struct{} // closed when as many as wanted rest
}

func newCounter(want int) *counter { return &counter{want: int64(want), all: make(chan struct{})} }

func (c *counter) event(_ journal.Identity, e journal.Event) {
	switch e.Type {
	case (*kb.DocumentFailed)(nil).Type():
		c.failed.Add(1)
	case (*kb.DocumentIndexed)(nil).Type():
	default:
		return
	}
	if c.done.Add(1) == c.want {
		close(c.all)
	}
}

// wait waits for all, and fails if one failed.
func (c *counter) wait(ctx context.Context) error {
	select {
	case <-c.all:
	case <-ctx.Done():
		return ctx.Err()
	}
	if n := c.failed.Load(); n > 0 {
		return fmt.Errorf("%d documents failed", n)
	}
	return nil
}

// withRig runs f on a fresh node in a temporary folder.
func withRig(ctx context.Context, c rigConfig, f func(*rig) error) (err error) {
	if c.dir, err = os.MkdirTemp("", "granary-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	r, err := newRig(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close(ctx)) }()
	if err := r.start(ctx, c); err != nil {
		return err
	}
	return f(r)
}

func (r *rig) createAll(ctx context.Context, at []place) error {
	return inParallel(uploaders, len(at), func(i int) error { return r.createKB(ctx, at[i].tenant, at[i].id) })
}

// inParallel runs f for 0 … n-1, some at a time; the first error ends it.
func inParallel(at, n int, f func(i int) error) error {
	var next atomic.Int64
	var once sync.Once
	var first error
	var wg sync.WaitGroup
	for range at {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					once.Do(func() { first = err })
					next.Store(int64(n))
					return
				}
			}
		})
	}
	wg.Wait()
	return first
}

// p3Throughput ingests into n knowledge bases, round robin, and gives documents
// per second and what that took.
func p3Throughput(ctx context.Context, f p3Flags, embedder *fixedEmbedder, n int, profile string) (rate float64, u usage, err error) {
	count := newCounter(f.docs)
	err = withRig(ctx, rigConfig{embedder: embedder, onEvent: count.event}, func(r *rig) error {
		at := places(n)
		if err := r.createAll(ctx, at); err != nil {
			return err
		}
		texts := make([][]byte, f.docs)
		d := newDocuments(uint64(n)+100, documentSize)
		for i := range texts {
			texts[i] = d.document(i)
		}
		runtime.GC()
		stop, err := startProfile(profile)
		if err != nil {
			return err
		}
		defer stop()
		m := newMeter()
		err = inParallel(uploaders, f.docs, func(i int) error {
			p := at[i%n]
			return r.add(ctx, p.tenant, p.id, fmt.Sprintf("report-%d.md", i), texts[i])
		})
		uploaded := time.Since(m.at)
		if err == nil {
			err = count.wait(ctx)
		}
		if err != nil {
			return err
		}
		wall := time.Since(m.at)
		if err := r.pool.Close(); err != nil { // counts the workers' CPU
			return err
		}
		u = m.read()
		rate = float64(f.docs) / wall.Seconds()
		note("P3 %d KBs: uploaded after %v, all ready after %v", n, uploaded.Round(time.Millisecond), wall.Round(time.Millisecond))
		return nil
	})
	return rate, u, err
}

func p3Row(f p3Flags, n int, sum time.Duration, rate float64, u usage) {
	limit := u.ours() / sum.Seconds()
	per := u.cpu / time.Duration(f.docs)
	note("P3 %d KBs: CPU %s per document, %s of it in parse workers; %.2f cores used of %.2f that other programs left", n, ms(per),
		ms(u.kids/time.Duration(f.docs)), float64(u.cpu)/float64(u.wall), u.ours())
	row(fmt.Sprintf("P3 ingest into %d KBs", n), fmt.Sprintf("%.0f documents/s, %s CPU each", rate, ms(per)),
		fmt.Sprintf("limit %.0f documents/s, stages alone %s CPU", limit, ms(sum)),
		fmt.Sprintf("%.2f of the limit; %.2f by CPU", rate/limit, float64(sum)/float64(per)),
		fmt.Sprintf("%d documents of %d KB, embedder %v/chunk, %.2f of %s free of other programs",
			f.docs, documentSize>>10, f.cost, u.ours(), machine()))
}

// startProfile begins a CPU profile; nothing when no file is named.
func startProfile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	out, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = out.Close()
	}, nil
}
