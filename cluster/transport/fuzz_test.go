package transport

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// countingHandler answers at once, later or never, as the first byte of a
// request says.
type countingHandler struct {
	t     *testing.T
	later []func(*nodev1.Reply)
}

func (h *countingHandler) Call(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
	if call.GetRest() != 0 {
		h.t.Error("a handler got a call that is not complete")
	}
	if len(call.GetRequest()) > 0 && call.GetRequest()[0]%2 == 0 {
		h.later = append(h.later, reply)
		return
	}
	reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY, Reply: call.GetRequest()})
}
func (h *countingHandler) Ping(context.Context, *nodev1.PingRequest) (*nodev1.PingResponse, error) {
	return nil, nil
}
func (h *countingHandler) Admin(context.Context, *nodev1.AdminRequest) (*nodev1.AdminResponse, error) {
	return nil, nil
}
func (h *countingHandler) View() int64 { return 1 }

func encoded(f *testing.F, m proto.Message) []byte {
	f.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// FuzzCallBatch feeds two batches to a session: it must not panic, must count
// what it holds, and must have nothing left when all is answered and over.
func FuzzCallBatch(f *testing.F) {
	f.Add(encoded(f, &nodev1.CallBatch{Calls: []*nodev1.Call{{Id: 1, Request: []byte("a")}, {Id: 2, Request: []byte("b"), Rest: 3}}}),
		encoded(f, &nodev1.CallBatch{Parts: []*nodev1.Part{{Id: 2, Data: []byte("xyz")}}, Cancelled: []uint64{1}}))
	f.Add(encoded(f, &nodev1.CallBatch{Calls: []*nodev1.Call{{Id: 1, RemainingMicros: -5}, {Id: 1}, {Id: 1}}}), []byte{})
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, []byte{0x13, 0x14})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		h := &countingHandler{t: t}
		server := &Server{
			cfg:    ServerConfig{Handler: h, MaxInFlight: 4, MaxMessage: 64, MaxHeld: 128}.withDefaults(),
			logger: slog.New(slog.DiscardHandler), buffers: new(bufferPool), idle: make(chan struct{}, 1),
		}
		s := newSession(t.Context(), server)
		r := newCallReader(s)
		for _, batch := range [][]byte{first, second} {
			if err := r.take(batch, time.Now()); err != nil {
				break
			}
			server.tasks.Wait() // calls that came in parts
			if len(s.calls) > 4 || s.held > 128 || s.held < 0 {
				t.Errorf("%d calls of %d bytes are held", len(s.calls), s.held)
			}
		}
		for buf := s.out.take(); buf != nil; buf = s.out.take() {
			var batch nodev1.ReplyBatch
			if err := proto.Unmarshal(*buf, &batch); err != nil {
				t.Errorf("what is sent cannot be read: %v", err)
			}
		}
		s.end()
		for _, reply := range h.later {
			reply(nil)
		}
		if len(s.calls) != 0 || s.held != 0 || server.inFlight.Load() != 0 || s.out.held != 0 {
			t.Errorf("left: %d calls, %d bytes, %d in flight, %d bytes to send",
				len(s.calls), s.held, server.inFlight.Load(), s.out.held)
		}
	})
}

// FuzzReplyBatch feeds a batch to a link on which calls wait: it must not
// panic, and each call must have exactly one result in the end.
func FuzzReplyBatch(f *testing.F) {
	f.Add(encoded(f, &nodev1.ReplyBatch{View: 3, Replies: []*nodev1.Reply{{Id: 1, Reply: []byte("a")}, {Id: 2, Rest: 3}},
		Parts: []*nodev1.Part{{Id: 2, Data: []byte("xyz")}}}))
	f.Add(encoded(f, &nodev1.ReplyBatch{Replies: []*nodev1.Reply{{Id: 3, Rest: 3}, {Id: 3}}, Parts: []*nodev1.Part{{Id: 1}}}))
	f.Add([]byte{0x0a, 0x05, 0x08, 0x01})
	f.Fuzz(func(t *testing.T, batch []byte) {
		l, first := quietLink(time.Hour)
		calls := []*pending{first}
		for range 3 {
			p := l.spare.get()
			if refusal, _, err := l.begin(p, &nodev1.Call{Kind: "kb"}); refusal != nil || err != nil {
				t.Fatal(refusal, err)
			}
			calls = append(calls, p)
		}
		if err := newReplyReader(l).take(batch); err != nil {
			l.end(err)
		}
		held := l.held
		for _, p := range l.waiting {
			held -= p.held
		}
		if l.err == nil && held != 0 {
			t.Errorf("%d bytes are held for nobody", held)
		}
		l.end(errClosed)
		for _, p := range calls {
			select {
			case <-p.ready:
			default:
				t.Errorf("call %d has no result", p.id)
			}
			if len(p.ready) != 0 || (p.reply == nil) == (p.err == nil) {
				t.Errorf("call %d: reply %v, error %v", p.id, p.reply, p.err)
			}
		}
	})
}
