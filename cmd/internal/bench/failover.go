package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"granary.dev/granary/cluster/protocol"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	thinkTime   = 50 * time.Millisecond
	tryAgain    = 25 * time.Millisecond
	operation   = 30 * time.Second // longest that a client goes on trying
	betweenKill = 2 * time.Second
)

type failoverFlags struct {
	binary string
	sizes  []int
	kills  int
	kbs    int
}

// failover measures how long the knowledge bases of a killed node take no write
// (P7): from the signal to the first acknowledged write of each, as its client sees it.
func failover(ctx context.Context, args []string) error {
	var f failoverFlags
	fs := flag.NewFlagSet("failover", flag.ContinueOnError)
	fs.StringVar(&f.binary, "granary", "bin/granary", "the program")
	sizes := fs.String("sizes", "3,5", "sizes of clusters")
	fs.IntVar(&f.kills, "kills", 10, "kills of each size")
	fs.IntVar(&f.kbs, "kbs", 24, "knowledge bases, each with one client that writes")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var err error
	if f.sizes, err = sizesOf(*sizes, 1); err != nil {
		return err
	}
	for _, n := range f.sizes {
		if err := failoverOf(ctx, f, n); err != nil {
			return fmt.Errorf("%d nodes: %w", n, err)
		}
	}
	return nil
}

func failoverOf(ctx context.Context, f failoverFlags, n int) (err error) {
	fl, err := newFleet(ctx, f.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fl.close()) }()
	if err := fl.grow(ctx, n, false); err != nil {
		return err
	}
	c := newFleetClient(fl)
	kbs, err := fl.fill(ctx, c, f.kbs, 0)
	if err != nil {
		return err
	}
	writing, stop := context.WithCancel(ctx)
	defer stop()
	writers := make([]*writer, len(kbs))
	var all sync.WaitGroup
	for i, kb := range kbs {
		writers[i] = &writer{client: c, kb: kb, number: i}
		all.Go(func() { writers[i].run(writing) })
	}
	var each []time.Duration
	for k := range f.kills {
		took, err := killOne(ctx, fl, writers, k)
		if err != nil {
			stop()
			all.Wait()
			return err
		}
		each = append(each, took...)
		note("P7 %d nodes, kill %d: %d knowledge bases, slowest %v", n, k+1, len(took), slices.Max(append(took, 0)).Round(time.Millisecond))
	}
	stop()
	all.Wait()
	return failoverRow(ctx, f, n, fl, writers, each)
}

// killOne kills the node that owns most, waits until all its knowledge bases
// take writes again, and brings it back.
func killOne(ctx context.Context, fl *fleet, writers []*writer, round int) ([]time.Duration, error) {
	if err := pause(ctx, betweenKill); err != nil {
		return nil, err
	}
	v, err := fl.settle(ctx)
	if err != nil {
		return nil, err
	}
	place, err := protocol.NewPlacement(v, fl.tables)
	if err != nil {
		return nil, err
	}
	victim := fl.members[round%len(fl.members)]
	var lost []*writer
	for _, w := range writers {
		if owner, ok := place.Owner(w.kb.identity()); ok && owner.Name == victim.name {
			lost = append(lost, w)
		}
	}
	at := time.Now()
	if err := victim.kill(); err != nil {
		return nil, err
	}
	took := make([]time.Duration, 0, len(lost))
	for _, w := range lost {
		first, err := w.await(ctx, at)
		if err != nil {
			return nil, err
		}
		took = append(took, first.Sub(at))
	}
	if err := fl.start(ctx, victim); err != nil {
		return nil, err
	}
	_, err = fl.settle(ctx)
	return took, err
}

// writer is the client of one knowledge base: it counts up in its description.
type writer struct {
	client *fleetClient
	kb     fleetKB
	number int

	mu        sync.Mutex
	sent      time.Time // of the request that was acknowledged last
	acked     time.Time
	last      int // the number that was acknowledged last
	attempted int
	writes    int
	broken    error
}

func (w *writer) run(ctx context.Context) {
	for n := 1; ctx.Err() == nil && w.write(ctx, n); n++ {
		_ = pause(ctx, thinkTime)
	}
}

// write tries one node after the other until one acknowledges, and tells whether to go on.
func (w *writer) write(ctx context.Context, n int) bool {
	w.mu.Lock()
	w.attempted = n
	w.mu.Unlock()
	key := fmt.Sprintf("p7-%d-%d", w.number, n)
	op, cancel := context.WithTimeout(ctx, operation)
	defer cancel()
	for try := 0; ; try++ {
		m := w.client.fleet.members[(w.number+n+try)%len(w.client.fleet.members)]
		sent := time.Now()
		err := w.client.describe(op, m, w.kb, strconv.Itoa(n), key)
		w.mu.Lock()
		if err == nil {
			w.sent, w.acked, w.last = sent, time.Now(), n
			w.writes++
		} else if errors.Is(err, errRefused) || op.Err() != nil && ctx.Err() == nil {
			w.broken = err
		}
		over := err == nil || w.broken != nil || ctx.Err() != nil
		w.mu.Unlock()
		if over {
			return err == nil
		}
		_ = pause(op, tryAgain)
	}
}

// await gives the time of the first acknowledged write that was sent after a moment.
func (w *writer) await(ctx context.Context, after time.Time) (time.Time, error) {
	var at time.Time
	ctx, cancel := context.WithTimeout(ctx, 2*operation)
	defer cancel()
	err := w.client.fleet.await(ctx, w.kb.name+" to take a write", func() (bool, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		at = w.acked
		return w.sent.After(after), w.broken
	})
	return at, err
}

// lost tells whether what was acknowledged last is not there.
func (w *writer) lost(ctx context.Context) (bool, error) {
	var out granaryv1.GetKnowledgeBaseResponse
	err := w.client.call(ctx, w.client.fleet.members[0], w.kb, "KnowledgeBaseService/GetKnowledgeBase", "",
		&granaryv1.GetKnowledgeBaseRequest{Name: w.kb.name}, &out)
	if err != nil {
		return false, err
	}
	n, err := strconv.Atoi(out.GetKnowledgeBase().GetDescription())
	return n < w.last || n > w.attempted, err
}

func failoverRow(ctx context.Context, f failoverFlags, n int, fl *fleet, writers []*writer, each []time.Duration) error {
	writes, lost := 0, 0
	for _, w := range writers {
		if w.broken != nil {
			return w.broken
		}
		gone, err := w.lost(ctx)
		if err != nil {
			return err
		}
		if gone {
			lost++
		}
		writes += w.writes
	}
	if lost > 0 {
		return fmt.Errorf("%d of %d knowledge bases lost an acknowledged write", lost, len(writers))
	}
	seconds := func(p float64) string { return fmt.Sprintf("%.2f s", quantile(each, p).Seconds()) }
	row(fmt.Sprintf("P7 kill −9 of one of %d nodes, first acknowledged write", n),
		strings.Join([]string{"p50 " + seconds(.5), "p99 " + seconds(.99), "worst " + seconds(1)}, ", "), "goal p50 ≤ 3 s, p99 ≤ 6 s",
		fmt.Sprintf("%.2f, %.2f", quantile(each, .5).Seconds()/3, quantile(each, .99).Seconds()/6),
		fmt.Sprintf("%d kills, %d lost knowledge bases in all, %d writers; %d acknowledged writes, 0 lost; %s", f.kills, len(each), len(writers), writes, machine()))
	return nil
}
