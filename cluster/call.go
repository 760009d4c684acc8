package cluster

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Phases of a call. It only moves forward, by compare-and-swap; whoever moves
// it to phaseDone owns the answer.
const (
	phaseQueued  uint32 = iota // waits in a mailbox
	phaseRunning               // in the grain's Receive
	phaseParked                // Receive returned without an answer; the grain answers later
	phaseDone                  // answered, or its caller gave up
)

// errGaveUp is the cause of a call's context once its caller no longer waits.
var errGaveUp = errors.New("cluster: the caller no longer waits")

// outcome tells Ask who gave the answer, so that an error which a grain passes
// on from another Ask is never taken for one of this Ask.
type outcome uint8

const (
	byGrain  outcome = iota // Reply: reply and err are the grain's
	byStop                  // stopped after it was handed over
	byMove                  // stopped before it was handed over: safe to send again
	byPanic                 // the grain panicked on it
	byNode                  // the node gave up on a grain that never returned
	byExpiry                // the caller's context was over before it was handed over
)

// Call is one request in front of a grain, and what the grain answers it with.
// A grain gets it as its ctx.Message() and needs three methods: Request,
// Context and Reply.
//
// The grain may keep a Call as long as it likes and answer from any goroutine.
// Calls are therefore not recycled (a late second Reply would answer a stranger);
// only the channel that wakes the caller is, see [Node.Ask].
type Call struct {
	request  proto.Message
	caller   context.Context
	deadline time.Time // zero when the caller's context has its own
	wake     chan struct{}
	then     func(*Call) // called instead of a wake-up, by whoever answers: for callers on other nodes

	phase   atomic.Uint32
	outcome outcome // written by who moved phase to done, read after wake
	reply   proto.Message
	err     error
	moved   bool // with byMove: the grain is not this node's any more

	lazy atomic.Pointer[cancelContext]

	// Guarded by the activation's mutex.
	owner      *activation // set while parked
	prev, next *Call       // neighbours among the parked
}

// cancelContext is made only for calls whose caller has no deadline.
type cancelContext struct {
	context.Context
	cancel context.CancelCauseFunc
	stop   context.CancelFunc
}

// Request is the message asked. It is shared with the caller on the same node:
// read it, do not change it.
func (c *Call) Request() proto.Message { return c.request }

// Context is the caller's, with its values and deadline; without a deadline of
// its own it gets the node's AskTimeout, and is then over too once the call is
// answered. Work that must outlive the caller runs on context.WithoutCancel.
func (c *Call) Context() context.Context {
	if c.deadline.IsZero() {
		return c.caller
	}
	if l := c.lazy.Load(); l != nil {
		return l
	}
	inner, cancel := context.WithCancelCause(c.caller)
	ctx, stop := context.WithDeadline(inner, c.deadline)
	l := &cancelContext{Context: ctx, cancel: cancel, stop: stop}
	if !c.lazy.CompareAndSwap(nil, l) {
		stop()
		cancel(nil)
		return c.lazy.Load()
	}
	if c.phase.Load() == phaseDone {
		c.release()
	}
	return l
}

// Reply answers the call. The first answer counts, later ones do nothing; it
// may be given from any goroutine, even after the grain has stopped. The reply
// is shared with a caller on the same node: do not change it afterwards. A nil
// reply without an error is answered as an empty message, as it would be from
// another node.
func (c *Call) Reply(reply proto.Message, err error) {
	if reply == nil && err == nil {
		reply = &emptypb.Empty{}
	}
	c.finish(byGrain, reply, err)
}

// finish answers the call and wakes the caller. It reports whether this answer
// is the one that counts.
func (c *Call) finish(o outcome, reply proto.Message, err error) bool {
	if !c.close() {
		return false
	}
	c.outcome, c.reply, c.err = o, reply, err
	if c.then != nil {
		c.then(c)
		return true
	}
	c.wake <- struct{}{} // never blocks: one place, and one finisher per call
	return true
}

// abandon ends a call whose caller gives up. If it reports false, the answer is
// there or on its way, and wake must be received.
func (c *Call) abandon() bool { return c.close() }

// close moves the call to phaseDone if nobody did.
func (c *Call) close() bool {
	for {
		p := c.phase.Load()
		if p == phaseDone {
			return false
		}
		if !c.phase.CompareAndSwap(p, phaseDone) {
			continue
		}
		if p == phaseParked {
			c.owner.unpark(c)
		}
		c.release()
		return true
	}
}

func (c *Call) release() {
	if l := c.lazy.Load(); l != nil {
		l.cancel(errGaveUp)
		l.stop()
	}
}

// start hands the call to the grain. It reports false for a call that nobody
// waits for any more.
func (c *Call) start() bool {
	if !c.phase.CompareAndSwap(phaseQueued, phaseRunning) {
		return false
	}
	if c.caller.Err() != nil {
		c.finish(byExpiry, nil, nil)
		return false
	}
	return true
}
