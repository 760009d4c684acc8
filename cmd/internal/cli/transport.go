package cli

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// probeTimeout bounds the question whether a server speaks HTTP/2 in clear text.
const probeTimeout = 2 * time.Second

// transport speaks HTTP/2, also over http:// where the server allows it, and
// HTTP/1.1 otherwise. HTTP/2 lets the server refuse a streamed upload before
// its end, and carries parallel calls on one connection.
type transport struct {
	h2c, other *http.Transport
	probeURL   string
	// reached is set by the first answer of any server.
	reached atomic.Bool

	mu     sync.Mutex
	chosen *http.Transport
}

func newTransport(server string) *transport {
	return &transport{
		h2c:      httpTransport(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }),
		other:    httpTransport(func(p *http.Protocols) { p.SetHTTP1(true); p.SetHTTP2(true) }),
		probeURL: server + "/health",
	}
}

// httpTransport has no limit on a whole exchange, since a watch may last for
// days; a dead connection is noticed by pings.
func httpTransport(protocols func(*http.Protocols)) *http.Transport {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		Protocols:           new(http.Protocols),
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
	protocols(t.Protocols)
	return t
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	rt, err := t.choose(req)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // a RoundTripper owns the body, also when it fails
		}
		return nil, err
	}
	res, err := rt.RoundTrip(req)
	if err == nil {
		t.reached.Store(true)
	}
	return res, err
}

// choose asks an http:// server once, with a request that changes nothing: a
// streamed body could not be sent a second time.
func (t *transport) choose(req *http.Request) (*http.Transport, error) {
	if req.URL.Scheme != "http" {
		return t.other, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.chosen != nil {
		return t.chosen, nil
	}
	ctx, cancel := context.WithTimeout(req.Context(), probeTimeout)
	defer cancel()
	probe, err := http.NewRequestWithContext(ctx, http.MethodHead, t.probeURL, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := t.h2c.RoundTrip(probe)
	switch {
	case err == nil:
		_ = res.Body.Close()
		t.chosen = t.h2c
	case isDialError(err) || req.Context().Err() != nil:
		return nil, err
	default:
		t.chosen = t.other
	}
	return t.chosen, nil
}

func (t *transport) close() {
	t.h2c.CloseIdleConnections()
	t.other.CloseIdleConnections()
}
