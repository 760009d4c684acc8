package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// Handler serves what other nodes ask.
type Handler interface {
	// Call takes a call and answers it by reply, exactly once, from any
	// goroutine; what comes later is ignored. The reply belongs to the
	// transport then. Call must not block: all calls of a peer come one after
	// the other, and so do its pings. ctx has the caller's time as its
	// deadline. It ends when the caller gives up or its connection is gone,
	// and when the call was answered.
	Call(ctx context.Context, call *nodev1.Call, reply func(*nodev1.Reply))
	// Ping and Admin may block until their context is over.
	Ping(ctx context.Context, request *nodev1.PingRequest) (*nodev1.PingResponse, error)
	Admin(ctx context.Context, request *nodev1.AdminRequest) (*nodev1.AdminResponse, error)
	// View gives the version of the view this node acts on. It must not block.
	View() int64
}

// ServerConfig configures a [Server]. Zero values mean the default.
type ServerConfig struct {
	Handler Handler      // required
	TLS     *tls.Config  // of [TLSConfig]; nil: plain text, for loopback only
	Logger  *slog.Logger // nil: silent

	MaxInFlight int   // calls of one peer that have no reply yet: 2048
	MaxMessage  int   // bytes of a request or reply: 64 MiB
	MaxHeld     int64 // bytes in memory per peer, of requests and of replies each: 256 MiB, at least MaxMessage
}

func (c ServerConfig) withDefaults() ServerConfig {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	// Twice what a client has in flight: a call that its caller gave up is out
	// of the client's count before it is out of ours.
	c.MaxInFlight = orElse(c.MaxInFlight, 2*defaultInFlight)
	c.MaxMessage = orElse(c.MaxMessage, defaultMessage)
	c.MaxHeld = max(orElse(c.MaxHeld, defaultHeld), int64(c.MaxMessage))
	return c
}

// Server serves the calls of other nodes on one address.
type Server struct {
	cfg      ServerConfig
	logger   *slog.Logger
	listener net.Listener
	grpc     *grpc.Server
	buffers  *bufferPool

	inFlight atomic.Int64
	stopping atomic.Bool
	idle     chan struct{} // gets an element when the last call is answered while stopping
	tasks    sync.WaitGroup

	mu       sync.Mutex
	sessions map[*session]struct{}
	closing  bool // new sessions are turned away
}

// Listen makes a server that accepts connections on addr from now on; they are
// served when Serve runs. A port of 0 takes any free one, see [Server.Addr].
func Listen(ctx context.Context, addr string, cfg ServerConfig) (*Server, error) {
	if cfg.Handler == nil {
		return nil, fmt.Errorf("transport: listen on %s: a handler is required", addr)
	}
	cfg = cfg.withDefaults()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	s := &Server{
		cfg: cfg, logger: cfg.Logger, listener: listener, buffers: new(bufferPool),
		idle: make(chan struct{}, 1), sessions: map[*session]struct{}{},
	}
	s.grpc = grpc.NewServer(s.options()...)
	s.grpc.RegisterService(description(), s)
	return s, nil
}

func (s *Server) options() []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(wireBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: servePing, Timeout: idlePingAnswer}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: servePingMin, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.recoverUnary),
		grpc.StreamInterceptor(s.recoverStream),
		grpc.WaitForHandlers(true),
	}
	if s.cfg.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(s.cfg.TLS)))
	}
	return options
}

// Addr is the address on which the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve accepts connections until Stop, and returns nil then.
func (s *Server) Serve() error {
	if err := s.grpc.Serve(s.listener); err != nil {
		return fmt.Errorf("transport: serve: %w", err)
	}
	return nil
}

// Stop ends the server. From now on new calls are answered with
// OUTCOME_STOPPED. Those under way may answer until ctx is over; then all
// connections are closed, and clients learn that what has no answer was lost.
// If all were answered in time, nothing is lost: clients learn that what they
// sent meanwhile was not taken. It gives the error of ctx if it had to cut.
func (s *Server) Stop(ctx context.Context) error {
	s.stopping.Store(true)
	var cut error
	for s.inFlight.Load() > 0 && cut == nil {
		select {
		case <-s.idle:
		case <-ctx.Done():
			cut = ctx.Err()
		}
	}
	done := make(chan struct{})
	if cut == nil {
		s.closeSessions()
		go func() {
			defer close(done)
			s.grpc.GracefulStop()
		}()
		select {
		case <-done:
		case <-ctx.Done():
			cut = ctx.Err()
		}
	} else {
		close(done)
	}
	s.grpc.Stop()
	<-done
	// Serve closes it, if Serve ran.
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		s.logger.Warn("closing a listener", "error", err)
	}
	s.tasks.Wait()
	if cut != nil {
		return fmt.Errorf("transport: stop: %w", cut)
	}
	return nil
}

// closeSessions lets every stream end in order.
func (s *Server) closeSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for one := range s.sessions {
		one.close()
	}
}

// enter counts a call. It is false if the server stops.
func (s *Server) enter() bool {
	s.inFlight.Add(1)
	if s.stopping.Load() {
		s.leave()
		return false
	}
	return true
}

func (s *Server) leave() {
	if s.inFlight.Add(-1) == 0 && s.stopping.Load() {
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}

// addSession is false if the server is closing.
func (s *Server) addSession(one *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.sessions[one] = struct{}{}
	return true
}

func (s *Server) removeSession(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, one)
}

// deadline gives when a call is over that has so much time left.
func deadline(now time.Time, remainingMicros int64) time.Time {
	if remainingMicros <= 0 {
		return time.Time{}
	}
	const most = int64(24 * time.Hour / time.Microsecond)
	return now.Add(time.Duration(min(remainingMicros, most)) * time.Microsecond)
}

func (s *Server) ping(ctx context.Context, request *nodev1.PingRequest) (*nodev1.PingResponse, error) {
	return s.cfg.Handler.Ping(ctx, request)
}

func (s *Server) admin(ctx context.Context, request *nodev1.AdminRequest) (*nodev1.AdminResponse, error) {
	return s.cfg.Handler.Admin(ctx, request)
}
