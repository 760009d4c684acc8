package node

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal/trail"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline/embed"
	"granary.dev/granary/actors/pipeline/fetch"
	"granary.dev/granary/actors/pipeline/sandbox"
	"granary.dev/granary/actors/tokens"
	"granary.dev/granary/cluster"
	"granary.dev/granary/cmd/internal/metrics"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/audit"
	"granary.dev/granary/gateway/auth"
	"granary.dev/granary/storage/postgres"
	"granary.dev/granary/storage/sealed"
)

// Node is one running node.
type Node struct {
	cfg      Completed
	log      *slog.Logger
	store    store
	sealed   *sealed.Store   // the store, as what encrypts
	database *postgres.Store // what is below it, when it is shared
	cluster  *cluster.Node
	grains   *actors.Grains
	gateway  *gateway.Gateway
	audit    *audit.Log
	auth     *auth.Authority // signs tokens; nil: only issuers do
	tokens   *auth.Tokens
	trail    *trail.Desk
	uploads  gateway.Secret
	pepper   gateway.Secret     // of API keys
	receipts ed25519.PrivateKey // signs proofs of erasures
	asker    *asker
	meters   *tokens.Holder
	metrics  *metrics.Registry
	listener net.Listener

	metricsAddr net.Addr // nil: nobody is shown any

	stack   []closer // what to end, in order of start
	stop    sync.Once
	stopErr error
	served  chan error
}

// closer ends one part of the node.
type closer struct {
	name string
	end  func(context.Context) error
}

const (
	gatewayStop = 2 * time.Second  // longest wait for requests under way
	leaveStop   = 40 * time.Second // longest wait for a node's share to be given away
	grainsStop  = 10 * time.Second // longest wait for grains to save and release
	metersStop  = time.Second      // longest wait for tenants to take back tokens
)

// Start builds and starts a node: what others lean on comes first.
func Start(ctx context.Context, cfg Completed, logs io.Writer) (*Node, error) {
	level, _ := logLevel(cfg.LogLevel)
	n := &Node{cfg: cfg, log: newLogger(logs, cfg.LogFormat, level), served: make(chan error, 1)}
	for _, step := range []func(context.Context) error{n.startMetrics, n.openStore, n.openAudit, n.listen, n.startGrains, n.startGateway, n.armLeave} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, n.Stop(context.WithoutCancel(ctx)))
		}
	}
	return n, nil
}

func (n *Node) push(name string, end func(context.Context) error) {
	n.stack = append(n.stack, closer{name, end})
}

// Addr is the address the gateway listens on. Only for a node that serves clients.
func (n *Node) Addr() net.Addr { return n.listener.Addr() }

// Served ends when the gateway does, with its error if it failed.
func (n *Node) Served() <-chan error { return n.served }

// Stop ends the node in reverse order of its start: no new requests, then the
// grains leave in an orderly way, then what they stand on. It is idempotent.
func (n *Node) Stop(ctx context.Context) error {
	n.stop.Do(func() {
		var errs []error
		for i := len(n.stack) - 1; i >= 0; i-- {
			if err := n.stack[i].end(ctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", n.stack[i].name, err))
			}
		}
		n.stopErr = errors.Join(errs...)
	})
	return n.stopErr
}

// startGrains builds parsers, embedder and the cluster node with its grains.
func (n *Node) startGrains(ctx context.Context) error {
	parse, err := n.newParser()
	if err != nil {
		return err
	}
	embedder, err := n.newEmbedder()
	if err != nil {
		return err
	}
	n.asker = &asker{}
	own := &ownership{}
	n.meters = tokens.New(n.cfg.Node+"#"+uuid.NewString(), lessor{n.asker, n.metrics.Leases})
	deps := actors.Deps{Node: n.cfg.Node, Store: n.store, Blobs: n.store, Chunks: n.store, Counters: n.store, Directory: n.store, Shredder: n.sealed, ReceiptKey: n.receipts, Receipts: n.store, Asker: n.asker,
		Parser: parse, Fetcher: n.newFetcher(), Embedder: embedder, Slots: actors.NewScheduler(0), Meters: n.meters, Logger: n.log, Tier: kb.Tier(n.cfg.Tier)}
	if n.cfg.shared() {
		deps.Owner, deps.Gone = own, own.Gone
	}
	n.grains = actors.NewGrains(deps)
	waker := n.grains.Waker()
	sharing, err := n.sharing(ctx, waker)
	if err != nil {
		return err
	}
	n.cluster, err = cluster.New(cluster.Config{Name: n.cfg.Node, Logger: n.log, Shared: sharing,
		Kinds: n.kinds(), TrimAfter: orDefault(n.cfg.Memory.TrimAfter, 5*time.Minute), IdleTimeout: orDefault(n.cfg.Memory.PassivateAfter, 30*time.Minute),
		DrainTimeout: grainsStop})
	if err != nil {
		return err
	}
	n.asker.node, own.node = n.cluster, n.cluster
	if err := n.countGrains(); err != nil {
		return err
	}
	n.push("runs", func(ctx context.Context) error { return n.grains.Wait(ctx) })
	n.push("grains", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, grainsStop+time.Second)
		defer cancel()
		return n.cluster.Stop(ctx)
	})
	if err := n.cluster.Start(ctx); err != nil {
		return err
	}
	n.startWaker(waker)
	n.startCheckpoints()
	n.startMeters()
	return nil
}

func orDefault(d, v time.Duration) time.Duration {
	if d == 0 {
		return v
	}
	return d
}

// startWaker lets unfinished work go on without a client's call.
func (n *Node) startWaker(w *actors.Waker) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	n.push("waker", func(context.Context) error {
		cancel()
		<-done
		return nil
	})
}

// startMeters keeps what this node holds of tenants' limits in order. When the node stops
// it gives back what is left, while grains still answer.
func (n *Node) startMeters() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.meters.Run(ctx)
	}()
	n.push("meters", func(ctx context.Context) error {
		cancel()
		<-done
		ctx, cancel := context.WithTimeout(ctx, metersStop)
		defer cancel()
		n.meters.Close(ctx)
		return nil
	})
}

// meters is what the node holds of limits, as the gateway asks for it.
type meters struct{ holder *tokens.Holder }

// Account implements gateway.Meters.
func (m meters) Account(tenant string, k kb.Meter) gateway.Account {
	return m.holder.Account(tenant, k)
}

func (n *Node) newParser() (*parser, error) {
	tmp := filepath.Join(n.cfg.Data, "parse")
	if err := os.RemoveAll(tmp); err != nil { // left by a process that was killed
		return nil, err
	}
	cache := filepath.Join(n.cfg.Data, "cache", "pdf")
	for _, dir := range []string{tmp, cache} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	p := n.cfg.Parse
	pool, err := sandbox.NewPool(sandbox.Config{Size: p.Workers, MemoryBytes: p.MemoryBytes, CPUTime: p.CPUTime,
		WallTime: p.WallTime, CacheDir: cache, Logger: n.log})
	if err != nil {
		return nil, err
	}
	n.push("parsers", func(context.Context) error { return pool.Close() })
	return &parser{pool: pool, dir: tmp}, nil
}

func (n *Node) newFetcher() fetcher {
	f := n.cfg.Fetch
	return fetcher{fetch.New(fetch.Config{AllowedNetworks: n.cfg.networks, NAT64: n.cfg.nat64, Ports: f.Ports, Timeout: f.Timeout, MaxBytes: f.MaxBytes})}
}

func (n *Node) newEmbedder() (actors.Embedder, error) {
	e := n.cfg.Embedding
	if e.Provider == "openai" {
		return embed.NewOpenAI(embed.OpenAIConfig{BaseURL: e.URL, Model: e.Model, Dims: e.Dims, APIKey: embed.Secret(n.cfg.apiKey)})
	}
	return embed.NewBuiltin(0)
}

// startGateway opens the door last, when everything behind it answers.
func (n *Node) startGateway(ctx context.Context) error {
	if n.listener == nil {
		return nil // a node that serves no clients
	}
	var err error
	n.gateway, err = gateway.New(gateway.Config{Grains: n.asker, Blobs: n.store, Verifier: n.tokens, Operators: n.tokens, Cluster: n.operators(), Keys: keys{n.sealed}, Tenants: tenantList{n.store}, KeyPepper: n.pepper,
		RefuseUnknownTenants: n.cfg.Tenants.RefuseUnknown, Receipts: n.store, ReceiptKey: n.receiptPublicKey(), UploadKey: n.uploads, Logger: n.log,
		Audit: n.audit, Trail: n.trail, TrustedProxies: n.cfg.proxies,
		Meters: meters{n.meters}, Observer: n.metrics.Calls,
		Version: version(), AllowedOrigins: n.cfg.AllowedOrigins, AllowLocalOrigins: n.cfg.Dev, Ready: n.ready})
	if err != nil {
		return err
	}
	if err := n.metrics.Gateway(n.gateway.InFlight); err != nil {
		return err
	}
	go func() { n.served <- n.gateway.Serve(context.WithoutCancel(ctx), n.listener) }()
	n.push("gateway", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, gatewayStop)
		defer cancel()
		return n.gateway.Shutdown(ctx)
	})
	return nil
}

// armLeave sees to it that leaving the cluster is the first thing when the node
// stops: clients are told to go elsewhere, and the node's share is given away
// while everything behind the gateway still works.
func (n *Node) armLeave(context.Context) error {
	if n.cfg.shared() {
		n.push("membership", n.leave)
	}
	return nil
}

// leave gives the node's share to the others. A node that cannot (the store is
// away, say) stops all the same: its share is given up for it.
func (n *Node) leave(ctx context.Context) error {
	if n.gateway != nil {
		n.gateway.Quiesce()
	}
	ctx, cancel := context.WithTimeout(ctx, leaveStop)
	defer cancel()
	if err := n.cluster.Leave(ctx); err != nil {
		n.log.Warn("the node stops without having left the cluster", "error", err)
	}
	return nil
}

// listen opens the clients' port, with TLS if a certificate is set: early, since
// other nodes are told of it. What connects waits until the gateway serves.
func (n *Node) listen(ctx context.Context) error {
	if !n.cfg.is(roleGateway) {
		return nil
	}
	conf, err := n.serverTLS("h2", "http/1.1")
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", n.cfg.Listen)
	if err != nil {
		return err
	}
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	n.listener = l
	n.push("port", func(context.Context) error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return nil
}

// serverTLS is how this node's certificate is shown; nil when it has none.
func (n *Node) serverTLS(protocols ...string) (*tls.Config, error) {
	t := n.cfg.TLS
	if t.CertFile == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: protocols}, nil
}

// URL is where clients on this machine reach the API.
func (n *Node) URL() string {
	if n.cfg.TLS.CertFile != "" {
		return "https://" + n.Addr().String()
	}
	return "http://" + n.Addr().String()
}

// ready tells whether clients should come here. Alone, the store is asked
// something cheap. In a cluster a store that is away is so for all nodes, and
// what can be served without it should be: it is enough to know where to send calls.
func (n *Node) ready(ctx context.Context) error {
	if n.audit != nil {
		if err := n.audit.Ready(); err != nil {
			return err // every call would be refused
		}
	}
	if n.cfg.shared() {
		if n.cluster.View().Version == 0 {
			return errors.New("no view of the cluster yet")
		}
		return nil
	}
	_, err := n.store.DueWakeups(ctx, time.Time{}, 1)
	return err
}
