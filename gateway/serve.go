package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"granary.dev/granary/actors/kb"
)

const (
	defaultGrace = 500 * time.Millisecond
	// closeTime is what calls get to end after their contexts are cancelled, and
	// HTTP/2 connections to say goodbye. Grace and it stay below the 2 s promised.
	closeTime = time.Second

	readHeaderTime = 10 * time.Second
	idleTime       = 2 * time.Minute
	pingTime       = 20 * time.Second // a peer that vanished is noticed after twice this
	maxHeaderBytes = 64 << 10         // room for reads by GET, whose request is in the URL
)

func (g *Gateway) newServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC without TLS, for loopback and meshes
	return &http.Server{
		Handler:           g.handler,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{SendPingTimeout: pingTime, PingTimeout: pingTime},
		BaseContext:       func(net.Listener) context.Context { return g.base },
		ReadHeaderTimeout: readHeaderTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// Serve answers on listener until ctx ends or [Gateway.Shutdown] is called, and
// returns when the shutdown is done: nil, or why the listener failed. A listener
// of TLS connections must offer h2 itself.
func (g *Gateway) Serve(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		// Its error says that calls were cut off, which Shutdown has logged.
		_ = g.Shutdown(context.WithoutCancel(ctx))
	})
	defer stop()
	err := g.server.Serve(listener)
	if errors.Is(err, http.ErrServerClosed) {
		<-g.stopped
		return nil
	}
	return err
}

// Quiesce tells probes that this node should get no more requests, and goes on
// serving those that come.
func (g *Gateway) Quiesce() { g.health.stop() }

// Shutdown stops serving within Grace + 1 s, or when ctx ends: first the node says
// that it is not ready and takes no new connection, then calls still running get
// Grace, then their contexts end (streams answer UNAVAILABLE with a time to come
// back, so that clients resume elsewhere), and what is left is cut off. Calling it
// again waits for the first call. The error tells of calls that were cut off.
func (g *Gateway) Shutdown(ctx context.Context) error {
	var err error
	g.shutdown.Do(func() {
		defer close(g.stopped)
		err = g.stop(ctx)
	})
	select {
	case <-g.stopped:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *Gateway) stop(ctx context.Context) error {
	g.health.stop()
	// The order matters: calls in flight may still use everything behind the
	// gateway, so it goes first and its contexts end before its connections do.
	grace := time.AfterFunc(g.cfg.Grace, g.endCalls)
	defer grace.Stop()
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Grace+closeTime)
	defer cancel()
	err := g.server.Shutdown(ctx)
	g.endCalls()
	g.background.Wait()
	if err == nil {
		return nil
	}
	calls := g.inFlight.Load()
	closing := g.server.Close()
	if calls == 0 {
		return closing // only idle peers did not leave in time
	}
	g.log.Warn("calls were cut off at shutdown", slog.Int64("calls", calls))
	return errors.Join(fmt.Errorf("gateway: %d calls were cut off: %w", calls, err), closing)
}

// endCalls ends the contexts of all calls, with the answer they should give.
func (g *Gateway) endCalls() {
	g.cancel(kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "This node is shutting down; another one will serve.").
		After(time.Second))
}
