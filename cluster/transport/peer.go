package transport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// peer is a node as the client has it: at most one link, or what is known of
// the last try to make one.
type peer struct {
	client *Client
	addr   string
	cancel context.CancelFunc
	ctx    context.Context // of the dials; ends when the peer is forgotten

	up atomic.Pointer[link]

	mu       sync.Mutex
	gone     error     // set: forgotten, or the client closed
	dial     *dial     // under way
	failures int       // dials and short-lived links in a row
	cause    error     // of the last failure
	retryAt  time.Time // until then calls fail at once
}

// dial is one try to make a link. link and err are set when done is closed.
type dial struct {
	done chan struct{}
	link *link
	err  error
}

// connect gives the link, and waits for one to be made if there is none. Its
// errors wrap ErrNotSent or are those of ctx.
func (p *peer) connect(ctx context.Context) (*link, error) {
	if l := p.up.Load(); l != nil {
		return l, nil
	}
	d, patience, err := p.dialling()
	if err != nil {
		return nil, fmt.Errorf("transport: %s: %w: %w", p.addr, ErrNotSent, err)
	}
	var late <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-d.done:
	case <-late:
		return nil, fmt.Errorf("transport: %s: %w: it does not answer", p.addr, ErrNotSent)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d.err != nil {
		return nil, fmt.Errorf("transport: %s: %w: %w", p.addr, ErrNotSent, d.err)
	}
	return d.link, nil
}

// dialling gives the dial under way, begins one, or says why not now. patience
// is how long a call may wait for it; 0: until it is done.
func (p *peer) dialling() (d *dial, patience time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.gone != nil:
		return nil, 0, p.gone
	case p.dial != nil:
	case p.up.Load() != nil: // since connect looked
		d := &dial{done: make(chan struct{}), link: p.up.Load()}
		close(d.done)
		return d, 0, nil
	case time.Now().Before(p.retryAt):
		return nil, 0, p.cause
	default:
		p.dial = &dial{done: make(chan struct{})}
		p.client.running.Add(1)
		go p.attempt(p.dial)
	}
	if p.failures > 0 {
		patience = redialPatience
	}
	return p.dial, patience, nil
}

// attempt makes one link, and runs it until it ends.
func (p *peer) attempt(d *dial) {
	defer p.client.running.Done()
	l, err := p.client.open(p.ctx, p)
	p.mu.Lock()
	p.dial = nil
	if err == nil && p.gone != nil {
		err = p.gone
	}
	if err == nil {
		d.link = l
		p.up.Store(l)
	} else {
		d.err = err
		p.failed(err)
	}
	p.mu.Unlock()
	close(d.done)
	switch {
	case l == nil:
	case err != nil:
		l.end(err)
		l.run()
	default:
		l.run()
	}
}

// failed sets the back-off. The caller holds the lock.
func (p *peer) failed(cause error) {
	if p.failures == 0 {
		p.client.logger.Info("cannot reach node", "addr", p.addr, "error", cause)
	}
	wait := p.client.backoff
	if p.failures < 5 { // 10 ms doubled five times is above the maximum
		wait = min(wait, firstBackoff<<p.failures)
	}
	p.failures++
	p.cause = cause
	// Nodes that lose a peer together do not come back together.
	p.retryAt = time.Now().Add(wait/2 + rand.N(wait/2))
}

// ended is told that a link is over. One that had lasted is redialled at once
// by the next call: the node may have restarted.
func (p *peer) ended(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.up.CompareAndSwap(l, nil) || p.gone != nil {
		return
	}
	if time.Since(l.since) < p.client.backoff {
		p.failed(l.err)
		return
	}
	p.failures, p.retryAt = 0, time.Time{}
	p.client.logger.Info("connection to node ended", "addr", p.addr, "error", l.err)
}

// close ends the link and dials, and refuses new ones because of why.
func (p *peer) close(why error) {
	p.mu.Lock()
	if p.gone == nil {
		p.gone = why
	}
	l := p.up.Load()
	p.mu.Unlock()
	p.cancel()
	if l != nil {
		l.end(why)
	}
}
