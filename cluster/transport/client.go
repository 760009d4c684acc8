package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// Config configures a [Client]. Zero values mean the default.
type Config struct {
	Self   string       // id (name#boot) of this node, which others log; see [Client.SetSelf]
	TLS    *tls.Config  // of [TLSConfig]; nil: plain text, for loopback only
	Logger *slog.Logger // nil: silent

	MaxInFlight int   // calls to one node that wait for a reply: 1024
	MaxMessage  int   // bytes of a request or reply: 64 MiB
	MaxHeld     int64 // bytes of requests, and of replies in parts, in memory per node: 256 MiB, at least MaxMessage

	DialTimeout time.Duration // until a node has greeted us: 1 s
	KeepAlive   time.Duration // silence after which a node that calls wait for is given up: 1.5 s
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.MaxInFlight = orElse(c.MaxInFlight, defaultInFlight)
	c.MaxMessage = orElse(c.MaxMessage, defaultMessage)
	c.MaxHeld = max(orElse(c.MaxHeld, defaultHeld), int64(c.MaxMessage))
	c.DialTimeout = orElse(c.DialTimeout, defaultDialTimeout)
	c.KeepAlive = orElse(c.KeepAlive, defaultKeepAlive)
	return c
}

// Client calls other nodes. Its methods may be used from any goroutine.
type Client struct {
	cfg     Config
	logger  *slog.Logger
	codec   codec
	buffers *bufferPool
	spare   *pendings
	backoff time.Duration // the longest; tests make it shorter

	self   atomic.Pointer[string]
	onView atomic.Pointer[func(addr string, version int64)]

	mu      sync.RWMutex
	peers   map[string]*peer
	closed  bool
	running sync.WaitGroup // dials and links
}

// NewClient makes a client. It connects to nobody until it is used.
func NewClient(cfg Config) *Client {
	cfg = cfg.withDefaults()
	c := &Client{
		cfg: cfg, logger: cfg.Logger, codec: newCodec(),
		buffers: new(bufferPool), spare: new(pendings),
		backoff: maxBackoff, peers: map[string]*peer{},
	}
	c.SetSelf(cfg.Self)
	return c
}

// SetSelf changes the id that this node gives when it connects. Connections
// that are up keep the one they gave.
func (c *Client) SetSelf(id string) { c.self.Store(&id) }

// OnView sets what is called when a node tells a version of the view that it
// has not told on its connection. f must not block.
func (c *Client) OnView(f func(addr string, version int64)) { c.onView.Store(&f) }

// Call sends a call to the node at addr and waits for its reply, at most until
// ctx is over; the node is then told that nobody waits any more. It sets the
// call's Id and RemainingMicros. The call must not be changed before Call
// returns, its Request never: the bytes may still be on their way then.
//
// A request above Config.MaxMessage, or names that are not UTF-8, give a reply
// with OUTCOME_MALFORMED, as if the node had said so. Errors wrap [ErrNotSent],
// [ErrLost] or [ErrFull], or are the error of ctx.
func (c *Client) Call(ctx context.Context, addr string, call *nodev1.Call) (*nodev1.Reply, error) {
	for again := false; ; again = true {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p, err := c.peer(addr)
		if err != nil {
			return nil, err
		}
		l, err := p.connect(ctx)
		if err != nil {
			return nil, err
		}
		call.RemainingMicros = remaining(ctx)
		reply, sent, err := l.call(ctx, call)
		if sent {
			return reply, err
		}
		if again {
			return nil, fmt.Errorf("transport: %s: %w: %w", addr, ErrNotSent, err)
		}
		// The link ended between connect and call. Nothing was sent on it.
	}
}

// remaining gives the time until ctx's deadline in whole microseconds, at least
// 1, and 0 if it has none.
func remaining(ctx context.Context) int64 {
	deadline, has := ctx.Deadline()
	if !has {
		return 0
	}
	return max(1, time.Until(deadline).Microseconds())
}

// Ping asks the node at addr who it is. Errors are as those of [Client.Call],
// or a gRPC status that the node answered with.
func (c *Client) Ping(ctx context.Context, addr string, request *nodev1.PingRequest) (*nodev1.PingResponse, error) {
	response := new(nodev1.PingResponse)
	if err := c.unary(ctx, addr, pingMethod, request, response); err != nil {
		return nil, err
	}
	return response, nil
}

// Admin asks the node at addr for something an operator wants of it. Errors are
// as those of [Client.Ping].
func (c *Client) Admin(ctx context.Context, addr string, request *nodev1.AdminRequest) (*nodev1.AdminResponse, error) {
	response := new(nodev1.AdminResponse)
	if err := c.unary(ctx, addr, adminMethod, request, response); err != nil {
		return nil, err
	}
	return response, nil
}

func (c *Client) unary(ctx context.Context, addr, method string, request, response any) error {
	p, err := c.peer(addr)
	if err != nil {
		return err
	}
	l, err := p.connect(ctx)
	if err != nil {
		return err
	}
	err = l.conn.Invoke(ctx, method, request, response, grpc.ForceCodecV2(c.codec), grpc.MaxCallRecvMsgSize(c.cfg.MaxMessage))
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case status.Code(err) == codes.Unavailable, status.Code(err) == codes.Canceled:
		return fmt.Errorf("transport: %s: %w: %w", addr, ErrLost, err)
	}
	return fmt.Errorf("transport: %s: %w", addr, err)
}

// peer gives the peer at addr, new if it was not known.
func (c *Client) peer(addr string) (*peer, error) {
	c.mu.RLock()
	p := c.peers[addr]
	c.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("transport: %s: %w: %w", addr, ErrNotSent, errClosed)
	}
	if p = c.peers[addr]; p == nil {
		p = &peer{client: c, addr: addr}
		p.ctx, p.cancel = context.WithCancel(context.Background())
		c.peers[addr] = p
	}
	return p, nil
}

// Forget ends the connection to a node that is gone. Its calls fail at once. A
// later call to the same address dials anew.
func (c *Client) Forget(addr string) {
	c.mu.Lock()
	p := c.peers[addr]
	delete(c.peers, addr)
	c.mu.Unlock()
	if p != nil {
		p.close(errForgotten)
	}
}

// Close ends all connections, fails all calls and waits until every goroutine
// of the client has ended. It may be called twice.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	peers := c.peers
	c.peers = nil
	c.mu.Unlock()
	for _, p := range peers {
		p.close(errClosed)
	}
	c.running.Wait()
}

// told passes on the version of the view that a node acts on.
func (c *Client) told(addr string, version int64) {
	if f := c.onView.Load(); f != nil {
		(*f)(addr, version)
	}
}
