package transport

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// read takes replies until the stream ends. It gives nil if the server ended it
// in order.
func (l *link) read() (err error) {
	defer func() {
		if p := recover(); p != nil {
			l.logger.Error("panic while reading replies", "addr", l.addr, "panic", p, "stack", string(debug.Stack()))
			err = errMalformed
		}
	}()
	r := newReplyReader(l)
	for {
		var in incoming
		if err := l.stream.RecvMsg(&in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		l.heard.Store(true)
		err := r.take(in.bytes())
		in.free()
		if err != nil {
			return err
		}
	}
}

// replyReader hands replies to the calls that wait for them. One goroutine uses it.
type replyReader struct {
	link    *link
	view    int64
	replies []*nodev1.Reply // of the batch at hand
	parts   []part
	ready   []*pending // have a result

	onReply, onPart func([]byte) error
	onView          func(uint64)
}

func newReplyReader(l *link) *replyReader {
	r := &replyReader{link: l}
	r.onReply, r.onPart, r.onView = r.gotReply, r.gotPart, r.gotView
	return r
}

// take handles one encoded ReplyBatch.
func (r *replyReader) take(batch []byte) error {
	before := r.view
	if err := decodeBatch(batch, r.onReply, r.onPart, r.onView); err != nil {
		return err
	}
	if r.view != before {
		r.link.onView(r.view)
	}
	err := r.settle()
	for _, p := range r.parts {
		if err == nil {
			err = r.part(p)
		}
	}
	for _, p := range r.ready {
		p.ready <- struct{}{}
	}
	clear(r.replies)
	clear(r.parts)
	clear(r.ready)
	r.replies, r.parts, r.ready = r.replies[:0], r.parts[:0], r.ready[:0]
	return err
}

func (r *replyReader) gotReply(b []byte) error {
	reply := new(nodev1.Reply)
	r.replies = append(r.replies, reply)
	return decode(b, reply)
}

func (r *replyReader) gotPart(b []byte) error {
	p, err := decodePart(b)
	r.parts = append(r.parts, p)
	return err
}

func (r *replyReader) gotView(v uint64) { r.view = int64(v) }

// settle matches the replies of a batch with their calls.
func (r *replyReader) settle() error {
	r.link.mu.Lock()
	defer r.link.mu.Unlock()
	for _, reply := range r.replies {
		p := r.link.waiting[reply.GetId()]
		if p == nil {
			continue // its caller gave up
		}
		if p.coming != nil {
			return fmt.Errorf("%w: second reply to a call", errMalformed)
		}
		r.reply(p, reply)
	}
	return nil
}

// reply takes a reply or its beginning. The caller holds the link's lock.
func (r *replyReader) reply(p *pending, reply *nodev1.Reply) {
	l := r.link
	size, ok := sizeOf(len(reply.GetReply()), reply.GetRest(), l.limits.message)
	switch {
	case !ok:
		r.finish(p, malformed(p.id), nil)
	case reply.GetRest() == 0:
		r.finish(p, reply, nil)
	case l.held+size > l.limits.held:
		r.finish(p, nil, fmt.Errorf("transport: %s: %w: too many large replies at once", l.addr, ErrLost))
	default:
		l.held += size
		p.held += size
		p.reply, p.coming = reply, newAssembly(reply.GetReply(), reply.GetRest())
	}
}

// part takes the next part of a reply.
func (r *replyReader) part(next part) error {
	l := r.link
	l.mu.Lock()
	p := l.waiting[next.id]
	var coming *assembly
	if p != nil {
		coming = p.coming
	}
	l.mu.Unlock()
	if p == nil {
		return nil
	}
	if coming == nil {
		return fmt.Errorf("%w: part of a call without a reply", errMalformed)
	}
	whole, err := coming.add(next)
	if err != nil || !whole {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[next.id] == p { // not given up while the part was copied
		r.finish(p, p.reply, nil)
	}
	return nil
}

// finish gives a call its result; take wakes the caller. The caller holds the
// link's lock.
func (r *replyReader) finish(p *pending, reply *nodev1.Reply, err error) {
	r.link.remove(p)
	if p.large != nil {
		r.link.out.drop(p.large) // answered before it was all sent
	}
	p.reply, p.err = reply, err
	r.ready = append(r.ready, p)
}

// malformed answers a call whose request or reply cannot travel.
func malformed(id uint64) *nodev1.Reply {
	return &nodev1.Reply{Id: id, Outcome: nodev1.Outcome_OUTCOME_MALFORMED}
}
