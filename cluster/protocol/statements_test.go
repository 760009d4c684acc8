package protocol_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"granary.dev/granary/cluster/protocol"
)

const ttl = 3 * time.Second

func leases(rows ...protocol.LeaseRow) func(protocol.NodeID) (protocol.LeaseRow, bool) {
	return func(id protocol.NodeID) (protocol.LeaseRow, bool) {
		for _, r := range rows {
			if r.Node == id {
				return r, true
			}
		}
		return protocol.LeaseRow{}, false
	}
}

func until(i int, d time.Duration) protocol.LeaseRow {
	return protocol.LeaseRow{Node: node(i), Expires: start.Add(d), Seen: 7}
}

// acquisition is a wish of node-1 to take a grain over under view 7.
type acquisition struct {
	row    protocol.OwnerRow
	last   protocol.LeaseRow
	tenure protocol.Tenure
	placed protocol.NodeID
	after  time.Duration // of the view's commit
	err    error
}

func acquisitions() map[string]acquisition {
	held := protocol.OwnerRow{Fence: protocol.Fence{Epoch: 5, Activation: "old"}, Node: node(2), View: 3, Head: 9}
	with := func(edit func(*protocol.OwnerRow)) protocol.OwnerRow { r := held; edit(&r); return r }
	busy := protocol.LeaseRow{Node: node(2), Seen: 7, Pending: 1}
	fresh := protocol.Tenure{Version: 7, CommittedAt: start, Through: 7}
	old := protocol.Tenure{Version: 5, CommittedAt: start.Add(-10 * time.Second), Through: 7}
	return map[string]acquisition{
		"never owned":                       {protocol.OwnerRow{}, protocol.LeaseRow{}, fresh, node(1), 0, nil},
		"released":                          {with(func(r *protocol.OwnerRow) { r.Released = true }), busy, fresh, node(1), 0, nil},
		"my own":                            {with(func(r *protocol.OwnerRow) { r.Node = node(1) }), busy, fresh, node(1), 0, nil},
		"of a dead node":                    {with(func(r *protocol.OwnerRow) { r.Node = node(3) }), protocol.LeaseRow{}, fresh, node(1), 0, nil},
		"of a boot nobody knows":            {with(func(r *protocol.OwnerRow) { r.Node.Boot = "x" }), protocol.LeaseRow{}, fresh, node(1), 0, nil},
		"held, just moved":                  {held, busy, fresh, node(1), ttl - 1, protocol.ErrHeld},
		"held, one TTL later":               {held, busy, fresh, node(1), ttl, nil},
		"held, moved long ago":              {held, busy, old, node(1), 0, nil},
		"last owner acts on it":             {held, protocol.LeaseRow{Node: node(2), Seen: 7}, fresh, node(1), 0, nil},
		"last owner acts on an older one":   {held, protocol.LeaseRow{Node: node(2), Seen: 6}, fresh, node(1), 0, protocol.ErrHeld},
		"somebody else's word":              {held, protocol.LeaseRow{Node: node(1), Seen: 7}, fresh, node(1), 0, protocol.ErrHeld},
		"tenure not up to the view":         {held, busy, protocol.Tenure{Version: 5, CommittedAt: old.CommittedAt, Through: 6}, node(1), 0, protocol.ErrHeld},
		"tenure from the future":            {held, busy, protocol.Tenure{Version: 8, CommittedAt: old.CommittedAt, Through: 7}, node(1), 0, protocol.ErrHeld},
		"no tenure":                         {held, protocol.LeaseRow{Node: node(2), Seen: 6}, protocol.Tenure{}, node(1), 0, protocol.ErrHeld},
		"placed elsewhere":                  {protocol.OwnerRow{}, protocol.LeaseRow{}, fresh, node(2), 0, protocol.ErrNotPlaced},
		"placed elsewhere, though long ago": {held, busy, old, node(2), time.Hour, protocol.ErrNotPlaced},
	}
}

func TestAcquireWaitsForTheLastOwnerToBeOver_I1_I2(t *testing.T) {
	v := viewOf(protocol.Live, protocol.Live, protocol.Dead)
	for name, c := range acquisitions() {
		t.Run(name, func(t *testing.T) {
			r := protocol.AcquireRequest{Node: node(1), Activation: "new", Tenure: c.tenure}
			got, err := protocol.Acquire(v, c.placed, c.row, c.last, r, start.Add(c.after), ttl)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err != nil {
				var h *protocol.HeldError
				if errors.As(err, &h) && (h.By != node(2) || h.RetryAfter <= 0 || h.RetryAfter > ttl) {
					t.Errorf("held by %v for %v", h.By, h.RetryAfter)
				}
				if got != c.row {
					t.Error("the row was changed")
				}
				return
			}
			want := protocol.OwnerRow{Fence: protocol.Fence{Epoch: c.row.Epoch + 1, Activation: "new"}, Node: node(1), View: 7, Head: c.row.Head}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestADeadNodeAcquiresNothing(t *testing.T) {
	v := viewOf(protocol.Dead)
	_, err := protocol.Acquire(v, node(1), protocol.OwnerRow{}, protocol.LeaseRow{}, protocol.AcquireRequest{Node: node(1)}, start, ttl)
	if !errors.Is(err, protocol.ErrNotPlaced) {
		t.Fatalf("error %v", err)
	}
}

func TestAppendNeedsFenceAndHead_I1_I3(t *testing.T) {
	f := protocol.Fence{Epoch: 2, Activation: "a"}
	row := protocol.OwnerRow{Fence: f, Node: node(1), Head: 4}
	got, err := protocol.Append(row, f, 4, 3)
	if err != nil || got.Head != 7 {
		t.Fatalf("%+v, %v", got, err)
	}
	released := protocol.Release(row, f)
	if !released.Released || protocol.Release(row, protocol.Fence{Epoch: 1, Activation: "a"}).Released {
		t.Fatal("only the current fence releases")
	}
	for name, c := range map[string]struct {
		row  protocol.OwnerRow
		f    protocol.Fence
		head int64
	}{
		"older epoch":        {row, protocol.Fence{Epoch: 1, Activation: "a"}, 4},
		"another activation": {row, protocol.Fence{Epoch: 2, Activation: "b"}, 4},
		"head moved":         {row, f, 3},
		"head ahead":         {row, f, 5},
		"released":           {released, f, 4},
		"never acquired":     {protocol.OwnerRow{}, f, 0},
	} {
		if got, err := protocol.Append(c.row, c.f, c.head, 1); !errors.Is(err, protocol.ErrFenced) || got != c.row {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestSwapIsACompareAndSwapByALeaseholder(t *testing.T) {
	cur := viewOf(protocol.Live, protocol.Live)
	next := change(t)(cur.MarkDead([]protocol.NodeID{node(2)}))
	mine := until(1, ttl)
	for name, c := range map[string]struct {
		cur  protocol.View
		rows []protocol.LeaseRow
		err  error
	}{
		"expired":            {cur, []protocol.LeaseRow{mine, until(2, 0)}, nil},
		"row lost":           {cur, []protocol.LeaseRow{mine}, nil},
		"lease still holds":  {cur, []protocol.LeaseRow{mine, until(2, 1)}, protocol.ErrLeaseHeld},
		"view changed":       {next, []protocol.LeaseRow{mine, until(2, 0)}, protocol.ErrConflict},
		"no lease of my own": {cur, []protocol.LeaseRow{until(1, 0), until(2, 0)}, protocol.ErrNoLease},
		"I am dead myself":   {cur, []protocol.LeaseRow{{Node: node(1), Final: protocol.Dead, Expires: start.Add(ttl)}}, protocol.ErrNoLease},
	} {
		t.Run(name, func(t *testing.T) {
			got, final, err := protocol.Swap(c.cur, next, node(1), leases(c.rows...), start)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err != nil {
				if !got.Equal(c.cur) || final != nil {
					t.Fatal("something was changed")
				}
				return
			}
			if got.Version != 8 || !got.CommittedAt.Equal(start) || len(final) != 1 || final[0].Node != node(2) || final[0].Final != protocol.Dead {
				t.Fatalf("view %+v, rows %+v", got, final)
			}
			if _, err := protocol.Renew(&final[0], protocol.RenewRequest{Node: node(2)}, start, ttl); !errors.Is(err, protocol.ErrFinal) {
				t.Fatalf("the dead renew: %v", err)
			}
		})
	}
}

func TestLookTellsWhoIsMissingAndWhoLagsBehind(t *testing.T) {
	v := viewOf(protocol.Live, protocol.Live, protocol.Dead)
	lag, hold := until(2, ttl), until(2, ttl)
	lag.Seen, hold.Pending = 6, 1
	for name, c := range map[string]struct {
		rows    []protocol.LeaseRow
		expired []protocol.NodeID
		settled bool
	}{
		"all there":      {[]protocol.LeaseRow{until(1, ttl), until(2, ttl)}, nil, true},
		"one expired":    {[]protocol.LeaseRow{until(1, ttl), until(2, time.Second)}, []protocol.NodeID{node(2)}, false},
		"one has no row": {[]protocol.LeaseRow{until(1, ttl)}, []protocol.NodeID{node(2)}, false},
		"one lags":       {[]protocol.LeaseRow{until(1, ttl), lag}, nil, false},
		"one holds on":   {[]protocol.LeaseRow{until(1, ttl), hold}, nil, false},
	} {
		s := protocol.Look(v, leases(c.rows...), start.Add(time.Second))
		if !slices.Equal(s.Expired, c.expired) || s.Settled != c.settled || s.Age != time.Second || s.Next != ttl-time.Second {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
