package cli

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

type watchFunc = func(context.Context, *granaryv1.WatchEventsRequest, func(*granaryv1.WatchEventsResponse) error) error

func progressOf(id string, state granaryv1.DocumentState, fraction float64) *granaryv1.WatchEventsResponse {
	return &granaryv1.WatchEventsResponse{
		Item: &granaryv1.WatchEventsResponse_Progress{Progress: &granaryv1.Progress{
			Document: "knowledgeBases/handbook/documents/" + id, DisplayName: id, Version: 1, State: state, Fraction: fraction,
		}},
		ResumeToken: "p-" + id,
	}
}

// script of a watch: each connection sends its messages and ends with its error.
type connection struct {
	msgs []*granaryv1.WatchEventsResponse
	err  error // nil: stays open
}

// connections plays one script a connection.
func connections(list ...connection) watchFunc {
	var n atomic.Int32
	return func(ctx context.Context, _ *granaryv1.WatchEventsRequest, send func(*granaryv1.WatchEventsResponse) error) error {
		i := int(n.Add(1)) - 1
		if i >= len(list) {
			return connect.NewError(connect.CodeInternal, "one connection too many")
		}
		for _, m := range list[i].msgs {
			if err := send(m); err != nil {
				return err
			}
		}
		if list[i].err != nil {
			return list[i].err
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

// C4, A6: a watch prints events and progress, resumes after the last message
// when the connection is lost, and ends with 0 on ^C.
func TestWatchResumesAfterTheLastMessage(t *testing.T) {
	lost := rpcError(t, connect.CodeUnavailable, "UNAVAILABLE", "going away", 0)
	for name, style := range map[string]world{"pipe": {}, "terminal": {terminal: true, width: 100}} {
		t.Run(name, func(t *testing.T) {
			plainEvent := eventOf("x", 0, 0)
			plainEvent.GetEvent().Document, plainEvent.GetEvent().Type = "", "config.changed"
			plainEvent.GetEvent().Details = map[string]string{"field": "top_n\x1b[2J", "by": "me"}
			f := &fake{}
			f.watch = connections(
				connection{[]*granaryv1.WatchEventsResponse{heartbeatOf(), eventOf("a.md", 1, queued), progressOf("a.md", embedding, 0.4)}, lost},
				connection{[]*granaryv1.WatchEventsResponse{eventOf("a.md", 1, ready)}, lost},
				connection{nil, lost},
				connection{[]*granaryv1.WatchEventsResponse{eventOf("b.pdf", 2, failed), plainEvent}, nil},
			)
			style.stopAt = "field=top_n"
			var sleeps []time.Duration
			style.sleeps = &sleeps
			r := granary(t, f.serve(t, false), style, "watch", "handbook", "--from-start")
			wantCode(t, r, ExitOK)
			golden(t, "watch."+name, r.stdout+"--- stderr\n"+r.stderr)
			reqs := got[*granaryv1.WatchEventsRequest](f)
			var tokens []string
			for _, q := range reqs {
				tokens = append(tokens, fmt.Sprintf("%s/%v", q.GetResumeToken(), q.GetFromStart()))
			}
			if s := strings.Join(tokens, " "); s != "/true p-a.md/false after-a.md/false after-a.md/false" {
				t.Errorf("resumed from %s", s)
			}
			if !reqs[0].GetIncludeProgress() || reqs[0].GetHeartbeat().AsDuration() != watchHeartbeat || len(sleeps) != 3 {
				t.Errorf("request %v, pauses %v", reqs[0], sleeps)
			}
		})
	}
}

// A connection that breaks, with no word from the server, is resumed too.
func TestWatchResumesABrokenConnection(t *testing.T) {
	for _, http1 := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		var n atomic.Int32
		f := &fake{watch: func(ctx context.Context, r *granaryv1.WatchEventsRequest, send func(*granaryv1.WatchEventsResponse) error) error {
			if n.Add(1) == 2 {
				cancel()
				return nil
			}
			if err := send(eventOf("a.md", 1, ready)); err != nil {
				return err
			}
			panic(http.ErrAbortHandler) // net/http cuts the stream
		}}
		r := granary(t, f.serve(t, http1), world{ctx: ctx}, "watch", "handbook")
		wantCode(t, r, ExitOK)
		reqs := got[*granaryv1.WatchEventsRequest](f)
		if len(reqs) != 2 || reqs[1].GetResumeToken() != "after-a.md" {
			t.Errorf("http1=%v: %v\n%s", http1, reqs, r.stderr)
		}
	}
}

// A stream that sends not even heartbeats is given up and resumed.
func TestASilentStreamIsResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		events := &silentEvents{cancel: cancel}
		f := &follower{
			session:   &session{events: granaryv1connect.NewEventServiceClient(connect.NewClient(events)), transport: newTransport(""), sleep: sleep},
			request:   &granaryv1.WatchEventsRequest{ResumeToken: "t"},
			heartbeat: watchHeartbeat,
			handle:    func(*granaryv1.WatchEventsResponse) error { return nil },
			lost:      func(string) {},
		}
		start := time.Now()
		if err := f.run(ctx); err != context.Canceled { //nolint:errorlint // returned as it is
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(start); events.opened != 2 || took < 3*watchHeartbeat || took > 4*watchHeartbeat {
			t.Errorf("%d connections in %s", events.opened, took)
		}
	})
}

// silentEvents is a transport whose streams never say anything.
type silentEvents struct {
	opened int
	cancel context.CancelFunc
}

func (s *silentEvents) NewClientStream(ctx context.Context, _ connect.Spec) (connect.ClientStream, error) {
	if s.opened++; s.opened == 2 {
		s.cancel()
	}
	return silentStream{ctx}, nil
}

type silentStream struct{ ctx context.Context }

func (silentStream) SendHeaders() error { return nil }
func (silentStream) Send(any) error     { return nil }
func (silentStream) CloseSend() error   { return nil }
func (silentStream) Close() error       { return nil }
func (s silentStream) Receive(any) error {
	<-s.ctx.Done()
	return s.ctx.Err()
}

func TestWatchJSONIsOneObjectALine(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{watch: func(_ context.Context, r *granaryv1.WatchEventsRequest, send func(*granaryv1.WatchEventsResponse) error) error {
		if r.GetResumeToken() != "T" || r.GetIncludeProgress() {
			return connect.NewError(connect.CodeInvalidArgument, r.String())
		}
		_ = send(heartbeatOf())
		_ = send(eventOf("a.md", 1, queued))
		return connect.NewError(connect.CodeNotFound, "the knowledge base was deleted")
	}}
	defer cancel()
	r := granary(t, f.serve(t, false), world{ctx: ctx}, "watch", "handbook", "--resume", "T", "--no-progress", "--json")
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stderr, "granary: NOT_FOUND: the knowledge base was deleted")
	var msg granaryv1.WatchEventsResponse
	if err := protojson.Unmarshal([]byte(r.stdout), &msg); err != nil || !proto.Equal(&msg, eventOf("a.md", 1, queued)) {
		t.Errorf("%v in %q", err, r.stdout)
	}
}

// The server's verdict ends a watch; only what may pass is tried again.
func TestWatchEndsWithTheServersVerdict(t *testing.T) {
	for _, code := range []connect.Code{connect.CodeNotFound, connect.CodeInvalidArgument, connect.CodeUnauthenticated, connect.CodeResourceExhausted, connect.CodeInternal} {
		f := &fake{watch: connections(connection{[]*granaryv1.WatchEventsResponse{heartbeatOf()}, rpcError(t, code, "SOME_REASON", "no", 0)})}
		r := granary(t, f.serve(t, false), world{}, "watch", "handbook")
		wantCode(t, r, ExitFailed)
		wantContains(t, r.stderr, "granary: SOME_REASON: no")
	}
}

// --wait ends when all documents are processed: events may come before the
// answer to the upload that caused them, and for other versions and documents.
func TestAddWaitsForAllDocuments(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.md", "a")
	write(t, dir, "b.md", "b")
	a, b := stableID("a.md"), stableID("b.md")
	uploaded := make(chan struct{}, 2)
	f := &fake{
		upload: func(s *granaryv1.DocumentSpec, _ []byte) (*granaryv1.UploadDocumentResponse, error) {
			uploaded <- struct{}{}
			return &granaryv1.UploadDocumentResponse{Document: &granaryv1.Document{Name: s.GetKnowledgeBase() + "/documents/" + s.GetDocumentId(), Version: 2, State: queued}}, nil
		},
		watch: func(ctx context.Context, _ *granaryv1.WatchEventsRequest, send func(*granaryv1.WatchEventsResponse) error) error {
			_ = send(heartbeatOf())
			<-uploaded
			<-uploaded
			for _, m := range []*granaryv1.WatchEventsResponse{
				eventOf(a, 1, failed), eventOf("other", 2, failed), eventOf(a, 2, embedding), eventOf(b, 2, granaryv1.DocumentState_DOCUMENT_STATE_READY_EMPTY), eventOf(a, 3, ready),
			} {
				_ = send(m)
			}
			<-ctx.Done()
			return ctx.Err()
		},
	}
	r := granary(t, f.serve(t, false), world{}, "doc", "add", "handbook", dir, "--wait")
	wantCode(t, r, ExitOK)
	wantContains(t, r.stdout, "ready        a.md\n", "ready_empty  b.md\n")
	wantContains(t, r.stderr, "; 2 processed, 0 not")
	reqs := got[proto.Message](f)
	if _, first := reqs[0].(*granaryv1.WatchEventsRequest); !first {
		t.Error("events were not followed from before the first document on")
	}
	if n := len(got[*granaryv1.GetDocumentRequest](f)); n != 0 {
		t.Errorf("%d documents were read in vain", n)
	}
}

// Complaint "success though nothing was indexed": a document that fails makes
// the command fail, with the reason.
func TestAddWaitFailsWithTheReasons(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"a.md", "b.md", "c.md", "d.md"} {
		write(t, dir, n, n)
	}
	f := &fake{
		upload: func(s *granaryv1.DocumentSpec, d []byte) (*granaryv1.UploadDocumentResponse, error) {
			res, err := accept(nil)(s, d)
			if s.GetDisplayName() == "d.md" { // there already, and failed before
				res.Duplicate, res.Document.State = true, failed
				res.Document.Error = &granaryv1.DocumentError{Reason: "ENCRYPTED"}
			}
			return res, err
		},
		watch: watchOf(eventOf(stableID("a.md"), 1, ready), eventOf(stableID("b.md"), 1, failed),
			eventOf(stableID("c.md"), 1, granaryv1.DocumentState_DOCUMENT_STATE_CANCELLED)),
	}
	r := granary(t, f.serve(t, false), world{}, "doc", "add", "handbook", dir, "--wait")
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stderr, "failed       b.md: MALFORMED: not a PDF (parse)\n", "failed       c.md: it ended as CANCELLED\n",
		"failed       d.md: ENCRYPTED\n", "; 1 processed, 3 not", "granary: 3 of 4 documents were not processed")
	wantContains(t, r.stdout, "ready        a.md")
}

// Events that flow only after the documents were added are made up for by reading them.
func TestAddWaitReadsWhatItMissed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.md", "a")
	read, uploaded := make(chan struct{}), make(chan struct{})
	f := &fake{
		upload: func(s *granaryv1.DocumentSpec, d []byte) (*granaryv1.UploadDocumentResponse, error) {
			defer close(uploaded)
			return accept(nil)(s, d)
		},
		answer: func(req proto.Message) (proto.Message, error) {
			defer close(read)
			return &granaryv1.GetDocumentResponse{Document: &granaryv1.Document{Name: req.(*granaryv1.GetDocumentRequest).GetName(), Version: 1, State: ready}}, nil
		},
	}
	f.watch = func(ctx context.Context, _ *granaryv1.WatchEventsRequest, send func(*granaryv1.WatchEventsResponse) error) error {
		<-uploaded // the server is slow to say anything
		return watchOf()(ctx, nil, send)
	}
	r := granary(t, f.serve(t, false), world{}, "doc", "add", "handbook", dir, "--wait")
	wantCode(t, r, ExitOK)
	<-read
	wantContains(t, r.stdout, "ready        a.md")
}

// If events cannot be had at all, --wait says so instead of claiming success.
func TestAddWaitFailsWithoutEvents(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.md", "a")
	f := &fake{upload: accept(nil)}
	r := granary(t, f.serve(t, false), world{}, "doc", "add", "handbook", dir, "--wait")
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stderr, "1 added", "granary: UNIMPLEMENTED: not scripted")
}

// The end of an earlier version says nothing about the one that was added.
func TestAnEarlierVersionDoesNotEndTheWait(t *testing.T) {
	out := &output{out: &lockedBuffer{}, err: &lockedBuffer{}}
	w := newWaiter(nil, "knowledgeBases/handbook", newDisplay(out))
	w.expect("a.md", &granaryv1.Document{Name: "knowledgeBases/handbook/documents/a", Version: 2, State: queued})
	w.seen(eventOf("a", 1, failed))
	if len(w.expects) != 1 || w.failed != 0 {
		t.Fatal("version 1 ended the wait for version 2")
	}
	w.seen(eventOf("a", 2, ready))
	if len(w.expects) != 0 || w.ready != 1 {
		t.Error("version 2 did not end its wait")
	}
}
