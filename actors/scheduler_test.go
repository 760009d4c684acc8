package actors_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors"
)

// load is who works and how.
type load struct {
	tenant, kb string
	workers    int           // that ask for a slot again and again
	unit       time.Duration // mean of a unit's time
	limit      int
}

// serve runs loads for a time and gives the slot time each one got.
func serve(s *actors.Scheduler, d time.Duration, seed uint64, loads []load) []time.Duration {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	got := make([]time.Duration, len(loads))
	var mu sync.Mutex
	var all sync.WaitGroup
	for i, l := range loads {
		for j := range l.workers {
			r := rand.New(rand.NewPCG(seed, uint64(i*1000+j)))
			all.Go(func() {
				for {
					release, err := s.Acquire(ctx, l.tenant, l.kb, l.limit, actors.Work{})
					if err != nil {
						return
					}
					took := l.unit/2 + time.Duration(r.Int64N(int64(l.unit)))
					time.Sleep(took)
					release()
					mu.Lock()
					got[i] += took
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	return got
}

// jain is Jain's fairness index: 1 when all got the same.
func jain(got []time.Duration) float64 {
	sum, squares := 0.0, 0.0
	for _, g := range got {
		sum += g.Seconds()
		squares += g.Seconds() * g.Seconds()
	}
	return sum * sum / (float64(len(got)) * squares)
}

// P3, A5: one noisy tenant, or knowledge base, with many more and longer units
// takes no more than its share: Jain index ≥ 0.95.
func TestOneNoisyNeighbourTakesNoMoreThanItsShare_P3(t *testing.T) {
	for _, among := range []string{"tenants", "knowledge bases"} {
		for seed := range uint64(5) {
			t.Run(fmt.Sprintf("%s/%d", among, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var loads []load
					for i := range 10 {
						l := load{tenant: fmt.Sprintf("t%d", i), kb: "kb", workers: 4, unit: 20 * time.Millisecond, limit: 100}
						if among != "tenants" {
							l.tenant, l.kb = "t", fmt.Sprintf("kb%d", i)
						}
						if i == 0 {
							l.workers, l.unit = 200, 100*time.Millisecond
						}
						loads = append(loads, l)
					}
					got := serve(actors.NewScheduler(4), 2*time.Minute, seed, loads)
					if j := jain(got); j < 0.95 {
						t.Errorf("Jain index %.3f of %v", j, got)
					}
				})
			})
		}
	}
}

// Who was idle is served at once and has saved nothing up: from its return on,
// everybody gets the same.
func TestIdleTimeIsNotSavedUp(t *testing.T) {
	for _, among := range []string{"tenants", "knowledge bases"} {
		t.Run(among, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := actors.NewScheduler(2)
				back := load{tenant: "back", kb: "kb", workers: 8, unit: 20 * time.Millisecond, limit: 100}
				busy := load{tenant: "busy", kb: "kb", workers: 8, unit: 20 * time.Millisecond, limit: 100}
				if among != "tenants" {
					back.tenant, back.kb = "busy", "other"
				}
				serve(s, 10*time.Second, 1, []load{back, busy}) // both leave with some debt
				serve(s, 10*time.Minute, 2, []load{busy})
				got := serve(s, 10*time.Second, 3, []load{back, busy})
				if j := jain(got); j < 0.99 {
					t.Errorf("Jain index %.3f of %v after ten idle minutes", j, got)
				}
			})
		})
	}
}

// B4, A5: a tenant's units at a time never exceed its limit, all units never
// exceed the slots, and after many were cancelled while waiting, working or just
// granted, no slot is lost and none was made.
func TestSlotsAreNeverLostNorExceeded_B4(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			const slots, limit, tenants = 5, 3, 4
			s := actors.NewScheduler(slots)
			var mu sync.Mutex
			running, perTenant := 0, make(map[string]int)
			var all sync.WaitGroup
			for i := range 400 {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				tenant := fmt.Sprintf("t%d", r.IntN(tenants))
				kb := fmt.Sprintf("kb%d", r.IntN(3))
				all.Go(func() {
					time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(60))*time.Millisecond)
					defer cancel()
					release, err := s.Acquire(ctx, tenant, kb, limit, actors.Work{})
					if err != nil {
						return
					}
					mu.Lock()
					running++
					perTenant[tenant]++
					if running > slots || perTenant[tenant] > limit {
						t.Errorf("%d units at a time, %d of %s", running, perTenant[tenant], tenant)
					}
					mu.Unlock()
					time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond)
					mu.Lock()
					running--
					perTenant[tenant]--
					mu.Unlock()
					release()
					release() // a second time is no second slot
				})
			}
			all.Wait()
			checkSlots(t, s, slots)
		})
	}
}

// checkSlots takes all slots there should be, and not one more.
func checkSlots(t *testing.T, s *actors.Scheduler, slots int) {
	t.Helper()
	var releases []func()
	for i := range slots {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		release, err := s.Acquire(ctx, fmt.Sprintf("last%d", i), "kb", 1, actors.Work{})
		cancel()
		if err != nil {
			t.Fatalf("slot %d of %d is lost", i+1, slots)
		}
		releases = append(releases, release)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.Acquire(ctx, "more", "kb", 1, actors.Work{}); err == nil {
		t.Error("there is a slot too many")
	}
	for _, release := range releases {
		release()
	}
}

// A tenant at its limit waits without keeping the slots from others.
func TestTenantAtItsLimitHoldsUpNobody_B4(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := actors.NewScheduler(4)
		first, err := s.Acquire(t.Context(), "a", "kb", 1, actors.Work{})
		if err != nil {
			t.Fatal(err)
		}
		waiting := make(chan func())
		go func() {
			release, err := s.Acquire(t.Context(), "a", "kb", 1, actors.Work{})
			if err != nil {
				t.Error(err)
			}
			waiting <- release
		}()
		synctest.Wait()
		other, err := s.Acquire(t.Context(), "b", "kb", 1, actors.Work{})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-waiting:
			t.Error("the limit was exceeded")
		default:
		}
		first()
		(<-waiting)()
		other()
		checkSlots(t, s, 4)
	})
}

// Whoever comes to a node that another tenant floods is served at once: the last
// slot is kept for it, and only for it.
func TestAFloodLeavesTheDoorOpenForTheNextTenant_P3(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := actors.NewScheduler(3)
		var running, most atomic.Int64
		ctx, stop := context.WithCancel(t.Context())
		var flood sync.WaitGroup
		for range 50 {
			flood.Go(func() {
				for {
					release, err := s.Acquire(ctx, "flood", "kb", 100, actors.Work{})
					if err != nil {
						return
					}
					most.Store(max(most.Load(), running.Add(1)))
					time.Sleep(time.Second)
					running.Add(-1)
					release()
				}
			})
		}
		for range 20 {
			time.Sleep(1500 * time.Millisecond)
			synctest.Wait()
			start := time.Now()
			release, err := s.Acquire(t.Context(), "calm", "kb", 100, actors.Work{})
			if err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(start); waited > 0 {
				t.Errorf("waited %v for a slot", waited)
			}
			time.Sleep(10 * time.Millisecond)
			release()
		}
		stop()
		flood.Wait()
		if most.Load() != 2 {
			t.Errorf("the flood had %d of 3 slots, want all but the last", most.Load())
		}
	})
}

// A5: what units cost is known by their bytes before they end: while a large one runs,
// the small ones of another knowledge base get the slots, not one for one.
func TestSlotsAreSharedByCostNotByNumber_A5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := actors.NewScheduler(8)
		unit := func(kb string, bytes int64) func() {
			release, err := s.Acquire(t.Context(), "t", kb, 5, actors.Work{Stage: actors.StageEmbed, Bytes: bytes})
			if err != nil {
				t.Error(err)
				return func() {}
			}
			return release
		}
		for range 50 { // a byte takes a millisecond
			release := unit("warm", 10)
			time.Sleep(10 * time.Millisecond)
			release()
		}
		var hold []func()
		for range 4 {
			hold = append(hold, unit("warm", 1))
		}
		large := unit("large", 1000)
		var order []string
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				kb, bytes := "small", int64(10)
				if i%2 == 0 {
					kb, bytes = "large", 1000
				}
				release := unit(kb, bytes)
				mu.Lock()
				order = append(order, kb)
				mu.Unlock()
				time.Sleep(time.Duration(bytes) * time.Millisecond)
				release()
			})
			synctest.Wait()
		}
		hold[0]()
		time.Sleep(200 * time.Millisecond)
		mu.Lock()
		got := slices.Clone(order)
		mu.Unlock()
		if !slices.Equal(got[:min(4, len(got))], []string{"small", "small", "small", "small"}) {
			t.Errorf("while a large unit ran the slots went to %v, want the four small ones first", got)
		}
		large()
		for _, h := range hold[1:] {
			h()
		}
		all.Wait()
	})
}

// A5: while a tenant that has used less is at work, one with a flood makes way by a
// slot more than its equal part, but is not kept out for longer than half a second.
func TestAFloodMakesWayButNotForEver_A5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := actors.NewScheduler(3) // as on two processors
		ctx, stop := context.WithCancel(t.Context())
		var running, overlap, served atomic.Int64
		var calmAtWork atomic.Bool
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for {
					release, err := s.Acquire(ctx, "flood", "kb", 100, actors.Work{})
					if err != nil {
						return
					}
					running.Add(1)
					if calmAtWork.Load() {
						overlap.Add(1)
					}
					served.Add(1)
					time.Sleep(20 * time.Millisecond)
					running.Add(-1)
					release()
				}
			})
		}
		time.Sleep(10*time.Second + 7*time.Millisecond)
		calm := func(units int) {
			calmAtWork.Store(true)
			for range units {
				release, err := s.Acquire(t.Context(), "calm", "kb", 100, actors.Work{})
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(20 * time.Millisecond)
				release()
				time.Sleep(2 * time.Millisecond) // it stores what it made
			}
			calmAtWork.Store(false)
		}
		calm(10)
		if n := overlap.Load(); n > 0 {
			t.Errorf("%d units of the flood began beside the single document", n)
		}
		before := served.Load()
		calm(1000) // 22 s of work: far more than was saved up
		if n := served.Load() - before; n < 300 {
			t.Errorf("the flood got %d units beside 1000 of the other's", n)
		}
		stop()
		all.Wait()
	})
}

// A5: a tenant that is at work all the time and uses little does not keep a flood from
// half of its part: the time it is held back for is charged.
func TestALittleUserDoesNotIdleTheNode_A5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := actors.NewScheduler(3)
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		var all sync.WaitGroup
		all.Go(func() {
			for ctx.Err() == nil {
				if release, err := s.Acquire(ctx, "little", "kb", 100, actors.Work{}); err == nil {
					time.Sleep(2 * time.Millisecond)
					release()
				}
				time.Sleep(18 * time.Millisecond)
			}
		})
		var flood time.Duration
		for ctx.Err() == nil {
			if release, err := s.Acquire(ctx, "flood", "kb", 100, actors.Work{}); err == nil {
				time.Sleep(20 * time.Millisecond)
				release()
				flood += 20 * time.Millisecond
			}
		}
		all.Wait()
		if flood < 25*time.Second {
			t.Errorf("the flood got %v of a slot in a minute", flood)
		}
	})
}
