package tokens

import (
	"context"
	"errors"
	"strconv"
	"time"

	"granary.dev/granary/actors/kb"
)

// flight is one request to the tenant, for all who wait.
type flight struct {
	done chan struct{}
	err  error // valid when done is closed
}

// slow finds out whether there is a token for a request that found none.
func (h *Holder) slow(ctx context.Context, b *bucket, background bool) (kb.TokenState, error) {
	var missed *flight // one that did not reach the tenant
	for {
		f, done, err := h.step(b, background, missed)
		if done {
			return b.state(h.now(), b.left.Load()), err
		}
		if f == nil { // it was swept meanwhile
			b = h.Account(b.tenant, b.meter).rest
			b.touch(h.now())
			continue
		}
		select {
		case <-f.done:
			if f.err != nil {
				missed = f
			}
		case <-ctx.Done():
			h.leave(b, f)
			return b.state(h.now(), b.left.Load()), ctx.Err()
		}
	}
}

// step looks once, under the bucket's lock: there is an outcome, or a flight to wait for.
func (h *Holder) step(b *bucket, background bool, missed *flight) (f *flight, done bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.Ended() {
		return nil, false, nil
	}
	now := h.now()
	if !background || b.spareable() {
		if _, ok := b.take(now); ok {
			return nil, true, nil
		}
	}
	l := b.refused
	if background {
		l = b.refuse
	}
	if now < l.until {
		return nil, true, b.refusal(l, now)
	}
	if b.away {
		// The tenant was not reached: go on without it as far as that may be, and look for
		// it meanwhile. Work that can wait does.
		if b.flight == nil && now >= b.askAt {
			h.fly(b, b.want(now), background)
		}
		switch {
		case !background && b.onCredit(now):
			h.credit.Add(1)
			return nil, true, nil
		case b.flight == nil || missed != nil:
			return nil, true, unavailable()
		}
	}
	if b.flight == nil {
		h.fly(b, b.want(now), background)
	}
	b.waiting++
	return b.flight, false, nil
}

// leave is a request that waits no longer.
func (h *Holder) leave(b *bucket, f *flight) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.flight == f {
		b.waiting--
	}
}

// prefetch asks for the next block while there are tokens left.
func (h *Holder) prefetch(b *bucket) {
	low := b.low.Load()
	if low < 0 || !b.low.CompareAndSwap(low, -1) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.flight == nil && !b.Ended() && !b.away {
		h.fly(b, b.want(h.now()), false)
	}
}

// fly asks the tenant on a goroutine of its own; the bucket's lock is held. One request
// is under way at a time, so that the tenant's answers can be taken in order.
func (h *Holder) fly(b *bucket, want int64, background bool) {
	f := &flight{done: make(chan struct{})}
	b.flight, b.waiting = f, 0
	q, lessor, sent := b.request(h.id, h.seq.Add(1), want, background), b.lessor, h.now()
	h.flying.Add(1)
	go func() {
		defer h.flying.Done()
		ctx, cancel := context.WithTimeout(context.Background(), askTime)
		defer cancel()
		a, from, err := h.lessor.Lease(ctx, b.tenant, b.meter, lessor, q)
		h.land(b, f, q, a, from, sent, err)
	}()
}

// land takes the answer.
func (h *Holder) land(b *bucket, f *flight, q kb.TokenRequest, a kb.TokenLease, from string, sent int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := h.now()
	b.flight = nil
	if f.err = err; err != nil {
		b.away, b.askAt = true, now+int64(retryPause)
		close(f.done)
		return
	}
	if granted := b.leased(a, from, sent, now); granted == 0 && q.Want > 0 {
		l := limit{until: now + min(int64(a.RetryAfter), int64(refuseFor)), retry: now + int64(a.RetryAfter)}
		b.refuse = l
		if !q.Background {
			b.refused = l
		}
	}
	close(f.done)
}

// retryAfter is when to come back after an error.
func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*kb.Error](err); ok && e.RetryAfter > 0 {
		return e.RetryAfter
	}
	return retryPause
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
