package cluster

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Retries of one Ask: at most two, after a random time below a bound that
// starts at 5 ms and ends at 200 ms.
const (
	maxRetries   = 2
	retryInitial = 5 * time.Millisecond
	retryMost    = 200 * time.Millisecond
)

// The budget keeps retries from adding more than a tenth to the load: each Ask
// puts in a tenth of a retry, and at most ten retries are saved up.
const (
	retryCost = 10
	retrySave = 10 * retryCost
)

// retryBudget is a token bucket of tenths of a retry.
type retryBudget struct {
	tenths atomic.Int64
}

func newRetryBudget() *retryBudget {
	b := &retryBudget{}
	b.tenths.Store(retrySave)
	return b
}

// earn puts in a tenth. A full bucket costs one read, so that calls on many
// cores do not fight for its cache line.
func (b *retryBudget) earn() {
	if b.tenths.Load() < retrySave {
		b.tenths.Add(1)
	}
}

// spend takes a retry out if one is there.
func (b *retryBudget) spend() bool {
	for {
		t := b.tenths.Load()
		if t < retryCost {
			return false
		}
		if b.tenths.CompareAndSwap(t, t-retryCost) {
			return true
		}
	}
}

// backoff gives the time to wait before retry number n (1 is the first): full
// jitter, uniform in [0, min(200 ms, 5 ms × 8ⁿ⁻¹)). The factor reaches the bound
// within the few tries there are.
func backoff(n int) time.Duration {
	most := retryInitial
	for range n - 1 {
		most = min(most*8, retryMost)
	}
	return rand.N(most)
}

// moveBackoff gives the time to wait before a call that found no owner is sent
// again for the nth time: full jitter in [½, 1) of min(200 ms, 5 ms × 2ⁿ⁻¹).
func moveBackoff(n int) time.Duration {
	most := retryMost
	if n < 7 {
		most = min(most, retryInitial<<(n-1))
	}
	return most/2 + rand.N(most/2)
}

// Bounds of the retry-after hint of a refusal.
const (
	hintLeast   = 10 * time.Millisecond
	hintUnknown = 100 * time.Millisecond
	hintMost    = 2 * time.Second
)

// retryAfter tells how long half of the queue will take at the pace seen since
// an earlier refusal. It reads the clock only when a call is refused, so that
// calls that are not pay nothing. a.mu is held.
func (a *activation) retryAfter(queued int, now int64) time.Duration {
	elapsed := now - a.refusedAt
	done := a.served - a.servedAt
	if a.refusedAt == 0 || elapsed > int64(time.Minute) {
		a.refusedAt, a.servedAt = now, a.served
		return hintUnknown
	}
	if elapsed > int64(time.Second) {
		a.refusedAt, a.servedAt = now, a.served
	}
	return paceHint(queued, done, time.Duration(elapsed))
}

// paceHint is pure: queue length, calls handled and the time they took.
func paceHint(queued int, done uint32, took time.Duration) time.Duration {
	if done == 0 || took <= 0 {
		return min(max(hintUnknown, took), hintMost)
	}
	half := took.Seconds() / float64(done) * float64(queued) / 2
	if half >= hintMost.Seconds() {
		return hintMost
	}
	return max(hintLeast, time.Duration(half*float64(time.Second)))
}
