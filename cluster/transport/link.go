package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// link is one connection to a node and the stream of calls on it. It is never
// mended: when it ends, all its calls have a result, and the peer dials anew.
type link struct {
	addr   string
	limits limits
	logger *slog.Logger
	conn   *grpc.ClientConn
	stream grpc.ClientStream
	cancel context.CancelFunc // of the stream
	onView func(version int64)
	ended  func(*link) // called once, before the calls get their results
	since  time.Time
	spare  *pendings

	mu      sync.Mutex
	out     outbox
	nextID  uint64
	waiting map[uint64]*pending
	held    int64 // bytes of the requests in waiting, and of replies that come in parts
	err     error // why the link ended; nil: it has not
	inOrder bool  // the server ended it, and has answered all it took
	ticker  *time.Timer
	ticking bool // calls wait, and the ticker counts silence
	silent  int  // ticks in a row

	heard atomic.Bool // something came since the last tick
}

// limits are the bounds of one stream.
type limits struct {
	inFlight int           // calls
	message  int           // bytes of a request or reply
	held     int64         // bytes in memory, requests and replies apart
	tick     time.Duration // silentTicks of them are too long a silence
}

// run reads and writes until the link ends, and closes the connection.
func (l *link) run() {
	var writer sync.WaitGroup
	writer.Go(l.write)
	l.end(l.read())
	writer.Wait()
	if err := l.conn.Close(); err != nil {
		l.logger.Debug("closing a connection", "addr", l.addr, "error", err)
	}
}

// call sends one call and waits for its reply. sent is false if the link had
// ended before: another one may be tried.
func (l *link) call(ctx context.Context, call *nodev1.Call) (reply *nodev1.Reply, sent bool, err error) {
	p := l.spare.get()
	if reply, sent, err = l.begin(p, call); err != nil || reply != nil {
		return reply, sent, err
	}
	select {
	case <-p.ready:
	case <-ctx.Done():
		if l.abandon(p) {
			return nil, true, ctx.Err()
		}
		<-p.ready // its result is on the way
	}
	reply, err = p.reply, p.err
	if p.coming != nil && err == nil {
		// Here, not in the reader: it would hold up all other replies.
		reply.Reply, reply.Rest = p.coming.join(), 0
	}
	l.spare.put(p)
	return reply, true, err
}

// begin queues a call, or gives the reply of one that cannot be sent as it is.
func (l *link) begin(p *pending, call *nodev1.Call) (refusal *nodev1.Reply, sent bool, err error) {
	size := int64(len(call.GetRequest()))
	if size > int64(l.limits.message) {
		return malformed(0), true, nil
	}
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return nil, false, l.err
	}
	if len(l.waiting) >= l.limits.inFlight || l.held+size > l.limits.held || l.out.held > l.limits.held {
		l.mu.Unlock()
		return nil, true, fmt.Errorf("transport: %s: %w", l.addr, ErrFull)
	}
	l.nextID++
	p.id, p.held = l.nextID, size
	if err := l.queue(p, call); err != nil {
		l.mu.Unlock()
		return malformed(0), true, nil
	}
	l.waiting[p.id] = p
	l.held += size
	if !l.ticking {
		l.ticking, l.silent = true, 0
		l.ticker.Reset(l.limits.tick)
	}
	l.mu.Unlock()
	return nil, true, nil
}

// queue encodes a call into the outbox. The caller holds the lock.
func (l *link) queue(p *pending, call *nodev1.Call) (err error) {
	call.Id = p.id
	if len(call.GetRequest()) <= partBytes {
		p.message, err = l.out.add(call)
		return err
	}
	body := call.Request
	call.Request, call.Rest = nil, int64(len(body))
	p.large, err = l.out.addLarge(p.id, call, body)
	call.Request, call.Rest = body, 0
	return err
}

// abandon gives a call up whose caller's context is over. It is false if the
// call has got its result meanwhile.
func (l *link) abandon(p *pending) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, waits := l.waiting[p.id]; !waits {
		return false
	}
	l.remove(p)
	if p.large != nil {
		l.out.drop(p.large)
	}
	l.out.addCancel(p.id)
	return true
}

// remove takes a call out of those that wait. The caller holds the lock.
func (l *link) remove(p *pending) {
	delete(l.waiting, p.id)
	l.held -= p.held
}

// write sends what is queued until the link ends.
func (l *link) write() {
	for {
		l.mu.Lock()
		var buf *[]byte
		if l.err == nil { // else calls were already told that they were not sent
			buf = l.out.take()
		}
		l.mu.Unlock()
		if buf == nil {
			select {
			case <-l.out.wake:
			case <-l.stream.Context().Done():
				return
			}
			// Callers that are ready to run come first: their calls go out in
			// the same message.
			runtime.Gosched()
			continue
		}
		if err := l.stream.SendMsg(&outgoing{buf: buf, pool: l.out.pool}); err != nil {
			// The stream is over; the reader hears why.
			l.cancelUnlessEOF(err)
			return
		}
	}
}

// cancelUnlessEOF ends the stream after an error that the reader would not see.
func (l *link) cancelUnlessEOF(err error) {
	if !errors.Is(err, io.EOF) {
		l.logger.Error("cannot send calls", "addr", l.addr, "error", err)
		l.cancel()
	}
}

// end gives every call its result. Only the first call of it counts. err is nil
// if the server ended the stream in order.
func (l *link) end(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.inOrder = err == nil
	if l.inOrder {
		err = errEnded
	}
	l.err = err
	l.ticker.Stop()
	calls := l.waiting
	l.waiting = nil
	notSent := fmt.Errorf("transport: %s: %w: %w", l.addr, ErrNotSent, err)
	lost := fmt.Errorf("transport: %s: %w: %w", l.addr, ErrLost, err)
	for _, p := range calls {
		p.reply, p.err = nil, lost
		if l.neverSent(p) {
			p.err = notSent
		}
	}
	l.mu.Unlock()

	l.ended(l)
	for _, p := range calls {
		p.ready <- struct{}{}
	}
	l.cancel()
}

// neverSent tells that no handler can have had a call that has no answer: its
// last byte was not yet to be written, or the server has answered all it took.
// The caller holds the lock.
func (l *link) neverSent(p *pending) bool {
	message := p.message
	if p.large != nil {
		message = p.large.message
	}
	return l.inOrder || message == 0 || message > l.out.taken
}

// tick counts the silence of a node that calls wait for.
func (l *link) tick() {
	l.mu.Lock()
	switch {
	case l.err != nil:
	case len(l.waiting) == 0:
		l.ticking = false
	case l.heard.Swap(false):
		l.silent = 0
		l.ticker.Reset(l.limits.tick)
	case l.silent+1 >= silentTicks:
		l.mu.Unlock()
		l.end(errSilent)
		return
	default:
		l.silent++
		l.out.addAnswer() // an empty message asks for an answer
		l.ticker.Reset(l.limits.tick)
	}
	l.mu.Unlock()
}
