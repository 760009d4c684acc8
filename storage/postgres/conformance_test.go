//go:build unix

package postgres

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"granary.dev/granary/storage/pgtest"
	"granary.dev/granary/storage/storagetest"
)

// shared is the server of this package's tests.
var shared = pgtest.New(pgtest.Options{Migrate: func(ctx context.Context, url string) error {
	_, err := migrate(ctx, Config{URL: Secret(url)}, slog.New(slog.DiscardHandler))
	return err
}})

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	code := m.Run()
	roots.Range(func(_, p any) bool { // of stores that a test opened by itself
		p.(*pool).Close()
		return true
	})
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
		for _, like := range []tenantPools{s.commits, s.bulk} {
			if p, made := roots.LoadAndDelete(like.pool); made {
				p.(*pool).Close()
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// roots are the pools that root has made, by the pool they are like.
var roots sync.Map

// root is a pool like another one whose sessions are the login, which in tests is a
// superuser: it sees and may do everything.
func root(t testing.TB, like tenantPools) *pool {
	t.Helper()
	if p, ok := roots.Load(like.pool); ok {
		return p.(*pool)
	}
	cfg := like.pool.Config()
	cfg.ConnConfig.RuntimeParams["role"] = "none"
	pp, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := &pool{Pool: pp, timeout: like.pool.timeout, patience: like.pool.patience}
	roots.Store(like.pool, p) // openAt closes it
	return p
}

func stores(s *Store, url string) storagetest.Stores {
	return storagetest.Stores{
		Journal: s, Blobs: s, Chunks: s, Counters: s, Receipts: s, Keys: s, Sealed: s, Audit: s, Directory: s,
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
