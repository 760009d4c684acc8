package transport

import (
	"context"
	"sync"
	"time"
)

// callContext is the context of one call on the server. It ends at the caller's
// deadline, when the caller gives up, when its connection is gone, and when the
// call was answered.
//
// Most calls are answered without anybody waiting for the end of their context.
// A timer and a place in the stream's context are therefore made only for those
// who ask for Done, which the package context does for derived contexts too.
type callContext struct {
	stream   context.Context // of the connection: values, and its end
	deadline time.Time       // zero: none

	mu     sync.Mutex
	err    error           // set: ended before anybody asked for Done
	inner  context.Context // made by the first Done
	cancel context.CancelFunc
}

// Deadline implements context.Context.
func (c *callContext) Deadline() (deadline time.Time, ok bool) {
	return c.deadline, !c.deadline.IsZero()
}

// Done implements context.Context.
func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		if c.deadline.IsZero() {
			c.inner, c.cancel = context.WithCancel(c.stream)
		} else {
			c.inner, c.cancel = context.WithDeadline(c.stream, c.deadline)
		}
		if c.err != nil {
			c.cancel()
		}
	}
	return c.inner.Done()
}

// Err implements context.Context.
func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if c.inner != nil {
		return c.inner.Err()
	}
	if err := c.stream.Err(); err != nil {
		return err
	}
	if !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		c.err = context.DeadlineExceeded
	}
	return c.err
}

// Value implements context.Context. Once there is an inner context it answers,
// so that the package context finds it and derives from it without a goroutine.
func (c *callContext) Value(key any) any {
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return c.stream.Value(key)
}

// end ends the context if it has not ended.
func (c *callContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner != nil {
		c.cancel()
	} else if c.err == nil {
		c.err = context.Canceled
	}
}
