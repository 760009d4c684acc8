//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// EnvRequire names the environment variable that makes a missing server a failure.
const EnvRequire = "GRANARY_TEST_REQUIRE_POSTGRES"

const template = "granary_template"

// Options says what kind of server the tests need.
type Options struct {
	// Migrate brings the template database to the state every test's database
	// begins in. It must leave no connection open. nil: empty databases.
	Migrate func(ctx context.Context, url string) error
	// Fsync makes commits durable against a crash of the machine, at the cost
	// of the disk's latency. Off, they survive a crash of the server only.
	Fsync bool
	// TCP makes the server listen at a free port of the loopback interface
	// instead of a socket in its folder: for tests that put a proxy before it.
	TCP bool
	// Settings are further server settings, "name=value".
	Settings []string
	// Dir is where the server's folder is made; "" is the system's temporary folder.
	Dir string
	// Home, when set, is the server's folder: made by the first Start, and kept by
	// Stop, so that the next Start finds the data. For one server at a time.
	Home string
}

// Harness is one server shared by the tests of a package. It starts with the
// first database asked for. Safe for concurrent use.
type Harness struct {
	opts Options
	last atomic.Int64 // number of the last database

	mu     sync.Mutex
	begun  bool
	server *Server
	err    error // why there is none
}

// New makes a harness; nothing is started yet. Close it after the tests.
func New(opts Options) *Harness { return &Harness{opts: opts} }

// Close stops the server if one was started. Idempotent.
func (h *Harness) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server == nil {
		return nil
	}
	err := h.server.Stop()
	h.server, h.err = nil, errors.New("pgtest: the harness is closed")
	return err
}

// Server gives the shared server. Without one the test is skipped, or fails
// when EnvRequire is set.
func (h *Harness) Server(t testing.TB) *Server {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.begun {
		h.begun = true
		h.server, h.err = h.start(context.WithoutCancel(t.Context()))
	}
	SkipWithout(t, h.err)
	return h.server
}

// SkipWithout ends a test that has no server: skipped, loudly, when none is
// installed and none is required; failed otherwise.
func SkipWithout(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrNoServer) && os.Getenv(EnvRequire) == "":
		fmt.Fprintf(os.Stderr, "pgtest: SKIPPED %s: %v\n", t.Name(), err)
		t.Skipf("%v (set %s to make this a failure)", err, EnvRequire)
	default:
		t.Fatal(err)
	}
}

func (h *Harness) start(ctx context.Context) (*Server, error) {
	s, err := Start(ctx, h.opts)
	if err != nil {
		return nil, err
	}
	err = s.Do(ctx, "postgres", "CREATE DATABASE "+template)
	if err == nil && h.opts.Migrate != nil {
		err = h.opts.Migrate(ctx, s.URL(template))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pgtest: make the template: %w", err), s.Stop())
	}
	return s, nil
}

// Database clones the template for this test and gives its address. It is
// dropped when the test ends, whoever is still connected to it.
func (h *Harness) Database(t testing.TB) string {
	t.Helper()
	return h.clone(t, template)
}

// EmptyDatabase is like Database, without what Migrate has made.
func (h *Harness) EmptyDatabase(t testing.TB) string {
	t.Helper()
	return h.clone(t, "template0")
}

func (h *Harness) clone(t testing.TB, from string) string {
	t.Helper()
	s := h.Server(t)
	name := fmt.Sprintf("test_%d", h.last.Add(1))
	if err := s.Do(t.Context(), "postgres", "CREATE DATABASE "+name+" TEMPLATE "+from); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := s.Do(ctx, "postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return s.URL(name)
}

// Do runs one statement in a database of the server, as its superuser.
func (s *Server) Do(ctx context.Context, database, statement string) error {
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return fmt.Errorf("pgtest: connect: %w", err)
	}
	_, err = conn.Exec(ctx, statement)
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return fmt.Errorf("pgtest: %s: %w", statement, err)
	}
	return nil
}
