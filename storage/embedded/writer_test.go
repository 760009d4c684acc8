//go:build unix

package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"granary.dev/granary/actors/journal"
)

// openQuiet opens a store whose collector has ended: nothing but the test writes.
func openQuiet(t testing.TB) *Store {
	t.Helper()
	s := openAt(t, t.TempDir(), nil)
	s.collector()
	<-s.collected
	return s
}

// holdWriter keeps the writer inside an operation until the returned function
// is called, so that a test can fill the queue behind it.
func holdWriter(t *testing.T, s *Store) (letGo func()) {
	t.Helper()
	entered, free := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- s.write(context.Background(), "", 1, func(*txn) error {
			close(entered)
			<-free
			return nil
		})
	}()
	<-entered
	return sync.OnceFunc(func() {
		close(free)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// waiting blocks until n operations of the kind are queued, without sleeping on a guess.
func waiting(t *testing.T, s *Store, bulk bool, n int) {
	t.Helper()
	queued := func() (sum int) {
		s.writer.queue.mu.Lock()
		defer s.writer.queue.mu.Unlock()
		for _, l := range s.writer.queue.lines {
			if bulk {
				sum += len(l.bulk)
			} else {
				sum += len(l.small)
			}
		}
		return sum
	}
	for queued() < n {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestContextThatEndsInTheQueueWritesNothing(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	id := killGrain(0)
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	letGo := holdWriter(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() {
		answer <- s.Append(ctx, f, journal.Batch{Events: []journal.Event{{Seq: 1, Type: "t"}}})
	}()
	waiting(t, s, false, 1)
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	letGo()
	// The head did not move: the same batch goes through now.
	if err := s.Append(t.Context(), f, journal.Batch{Events: []journal.Event{{Seq: 1, Type: "t"}}}); err != nil {
		t.Fatal(err)
	}
}

func TestOperationTakenCompletesWhateverItsContext(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.write(ctx, "", 1, func(tx *txn) error {
		cancel()
		return tx.exec(`INSERT INTO wakeups (tenant, kind, id, key, due) VALUES ('t', 'kb', 'i', 'k', 1)`)
	})
	if err != nil {
		t.Fatalf("got %v", err)
	}
	if n := count(t, s, `SELECT count(*) FROM wakeups`); n != 1 {
		t.Fatalf("%d rows", n)
	}
}

func TestWaitingOperationsShareOneCommit(t *testing.T) {
	s := openQuiet(t)
	letGo := holdWriter(t, s)
	before := s.Stats()
	const n = 100
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { _, _, errs[i] = s.Acquire(context.Background(), killGrain(i), journal.Claim{Node: "n"}) })
	}
	waiting(t, s, false, n)
	letGo()
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	after := s.Stats()
	if groups := after.Groups - before.Groups; groups != 2 || after.Ops-before.Ops != n+1 || after.Largest != n {
		t.Fatalf("%d operations took %d transactions, the largest %d; want %d in 2", n+1, groups, after.Largest, n+1)
	}
}

func TestBulkWorkRidesOnePartToATransaction(t *testing.T) {
	s := openQuiet(t)
	letGo := holdWriter(t, s)
	before := s.Stats().Groups
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if err := s.write(context.Background(), "", stepCost, func(*txn) error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	waiting(t, s, true, 5)
	letGo()
	wg.Wait()
	if got := s.Stats().Groups - before; got != 6 {
		t.Fatalf("5 bulk parts took %d transactions with the holder's, want 6", got)
	}
}

func TestFailingOperationIsRolledBackAlone(t *testing.T) {
	s := openQuiet(t)
	letGo := holdWriter(t, s)
	const n = 20
	boom := errors.New("boom")
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			errs[i] = s.write(context.Background(), "", 1, func(tx *txn) error {
				err := tx.exec(`INSERT INTO wakeups (tenant, kind, id, key, due) VALUES ('t', 'kb', 'i', ?1, 1)`,
					fmt.Sprint(i))
				if i%2 == 1 && err == nil {
					err = boom
				}
				return err
			})
		})
	}
	waiting(t, s, false, n)
	letGo()
	wg.Wait()
	for i, err := range errs {
		if i%2 == 0 && err != nil || i%2 == 1 && !errors.Is(err, boom) {
			t.Fatalf("operation %d: %v", i, err)
		}
	}
	if got := count(t, s, `SELECT count(*) FROM wakeups`); got != n/2 {
		t.Fatalf("%d rows, want %d", got, n/2)
	}
}

// TestI4_FullDatabaseWritesNothingOfTheGroup lets the database run full inside
// one operation. SQLite then drops the whole transaction, so every operation of
// the group must answer that nothing was written, and that must be true.
func TestI4_FullDatabaseWritesNothingOfTheGroup(t *testing.T) {
	s := openQuiet(t)
	small, big := killGrain(0), killGrain(1)
	f, _, err1 := s.Acquire(t.Context(), small, journal.Claim{Node: "n"})
	g, _, err2 := s.Acquire(t.Context(), big, journal.Claim{Node: "n"})
	pages := count(t, s, `SELECT page_count FROM pragma_page_count`)
	err3 := s.setPageLimit(pages + 20)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	letGo := holdWriter(t, s)
	var wg sync.WaitGroup
	var smallErr, bigErr error
	wg.Go(func() {
		smallErr = s.Append(context.Background(), f, journal.Batch{Events: []journal.Event{{Seq: 1, Type: "t"}}})
	})
	wg.Go(func() {
		bigErr = s.Append(context.Background(), g, journal.Batch{
			Events: []journal.Event{{Seq: 1, Type: "t", Data: make([]byte, 1<<20)}},
		})
	})
	waiting(t, s, false, 1)
	waiting(t, s, true, 1)
	letGo()
	wg.Wait()
	if !errors.Is(bigErr, journal.ErrUnavailable) {
		t.Fatalf("the large append answered %v", bigErr)
	}
	list, err := s.Events(t.Context(), small, 0, 10) // reads go on
	if err != nil {
		t.Fatal(err)
	}
	if written := len(list) == 1; written != (smallErr == nil) || !written && !errors.Is(smallErr, journal.ErrUnavailable) {
		t.Fatalf("the small append answered %v with %d events written", smallErr, len(list))
	}
	// Dropping the connection lifted the limit: the store works again.
	if err := s.Append(t.Context(), g, journal.Batch{
		Events: []journal.Event{{Seq: 1, Type: "t", Data: make([]byte, 1<<20)}},
	}); err != nil {
		t.Fatal(err)
	}
}

// setPageLimit makes the writing connection believe that the disk ends there.
func (s *Store) setPageLimit(pages int) error {
	return s.write(context.Background(), "", 1, func(tx *txn) error {
		return tx.exec(fmt.Sprintf(`PRAGMA max_page_count = %d`, pages))
	})
}

// The log is folded back beside the writer, which never pauses here: it must begin
// anew all the same, and what was written must be there.
func TestLogStaysBoundedWhileWritesGoOn(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir, nil)
	const writers, rounds = 4, 150
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			f, _, err := s.Acquire(context.Background(), killGrain(i), journal.Claim{Node: "n"})
			for n := int64(1); n <= rounds && err == nil; n++ {
				err = s.Append(context.Background(), f, journal.Batch{Head: n - 1, Events: []journal.Event{{Seq: n, Type: "t", Data: noise(256 << 10)}}})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	info, err := os.Stat(filepath.Join(dir, "granary.db-wal"))
	if err != nil {
		t.Fatal(err)
	}
	if size := info.Size() >> 20; size > 80 {
		t.Errorf("the log has %d MB after %d MB were written", size, writers*rounds/4)
	}
	if n := count(t, s, `SELECT count(*) FROM events`); n != writers*rounds {
		t.Errorf("%d events", n)
	}
}

// noise cannot be compressed.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
