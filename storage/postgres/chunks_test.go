//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

// own gives the fence of a grain that nobody takes over.
func own(t testing.TB, s journal.Store) journal.Fence {
	t.Helper()
	f, _, err := s.Acquire(t.Context(), journal.Identity{Kind: "kb", Tenant: "acme", ID: "writer"}, journal.Claim{Node: "n"})
	check(t, err)
	return f
}

func testChunks(n, from int) []journal.Chunk {
	out := make([]journal.Chunk, n)
	for i := range out {
		out[i] = journal.Chunk{Ordinal: i, Text: "text \x00 with NUL", Headings: []string{"h\x00"}, Hash: fmt.Sprint("h", from+i)}
	}
	return out
}

func TestC4_TextOfAnyBytesComesBack(t *testing.T) {
	s := openAt(t, shared.Database(t))
	sc := journal.Scope{Tenant: "acme", UID: "u"}
	for _, n := range []int{1, partRows + 1} { // both ways to write
		a := journal.Attempt{Scope: sc, Document: "d", ID: fmt.Sprint(n)}
		check(t, s.PutChunks(t.Context(), own(t, s), a, testChunks(n, 0)))
		got, err := s.Chunks(t.Context(), sc, a.ID, -1, 1)
		if check(t, err); len(got) != 1 || got[0].Text != "text \x00 with NUL" || got[0].Headings[0] != "h\x00" {
			t.Fatalf("got %+v", got)
		}
	}
}

func TestC4_ReplacedChunksTakeTheirVectorsWithThem(t *testing.T) {
	s := openAt(t, shared.Database(t))
	sc := journal.Scope{Tenant: "acme", UID: "u"}
	a := journal.Attempt{Scope: sc, Document: "d", ID: "a"}
	f := own(t, s)
	check(t, s.PutChunks(t.Context(), f, a, testChunks(10, 0)), putTestVectors(t.Context(), s, f, sc, 0, 15))
	check(t, s.PutChunks(t.Context(), f, a, testChunks(10, 5)))
	if n := count(t, s, `SELECT count(*) FROM vectors`); n != 10 {
		t.Fatalf("%d vectors, want those of the 10 chunks there are", n)
	}
}

func putTestVectors(ctx context.Context, s *Store, f journal.Fence, sc journal.Scope, from, n int) error {
	v := make([]journal.Vectors, n)
	for i := range v {
		v[i] = journal.Vectors{Hash: fmt.Sprint("h", from+i), Data: [][]float32{{1, 2}}}
	}
	return s.PutVectors(ctx, f, sc, "m", v)
}

// A chunk that was written is a promise: the vectors it refers to stay,
// whoever deletes another attempt with the same text meanwhile.
func TestI9_DeletionBesideWritingNeverTakesAVectorInUse(t *testing.T) {
	s := openAt(t, shared.Database(t))
	sc := journal.Scope{Tenant: "acme", UID: "u"}
	var wg sync.WaitGroup
	errs := make([]error, 4)
	f := own(t, s)
	for w := range errs {
		wg.Go(func() {
			for i := range 40 {
				a := journal.Attempt{Scope: sc, Document: "d", ID: fmt.Sprintf("%d-%d", w, i)}
				err := errors.Join(s.PutChunks(t.Context(), f, a, testChunks(20, 0)), putTestVectors(t.Context(), s, f, sc, 0, 20))
				for range 3 {
					chunks, embedded, countErr := s.CountChunks(t.Context(), sc, a.ID, "m")
					if err = errors.Join(err, countErr); err == nil && (chunks != 20 || embedded != 20) {
						err = fmt.Errorf("%d chunks, %d embedded", chunks, embedded)
					}
				}
				if _, delErr := s.DeleteAttempts(t.Context(), sc, []string{a.ID}); err != nil || delErr != nil {
					errs[w] = errors.Join(err, delErr)
					return
				}
			}
		})
	}
	wg.Wait()
	check(t, errors.Join(errs...))
	if n := count(t, s, `SELECT count(*) FROM vectors`); n != 0 {
		t.Fatalf("%d vectors that nothing refers to", n)
	}
}

// waitsFor tells when an operation of the store waits for the session that
// holds tx, or has ended.
func waitsFor(t *testing.T, s *Store, tx pgx.Tx, ended <-chan error) (waits bool, err error) {
	t.Helper()
	for {
		select {
		case err := <-ended:
			return false, err
		default:
		}
		var blocked bool
		check(t, rowOf(t.Context(), root(t, s.commits), `SELECT EXISTS (SELECT 1 FROM pg_stat_activity
			WHERE datname = current_database() AND $1 = ANY (pg_blocking_pids(pid)))`, []any{int32(tx.Conn().PgConn().PID())}, &blocked))
		if blocked {
			return true, nil
		}
	}
}

// The two orders in which a deletion and a writer of the same text can meet.
func TestI9_WriterAndDeletionOfTheSameTextWaitForEachOther(t *testing.T) {
	for _, n := range []int{20, partRows + 20} { // both ways to write
		s := openAt(t, shared.Database(t))
		sc := journal.Scope{Tenant: "acme", UID: "u"}
		f := own(t, s)
		begin := func(id string) (journal.Attempt, pgx.Tx) {
			a := journal.Attempt{Scope: sc, Document: "d", ID: id}
			check(t, s.PutChunks(t.Context(), f, a, testChunks(n, 0)), putTestVectors(t.Context(), s, f, sc, 0, n))
			c, err := root(t, s.bulk).conn(t.Context())
			check(t, err)
			t.Cleanup(c.Release)
			tx, err := c.Begin(t.Context())
			check(t, err)
			return a, tx
		}
		ended := make(chan error, 1)

		// The deletion has removed all and not committed: the writer waits, and then sees what is left.
		old, tx := begin("old")
		check(t, deleteAttemptOn(t.Context(), tx, sc, old.ID, new(int)))
		next := journal.Attempt{Scope: sc, Document: "d", ID: "next"}
		go func() { ended <- s.PutChunks(context.WithoutCancel(t.Context()), f, next, testChunks(n, 0)) }()
		if waits, err := waitsFor(t, s, tx, ended); !waits {
			t.Fatalf("chunks were written (%v) while their vectors were being deleted", err)
		}
		check(t, tx.Commit(t.Context()), <-ended)
		if _, embedded, err := s.CountChunks(t.Context(), sc, "next", "m"); err != nil || embedded != 0 {
			t.Fatalf("%d embedded, %v", embedded, err)
		}

		// The writer has written and not committed: the deletion waits, and keeps the vectors.
		check(t, putTestVectors(t.Context(), s, f, sc, 0, n))
		second, tx := begin("second")
		last := journal.Attempt{Scope: sc, Document: "d", ID: "last"}
		rows, err := checkAttempt(f, last, testChunks(n, 0))
		check(t, err)
		if n <= partRows {
			_, err = putNewChunksOn(t.Context(), tx, f, last, rows)
		} else {
			err = replaceChunks(t.Context(), tx, f, last, rows)
		}
		check(t, err)
		go func() {
			_, err := s.DeleteAttempts(context.WithoutCancel(t.Context()), sc, []string{second.ID, next.ID})
			ended <- err
		}()
		if waits, err := waitsFor(t, s, tx, ended); !waits {
			t.Fatalf("vectors were deleted (%v) while chunks that need them were being written", err)
		}
		check(t, tx.Commit(t.Context()), <-ended)
		if chunks, embedded, err := s.CountChunks(t.Context(), sc, "last", "m"); err != nil || chunks != n || embedded != n {
			t.Fatalf("%d chunks, %d embedded, %v", chunks, embedded, err)
		}
	}
}
