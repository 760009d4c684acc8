package protocol

import (
	"errors"
	"fmt"
	"time"
)

// ErrTiming is wrapped by the errors of [Timing.Validate].
var ErrTiming = errors.New("cluster timing is not valid")

// Timing holds the durations all nodes of a cluster share.
type Timing struct {
	TTL          time.Duration // a lease lasts this long by the store's clock: 3 s
	RenewEvery   time.Duration // between two renewals: 0.5 s
	CallTimeout  time.Duration // a renewal or change of the view without answer counts as failed: 1 s
	PauseLimit   time.Duration // longer between two steps, and the process counts as stopped meanwhile: 1 s
	DrainTimeout time.Duration // hand-overs under way have this long after the last round: 10 s
}

// DefaultTiming gives the values named above.
func DefaultTiming() Timing {
	return Timing{TTL: 3 * time.Second, RenewEvery: 500 * time.Millisecond, CallTimeout: time.Second,
		PauseLimit: time.Second, DrainTimeout: 10 * time.Second}
}

// Validate wants room for at least three renewals in a lease.
func (t Timing) Validate() error {
	switch {
	case t.RenewEvery <= 0 || t.CallTimeout <= 0 || t.PauseLimit <= 0 || t.DrainTimeout <= 0:
		return fmt.Errorf("%w: all durations must be above zero", ErrTiming)
	case t.TTL < 3*t.RenewEvery:
		return fmt.Errorf("%w: a lease of %v leaves no room for three renewals %v apart", ErrTiming, t.TTL, t.RenewEvery)
	}
	return nil
}

// Usable is how long after the sending of a renewal its lease may be relied on:
// nine tenths of TTL. The rest covers clocks that run at different speeds.
func (t Timing) Usable() time.Duration { return t.TTL - t.TTL/10 }

// Lease is what a node knows of its own lease. Times are by the node's clock,
// which must go on while the machine is suspended (CLOCK_BOOTTIME): the store's
// does.
//
// A term is a stretch in which the lease never lapsed. Within one, nobody else
// can have acquired what the node owned at its start; after a lapse somebody may
// have, and even given it back, so that each grain must be proven again.
type Lease struct {
	Held   bool
	Sent   time.Duration // when the last good renewal was sent, not when it was answered
	Term   uint64        // rises with each lapse
	Steady time.Duration // since when every renewal succeeded; meaningless unless Held
}

// Valid tells whether the lease may be relied on at now.
func (l Lease) Valid(now time.Duration, t Timing) bool {
	return l.Held && now >= l.Sent && now-l.Sent < t.Usable()
}

// lapse ends the term.
func (l *Lease) lapse() {
	if l.Held {
		l.Held = false
		l.Term++
	}
}

// renew extends the lease by a renewal sent at a time and answered now. It
// reports false if the answer took so long that nothing is left.
func (l *Lease) renew(sent, now time.Duration, t Timing) bool {
	if !l.Valid(now, t) {
		l.lapse()
	}
	if now < sent || now-sent >= t.Usable() {
		return false
	}
	if !l.Held {
		l.Held, l.Steady = true, sent
	}
	l.Sent = sent
	return true
}

// ReadPath is how a read may be answered.
type ReadPath uint8

// Ways of [MayRead].
const (
	ReadVerified ReadPath = iota // only after [Verify] in the store, begun after the read came
	ReadLeased                   // from memory
)

// Proof is what an activation knows of its own ownership.
type Proof struct {
	Term  uint64 // of the lease, when it acquired or was last verified
	Valid bool   // the lease was valid when that was sent and still when it was answered
}

// Prove gives the proof of a statement (acquire, append or verify) that was sent
// under one lease and answered under another.
func Prove(sent Lease, sentAt time.Duration, answered Lease, now time.Duration, t Timing) Proof {
	ok := sent.Valid(sentAt, t) && answered.Valid(now, t) && sent.Term == answered.Term
	return Proof{Term: answered.Term, Valid: ok}
}

// MayRead decides how a grain that holds its fence may answer a read at now.
// placedHere says whether the node's own view gives it the grain.
//
// Why a leased read is current: a renewal that was handled at p carried the view
// of p. Whoever else acquires needs a view that was committed after p and one
// TTL more, or this node's lease to expire at p+TTL; reading ends before.
func MayRead(l Lease, now time.Duration, t Timing, placedHere bool, p Proof) ReadPath {
	if placedHere && p.Valid && p.Term == l.Term && l.Valid(now, t) {
		return ReadLeased
	}
	return ReadVerified
}
