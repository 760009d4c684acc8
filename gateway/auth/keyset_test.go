package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"crypto/ed25519"

	"github.com/golang-jwt/jwt/v5"
	"granary.dev/granary/actors/kb"
)

func edKey(x []byte) ed25519.PublicKey { return x }

func unhex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// shelf is where a key set is read from: what a test puts there.
type shelf struct {
	mu    sync.Mutex
	text  []byte
	err   error
	delay time.Duration
	reads atomic.Int64
}

func (s *shelf) put(text []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.err = text, err
}

func (s *shelf) read(ctx context.Context) ([]byte, error) {
	s.reads.Add(1)
	s.mu.Lock()
	text, err, delay := s.text, s.err, s.delay
	s.mu.Unlock()
	select {
	case <-time.After(delay):
		return text, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newKeySet(t *testing.T, s *shelf) *keySet {
	ctx, cancel := context.WithCancel(t.Context())
	k := &keySet{name: "idp", read: s.read, now: time.Now, log: slog.New(slog.DiscardHandler), base: ctx}
	t.Cleanup(func() { cancel(); k.reads.Wait() })
	return k
}

// edSet is a set of Ed25519 keys with the names given.
func edSet(t *testing.T, kids ...string) []byte {
	t.Helper()
	var keys []map[string]any
	for _, kid := range kids {
		public, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, jwkOf(kid, "", public))
	}
	return setOf(keys...)
}

func isUnavailable(err error) bool {
	e, ok := errors.AsType[*kb.Error](err)
	return ok && e.Code == kb.CodeUnavailable
}

func TestARotationIsSeenAtOnceAndForgedKidsCannotHoldItUp_B1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{delay: 50 * time.Millisecond}
		s.put(edSet(t, "one"), nil)
		k := newKeySet(t, s)
		if _, _, err := k.candidates(t.Context(), "EdDSA", "one"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s.put(edSet(t, "one", "two"), nil)
		if got, _, err := k.candidates(t.Context(), "EdDSA", "two"); err != nil || len(got) != 1 {
			t.Fatalf("a new key: %v", err)
		}
		// A flood of kids nobody has, and in the middle of it a third key.
		start, reads := time.Now(), s.reads.Load()
		var seen time.Duration
		for n := range 60_000 {
			if n == 20_000 {
				s.put(edSet(t, "one", "two", "three"), nil)
			}
			if _, _, err := k.candidates(t.Context(), "EdDSA", fmt.Sprint("forged", n)); !errors.Is(err, errNoKey) {
				t.Fatal(err)
			}
			if n >= 20_000 && n%100 == 0 && seen == 0 {
				if _, _, err := k.candidates(t.Context(), "EdDSA", "three"); err == nil {
					seen = time.Since(start) - 20*time.Second
				}
			}
			time.Sleep(time.Millisecond)
		}
		if seen == 0 || seen > refetchAfter+time.Second {
			t.Errorf("the new key was good after %v", seen)
		}
		if n := s.reads.Load() - reads; n > int64(time.Since(start)/refetchAfter)+1 {
			t.Errorf("forged kids caused %d reads in %v", n, time.Since(start))
		}
	})
}

func TestManyAtOnceCauseOneReadAndWaitersAreBounded_B1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{delay: time.Second}
		s.put(edSet(t, "one"), nil)
		k := newKeySet(t, s)
		var good, refused atomic.Int64
		var all sync.WaitGroup
		for range 4 * mostWaiting {
			all.Go(func() {
				switch _, _, err := k.candidates(t.Context(), "EdDSA", "one"); {
				case err == nil:
					good.Add(1)
				case isUnavailable(err):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if s.reads.Load() != 1 || good.Load() != mostWaiting || refused.Load() != 3*mostWaiting {
			t.Errorf("%d reads, %d good, %d refused", s.reads.Load(), good.Load(), refused.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.Sleep(time.Minute)
		cancel()
		if _, _, err := k.candidates(ctx, "EdDSA", "other"); !errors.Is(err, context.Canceled) {
			t.Errorf("whoever has gone: %v", err)
		}
	})
}

func TestKeysServeOnWhileTheIssuerIsAwayForADay_B1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		k := newKeySet(t, s)
		s.put(nil, errors.New("away"))
		if _, _, err := k.candidates(t.Context(), "EdDSA", "one"); !isUnavailable(err) {
			t.Errorf("never read: %v", err)
		}
		time.Sleep(refetchAfter)
		s.put(edSet(t, "one"), nil)
		if _, _, err := k.candidates(t.Context(), "EdDSA", "one"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		s.put(nil, errors.New("away"))
		s.delay = fetchTime + time.Second
		for time.Since(began) < staleAfter-time.Minute {
			asked := time.Now()
			if _, _, err := k.candidates(t.Context(), "EdDSA", "one"); err != nil {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
			if waited := time.Since(asked); waited > 0 {
				t.Fatalf("waited %v for an issuer that is away", waited)
			}
			time.Sleep(time.Minute)
		}
		if _, _, err := k.candidates(t.Context(), "EdDSA", "two"); !isUnavailable(err) {
			t.Errorf("a key that may be new: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if _, _, err := k.candidates(t.Context(), "EdDSA", "one"); !isUnavailable(err) {
			t.Errorf("after a day: %v", err)
		}
		time.Sleep(refetchAfter + fetchTime)
		s.delay = 0
		s.put(edSet(t, "one"), nil)
		if _, _, err := k.candidates(t.Context(), "EdDSA", "one"); err != nil {
			t.Errorf("it is back: %v", err)
		}
	})
}

func TestAWithdrawnKeyIsNotGoodForLong_B1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		s.put(edSet(t, "one"), nil)
		k := newKeySet(t, s)
		if _, _, err := k.candidates(t.Context(), "EdDSA", "one"); err != nil {
			t.Fatal(err)
		}
		before, _ := k.current()
		s.put(edSet(t, "two"), nil)
		time.Sleep(refreshAfter)
		if _, _, err := k.candidates(t.Context(), "EdDSA", "one"); err != nil { // served, and read beside it
			t.Fatal(err)
		}
		synctest.Wait()
		if _, _, err := k.candidates(t.Context(), "EdDSA", "one"); !errors.Is(err, errNoKey) {
			t.Errorf("the key is withdrawn: %v", err)
		}
		if after, ok := k.current(); after == before || !ok {
			t.Error("what was remembered of its tokens is still good")
		}
		// After a pause the first call waits.
		s.put(edSet(t, "three"), nil)
		time.Sleep(time.Hour)
		if _, _, err := k.candidates(t.Context(), "EdDSA", "two"); !errors.Is(err, errNoKey) {
			t.Errorf("withdrawn in a pause: %v", err)
		}
		if n := s.reads.Load(); n != 3 {
			t.Errorf("%d reads", n)
		}
	})
}

func TestTokensAreForgottenWithTheirKeys_B1(t *testing.T) {
	k := testKeys()["ed"]
	idp := newIDP(t, jwkOf("k", "", k.Public()))
	a, clock := tokens(t, idp.config())
	first, second := signed(t, "EdDSA", "k", k, claimsOf(idp.URL, nil)), signed(t, "EdDSA", "k", k, claimsOf(idp.URL, jwt.MapClaims{"sub": "bob"}))
	verify := func(text string) error {
		_, err := a.Verify(t.Context(), text)
		return err
	}
	if err := verify(first); err != nil {
		t.Fatal(err)
	}
	clock.now = epoch.Add(refreshAfter - time.Minute)
	if err := verify(second); err != nil {
		t.Fatal(err)
	}
	idp.serve(200, jwkOf("other", "", testKeys()["p256"].Public()))
	clock.now = epoch.Add(refreshAfter)
	if err := verify(second); err != nil {
		t.Errorf("remembered, and its keys read again beside: %v", err)
	}
	a.issuers[idp.URL].keys.reads.Wait()
	if err := verify(second); !errors.Is(err, ErrToken) {
		t.Errorf("its key is gone: %v", err)
	}
}
