//go:build unix

package trail_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/journal/trail"
)

// retire retires what is older than a moment until there is nothing more to do.
func (w *world) retire(before time.Time) {
	w.Helper()
	for more := true; more; {
		var err error
		more, err = w.maker.Retire(w.Context(), "acme", before)
		check(w, err)
	}
}

func (w *world) count(table string) (n int) {
	w.Helper()
	check(w, w.db.QueryRowContext(w.Context(), "SELECT count(*) FROM "+table+" WHERE tenant = 'acme'").Scan(&n))
	return n
}

// age makes a trail with an old part, and gives the moment between it and the rest.
// Stream n#1 goes on, n#2 is over.
func (w *world) age() time.Time {
	w.Helper()
	w.fill()
	for range 70 { // a full checkpoint in between
		w.accesses("n#1", 1)
		w.checkpoint()
	}
	between := w.now()
	w.clock = w.clock.Add(24 * time.Hour)
	for range 70 {
		w.accesses("n#1", 1)
		w.checkpoint()
	}
	return between
}

func TestI1_WhatIsRetiredIsGoneAndTheRestIsProvedFromASignedPlace(t *testing.T) {
	each(t, func(w *world) {
		between := w.age()
		whole := w.wantGood()
		if whole.First != 1 || whole.Retired != 0 {
			w.Fatalf("%+v", whole)
		}
		all := w.export(true)
		w.retire(between)
		// It is said, and nothing is gone yet: an export under way goes on.
		if n := w.count("accesses"); int64(n) != whole.Accesses {
			w.Fatalf("%d of %d calls are there", n, whole.Accesses)
		}
		said := w.wantGood()
		if said.Retired != 5+70+3 || said.Accesses != 70 || said.First <= 1 || said.Uncovered != 0 {
			w.Fatalf("%+v", said)
		}
		w.clock = w.clock.Add(2 * time.Hour)
		w.retire(between)
		r := w.wantGood()
		if r.Retired != 78 || r.Accesses != 70 || w.count("accesses") != 70 || r.Streams != 1 || !r.FirstTime.Before(between) {
			w.Fatalf("%+v", r)
		}
		if n := w.count("audit_checkpoints"); int64(n) != r.Checkpoints || r.Checkpoints >= whole.Checkpoints || r.Last-r.First+1 != r.Checkpoints {
			w.Fatalf("%d checkpoints, %+v", n, r)
		}
		// Nothing changed: nothing is signed, nothing goes.
		w.retire(between)
		if again := w.wantGood(); again.Last != r.Last {
			w.Fatalf("checkpoint %d behind %d", again.Last, r.Last)
		}
		// What was exported before it was retired is as good as ever.
		old, err := trail.Read(bytes.NewReader(all), w.signer.Public())
		check(w, err)
		if !old.Good() || old.Accesses != whole.Accesses {
			w.Fatalf("%+v", old)
		}
		// A stream that was over and goes on is followed from where it ended.
		w.accesses("n#2", 2)
		w.accesses("n#1", 1)
		w.checkpoint()
		if r := w.wantGood(); r.Retired != 78 || r.Accesses != 73 || r.Streams != 2 {
			w.Fatalf("%+v", r)
		}
		for range 140 {
			w.accesses("n#1", 1)
			w.checkpoint()
		}
		w.wantGood()
		// All of it is old one day.
		w.clock = w.clock.Add(24 * time.Hour)
		for range 3 {
			w.retire(w.now())
			w.clock = w.clock.Add(2 * time.Hour)
		}
		if r := w.wantGood(); r.Accesses != 0 || w.count("accesses") != 0 || w.count("audit_streams") != 1 {
			w.Fatalf("%+v, %d streams", r, w.count("audit_streams"))
		}
	})
}

func TestI1_DeskRetiresOfEachTenantWhatIsOlderThanItIsKept(t *testing.T) {
	each(t, func(w *world) {
		w.clock = time.Now().Add(-30 * 24 * time.Hour)
		w.fill()
		a := journal.Access{Stream: "n#1", Seq: 1, Time: w.now(), Method: "m", Code: "unauthenticated", Count: 1}
		a.Hash = journal.LinkAccess(nil, a)
		check(w, w.PutAccesses(w.Context(), []journal.Access{a}))
		desk := &trail.Desk{Store: w, Signer: w.signer, Logger: slog.New(slog.DiscardHandler), Keep: 24 * time.Hour, Mine: func(tenant string) bool { return tenant == "" }}
		desk.Round(w.Context())
		desk.Retire(w.Context())
		if r := w.wantGood(); r.Retired != 0 {
			w.Fatalf("another node's tenant: %+v", r)
		}
		last, ok, err := trail.Last(w.Context(), w, "")
		if check(w, err); !ok || !bytes.Contains(last.Body, []byte(`"ended"`)) {
			w.Fatalf("of nobody: %s", last.Body)
		}
		desk.Mine = nil
		desk.Retire(w.Context())
		if r := w.wantGood(); r.Retired != 8 || r.Accesses != 0 || desk.Stats().Failed+desk.Stats().Broken != 0 {
			w.Fatalf("%+v, %+v", r, desk.Stats())
		}
		w.exec("DELETE FROM audit_checkpoints WHERE tenant = 'acme'")
		if desk.Retire(w.Context()); desk.Stats().Broken != 1 {
			w.Fatalf("%+v", desk.Stats())
		}
	})
}

func TestI1_RetiredTrailThatIsChangedIsNamed(t *testing.T) {
	each(t, func(w *world) {
		between := w.age()
		for range 2 {
			w.retire(between)
			w.clock = w.clock.Add(2 * time.Hour)
		}
		r := w.wantGood()
		first := r.First
		w.save()
		for what, query := range map[string]string{
			"the first record that is left":                "DELETE FROM accesses WHERE tenant = 'acme' AND seq = (SELECT min(seq) FROM accesses WHERE tenant = 'acme')",
			"the first records, and the head says nothing": "DELETE FROM accesses WHERE tenant = 'acme' AND seq < 100",
			"the first checkpoint that is left":            fmt.Sprint("DELETE FROM audit_checkpoints WHERE tenant = 'acme' AND number = ", first),
			"a checkpoint between":                         fmt.Sprint("DELETE FROM audit_checkpoints WHERE tenant = 'acme' AND number = ", first+3),
			"checkpoints up to the next full one":          fmt.Sprint("DELETE FROM audit_checkpoints WHERE tenant = 'acme' AND number < ", first+64),
			"a stream and all of it":                       "DELETE FROM accesses WHERE tenant = 'acme'; DELETE FROM audit_streams WHERE tenant = 'acme' AND stream = 'n#1'",
			"a record behind what is retired, changed":     "UPDATE accesses SET principal = 'eve' WHERE tenant = 'acme' AND seq = 80",
			"what is signed as retired, changed":           fmt.Sprint("UPDATE audit_checkpoints SET body = (SELECT body FROM audit_checkpoints WHERE tenant = 'acme' AND number = ", first+1, ") WHERE tenant = 'acme' AND number = ", r.Last),
		} {
			w.exec(query)
			if r := w.verify(); r.Good() {
				w.Errorf("%s: nothing is noticed: %+v", what, r)
			}
			w.restore()
		}
		w.wantGood()
	})
}

func TestI1_NothingIsRetiredOfATrailThatWasChanged(t *testing.T) {
	each(t, func(w *world) {
		between := w.age()
		n := w.count("accesses")
		w.save()
		for what, query := range map[string]string{
			"a record":     "UPDATE accesses SET principal = 'eve' WHERE tenant = 'acme' AND stream = 'n#1' AND seq = 7",
			"a gap":        "DELETE FROM accesses WHERE tenant = 'acme' AND stream = 'n#2' AND seq = 2",
			"a time":       "UPDATE accesses SET time = (SELECT min(time) FROM accesses) WHERE tenant = 'acme' AND stream = 'n#1' AND seq = 90",
			"a checkpoint": "DELETE FROM audit_checkpoints WHERE tenant = 'acme' AND number = 70",
		} {
			w.exec(query)
			w.clock = w.clock.Add(2 * time.Hour)
			_, err := w.maker.Retire(w.Context(), "acme", between.Add(12*time.Hour))
			late, second := w.maker.Retire(w.Context(), "acme", w.now().Add(48*time.Hour))
			if !errors.Is(err, journal.ErrChain) && !errors.Is(second, journal.ErrChain) {
				w.Errorf("%s: %v, %v, %v", what, err, late, second)
			}
			if got := w.count("accesses"); got < n-1 {
				w.Errorf("%s: %d of %d calls are there", what, got, n)
			}
			w.restore()
		}
	})
}

// failingStore fails, or dies, at a step.
type failingStore struct {
	store
	left int
}

var errDied = errors.New("died")

func (s *failingStore) step() error {
	if s.left--; s.left < 0 {
		return errDied
	}
	return nil
}

func (s *failingStore) PutCheckpoint(ctx context.Context, c journal.Checkpoint) error {
	if err := s.step(); err != nil {
		return err
	}
	if err := s.store.PutCheckpoint(ctx, c); err != nil {
		return err
	}
	return s.step() // it was done, and nobody heard
}

func (s *failingStore) RetireAccesses(ctx context.Context, tenant, stream string, upTo int64, _ int) (bool, error) {
	if err := s.step(); err != nil {
		return false, err
	}
	return s.store.RetireAccesses(ctx, tenant, stream, upTo, 7)
}

func (s *failingStore) DropStream(ctx context.Context, tenant, stream string, upTo int64) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.store.DropStream(ctx, tenant, stream, upTo)
}

func (s *failingStore) RetireCheckpoints(ctx context.Context, tenant string, below int64, _ int) (bool, error) {
	if err := s.step(); err != nil {
		return false, err
	}
	return s.store.RetireCheckpoints(ctx, tenant, below, 7)
}

func TestI1_RetirementThatDiesAtAnyStepLeavesAWholeTrailAndIsFinishedByTheNext(t *testing.T) {
	each(t, func(w *world) {
		between := w.age()
		last := 0
		for left := 0; ; left++ {
			s := &failingStore{store: w.store, left: left}
			dying := &trail.Maker{Store: s, Signer: w.signer, Now: w.now}
			w.clock = w.clock.Add(2 * time.Hour)
			_, err := dying.Retire(w.Context(), "acme", between)
			if err != nil && !errors.Is(err, errDied) {
				w.Fatal(err)
			}
			w.wantGood()
			// Between two tries another node makes checkpoints, and calls come.
			w.accesses("n#1", 1)
			w.checkpoint()
			w.wantGood()
			if last = w.count("accesses"); err == nil && left > 2 {
				break
			}
			if left > 200 {
				w.Fatal("it is never done")
			}
		}
		w.clock = w.clock.Add(2 * time.Hour)
		w.retire(between)
		if r := w.wantGood(); r.Retired != 78 || w.count("accesses") >= last && last > int(r.Accesses) {
			w.Fatalf("%+v", r)
		}
	})
}

func TestI1_LaterTenantOfANameHasATrailOfItsOwn(t *testing.T) {
	each(t, func(w *world) {
		w.fill()
		// The tenant is erased: its knowledge bases, then itself.
		w.erase("kb", "handbook")
		w.erase("kb", "gone")
		key := journal.Identity{Kind: "tenant", Tenant: "acme", ID: "acme"}.String()
		check(w, w.EndTenant(w.Context(), w.fences[key]))
		w.erase("tenant", "acme")
		since := w.now()
		scope := journal.AuditScope("acme", since)
		if name, at := journal.ParseAuditScope(scope); name != "acme" || !at.Equal(since) {
			w.Fatalf("%q is %q since %v", scope, name, at)
		}
		// The next one makes a knowledge base of a known name, and one more.
		w.events("tenant", "acme", 1)
		w.events("kb", "handbook", 2)
		w.events("kb", "fresh", 1)
		w.erase("kb", "fresh")
		a := journal.Access{Tenant: scope, Stream: "n#9", Seq: 1, Time: w.now(), Principal: "bob", Method: "m", Code: "ok", Count: 1}
		a.Hash = journal.LinkAccess(nil, a)
		check(w, w.PutAccesses(w.Context(), []journal.Access{a}))
		own := func() (*trail.Report, string) {
			var out bytes.Buffer
			check(w, trail.Export(w.Context(), w, w.signer.Public(), scope, true, lines(&out)))
			r, err := trail.Read(bytes.NewReader(out.Bytes()), w.signer.Public())
			check(w, err)
			return r, out.String()
		}
		if _, _, err := w.maker.Make(w.Context(), scope); err != nil {
			w.Fatal(err)
		}
		r, text := own()
		if !r.Good() || r.Journals != 3 || r.Events != 3 || r.Accesses != 1 || r.Checkpoints != 1 || r.Uncovered != 0 || len(r.Erased) != 1 {
			w.Fatalf("%+v", r)
		}
		if strings.Contains(text, "gone") || strings.Contains(text, "n#1") {
			w.Fatalf("it shows what is the former tenant's: %s", text)
		}
		// Who hides a journal as a former tenant's is found.
		w.exec("UPDATE owner SET former = head WHERE tenant = 'acme' AND id = 'handbook'")
		if r, _ := own(); !names(r, "journal/kb/handbook") {
			w.Fatalf("%+v", r)
		}
		w.exec("UPDATE owner SET former = 5 WHERE tenant = 'acme' AND id = 'handbook'")
		// Both have one desk.
		desk := &trail.Desk{Store: w, Signer: w.signer}
		later, err := desk.Later(w.Context(), "acme")
		if check(w, err); len(later) != 1 || !later[0].Equal(since) {
			w.Fatal(later)
		}
		if later, err = desk.Later(w.Context(), "ac"); err != nil || len(later) != 0 {
			w.Fatal(later, err)
		}
		w.checkpoint()
		if r := w.wantGood(); r.Journals != 4 {
			w.Fatalf("the name as a whole: %+v", r)
		}
	})
}
