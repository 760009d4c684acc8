package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/journal/trail"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/cluster"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/audit"
	"granary.dev/granary/storage/embedded"
	"granary.dev/granary/storage/postgres"
	"granary.dev/granary/storage/sealed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRegistry(t *testing.T, tenants ...string) *Registry {
	t.Helper()
	r, err := New("v1", "n1", tenants)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// whole is a registry with every part a node can have.
func whole(t *testing.T) *Registry {
	t.Helper()
	r := newRegistry(t, "acme")
	store, err := embedded.Open(t.Context(), embedded.Config{Dir: filepath.Join(t.TempDir(), "data")})
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Config{Dir: filepath.Join(t.TempDir(), "audit"), Node: "n1", Store: store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(log.Close(context.Background()), store.Close()); err != nil {
			t.Error(err)
		}
	})
	err = errors.Join(
		r.Encryption(func() sealed.Stats {
			return sealed.Stats{Seal: 1, Keys: 2, Unknown: 3, Tampered: 4, Unsealed: 5, Destroyed: 6}
		}),
		r.Audit(log, 1<<30), r.Trail(func() trail.Stats { return trail.Stats{} }), r.Grains(func() actors.Stats { return actors.Stats{} }),
		r.Cluster(func() cluster.Stats { return cluster.Stats{} }, true), r.Tokens(noTokens{}), r.Gateway(func() int64 { return 3 }),
		r.Database(func() postgres.Stats {
			return postgres.Stats{Bulk: postgres.PoolStats{Waited: 7, WaitTime: 1500 * time.Millisecond}}
		}))
	if err != nil {
		t.Fatal(err)
	}
	r.Calls.Called(gateway.Outcome{Method: "granary.v1.SearchService/Search", Tenant: "acme", Code: "unavailable", Reason: kb.ReasonUnavailable, Took: time.Second})
	return r
}

type noTokens struct{}

func (noTokens) Credited() int64 { return 0 }
func (noTokens) Tenants() int64  { return 0 }

// F1: names, units and help texts are as Prometheus wants them.
func TestF1_MetricsKeepPrometheusConventions(t *testing.T) {
	problems, err := testutil.GatherAndLint(whole(t).reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestF4_FailuresAreShownByCause_I2_D4(t *testing.T) {
	const want = `
# HELP granary_encryption_destroyed_reads_total Values that were asked for after the keys of their tenant were destroyed: no failure.
# TYPE granary_encryption_destroyed_reads_total counter
granary_encryption_destroyed_reads_total 6
# HELP granary_encryption_failures_total Values that could not be encrypted or decrypted: seal (nothing was written), keys (the store or the master key), unknown_key, tampered (changed or moved), not_sealed (plain where everything is encrypted).
# TYPE granary_encryption_failures_total counter
granary_encryption_failures_total{cause="keys"} 2
granary_encryption_failures_total{cause="not_sealed"} 5
granary_encryption_failures_total{cause="seal"} 1
granary_encryption_failures_total{cause="tampered"} 4
granary_encryption_failures_total{cause="unknown_key"} 3
# HELP granary_postgres_pool_wait_seconds_total Sum of those waits.
# TYPE granary_postgres_pool_wait_seconds_total counter
granary_postgres_pool_wait_seconds_total{pool="across"} 0
granary_postgres_pool_wait_seconds_total{pool="bulk"} 1.5
granary_postgres_pool_wait_seconds_total{pool="commits"} 0
granary_postgres_pool_wait_seconds_total{pool="leases"} 0
# HELP granary_tenant_requests_total Calls of tenants listed in metrics.tenants: ok, refused (the fault of the caller, limits among it), failed (of the server).
# TYPE granary_tenant_requests_total counter
granary_tenant_requests_total{outcome="failed",tenant="acme"} 1
granary_tenant_requests_total{outcome="ok",tenant="acme"} 0
granary_tenant_requests_total{outcome="refused",tenant="acme"} 0
`
	err := testutil.GatherAndCompare(whole(t).reg, strings.NewReader(want), "granary_encryption_failures_total",
		"granary_encryption_destroyed_reads_total", "granary_postgres_pool_wait_seconds_total", "granary_tenant_requests_total")
	if err != nil {
		t.Error(err)
	}
}

// F1: whatever tenants there are and whatever they do, the number of series is bounded.
func TestF1_SeriesAreBounded(t *testing.T) {
	r := newRegistry(t, "listed")
	for i := range 100_000 {
		r.Calls.Called(gateway.Outcome{Method: "granary.v1.SearchService/Search", Tenant: fmt.Sprint("tenant-", i), Code: "not_found",
			Reason: fmt.Sprintf("REASON_%d", i), Took: time.Duration(i) * time.Microsecond})
	}
	r.Calls.Called(gateway.Outcome{Method: "m", Code: "internal", Reason: "what a \n peer made up"})
	count, err := testutil.GatherAndCount(r.reg, "granary_api_requests_total", "granary_api_errors_total", "granary_tenant_requests_total",
		"granary_api_request_duration_seconds")
	if err != nil || count > 4+mostReasons+1+3+2 {
		t.Errorf("%d series, %v", count, err)
	}
	if n := testutil.ToFloat64(r.Calls.errors.WithLabelValues("other")); n != 100_000-mostReasons+1 {
		t.Errorf("%v errors have another reason", n)
	}
	for _, w := range []string{"", "lower", "1", "A B", strings.Repeat("A", 65), "Ä"} {
		if isReason(w) {
			t.Errorf("%q is a reason", w)
		}
	}
	if _, err := New("v", "n", make([]string, MaxTenants+1)); err == nil {
		t.Error("more tenants than may be are listed")
	}
}

func TestF1_EndsOfAppendsAndLeasesAreTold(t *testing.T) {
	r := newRegistry(t)
	for want, err := range map[string]error{
		appendCommitted: nil, appendFenced: fmt.Errorf("x: %w", journal.ErrFenced), appendInDoubt: fmt.Errorf("x: %w: %w", journal.ErrInDoubt, context.DeadlineExceeded),
		appendCancelled: context.Canceled, appendUnavailable: journal.ErrUnavailable, appendFailed: errors.New("other"),
	} {
		r.Appends.Ended(err, time.Millisecond)
		if n := testutil.ToFloat64(r.Appends.ended[want]); n != 1 {
			t.Errorf("%v: %s is %v", err, want, n)
		}
	}
	for want, c := range map[string]struct {
		q   kb.TokenRequest
		a   kb.TokenLease
		err error
	}{
		"granted":  {kb.TokenRequest{Want: 5, Held: 3, Window: 1}, kb.TokenLease{Held: 8, Window: 1}, nil},
		"refused":  {kb.TokenRequest{Want: 5, Held: 3, Window: 1}, kb.TokenLease{Held: 3, Window: 1}, nil},
		"returned": {kb.TokenRequest{Held: 1, Window: 1}, kb.TokenLease{Held: 1, Window: 1}, nil},
		"failed":   {kb.TokenRequest{Want: 5}, kb.TokenLease{}, errors.New("away")},
	} {
		r.Leases.Ended(kb.MeterCalls, c.q, c.a, c.err)
		if n := testutil.ToFloat64(r.Leases.requests.WithLabelValues(string(kb.MeterCalls), want)); n != 1 {
			t.Errorf("%s is %v", want, n)
		}
	}
}

// F1: the port answers GET /metrics and nothing else, and is gone after Stop, whoever
// still holds a connection.
func TestF1_PortServesMetricsOnly(t *testing.T) {
	r := newRegistry(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, addr := r.Serve(l, slog.New(slog.DiscardHandler)), l.Addr().String()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for request, want := range map[string]int{"GET /metrics": 200, "HEAD /metrics": 200, "POST /metrics": 405, "GET /": 404, "GET /debug/pprof/": 404, "GET /metrics/x": 404} {
		method, path, _ := strings.Cut(request, " ")
		q, err := http.NewRequest(method, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		a, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(a.Body)
		_ = a.Body.Close()
		if a.StatusCode != want || request == "GET /metrics" && !strings.Contains(string(body), `granary_build_info{go_version="go`) {
			t.Errorf("%s: %d %.200s", request, a.StatusCode, body)
		}
		if a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", request, a.Header)
		}
	}
	held, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	_, _ = io.WriteString(held, "GET /metrics HTTP/1.1\r\n") // and no more
	start := time.Now()
	if err := errors.Join(s.Stop(t.Context()), s.Stop(t.Context())); err != nil || time.Since(start) > 10*stopTime {
		t.Errorf("stopped after %v: %v", time.Since(start), err)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		_ = c.Close()
		t.Error("the port is still open")
	}
}

func TestMemoryLimitIsTheLeastOfTheControlGroups(t *testing.T) {
	root := t.TempDir()
	for dir, limit := range map[string]string{".": "", "a": "9000\n", "a/b": "max\n", "a/b/c": "10000\n"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if limit == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(root, dir, "memory.max"), []byte(limit), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for group, want := range map[string]float64{"/a/b/c": 9000, "/a": 9000, "a/b": 9000, "/": 0, "/../../a": 9000, "/x/y": 0} {
		if n, ok := groupLimit(root, group); n != want || ok != (want > 0) {
			t.Errorf("%s: %v %v", group, n, ok)
		}
	}
	if n, ok := memoryLimit(); ok && n < 1<<20 {
		t.Errorf("this process may use %v bytes", n)
	}
}
