// Package storagetest is the conformance suite of the ports in actors/journal.
// Every adapter below storage/ passes it against the real thing it adapts to:
// no mocks. Each test is named by the promise it keeps; I1–I5, I10 and I13 are
// the invariants of the design, A4, C2 and the other letters its requirements.
package storagetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

// Stores is one freshly opened, empty store under test. The opener closes it
// with t.Cleanup.
type Stores struct {
	Journal journal.Store
	Blobs   journal.BlobStore
	Chunks  journal.ChunkStore
	// Counters reads what Journal's batches set.
	Counters  journal.CounterStore
	Receipts  journal.ReceiptStore
	Keys      journal.KeyStore    // nil: keeps no keys itself
	Sealed    journal.SealedStore // set with Keys
	Audit     journal.AuditStore
	Directory journal.Directory

	// Reopen closes the store and opens it again over the same data.
	Reopen func(t *testing.T) Stores
	// Crash opens what a crash at this moment would leave behind, while the
	// store itself stays open. nil when the adapter has no such thing.
	Crash func(t *testing.T) Stores
	// CollectAt collects leftovers as if it were that time. nil when the
	// adapter collects elsewhere.
	CollectAt func(t *testing.T, now time.Time)
}

// Options sizes the concurrent tests; zero values take the defaults.
type Options struct {
	Writers int           // concurrent writers, default 64
	Commits int           // commits each of them tries, default 50
	Timeout time.Duration // for one test, default one minute
}

type suite struct {
	Stores
	opts Options
	ctx  context.Context
}

type promise struct {
	name string
	keep func(t *testing.T, s *suite)
}

// Run runs the whole suite; open is called once for each test.
func Run(t *testing.T, open func(t *testing.T) Stores, opts Options) {
	t.Helper()
	if opts.Writers == 0 {
		opts.Writers = 64
	}
	if opts.Commits == 0 {
		opts.Commits = 50
	}
	if opts.Timeout == 0 {
		opts.Timeout = time.Minute
	}
	groups := []struct {
		name     string
		promises []promise
	}{
		{"Fence", fencePromises()}, {"FencedReads", fencedReadPromises()}, {"FencedBulk", fencedBulkPromises()},
		{"Journal", journalPromises()}, {"Chains", chainPromises()}, {"Audit", auditPromises()}, {"Directory", directoryPromises()}, {"Idempotency", idempotencyPromises()},
		{"Wakeups", wakeupPromises()}, {"DeadLetters", deadLetterPromises()}, {"Counters", counterPromises()}, {"Receipts", receiptPromises()}, {"Snapshots", snapshotPromises()}, {"Index", indexPromises()}, {"Erase", erasePromises()},
		{"Isolation", isolationPromises()}, {"Chunks", chunkPromises()}, {"Vectors", vectorPromises()},
		{"Delete", deletePromises()}, {"Blobs", blobPromises()}, {"Concurrency", concurrencyPromises()},
		{"Durability", durabilityPromises()}, {"Keys", keyPromises()},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			if g.name == "Keys" && open(t).Keys == nil {
				t.Skip("what encrypts keeps its keys in the store below")
			}
			for _, p := range g.promises {
				t.Run(p.name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), opts.Timeout)
					defer cancel()
					p.keep(t, &suite{Stores: open(t), opts: opts, ctx: ctx})
				})
			}
		})
	}
}

// grain names a knowledge base's grain.
func grain(tenant, id string) journal.Identity {
	return journal.Identity{Kind: "kb", Tenant: tenant, ID: id}
}

// at is a fixed time in whole microseconds, which every store keeps exactly.
func at(offset time.Duration) time.Time {
	return time.Date(2026, 3, 4, 5, 6, 7, 891_234_000, time.UTC).Add(offset)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got error %v, want %v", what, err, want)
	}
}

func (s *suite) acquire(t *testing.T, id journal.Identity) (journal.Fence, int64) {
	t.Helper()
	f, head, err := s.Journal.Acquire(s.ctx, id, journal.Claim{Node: "node-1"})
	must(t, err)
	return f, head
}

// current gives a fence that holds without acquiring the grain: the owner row's.
func (s *suite) current(t *testing.T, id journal.Identity) journal.Fence {
	t.Helper()
	o, err := s.Journal.Owner(s.ctx, id)
	must(t, err)
	return o.Fence
}

// putChunks writes under a fence that holds; so does putVectors.
func (s *suite) putChunks(t *testing.T, a journal.Attempt, chunks []journal.Chunk) error {
	t.Helper()
	return s.Chunks.PutChunks(s.ctx, s.writer(t, a.Scope), a, chunks)
}

func (s *suite) putVectors(t *testing.T, sc journal.Scope, model string, v []journal.Vectors) error {
	t.Helper()
	return s.Chunks.PutVectors(s.ctx, s.writer(t, sc), sc, model, v)
}

// writer owns a grain that writes into the scope.
func (s *suite) writer(t *testing.T, sc journal.Scope) journal.Fence {
	t.Helper()
	f, _ := s.acquire(t, grain(cmp.Or(sc.Tenant, "nobody"), "of "+sc.UID))
	return f
}

// events makes n events after head, each with data that tells it from others.
func events(head int64, n int) []journal.Event {
	out := make([]journal.Event, n)
	for i := range out {
		seq := head + int64(i) + 1
		out[i] = journal.Event{
			Seq: seq, Time: at(time.Duration(seq) * time.Second), Type: "document.added",
			Data: fmt.Appendf(nil, "event %d", seq), Principal: "alice", RequestID: fmt.Sprintf("r%d", seq),
			Remote: "192.0.2.1", Hash: noise(uint64(seq), journal.HashSize),
		}
	}
	return out
}

// append commits n events after head and gives the new head.
func (s *suite) append(t *testing.T, f journal.Fence, head int64, n int) int64 {
	t.Helper()
	must(t, s.Journal.Append(s.ctx, f, journal.Batch{Head: head, Events: events(head, n)}))
	return head + int64(n)
}

// all reads a whole journal, a page at a time.
func (s *suite) all(t *testing.T, id journal.Identity) []journal.Event {
	t.Helper()
	return readAll(s.ctx, t, s.Journal, id)
}

func readAll(ctx context.Context, t *testing.T, st journal.Store, id journal.Identity) []journal.Event {
	t.Helper()
	var out []journal.Event
	for after := int64(0); ; after = out[len(out)-1].Seq {
		page, err := st.Events(ctx, id, after, 100)
		must(t, err)
		if len(page) == 0 {
			return out
		}
		out = append(out, page...)
	}
}

// checkGapless holds a journal against I3: head = max(seq) = count(events).
func checkGapless(ctx context.Context, t *testing.T, st journal.Store, id journal.Identity) []journal.Event {
	t.Helper()
	list := readAll(ctx, t, st, id)
	for i, e := range list {
		if e.Seq != int64(i)+1 {
			t.Fatalf("I3: event %d has sequence number %d", i, e.Seq)
		}
	}
	o, err := st.Owner(ctx, id)
	must(t, err)
	if o.Head != int64(len(list)) {
		t.Fatalf("I3: head is %d with %d events", o.Head, len(list))
	}
	return list
}

func sameEvents(t *testing.T, got, want []journal.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d events, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		same := g.Seq == w.Seq && g.Time.Equal(w.Time) && g.Type == w.Type &&
			bytes.Equal(g.Data, w.Data) && g.Principal == w.Principal && g.RequestID == w.RequestID &&
			g.Remote == w.Remote && bytes.Equal(g.Hash, w.Hash)
		if !same {
			t.Fatalf("event %d: got %+v, want %+v", i, g, w)
		}
	}
}

func (s *suite) putBlob(t *testing.T, tenant string, data []byte) journal.BlobInfo {
	t.Helper()
	w, err := s.Blobs.CreateBlob(s.ctx, tenant)
	must(t, err)
	defer w.Abort()
	_, err = io.Copy(w, bytes.NewReader(data))
	must(t, err)
	info, err := w.Commit(s.ctx)
	must(t, err)
	return info
}

func (s *suite) blob(t *testing.T, tenant, id string) []byte {
	t.Helper()
	r, _, err := s.Blobs.OpenBlob(s.ctx, tenant, id)
	must(t, err)
	data, err := io.ReadAll(r)
	must(t, err)
	must(t, r.Close())
	return data
}

// noise is n bytes that differ from seed to seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	x := seed*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}
