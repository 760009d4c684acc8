package tokens_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/tokens"
)

// spend takes tokens until one is refused.
func spend(t *testing.T, h *tokens.Holder, m kb.Meter) (n int64, err error) {
	t.Helper()
	for {
		if _, err = h.Take(t.Context(), acme, m); err != nil {
			return n, err
		}
		n++
	}
}

func TestB4_WithoutTheTenantABoundedNumberGoesOnAndIsCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(1000)
		h := node(t, o, "n1")
		if _, err := h.Take(t.Context(), acme, kb.MeterCalls); err != nil {
			t.Fatal(err)
		}
		o.set(func() { o.away = true })
		n, err := spend(t, h, kb.MeterCalls)
		if e, ok := errors.AsType[*kb.Error](err); !ok || e.Code != kb.CodeUnavailable || e.RetryAfter == 0 {
			t.Fatalf("refused with %v", err)
		}
		if h.Credited() != 50 || n < 50 { // a twentieth
			t.Fatalf("%d on credit, %d in all", h.Credited(), n)
		}
		// Waiting does not make it more, until the next window.
		time.Sleep(time.Minute)
		if n, _ := spend(t, h, kb.MeterCalls); n != 0 {
			t.Fatalf("%d more", n)
		}
		o.set(func() { o.away = false })
		time.Sleep(2 * time.Second)
		if _, err := h.Take(t.Context(), acme, kb.MeterCalls); err != nil { // may ask in vain, and looks
			time.Sleep(2 * time.Second)
		}
		rest, err := spend(t, h, kb.MeterCalls)
		if !refused(err, kb.MeterCalls) {
			t.Fatal(err)
		}
		if u := o.usage(kb.MeterCalls); u.Used != 1000 || rest > 1000-1-n {
			t.Fatalf("usage is %+v; %d on credit, %d after it", u, n, rest)
		}
	})
}

func TestB4_WhereNothingWasLeftNothingGoesOnCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(100)
		h := node(t, o, "n1")
		if n, err := spend(t, h, kb.MeterCalls); n != 100 || !refused(err, kb.MeterCalls) {
			t.Fatal(n, err)
		}
		o.set(func() { o.away = true })
		time.Sleep(time.Second)
		if n, err := spend(t, h, kb.MeterCalls); n != 0 || h.Credited() != 0 {
			t.Fatal(n, err)
		}
		// Nor for a tenant this node never heard of.
		if _, err := h.Take(t.Context(), "stranger", kb.MeterCalls); err == nil || h.Credited() != 0 {
			t.Fatal("a stranger went on credit")
		}
	})
}

func TestB4_ACallerDoesNotWaitLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(100)
		o.delay = func() time.Duration { return time.Minute }
		h := node(t, o, "n1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Take(ctx, acme, kb.MeterCalls); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}

func TestB4_ATenantThatHammersAtItsLimitCostsTwoMessagesASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(10)
		h := node(t, o, "n1")
		if _, err := spend(t, h, kb.MeterCalls); !refused(err, kb.MeterCalls) {
			t.Fatal(err)
		}
		before := o.asked.Load()
		for range 10_000 {
			if _, err := h.Take(t.Context(), acme, kb.MeterCalls); !refused(err, kb.MeterCalls) {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if n := o.asked.Load() - before; n > 21 {
			t.Fatalf("%d messages in 10 s", n)
		}
		// Another tier counts within that half second.
		o.set(func() { o.base = 20 })
		time.Sleep(500 * time.Millisecond)
		if n, _ := spend(t, h, kb.MeterCalls); n != 10 {
			t.Fatalf("%d after the limit rose by 10", n)
		}
	})
}

func TestB4_WhatANodeDoesNotUseComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(1000)
		h := node(t, o, "n1")
		for range 300 { // a busy tenant has blocks
			if _, err := h.Take(t.Context(), acme, kb.MeterCalls); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(6 * time.Second)
		if u := o.usage(kb.MeterCalls); u.Used != 300 || u.GrantedUnused != 0 || u.Remaining != 700 {
			t.Fatalf("usage is %+v", u)
		}
		time.Sleep(3 * time.Minute)
		if n := h.Tenants(); n != 0 {
			t.Fatalf("%d tenants are remembered", n)
		}
		if n, err := spend(t, h, kb.MeterCalls); n != 700 {
			t.Fatalf("%d after it was forgotten: %v", n, err)
		}
	})
}

func TestB4_AStoppingNodeGivesBackItsTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(1000)
		h := tokens.New("n1", o)
		for range 300 {
			if _, err := h.Take(t.Context(), acme, kb.MeterCalls); err != nil {
				t.Fatal(err)
			}
		}
		h.Close(t.Context())
		if u := o.usage(kb.MeterCalls); u.Used != 300 || u.GrantedUnused != 0 {
			t.Fatalf("usage is %+v", u)
		}
	})
}

func TestB4_DocumentsWaitForTheNextWindowAndLeaveRoomForSearches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(100)
		h := node(t, o, "n1")
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
		began, got, waits := time.Now(), 0, 0
		for ; got < 120; got++ {
			err := h.Wait(t.Context(), acme, kb.MeterVectors, func(until time.Time) {
				if until.IsZero() {
					return
				}
				if waits++; got != 80 || until.After(began.Add(61*time.Second)) {
					t.Errorf("waits until %v with %d", until, got)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if got == 79 { // what they leave is there for searches
				for range 20 {
					if _, err := h.Take(t.Context(), acme, kb.MeterVectors); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if took := time.Since(began); took < time.Minute || took > 66*time.Second || waits == 0 {
			t.Fatalf("120 operations took %v, with %d waits", took, waits)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for {
			if err := h.Wait(ctx, acme, kb.MeterVectors, func(time.Time) {}); err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				return
			}
		}
	})
}

func TestB4_StateTellsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(1000)
		h := node(t, o, "n1")
		time.Sleep(time.Until(time.Now().Truncate(time.Hour).Add(time.Hour + 10*time.Minute)))
		for i := range int64(1000) {
			s, err := h.Take(t.Context(), acme, kb.MeterCalls)
			if err != nil || s.Base != 1000 || s.Remaining != 999-i || s.Reset > 50*time.Minute || s.Reset < 49*time.Minute {
				t.Fatalf("call %d: %+v, %v", i, s, err)
			}
		}
	})
}
