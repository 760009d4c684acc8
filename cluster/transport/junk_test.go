package transport_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"granary.dev/granary/cluster/transport"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

const callsMethod = "/granary.node.v1.NodeService/Calls"

// plainly connects to a server without this package's client.
func plainly(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func stream(t *testing.T, conn *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	s, err := conn.NewStream(within(t), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// replies sends batches and collects replies until as many have come.
func replies(t *testing.T, s grpc.ClientStream, want int, batches ...*nodev1.CallBatch) map[uint64]*nodev1.Reply {
	t.Helper()
	for _, b := range batches {
		if err := s.SendMsg(b); err != nil {
			t.Fatal(err)
		}
	}
	got := map[uint64]*nodev1.Reply{}
	for len(got) < want {
		var batch nodev1.ReplyBatch
		if err := s.RecvMsg(&batch); err != nil {
			t.Fatal(err)
		}
		for _, r := range batch.GetReplies() {
			if got[r.GetId()] != nil {
				t.Errorf("call %d is answered twice", r.GetId())
			}
			got[r.GetId()] = r
		}
	}
	return got
}

func TestExpiredCallsNeverReachTheHandler_E5(t *testing.T) {
	noLeaks(t)
	var calls atomic.Int64
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		calls.Add(1)
		reply(answer(call))
	}}
	n := serve(t, transport.ServerConfig{Handler: h})
	s := stream(t, plainly(t, n.addr), callsMethod)
	got := replies(t, s, 1, &nodev1.CallBatch{Calls: []*nodev1.Call{{Id: 1, RemainingMicros: -1}}})
	if got[1].GetOutcome() != nodev1.Outcome_OUTCOME_EXPIRED {
		t.Errorf("a call whose time was over: %v", got[1])
	}
	// One whose time is over while its parts come.
	replies(t, s, 0, &nodev1.CallBatch{Calls: []*nodev1.Call{{Id: 2, RemainingMicros: 1000, Request: []byte("a"), Rest: 2}}})
	<-time.After(5 * time.Millisecond)
	got = replies(t, s, 1, &nodev1.CallBatch{Parts: []*nodev1.Part{{Id: 2, Data: []byte("bc")}}})
	if got[2].GetOutcome() != nodev1.Outcome_OUTCOME_EXPIRED {
		t.Errorf("a call whose time was over when it was complete: %v", got[2])
	}
	if calls.Load() != 0 {
		t.Errorf("the handler had %d calls", calls.Load())
	}
	got = replies(t, s, 1, &nodev1.CallBatch{Calls: []*nodev1.Call{{Id: 3, RemainingMicros: 1 << 62}}})
	if got[3].GetOutcome() != nodev1.Outcome_OUTCOME_REPLY {
		t.Errorf("a call with all the time in the world: %v", got[3])
	}
}

func TestMalformedStreamsEndWithAnErrorAndHarmNobodyElse(t *testing.T) {
	noLeaks(t)
	n := serve(t, transport.ServerConfig{Handler: &handler{}})
	c := dial(t, transport.Config{})
	outcome(t, c, n.addr, request("x"))
	open := func() *nodev1.Call { return &nodev1.Call{Id: 1, Request: []byte("a"), Rest: 10} }
	cases := []struct {
		name  string
		batch proto.Message
	}{
		{"a batch that is none", wrapperspb.Bytes([]byte("\xff\xff\xff\xff"))},
		{"id in use", &nodev1.CallBatch{Calls: []*nodev1.Call{open(), open()}}},
		{"part that is too long", &nodev1.CallBatch{Calls: []*nodev1.Call{open()}, Parts: []*nodev1.Part{{Id: 1, Data: make([]byte, 11)}}}},
		{"part that is too short", &nodev1.CallBatch{Calls: []*nodev1.Call{open()}, Parts: []*nodev1.Part{{Id: 1, Data: make([]byte, 9)}}}},
		{"empty part", &nodev1.CallBatch{Calls: []*nodev1.Call{open()}, Parts: []*nodev1.Part{{Id: 1, Rest: 10}}}},
		{"part with a negative rest", &nodev1.CallBatch{Calls: []*nodev1.Call{open()}, Parts: []*nodev1.Part{{Id: 1, Data: make([]byte, 11), Rest: -1}}}},
		{"message that is too large", &nodev1.CallBatch{Calls: []*nodev1.Call{{Id: 1, Request: make([]byte, 2<<20)}}}},
	}
	for _, one := range cases {
		s := stream(t, plainly(t, n.addr), callsMethod)
		if err := s.SendMsg(one.batch); err != nil {
			t.Fatal(err)
		}
		err := s.RecvMsg(new(nodev1.ReplyBatch))
		if code := status.Code(err); code != codes.InvalidArgument && code != codes.ResourceExhausted {
			t.Errorf("%s: %v", one.name, err)
		}
	}
	if got := outcome(t, c, n.addr, request("x")); got != nodev1.Outcome_OUTCOME_REPLY {
		t.Errorf("another peer: %v", got)
	}
}

func TestWhatLaterVersionsSendIsSkipped_H3(t *testing.T) {
	noLeaks(t)
	n := serve(t, transport.ServerConfig{Handler: &handler{}})
	s := stream(t, plainly(t, n.addr), callsMethod)
	batch := &nodev1.CallBatch{
		Calls:     []*nodev1.Call{{Id: 1, Request: []byte("x")}},
		Cancelled: []uint64{77, 78},
		Parts:     []*nodev1.Part{{Id: 99, Data: []byte("of a call that is over")}},
	}
	unknown := []byte{0xf8, 0x07, 0x01, 0xfd, 0x07, 1, 2, 3, 4} // fields 127, varint and fixed32
	batch.ProtoReflect().SetUnknown(unknown)
	batch.GetCalls()[0].ProtoReflect().SetUnknown(unknown)
	if got := replies(t, s, 1, batch); string(got[1].GetReply()) != "x" {
		t.Errorf("the call got %v", got[1])
	}
	// A size that makes no sense costs the call only.
	got := replies(t, s, 2, &nodev1.CallBatch{Calls: []*nodev1.Call{{Id: 2, Rest: -1}, {Id: 3, Request: []byte("x"), Rest: 1<<63 - 1}}})
	for id, r := range got {
		if r.GetOutcome() != nodev1.Outcome_OUTCOME_MALFORMED {
			t.Errorf("call %d: %v", id, r)
		}
	}
}

func TestUnknownMethodsAreErrors(t *testing.T) {
	noLeaks(t)
	n := serve(t, transport.ServerConfig{Handler: &handler{}})
	conn := plainly(t, n.addr)
	for _, method := range []string{"/granary.node.v1.NodeService/Nothing", "/other.Service/Calls", "/x"} {
		err := conn.Invoke(within(t), method, new(nodev1.PingRequest), new(nodev1.PingResponse))
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", method, err)
		}
		if err := stream(t, conn, method).RecvMsg(new(nodev1.ReplyBatch)); status.Code(err) != codes.Unimplemented {
			t.Errorf("stream %s: %v", method, err)
		}
	}
	// Another message than the method takes.
	err := conn.Invoke(within(t), "/granary.node.v1.NodeService/Ping", wrapperspb.Bytes([]byte("\xff")), new(nodev1.PingResponse))
	if err == nil {
		t.Error("a ping that is none was answered")
	}
	if err := conn.Invoke(within(t), "/granary.node.v1.NodeService/Ping", new(nodev1.PingRequest), new(nodev1.PingResponse)); err != nil {
		t.Errorf("a ping afterwards: %v", err)
	}
}

func TestJunkOnThePortEndsItsConnectionOnly(t *testing.T) {
	noLeaks(t)
	n := serve(t, transport.ServerConfig{Handler: &handler{}})
	random := rand.NewChaCha8([32]byte{2})
	noise := make([]byte, 100<<10)
	_, _ = random.Read(noise)
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	for name, junk := range map[string]string{
		"noise":              string(noise),
		"HTTP/1.1":           "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"preface and noise":  preface + string(noise),
		"settings and noise": preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + string(noise),
		"nothing":            "",
	} {
		conn, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, junk)
		_ = conn.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: the connection stays", name)
		}
		_ = conn.Close()
	}
	if got := outcome(t, dial(t, transport.Config{}), n.addr, request("x")); got != nodev1.Outcome_OUTCOME_REPLY {
		t.Errorf("a peer afterwards: %v", got)
	}
}

// Not a node: it speaks HTTP/2 but has no such service, or does not speak at all.
func TestWhatIsNoNodeIsNotSentAnything(t *testing.T) {
	noLeaks(t)
	other := grpc.NewServer()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = other.Serve(l)
	}()
	t.Cleanup(func() {
		other.Stop()
		<-served
	})
	c := dial(t, transport.Config{DialTimeout: 300 * time.Millisecond})
	_, err = c.Call(within(t), l.Addr().String(), request("x"))
	isOneOf(t, err, transport.ErrNotSent)
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mute.Close() }()
	_, err = c.Call(within(t), mute.Addr().String(), request("x"))
	isOneOf(t, err, transport.ErrNotSent)
}

// hostile answers the calls of a client with whatever a test wants.
func hostile(t *testing.T, answer func(*nodev1.CallBatch) proto.Message) string {
	t.Helper()
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "granary.node.v1.NodeService", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Calls", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error {
				if err := s.SendHeader(nil); err != nil {
					return err
				}
				for {
					var batch nodev1.CallBatch
					if err := s.RecvMsg(&batch); err != nil {
						return err
					}
					if err := s.SendMsg(answer(&batch)); err != nil {
						return err
					}
				}
			}}},
	}, struct{}{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return l.Addr().String()
}

func TestMalformedRepliesLoseTheCallAndNothingElse(t *testing.T) {
	noLeaks(t)
	c := dial(t, transport.Config{MaxMessage: 1 << 20, MaxHeld: 1 << 20})
	first := func(b *nodev1.CallBatch, change func(*nodev1.Reply), parts ...*nodev1.Part) proto.Message {
		if len(b.GetCalls()) == 0 {
			return new(nodev1.ReplyBatch)
		}
		r := &nodev1.Reply{Id: b.GetCalls()[0].GetId(), Outcome: nodev1.Outcome_OUTCOME_REPLY}
		change(r)
		for _, p := range parts {
			p.Id = r.GetId()
		}
		return &nodev1.ReplyBatch{Replies: []*nodev1.Reply{{Id: 1 << 40}, r}, Parts: parts}
	}
	cases := []struct {
		name   string
		answer func(*nodev1.CallBatch) proto.Message
		want   nodev1.Outcome // 0: the call is lost
	}{
		{"noise", func(*nodev1.CallBatch) proto.Message { return wrapperspb.Bytes([]byte("\xff\xff\xff")) }, 0},
		{"unknown outcome", func(b *nodev1.CallBatch) proto.Message {
			return first(b, func(r *nodev1.Reply) { r.Outcome = 77 })
		}, 77},
		{"negative rest", func(b *nodev1.CallBatch) proto.Message {
			return first(b, func(r *nodev1.Reply) { r.Rest = -1 })
		}, nodev1.Outcome_OUTCOME_MALFORMED},
		{"too large a rest", func(b *nodev1.CallBatch) proto.Message {
			return first(b, func(r *nodev1.Reply) { r.Rest = 1<<63 - 1 })
		}, nodev1.Outcome_OUTCOME_MALFORMED},
		{"part that does not fit", func(b *nodev1.CallBatch) proto.Message {
			return first(b, func(r *nodev1.Reply) { r.Rest = 4 }, &nodev1.Part{Data: []byte("abcde")})
		}, 0},
		{"whole in two parts", func(b *nodev1.CallBatch) proto.Message {
			return first(b, func(r *nodev1.Reply) { r.Rest = 4 }, &nodev1.Part{Data: []byte("ab"), Rest: 2}, &nodev1.Part{Data: []byte("cd")})
		}, nodev1.Outcome_OUTCOME_REPLY},
	}
	for _, one := range cases {
		addr := hostile(t, one.answer)
		r, err := c.Call(within(t), addr, request("x"))
		if one.want == 0 {
			if !errors.Is(err, transport.ErrLost) {
				t.Errorf("%s: %v, %v", one.name, r, err)
			}
		} else if err != nil || r.GetOutcome() != one.want {
			t.Errorf("%s: %v, %v", one.name, r, err)
		}
	}
}

// A peer that asks for much and reads nothing must not fill our memory.
func TestPeerThatDoesNotReadIsNotReadFrom(t *testing.T) {
	noLeaks(t)
	var calls atomic.Int64
	h := &handler{call: func(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
		calls.Add(1)
		reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY, Reply: make([]byte, 256<<10)})
	}}
	const held = 8 << 20
	n := serve(t, transport.ServerConfig{Handler: h, MaxMessage: 1 << 20, MaxHeld: held})
	s := stream(t, plainly(t, n.addr), callsMethod)
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	before := memory.HeapAlloc
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for id := uint64(1); id < 1_000_000; {
			var batch nodev1.CallBatch
			for range 16 {
				batch.Calls = append(batch.Calls, &nodev1.Call{Id: id, Grain: strings.Repeat("g", 1000)})
				id++
			}
			if s.SendMsg(&batch) != nil {
				return
			}
		}
	}()
	var last int64
	until(t, "the server has stopped reading", func() bool {
		now := calls.Load()
		still := now > 0 && now == last
		last = now
		<-time.After(200 * time.Millisecond)
		return still
	})
	runtime.GC()
	runtime.ReadMemStats(&memory)
	t.Logf("%d calls were taken, %d KiB more in memory", last, (int64(memory.HeapAlloc)-int64(before))>>10)
	if grown := int64(memory.HeapAlloc) - int64(before); grown > 4*held {
		t.Errorf("%d bytes more in memory", grown)
	}
	n.kill()
	wait(t, sent, "end of the sender")
}
