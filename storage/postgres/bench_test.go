//go:build unix

package postgres

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/embedded"
	"granary.dev/granary/storage/pgtest"
)

// The benchmarks run both stores in turns within one run, on the same disk and
// with fsync: the figure to keep is the ratio.

func benchStores(b *testing.B) (pg *Store, lite *embedded.Store) {
	b.Helper()
	srv, err := pgtest.Start(b.Context(), pgtest.Options{Fsync: true})
	pgtest.SkipWithout(b, err)
	b.Cleanup(func() { check(b, srv.Stop()) })
	pg, err = Open(b.Context(), Config{URL: Secret(srv.URL("postgres")), MaxConns: 88})
	check(b, err)
	b.Cleanup(func() { check(b, pg.Close()) })
	lite, err = embedded.Open(b.Context(), embedded.Config{Dir: b.TempDir()})
	check(b, err)
	b.Cleanup(func() { check(b, lite.Close()) })
	return pg, lite
}

// turns runs a and b by turns and gives the median times.
func turns(a, b func()) (ta, tb time.Duration) {
	var took [2][]time.Duration
	for range 5 {
		for i, run := range []func(){a, b} {
			start := time.Now()
			run()
			took[i] = append(took[i], time.Since(start))
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	return took[0][2], took[1][2]
}

func report(b *testing.B, n int, ta, tb time.Duration) {
	b.ReportMetric(float64(n)/ta.Seconds(), "postgres/s")
	b.ReportMetric(float64(n)/tb.Seconds(), "embedded/s")
	b.ReportMetric(tb.Seconds()/ta.Seconds(), "ratio")
}

type appendRun struct {
	s      journal.Store
	fences []journal.Fence
	heads  []int64
}

func newAppendRun(b *testing.B, s journal.Store, writers int) *appendRun {
	r := &appendRun{s: s, heads: make([]int64, writers)}
	for w := range writers {
		f, _, err := s.Acquire(b.Context(), journal.Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprint("k", w)}, journal.Claim{Node: "n"})
		check(b, err)
		r.fences = append(r.fences, f)
	}
	return r
}

func (r *appendRun) run(b *testing.B, n int) {
	data := bytes.Repeat([]byte("x"), 300)
	var wg sync.WaitGroup
	for w, f := range r.fences {
		wg.Go(func() {
			for range n / len(r.fences) {
				err := r.s.Append(context.Background(), f, journal.Batch{Head: r.heads[w], Events: []journal.Event{{
					Seq: r.heads[w] + 1, Time: time.Now(), Type: "document.added", Data: data, Principal: "alice",
				}}})
				if err != nil {
					b.Error(err)
					return
				}
				r.heads[w]++
			}
		})
	}
	wg.Wait()
}

// BenchmarkAppend: acknowledged appends of one 300-byte event per second at 1,
// 16 and 64 writers, each with a grain of its own.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("writers=", writers), func(b *testing.B) {
			pg, lite := benchStores(b)
			p, l := newAppendRun(b, pg, writers), newAppendRun(b, lite, writers)
			n := max(b.N, 10*writers)
			p.run(b, 2*writers) // connections and plans
			b.ResetTimer()
			ta, tb := turns(func() { p.run(b, n) }, func() { l.run(b, n) })
			report(b, n/writers*writers, ta, tb)
		})
	}
}

type benchStore interface {
	journal.Store
	journal.ChunkStore
}

func benchPut(b *testing.B, name string, n int, put func(s journal.ChunkStore, f journal.Fence, id string) error) {
	b.Run(name, func(b *testing.B) {
		pg, lite := benchStores(b)
		last := 0
		run := func(s benchStore) func() {
			f := own(b, s)
			return func() {
				for range b.N {
					last++
					check(b, put(s, f, fmt.Sprint(last)))
				}
			}
		}
		b.ResetTimer()
		ta, tb := turns(run(pg), run(lite))
		report(b, n*b.N, ta, tb)
	})
}

// BenchmarkPut: rows per second of chunks of 1 KB, in one statement and in several,
// and of vectors of 384 dimensions.
func BenchmarkPut(b *testing.B) {
	for _, n := range []int{100, 2000} {
		chunks := testChunks(n, 0)
		for i := range chunks {
			chunks[i].Text = string(bytes.Repeat([]byte("t"), 1000))
		}
		benchPut(b, fmt.Sprint("chunks=", n), n, func(s journal.ChunkStore, f journal.Fence, id string) error {
			a := journal.Attempt{Scope: journal.Scope{Tenant: "acme", UID: id}, Document: "d", ID: id}
			return s.PutChunks(b.Context(), f, a, chunks)
		})
	}
	vectors := make([]journal.Vectors, 2000)
	for i := range vectors {
		vectors[i] = journal.Vectors{Hash: fmt.Sprintf("%064d", i), Data: [][]float32{make([]float32, 384)}}
	}
	benchPut(b, "vectors=2000", len(vectors), func(s journal.ChunkStore, f journal.Fence, id string) error {
		return s.PutVectors(b.Context(), f, journal.Scope{Tenant: "acme", UID: id}, "m", vectors)
	})
}

// BenchmarkActivate: what activating a small grain asks of the store: Acquire
// (a durable commit), LoadSnapshot and the Events after it.
func BenchmarkActivate(b *testing.B) {
	pg, lite := benchStores(b)
	grain := func(i int) journal.Identity {
		return journal.Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprint("k", i)}
	}
	const grains = 100
	for _, s := range []journal.Store{pg, lite} {
		for i := range grains {
			f, _, err := s.Acquire(b.Context(), grain(i), journal.Claim{Node: "n"})
			check(b, err, s.Append(b.Context(), f, journal.Batch{Events: testEvents(0, 12, "e")}),
				s.SaveSnapshot(b.Context(), f, journal.Snapshot{Seq: 10, State: make([]byte, 440)}))
		}
	}
	run := func(s journal.Store) func() {
		return func() {
			for i := range b.N {
				_, head, err := s.Acquire(b.Context(), grain(i%grains), journal.Claim{Node: "n"})
				check(b, err)
				snap, err := s.LoadSnapshot(b.Context(), grain(i%grains))
				check(b, err)
				list, err := s.Events(b.Context(), grain(i%grains), snap.Seq, 100)
				if check(b, err); head != 12 || len(list) != 2 {
					b.Fatal(head, len(list))
				}
			}
		}
	}
	b.ResetTimer()
	ta, tb := turns(run(pg), run(lite))
	report(b, b.N, ta, tb)
}
