package actors

import (
	"context"
	"errors"

	"granary.dev/granary/actors/journal"
)

// readers are reads that memory alone may not answer: they wait until the store
// has said that this activation is still the owner. One question answers all
// that came before it was asked.
type readers struct {
	waiting []func(error) // came since the question under way was asked
	asking  []func(error)
}

// verifiedMsg is the store's answer.
type verifiedMsg struct {
	fence journal.Fence
	owned bool
	proof lease
	err   error
}

// mayRead reports whether reads may be answered from memory. It allows what
// [granary.dev/granary/cluster/protocol.MayRead] does.
//
// A name nobody ever wrote to has no fence that could be proven: where other
// nodes share the store, one of them may write to it at any time.
func (c *core) mayRead() bool {
	if c.deps.lone {
		return true
	}
	if !c.owned || !c.proof.ok || !c.placed() {
		return false
	}
	now := c.deps.lease()
	return now.ok && now.term == c.proof.term
}

// trust takes a proof; one that failed takes nothing away from what is known.
func (c *core) trust(proof lease) {
	if proof.ok {
		c.proof = proof
	}
}

// current runs f when what is in memory may be answered: at once, or after the
// store was asked, with an error if it is not.
func (c *core) current(f func(error)) {
	if c.broken != nil || c.mayRead() {
		f(c.broken)
		return
	}
	if !c.owned && !c.quiet() {
		// The commit under way acquires; a row in the store could be its own.
		c.onQuiet(func(err error) {
			if err != nil {
				f(err)
				return
			}
			c.current(f)
		})
		return
	}
	if c.reads == nil {
		c.reads = &readers{}
	}
	if len(c.reads.waiting) >= maxWaiting {
		f(busyError())
		return
	}
	c.reads.waiting = append(c.reads.waiting, f)
	c.ask()
}

// ask asks the store for those who wait, unless a question is under way.
func (c *core) ask() {
	r := c.reads
	switch {
	case r == nil || r.asking != nil:
		return
	case len(r.waiting) == 0:
		c.reads = nil
		return
	}
	r.asking, r.waiting = r.waiting, nil
	go c.verify(c.fence, c.owned)
}

// verify runs on a goroutine of its own.
func (c *core) verify(fence journal.Fence, owned bool) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	m := &verifiedMsg{fence: fence, owned: owned}
	sent := c.deps.lease()
	if owned {
		m.err = c.deps.Store.Verify(ctx, fence)
		m.proof = c.deps.prove(sent)
	} else {
		_, m.err = c.deps.Store.Owner(ctx, c.id)
		switch {
		case m.err == nil:
			m.err = journal.ErrFenced // somebody wrote to it
		case errors.Is(m.err, journal.ErrNotFound):
			m.err = nil
		}
	}
	c.tell(m)
}

// verified answers the reads that waited. It reports false if this activation
// is not the owner any more.
func (c *core) verified(m *verifiedMsg) bool {
	r := c.reads
	if r == nil {
		return true // the activation has ended, and they were told
	}
	asking := r.asking
	r.asking = nil
	switch {
	case c.owned != m.owned || c.fence != m.fence || !m.owned && !c.quiet():
		// A commit acquired the grain meanwhile, or is about to.
		for _, f := range asking {
			c.current(f)
		}
	case errors.Is(m.err, journal.ErrFenced):
		r.waiting = append(asking, r.waiting...)
		return false
	case m.err != nil:
		c.log().Warn("the owner of the grain cannot be verified", "error", m.err)
		for _, f := range asking {
			f(readError())
		}
	default:
		if m.owned {
			c.trust(m.proof)
		}
		for _, f := range asking {
			f(nil)
		}
	}
	if c.reads == r && c.mayRead() {
		waiting := r.waiting
		r.waiting = nil
		for _, f := range waiting {
			f(nil)
		}
	}
	c.ask()
	return true
}

// failReads answers the reads that wait with an error.
func (c *core) failReads(err error) {
	r := c.reads
	if r == nil {
		return
	}
	c.reads = nil
	for _, f := range append(r.asking, r.waiting...) {
		f(err)
	}
}
