//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cluster/protocol"
)

func nodeID(name string) protocol.NodeID { return protocol.NodeID{Name: name, Boot: "1"} }

func renewal(name string) protocol.RenewRequest {
	return protocol.RenewRequest{Node: nodeID(name), Addr: name + ":7947"}
}

// startCluster gives each node a lease and makes all of them members.
func startCluster(t testing.TB, s *Store, names ...string) protocol.View {
	t.Helper()
	var v protocol.View
	for _, name := range names {
		var err error
		v, _, err = s.Renew(t.Context(), renewal(name))
		check(t, err)
		next, err := v.Join(protocol.Member{NodeID: nodeID(name), Addr: name + ":7947", Zone: "żółć"}, "rules")
		check(t, err)
		v, err = s.Swap(t.Context(), next, nodeID(name))
		check(t, err)
	}
	return v
}

// longPlaced claims a grain that has been placed on the node for an hour.
func longPlaced(v protocol.View, name string) journal.Claim {
	return journal.Claim{Node: nodeID(name).String(), View: v.Version, Since: 1, SinceTime: v.CommittedAt.Add(-time.Hour)}
}

// later is as if d had passed for all leases and the view.
func later(t testing.TB, s *Store, d time.Duration) {
	t.Helper()
	check(t, s.leases.write(t.Context(), func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, `WITH l AS (UPDATE node_lease SET expires = expires - $1::interval)
			UPDATE cluster_view SET committed_at = committed_at - $1::interval`, d)
		return err
	}))
}

func TestE5_LeaseOfADeadNodeIsOverForGood(t *testing.T) {
	s := openAt(t, shared.Database(t))
	v := startCluster(t, s, "a", "b")
	dead, err := v.MarkDead([]protocol.NodeID{nodeID("b")})
	check(t, err)
	if _, err := s.Swap(t.Context(), dead, nodeID("a")); !errors.Is(err, protocol.ErrLeaseHeld) {
		t.Fatalf("given up with a lease: %v", err)
	}
	later(t, s, time.Minute)
	if _, err := s.Swap(t.Context(), dead, nodeID("a")); !errors.Is(err, protocol.ErrNoLease) {
		t.Fatalf("changed the view without a lease: %v", err)
	}
	_, survey, err := s.Renew(t.Context(), renewal("a"))
	if check(t, err); len(survey.Expired) != 1 || survey.Expired[0] != nodeID("b") || survey.Settled {
		t.Fatalf("survey is %+v", survey)
	}
	v, err = s.Swap(t.Context(), dead, nodeID("a"))
	check(t, err)
	if _, _, err := s.Renew(t.Context(), renewal("b")); !errors.Is(err, protocol.ErrFinal) {
		t.Fatalf("the dead renew: %v", err)
	}
	if _, err := s.Swap(t.Context(), dead, nodeID("a")); !errors.Is(err, protocol.ErrConflict) {
		t.Fatalf("swapped twice: %v", err)
	}
	read, err := s.View(t.Context())
	if check(t, err); !read.Equal(v) {
		t.Fatalf("view is %+v, want %+v", read, v)
	}
}

func TestViewIsThereForWhoComesFirstAndForEveryStore(t *testing.T) {
	url := shared.Database(t)
	s := openAt(t, url)
	if v, err := s.View(t.Context()); err != nil || !v.Equal(protocol.View{}) {
		t.Fatalf("view before there is one: %+v, %v", v, err)
	}
	v, survey, err := s.Renew(t.Context(), renewal("a"))
	if check(t, err); !v.Equal(protocol.View{}) || !survey.Settled || len(survey.Expired) != 0 || survey.Next != 0 {
		t.Fatalf("first renewal: %+v, %+v", v, survey)
	}
	v = startCluster(t, s, "a", "b", "c")
	v, err = v.Relocate("acme", "a")
	check(t, err)
	v, err = s.Swap(t.Context(), v, nodeID("a"))
	check(t, err)
	other := openAt(t, url)
	for range 2 { // read whole, and known already
		got, survey, err := other.Renew(t.Context(), protocol.RenewRequest{Node: nodeID("c"), Addr: "c:7947", Seen: v.Version, Pending: 3})
		if check(t, err); !got.Equal(v) || survey.Settled || survey.Next <= 0 || survey.Next > s.ttl {
			t.Fatalf("got %+v, %+v; want %+v", got, survey, v)
		}
	}
}

// A field that the protocol adds and the stored form lacks would be lost with
// the next change of the view.
func TestEveryFieldOfAViewIsStored(t *testing.T) {
	v := protocol.View{Members: make([]protocol.Member, 1), Overrides: make([]protocol.Override, 1)}
	fill(reflect.ValueOf(&v).Elem())
	c, err := encodeView(v)
	check(t, err)
	got, err := decodeView(v.Version, c.body, &v.Fingerprint, &v.CommittedAt)
	if check(t, err); !reflect.DeepEqual(*got, v) {
		t.Fatalf("got %+v, want %+v", *got, v)
	}
}

// fill gives every field a value that is not zero.
func fill(v reflect.Value) {
	switch _, isTime := v.Interface().(time.Time); {
	case isTime:
		v.Set(reflect.ValueOf(time.Unix(1, 0).UTC()))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case v.Kind() == reflect.String:
		v.SetString("x")
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	default:
		v.SetInt(7)
	}
}

func TestSecretIsTheSameForAllWhoAskAtOnce(t *testing.T) {
	url := shared.Database(t)
	stores := []*Store{openAt(t, url), openAt(t, url), openAt(t, url)}
	got := make([]string, 12)
	errs := make([]error, len(got))
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			value, err := stores[i%len(stores)].Secret(t.Context(), "dev-key", func() ([]byte, error) { return fmt.Append(nil, "key of ", i), nil })
			got[i], errs[i] = string(value), err
		})
	}
	wg.Wait()
	check(t, errors.Join(errs...))
	for _, value := range got {
		if value == "" || value != got[0] {
			t.Fatalf("secrets are %q", got)
		}
	}
	failing := errors.New("no randomness")
	if _, err := stores[0].Secret(t.Context(), "other", func() ([]byte, error) { return nil, failing }); !errors.Is(err, failing) {
		t.Fatal(err)
	}
	_, err := stores[0].Secret(t.Context(), "dev-key", func() ([]byte, error) { return nil, failing })
	check(t, err) // nobody is asked for one that is there
}

// The commits and bulk data of a node may wait for each other; its lease must
// not wait for them.
func TestE5_RenewalDoesNotWaitBehindCommitsAndBulkData(t *testing.T) {
	s := openAt(t, shared.Database(t))
	startCluster(t, s, "a", "b")
	for _, p := range []*pool{s.commits.pool, s.bulk.pool} {
		for range p.stats().Max {
			c, err := p.conn(t.Context())
			check(t, err)
			defer c.Release()
		}
	}
	v, _, err := s.Renew(t.Context(), renewal("a"))
	check(t, err)
	next, err := v.Relocate("acme", "a")
	check(t, err)
	_, err = s.Swap(t.Context(), next, nodeID("a"))
	check(t, err)
	_, err = s.View(t.Context())
	check(t, err)
	if st := s.Stats().Leases; st.Waited > 1 || st.Max < 2 { // the first opens a connection
		t.Fatalf("stats are %+v", st)
	}
}

// A session that holds what renewals need is given up on within their time.
func TestE5_RenewalEndsWithinItsTime(t *testing.T) {
	s := openAt(t, shared.Database(t))
	startCluster(t, s, "a")
	c, err := root(t, s.bulk).conn(t.Context())
	check(t, err)
	defer c.Release()
	_, err = c.Exec(t.Context(), "BEGIN")
	check(t, err)
	_, err = c.Exec(t.Context(), "SELECT granary_view_lock_v1(true)")
	check(t, err)
	start := time.Now()
	_, _, err = s.Renew(t.Context(), renewal("a"))
	if took := time.Since(start); !errors.Is(err, journal.ErrUnavailable) || took > leaseCall {
		t.Fatalf("after %v: %v", took, err)
	}
	_, err = c.Exec(t.Context(), "ROLLBACK")
	check(t, err)
	_, _, err = s.Renew(t.Context(), renewal("a"))
	check(t, err)
}

// renewWhile renews and takes the lock that a change of the view takes, for a
// time: nothing that waits for an owner row may hold these up.
func renewWhile(ctx context.Context, s *Store, d time.Duration) error {
	for start := time.Now(); time.Since(start) < d; {
		_, _, err := s.Renew(ctx, renewal("old"))
		if err != nil {
			return fmt.Errorf("renewal beside a takeover that waits: %w", err)
		}
		if err := s.leases.write(ctx, statement("SELECT granary_view_lock_v1(true)")); err != nil {
			return fmt.Errorf("change of the view beside a takeover that waits: %w", err)
		}
	}
	return nil
}

func TestE5_AcquisitionThatWaitsForAnOwnerRowHoldsUpNoRenewal(t *testing.T) {
	s := openAt(t, shared.Database(t))
	v := startCluster(t, s, "old", "new")
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}
	f, _, err := s.Acquire(t.Context(), id, longPlaced(v, "old"))
	check(t, err)
	for name, hold := range map[string]func(context.Context, querier) error{
		"locked": func(ctx context.Context, q querier) error {
			return q.QueryRow(ctx, holderRow, fenceArgs(f)...).Scan(new(int64), new(int64), new(int64))
		},
		"written": func(ctx context.Context, q querier) error { return s.appendBatch(ctx, q, f, journal.Batch{}) },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := root(t, s.bulk).conn(t.Context())
			check(t, err)
			defer c.Release()
			tx, err := c.Begin(t.Context())
			check(t, err, statement("SET LOCAL idle_in_transaction_session_timeout = 0")(t.Context(), tx), hold(t.Context(), tx))
			ended := make(chan error, 1)
			var next journal.Fence
			go func() {
				var err error
				next, _, err = s.Acquire(context.WithoutCancel(t.Context()), id, longPlaced(v, "new"))
				ended <- err
			}()
			if waits, err := waitsFor(t, s, tx, ended); !waits {
				t.Fatalf("the acquisition did not wait: %v", err)
			}
			check(t, renewWhile(t.Context(), s, leaseLock), tx.Rollback(t.Context()), <-ended)
			f = next
		})
	}
}

func TestLeasesOfNodesLongGoneAreCollected(t *testing.T) {
	s := openAt(t, shared.Database(t))
	startCluster(t, s, "member")
	_, _, err := s.Renew(t.Context(), renewal("stranger"))
	check(t, err)
	collectAt(t, s, time.Now().Add(24*time.Hour))
	if n := count(t, s, `SELECT count(*) FROM node_lease`); n != 2 {
		t.Fatalf("%d leases after a day", n)
	}
	collectAt(t, s, time.Now().Add(8*24*time.Hour))
	if n := count(t, s, `SELECT count(*) FROM node_lease WHERE node = 'member#1'`); n != 1 || count(t, s, `SELECT count(*) FROM node_lease`) != 1 {
		t.Fatal("not just the stranger's lease went")
	}
}

func TestMalformedNodesAndViewsAreRefusedBeforeTheyAreSent(t *testing.T) {
	s := openAt(t, shared.Database(t))
	v := startCluster(t, s, "a")
	for name, r := range map[string]protocol.RenewRequest{
		"no boot": {Node: protocol.NodeID{Name: "a"}}, "a name with #": {Node: protocol.NodeID{Name: "a#b", Boot: "1"}},
		"an address with NUL": {Node: nodeID("a"), Addr: "\x00"},
	} {
		if _, _, err := s.Renew(t.Context(), r); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	next, err := v.Relocate("ac\x00me", "a")
	check(t, err)
	if _, err := s.Swap(t.Context(), next, nodeID("a")); !errors.Is(err, ErrInvalid) {
		t.Errorf("a tenant with NUL: %v", err)
	}
}

// readLeases reads all rows of the leases.
func readLeases(ctx context.Context, s *Store) (map[protocol.NodeID]protocol.LeaseRow, error) {
	list, err := collect(ctx, s.leases, `SELECT node, addr, final, expires, seen, pending FROM node_lease`, nil,
		func(r pgx.CollectableRow) (row protocol.LeaseRow, err error) {
			var node, final string
			if err := r.Scan(&node, &row.Addr, &final, &row.Expires, &row.Seen, &row.Pending); err != nil {
				return row, err
			}
			row.Final = protocol.MemberState(final)
			row.Node, err = protocol.ParseNodeID(node)
			return row, err
		})
	out := make(map[protocol.NodeID]protocol.LeaseRow, len(list))
	for _, row := range list {
		out[row.Node] = row
	}
	return out, err
}
