package transport_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"granary.dev/granary/cluster/transport"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 40 * time.Second

// handler is a node as the transport sees it. What is not set answers plainly.
type handler struct {
	call  func(ctx context.Context, call *nodev1.Call, reply func(*nodev1.Reply))
	ping  func(context.Context, *nodev1.PingRequest) (*nodev1.PingResponse, error)
	admin func(context.Context, *nodev1.AdminRequest) (*nodev1.AdminResponse, error)
	view  atomic.Int64
}

func (h *handler) Call(ctx context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
	if h.call == nil {
		reply(answer(call))
		return
	}
	h.call(ctx, call, reply)
}

func (h *handler) Ping(ctx context.Context, r *nodev1.PingRequest) (*nodev1.PingResponse, error) {
	if h.ping == nil {
		return &nodev1.PingResponse{Node: "n1#a", View: r.GetView()}, nil
	}
	return h.ping(ctx, r)
}

func (h *handler) Admin(ctx context.Context, r *nodev1.AdminRequest) (*nodev1.AdminResponse, error) {
	if h.admin == nil {
		return &nodev1.AdminResponse{Result: &nodev1.AdminResponse_Done{Done: &nodev1.Done{}}}, nil
	}
	return h.admin(ctx, r)
}

func (h *handler) View() int64 { return h.view.Load() }

func answer(call *nodev1.Call) *nodev1.Reply {
	return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY, Reply: call.GetRequest()}
}

// noLeaks fails the test if it leaves a goroutine behind. Call it first.
func noLeaks(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// node is a server under test.
type node struct {
	*transport.Server
	addr   string
	served sync.WaitGroup
}

// serve starts a server, which the test's end stops if the test has not.
func serve(t *testing.T, cfg transport.ServerConfig) *node {
	t.Helper()
	return serveOn(t, "127.0.0.1:0", cfg)
}

func serveOn(t *testing.T, addr string, cfg transport.ServerConfig) *node {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = logger(t)
	}
	s, err := transport.Listen(t.Context(), addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Server: s, addr: s.Addr().String()}
	n.served.Go(func() {
		if err := s.Serve(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.kill)
	return n
}

// kill stops the server without letting anybody finish.
func (n *node) kill() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.Stop(ctx)
	n.served.Wait()
}

func dial(t *testing.T, cfg transport.Config) *transport.Client {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = logger(t)
	}
	cfg.Self = "n2#b"
	c := transport.NewClient(cfg)
	t.Cleanup(c.Close)
	return c
}

// within is a context that ends after patience, and with the test.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func request(body string) *nodev1.Call {
	return &nodev1.Call{Kind: "kb", Tenant: "acme", Grain: "handbook", Request: []byte(body), View: 3}
}

// outcome calls and gives the outcome, or fails the test.
func outcome(t *testing.T, c *transport.Client, addr string, call *nodev1.Call) nodev1.Outcome {
	t.Helper()
	r, err := c.Call(within(t), addr, call)
	if err != nil {
		t.Fatalf("call: %v", err)
	}
	return r.GetOutcome()
}

// wait fails the test if ch does not give something in time.
func wait[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s", what)
	}
	panic("not reached")
}

// until waits for a condition that nothing signals.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); !holds(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not so in time: %s", what)
		}
	}
}

// proxy is a wire to a server that can be cut, blocked and slowed down.
type proxy struct {
	addr     string
	target   atomic.Pointer[string]
	listener net.Listener
	running  sync.WaitGroup
	dials    atomic.Int64
	passed   atomic.Int64 // bytes to the client
	rate     atomic.Int64 // bytes a second and direction; 0: as fast as it goes

	mu    sync.Mutex
	gate  chan struct{} // closed: open
	conns map[net.Conn]struct{}
	over  bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), listener: l, gate: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(p.gate)
	p.target.Store(&target)
	p.running.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.over = true
		p.mu.Unlock()
		_ = l.Close()
		p.open()
		p.cut()
		p.running.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.dials.Add(1)
		out, err := net.Dial("tcp", *p.target.Load())
		if err != nil {
			_ = in.Close()
			continue
		}
		p.mu.Lock()
		p.conns[in], p.conns[out] = struct{}{}, struct{}{}
		over := p.over
		p.mu.Unlock()
		if over {
			_, _ = in.Close(), out.Close()
			return
		}
		p.running.Go(func() { p.copy(out, in, nil) })
		p.running.Go(func() { p.copy(in, out, &p.passed) })
	}
}

func (p *proxy) copy(dst, src net.Conn, count *atomic.Int64) {
	defer p.drop(dst, src)
	buf := make([]byte, 16<<10)
	for {
		n, err := src.Read(buf)
		p.mu.Lock()
		gate := p.gate
		p.mu.Unlock()
		<-gate
		if rate := p.rate.Load(); rate > 0 {
			<-time.After(time.Duration(n) * time.Second / time.Duration(rate))
		}
		if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
			return
		}
		if count != nil {
			count.Add(int64(n))
		}
	}
}

func (p *proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// block lets nothing through: the connections stay, without a sign of life.
func (p *proxy) block() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate = make(chan struct{})
}

func (p *proxy) open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
}

// isOneOf fails the test unless err is one of those allowed.
func isOneOf(t *testing.T, err error, allowed ...error) {
	t.Helper()
	for _, a := range allowed {
		if errors.Is(err, a) {
			return
		}
	}
	t.Errorf("error %v is none of %v", err, allowed)
}
