package tokens

import (
	"math"
	"sync"
	"time"

	"granary.dev/granary/actors/kb"
)

// bucket is what else there is of an account.
type bucket struct {
	*Account

	tenant string
	meter  kb.Meter

	mu      sync.Mutex
	flight  *flight // the request under way; nil when none is
	waiting int64   // who waits for it

	lessor          string
	window, held    int64 // leased, of this window
	block           int64 // size of the last lease
	leasedAt        int64
	refused, refuse limit // for requests; for work that waits

	away    bool  // the tenant did not answer last time
	askAt   int64 // when it is asked again
	credit  int64 // spent without a token, ever
	charged int64 // of it
	owing   int64 // of it in the window that ends at creditEnds
	credEnd int64
}

// limit is a refusal.
type limit struct {
	until int64 // no need to ask again before
	retry int64 // when to come back
}

// request makes the next message to the tenant; mu is held.
func (b *bucket) request(id string, seq, want int64, background bool) kb.TokenRequest {
	return kb.TokenRequest{Holder: id, Seq: seq, Window: b.window, Held: b.held, Used: b.held - b.left.Load(),
		Want: want, Background: background, Credit: b.credit, Charged: b.charged}
}

// giveBack gives up what is not spent; mu is held.
func (b *bucket) giveBack() {
	b.held -= max(0, b.left.Swap(0))
	b.low.Store(-1)
}

// want is the size of block to ask for: twice the last while blocks are used up quickly,
// and few where requests are; mu is held.
func (b *bucket) want(now int64) int64 {
	n := max(1, b.block/4)
	switch since := time.Duration(now - b.leasedAt); {
	case b.block == 0:
		n = 1
	case since < time.Second:
		n = 2 * b.block
	case since < idleReturn:
		n = b.block
	}
	return max(n, b.waiting)
}

// leased takes an answer to what was sent at that time; mu is held.
func (b *bucket) leased(a kb.TokenLease, lessor string, sent, now int64) (granted int64) {
	b.lessor, b.away, b.charged = lessor, false, max(b.charged, a.Charged)
	// First: whoever finds a token finds what is known of it.
	b.base.Store(a.Base)
	b.remaining.Store(a.Remaining)
	if a.Window != b.window {
		b.window, granted = a.Window, a.Held
		b.left.Store(granted)
	} else {
		granted = max(0, a.Held-b.held)
		b.left.Add(granted)
	}
	b.held = a.Held
	b.ends.Store(sent + int64(a.Left))
	if granted > 0 {
		b.block, b.leasedAt = granted, now
		b.low.Store(-1)
		if granted >= aheadFrom {
			b.low.Store(granted / 2)
		}
		b.refuse, b.refused = limit{}, limit{}
	}
	return granted
}

// aheadFrom is the size of block from which on the next is fetched ahead: smaller ones
// are of tenants with few requests, or few tokens left.
const aheadFrom = 4

// onCredit lets a request go on without a token; mu is held.
func (b *bucket) onCredit(now int64) bool {
	base, room := b.base.Load(), b.remaining.Load()
	if now >= b.ends.Load() { // a window nothing is known of
		room = base
	}
	if now >= b.credEnd { // another window
		b.owing, b.credEnd = 0, max(now, b.ends.Load())
		if b.credEnd == now {
			b.credEnd = now + int64(b.meter.Period())
		}
	}
	if b.owing >= min((base+creditShare-1)/creditShare, room/creditRoom) {
		return false
	}
	b.owing++
	b.credit++
	return true
}

// refusal is the error of a request that finds no token.
func (b *bucket) refusal(l limit, now int64) *kb.Error {
	base, what := b.base.Load(), "API calls an hour"
	if b.meter == kb.MeterVectors {
		what = "vector operations a minute"
	}
	return kb.Errorf(kb.CodeResourceExhausted, b.meter.Reason(), "The limit of %d %s is reached.", base, what).
		With("limit", itoa(base)).With("window_seconds", itoa(int64(b.meter.Period()/time.Second))).
		After(max(time.Second, time.Duration(math.Ceil(time.Duration(l.retry-now).Seconds()))*time.Second))
}

func unavailable() *kb.Error {
	return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "The tenant's limits cannot be read now; try again.").After(time.Second)
}
