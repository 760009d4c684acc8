package node_test

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// F1, B4: what clients do is counted by method, code, reason and cause; a listed tenant
// has series of its own, and no name of another is shown.
func TestF1_CallsAreCounted(t *testing.T) {
	s := nodetest.Start(t, func(c *node.Config) { c.Metrics.Tenants = []string{"dev"} })
	before := s.Metrics(t)
	s.CreateKB(t, "handbook")
	s.Settle(t, s.AddText(t, "handbook", "a.md", rotation).GetName())
	search(t, s, "handbook", "keys")
	if _, err := s.KBs.GetKnowledgeBase(t.Context(), &granaryv1.GetKnowledgeBaseRequest{Name: "knowledgeBases/nowhere"}); reason(t, err) != "KNOWLEDGE_BASE_NOT_FOUND" {
		t.Fatal(err)
	}
	for _, token := range []string{"", "not a token", s.Token + "x", s.Operator.Token} {
		c := nodetest.Dial(t, s.URL, token)
		if _, err := c.KBs.ListKnowledgeBases(t.Context(), &granaryv1.ListKnowledgeBasesRequest{}); reason(t, err) != "UNAUTHENTICATED" {
			t.Fatal(err)
		}
	}
	m := s.Metrics(t)
	for _, c := range []struct {
		name   string
		labels []string
		least  float64
	}{
		{"granary_api_requests_total", []string{`method="granary.v1.SearchService/Search"`, `code="ok"`}, 1},
		{"granary_api_requests_total", []string{`method="granary.v1.KnowledgeBaseService/GetKnowledgeBase"`, `code="not_found"`}, 1},
		{"granary_api_request_duration_seconds_count", []string{`method="granary.v1.SearchService/Search"`}, 1},
		{"granary_api_errors_total", []string{`reason="KNOWLEDGE_BASE_NOT_FOUND"`}, 1},
		{"granary_api_errors_total", []string{`reason="UNAUTHENTICATED"`}, 4},
		{"granary_authentication_failures_total", []string{`cause="malformed"`}, 2},
		{"granary_authentication_failures_total", []string{`cause="audience"`}, 1},
		{"granary_tenant_requests_total", []string{`tenant="dev"`, `outcome="ok"`}, 3},
		{"granary_tenant_requests_total", []string{`tenant="dev"`, `outcome="refused"`}, 1},
		{"granary_audit_records_total", nil, 8},
		{"granary_journal_appends_total", []string{`outcome="committed"`}, 5},
		{"granary_token_lease_requests_total", []string{`outcome="granted"`}, 1},
		{"granary_activations", nil, 2},
		{"granary_processing_slots", nil, 1},
		{"granary_audit_writable", nil, 1},
		{"go_goroutines", nil, 1},
	} {
		if n := m.Sum(c.name, c.labels...); n < c.least {
			t.Errorf("%s %v is %v, at least %v is right", c.name, c.labels, n, c.least)
		}
	}
	if before.Sum("granary_api_requests_total") != 0 {
		t.Errorf("a node that was just started has been called %v times", before.Sum("granary_api_requests_total"))
	}
	t.Logf("%d series at the start, %d after some calls", before.Series(), m.Series())
}

// F1: calls of tenants nobody listed, to methods nobody has, make no series.
func TestF1_NoTenantBecomesALabel_B1(t *testing.T) {
	s := nodetest.Start(t)
	call := func(n int) {
		for i := range n {
			r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("%s/granary.v1.SearchService/Forged%d", s.URL, i), strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+s.Token)
			r.Header.Set("X-Request-Id", fmt.Sprint("forged-", i))
			a, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = a.Body.Close()
		}
	}
	call(1)
	first := s.Metrics(t)
	call(100)
	m := s.Metrics(t)
	if m.Series() != first.Series() {
		t.Errorf("%d series, and %d before", m.Series(), first.Series())
	}
	if n := m.Sum("granary_api_requests_total", `method="unknown"`); n != 101 {
		t.Errorf("%v calls of unknown methods", n)
	}
	for _, word := range []string{`"dev"`, "Forged", "forged-", s.Token} {
		if strings.Contains(m.Text, word) {
			t.Errorf("%s is shown", word)
		}
	}
}

// F4, I2: a value that was changed in the store is counted when it does not open.
func TestF4_TamperedValueIsCounted_I2(t *testing.T) {
	s := nodetest.Start(t)
	s.CreateKB(t, "handbook")
	doc := s.Settle(t, s.AddText(t, "handbook", "a.md", rotation).GetName()).GetName()
	s.Stop()
	db, err := sql.Open("sqlite", filepath.Join(s.Data, "granary.db"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := db.Exec("UPDATE chunks SET text = substr(text, 1, length(text) - 1) || x'00'")
	if n, _ := r.RowsAffected(); err != nil || n == 0 || db.Close() != nil {
		t.Fatalf("%d chunks changed, %v", n, err)
	}
	s.Restart()
	const failures = "granary_encryption_failures_total"
	before := s.Metrics(t)
	if _, err := s.Documents.GetDocumentText(t.Context(), &granaryv1.GetDocumentTextRequest{Name: doc}); err == nil {
		t.Fatal("a chunk that was changed is read")
	}
	m := s.Metrics(t)
	if before.Sum(failures) != 0 || m.Sum(failures, `cause="tampered"`) == 0 {
		t.Errorf("%v failures before, %v of a changed value after", before.Sum(failures), m.Sum(failures, `cause="tampered"`))
	}
	if !s.Logged("encryption failed", "cause=tampered") {
		t.Error("nothing is in the log")
	}
}

// F4, I1: a journal that was changed is counted when it is found.
func TestF4_BrokenChainIsCounted_I1(t *testing.T) {
	s := nodetest.Start(t)
	s.CreateKB(t, "handbook")
	s.Stop()
	db, err := sql.Open("sqlite", filepath.Join(s.Data, "granary.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("DELETE FROM snapshots WHERE kind = 'kb'")
	if err == nil {
		_, err = db.Exec("UPDATE events SET principal = 'mallory' WHERE kind = 'kb'")
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	if _, err := s.KBs.GetKnowledgeBase(t.Context(), &granaryv1.GetKnowledgeBaseRequest{Name: "knowledgeBases/handbook"}); err == nil {
		t.Fatal("a knowledge base is served whose journal was changed")
	}
	if n := s.Metrics(t).Sum("granary_journal_broken_chains_total"); n == 0 {
		t.Error("nothing is counted")
	}
}

// F1, D4: nodes of a cluster show their pools of connections and how they stand, each its own.
func TestF1_NodesOfAClusterShowTheirPools_D4(t *testing.T) {
	c := nodetest.StartCluster(t, pg.Database(t), 2)
	c.Nodes[0].CreateKB(t, "handbook")
	for i, n := range c.Nodes {
		m := n.Metrics(t)
		for _, pool := range []string{"commits", "bulk", "across", "leases"} {
			label := `pool="` + pool + `"`
			if open, most := m.Sum("granary_postgres_pool_connections", label), m.Sum("granary_postgres_pool_max_connections", label); most == 0 || open > most {
				t.Errorf("node %d has %v connections of %v in the pool %s", i, open, most, pool)
			}
		}
		if m.Sum("granary_postgres_pool_acquired_total", `pool="leases"`) == 0 || m.Sum("granary_cluster_lease_valid") != 1 || m.Sum("granary_cluster_view_version") < 1 {
			t.Errorf("node %d shows no lease", i)
		}
		if m.Sum("granary_build_info", `node="`+n.Name+`"`) != 1 {
			t.Errorf("node %d shows the metrics of another", i)
		}
	}
	host := c.Add(func(cfg *node.Config) { cfg.Cluster.Roles = []string{"host"} })
	if m := host.Metrics(t); !m.Has("granary_activations") || m.Has("granary_audit_records_total") || m.Has("granary_http_requests_in_flight") {
		t.Error("a node without clients shows a door, or nothing")
	}
	if a, b := c.Nodes[0].Metrics(t).Sum("granary_api_requests_total"), c.Nodes[1].Metrics(t).Sum("granary_api_requests_total"); a == 0 || b != 0 {
		t.Errorf("%v calls of the first node, %v of the second", a, b)
	}
}

// F1: a node that waits for its database can be seen.
func TestF1_MetricsAreServedBeforeTheStoreIsThere(t *testing.T) {
	c := nodetest.StartCluster(t, pg.Database(t), 1)
	addr := nodetest.FreeAddr(t)
	m := c.Make(func(cfg *node.Config) { cfg.Metrics.Listen = addr })
	m.Store.Cut()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := make(chan error, 1)
	go func() { began <- m.Begin(ctx) }()
	nodetest.Await(t, "metrics of a node without a store", func() bool {
		r, err := http.Get("http://" + addr + "/metrics")
		if err == nil {
			_ = r.Body.Close()
		}
		return err == nil && r.StatusCode == http.StatusOK
	})
	select {
	case err := <-began:
		t.Errorf("it started without its store: %v", err)
	default:
		cancel()
		if err := <-began; err == nil {
			t.Error("it started although it was told to stop")
		}
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("its metrics are still served")
	}
}

// F1, I3: erasures are counted, by what was erased.
func TestF1_ErasuresAreCounted_I3(t *testing.T) {
	s := nodetest.Start(t)
	s.CreateKB(t, "handbook")
	doc := s.Settle(t, s.AddText(t, "handbook", "a.md", rotation).GetName()).GetName()
	if _, err := s.Documents.DeleteDocument(t.Context(), &granaryv1.DeleteDocumentRequest{Name: doc}); err != nil {
		t.Fatal(err)
	}
	nodetest.Await(t, "the document is erased", func() bool { return s.Metrics(t).Sum("granary_erasures_total", `target="document"`) == 1 })
	if _, err := s.KBs.DeleteKnowledgeBase(t.Context(), &granaryv1.DeleteKnowledgeBaseRequest{Name: "knowledgeBases/handbook"}); err != nil {
		t.Fatal(err)
	}
	nodetest.Await(t, "the knowledge base is erased", func() bool { return s.Metrics(t).Sum("granary_erasures_total", `target="knowledge_base"`) == 1 })
	if n := s.Metrics(t).Sum("granary_erasure_failures_total"); n != 0 {
		t.Errorf("%v steps failed", n)
	}
}

// F1: off loopback metrics are served with the API's certificate or not at all; a port
// that somebody named and has not is no start, the default one that is taken is.
func TestF1_WhereMetricsAreServed(t *testing.T) {
	for addr, c := range map[string]struct {
		tls node.TLSConfig
		ok  bool
	}{
		"127.0.0.1:1": {ok: true}, "[::1]:1": {ok: true}, "none": {ok: true}, ":1": {}, "0.0.0.0:1": {}, "10.0.0.1:1": {}, "nonsense": {},
		"192.0.2.1:1": {node.TLSConfig{Upstream: true}, true}, "192.0.2.2:1": {node.TLSConfig{CertFile: "c", KeyFile: "k"}, true},
	} {
		cfg := node.Config{Auth: node.AuthConfig{KeyFile: "k"}, TLS: c.tls, Metrics: node.MetricsConfig{Listen: addr}}
		if _, err := cfg.Complete(); (err == nil) != c.ok || err != nil && !errors.Is(err, node.ErrConfig) {
			t.Errorf("%s with %+v: %v", addr, c.tls, err)
		}
	}
	for _, tenants := range [][]string{{"a b"}, {"a", "a"}, {""}, make([]string, 101)} {
		cfg := node.Config{Dev: true, Metrics: node.MetricsConfig{Tenants: tenants}}
		if _, err := cfg.Complete(); !errors.Is(err, node.ErrConfig) {
			t.Errorf("tenants %.40q: %v", tenants, err)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := node.Config{Dev: true, Data: t.TempDir(), Listen: "127.0.0.1:0", Metrics: node.MetricsConfig{Listen: taken.Addr().String()}}
	if err := tryStart(t, cfg); err == nil {
		t.Error("a node started without the port it was given")
	}
	cfg.Metrics.Listen = "none"
	if err := tryStart(t, cfg); err != nil {
		t.Errorf("without metrics: %v", err)
	}
	standard, err := net.Listen("tcp", "127.0.0.1:9464")
	if err == nil {
		defer standard.Close()
	} // else somebody else has it, which is as good
	cfg.Metrics.Listen = ""
	if err := tryStart(t, cfg); err != nil {
		t.Errorf("with the default port taken: %v", err)
	}
}

// F1: with a certificate, a scrape is encrypted as calls are.
func TestF1_MetricsAreEncryptedAsTheAPIIs(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, pool := certificate(t, dir)
	cfg, err := node.Config{Data: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", Auth: node.AuthConfig{KeyFile: filepath.Join(dir, "key")},
		TLS: node.TLSConfig{CertFile: certFile, KeyFile: keyFile}, Metrics: node.MetricsConfig{Listen: "127.0.0.1:0"}}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(t.Context(), cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer tr.CloseIdleConnections()
	for scheme, ok := range map[string]bool{"http": false, "https": true} {
		r, err := (&http.Client{Transport: tr}).Get(scheme + "://" + n.MetricsAddr().String() + "/metrics")
		if err == nil {
			_ = r.Body.Close()
		}
		if good := err == nil && r.StatusCode == http.StatusOK; good != ok {
			t.Errorf("%s: %v, %v", scheme, r, err)
		}
	}
}
