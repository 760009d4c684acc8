//go:build unix

package sealed_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/sealed"
)

// bare is what a sealed and an unsealed store have in common.
type bare interface {
	journal.Store
	journal.BlobStore
	journal.ChunkStore
}

// sideBySide runs the same work on an unsealed and on a sealed store in turns, and
// reports the medians and their ratio. Below 1 sealing is slower.
func sideBySide(b *testing.B, unit string, amount float64, prepare func(b *testing.B, s bare) func(n int)) {
	plain := onFolder(b).inner(b)
	b.Cleanup(func() { check(b, plain.Close()) })
	run := [2]func(int){prepare(b, plain), prepare(b, onFolder(b).open(b))}
	var took [2][]time.Duration
	const turns = 10
	per := max(b.N/turns, 1)
	b.ResetTimer()
	for range turns {
		for i := range run {
			start := time.Now()
			run[i](per)
			took[i] = append(took[i], time.Since(start))
		}
	}
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return d[len(d)/2].Seconds()
	}
	p, s := median(took[0]), median(took[1])
	b.ReportMetric(float64(per)*amount/p, "plain-"+unit)
	b.ReportMetric(float64(per)*amount/s, "sealed-"+unit)
	b.ReportMetric(p/s, "ratio")
}

// BenchmarkSealedAppend appends events of 300 bytes.
func BenchmarkSealedAppend(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprint("writers=", writers), func(b *testing.B) {
			data := bytes.Repeat([]byte("x"), 300)
			sideBySide(b, "events/s", 1, func(b *testing.B, s bare) func(int) {
				fences, heads := make([]journal.Fence, writers), make([]int64, writers)
				for i := range fences {
					fences[i] = acquire(b, s, grain("acme", fmt.Sprint("k", i)))
				}
				return func(n int) {
					var wg sync.WaitGroup
					for i, f := range fences {
						wg.Go(func() {
							for range (n + i) / writers {
								heads[i]++
								err := s.Append(context.Background(), f, journal.Batch{Head: heads[i] - 1,
									Events: []journal.Event{{Seq: heads[i], Type: "document.added", Data: data, Principal: "alice"}}})
								if err != nil {
									b.Error(err)
								}
							}
						})
					}
					wg.Wait()
				}
			})
		})
	}
}

// BenchmarkSealedChunks writes and reads 2,000 chunks of 1 KB with vectors of 384
// dimensions, as indexing a document and loading an index do.
func BenchmarkSealedChunks(b *testing.B) {
	chunks, vectors := make([]journal.Chunk, 2000), make([]journal.Vectors, 2000)
	hashes := make([]string, len(chunks))
	for i := range chunks {
		hashes[i] = fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i), byte(i >> 8)}))
		chunks[i] = journal.Chunk{Ordinal: i, Text: string(bytes.Repeat([]byte{byte('a' + i%26)}, 1000)), Hash: hashes[i], Language: "en"}
		vectors[i] = journal.Vectors{Hash: hashes[i], Data: [][]float32{make([]float32, 384)}}
	}
	sc := journal.Scope{Tenant: "acme", UID: "u"}
	b.Run("write", func(b *testing.B) {
		sideBySide(b, "chunks/s", 2000, func(b *testing.B, s bare) func(int) {
			f, round := acquire(b, s, grain("acme", "k")), 0
			return func(n int) {
				for range n {
					round++
					sc := journal.Scope{Tenant: "acme", UID: fmt.Sprint(round)}
					check(b, s.PutChunks(b.Context(), f, journal.Attempt{Scope: sc, Document: "d", ID: "a"}, chunks),
						s.PutVectors(b.Context(), f, sc, "m", vectors))
				}
			}
		})
	})
	b.Run("read", func(b *testing.B) {
		sideBySide(b, "chunks/s", 2000, func(b *testing.B, s bare) func(int) {
			f := acquire(b, s, grain("acme", "k"))
			check(b, s.PutChunks(b.Context(), f, journal.Attempt{Scope: sc, Document: "d", ID: "a"}, chunks), s.PutVectors(b.Context(), f, sc, "m", vectors))
			return func(n int) {
				for range n {
					list, err := s.Chunks(b.Context(), sc, "a", -1, len(chunks))
					check(b, err)
					known, err := s.VectorsByHash(b.Context(), sc, "m", hashes)
					check(b, err)
					if len(list) != len(chunks) || len(known) != len(chunks) {
						b.Fatal(len(list), len(known))
					}
				}
			}
		})
	})
}

// BenchmarkSealedBlobs writes and reads blobs of 8 MiB.
func BenchmarkSealedBlobs(b *testing.B) {
	data := make([]byte, 8<<20)
	for i := range data {
		data[i] = byte(i * i >> 8)
	}
	b.Run("write", func(b *testing.B) {
		sideBySide(b, "MB/s", 8.39, func(b *testing.B, s bare) func(int) {
			return func(n int) {
				for range n {
					check(b, s.DeleteBlob(b.Context(), "acme", putBlob(b, s, "acme", data).ID))
				}
			}
		})
	})
	b.Run("read", func(b *testing.B) {
		sideBySide(b, "MB/s", 8.39, func(b *testing.B, s bare) func(int) {
			id := putBlob(b, s, "acme", data).ID
			return func(n int) {
				for range n {
					r, _, err := s.OpenBlob(b.Context(), "acme", id)
					check(b, err)
					_, err = io.Copy(io.Discard, r)
					check(b, err, r.Close())
				}
			}
		})
	})
}

// BenchmarkSealedActivate reads what an activation needs: a snapshot and two events.
func BenchmarkSealedActivate(b *testing.B) {
	sideBySide(b, "activations/s", 1, func(b *testing.B, s bare) func(int) {
		f := acquire(b, s, grain("acme", "k"))
		for seq := range int64(12) {
			check(b, s.Append(b.Context(), f, journal.Batch{Head: seq, Events: []journal.Event{{Seq: seq + 1, Type: "t", Data: bytes.Repeat([]byte("x"), 200)}}}))
		}
		check(b, s.SaveSnapshot(b.Context(), f, journal.Snapshot{Seq: 10, State: bytes.Repeat([]byte("state of a tiny grain "), 20)}))
		return func(n int) {
			for range n {
				snap, err := s.LoadSnapshot(b.Context(), f.Identity)
				check(b, err)
				list, err := s.Events(b.Context(), f.Identity, snap.Seq, 100)
				check(b, err)
				if len(list) != 2 {
					b.Fatal(len(list))
				}
			}
		}
	})
}

// BenchmarkSealedIndex saves and loads an index of 16 MiB.
func BenchmarkSealedIndex(b *testing.B) {
	data := make([]byte, 16<<20)
	sideBySide(b, "MB/s", 16.78, func(b *testing.B, s bare) func(int) {
		f := acquire(b, s, grain("acme", "k"))
		return func(n int) {
			for range n {
				check(b, s.SaveIndex(b.Context(), f, data))
				_, err := s.LoadIndex(b.Context(), f.Identity)
				check(b, err)
			}
		}
	})
}

var _ bare = (*sealed.Store)(nil)
