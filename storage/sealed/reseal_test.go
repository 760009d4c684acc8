//go:build unix

package sealed_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/sealed"
)

// reencrypt runs a pass to its end, in steps of limit.
func reencrypt(t *testing.T, s *sealed.Store, tenant string, limit time.Duration) (sum sealed.Reencryption, calls int) {
	t.Helper()
	for next := ""; ; calls++ {
		r, err := s.Reencrypt(t.Context(), tenant, next, limit)
		check(t, err)
		r.Seen, r.Sealed, r.Broken = r.Seen+sum.Seen, r.Sealed+sum.Sealed, r.Broken+sum.Broken
		if sum = r; r.Next == "" {
			return sum, calls + 1
		}
		next = r.Next
	}
}

// underKey counts, in a dump, what begins like ciphertext of a key.
func underKey(t *testing.T, dump []byte, key string) int {
	t.Helper()
	id, err := hex.DecodeString(key)
	check(t, err)
	return bytes.Count(dump, append([]byte{1}, id...)) + strings.Count(string(dump), "01"+key)
}

// I2: everything a tenant stored under earlier keys comes under the last one, in as
// many steps as one likes, after which the earlier keys are gone; other tenants' stay.
func TestI2_ReencryptedTenantNeedsItsLastKeyOnly(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		s := w.over(t, w.inner(t), sealed.Config{Lone: w.url == "", Settle: time.Millisecond})
		p, q, other := plant(t, s, "acme", "handbook"), plant(t, s, "acme", "second"), plant(t, s, "other", "k")
		first, err := s.Keys(t.Context(), "acme")
		check(t, err)
		_, err = s.Rotate(t.Context(), "acme")
		check(t, err)
		r := plant(t, s, "acme", "between")
		last, err := s.Rotate(t.Context(), "acme")
		check(t, err)
		time.Sleep(2 * time.Millisecond) // what may come late has come
		sum, calls := reencrypt(t, s, "acme", 1)
		// Of each knowledge base: 2 events, a snapshot, a response, a dead letter, 2 chunks, 2 vectors, 3 blobs, an index.
		if !sum.Complete || sum.Dropped != 2 || sum.Sealed != 3*13 || sum.Seen != 3*13 || sum.Broken != 0 || calls < 8 {
			t.Fatalf("in %d calls: %+v", calls, sum)
		}
		for _, x := range []*planted{p, q, r} {
			if _, err := s.LoadIndex(t.Context(), x.f.Identity); !errors.Is(err, journal.ErrNotFound) {
				t.Errorf("an index under an earlier key: %v", err)
			}
			check(t, s.SaveIndex(t.Context(), x.f, []byte("built anew")))
		}
		wantReadable(t, s, p, q, r, other)
		if again, calls := reencrypt(t, s, "acme", 0); !again.Complete || again.Seen != 0 || calls != 1 {
			t.Errorf("once more: %+v", again)
		}
		check(t, s.Close())
		s = w.open(t)
		wantReadable(t, s, p, q, r, other)
		if n, embedded, err := s.CountChunks(t.Context(), p.scope, "a", "m"); err != nil || n != 2 || embedded != 2 {
			t.Errorf("%d chunks, %d with vectors, %v", n, embedded, err)
		}
		for what, want := range map[string][]byte{"event": p.secrets["event"], "blob": bytes.Repeat(p.secrets["blob"], 20_000)} {
			got, err := readBlob(t.Context(), s, "acme", p.blobs[2].ID)
			if what == "event" {
				var list []journal.Event
				list, err = s.Events(t.Context(), p.f.Identity, 0, 10)
				got = list[0].Data
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s is another, %v", what, err)
			}
		}
		if w.url != "" {
			if dump := w.dump(t); underKey(t, dump, first.Primary) != 0 || underKey(t, dump, last.Primary) == 0 {
				t.Errorf("values are left under the first key, or there are none under the last")
			}
		}
		if _, err := s.Reencrypt(t.Context(), "nobody", "", 0); !errors.Is(err, sealed.ErrUnknownTenant) {
			t.Errorf("an unknown tenant: %v", err)
		}
		if _, err := s.Reencrypt(t.Context(), "acme", "nonsense", 0); !errors.Is(err, sealed.ErrPosition) {
			t.Errorf("a position that is none: %v", err)
		}
	})
}

// I2: the earlier keys stay while something may still come to be stored under them; an
// upload that takes longer than that is refused.
func TestI2_EarlierKeysStayUntilNothingCanComeUnderThem(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		s := w.over(t, w.inner(t), sealed.Config{Lone: w.url == "", Settle: 2 * time.Second})
		plant(t, s, "acme", "handbook")
		quick, err := s.CreateBlob(t.Context(), "acme")
		check(t, err)
		slow, err := s.CreateBlob(t.Context(), "acme")
		check(t, err)
		content := bytes.Repeat([]byte("uploading"), 20_000)
		for _, b := range []journal.BlobWriter{quick, slow} {
			_, err := b.Write(content)
			check(t, err)
		}
		rotated, err := s.Rotate(t.Context(), "acme")
		check(t, err)
		early, _ := reencrypt(t, s, "acme", 0)
		if early.Complete || early.Dropped != 0 || early.Sealed == 0 || early.NotBefore.Sub(rotated.Rotated.Add(2*time.Second)).Abs() > time.Millisecond {
			t.Errorf("right after the rotation: %+v", early)
		}
		info, err := quick.Commit(t.Context())
		check(t, err)
		time.Sleep(time.Until(early.NotBefore) + time.Millisecond)
		if _, err := slow.Commit(t.Context()); !errors.Is(err, journal.ErrUnavailable) {
			t.Errorf("an upload that took too long: %v", err)
		}
		late, _ := reencrypt(t, s, "acme", 0)
		if !late.Complete || late.Dropped != 1 || late.Sealed != 1 {
			t.Errorf("when all has settled: %+v", late)
		}
		if got, err := readBlob(t.Context(), s, "acme", info.ID); err != nil || !bytes.Equal(got, content) {
			t.Errorf("the upload that came after the first pass: %v", err)
		}
		if s.Stats().Failures() != 0 {
			t.Errorf("counted %+v", s.Stats())
		}
	})
}

// I2: what was forged is left as it is, and does not hold up the rest.
func TestI2_ReencryptionGoesAroundForgedValues(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		s := w.over(t, w.inner(t), sealed.Config{Lone: w.url == "", Settle: time.Millisecond})
		p, q := plant(t, s, "acme", "handbook"), plant(t, s, "acme", "second")
		w.exec(t, "UPDATE events SET data = (SELECT data FROM events WHERE id = 'handbook' AND seq = 2) WHERE id = 'handbook' AND seq = 1")
		_, err := s.Rotate(t.Context(), "acme")
		check(t, err)
		time.Sleep(2 * time.Millisecond)
		if sum, _ := reencrypt(t, s, "acme", 0); !sum.Complete || sum.Broken != 1 || sum.Sealed != 2*13-1 {
			t.Fatalf("%+v", sum)
		}
		if _, err := s.Events(t.Context(), p.f.Identity, 0, 1); !errors.Is(err, journal.ErrCorrupt) {
			t.Errorf("the forged event: %v", err)
		}
		check(t, s.SaveIndex(t.Context(), q.f, []byte("built anew")))
		wantReadable(t, s, q)
	})
}

// I2: while one node re-encrypts again and again, the other reads everything, blobs of
// many parts slowly, and writes; nothing fails, and nothing that is read is another.
func TestI2_ReencryptionUnderLoad(t *testing.T) {
	w := onPostgres(t)
	cfg := sealed.Config{Poll: 20 * time.Millisecond, Trust: 100 * time.Millisecond, Settle: 500 * time.Millisecond}
	a, b := w.over(t, w.inner(t), cfg), w.over(t, w.inner(t), cfg)
	p := plant(t, a, "acme", "handbook")
	large := make([]byte, 5<<20+123)
	for i := range large {
		large[i] = byte(i * i >> 8)
	}
	blob := putBlob(t, a, "acme", large)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	loop := func(what string, do func(i int) error) {
		wg.Go(func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				if err := do(n); err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", what, err)
					return
				}
			}
			t.Logf("%s: %d", what, n)
		})
	}
	reads := p.reads(context.WithoutCancel(ctx), b)
	delete(reads, "index") // is built anew by who needs it
	loop("reads", func(int) error {
		for what, read := range reads {
			if err := read(); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		return nil
	})
	loop("reads of a large blob", func(i int) error {
		r, _, err := b.OpenBlob(context.WithoutCancel(ctx), "acme", blob.ID)
		if err != nil {
			return err
		}
		defer r.Close()
		got := make([]byte, 0, len(large))
		part := make([]byte, 300_000)
		for {
			n, err := r.Read(part)
			if got = append(got, part[:n]...); err == io.EOF {
				break
			}
			if err != nil {
				return fmt.Errorf("after %d bytes: %w", len(got), err)
			}
			if i%2 == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		if !bytes.Equal(got, large) {
			return errors.New("other bytes")
		}
		return nil
	})
	f := acquire(t, b, grain("acme", "written"))
	loop("appends", func(i int) error {
		return b.Append(context.WithoutCancel(ctx), f, journal.Batch{Head: int64(i), Events: []journal.Event{{Seq: int64(i) + 1, Type: "t", Data: fmt.Append(nil, i)}}})
	})
	dropped := 0
	for range 4 {
		_, err := a.Rotate(t.Context(), "acme")
		check(t, err)
		for complete := false; !complete; {
			sum, _ := reencrypt(t, a, "acme", 0)
			dropped += sum.Dropped
			if complete = sum.Complete; !complete {
				time.Sleep(time.Until(sum.NotBefore) + time.Millisecond)
			}
		}
	}
	cancel()
	wg.Wait()
	if dropped != 4 {
		t.Errorf("%d keys were destroyed", dropped)
	}
	for _, s := range []*sealed.Store{a, b} {
		if st := s.Stats(); st != (sealed.Stats{}) {
			t.Errorf("failures were counted: %+v", st)
		}
	}
}
