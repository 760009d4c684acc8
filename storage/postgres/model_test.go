//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cluster/protocol"
)

// The statements of this package against the functions of cluster/protocol that
// they are meant to be: random histories of several nodes, the same results.
//
// Time passes by moving the rows of both back. A lease lasts an hour and steps
// are minutes, so that the seconds a history really takes decide nothing.

const (
	modelTTL   = time.Hour
	modelSlack = 10 * time.Second // how far two clocks that are read one after the other may differ
)

// model is the rows as the pure functions leave them.
type model struct {
	view    protocol.View
	commits map[int64]time.Time // of each version
	leases  map[protocol.NodeID]protocol.LeaseRow
	owners  map[string]protocol.OwnerRow
}

func (m *model) lease(id protocol.NodeID) (protocol.LeaseRow, bool) {
	row, ok := m.leases[id]
	return row, ok
}

func (m *model) later(d time.Duration) {
	for id, row := range m.leases {
		row.Expires = row.Expires.Add(-d)
		m.leases[id] = row
	}
	for v, at := range m.commits {
		m.commits[v] = at.Add(-d)
	}
	if m.view.Version > 0 {
		m.view.CommittedAt = m.view.CommittedAt.Add(-d)
	}
}

// history plays one random history on both.
type history struct {
	t   *testing.T
	s   *Store
	rng *rand.Rand
	m   model
	ids []protocol.NodeID // boots there are, and may come
	// fences that were ever given, by grain; the last one is not always current.
	fences map[string][]journal.Fence
	last   string         // the step at work, for failures
	seen   map[string]int // how often each outcome came
}

func TestStatementsDoWhatTheProtocolSays_A4_E5(t *testing.T) {
	s, err := Open(t.Context(), Config{URL: Secret(shared.Database(t)), Logger: testLogger(t), LeaseTTL: modelTTL})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	histories, steps := 30, 250
	if testing.Short() {
		histories = 6
	}
	seen := map[string]int{}
	base := rand.Uint64()
	for n := range histories {
		seed := base + uint64(n)
		check(t, root(t, s.commits).write(t.Context(), func(ctx context.Context, q querier) error {
			_, err := q.Exec(ctx, "TRUNCATE owner, events, node_lease, cluster_view")
			return err
		}))
		h := &history{t: t, s: s, rng: rand.New(rand.NewPCG(seed, 1)), fences: map[string][]journal.Fence{}, seen: seen,
			m: model{commits: map[int64]time.Time{}, leases: map[protocol.NodeID]protocol.LeaseRow{}, owners: map[string]protocol.OwnerRow{}}}
		for i := range 4 {
			for boot := range 3 {
				h.ids = append(h.ids, protocol.NodeID{Name: fmt.Sprint("n", i), Boot: fmt.Sprint("b", boot)})
			}
		}
		for step := range steps {
			h.step()
			if t.Failed() {
				t.Fatalf("seed %d, step %d: %s", seed, step, h.last)
			}
		}
	}
	t.Logf("outcomes of %d histories of %d steps: %v", histories, steps, seen)
	for _, outcome := range []string{
		"renew ok", "renew final", "swap ok", "swap conflict", "swap no lease", "swap lease held",
		"acquire ok", "acquire held", "acquire not placed", "append ok", "append fenced", "verify ok", "verify fenced",
		"survey settled", "survey unsettled", "survey expired", "release ok", "find ok", "find fenced",
	} {
		if seen[outcome] == 0 {
			t.Errorf("no history came to %q: the test shows less than it says", outcome)
		}
	}
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// node is mostly an active member.
func (h *history) node() protocol.NodeID {
	var active []protocol.NodeID
	for _, m := range h.m.view.Members {
		if m.State.Active() {
			active = append(active, m.NodeID)
		}
	}
	if len(active) == 0 || h.rng.IntN(5) == 0 {
		return pick(h.rng, h.ids)
	}
	return pick(h.rng, active)
}

func (h *history) step() {
	switch n := h.rng.IntN(100); {
	case n < 30:
		h.renew()
	case n < 50:
		h.swap()
	case n < 72:
		h.acquire()
	case n < 90:
		h.use()
	case n < 93:
		h.look()
	default:
		d := time.Duration(1+h.rng.IntN(25)) * time.Minute
		h.last = fmt.Sprint("later by ", d)
		later(h.t, h.s, d)
		h.m.later(d)
	}
}

// same compares errors by their kinds, and counts the outcome.
func (h *history) same(what string, got, want error) bool {
	h.t.Helper()
	kinds := map[string][2]error{ // of this package, of the protocol
		"final": {protocol.ErrFinal, protocol.ErrFinal}, "conflict": {protocol.ErrConflict, protocol.ErrConflict},
		"no lease": {protocol.ErrNoLease, protocol.ErrNoLease}, "lease held": {protocol.ErrLeaseHeld, protocol.ErrLeaseHeld},
		"not placed": {journal.ErrNotPlaced, protocol.ErrNotPlaced}, "held": {journal.ErrHeld, protocol.ErrHeld},
		"fenced": {journal.ErrFenced, protocol.ErrFenced},
	}
	kind := "ok"
	for name, k := range kinds {
		if errors.Is(want, k[1]) {
			kind = name
		}
	}
	h.seen[what+" "+kind]++
	if (want == nil) != (got == nil) || want != nil && !errors.Is(got, kinds[kind][0]) {
		h.t.Errorf("%s: got %v, want %v", what, got, want)
	}
	return got == nil && want == nil
}

func near(a, b time.Time) bool { return a.Sub(b).Abs() < modelSlack }

func (h *history) renew() {
	r := protocol.RenewRequest{Node: h.node(), Addr: "host:1", Seen: max(0, h.m.view.Version-int64(h.rng.IntN(3))), Pending: h.rng.IntN(2)}
	h.last = fmt.Sprintf("renew %+v", r)
	now := time.Now()
	var old *protocol.LeaseRow
	if row, ok := h.m.leases[r.Node]; ok {
		old = &row
	}
	row, err := protocol.Renew(old, r, now, modelTTL)
	v, survey, got := h.s.Renew(h.t.Context(), r)
	if !h.same("renew", got, err) {
		return
	}
	h.m.leases[r.Node] = row
	want := protocol.Look(h.m.view, h.m.lease, now)
	h.sameView(v)
	for outcome, is := range map[string]bool{"settled": want.Settled, "unsettled": !want.Settled, "expired": len(want.Expired) > 0} {
		if is && v.Version > 0 {
			h.seen["survey "+outcome]++
		}
	}
	if !slices.Equal(survey.Expired, want.Expired) || survey.Settled != want.Settled ||
		(survey.Age-want.Age).Abs() > modelSlack || (survey.Next-want.Next).Abs() > modelSlack || (survey.Next == 0) != (want.Next == 0) {
		h.t.Errorf("survey is %+v, want %+v", survey, want)
	}
}

// sameView compares; commit times are the database's, and taken over when they are near.
func (h *history) sameView(v protocol.View) {
	h.t.Helper()
	if !near(v.CommittedAt, h.m.view.CommittedAt) {
		h.t.Errorf("view %d was committed at %v, want %v", v.Version, v.CommittedAt, h.m.view.CommittedAt)
	}
	v.CommittedAt = h.m.view.CommittedAt
	if !v.Equal(h.m.view) {
		h.t.Errorf("view is %+v, want %+v", v, h.m.view)
	}
}

// change gives a view that could follow, from the current one or a stale one.
func (h *history) change() (protocol.View, error) {
	v, id := h.m.view, h.node()
	if h.rng.IntN(10) == 0 && v.Version > 0 {
		v.Version--
	}
	switch h.rng.IntN(7) {
	case 0, 1:
		id = pick(h.rng, h.ids)
		return v.Join(protocol.Member{NodeID: id, Addr: id.Name + ":1", Zone: "z"}, "rules")
	case 2:
		return v.Drain(id)
	case 3:
		return v.Leave(id)
	case 4:
		return v.MarkDead([]protocol.NodeID{id, h.node()})
	case 5:
		return v.Place(protocol.Override{Tenant: fmt.Sprint("tenant-", h.rng.IntN(3)), Node: pick(h.rng, []string{"", id.Name}), Auto: h.rng.IntN(2) == 0})
	}
	return v.Advance()
}

func (h *history) swap() {
	next, err := h.change()
	if err != nil {
		return // no such change now
	}
	by := h.node()
	h.last = fmt.Sprintf("swap to %+v by %v", next, by)
	v, final, err := protocol.Swap(h.m.view, next, by, h.m.lease, time.Now())
	got, gotErr := h.s.Swap(h.t.Context(), next, by)
	if !h.same("swap", gotErr, err) {
		return
	}
	for _, row := range final {
		h.m.leases[row.Node] = row
	}
	h.m.view = v
	h.sameView(got)
	h.m.view.CommittedAt = got.CommittedAt
	h.m.commits[v.Version] = got.CommittedAt
}

func (h *history) grain() (string, journal.Identity) {
	k := fmt.Sprint("k", h.rng.IntN(4))
	return k, journal.Identity{Kind: "kb", Tenant: "acme", ID: k}
}

// claim is mostly about the current view, and about a time since when the node
// may have been placed.
func (h *history) claim(id protocol.NodeID) journal.Claim {
	c := journal.Claim{Node: id.String(), View: h.m.view.Version}
	if h.rng.IntN(10) == 0 {
		c.View = 1 + h.rng.Int64N(h.m.view.Version+2)
	}
	if c.View > 0 && h.rng.IntN(4) > 0 {
		c.Since = 1 + h.rng.Int64N(c.View+1) // the view after it at most
		c.SinceTime = h.m.commits[c.Since]
		if c.Since > h.m.view.Version { // a view that is not there yet
			c.SinceTime = time.Now().Add(-2 * modelTTL)
		}
	}
	if c.SinceTime.IsZero() {
		c.Since = 0
	}
	return c
}

func (h *history) acquire() {
	if h.m.view.Version == 0 {
		return
	}
	k, id := h.grain()
	node := h.node()
	c := h.claim(node)
	h.last = fmt.Sprintf("acquire %s by %+v", k, c)
	placed := node
	if c.View != h.m.view.Version {
		placed = protocol.NodeID{} // the node's placement is of another view
	}
	row := h.m.owners[k]
	next, err := protocol.Acquire(h.m.view, placed, row, h.m.leases[row.Node], protocol.AcquireRequest{
		Node: node, Tenure: protocol.Tenure{Version: c.Since, CommittedAt: c.SinceTime, Through: c.View},
	}, time.Now(), modelTTL)
	f, head, got := h.s.Acquire(h.t.Context(), id, c)
	if h.same("acquire", got, err) {
		next.Activation = f.Activation
		if f.Epoch != next.Epoch || head != next.Head || f.Node != node.String() || f.Identity != id {
			h.t.Errorf("acquired %+v at %d, want %+v", f, head, next)
		}
		h.m.owners[k] = next
		h.fences[k] = append(h.fences[k], f)
		return
	}
	if row.Epoch > 0 {
		h.sameOwner(k, id)
	} else if o, err := h.s.Owner(h.t.Context(), id); !errors.Is(err, journal.ErrNotFound) {
		h.t.Errorf("a refused acquisition left %+v, %v", o, err)
	}
	if want, ok := errors.AsType[*protocol.HeldError](err); ok {
		held, ok := errors.AsType[*journal.HeldError](got)
		if !ok || held.By != want.By.String() || (held.RetryAfter-want.RetryAfter).Abs() > modelSlack || held.RetryAfter <= 0 {
			h.t.Errorf("held %+v, want %+v", held, want)
		}
	}
}

// use appends, verifies, looks a key up or releases under any fence there ever was.
func (h *history) use() {
	k, id := h.grain()
	if len(h.fences[k]) == 0 {
		return
	}
	all := h.fences[k]
	f := all[max(0, len(all)-1-h.rng.IntN(2))]
	row, pf := h.m.owners[k], protocol.Fence{Epoch: f.Epoch, Activation: f.Activation}
	ctx := h.t.Context()
	h.last = fmt.Sprintf("use %s under epoch %d", k, f.Epoch)
	switch h.rng.IntN(5) {
	case 0, 1:
		n := h.rng.IntN(3)
		head := max(0, row.Head-int64(h.rng.IntN(8)/7))
		next, err := protocol.Append(row, pf, head, n)
		if h.same("append", h.s.Append(ctx, f, journal.Batch{Head: head, Events: testEvents(head, n, "e")}), err) {
			h.m.owners[k] = next
		}
	case 2:
		h.same("verify", h.s.Verify(ctx, f), protocol.Verify(row, pf))
	case 3:
		_, _, err := h.s.FindIdempotency(ctx, f, journal.IdempotencyKey{Principal: "p", Method: "m", Key: "k"})
		h.same("find", err, protocol.Verify(row, pf))
	default:
		if h.rng.IntN(2) == 0 {
			h.same("release", h.s.Release(ctx, f), nil)
			h.m.owners[k] = protocol.Release(row, pf)
		}
	}
	h.sameOwner(k, id)
}

func (h *history) sameOwner(k string, id journal.Identity) {
	h.t.Helper()
	o, err := h.s.Owner(h.t.Context(), id)
	if err != nil {
		h.t.Error(err)
		return
	}
	want := h.m.owners[k]
	if o.Epoch != want.Epoch || o.Activation != want.Activation || o.Node != want.Node.String() || o.Head != want.Head || o.Released != want.Released {
		h.t.Errorf("owner row is %+v, want %+v", o, want)
	}
	if v := int64(count(h.t, h.s, `SELECT view FROM owner WHERE id = $1`, k)); v != want.View {
		h.t.Errorf("acquired under view %d, want %d", v, want.View)
	}
}

// look compares all rows of the leases, and the view as it is read alone.
func (h *history) look() {
	h.last = "look"
	v, err := h.s.View(h.t.Context())
	if err != nil {
		h.t.Error(err)
		return
	}
	h.sameView(v)
	rows, err := readLeases(h.t.Context(), h.s)
	if err != nil || len(rows) != len(h.m.leases) {
		h.t.Errorf("%d leases, want %d (%v)", len(rows), len(h.m.leases), err)
		return
	}
	for _, id := range slices.Collect(maps.Keys(rows)) {
		got, want := rows[id], h.m.leases[id]
		expires := near(got.Expires, want.Expires) || want.Expires.IsZero() || want.Addr == "" // never had one: only that it is over counts
		got.Expires, want.Expires = time.Time{}, time.Time{}
		if got != want || !expires {
			h.t.Errorf("lease is %+v, want %+v", got, want)
		}
	}
}
