//go:build unix

package sealed_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"granary.dev/granary/storage/embedded"
	"granary.dev/granary/storage/pgtest"
	"granary.dev/granary/storage/postgres"
	"granary.dev/granary/storage/sealed"
	"granary.dev/granary/storage/storagetest"
)

var shared = pgtest.New(pgtest.Options{Migrate: func(ctx context.Context, url string) error {
	s, err := postgres.Open(ctx, postgres.Config{URL: postgres.Secret(url)})
	if err != nil {
		return err
	}
	return s.Close()
}})

func TestMain(m *testing.M) {
	code := m.Run()
	if err := errors.Join(shared.Close(), goleak.Find()); err != nil {
		slog.Error("after the tests", "err", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func quiet(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
}

// world is one store's data with its master key; it opens it any number of times.
type world struct {
	master *sealed.Master
	dir    string // of the embedded store
	url    string // of PostgreSQL
	clock  atomic.Int64
}

func newMaster(t testing.TB) *sealed.Master {
	t.Helper()
	text, err := sealed.NewMasterKey()
	check(t, err)
	m, err := sealed.FixedMaster(text)
	check(t, err)
	return m
}

func check(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func onFolder(t testing.TB) *world { return &world{master: newMaster(t), dir: t.TempDir()} }

func onPostgres(t testing.TB) *world { return &world{master: newMaster(t), url: shared.Database(t)} }

// worlds are the stores each test is for.
var worlds = map[string]func(testing.TB) *world{"embedded": onFolder, "postgres": onPostgres}

func onEach(t *testing.T, test func(t *testing.T, w *world)) {
	for name, open := range worlds {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// inner opens the store below.
func (w *world) inner(t testing.TB) sealed.Inner {
	t.Helper()
	if w.url != "" {
		s, err := postgres.Open(t.Context(), postgres.Config{URL: postgres.Secret(w.url), Logger: quiet(t)})
		check(t, err)
		return s
	}
	s, err := embedded.Open(t.Context(), embedded.Config{Dir: w.dir, Logger: quiet(t),
		Clock: func() time.Time { return time.Now().Add(time.Duration(w.clock.Load())) }})
	check(t, err)
	return s
}

// open opens the store as a node does.
func (w *world) open(t testing.TB) *sealed.Store {
	t.Helper()
	return w.over(t, w.inner(t), sealed.Config{Lone: w.url == ""})
}

func (w *world) over(t testing.TB, inner sealed.Inner, cfg sealed.Config) *sealed.Store {
	t.Helper()
	if cfg.Master == nil {
		cfg.Master = w.master
	}
	if cfg.Logger == nil {
		cfg.Logger = quiet(t)
	}
	s, err := sealed.Open(t.Context(), inner, cfg)
	if err != nil {
		check(t, errors.Join(err, inner.Close()))
	}
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

func (w *world) stores(s *sealed.Store) storagetest.Stores {
	out := storagetest.Stores{Journal: s, Blobs: s, Chunks: s, Counters: s, Receipts: s, Audit: s, Directory: s, Reopen: func(t *testing.T) storagetest.Stores {
		check(t, s.Close())
		return w.stores(w.open(t))
	}}
	if w.dir != "" {
		out.Crash = func(t *testing.T) storagetest.Stores {
			after := &world{master: w.master, dir: copyFolder(t, w.dir)}
			return after.stores(after.open(t))
		}
		out.CollectAt = func(t *testing.T, now time.Time) {
			w.clock.Store(int64(time.Until(now)))
			defer w.clock.Store(0)
			check(t, s.Inner.(*embedded.Store).Collect(t.Context()))
		}
	}
	return out
}

// I2: what encrypts keeps all promises of the store below it.
func TestConformance(t *testing.T) {
	onEach(t, func(t *testing.T, first *world) {
		storagetest.Run(t, func(t *testing.T) storagetest.Stores {
			w := onFolder(t)
			if first.url != "" {
				w = onPostgres(t)
			}
			return w.stores(w.open(t))
		}, storagetest.Options{Writers: 16})
	})
}

// copyFolder copies what a crash would leave: database, log and blobs, without the
// shared memory of the processes of the old boot.
func copyFolder(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(from, path)
		if err != nil || rel == "granary.db-shm" {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
	check(t, err)
	return to
}
