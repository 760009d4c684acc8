//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cluster/protocol"
)

// A change of the view is played against what depends on the view, in every
// order of their steps, with commits as late as they may come.

// errTooLate tells that something was decided by a view after its successor was committed.
var errTooLate = errors.New("an older view was used after the next one was committed")

// dependent is a statement that must not go by a view that is no more.
type dependent struct {
	name     string
	function string // that carries the promise
	// race plays one order and tells whether the statement went by the old view.
	race func(t *testing.T, s *Store, order string) (old bool, err error)
	a, b int // steps of the statement and of the change
}

func dependents() []dependent {
	return []dependent{
		{"renewal", "granary_renew_v1", raceRenewal, 1, 3},
		{"renewal of a node given up", "granary_renew_v1", raceBurial, 3, 3},
		{"acquisition of a new grain", "granary_acquire_v1", func(t *testing.T, s *Store, order string) (bool, error) {
			return raceAcquisition(t, s, order, false)
		}, 3, 3},
		{"acquisition of a grain of another node", "granary_acquire_v1", func(t *testing.T, s *Store, order string) (bool, error) {
			return raceAcquisition(t, s, order, true)
		}, 3, 3},
	}
}

func TestI6_NothingGoesByAViewAfterTheNextOneIsCommitted_E5(t *testing.T) {
	for _, d := range dependents() {
		all := orders(d.a, d.b)
		t.Run(d.name, func(t *testing.T) {
			s := openAt(t, shared.Database(t))
			byOld := 0
			for _, order := range all {
				old, err := d.race(t, s, order)
				if err != nil {
					t.Fatalf("order %s: %v", order, err)
				}
				if old {
					byOld++
				}
			}
			if byOld == 0 || byOld == len(all) {
				t.Fatalf("went by the old view in %d of %d orders: the test shows nothing", byOld, len(all))
			}
			t.Logf("%d orders, by the old view in %d", len(all), byOld)
		})
		t.Run("found out without the lock: "+d.name, func(t *testing.T) {
			s := openAt(t, shared.Database(t))
			unlock(t, s, d.function)
			broken := 0
			for _, order := range all {
				if _, err := d.race(t, s, order); errors.Is(err, errTooLate) {
					broken++
				}
			}
			if broken == 0 {
				t.Fatal("no order shows that this is unsafe: the test is blind")
			}
		})
	}
}

// unlock takes the lock of the view out of a function.
func unlock(t *testing.T, s *Store, function string) {
	t.Helper()
	check(t, root(t, s.commits).write(t.Context(), func(ctx context.Context, q querier) error {
		var source string
		if err := q.QueryRow(ctx, `SELECT pg_get_functiondef($1::regproc)`, function).Scan(&source); err != nil {
			return err
		}
		without := strings.Replace(source, "PERFORM granary_view_lock_v1(false);", "", 1)
		if without == source {
			return errors.New("there is no lock to take out")
		}
		_, err := q.Exec(ctx, without)
		return err
	}))
}

// swapScript is a transaction that changes the view; at is when, zero when it did not.
func swapScript(t *testing.T, s *Store, next protocol.View, by protocol.NodeID, at *time.Time) *session {
	t.Helper()
	c, err := encodeView(next)
	check(t, err)
	var stamp time.Time
	return newSession(t, root(t, s.commits), statement("BEGIN"), func(ctx context.Context, q querier) (err error) {
		stamp, err = swapOn(ctx, q, next, c, by)
		return err
	}, func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, "COMMIT")
		if err == nil {
			*at = stamp
		}
		return err
	})
}

func playTwo(t *testing.T, s *Store, order string, o, n *session) {
	t.Helper()
	observer, err := root(t, s.bulk).conn(t.Context())
	check(t, err)
	defer observer.Release()
	play(t.Context(), t, observer, order, map[rune]*session{'o': o, 'n': n})
}

// twoNodes gives a view of a and b with leases that hold, whatever was before.
func twoNodes(t *testing.T, s *Store) protocol.View {
	t.Helper()
	check(t, root(t, s.commits).write(t.Context(), func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, "TRUNCATE node_lease, cluster_view")
		return err
	}))
	return startCluster(t, s, "a", "b")
}

// A lease begins when it is renewed: if that is after the change, the answer must tell of it.
func raceRenewal(t *testing.T, s *Store, order string) (old bool, err error) {
	v := twoNodes(t, s)
	next, err := v.Relocate("acme", "a")
	check(t, err)
	var committed time.Time
	var told *protocol.View
	renew := func(ctx context.Context, q querier) (err error) {
		told, _, err = renewOn(ctx, q, renewal("b"), s.ttl, &v)
		return err
	}
	playTwo(t, s, order, newSession(t, root(t, s.commits), renew), swapScript(t, s, next, nodeID("a"), &committed))
	rows, err := readLeases(t.Context(), s)
	check(t, err)
	begins := rows[nodeID("b")].Expires.Add(-s.ttl)
	switch {
	case told == nil || committed.IsZero():
		return false, errors.New("the renewal or the change failed")
	case told.Version == v.Version && !begins.Before(committed):
		return true, fmt.Errorf("%w: told of %d, lease begins %v after the commit of %d", errTooLate, told.Version, begins.Sub(committed), next.Version)
	}
	return told.Version == v.Version, nil
}

// A node whose lease has run out renews it while another gives it up: one of both fails.
func raceBurial(t *testing.T, s *Store, order string) (renewed bool, err error) {
	v := twoNodes(t, s)
	later(t, s, time.Minute)
	_, _, err = s.Renew(t.Context(), renewal("a"))
	check(t, err)
	next, err := v.MarkDead([]protocol.NodeID{nodeID("b")})
	check(t, err)
	var committed time.Time
	o := newSession(t, root(t, s.commits), statement("BEGIN"), func(ctx context.Context, q querier) error {
		_, _, err := renewOn(ctx, q, renewal("b"), s.ttl, &protocol.View{})
		return err
	}, func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, "COMMIT")
		renewed = err == nil
		return err
	})
	playTwo(t, s, order, o, swapScript(t, s, next, nodeID("a"), &committed))
	switch buried := !committed.IsZero(); {
	case renewed && buried:
		return renewed, fmt.Errorf("%w: a lease was renewed and its node given up", errTooLate)
	case !renewed && !buried:
		return renewed, errors.New("neither was done")
	}
	return renewed, nil
}

func raceAcquisition(t *testing.T, s *Store, order string, known bool) (acquired bool, err error) {
	v := twoNodes(t, s)
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: uuid.NewString()}
	if known {
		_, _, err := s.Acquire(t.Context(), id, longPlaced(v, "b"))
		check(t, err)
	}
	next, err := v.Relocate("acme", "a") // the claim names the view before
	check(t, err)
	var committed time.Time
	f := journal.Fence{Identity: id, Activation: uuid.NewString(), Node: nodeID("a").String()}
	o := newSession(t, root(t, s.commits), statement("BEGIN"), func(ctx context.Context, q querier) error {
		return acquireOn(ctx, q, &f, new(int64), longPlaced(v, "a"), s.ttl)
	}, func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, "COMMIT")
		acquired = err == nil
		return err
	})
	playTwo(t, s, order, o, swapScript(t, s, next, nodeID("a"), &committed))
	if committed.IsZero() {
		return acquired, errors.New("the change failed")
	}
	owner, err := s.Owner(t.Context(), id)
	switch {
	case !acquired && known && owner.Node != nodeID("b").String(), !acquired && !known && !errors.Is(err, journal.ErrNotFound):
		return acquired, fmt.Errorf("refused, but the owner row is %+v, %w", owner, err)
	case acquired && !owner.Since.Before(committed):
		return acquired, fmt.Errorf("%w: acquired %v after it", errTooLate, owner.Since.Sub(committed))
	}
	return acquired, nil
}

// While a renewal waits for a change that then fails, the view stays what it was.
func TestRenewalBesideAChangeThatIsRolledBackTellsOfTheOldView(t *testing.T) {
	s := openAt(t, shared.Database(t))
	v := twoNodes(t, s)
	next, err := v.Relocate("acme", "a")
	check(t, err)
	c, err := encodeView(next)
	check(t, err)
	conn, err := root(t, s.commits).conn(t.Context())
	check(t, err)
	defer conn.Release()
	tx, err := conn.Begin(t.Context())
	check(t, err)
	_, err = swapOn(t.Context(), tx, next, c, nodeID("a"))
	check(t, err)
	ended := make(chan error, 1)
	var told protocol.View
	go func() {
		var err error
		told, _, err = s.Renew(context.WithoutCancel(t.Context()), renewal("b"))
		ended <- err
	}()
	if waits, err := waitsFor(t, s, tx, ended); !waits {
		t.Fatalf("the renewal did not wait for the change: %v", err)
	}
	check(t, tx.Rollback(t.Context()), <-ended)
	if !told.Equal(v) {
		t.Fatalf("told of %+v, want %+v", told, v)
	}
}
