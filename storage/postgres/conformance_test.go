//go:build unix

package postgres

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"granary.dev/granary/storage/pgtest"
	"granary.dev/granary/storage/storagetest"
)

// shared is the server of this package's tests.
var shared = pgtest.New(pgtest.Options{Migrate: func(ctx context.Context, url string) error {
	return migrate(ctx, Config{URL: Secret(url)}, slog.New(slog.DiscardHandler))
}})

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	code := m.Run()
	if err := errors.Join(shared.Close(), goleak.Find()); err != nil {
		slog.Error("after the tests", "err", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// openAt opens a store on the database and closes it at the end of the test.
func openAt(t testing.TB, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{URL: Secret(url), Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func stores(s *Store, url string) storagetest.Stores {
	return storagetest.Stores{
		Journal: s, Blobs: s, Chunks: s, Counters: s, Keys: s, Sealed: s, Audit: s, Directory: s,
		Reopen: func(t *testing.T) storagetest.Stores {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return stores(openAt(t, url), url)
		},
		CollectAt: func(t *testing.T, now time.Time) { collectAt(t, s, now) },
	}
}

// collectAt collects as if it were that time; another collection may be at it.
func collectAt(t *testing.T, s *Store, now time.Time) {
	t.Helper()
	for {
		done, err := s.collectAhead(t.Context(), time.Until(now))
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return
		}
	}
}

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storagetest.Stores {
		url := shared.Database(t)
		return stores(openAt(t, url), url)
	}, storagetest.Options{})
}
