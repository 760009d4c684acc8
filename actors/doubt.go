package actors

import (
	"context"
	"errors"
	"time"

	"granary.dev/granary/actors/journal"
)

// What becomes of a commit without an answer. The grain is acquired anew: from
// then on what is not in the journal can never come, and what is there was
// applied.

const (
	doubtTimeout = 5 * time.Second // the callers wait this long at most
	doubtAgain   = 150 * time.Millisecond
)

// verdict is what a doubt came to: applied (nil), not applied, still not known,
// or a record under the write's key.
type verdict struct {
	err      error
	recorded *journal.Idempotency
}

type resolvedMsg struct{ verdicts []verdict }

// resolve judges the writes in flight, on a goroutine of its own, and leaves the
// grain released. Those that nobody called for need no verdict: the next load
// shows what they came to.
func (c *core) resolve() {
	c.phase = phaseDoubting
	for _, w := range c.inflight {
		if w.answer == nil {
			w.end(c.broken, c.broken)
			w.done = nil
		}
		for _, f := range w.based {
			f(c.broken)
		}
		w.based = nil
	}
	fence, head, writes := c.fence, c.committed, c.inflight
	ctx, cancel := context.WithTimeout(context.Background(), doubtTimeout)
	c.giveUp = cancel
	go func() {
		defer cancel()
		m := &resolvedMsg{verdicts: make([]verdict, len(writes))}
		for i := range m.verdicts {
			m.verdicts[i].err = doubtError()
		}
		got, err := c.insist(ctx)
		if err == nil {
			c.judge(ctx, m.verdicts, fence, head, got, writes)
			c.giveBack(got.fence)
		} else {
			c.log().Warn("what became of a commit is not known", "error", err, "head", head)
		}
		c.tell(m)
	}()
}

// insist acquires although the store may just be coming back.
func (c *core) insist(ctx context.Context) (acquired, error) {
	for {
		got, err := c.acquire(ctx)
		if err == nil || isMoved(err) {
			return got, err
		}
		if sleep(ctx, doubtAgain) != nil {
			return got, err
		}
	}
}

// judge compares the head that was acquired with the one before the batch.
func (c *core) judge(ctx context.Context, out []verdict, fence journal.Fence, head int64, got acquired, writes []*write) {
	n := 0
	for _, w := range writes {
		n += len(w.events)
	}
	switch {
	case got.head == head:
		for i, w := range writes {
			if len(w.events) > 0 {
				out[i].err = movedError()
			}
		}
	case got.fence.Epoch == fence.Epoch+1 && got.head == head+int64(n):
		// Nobody was in between: it is this batch that moved the head.
		for i := range out {
			out[i].err = nil
		}
	default:
		for i, w := range writes {
			if w.idem != nil {
				out[i] = c.lookUp(ctx, got.fence, head, w.idem.IdempotencyKey)
			}
		}
	}
}

// lookUp judges a write by its key, when others have written since.
func (c *core) lookUp(ctx context.Context, f journal.Fence, head int64, key journal.IdempotencyKey) verdict {
	rec, ok, err := c.deps.Store.FindIdempotency(ctx, f, key)
	switch {
	case err != nil:
		return verdict{err: doubtError()}
	case ok:
		return verdict{recorded: &rec}
	}
	// Not there is an answer only while the journal is: an erasure took the
	// records of what was applied before it.
	page, err := c.deps.Store.Events(ctx, c.id, head, 1)
	if err != nil || len(page) == 0 || page[0].Seq != head+1 {
		return verdict{err: doubtError()}
	}
	return verdict{err: movedError()}
}

// resolved tells the callers in doubt.
func (c *core) resolved(m *resolvedMsg) {
	writes := c.inflight
	c.inflight = nil
	for i, w := range writes {
		v := m.verdicts[i]
		switch {
		case v.recorded != nil && w.replay != nil:
			w.replay(*v.recorded)
		case w.answer != nil:
			w.answer(v.err)
		}
	}
}

// isMoved reports whether an error says that another node has the grain, or
// that nobody waits for it here any more.
func isMoved(err error) bool {
	return errors.Is(err, errMoved) || errors.Is(err, journal.ErrFenced) || errors.Is(err, context.Canceled)
}
