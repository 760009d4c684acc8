//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors/journal"
)

// held is a grain of the old owner that a new one takes over.
type held struct {
	s        *Store
	old, new journal.Fence
	claim    journal.Claim
}

func newHeld(t *testing.T, s *Store) *held {
	t.Helper()
	v := twoNodes(t, s)
	h := &held{s: s, claim: longPlaced(v, "b")}
	var err error
	h.old, _, err = s.Acquire(t.Context(), journal.Identity{Kind: "kb", Tenant: "acme", ID: uuid.NewString()}, longPlaced(v, "a"))
	check(t, err)
	h.new = journal.Fence{Identity: h.old.Identity, Activation: uuid.NewString(), Node: h.claim.Node}
	return h
}

// takeOver acquires in a step of its own, and fails if it has to wait.
func (h *held) takeOver(ctx context.Context, q querier) error {
	_, err := q.Exec(ctx, "SET lock_timeout = '1ms'")
	err = errors.Join(err, acquireOn(ctx, q, &h.new, new(int64), h.claim, h.s.ttl))
	_, resetErr := q.Exec(ctx, "SET lock_timeout = '1s'")
	return errors.Join(err, resetErr)
}

// before counts the steps of n that an order has before step i of o.
func before(order string, i int) (n int) {
	for _, who := range order {
		switch {
		case who == 'n':
			n++
		case i == 0:
			return n
		default:
			i--
		}
	}
	return n
}

func TestI7_VerifyTellsTheTruthAndWaitsForNobody(t *testing.T) {
	s := openAt(t, shared.Database(t))
	for _, order := range orders(2, 3) {
		h := newHeld(t, s)
		var told []error
		verify := func(ctx context.Context, q querier) error {
			told = append(told, verifyOn(ctx, q, h.old))
			return nil
		}
		playTwo(t, s, order, newSession(t, root(t, s.commits), verify, verify),
			newSession(t, root(t, s.commits), statement("BEGIN"), func(ctx context.Context, q querier) error {
				return acquireOn(ctx, q, &h.new, new(int64), h.claim, s.ttl)
			}, statement("COMMIT")))
		for i, err := range told {
			if taken := before(order, i) == 3; taken != errors.Is(err, journal.ErrFenced) || !taken && err != nil {
				t.Errorf("order %s, look %d: %v", order, i, err)
			}
		}
	}
}

// lookups are ways to find a key in two steps; the second is unsafe.
var lookups = map[string]func(h *held, k journal.IdempotencyKey) (first, second func(context.Context, querier) (string, error)){
	"FindIdempotency": func(h *held, k journal.IdempotencyKey) (first, second func(context.Context, querier) (string, error)) {
		find := func(ctx context.Context, q querier) (string, error) {
			rec, _, err := findKeyOn(ctx, q, h.old, k)
			return string(rec.Response), err
		}
		return find, find
	},
	"found out: a look at the fence and then at the key": func(h *held, k journal.IdempotencyKey) (first, second func(context.Context, querier) (string, error)) {
		return func(ctx context.Context, q querier) (string, error) { return "", verifyOn(ctx, q, h.old) },
			func(ctx context.Context, q querier) (string, error) {
				var response []byte
				err := q.QueryRow(ctx, `SELECT response FROM idempotency WHERE (tenant, kind, id, key) = ($1, $2, $3, $4)`,
					h.old.Identity.Tenant, h.old.Identity.Kind, h.old.Identity.ID, k.Key).Scan(&response)
				if isNoRows(err) {
					err = nil
				}
				return string(response), err
			}
	},
}

func TestI7_NoOrderShowsAStaleOwnerAKeyOfItsSuccessor(t *testing.T) {
	s := openAt(t, shared.Database(t))
	k := journal.IdempotencyKey{Principal: "alice", Method: "Add", Key: "k"}
	for name, lookup := range lookups {
		t.Run(name, func(t *testing.T) {
			shown := 0
			for _, order := range orders(2, 4) {
				h := newHeld(t, s)
				stale := false // it has been told that it is fenced, and would answer nothing
				var found []string
				step := func(run func(context.Context, querier) (string, error)) func(context.Context, querier) error {
					return func(ctx context.Context, q querier) error {
						response, err := run(ctx, q)
						stale = stale || errors.Is(err, journal.ErrFenced)
						if !stale {
							found = append(found, response)
						}
						return nil
					}
				}
				first, second := lookup(h, k)
				playTwo(t, s, order, newSession(t, root(t, s.commits), step(first), step(second)),
					newSession(t, root(t, s.commits), h.takeOver, statement("BEGIN"), func(ctx context.Context, q querier) error {
						return s.appendBatch(ctx, q, h.new, journal.Batch{Events: testEvents(0, 1, "new"),
							Idempotency: []journal.Idempotency{{IdempotencyKey: k, Response: []byte("of the successor"), Expires: time.Now().Add(time.Hour)}}})
					}, statement("COMMIT")))
				if slices.Contains(found, "of the successor") {
					shown++
				}
				if _, ok, err := s.FindIdempotency(t.Context(), h.new, k); err != nil || !ok {
					t.Fatalf("order %s: the successor does not find its own key: %v", order, err)
				}
			}
			if unsafe := strings.HasPrefix(name, "found out"); unsafe != (shown > 0) {
				t.Fatalf("shown in %d orders", shown)
			}
		})
	}
}

// bulkWrite is one way in which the old owner may write rows of its scope.
type bulkWrite struct {
	name   string
	unsafe bool
	write  func(ctx context.Context, q querier, f journal.Fence, sc journal.Scope) error
}

func attemptRows(ctx context.Context, q querier, f journal.Fence, sc journal.Scope, n int,
	put func(context.Context, querier, journal.Fence, journal.Attempt, []chunkRow) error) error {
	a := journal.Attempt{Scope: sc, Document: "d", ID: "stale"}
	rows, err := checkAttempt(f, a, testChunks(n, 0))
	if err != nil {
		return err
	}
	return put(ctx, q, f, a, rows)
}

func bulkWrites() []bulkWrite {
	return []bulkWrite{
		{"chunks in one statement", false, func(ctx context.Context, q querier, f journal.Fence, sc journal.Scope) error {
			return attemptRows(ctx, q, f, sc, 5, func(ctx context.Context, q querier, f journal.Fence, a journal.Attempt, rows []chunkRow) error {
				_, err := putNewChunksOn(ctx, q, f, a, rows)
				return err
			})
		}},
		{"chunks in several", false, func(ctx context.Context, q querier, f journal.Fence, sc journal.Scope) error {
			return attemptRows(ctx, q, f, sc, partRows+5, replaceChunks)
		}},
		{"found out: a fence without the lock", true, func(ctx context.Context, q querier, f journal.Fence, sc journal.Scope) error {
			tag, err := q.Exec(ctx, `INSERT INTO attempts (tenant, uid, attempt, document, version)
				SELECT $1, $6, 'stale', 'd', 1 FROM owner
				WHERE tenant = $1 AND kind = $2 AND id = $3 AND epoch = $4 AND activation = $5 AND NOT released`, fenceArgs(f, sc.UID)...)
			if err == nil && tag.RowsAffected() == 0 {
				err = fenced(f)
			}
			return err
		}},
	}
}

func TestI8_WhatTheNewOwnerListsIsAllThatTheOldOneEverWrites(t *testing.T) {
	s := openAt(t, shared.Database(t))
	for _, w := range bulkWrites() {
		t.Run(w.name, func(t *testing.T) {
			late, acknowledged := 0, 0
			for _, order := range orders(3, 3) {
				h := newHeld(t, s)
				sc := journal.Scope{Tenant: "acme", UID: uuid.NewString()}
				wrote := false
				var listed []journal.Attempt
				o := newSession(t, root(t, s.commits), statement("BEGIN"), func(ctx context.Context, q querier) error {
					return w.write(ctx, q, h.old, sc)
				}, func(ctx context.Context, q querier) error {
					_, err := q.Exec(ctx, "COMMIT")
					wrote = err == nil
					return err
				})
				n := newSession(t, root(t, s.commits), h.takeOver, func(ctx context.Context, q querier) error {
					return lockScope(ctx, q, sc)
				}, func(ctx context.Context, q querier) (err error) {
					listed, err = attemptsOn(ctx, q, sc)
					return err
				})
				playTwo(t, s, order, o, n)
				there, err := s.AttemptsOf(t.Context(), sc)
				check(t, err)
				if h.new.Epoch != h.old.Epoch+1 {
					t.Fatalf("order %s: the takeover waited for the write, or failed", order)
				}
				if wrote != (len(there) > 0) {
					t.Fatalf("order %s: acknowledged %v, but there is %v", order, wrote, there)
				}
				if !slices.Equal(there, listed) {
					late++
				}
				if wrote {
					acknowledged++
				}
			}
			if acknowledged == 0 || acknowledged == len(orders(3, 3)) {
				t.Fatalf("written in %d orders: the test shows nothing", acknowledged)
			}
			if w.unsafe != (late > 0) {
				t.Fatalf("in %d orders rows came after the new owner had listed them", late)
			}
		})
	}
}

// Three at once: a writer that waits for the lock of its scope, while its grain
// is taken over, must look at its fence after it has the lock.
func TestI8_WriterThatWaitedForTheLockLooksAtItsFenceAfterwards(t *testing.T) {
	s := openAt(t, shared.Database(t))
	for _, n := range []int{5, partRows + 5} {
		for _, what := range []string{"chunks", "vectors"} {
			t.Run(fmt.Sprint(n, " ", what), func(t *testing.T) {
				h := newHeld(t, s)
				sc := journal.Scope{Tenant: "acme", UID: uuid.NewString()}
				c, err := root(t, s.bulk).conn(t.Context())
				check(t, err)
				defer c.Release()
				tx, err := c.Begin(t.Context())
				check(t, err, lockScope(t.Context(), tx, sc))
				ended := make(chan error, 1)
				go func() {
					ctx := context.WithoutCancel(t.Context())
					if what == "vectors" {
						ended <- putTestVectors(ctx, s, h.old, sc, 0, n)
						return
					}
					ended <- s.PutChunks(ctx, h.old, journal.Attempt{Scope: sc, Document: "d", ID: "stale"}, testChunks(n, 0))
				}()
				if waits, err := waitsFor(t, s, tx, ended); !waits {
					t.Fatalf("the writer did not wait for the scope: %v", err)
				}
				check(t, root(t, s.commits).write(t.Context(), h.takeOver), tx.Rollback(t.Context()))
				if err := <-ended; !errors.Is(err, journal.ErrFenced) {
					t.Fatalf("got %v, want fenced", err)
				}
				chunks, vectors, err := s.DeleteScope(t.Context(), sc)
				if check(t, err); chunks+vectors != 0 {
					t.Fatalf("%d chunks and %d vectors of a stale writer", chunks, vectors)
				}
			})
		}
	}
}

// A grain's bulk writes are long; its appends and those who take it over do not
// wait for them.
func TestI1_BulkWriteUnderWayHoldsUpNeitherAppendsNorTakeovers(t *testing.T) {
	s := openAt(t, shared.Database(t))
	for _, w := range bulkWrites()[:2] {
		h := newHeld(t, s)
		sc := journal.Scope{Tenant: "acme", UID: uuid.NewString()}
		c, err := root(t, s.bulk).conn(t.Context())
		check(t, err)
		tx, err := c.Begin(t.Context())
		check(t, err, w.write(t.Context(), tx, h.old, sc))
		hurried := func(run func(ctx context.Context, q querier) error) {
			t.Helper()
			check(t, root(t, s.commits).write(t.Context(), func(ctx context.Context, q querier) error {
				_, err := q.Exec(ctx, "SET lock_timeout = '1ms'")
				err = errors.Join(err, run(ctx, q))
				_, resetErr := q.Exec(ctx, "SET lock_timeout = '1s'")
				return errors.Join(err, resetErr)
			}))
		}
		hurried(func(ctx context.Context, q querier) error {
			return s.appendBatch(ctx, q, h.old, journal.Batch{Events: testEvents(0, 1, "old")})
		})
		hurried(func(ctx context.Context, q querier) error { return verifyOn(ctx, q, h.old) })
		hurried(h.takeOver)
		hurried(func(ctx context.Context, q querier) error {
			return s.appendBatch(ctx, q, h.new, journal.Batch{Head: 1, Events: testEvents(1, 1, "new")})
		})
		check(t, tx.Commit(t.Context()))
		c.Release()
	}
}
