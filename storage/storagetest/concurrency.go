package storagetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func concurrencyPromises() []promise {
	return []promise{
		{"I1_I3_I4_GaplessUnderWritersAndTakeovers", takeovers},
		{"I2_ConcurrentAcquisitionsGetEpochsOfTheirOwn", concurrentAcquire},
		{"I1_OneOfManyAppendsAtOneHeadWins", oneWinnerPerHead},
		{"OneFencedBatchDoesNotFailItsNeighbours", fencedNeighbours},
		{"BulkWritesDoNotStopCommits", bulkBeside},
	}
}

// acked is an event a writer was told is committed.
type acked struct {
	id  journal.Identity
	seq int64
	tag string
}

// takeovers lets many writers fight for few grains. Each appends until it is
// fenced and then takes over. Every acknowledged event must be in its journal
// at its place, and no other.
func takeovers(t *testing.T, s *suite) {
	const grains = 4
	results := make([][]acked, s.opts.Writers)
	errs := make([]error, s.opts.Writers)
	var wg sync.WaitGroup
	for w := range s.opts.Writers {
		wg.Go(func() { results[w], errs[w] = s.fight(w, grain("acme", fmt.Sprint("k", w%grains))) })
	}
	wg.Wait()
	must(t, errors.Join(errs...))
	total, acknowledged := 0, 0
	journals := map[journal.Identity][]journal.Event{}
	for g := range grains {
		id := grain("acme", fmt.Sprint("k", g))
		journals[id] = checkGapless(s.ctx, t, s.Journal, id)
		total += len(journals[id])
	}
	for _, list := range results {
		acknowledged += len(list)
		for _, a := range list {
			if got := string(journals[a.id][a.seq-1].Data); got != a.tag {
				t.Fatalf("I4: %s event %d is of %q, acknowledged to %q", a.id, a.seq, got, a.tag)
			}
		}
	}
	if total != acknowledged || total == 0 {
		t.Fatalf("%d events, %d were acknowledged", total, acknowledged)
	}
}

// fight is one writer: it appends, takes over when fenced, and now and then
// when nobody asked for it.
func (s *suite) fight(w int, id journal.Identity) ([]acked, error) {
	var out []acked
	rng := rand.New(rand.NewPCG(uint64(w), 42))
	f, head, err := s.Journal.Acquire(s.ctx, id, journal.Claim{Node: fmt.Sprint("node-", w)})
	for n := 0; n < s.opts.Commits && err == nil; n++ {
		if rng.IntN(8) == 0 {
			f, head, err = s.Journal.Acquire(s.ctx, id, journal.Claim{Node: f.Node})
			continue
		}
		batch := events(head, 1+rng.IntN(3))
		tag := fmt.Sprintf("writer %d commit %d", w, n)
		for i := range batch {
			batch[i].Data = []byte(tag)
		}
		err = s.Journal.Append(s.ctx, f, journal.Batch{Head: head, Events: batch})
		switch {
		case err == nil:
			for _, e := range batch {
				out = append(out, acked{id, e.Seq, tag})
			}
			head += int64(len(batch))
		case errors.Is(err, journal.ErrFenced):
			f, head, err = s.Journal.Acquire(s.ctx, id, journal.Claim{Node: f.Node})
		}
	}
	return out, err
}

func concurrentAcquire(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	fences := make([]journal.Fence, s.opts.Writers)
	var wg sync.WaitGroup
	for w := range fences {
		wg.Go(func() { fences[w], _, _ = s.Journal.Acquire(s.ctx, id, journal.Claim{Node: "node"}) })
	}
	wg.Wait()
	seen := map[int64]bool{}
	for _, f := range fences {
		if f.Epoch < 1 || f.Epoch > int64(len(fences)) || seen[f.Epoch] {
			t.Fatalf("epoch %d was given twice or is out of range", f.Epoch)
		}
		seen[f.Epoch] = true
	}
}

func oneWinnerPerHead(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	for head := range int64(10) {
		var wg sync.WaitGroup
		errs := make([]error, s.opts.Writers)
		for w := range errs {
			wg.Go(func() {
				errs[w] = s.Journal.Append(s.ctx, f, journal.Batch{Head: head, Events: events(head, 1)})
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, journal.ErrFenced):
				t.Fatal(err)
			}
		}
		if won != 1 {
			t.Fatalf("%d appends at head %d were acknowledged", won, head)
		}
	}
	checkGapless(s.ctx, t, s.Journal, id)
}

// fencedNeighbours sends good and fenced batches at once: a store that commits
// them together must part them.
func fencedNeighbours(t *testing.T, s *suite) {
	stale := make([]journal.Fence, s.opts.Writers)
	live := make([]journal.Fence, s.opts.Writers)
	for w := range stale {
		id := grain("acme", fmt.Sprint("k", w))
		stale[w], _ = s.acquire(t, id)
		live[w], _ = s.acquire(t, id)
	}
	var wg sync.WaitGroup
	errs := make([]error, 2*len(live))
	for w := range live {
		wg.Go(func() {
			for head := range int64(10) {
				err := s.Journal.Append(s.ctx, live[w], journal.Batch{Head: head, Events: events(head, 1)})
				errs[w] = errors.Join(errs[w], err)
			}
		})
		wg.Go(func() {
			for head := range int64(10) {
				err := s.Journal.Append(s.ctx, stale[w], journal.Batch{Head: head, Events: events(head, 1)})
				if !errors.Is(err, journal.ErrFenced) {
					errs[len(live)+w] = fmt.Errorf("stale append: %w", err)
				}
			}
		})
	}
	wg.Wait()
	must(t, errors.Join(errs...))
	for w := range live {
		if n := len(checkGapless(s.ctx, t, s.Journal, live[w].Identity)); n != 10 {
			t.Fatalf("%d events, want 10", n)
		}
	}
}

// bulkBeside runs every kind of bulk write beside a stream of small commits.
func bulkBeside(t *testing.T, s *suite) {
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	big := grain("acme", "big")
	g, _ := s.acquire(t, big)
	chunks := chunksOf(2000)
	var wg sync.WaitGroup
	var errs [2]error
	bulk := make(chan struct{})
	wg.Go(func() {
		for i := range 3 {
			sc := scope("acme", fmt.Sprint("u", i))
			errs[0] = errors.Join(errs[0],
				s.Chunks.PutChunks(s.ctx, f, attemptOf(sc, "d", "a"), chunks),
				s.Chunks.PutVectors(s.ctx, f, sc, "m", vectorsOf(chunks, 64)))
			if _, _, err := s.Chunks.DeleteScope(s.ctx, sc); err != nil {
				errs[0] = errors.Join(errs[0], err)
			}
		}
	})
	wg.Go(func() {
		for range 3 {
			errs[1] = errors.Join(errs[1], s.Journal.SaveIndex(s.ctx, g, noise(2, 8<<20)))
		}
	})
	go func() { wg.Wait(); close(bulk) }()
	head, slowest := int64(0), time.Duration(0)
	for busy := true; busy; {
		select {
		case <-bulk:
			busy = false
		default:
		}
		start := time.Now()
		head = s.append(t, f, head, 1)
		slowest = max(slowest, time.Since(start))
	}
	must(t, errors.Join(errs[:]...))
	checkGapless(s.ctx, t, s.Journal, id)
	s.wantIndex(t, big, noise(2, 8<<20))
	if head < 10 {
		t.Fatalf("only %d commits got through beside bulk writes", head)
	}
	t.Logf("%d commits beside bulk writes, the slowest took %v", head, slowest)
}
