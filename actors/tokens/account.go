package tokens

import (
	"context"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/kb"
)

// Account is one meter of one tenant at this node. It is all that a request with a token
// looks at: one cache line, apart from the rest, so that those of many tenants lie close
// together. Who comes often keeps it, and needs no look-up, until it has [Account.Ended].
// Times are h.now's. It is safe for concurrent use.
type Account struct {
	left      atomic.Int64 // tokens to spend; only added to under rest.mu
	ends      atomic.Int64 // when their window does; 0: the tenant was never heard of; ended
	seen      atomic.Int64 // when a request came last, within [seenStep]
	low       atomic.Int64 // at so few the next block is fetched; -1: not ahead
	base      atomic.Int64 // the limit, as the tenant said last
	remaining atomic.Int64 // what the tenant had left then
	h         *Holder
	rest      *bucket
}

// ended is in ends when nobody will put tokens here any more.
const ended = -1

// seenStep is how exactly it is known when a request came last: not each one writes it.
const seenStep = 10 * time.Millisecond

func newAccount(h *Holder, tenant string, m kb.Meter) *Account {
	a := &Account{h: h}
	a.rest = &bucket{Account: a, tenant: tenant, meter: m}
	a.low.Store(-1)
	return a
}

// Take spends a token, see [Holder.Take].
func (a *Account) Take(ctx context.Context) (kb.TokenState, error) {
	now := a.h.now()
	if left, ok := a.spend(now); ok {
		return a.state(now, left), nil
	}
	return a.h.slow(ctx, a.rest, false)
}

// Ended reports whether the account was forgotten, since nobody used it for long. It still
// counts, by way of the tenant's next one, which the holder finds faster.
func (a *Account) Ended() bool { return a.ends.Load() == ended }

// spend is the quick way of a request; left is what remains.
func (a *Account) spend(now int64) (left int64, ok bool) {
	a.touch(now)
	if left, ok = a.take(now); ok && left <= a.low.Load() {
		a.h.prefetch(a.rest)
	}
	return left, ok
}

func (a *Account) touch(now int64) {
	if now-a.seen.Load() >= int64(seenStep) {
		a.seen.Store(now)
	}
}

// take spends a token if there is one; left is what remains.
func (a *Account) take(now int64) (left int64, ok bool) {
	if now >= a.ends.Load() {
		return 0, false
	}
	for {
		n := a.left.Load()
		if n <= 0 {
			return 0, false
		}
		if a.left.CompareAndSwap(n, n-1) {
			return n - 1, true
		}
	}
}

// spareable reports whether there is more than what waiting work leaves to others.
func (a *Account) spareable() bool {
	return a.remaining.Load()+a.left.Load() > a.base.Load()/kb.SearchShare
}

// state is what is known when left tokens are.
func (a *Account) state(now, left int64) kb.TokenState {
	return kb.TokenState{Base: a.base.Load(), Remaining: a.remaining.Load() + max(0, left), Reset: time.Duration(max(0, a.ends.Load()-now))}
}
