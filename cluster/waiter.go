package cluster

import (
	"context"
	"time"
)

// waiter is what a caller sleeps on; it is used again and again.
//
// It is safe to use again because of one rule: whoever moves a call to
// phaseDone decides whether wake gets a token. The finisher sends exactly one;
// a caller that gives up first sends none and nobody else can. So after wait
// the channel is empty, and nobody holds it who may still send.
type waiter struct {
	wake  chan struct{}
	timer *time.Timer // stopped between uses
}

func newWaiter() *waiter {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &waiter{wake: make(chan struct{}, 1), timer: t}
}

// wait returns nil when the call is answered, and the context's error when ctx
// or the call's own deadline, which is left away, came first.
func (w *waiter) wait(ctx context.Context, c *Call, left time.Duration) error {
	if c.deadline.IsZero() {
		select {
		case <-w.wake:
			return nil
		case <-ctx.Done():
			return w.giveUp(c, ctx.Err())
		}
	}
	w.timer.Reset(left)
	defer w.timer.Stop()
	select {
	case <-w.wake:
		return nil
	case <-ctx.Done():
		return w.giveUp(c, ctx.Err())
	case <-w.timer.C:
		return w.giveUp(c, context.DeadlineExceeded)
	}
}

// giveUp takes the answer after all if it is on its way.
func (w *waiter) giveUp(c *Call, err error) error {
	if c.abandon() {
		return err
	}
	<-w.wake
	return nil
}
