//go:build unix

package embedded

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"granary.dev/granary/storage/storagetest"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	goleak.VerifyTestMain(m)
}

// testClock is a clock that a test can set forward.
type testClock struct{ ahead atomic.Int64 }

func (c *testClock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// openAt opens the folder and closes it at the end of the test.
func openAt(t testing.TB, dir string, clock *testClock) *Store {
	t.Helper()
	cfg := Config{Dir: dir, Logger: testLogger(t)}
	if clock != nil {
		cfg.Clock = clock.now
	}
	s, err := Open(t.Context(), cfg)
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

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func stores(s *Store, clock *testClock) storagetest.Stores {
	return storagetest.Stores{
		Journal: s, Blobs: s, Chunks: s, Counters: s, Receipts: s, Keys: s, Sealed: s, Audit: s, Directory: s,
		Reopen: func(t *testing.T) storagetest.Stores {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return stores(openAt(t, s.dir, clock), clock)
		},
		Crash: func(t *testing.T) storagetest.Stores {
			return stores(openAt(t, copyFolder(t, s.dir), clock), clock)
		},
		CollectAt: func(t *testing.T, now time.Time) {
			clock.ahead.Store(int64(time.Until(now)))
			defer clock.ahead.Store(0)
			if err := s.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storagetest.Stores {
		clock := &testClock{}
		return stores(openAt(t, t.TempDir(), clock), clock)
	}, storagetest.Options{})
}

// copyFolder copies what a crash would leave: database, log and blobs, without
// the shared memory that the processes of the old boot held.
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
	if err != nil {
		t.Fatal(err)
	}
	return to
}
