package tokens_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"go.uber.org/goleak"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/tokens"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const acme = "acme"

// owner is the tenant's side: the rules of kb.Rate, with commits that take time, and an
// owner that crashes, moves and cannot be reached.
type owner struct {
	mu      sync.Mutex
	base    int64
	delay   func() time.Duration // of each way of a message, and of a commit
	rates   map[string]*kb.Rate  // of the owner that lives
	kept    map[string]*kb.RateRecord
	boot    int
	skew    time.Duration
	away    bool
	lose    func() bool // an answer
	asked   atomic.Int64
	commits atomic.Int64
}

func newOwner(base int64) *owner {
	return &owner{base: base, delay: func() time.Duration { return time.Millisecond }, rates: map[string]*kb.Rate{},
		kept: map[string]*kb.RateRecord{}, lose: func() bool { return false }}
}

var errAway = kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "away")

func (o *owner) Lease(ctx context.Context, tenant string, m kb.Meter, lessor string, q kb.TokenRequest) (kb.TokenLease, string, error) {
	o.asked.Add(1)
	if err := o.sleep(ctx); err != nil {
		return kb.TokenLease{}, "", err
	}
	key := tenant + "/" + string(m)
	for {
		o.mu.Lock()
		if o.away {
			o.mu.Unlock()
			return kb.TokenLease{}, "", errAway
		}
		boot := o.boot
		r := o.rates[key]
		if r == nil {
			r = kb.NewRate(m, o.kept[key])
			o.rates[key] = r
		}
		now := time.Now().Add(o.skew)
		r.Roll(now, o.base)
		q.Known = lessor == fmt.Sprint(boot)
		a, rec := r.Lease(q, now, o.base)
		o.mu.Unlock()
		if rec == nil {
			if err := o.sleep(ctx); err != nil || o.lose() {
				return kb.TokenLease{}, "", errors.Join(err, errAway)
			}
			return a, fmt.Sprint(boot), nil
		}
		if err := o.commit(ctx, key, boot, *rec); err != nil {
			return kb.TokenLease{}, "", err
		}
	}
}

// commit is fenced: that of an owner that is none any more does nothing.
func (o *owner) commit(ctx context.Context, key string, boot int, rec kb.RateRecord) error {
	if err := o.sleep(ctx); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.boot != boot || o.away {
		return errAway
	}
	o.commits.Add(1)
	if old := o.kept[key]; old == nil || old.Window != rec.Window || old.Reserved < rec.Reserved {
		o.kept[key] = &rec
	}
	o.rates[key].Committed(rec)
	return nil
}

func (o *owner) sleep(ctx context.Context) error {
	t := time.NewTimer(o.delay())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *owner) crash(skew time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.boot++
	o.rates, o.skew = map[string]*kb.Rate{}, skew
}

func (o *owner) set(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
}

func (o *owner) usage(m kb.Meter) kb.RateUsage {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := acme + "/" + string(m)
	if o.rates[key] == nil {
		o.rates[key] = kb.NewRate(m, o.kept[key])
	}
	o.rates[key].Roll(time.Now().Add(o.skew), o.base)
	return o.rates[key].Usage(o.base)
}

// nodes are holders of one owner's tokens.
func nodes(t *testing.T, o *owner, n int) []*tokens.Holder {
	out := make([]*tokens.Holder, n)
	for i := range out {
		out[i] = node(t, o, fmt.Sprint("n", i))
	}
	return out
}

func node(t *testing.T, o *owner, id string) *tokens.Holder {
	h := tokens.New(id, o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		h.Close(context.Background())
	})
	return h
}

func refused(err error, m kb.Meter) bool { return kb.Is(err, m.Reason()) }

func TestB4_ExactlyTheLimitIsAdmittedByAnyNumberOfNodes(t *testing.T) {
	for _, tc := range []struct {
		base  int64
		nodes int
		meter kb.Meter
	}{{1, 3, kb.MeterCalls}, {1000, 1, kb.MeterCalls}, {1000, 3, kb.MeterCalls}, {100, 8, kb.MeterVectors}, {3_000, 8, kb.MeterCalls}} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOwner(tc.base)
				var admitted atomic.Int64
				var wg sync.WaitGroup
				for _, h := range nodes(t, o, tc.nodes) {
					for i := range 8 {
						take := func() error { _, err := h.Take(t.Context(), acme, tc.meter); return err }
						if i%2 == 0 { // as a gateway does
							kept := h.Account(acme, tc.meter)
							take = func() error { _, err := kept.Take(t.Context()); return err }
						}
						wg.Go(func() {
							for misses := 0; misses < 12; { // what others hold in vain comes back within seconds
								err := take()
								switch {
								case err == nil:
									admitted.Add(1)
									time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
								case refused(err, tc.meter):
									misses++
									time.Sleep(time.Second)
								default:
									t.Error(err)
									return
								}
							}
						})
					}
				}
				wg.Wait()
				if n := admitted.Load(); n != tc.base {
					t.Errorf("%d admitted of %d", n, tc.base)
				}
				t.Logf("%d commits for %d tokens", o.commits.Load(), tc.base)
				// Leases of eight nodes take turns at the end of a limit; how often is chance.
				if n := o.commits.Load(); n > max(200, tc.base/10) {
					t.Errorf("%d commits for %d tokens", n, tc.base)
				}
			})
		})
	}
}

func TestB4_AnAccountThatIsKeptBeyondItsEndCountsInTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const base = 100
		o := newOwner(base)
		h := node(t, o, "n0")
		kept := h.Account(acme, kb.MeterCalls)
		take := func() bool {
			_, err := kept.Take(t.Context())
			if err != nil && !refused(err, kb.MeterCalls) {
				t.Fatal(err)
			}
			return err == nil
		}
		if !take() || kept.Ended() || h.Account(acme, kb.MeterCalls) != kept {
			t.Fatal("another account while it is used")
		}
		time.Sleep(3 * time.Minute)
		if !kept.Ended() || h.Tenants() != 0 {
			t.Fatalf("nobody used it, yet %d are known", h.Tenants())
		}
		n := 1
		for misses := 0; misses < 12; {
			if take() {
				n++
			} else if _, err := h.Take(t.Context(), acme, kb.MeterCalls); err == nil {
				n++
			} else {
				misses++
				time.Sleep(time.Second)
			}
		}
		if next := h.Account(acme, kb.MeterCalls); n != base || !kept.Ended() || next.Ended() || h.Tenants() != 1 {
			t.Errorf("%d admitted of %d, %d accounts", n, base, h.Tenants())
		}
	})
}

func TestB4_AnAccountIsOneCacheLine_P8(t *testing.T) {
	if n := unsafe.Sizeof(tokens.Account{}); n != 64 {
		t.Errorf("%d bytes", n)
	}
}

func TestB4_ACallWithATokenAllocatesNothing_P8(t *testing.T) {
	h := tokens.New("n0", generous{})
	defer h.Close(t.Context())
	kept := h.Account(acme, kb.MeterCalls)
	if _, err := kept.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := testing.AllocsPerRun(1000, func() {
		_, err := kept.Take(t.Context())
		_, err2 := h.Take(t.Context(), acme, kb.MeterCalls)
		if err != nil || err2 != nil {
			t.Error(err, err2)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestB4_NoScheduleAdmitsMoreThanTheLimit: owners that crash, answers that get lost, nodes
// that die with tokens in hand, clocks that differ. Each window is charged what was spent of
// its tokens; what is lost is bounded.
func TestB4_NoScheduleAdmitsMoreThanTheLimit(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				base := []int64{20, 200, 3000}[rnd.IntN(3)]
				o := newOwner(base)
				var mu sync.Mutex
				draw := func(n int) int { mu.Lock(); defer mu.Unlock(); return rnd.IntN(n) }
				o.delay = func() time.Duration { return time.Duration(draw(3000)) * time.Microsecond }
				o.lose = func() bool { return draw(10) == 0 }
				var admitted, credited atomic.Int64
				var wg sync.WaitGroup
				end := time.Now().Truncate(time.Hour).Add(55 * time.Minute)
				for i := range 3 {
					wg.Go(func() {
						for boot := 0; time.Now().Before(end); boot++ { // each life of a node
							h := tokens.New(fmt.Sprint("n", i, "#", boot), o)
							ctx, cancel := context.WithCancel(context.Background())
							var life sync.WaitGroup
							life.Go(func() { h.Run(ctx) })
							for stop := time.Now().Add(time.Duration(1+draw(600)) * time.Second); time.Now().Before(stop) && time.Now().Before(end); {
								if _, err := h.Take(t.Context(), acme, kb.MeterCalls); err == nil {
									admitted.Add(1)
								}
								time.Sleep(time.Duration(draw(2000)) * time.Millisecond)
							}
							cancel()
							life.Wait()
							credited.Add(h.Credited())
						}
					})
				}
				wg.Go(func() {
					for time.Now().Before(end) {
						time.Sleep(time.Duration(draw(300)) * time.Second)
						o.crash(time.Duration(draw(200)-100) * time.Second)
					}
				})
				wg.Wait()
				time.Sleep(10 * time.Second)
				// An answer that gets lost makes a node go on credit. All else had a token.
				if n := admitted.Load() - credited.Load(); n > base {
					t.Errorf("%d tokens spent of %d", n, base)
				}
			})
		})
	}
}
