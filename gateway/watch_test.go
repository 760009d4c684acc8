package gateway_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// stage is a journal of n events that a scripted knowledge base reads from. next
// gets the number of each read, to fail it or to wait; nil answers at once.
type stage struct {
	uid      string
	head     int64
	progress []*v1.Progress
	next     func(ctx context.Context, read int, r *nodev1.ReadEvents) error
	reads    atomic.Int64 // streams of one test may overlap
}

func (s *stage) ask(ctx context.Context, a asked) (proto.Message, error) {
	r := a.kb().GetReadEvents()
	read := int(s.reads.Add(1))
	if s.next != nil {
		if err := s.next(ctx, read, r); err != nil {
			return nil, err
		}
	}
	out := &nodev1.ReadEventsResult{Uid: s.uid, Revision: s.head, ProgressCursor: "c1"}
	for rev := r.GetAfterRevision() + 1; r.GetAfterRevision() >= 0 && rev <= s.head; rev++ {
		out.Events = append(out.Events, &v1.Event{Revision: rev, Type: "document.added"})
	}
	if r.GetIncludeProgress() && r.GetProgressCursor() != "c1" {
		out.Progress = s.progress
	}
	return &nodev1.KnowledgeBaseReply{Revision: s.head, Result: &nodev1.KnowledgeBaseReply_Events{Events: out}}, nil
}

// hang waits until the caller gives up, or for the wait the read allows.
func hang(ctx context.Context, wait time.Duration) error {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *world) watch(ctx context.Context, req *v1.WatchEventsRequest) granaryv1connect.EventServiceWatchEventsClientStream {
	w.Helper()
	req.KnowledgeBase = "handbook"
	stream, err := granaryv1connect.NewEventServiceClient(w.client(w.token("viewer"))).WatchEvents(ctx, req)
	if err != nil {
		w.Fatal(err)
	}
	return stream
}

func TestWatchFromTheStartIsGaplessAndResumesAnywhere_A6(t *testing.T) {
	w := start(t)
	s := &stage{uid: "u1", head: 5, progress: []*v1.Progress{{Document: "d1"}, {Document: "d2"}}}
	s.next = func(ctx context.Context, read int, r *nodev1.ReadEvents) error {
		if read == 1 {
			return nil
		}
		return hang(ctx, r.GetWait().AsDuration())
	}
	w.grains.setScript(s.ask)
	ctx, cancel := context.WithCancel(t.Context())
	stream := w.watch(ctx, &v1.WatchEventsRequest{FromStart: true, IncludeProgress: true})
	var tokens []string
	for want := int64(1); want <= 5; want++ {
		m, err := stream.Receive()
		if err != nil || m.GetEvent().GetRevision() != want {
			t.Fatalf("want %d: %v %v", want, m, err)
		}
		tokens = append(tokens, m.GetResumeToken())
	}
	for _, want := range []string{"d1", "d2"} {
		if m, err := stream.Receive(); err != nil || m.GetProgress().GetDocument() != want {
			t.Fatalf("want %s: %v %v", want, m, err)
		}
	}
	cancel()
	if r := w.grains.all()[0].kb().GetReadEvents(); r.GetWait().AsDuration() != 0 || r.GetAfterRevision() != 0 {
		t.Errorf("first read %v", r)
	}
	for after, token := range tokens[:4] {
		ctx, cancel := context.WithCancel(t.Context())
		w.grains.setScript((&stage{uid: "u1", head: 5}).ask)
		m, err := w.watch(ctx, &v1.WatchEventsRequest{ResumeToken: token}).Receive()
		if err != nil || m.GetEvent().GetRevision() != int64(after)+2 {
			t.Errorf("resumed after %d: %v %v", after+1, m, err)
		}
		cancel()
	}
}

func TestWatchFromNowOnBeginsWithAHeartbeatAndMissesNothing(t *testing.T) {
	w := start(t)
	s := &stage{uid: "u1", head: 7}
	s.next = func(_ context.Context, read int, _ *nodev1.ReadEvents) error {
		if read == 2 {
			s.head = 8
		}
		return nil
	}
	w.grains.setScript(s.ask)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream := w.watch(ctx, &v1.WatchEventsRequest{})
	m, err := stream.Receive()
	if err != nil || m.GetHeartbeat().GetRevision() != 7 || m.GetResumeToken() == "" {
		t.Fatalf("first %v %v", m, err)
	}
	if m, err = stream.Receive(); err != nil || m.GetEvent().GetRevision() != 8 {
		t.Fatalf("second %v %v", m, err)
	}
}

func TestHeartbeatsComeInTime(t *testing.T) {
	w := start(t)
	s := &stage{uid: "u1", head: 1, next: func(ctx context.Context, _ int, r *nodev1.ReadEvents) error {
		return hang(ctx, r.GetWait().AsDuration())
	}}
	w.grains.setScript(s.ask)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream := w.watch(ctx, &v1.WatchEventsRequest{Heartbeat: durationpb.New(time.Second)})
	begin := time.Now()
	for range 2 {
		if m, err := stream.Receive(); err != nil || m.GetHeartbeat() == nil {
			t.Fatal(m, err)
		}
	}
	if took := time.Since(begin); took < 900*time.Millisecond || took > 3*time.Second {
		t.Errorf("the second heartbeat came after %v, want 1 s", took)
	}
}

func TestWatchRidesOutAnOwnersMove_E2(t *testing.T) {
	w := start(t)
	s := &stage{uid: "u1", head: 2, next: func(_ context.Context, read int, _ *nodev1.ReadEvents) error {
		switch read {
		case 1, 2:
			return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "moving")
		case 3:
			return kb.Errorf(kb.CodeResourceExhausted, kb.ReasonBusy, "full")
		}
		return nil
	}}
	w.grains.setScript(s.ask)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream := w.watch(ctx, &v1.WatchEventsRequest{FromStart: true})
	for want := int64(1); want <= 2; want++ {
		if m, err := stream.Receive(); err != nil || m.GetEvent().GetRevision() != want {
			t.Fatal(m, err)
		}
	}
}

func TestWatchErrors(t *testing.T) {
	w := start(t)
	token := func(uid string) string {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w.grains.setScript((&stage{uid: uid, head: 3}).ask)
		m, err := w.watch(ctx, &v1.WatchEventsRequest{}).Receive()
		if err != nil {
			t.Fatal(err)
		}
		return m.GetResumeToken()
	}
	other, own := token("u2"), token("u1")
	s := &stage{uid: "u1", head: 3}
	for name, c := range map[string]struct {
		script func(context.Context, asked) (proto.Message, error)
		req    *v1.WatchEventsRequest
		code   connect.Code
		reason string
	}{
		"malformed token":        {s.ask, &v1.WatchEventsRequest{ResumeToken: "?"}, connect.CodeInvalidArgument, kb.ReasonResumeTokenInvalid},
		"another incarnation's":  {s.ask, &v1.WatchEventsRequest{ResumeToken: other}, connect.CodeInvalidArgument, kb.ReasonResumeTokenInvalid},
		"from a future revision": {(&stage{uid: "u1", head: 2}).ask, &v1.WatchEventsRequest{ResumeToken: own}, connect.CodeInvalidArgument, kb.ReasonResumeTokenInvalid},
		"heartbeat out of range": {s.ask, &v1.WatchEventsRequest{Heartbeat: durationpb.New(time.Millisecond)}, connect.CodeInvalidArgument, kb.ReasonRequestInvalid},
		"no such knowledge base": {func(context.Context, asked) (proto.Message, error) {
			return refuse(5, kb.ReasonKnowledgeBaseNotFound, "none"), nil
		}, &v1.WatchEventsRequest{}, connect.CodeNotFound, kb.ReasonKnowledgeBaseNotFound},
	} {
		w.grains.setScript(c.script)
		_, err := w.watch(t.Context(), c.req).Receive()
		if connect.CodeOf(err) != c.code || detailsOf(t, err).info.GetReason() != c.reason {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAWatchEndsWhenItsKnowledgeBaseIsReplaced(t *testing.T) {
	w := start(t)
	s := &stage{uid: "u1", head: 1}
	s.next = func(_ context.Context, read int, _ *nodev1.ReadEvents) error {
		if read == 2 {
			s.uid = "u2"
		}
		return nil
	}
	w.grains.setScript(s.ask)
	stream := w.watch(t.Context(), &v1.WatchEventsRequest{FromStart: true})
	if _, err := stream.Receive(); err != nil {
		t.Fatal(err)
	}
	_, err := stream.Receive()
	if connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("%v", err)
	}
}

func TestAClientThatGoesEndsItsWatchAtOnce(t *testing.T) {
	w := start(t)
	reading, ended := make(chan struct{}), make(chan error, 1)
	s := &stage{uid: "u1", head: 1, next: func(ctx context.Context, read int, _ *nodev1.ReadEvents) error {
		if read == 1 {
			return nil
		}
		close(reading)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	}}
	w.grains.setScript(s.ask)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := w.watch(ctx, &v1.WatchEventsRequest{}).Receive(); err != nil {
		t.Fatal(err)
	}
	<-reading
	gone := time.Now()
	cancel()
	select {
	case <-ended:
		if took := time.Since(gone); took > time.Second {
			t.Errorf("after %v", took)
		}
	case <-time.After(8 * time.Second):
		t.Fatal("the read goes on")
	}
}

func TestWatchOverHTTP1WithJSON_A6(t *testing.T) {
	w := start(t)
	s := &stage{uid: "u1", head: 1, next: func(_ context.Context, read int, _ *nodev1.ReadEvents) error {
		if read > 1 {
			return kb.Errorf(kb.CodeNotFound, kb.ReasonKnowledgeBaseNotFound, "deleted")
		}
		return nil
	}}
	w.grains.setScript(s.ask)
	body := `{"knowledgeBase":"handbook","fromStart":true}`
	_, out := w.do("POST", "/granary.v1.EventService/WatchEvents", "\x00\x00\x00\x00"+string(rune(len(body)))+body,
		"Content-Type", "application/connect+json", "Authorization", "Bearer "+w.token("viewer"))
	if !strings.Contains(out, `"document.added"`) || !strings.Contains(out, kb.ReasonKnowledgeBaseNotFound) {
		t.Errorf("%q", out)
	}
}

func TestShutdownWithAnOpenWatch_H3(t *testing.T) {
	w := start(t, defaultGrace)
	s := &stage{uid: "u1", head: 1, next: func(ctx context.Context, read int, _ *nodev1.ReadEvents) error {
		if read == 1 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}}
	w.grains.setScript(s.ask)
	stream := w.watch(t.Context(), &v1.WatchEventsRequest{})
	first, err := stream.Receive()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	done := make(chan error, 1)
	go func() { done <- w.gateway.Shutdown(context.Background()) }()
	_, err = stream.Receive()
	if d := detailsOf(t, err); connect.CodeOf(err) != connect.CodeUnavailable || d.retry.GetRetryDelay().AsDuration() <= 0 {
		t.Errorf("the stream ended with %v", err)
	}
	if took := time.Since(begin); took < 400*time.Millisecond {
		t.Errorf("the stream was cut after %v, before the grace of 0.5 s", took)
	}
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("Shutdown took %v", took)
	} else {
		t.Logf("Shutdown with an open watch took %v", took.Round(time.Millisecond))
	}
	if first.GetResumeToken() == "" {
		t.Error("no token to resume with")
	}
	if err := w.gateway.Shutdown(context.Background()); err != nil {
		t.Errorf("again: %v", err)
	}
}
