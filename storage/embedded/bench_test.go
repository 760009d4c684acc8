//go:build unix

package embedded

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

// BenchmarkAppend measures acknowledged appends of one 300-byte event per
// second at 1, 16 and 64 writers, each with a grain of its own: grouped and
// one commit per append, in turns within one run. The figure to keep is the ratio.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("writers=", writers), func(b *testing.B) {
			grouped := openAt(b, b.TempDir(), nil)
			single := openAt(b, b.TempDir(), nil)
			check(b, single.writer.setGroup(1))
			runs := [2]*appendRun{newAppendRun(b, grouped, writers), newAppendRun(b, single, writers)}
			var took [2][]time.Duration
			const turns = 6 // A/B/A/B…
			per := max(b.N/turns, 1)
			b.ResetTimer()
			for range turns {
				for i, r := range runs {
					took[i] = append(took[i], r.run(b, per))
				}
			}
			a, s := median(took[0]), median(took[1])
			b.ReportMetric(float64(per)/a.Seconds(), "grouped/s")
			b.ReportMetric(float64(per)/s.Seconds(), "single/s")
			b.ReportMetric(s.Seconds()/a.Seconds(), "ratio")
			st := grouped.Stats()
			b.ReportMetric(float64(st.Ops)/float64(st.Groups), "ops/commit")
		})
	}
}

// setGroup changes how many operations share a commit.
func (w *writer) setGroup(n int) error {
	return w.submit(context.Background(), "", 1, func(*txn) error {
		w.groupOps = n
		return nil
	})
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

type appendRun struct {
	s      *Store
	fences []journal.Fence
	heads  []int64
	links  [][]byte // of the last events, if they are chained
}

func newAppendRun(b *testing.B, s *Store, writers int) *appendRun {
	r := &appendRun{s: s, heads: make([]int64, writers)}
	for w := range writers {
		f, _, err := s.Acquire(b.Context(), journal.Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprint("k", w)}, journal.Claim{Node: "n"})
		check(b, err)
		r.fences = append(r.fences, f)
	}
	return r
}

func (r *appendRun) run(b *testing.B, n int) time.Duration {
	data := bytes.Repeat([]byte("x"), 300)
	var wg sync.WaitGroup
	start := time.Now()
	for w, f := range r.fences {
		wg.Go(func() {
			for range (n + w) / len(r.fences) {
				r.heads[w]++
				e := journal.Event{Seq: r.heads[w], Time: start, Type: "document.added", Data: data, Principal: "alice"}
				if r.links != nil {
					e.Hash = journal.Link(r.links[w], f.Identity, e)
					r.links[w] = e.Hash
				}
				err := r.s.Append(context.Background(), f, journal.Batch{Head: r.heads[w] - 1, Events: []journal.Event{e}})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

// BenchmarkActivate measures what activating a small grain asks of the store:
// Acquire (a durable commit), LoadSnapshot and the Events after it.
func BenchmarkActivate(b *testing.B) {
	s := openAt(b, b.TempDir(), nil)
	const grains = 1000
	state := bytes.Repeat([]byte("state of a tiny grain "), 20)
	for i := range grains {
		f, _, err := s.Acquire(b.Context(), killGrain(i), journal.Claim{Node: "n"})
		check(b, err)
		batch := journal.Batch{}
		for seq := range int64(12) {
			batch.Events = append(batch.Events, journal.Event{Seq: seq + 1, Type: "document.added", Data: state[:200]})
		}
		check(b, s.Append(b.Context(), f, batch),
			s.SaveSnapshot(b.Context(), f, journal.Snapshot{Seq: 10, State: state}))
	}
	var whole, acquire []time.Duration
	b.ResetTimer()
	for i := range b.N {
		id := killGrain(i % grains)
		start := time.Now()
		_, head, err := s.Acquire(b.Context(), id, journal.Claim{Node: "n"})
		check(b, err)
		acquire = append(acquire, time.Since(start))
		snap, err := s.LoadSnapshot(b.Context(), id)
		check(b, err)
		list, err := s.Events(b.Context(), id, snap.Seq, 1000)
		check(b, err)
		whole = append(whole, time.Since(start))
		if head != 12 || len(list) != 2 {
			b.Fatal(head, len(list))
		}
	}
	b.ReportMetric(float64(median(whole).Microseconds()), "p50-µs")
	b.ReportMetric(float64(whole[len(whole)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(median(acquire).Microseconds()), "acquire-p50-µs")
}

// BenchmarkPutChunks writes 2,000 chunks of 1 KB at a time.
func BenchmarkPutChunks(b *testing.B) {
	s := openAt(b, b.TempDir(), nil)
	chunks := testChunks(2000)
	for i := range chunks {
		chunks[i].Text = string(bytes.Repeat([]byte("t"), 1000))
	}
	f := own(b, s)
	for i := 0; b.Loop(); i++ {
		a := journal.Attempt{Scope: journal.Scope{Tenant: "acme", UID: "u"}, Document: "d", ID: fmt.Sprint(i)}
		check(b, s.PutChunks(b.Context(), f, a, chunks))
	}
	b.ReportMetric(float64(len(chunks)*b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkPutVectors writes 2,000 vectors of 384 dimensions at a time.
func BenchmarkPutVectors(b *testing.B) {
	s := openAt(b, b.TempDir(), nil)
	v := make([]journal.Vectors, 2000)
	for i := range v {
		v[i] = journal.Vectors{Hash: testChunks(i + 1)[i].Hash, Data: [][]float32{make([]float32, 384)}}
	}
	f := own(b, s)
	for i := 0; b.Loop(); i++ {
		check(b, s.PutVectors(b.Context(), f, journal.Scope{Tenant: "acme", UID: fmt.Sprint(i)}, "m", v))
	}
	b.ReportMetric(float64(len(v)*b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkCommitBesideBulk measures the latency of small commits while another
// goroutine writes chunks without pause.
func BenchmarkCommitBesideBulk(b *testing.B) {
	s := openAt(b, b.TempDir(), nil)
	chunks := testChunks(2000)
	for i := range chunks {
		chunks[i].Text = string(bytes.Repeat([]byte("t"), 1000))
	}
	f := own(b, s)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			a := journal.Attempt{Scope: journal.Scope{Tenant: "acme", UID: "u"}, Document: "d", ID: fmt.Sprint(i)}
			if err := s.PutChunks(context.Background(), f, a, chunks); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	r := newAppendRun(b, s, 1)
	var took []time.Duration
	b.ResetTimer()
	for range b.N {
		took = append(took, r.run(b, 1))
	}
	close(stop)
	<-ended
	b.ReportMetric(float64(median(took).Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkChained compares appends of chained events, their links computed, with those
// of events without a link, in turns within one run at 16 writers. The ratio counts.
func BenchmarkChained(b *testing.B) {
	s := openAt(b, b.TempDir(), nil)
	const writers = 16
	bare := newAppendRun(b, s, writers)
	chained := &appendRun{s: s, heads: make([]int64, writers), links: make([][]byte, writers)}
	for w := range writers {
		f, _, err := s.Acquire(b.Context(), journal.Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprint("c", w)}, journal.Claim{Node: "n"})
		check(b, err)
		chained.fences = append(chained.fences, f)
	}
	var took [2][]time.Duration
	const turns = 6
	per := max(b.N/turns, 1)
	b.ResetTimer()
	for range turns {
		for i, r := range []*appendRun{chained, bare} {
			took[i] = append(took[i], r.run(b, per))
		}
	}
	b.ReportMetric(median(took[0]).Seconds()/median(took[1]).Seconds(), "ratio")
}
