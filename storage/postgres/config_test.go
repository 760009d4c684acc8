//go:build unix

package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/pgtest"
)

func TestPasswordIsInNoErrorAndNoLog(t *testing.T) {
	const secret = "s3cr:et@/p%?w" //nolint:gosec // that is the test
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, url := range []string{
		"postgres://granary:s3cr%3Aet@127.0.0.1:1/db", // nobody listens
		"postgres://granary:" + secret + "@127.0.0.1:1/db",
		"postgres://granary:" + secret + "@host:port/db",
		"postgres://granary:s3cr%zz@127.0.0.1/db",
		"host=127.0.0.1 port=1 user=granary password='s3cr et' dbname=db",
		"host=127.0.0.1 password=s3cr port=x",
		"postgres://127.0.0.1:1/db?password=s3cr",
		"s3cr", "",
	} {
		cfg := Config{URL: Secret(url), Logger: logger}
		_, err := Open(t.Context(), cfg)
		if err == nil {
			t.Fatalf("opened %q", url)
		}
		if !errors.Is(err, ErrInvalid) && !errors.Is(err, journal.ErrUnavailable) {
			t.Errorf("%q: untyped error %v", url, err)
		}
		logger.Error("open", "err", err, "config", cfg, "url", cfg.URL)
		encoded, err2 := json.Marshal(map[string]any{"url": cfg.URL})
		check(t, err2)
		said := fmt.Sprintf("%v %+v %#v %s %q %x %d %s", err, cfg, cfg, cfg.URL, cfg.URL, cfg.URL, cfg.URL, encoded)
		if strings.Contains(said+log.String(), "s3cr") || strings.Contains(said, fmt.Sprintf("%x", "s3cr")) {
			t.Fatalf("the password is told: %s\n%s", said, log.String())
		}
	}
}

func TestWrongPasswordIsNotTold(t *testing.T) {
	srv := shared.Server(t)
	url := strings.Replace(srv.URL("postgres"), srv.Password(), "n0t-the-0ne", 1)
	_, err := Open(t.Context(), Config{URL: Secret(url)})
	if !errors.Is(err, journal.ErrUnavailable) || strings.Contains(err.Error(), "n0t-the-0ne") {
		t.Fatal(err)
	}
}

func setting(t *testing.T, p *pool, name string) (value string) {
	t.Helper()
	check(t, p.read(t.Context(), func(ctx context.Context, q querier) error {
		return q.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value)
	}))
	return value
}

func TestSessionSettingsAreOursWhateverTheAddressSays(t *testing.T) {
	// A server whose default would lose acknowledged commits.
	srv := ownServer(t, pgtest.Options{TCP: true, Settings: []string{"synchronous_commit=off", "default_transaction_isolation=serializable"}})
	s := openAt(t, srv.URL("postgres")+"&statement_timeout=0&lock_timeout=0&idle_in_transaction_session_timeout=0")
	for p, want := range map[*pool]map[string]string{
		s.commits.pool: {"lock_timeout": "1s", "statement_timeout": "5s"},
		s.bulk.pool:    {"lock_timeout": "10s", "statement_timeout": "1min"},
	} {
		want["idle_in_transaction_session_timeout"] = "2s"
		want["synchronous_commit"] = "on"
		want["default_transaction_isolation"] = "read committed"
		want["application_name"] = "granary"
		for name, value := range want {
			if got := setting(t, p, name); got != value {
				t.Errorf("%s is %s, want %s", name, got, value)
			}
		}
	}
	check(t, s.Ping(t.Context()))
}

func TestD4_PoolMetricsShowWhoWaits(t *testing.T) {
	url := shared.Database(t)
	s, err := Open(t.Context(), Config{URL: Secret(url), MaxConns: 1}) // too few: raised to 9, of which 2 are for bulk
	check(t, err)
	defer s.Close()
	if st := s.Stats(); st.Commits.Max != 2 || st.Bulk.Max != 2 {
		t.Fatalf("stats are %+v", st)
	}
	a, err := s.commits.pool.conn(t.Context())
	check(t, err)
	b, err := s.commits.pool.conn(t.Context())
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := s.Owner(ctx, journal.Identity{Kind: "kb", Tenant: "a", ID: "k"})
		result <- err
	}()
	if st := s.Stats().Commits; st.InUse != 2 || st.Idle != 0 {
		t.Fatalf("stats are %+v", st)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatalf("who waits for a connection and gives up: %v", err)
	}
	a.Release()
	b.Release()
	if _, err := s.Owner(t.Context(), journal.Identity{Kind: "kb", Tenant: "a", ID: "k"}); !errors.Is(err, journal.ErrNotFound) {
		t.Fatal(err)
	}
	if st := s.Stats().Commits; st.InUse != 0 || st.Opened != 2 || st.Acquired < 3 {
		t.Fatalf("stats are %+v", st)
	}
}

func TestMalformedTextIsRefusedBeforeItIsSent(t *testing.T) {
	s := openAt(t, shared.Database(t))
	id := journal.Identity{Kind: "kb", Tenant: "a", ID: "k"}
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	check(t, err)
	bad := testEvents(0, 1, "e")
	bad[0].Principal = "nul\x00"
	twice := journal.Idempotency{IdempotencyKey: journal.IdempotencyKey{Key: "k"}}
	for name, b := range map[string]journal.Batch{
		"principal": {Events: bad},
		"key twice": {Idempotency: []journal.Idempotency{twice, twice}},
		"wake-up":   {SetWakeups: []journal.Wakeup{{Key: "\xff"}}},
	} {
		if err := s.Append(t.Context(), f, b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, ok, err := s.FindIdempotency(t.Context(), f, journal.IdempotencyKey{Key: "\x00"})
	if err != nil || ok {
		t.Fatalf("a key that cannot be: %v, %v", ok, err)
	}
	// A key of a batch counts once, the last time it is set.
	later := testEvents(0, 1, "e")[0].Time
	check(t, s.Append(t.Context(), f, journal.Batch{SetWakeups: []journal.Wakeup{{Key: "w", Due: later.AddDate(1, 0, 0)}, {Key: "w", Due: later}}, ClearWakeups: []string{"\x00"}}))
	if due, err := s.DueWakeups(t.Context(), later.AddDate(0, 1, 0), 10); err != nil || len(due) != 1 {
		t.Fatalf("due %v, %v", due, err)
	}
}
