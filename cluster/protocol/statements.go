package protocol

import (
	"errors"
	"fmt"
	"time"
)

// The statements of the store, as functions from the rows they lock to the rows
// they leave. Each is one transaction: what it reads must not change before it
// has written. An error leaves every row as it was. Times are the store's.

// Why a statement changes nothing.
var (
	// ErrFinal: this boot is dead or has left; it must come back with a new one.
	ErrFinal = errors.New("this life of the node is over")
	// ErrConflict: the view has changed meanwhile.
	ErrConflict = errors.New("view was changed by somebody else")
	// ErrNoLease: who asks for the change holds no lease.
	ErrNoLease = errors.New("node holds no valid lease")
	// ErrLeaseHeld: the node that should be dead holds a lease.
	ErrLeaseHeld = errors.New("lease of the node has not expired")
	// ErrNotPlaced: the view places the grain on another node.
	ErrNotPlaced = errors.New("view places the grain elsewhere")
	// ErrHeld is wrapped by [HeldError].
	ErrHeld = errors.New("last owner may still answer reads")
	// ErrFenced: another activation owns the grain, or the head has moved.
	ErrFenced = errors.New("fenced: another activation owns this grain")
)

// HeldError says for how long an acquisition must wait unless the last owner
// releases, leaves or dies before.
type HeldError struct {
	By         NodeID
	RetryAfter time.Duration // at most one TTL
}

// Error names the holder and the time.
func (e *HeldError) Error() string {
	return fmt.Sprintf("%v: %v, for %v more", ErrHeld, e.By, e.RetryAfter)
}

// Unwrap gives [ErrHeld].
func (e *HeldError) Unwrap() error { return ErrHeld }

// LeaseRow is a row of node_lease.
type LeaseRow struct {
	Node    NodeID
	Addr    string
	Final   MemberState // "" while the boot may renew, else [Dead] or [Left]
	Expires time.Time
	Seen    int64 // version of the view the node acts on, as of its last renewal
	Pending int   // grains it still holds though that view places them elsewhere
}

// RenewRequest is what a node sends with a renewal.
type RenewRequest struct {
	Node    NodeID
	Addr    string
	Seen    int64
	Pending int
}

// Renew makes or extends a lease; row is nil if there is none yet. One that has
// expired may be renewed as long as nobody marked it: the node knows by itself
// that it lapsed.
func Renew(row *LeaseRow, r RenewRequest, now time.Time, ttl time.Duration) (LeaseRow, error) {
	if row != nil && row.Final != "" {
		return *row, ErrFinal
	}
	return LeaseRow{Node: r.Node, Addr: r.Addr, Expires: now.Add(ttl), Seen: r.Seen, Pending: r.Pending}, nil
}

// Survey is what the answer to a renewal says beside the view.
type Survey struct {
	Expired []NodeID      // active members whose lease has run out
	Settled bool          // all members act on this view and hold nothing it gives to somebody else
	Age     time.Duration // since the view was committed
	Next    time.Duration // until the next lease runs out, unless it is renewed; 0 if there is none
}

// Look surveys the leases of a view's members.
func Look(v View, lease func(NodeID) (LeaseRow, bool), now time.Time) Survey {
	s := Survey{Settled: true, Age: now.Sub(v.CommittedAt)}
	for i := range v.Members {
		m := &v.Members[i]
		if !m.State.Active() {
			continue
		}
		row, ok := lease(m.NodeID)
		switch {
		case !ok || !row.Expires.After(now):
			s.Expired = append(s.Expired, m.NodeID)
			s.Settled = false // it may come back, and has handed nothing over
			continue
		case row.Seen < v.Version || row.Pending > 0:
			s.Settled = false
		}
		if left := row.Expires.Sub(now); s.Next == 0 || left < s.Next {
			s.Next = left
		}
	}
	return s
}

// Swap commits next in place of cur, for a node that holds a lease. Members that
// next calls dead must have let theirs expire; their rows and those of members
// that left are given back with Final set.
func Swap(cur, next View, by NodeID, lease func(NodeID) (LeaseRow, bool), now time.Time) (View, []LeaseRow, error) {
	if next.Version != cur.Version+1 {
		return cur, nil, ErrConflict
	}
	if row, ok := lease(by); !ok || row.Final != "" || !row.Expires.After(now) {
		return cur, nil, ErrNoLease
	}
	var final []LeaseRow
	for i := range next.Members {
		m := &next.Members[i]
		if m.State.Active() || cur.Gone(m.NodeID) {
			continue
		}
		row, ok := lease(m.NodeID)
		if m.State == Dead && ok && row.Expires.After(now) {
			return cur, nil, ErrLeaseHeld
		}
		row.Node, row.Final = m.NodeID, m.State
		final = append(final, row)
	}
	next.CommittedAt = now
	return next, final, nil
}

// Fence is the proof of ownership that every write carries.
type Fence struct {
	Epoch      int64
	Activation string // unique per acquisition, so that a repeated epoch could not pass either
}

// OwnerRow is a row of owner.
type OwnerRow struct {
	Fence
	Node     NodeID
	View     int64 // version under which it was acquired
	Head     int64 // sequence number of the last event
	Released bool
}

// AcquireRequest is what a node sends to take a grain over.
type AcquireRequest struct {
	Node       NodeID
	Activation string // new for each request
	Tenure     Tenure // since when the node has seen the grain placed on itself
}

// Acquire takes a grain over; row is the zero row for a grain never seen, last
// the lease of the node it names (zero if there is none). v is the view, locked
// FOR SHARE so that it cannot change before the row is written, and placed is
// whom v gives the grain to.
//
// The last owner may hold a lease that was renewed under a view that named it,
// and answer reads. It is free to be taken if it was released, if that life of
// its node is over, if the node says that it acts on one of the views since which
// the grain is placed here and has nothing left to hand over, or one TTL after
// the first of these views was committed, when every lease from before is over.
func Acquire(v View, placed NodeID, row OwnerRow, last LeaseRow, r AcquireRequest, now time.Time, ttl time.Duration) (OwnerRow, error) {
	if placed != r.Node || v.Gone(r.Node) {
		return row, ErrNotPlaced
	}
	since := r.Tenure
	if since.Through != v.Version || since.Version == 0 || since.Version > v.Version {
		since = Tenure{Version: v.Version, CommittedAt: v.CommittedAt}
	}
	free := row.Epoch == 0 || row.Released || row.Node == r.Node || v.Gone(row.Node) ||
		last.Node == row.Node && last.Seen >= since.Version && last.Pending == 0
	if wait := since.CommittedAt.Add(ttl).Sub(now); !free && wait > 0 {
		return row, &HeldError{By: row.Node, RetryAfter: wait}
	}
	return OwnerRow{Fence: Fence{Epoch: row.Epoch + 1, Activation: r.Activation}, Node: r.Node, View: v.Version, Head: row.Head}, nil
}

// Append moves the head by n events, which the same statement inserts together
// with their idempotency records and wake-ups.
func Append(row OwnerRow, f Fence, head int64, n int) (OwnerRow, error) {
	if err := Verify(row, f); err != nil {
		return row, err
	}
	if row.Head != head {
		return row, ErrFenced
	}
	row.Head += int64(n)
	return row, nil
}

// Verify tells whether a fence is the current one. Beside reads without a lease,
// it must guard every look-up of an idempotency record, in the same snapshot: a
// fenced owner that finds its successor's record would acknowledge a write which
// the successor, whose commit is still being answered, does not show to readers.
func Verify(row OwnerRow, f Fence) error {
	if row.Fence != f || row.Released {
		return ErrFenced
	}
	return nil
}

// Release gives a grain up; with a stale fence nothing changes.
func Release(row OwnerRow, f Fence) OwnerRow {
	if row.Fence == f {
		row.Released = true
	}
	return row
}
