package node

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cmd/internal/metrics"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/audit"
)

// MetricsConfig says where a node shows what it counts.
type MetricsConfig struct {
	// Listen is the address of GET /metrics: for Prometheus, without credentials, with
	// the API's certificate if there is one. Default 127.0.0.1:9464; "none": nowhere.
	Listen string `yaml:"listen"`
	// Tenants have series of their own: at most 100, whose names whoever reads the
	// metrics sees. Default: none.
	Tenants []string `yaml:"tenants"`
}

const (
	defaultMetrics = "127.0.0.1:9464"
	noMetrics      = "none"
)

func (c *Completed) checkMetrics() error {
	m := &c.Metrics
	c.metricsByDefault = m.Listen == ""
	setDefault(&m.Listen, defaultMetrics)
	if len(m.Tenants) > metrics.MaxTenants {
		return configErrorf("metrics.tenants: %d are more than %d", len(m.Tenants), metrics.MaxTenants)
	}
	seen := make(map[string]bool, len(m.Tenants))
	for _, t := range m.Tenants {
		if !gateway.ValidTenant(t) || seen[t] {
			return configErrorf("metrics.tenants: %q is no tenant, or there twice", t)
		}
		seen[t] = true
	}
	if m.Listen == noMetrics {
		return nil
	}
	if _, _, err := net.SplitHostPort(m.Listen); err != nil {
		return configErrorf("metrics.listen: %w", err)
	}
	if !loopback(m.Listen) && !c.encrypted() {
		return configErrorf("metrics.listen: without TLS only on a loopback address, not on %q; set tls.cert_file and "+
			"tls.key_file, or tls.upstream if something in front of this server does TLS", m.Listen)
	}
	return nil
}

// startMetrics makes the registry and serves it: first of all and until all else has
// ended, so that a node that waits for its store, or stops, can be seen.
func (n *Node) startMetrics(ctx context.Context) error {
	var err error
	if n.metrics, err = metrics.New(version(), n.cfg.Node, n.cfg.Metrics.Tenants); err != nil {
		return err
	}
	l, err := n.listenMetrics(ctx)
	if err != nil || l == nil {
		return err
	}
	n.metricsAddr = l.Addr()
	server := n.metrics.Serve(l, n.log)
	n.push("metrics", server.Stop)
	n.log.Info("metrics are served", "address", l.Addr().String())
	return nil
}

// listenMetrics opens the port; nil when there is none. The default one may be another
// node's on this machine, which must not keep this one from serving.
func (n *Node) listenMetrics(ctx context.Context) (net.Listener, error) {
	addr := n.cfg.Metrics.Listen
	if addr == noMetrics {
		return nil, nil
	}
	conf, err := n.serverTLS("http/1.1")
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	switch {
	case err != nil && n.cfg.metricsByDefault:
		n.log.Warn("this node shows no metrics: their address is taken; set --metrics", "address", addr, "error", err)
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("metrics.listen: %w", err)
	case conf != nil:
		l = tls.NewListener(l, conf)
	}
	return l, nil
}

// MetricsAddr is where metrics are served; nil if nowhere.
func (n *Node) MetricsAddr() net.Addr { return n.metricsAddr }

// countStore shows how the store is used, and puts a counter before it.
func (n *Node) countStore() error {
	err := n.metrics.Encryption(n.sealed.Stats)
	if n.database != nil {
		err = errors.Join(err, n.metrics.Database(n.database.Stats))
	}
	n.store = countedStore{n.store, n.metrics.Appends}
	return err
}

// countAudit shows the audit.
func (n *Node) countAudit() error {
	err := n.metrics.Trail(n.trail.Stats)
	if n.audit != nil {
		err = errors.Join(err, n.metrics.Audit(n.audit, cmp.Or(n.cfg.Audit.MaxBacklogBytes, audit.DefaultMaxBytes)))
	}
	return err
}

// countGrains shows what happens behind the gateway.
func (n *Node) countGrains() error {
	return errors.Join(n.metrics.Grains(n.grains.Stats), n.metrics.Cluster(n.cluster.Stats, n.cfg.shared()), n.metrics.Tokens(n.meters))
}

// countedStore is the store, with its commits counted.
type countedStore struct {
	store
	appends *metrics.Appends
}

// Append implements journal.Store.
func (s countedStore) Append(ctx context.Context, f journal.Fence, b journal.Batch) error {
	start := time.Now()
	err := s.store.Append(ctx, f, b)
	s.appends.Ended(err, time.Since(start))
	return err
}
