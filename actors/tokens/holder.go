package tokens

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/kb"
)

// Lessor reaches the tenant that owns the tokens. lessor names the activation that
// answered last, "" before any did; the answer names the one that answers.
type Lessor interface {
	Lease(ctx context.Context, tenant string, m kb.Meter, lessor string, q kb.TokenRequest) (kb.TokenLease, string, error)
}

const (
	shards = 64
	// askTime is how long the tenant is waited for: a node that died is replaced sooner.
	askTime = 4 * time.Second
	// retryPause is the time between two tries to reach a tenant that does not answer.
	retryPause = time.Second
	// refuseFor is how long a refusal stands without asking again.
	refuseFor = 500 * time.Millisecond
	// idleReturn: tokens nobody used for so long go back, others may need them.
	idleReturn = 3 * time.Second
	// idleDrop: what is known of a tenant that long idle is forgotten.
	idleDrop = 2 * time.Minute
	// mostTenants: above it tenants are forgotten as soon as they are idle for a moment.
	mostTenants = 200_000
	crowdedDrop = time.Second
	// creditShare: on credit goes at most this part of the limit.
	creditShare = 20
	// creditRoom: and this part of what was left to all nodes when last heard.
	creditRoom = 4
)

// Holder holds the tokens leased to one node. It is safe for concurrent use. Make it with
// [New], and keep [Holder.Run] running beside it.
type Holder struct {
	id     string
	lessor Lessor
	began  time.Time // of the monotonic clock
	seed   maphash.Seed
	seq    atomic.Int64
	meters [2][shards]shard
	count  atomic.Int64
	credit atomic.Int64
	flying sync.WaitGroup
}

type shard struct {
	mu       sync.RWMutex
	accounts map[string]*Account
}

// New makes a holder. id names this life of the node, and no other.
func New(id string, lessor Lessor) *Holder {
	return &Holder{id: id, lessor: lessor, began: time.Now(), seed: maphash.MakeSeed()}
}

// Credited is how many requests ever went on without a token, since a tenant could not be reached.
func (h *Holder) Credited() int64 { return h.credit.Load() }

// Tenants is of how many meters of tenants something is known.
func (h *Holder) Tenants() int64 { return h.count.Load() }

func (h *Holder) now() int64 { return int64(time.Since(h.began)) }

// Take spends a token. The error is a *kb.Error or ctx's: the meter's reason when the limit
// is reached, with the time to come back; UNAVAILABLE when the tenant does not answer and
// what may go on without it has. It waits for the tenant only when no token is left.
func (h *Holder) Take(ctx context.Context, tenant string, m kb.Meter) (kb.TokenState, error) {
	return h.Account(tenant, m).Take(ctx)
}

// Wait spends a token of work that can wait: it leaves a part of each window to requests,
// and waits where Take refuses. waits is told until when, and nil's time when it goes on.
func (h *Holder) Wait(ctx context.Context, tenant string, m kb.Meter, waits func(until time.Time)) error {
	for waited := false; ; waited = true {
		err := h.takeWaiting(ctx, tenant, m)
		if err == nil {
			if waited {
				waits(time.Time{})
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pause := retryAfter(err)
		waits(time.Now().Add(pause))
		// Another tier or more room count soon; who waits looks again before it must.
		t := time.NewTimer(min(pause, mostWait))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// mostWait bounds how long waiting work does not look whether there is room.
const mostWait = 5 * time.Second

func (h *Holder) takeWaiting(ctx context.Context, tenant string, m kb.Meter) error {
	a, now := h.Account(tenant, m), h.now()
	a.touch(now)
	if a.spareable() {
		if _, ok := a.spend(now); ok {
			return nil
		}
	}
	_, err := h.slow(ctx, a.rest, true)
	return err
}

func (h *Holder) shard(tenant string, m kb.Meter) *shard {
	meter := 0
	if m == kb.MeterVectors {
		meter = 1
	}
	return &h.meters[meter][maphash.String(h.seed, tenant)%shards]
}

// Account finds the account of a tenant, and opens it if there is none. It holds no tokens
// before somebody takes the first.
func (h *Holder) Account(tenant string, m kb.Meter) *Account {
	s := h.shard(tenant, m)
	s.mu.RLock()
	a := s.accounts[tenant]
	s.mu.RUnlock()
	if a != nil {
		return a
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a = s.accounts[tenant]; a == nil {
		if s.accounts == nil {
			s.accounts = make(map[string]*Account)
		}
		a = newAccount(h, tenant, m)
		a.seen.Store(h.now())
		s.accounts[tenant] = a
		h.count.Add(1)
	}
	return a
}
