package transport

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// open makes a link to a peer. It returns when the node has greeted us on the
// stream, so that a port on which something else listens, or a node that is
// stopped, is found out before a call is on the way.
func (c *Client) open(ctx context.Context, p *peer) (*link, error) {
	conn, err := grpc.NewClient("passthrough:///"+p.addr, c.dialOptions()...)
	if err != nil {
		return nil, err
	}
	ctx = metadata.AppendToOutgoingContext(ctx, callerKey, *c.self.Load())
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(c.cfg.DialTimeout, cancel)
	stream, err := c.greet(ctx, conn)
	if !timer.Stop() {
		err = errNoGreeting
	}
	if err != nil {
		cancel()
		if closeErr := conn.Close(); closeErr != nil {
			return nil, fmt.Errorf("%w; closing: %w", err, closeErr)
		}
		return nil, err
	}
	l := &link{
		addr: p.addr, logger: c.logger, conn: conn, stream: stream, cancel: cancel,
		onView: func(version int64) { c.told(p.addr, version) },
		ended:  p.ended, since: time.Now(), spare: c.spare,
		out: newOutbox(c.buffers), waiting: map[uint64]*pending{},
		limits: limits{
			inFlight: c.cfg.MaxInFlight, message: c.cfg.MaxMessage, held: c.cfg.MaxHeld,
			tick: c.cfg.KeepAlive / silentTicks,
		},
	}
	l.ticker = time.AfterFunc(time.Hour, l.tick)
	l.ticker.Stop()
	return l, nil
}

// greet opens the stream of calls and waits for the server's header.
func (c *Client) greet(ctx context.Context, conn *grpc.ClientConn) (grpc.ClientStream, error) {
	desc := callsStream()
	stream, err := conn.NewStream(ctx, &desc, callsMethod, grpc.ForceCodecV2(c.codec), grpc.MaxCallRecvMsgSize(wireBytes))
	if err != nil {
		return nil, err
	}
	header, err := stream.Header()
	if err == nil && header == nil {
		// The stream ended instead; RecvMsg tells why.
		err = stream.RecvMsg(new(incoming))
	}
	return stream, err
}

func (c *Client) dialOptions() []grpc.DialOption {
	creds := insecure.NewCredentials()
	if c.cfg.TLS != nil {
		creds = credentials.NewTLS(c.cfg.TLS)
	}
	var dialled atomic.Bool
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			if dialled.Swap(true) {
				return nil, errOneDial
			}
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.DefaultConfig, MinConnectTimeout: c.cfg.DialTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: idlePing, Timeout: idlePingAnswer, PermitWithoutStream: true,
		}),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	}
}
