package sealed

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"granary.dev/granary/actors/journal"
)

// oneRow is a key store with one tenant, whose changes may be unreachable.
type oneRow struct {
	journal.KeyStore
	mu      sync.Mutex
	rec     journal.KeyRecord
	reads   int
	changes error
}

func (s *oneRow) Keys(context.Context, string) (journal.KeyRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.rec.Version == 0 {
		return s.rec, journal.ErrNotFound
	}
	return s.rec, nil
}

func (s *oneRow) PutKeys(_ context.Context, r journal.KeyRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Version != s.rec.Version+1 {
		return journal.ErrKeysChanged
	}
	s.rec = r
	return nil
}

func (s *oneRow) KeyChanges(context.Context, int64, int) ([]journal.KeyChange, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return nil, 0, s.changes
}

func (s *oneRow) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// cut makes changes unreachable.
func (s *oneRow) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = journal.ErrUnavailable
}

func newRing(t *testing.T, s *oneRow, lone bool) *ring {
	t.Helper()
	text, err := NewMasterKey()
	if err != nil {
		t.Fatal(err)
	}
	m, err := FixedMaster(text)
	if err != nil {
		t.Fatal(err)
	}
	return &ring{store: s, master: m, start: time.Now(), byName: map[string]*list.Element{}, ended: map[string]int64{},
		cfg: Config{Lone: lone, Poll: time.Second, Trust: 4 * time.Second, Cache: 2, Idle: time.Minute}}
}

// I2: keys are used without asking the store only while it can be known that they were
// not destroyed; a node that is alone need not ask.
func TestI2_KeysAreTrustedOnlyWhileTheStoreAnswers(t *testing.T) {
	for _, lone := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := &oneRow{}
			r := newRing(t, s, lone)
			if _, err := r.ofWriter(t.Context(), "acme"); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go r.watch(ctx, 0, func(error) {})
			use := func() int {
				before := s.count()
				for range 10 {
					if _, err := r.of(t.Context(), "acme"); err != nil {
						t.Fatal(err)
					}
				}
				return s.count() - before
			}
			time.Sleep(30 * time.Second)
			if n := use(); n != 0 {
				t.Errorf("lone %v: %d reads while the store answers", lone, n)
			}
			s.cut()
			time.Sleep(4*time.Second - 1) // of the last look that succeeded, at most
			if n := use(); n > 1 {
				t.Errorf("lone %v: %d reads within the time of trust", lone, n)
			}
			time.Sleep(5 * time.Second)
			if n := use(); lone && n != 0 || !lone && n != 1 {
				t.Errorf("lone %v: %d reads after it", lone, n)
			}
			time.Sleep(2 * time.Minute)
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.recent.Len() != 0 || len(r.byName) != 0 {
				t.Errorf("lone %v: idle keys are still held", lone)
			}
		})
	}
}

// I2: a destroyed tenant gets new keys only when no node can still use the old ones.
func TestI2_NewKeysWaitForTheOldOnesToBeForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &oneRow{rec: journal.KeyRecord{Tenant: "acme", Version: 2}} // destroyed
		r := newRing(t, s, false)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.ofWriter(short, "acme"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("at once: %v", err)
		}
		start := time.Now()
		k, err := r.ofWriter(t.Context(), "acme")
		if err != nil || k.version != 3 || time.Since(start) != 3*time.Second { // the second before counts
			t.Fatalf("got version %v after %v, %v", k.version, time.Since(start), err)
		}
	})
}

// I2: the number of tenants whose keys are held is bounded.
func TestI2_HeldKeysAreBounded(t *testing.T) {
	r := newRing(t, &oneRow{}, true)
	for i := range 5 {
		k, err := newKeys(fmt.Sprint("t", i), false)
		if err != nil {
			t.Fatal(err)
		}
		r.keep(k)
	}
	if r.recent.Len() != 2 || len(r.byName) != 2 || r.byName["t4"] == nil || r.byName["t3"] == nil {
		t.Fatalf("%d held", r.recent.Len())
	}
}

// F4: each kind of failure is counted, and told once a minute; no message holds a key.
func TestF4_FailuresAreCountedAndToldOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		f := &failures{log: slog.New(slog.NewTextHandler(&out, nil))}
		for range 3 {
			for range 100 {
				if err := f.unreadable("acme", "event", errTampered); !errors.Is(err, journal.ErrCorrupt) {
					t.Fatal(err)
				}
				if err := f.failed(failSeal, "acme", "event", errDestroyed); !errors.Is(err, journal.ErrUnavailable) {
					t.Fatal(err)
				}
				if err := f.failed(failKeys, "acme", "keys", errors.New("away")); !errors.Is(err, journal.ErrUnavailable) {
					t.Fatal(err)
				}
				if err := f.unreadable("acme", "event", context.Canceled); !errors.Is(err, context.Canceled) || errors.Is(err, journal.ErrCorrupt) {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
		}
		if n := strings.Count(out.String(), "encryption failed"); n != 9 {
			t.Errorf("told %d times:\n%s", n, out.String())
		}
		if st := f.Stats(); st != (Stats{Tampered: 300, Keys: 300, Destroyed: 300}) || st.Failures() != 600 {
			t.Errorf("counted %+v", st)
		}
	})
	k, err := newKeys("acme", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, k); got != redacted {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}
