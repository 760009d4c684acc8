package transport

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// callReader hands calls to the handler. One goroutine uses it.
type callReader struct {
	session *session
	now     time.Time // when the batch at hand came

	onCall, onPart func([]byte) error
	onCancel       func(uint64)
}

func newCallReader(s *session) *callReader {
	r := &callReader{session: s}
	r.onCall, r.onPart, r.onCancel = r.call, r.part, s.cancel
	return r
}

// take handles one encoded CallBatch that came at now. An empty one asks for an
// answer. Its errors wrap errMalformed.
func (r *callReader) take(batch []byte, now time.Time) error {
	if len(batch) == 0 {
		r.session.pong()
		return nil
	}
	r.now = now
	return decodeBatch(batch, r.onCall, r.onPart, r.onCancel)
}

// call takes a call, or its beginning.
func (r *callReader) call(b []byte) error {
	call := new(nodev1.Call)
	if err := decode(b, call); err != nil {
		return err
	}
	s := r.session
	c := &incomingCall{session: s, id: call.GetId()}
	c.stream, c.deadline = s.ctx, deadline(r.now, call.GetRemainingMicros())
	taken, err := s.admit(c, call)
	if err != nil {
		return err
	}
	if taken && call.GetRest() == 0 {
		s.serve(c, call)
	}
	return nil
}

// part takes the next part of a request.
func (r *callReader) part(b []byte) error {
	next, err := decodePart(b)
	if err != nil {
		return err
	}
	s := r.session
	s.mu.Lock()
	c := s.calls[next.id]
	var coming *assembly
	if c != nil {
		coming = c.coming
	}
	s.mu.Unlock()
	if c == nil {
		return nil // refused, given up or answered
	}
	if coming == nil {
		return fmt.Errorf("%w: part of a complete call", errMalformed)
	}
	whole, err := coming.add(next)
	if err != nil || !whole {
		return err
	}
	s.mu.Lock()
	call, over := c.call, c.answered
	c.coming, c.call = nil, nil
	s.mu.Unlock()
	if over {
		return nil
	}
	// Not here: copying tens of megabytes would hold up the calls behind.
	s.server.tasks.Go(func() {
		call.Request, call.Rest = coming.join(), 0
		s.serve(c, call)
	})
	return nil
}

// admit registers a call, or refuses it. An error ends the stream.
func (s *session) admit(c *incomingCall, call *nodev1.Call) (taken bool, err error) {
	cfg := &s.server.cfg
	size, ok := sizeOf(len(call.GetRequest()), call.GetRest(), cfg.MaxMessage)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.calls[c.id] != nil:
		return false, fmt.Errorf("%w: call id in use", errMalformed)
	case s.closing || s.over: // the end of the stream says that it was not taken
	case !ok:
		s.refuse(c.id, nodev1.Outcome_OUTCOME_MALFORMED)
	case call.GetRemainingMicros() < 0:
		s.refuse(c.id, nodev1.Outcome_OUTCOME_EXPIRED)
	case len(s.calls) >= cfg.MaxInFlight || s.held+size > cfg.MaxHeld:
		s.refuse(c.id, nodev1.Outcome_OUTCOME_BUSY)
	case !s.server.enter():
		s.refuse(c.id, nodev1.Outcome_OUTCOME_STOPPED)
	default:
		s.register(c, call, size)
		return true, nil
	}
	return false, nil
}

// register takes a call. The caller holds the lock.
func (s *session) register(c *incomingCall, call *nodev1.Call, size int64) {
	c.held = size
	s.held += size
	s.calls[c.id] = c
	if call.GetRest() > 0 {
		c.call, c.coming = call, newAssembly(call.GetRequest(), call.GetRest())
		call.Request = nil
	}
}

// serve hands a complete call to the handler.
func (s *session) serve(c *incomingCall, call *nodev1.Call) {
	if c.Err() != nil {
		c.reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_EXPIRED})
		return
	}
	defer func() {
		if p := recover(); p != nil {
			// What it tells the peer is said nowhere else: the log has it.
			_ = s.server.panicked(callsMethod, p)
			c.reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_PANICKED})
		}
	}()
	s.server.cfg.Handler.Call(c, call, c.reply)
}

// reply answers a call, once.
func (c *incomingCall) reply(r *nodev1.Reply) {
	s := c.session
	if r == nil {
		r = &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_GONE}
	}
	s.mu.Lock()
	if c.answered {
		s.mu.Unlock()
		return
	}
	s.remove(c)
	if !c.cancelled && !s.over {
		s.send(c.id, r)
	}
	// The writer may wait for the last call of a closing session.
	if s.closing {
		s.out.rouse()
	}
	s.mu.Unlock()
	c.end()
}

// remove takes a call out of the session, however it ended. The caller holds
// the lock.
func (s *session) remove(c *incomingCall) {
	c.answered = true
	delete(s.calls, c.id)
	s.held -= c.held
	s.server.leave()
}

// refuse answers a call that is not taken. The caller holds the lock.
func (s *session) refuse(id uint64, outcome nodev1.Outcome) {
	r := &nodev1.Reply{Outcome: outcome}
	if outcome == nodev1.Outcome_OUTCOME_BUSY {
		r.RetryAfterMicros = busyRetry.Microseconds()
	}
	s.send(id, r)
}

// send queues a reply. The caller holds the lock.
func (s *session) send(id uint64, r *nodev1.Reply) {
	cfg := &s.server.cfg
	r.Id = id
	size := len(r.GetReply())
	var err error
	switch {
	case size > cfg.MaxMessage:
		err = errEntryTooLarge
	case s.out.held+int64(size) > cfg.MaxHeld:
		// The peer does not read. What the call did is done: all that can be
		// said is that there is no answer.
		r = &nodev1.Reply{Id: id, Outcome: nodev1.Outcome_OUTCOME_GONE}
		_, err = s.out.add(r)
	case size > partBytes:
		body := r.Reply
		r.Reply, r.Rest = nil, int64(size)
		_, err = s.out.addLarge(id, r, body)
	default:
		_, err = s.out.add(r)
	}
	if err == nil {
		return
	}
	if _, err = s.out.add(malformed(id)); err != nil {
		s.server.logger.Error("cannot encode a refusal", "error", err)
	}
}

// cancel is told that the caller of a call gave up. A call that is not complete
// is forgotten; another one's context ends, and the handler answers into the void.
func (s *session) cancel(id uint64) {
	s.mu.Lock()
	c := s.calls[id]
	if c != nil {
		c.cancelled = true
	}
	s.mu.Unlock()
	if c != nil {
		c.abandon()
	}
}

// abandon ends the context of a call that nobody waits for. One that no handler
// has had is over.
func (c *incomingCall) abandon() {
	s := c.session
	s.mu.Lock()
	if c.coming != nil && !c.answered {
		c.coming = nil
		s.remove(c)
	}
	s.mu.Unlock()
	c.end()
}

// pong answers a peer that asks whether we are there.
func (s *session) pong() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.addAnswer()
}

func appendView(b []byte, version int64) []byte {
	if version == 0 {
		return b
	}
	b = protowire.AppendTag(b, fieldView, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(version))
}
