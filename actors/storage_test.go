package actors_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const starterBytes = 10_000_000_000

// addSized adds a document that says it has so many bytes: the store has few of them.
func (c *client) addSized(id string, size int64) error {
	m := c.addCall(id, page(fmt.Sprint(c.id, id, size), 1))
	m.GetAddDocument().GetSource().SizeBytes = size
	_, err := c.call(m)
	return err
}

func (c *client) tryAdd(id string, size int64) error {
	for range 50 {
		err := c.addSized(id, size)
		if e, ok := errors.AsType[*kb.Error](err); ok && e.Code == kb.CodeUnavailable {
			time.Sleep(max(e.RetryAfter, time.Millisecond))
			continue
		}
		return err
	}
	return errors.New("stays unavailable")
}

func wantStorageLimit(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*kb.Error](err)
	if !ok || e.Code != kb.CodeResourceExhausted || e.Reason != kb.ReasonStorageLimit {
		t.Fatalf("got %v, want STORAGE_LIMIT", err)
	}
	for _, key := range []string{"limit", "used", "requested"} {
		if e.Metadata[key] == "" {
			t.Fatalf("the refusal does not tell %s: %v", key, e.Metadata)
		}
	}
}

// granted reads the durable grants.
func (w *world) granted() (sum int64, rows int) {
	w.t.Helper()
	list, err := w.disk.Counters(w.t.Context(), journal.Identity{Kind: "tenant", Tenant: tenant, ID: tenant})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range list {
		if len(c.Name) > 8 && c.Name[:8] == "storage/" {
			sum, rows = sum+c.Value, rows+1
		}
	}
	return sum, rows
}

// B4: the limit is the tenant's, not each knowledge base's; what one holds and does not
// use is there for the others; deletes give back.
func TestStorageIsOneLimitForAllKnowledgeBases_B4(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		a, b, d := w.created("a"), w.created("b"), w.created("d")
		if err := a.addSized("one", 6_000_000_000); err != nil {
			t.Fatal(err)
		}
		if err := d.addSized("small", 1); err != nil { // leaves a block with d that it does not use
			t.Fatal(err)
		}
		if sum, _ := w.granted(); sum <= 6_000_000_001 {
			t.Fatalf("%d bytes are granted, no block is", sum)
		}
		wantStorageLimit(t, b.addSized("too-much", 4_000_000_000))
		if sum, _ := w.granted(); sum > starterBytes {
			t.Fatalf("%d bytes are granted", sum)
		}
		if err := b.addSized("last", 3_999_999_999); err != nil { // to the byte
			t.Fatal(err)
		}
		if sum, _ := w.granted(); sum != starterBytes {
			t.Fatalf("%d bytes are granted", sum)
		}
		wantStorageLimit(t, a.addSized("one-byte", 1))
		a.settle("one")
		if err := a.remove("one"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := b.addSized("again", 6_000_000_000); err != nil {
			t.Fatal(err)
		}
		w.wantNoDrift()
	})
}

// B4: a next version counts what it changes; reprocessing changes nothing.
func TestNextVersionsCountTheirDifference_B4(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		for _, size := range []int64{9_000_000_000, 10_000_000_000, 1_000} {
			if err := c.addSized("doc", size); err != nil {
				t.Fatal(err)
			}
			c.settle("doc")
		}
		if err := c.addSized("doc", 10_000_000_000); err != nil {
			t.Fatal(err)
		}
		c.settle("doc")
		if err := c.reprocess("doc"); err != nil {
			t.Fatal(err)
		}
		wantStorageLimit(t, c.addSized("doc", 10_000_000_001))
	})
}

// C2, B4: of a thousand uploads with room for exactly one, exactly one wins.
func TestOneOfAThousandTakesTheLastRoom_B4(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		bases := []*client{w.created("a"), w.created("b"), w.created("c")}
		if err := bases[0].addSized("most", starterBytes-1_000); err != nil {
			t.Fatal(err)
		}
		won, lost := race(t, bases, 1000, func(c *client, i int) error { return c.tryAdd(fmt.Sprint("doc", i), 1_000) }, kb.ReasonStorageLimit)
		if won != 1 || lost != 999 {
			t.Fatalf("%d won, %d lost", won, lost)
		}
		w.wantNoDrift()
	})
}

// C2: the same of documents.
func TestOneOfAThousandTakesTheLastPlace_C2(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("a")
		for i := range 999 {
			if err := c.addSized(fmt.Sprint("doc", i), 1); err != nil {
				t.Fatal(err)
			}
		}
		won, lost := race(t, []*client{c}, 1000, func(c *client, i int) error { return c.tryAdd(fmt.Sprint("last", i), 1) }, kb.ReasonDocumentLimit)
		if won != 1 || lost != 999 {
			t.Fatalf("%d won, %d lost", won, lost)
		}
	})
}

func race(t *testing.T, bases []*client, n int, add func(*client, int) error, reason string) (won, lost int) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			err := add(bases[i%len(bases)], i)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case kb.Is(err, reason):
				lost++
			default:
				t.Errorf("upload %d: %v", i, err)
			}
		})
	}
	all.Wait()
	return won, lost
}

// recounted gives the lines of a recount.
func (w *world) recounted() []*granaryv1.Recount {
	w.t.Helper()
	r := w.tenantCall(&nodev1.TenantCall{Operation: &nodev1.TenantCall_RecountUsage{RecountUsage: &granaryv1.RecountUsageRequest{}}})
	if r.GetRecount() == nil {
		w.t.Fatalf("recount: %v", r)
	}
	return r.GetRecount().GetRecounts()
}

// wantNoDrift waits until nothing is under way and compares the grants with the sum of
// what the knowledge bases say they store.
func (w *world) wantNoDrift() {
	w.t.Helper()
	time.Sleep(2 * time.Minute) // of the bubble: retries and erasures come to their end
	synctest.Wait()
	lines := w.recounted()
	counted := int64(0)
	for _, l := range lines {
		if l.GetNote() != "" {
			w.t.Errorf("recount: %v", l)
		}
		if l.GetMetric() == "storage_bytes" && l.GetKnowledgeBase() != "" {
			counted += l.GetCounter()
		}
		// The store has fewer bytes than documents in these tests say they have.
		if l.GetMetric() != "storage_bytes" && l.GetDrift() != 0 {
			w.t.Errorf("drift: %v", l)
		}
	}
	if lines[0].GetCounter() != counted {
		w.t.Errorf("%d bytes are granted after a recall, %d are used", lines[0].GetCounter(), counted)
	}
	if sum, _ := w.granted(); sum != counted {
		w.t.Errorf("%d bytes are durably granted, %d are used", sum, counted)
	}
}

// B4: crashes at any operation of the store, deletes, failures and lost answers leave
// grants that are exactly what is used, and never more than the limit.
func TestStorageNeitherLeaksNorDoubles_B4(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, setup{waker: true}, func(t *testing.T, w *world) { storageChaos(t, w, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func storageChaos(t *testing.T, w *world, r *rand.Rand) {
	names := []string{"a", "b", "c"}
	for _, id := range names {
		w.created(id)
	}
	for step := range 60 {
		c := w.kb(names[r.IntN(len(names))])
		doc := fmt.Sprint("doc", r.IntN(6))
		switch r.IntN(12) {
		case 0, 1, 2, 3, 4:
			_ = c.addSized(doc, r.Int64N(3_000_000_000))
		case 5, 6:
			_ = c.remove(doc)
		case 7:
			_ = c.cancel(doc)
		case 8:
			_ = c.reprocess(doc)
		case 9:
			w.faults.dieAt(1+r.IntN(12), r.IntN(2) == 0)
			_ = c.addSized(doc, r.Int64N(3_000_000_000))
			time.Sleep(time.Second)
			w.crash()
		case 10:
			if r.IntN(3) == 0 {
				_ = c.deleteKB()
				time.Sleep(time.Minute)
				_, _ = c.create()
			}
		case 11:
			w.restart()
		}
		if sum, _ := w.granted(); sum > starterBytes {
			t.Fatalf("step %d: %d bytes are granted", step, sum)
		}
	}
	for _, id := range names {
		_, _ = w.kb(id).create()
	}
	w.wantNoDrift()
}

// B4: a deleted knowledge base gives its bytes back, and its grant goes.
func TestDeletedKnowledgeBaseReturnsItsStorage_B4(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		a, b := w.created("a"), w.created("b")
		if err := a.addSized("one", 9_000_000_000); err != nil {
			t.Fatal(err)
		}
		a.settle("one")
		if err := a.deleteKB(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if sum, rows := w.granted(); sum != 0 || rows != 0 {
			t.Fatalf("%d bytes in %d grants are left", sum, rows)
		}
		if err := b.addSized("one", starterBytes); err != nil {
			t.Fatal(err)
		}
		w.wantNoDrift()
	})
}
