//go:build unix

package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/pgtest"
)

// blockedAppend starts an append while another session holds the owner row,
// and gives control once the append waits for it.
type blockedAppend struct {
	s      *Store
	f      journal.Fence
	holder *pgx.Conn
	pid    int32 // of the session that waits
	cancel context.CancelFunc
	result chan error
}

func blockAppend(t *testing.T) *blockedAppend {
	t.Helper()
	url := shared.Database(t)
	b := &blockedAppend{s: openAt(t, url), result: make(chan error, 1)}
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}
	var err error
	b.f, _, err = b.s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	check(t, err)
	b.holder, err = pgx.Connect(t.Context(), url)
	check(t, err)
	t.Cleanup(func() { _ = b.holder.Close(context.Background()) })
	_, err = b.holder.Exec(t.Context(), "BEGIN; SELECT 1 FROM owner FOR UPDATE")
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	b.cancel = cancel
	t.Cleanup(cancel)
	go func() {
		b.result <- b.s.Append(ctx, b.f, journal.Batch{Events: testEvents(0, 1, "e")})
	}()
	for b.pid == 0 {
		err := b.holder.QueryRow(t.Context(), `
			SELECT coalesce(max(pid), 0) FROM pg_stat_activity
			WHERE datname = current_database() AND pg_backend_pid() = ANY (pg_blocking_pids(pid))`).Scan(&b.pid)
		check(t, err)
	}
	return b
}

func (b *blockedAppend) wantEvents(t *testing.T, n int) {
	t.Helper()
	list, err := b.s.Events(t.Context(), b.f.Identity, 0, 10)
	if check(t, err); len(list) != n {
		t.Fatalf("%d events, want %d", len(list), n)
	}
}

func TestI7_AppendWhoseConnectionIsLostIsInDoubt(t *testing.T) {
	b := blockAppend(t)
	_, err := b.holder.Exec(t.Context(), "SELECT pg_terminate_backend($1)", b.pid)
	check(t, err)
	if err := <-b.result; !errors.Is(err, journal.ErrInDoubt) || errors.Is(err, journal.ErrUnavailable) {
		t.Fatalf("got %v, want only in doubt", err)
	}
	_, err = b.holder.Exec(t.Context(), "ROLLBACK")
	check(t, err)
	b.wantEvents(t, 0)
	check(t, b.s.Append(t.Context(), b.f, journal.Batch{Events: testEvents(0, 1, "e")}))
	st := b.s.Stats()
	if st.InDoubt != 1 || st.Appended != 1 || st.Commits.Resets != 1 {
		t.Fatalf("stats are %+v", st)
	}
}

func TestI7_AppendThatWaitsTooLongForTheRowIsUnavailableAndWritesNothing(t *testing.T) {
	b := blockAppend(t)
	start := time.Now()
	if err := <-b.result; !errors.Is(err, journal.ErrUnavailable) || errors.Is(err, journal.ErrInDoubt) {
		t.Fatalf("got %v, want only unavailable", err)
	}
	if took := time.Since(start); took > 2*lockTimeout {
		t.Fatalf("gave up after %v", took)
	}
	_, err := b.holder.Exec(t.Context(), "ROLLBACK")
	check(t, err)
	b.wantEvents(t, 0)
}

func TestI4_CommitRunsOnWhenItsCallerIsGone(t *testing.T) {
	b := blockAppend(t)
	b.cancel()
	_, err := b.holder.Exec(t.Context(), "ROLLBACK")
	check(t, err, <-b.result)
	b.wantEvents(t, 1)
}

func TestDatabaseThatIsDownIsUnavailableAndComesBack(t *testing.T) {
	srv := ownServer(t, pgtest.Options{})
	s := openAt(t, srv.URL("postgres"))
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	check(t, err)
	url := srv.URL("postgres")
	check(t, srv.Pause())
	for range 40 { // connections that broke are told apart from a server that is not there
		err = s.Append(t.Context(), f, journal.Batch{Events: testEvents(0, 1, "e")})
		if err == nil {
			t.Fatal("appended to a server that is down")
		}
	}
	if !errors.Is(err, journal.ErrUnavailable) || errors.Is(err, journal.ErrInDoubt) {
		t.Fatalf("append: %v", err)
	}
	_, err = s.Events(t.Context(), id, 0, 1)
	if !errors.Is(err, journal.ErrUnavailable) {
		t.Fatalf("events: %v", err)
	}
	if _, err = Open(t.Context(), Config{URL: Secret(url)}); !errors.Is(err, journal.ErrUnavailable) {
		t.Fatalf("open: %v", err)
	}
	check(t, srv.Resume(t.Context()), s.Append(t.Context(), f, journal.Batch{Events: testEvents(0, 1, "e")}))
}

func TestClosedStoreIsUnavailable(t *testing.T) {
	s := openAt(t, shared.Database(t))
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	check(t, err, s.Close(), s.Close())
	if err := s.Append(t.Context(), f, journal.Batch{}); !errors.Is(err, journal.ErrUnavailable) {
		t.Fatal(err)
	}
	if _, err := s.LoadSnapshot(t.Context(), id); !errors.Is(err, journal.ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestServerErrorsSayWhatIsKnown(t *testing.T) {
	pg := func(severity, code string) error {
		return &pgconn.PgError{Severity: severity, SeverityUnlocalized: severity, Code: code}
	}
	for _, c := range []struct {
		err  error
		want error
	}{
		{pg("ERROR", "40001"), journal.ErrUnavailable}, {pg("ERROR", "40P01"), journal.ErrUnavailable},
		{pg("ERROR", "57014"), journal.ErrUnavailable}, {pg("ERROR", codeReadOnly), journal.ErrUnavailable},
		{pg("ERROR", codeBlob), journal.ErrNotFound}, {pg("ERROR", codeKey), journal.ErrFenced},
		{pg("ERROR", "22021"), ErrInvalid}, {pg("ERROR", "XX001"), journal.ErrCorrupt},
		{pg("FATAL", "57P01"), journal.ErrInDoubt}, {pg("PANIC", "XX000"), journal.ErrInDoubt},
		{errors.New("connection reset"), journal.ErrInDoubt}, {context.DeadlineExceeded, journal.ErrInDoubt},
	} {
		if got := writeError(c.err); !errors.Is(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.err, got, c.want)
		}
	}
}

// ownServer is a server that a test may stop.
func ownServer(t *testing.T, opts pgtest.Options) *pgtest.Server {
	t.Helper()
	srv, err := pgtest.Start(t.Context(), opts)
	pgtest.SkipWithout(t, err)
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	return srv
}
