package cluster

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
)

// safeKey marks a context whose request may run twice.
type safeKey struct{}

// WithSafe says that a request sent under ctx may be carried out twice without
// harm: it reads only, or carries an idempotency key. Only then does Ask repeat
// a call that a grain took and did not answer.
func WithSafe(ctx context.Context) context.Context {
	return context.WithValue(ctx, safeKey{}, true)
}

// Ask sends msg to the grain of id, starts the grain if need be, and returns
// its answer. It waits until ctx is over, or for Config.AskTimeout when ctx has
// no deadline, and then returns the context's error; what the grain does with
// the call then is not known.
//
// A call that never reached a grain (its mailbox was full, or the grain stopped
// first) is tried again at most twice, with jitter and within a budget of a
// tenth of all calls; one that did reach it only under [WithSafe]. A call that
// found no owner, because its grain is on the way to another node or the owner
// is gone and not given up yet, is sent again until the deadline: to wait is no
// load, and whoever asks sees a delay instead of an error. So is a call whose
// grain answers with an error that has a method NotApplied() bool saying true.
//
// Errors of the cluster are [*Error] ([ErrBusy], [ErrUnavailable],
// [ErrDeadLetter], [ErrPanicked], [ErrStopped], [ErrUnknownKind]),
// [protocol.ErrInvalidIdentity], or the context's. An error that the grain
// replied with comes unchanged. Neither side may change msg or the reply
// afterwards: on one node they are shared. A grain that asks another grain does
// so from a goroutine or child of its own: in Receive it would stand still, and
// two grains that ask each other would wait until their deadlines.
func (n *Node) Ask(ctx context.Context, id Identity, msg proto.Message) (proto.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.budget.earn()
	var deadline time.Time
	var left time.Duration
	if _, has := ctx.Deadline(); !has {
		left = n.cfg.AskTimeout
		deadline = time.Now().Add(left)
	}
	hash := id.Hash()
	for try, moves := 1, 0; ; {
		s := n.standing.Load()
		got := n.attempt(ctx, s, &id, hash, msg, deadline, left)
		waits := got.again == elsewhere && n.shared != nil
		switch {
		case waits:
			moves++
		case n.mayRepeat(ctx, got.again, try):
			try++
		default:
			return got.reply, got.err
		}
		if waits && !n.awaitOwner(ctx, s, moves, deadline) || !waits && !n.pause(ctx, backoff(try-1), deadline) {
			return got.reply, got.err
		}
		if !deadline.IsZero() {
			left = time.Until(deadline)
		}
	}
}

// retry tells whether a failed attempt may be repeated.
type retry uint8

const (
	never     retry = iota
	ifSafe          // a grain had it
	always          // no grain had it
	elsewhere       // its grain is or will be somewhere else, and nothing was applied
)

// answer is what came of one attempt.
type answer struct {
	reply proto.Message
	err   error
	again retry
}

func (n *Node) mayRepeat(ctx context.Context, again retry, try int) bool {
	if again == never || try > maxRetries {
		return false
	}
	if again == ifSafe && !isSafe(ctx) {
		return false
	}
	return n.budget.spend()
}

func isSafe(ctx context.Context) bool { return ctx.Value(safeKey{}) != nil }

// attempt sends the call once and waits for the answer. Only a context without
// a deadline comes with a deadline and what is left until then.
func (n *Node) attempt(
	ctx context.Context, s *standing, id *Identity, hash uint64, msg proto.Message, deadline time.Time, left time.Duration,
) answer {
	if n.shared != nil && !s.local(hash, id.Tenant) {
		return n.attemptRemote(ctx, s, id, hash, msg, deadline)
	}
	w := n.waiters.Get().(*waiter)
	c := &Call{request: msg, caller: ctx, deadline: deadline, wake: w.wake}
	if again, err := n.send(c, id, hash); err != nil {
		n.waiters.Put(w)
		return answer{err: err, again: again}
	}
	err := w.wait(ctx, c, left)
	n.waiters.Put(w) // clean on every way: see waiter
	if err != nil {
		return answer{err: err}
	}
	return c.result(id)
}

// send puts the call in front of its grain.
func (n *Node) send(c *Call, id *Identity, hash uint64) (retry, error) {
	for {
		if !n.running() {
			return never, n.notRunning(id)
		}
		if !n.standing.Load().local(hash, id.Tenant) {
			return elsewhere, &Error{Reason: ReasonUnavailable, Identity: *id}
		}
		a := n.registry.find(id, hash)
		if a == nil {
			// Only a miss is checked: what is in the registry was checked once.
			kind, err := n.check(id)
			if err != nil {
				return never, err
			}
			if n.registry.activate(kind, id, hash, c) {
				return always, nil
			}
			continue // somebody was faster, or the node stops
		}
		if taken, err := a.offer(c); taken {
			return always, err
		}
		// It stopped meanwhile. It leaves the registry under the same lock that
		// told us so, so the next look finds another one or none.
	}
}

func (n *Node) check(id *Identity) (*Kind, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	kind, ok := n.cfg.kinds[id.Kind]
	if !ok {
		return nil, &Error{Reason: ReasonUnknownKind, Identity: *id}
	}
	return kind, nil
}

func (n *Node) notRunning(id *Identity) error {
	if n.state.Load() == nodeNew {
		return &Error{Reason: ReasonUnavailable, Identity: *id}
	}
	return &Error{Reason: ReasonStopped, Identity: *id}
}

// result turns what happened to the call into what Ask returns.
func (c *Call) result(id *Identity) answer {
	switch c.outcome {
	case byGrain:
		if c.err != nil && notApplied(c.err) {
			return answer{err: c.err, again: elsewhere}
		}
		return answer{reply: c.reply, err: c.err}
	case byStop:
		return answer{err: &Error{Reason: ReasonDeadLetter, Identity: *id}, again: ifSafe}
	case byMove:
		if c.moved {
			return answer{err: &Error{Reason: ReasonUnavailable, Identity: *id}, again: elsewhere}
		}
		return answer{err: &Error{Reason: ReasonUnavailable, Identity: *id}, again: always}
	case byPanic:
		return answer{err: &Error{Reason: ReasonPanicked, Identity: *id}}
	case byExpiry:
		return answer{err: c.caller.Err()}
	default: // byNode
		return answer{err: &Error{Reason: ReasonStopped, Identity: *id}}
	}
}

// notApplied tells whether a grain's answer says that nothing was applied and
// the call may be sent again to whoever owns the grain by then.
func notApplied(err error) bool {
	var e interface{ NotApplied() bool }
	return errors.As(err, &e) && e.NotApplied()
}

// awaitOwner waits until a call that found no owner may be sent again: a little
// while, less if the view that failed it is replaced. It reports false if there
// is no time left.
func (n *Node) awaitOwner(ctx context.Context, s *standing, moves int, deadline time.Time) bool {
	d := moveBackoff(moves)
	end, ok := ctx.Deadline()
	if !deadline.IsZero() && (!ok || deadline.Before(end)) {
		end, ok = deadline, true
	}
	if ok && time.Until(end) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.replaced:
	case <-ctx.Done():
		return false
	}
	return true
}

// pause waits d, and reports false if there is no time for another try.
func (n *Node) pause(ctx context.Context, d time.Duration, deadline time.Time) bool {
	if !deadline.IsZero() && time.Until(deadline) <= d {
		return false
	}
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
