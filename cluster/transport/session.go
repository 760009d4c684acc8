package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// session is one stream of calls as the server has it. The goroutine that
// grpc-go runs for the stream writes; another one reads, because a reader
// cannot be made to return before its stream is over.
type session struct {
	server *Server
	ctx    context.Context // of the stream

	mu       sync.Mutex
	out      outbox
	calls    map[uint64]*incomingCall
	held     int64 // bytes of the requests in calls
	closing  bool  // takes nothing more, and ends when all is sent
	over     bool
	err      error         // why it ends, for the peer
	eased    chan struct{} // gets an element when replies have been sent; see pause
	pausedAt int64         // bytes of waiting replies above which nothing is read
}

// incomingCall is a call that has no reply yet. Its fields are guarded by the
// session's lock.
type incomingCall struct {
	callContext
	session   *session
	id        uint64
	held      int64
	call      *nodev1.Call // while its request is not complete
	coming    *assembly
	cancelled bool // its caller gave up
	answered  bool
}

func newSession(ctx context.Context, s *Server) *session {
	return &session{
		server: s, ctx: ctx, out: newOutbox(s.buffers), calls: map[uint64]*incomingCall{},
		eased: make(chan struct{}, 1), pausedAt: s.cfg.MaxHeld / 2,
	}
}

// calls serves one stream.
func (s *Server) calls(stream grpc.ServerStream) error {
	one := newSession(stream.Context(), s)
	if !s.addSession(one) {
		return status.Error(codes.Unavailable, "the node stops")
	}
	defer s.removeSession(one)
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	s.logger.Debug("node connected", "caller", caller(stream.Context()))
	s.tasks.Go(func() { one.read(stream) })
	err := one.write(stream)
	one.end()
	s.logger.Debug("node disconnected", "caller", caller(stream.Context()), "error", err)
	return err
}

// caller names a peer for the log.
func caller(ctx context.Context) string {
	var name string
	if md, ok := metadata.FromIncomingContext(ctx); ok && len(md[callerKey]) == 1 {
		name = md[callerKey][0]
	}
	if p, ok := grpcpeer.FromContext(ctx); ok {
		return fmt.Sprintf("%s at %s", name, p.Addr)
	}
	return name
}

// read takes batches until the stream is over.
func (s *session) read(stream grpc.ServerStream) {
	defer func() {
		if p := recover(); p != nil {
			s.fail(s.server.panicked(callsMethod, p))
		}
	}()
	r := newCallReader(s)
	for {
		var in incoming
		if err := stream.RecvMsg(&in); err != nil {
			if !errors.Is(err, io.EOF) {
				s.fail(err)
				return
			}
			s.close() // the peer sends no more, and gets what it has asked for
			return
		}
		err := r.take(in.bytes(), time.Now())
		in.free()
		if err != nil {
			s.server.logger.Warn("peer sent what is not a batch of calls", "caller", caller(s.ctx), "error", err)
			s.fail(status.Error(codes.InvalidArgument, err.Error()))
			return
		}
		if !s.pause() {
			return
		}
	}
}

// pause waits while too many bytes of replies wait to be sent: a peer that does
// not read is not read from. It is false when the stream is over.
func (s *session) pause() bool {
	for {
		s.mu.Lock()
		free := s.out.held <= s.pausedAt
		s.mu.Unlock()
		if free {
			return true
		}
		select {
		case <-s.eased:
		case <-s.ctx.Done():
			return false
		}
	}
}

// write sends what is queued until the session ends.
func (s *session) write(stream grpc.ServerStream) error {
	for {
		buf, done, err := s.next()
		if done {
			return err
		}
		if buf == nil {
			select {
			case <-s.out.wake:
			case <-s.ctx.Done():
				return status.FromContextError(s.ctx.Err()).Err()
			}
			// Grains that are ready to answer come first: their replies go out
			// in the same message.
			runtime.Gosched()
			continue
		}
		if err := stream.SendMsg(&outgoing{buf: buf, pool: s.out.pool}); err != nil {
			return err
		}
	}
}

// next gives the next message, or none; done when there will be none.
func (s *session) next() (buf *[]byte, done bool, err error) {
	view := s.server.cfg.Handler.View()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, true, s.err
	}
	if buf = s.out.take(); buf != nil {
		*buf = appendView(*buf, view)
		select {
		case s.eased <- struct{}{}:
		default:
		}
		return buf, false, nil
	}
	return nil, s.closing && len(s.calls) == 0, nil
}

// fail ends the session with an error for the peer.
func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.out.rouse()
}

// close takes nothing more and ends the session in order when all calls are
// answered.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	s.out.rouse()
}

// end ends the contexts of all calls: nobody waits for them any more.
func (s *session) end() {
	s.mu.Lock()
	s.over = true
	calls := make([]*incomingCall, 0, len(s.calls))
	for _, c := range s.calls {
		calls = append(calls, c)
	}
	s.mu.Unlock()
	for _, c := range calls {
		c.abandon()
	}
}
