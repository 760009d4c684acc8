package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

const (
	defaultHeartbeat = 15 * time.Second
	maxEventWait     = 3 * time.Second // longest one read waits inside the grain; then it is looked again who reads
	eventReplyTime   = 5 * time.Second // what the answer may take beyond the wait
	eventsPerRead    = 256

	// A stream rides out an owner's move, which takes seconds, and gives up
	// after patience: a client that knows is better off than one that hopes.
	watchPatience   = 30 * time.Second
	watchBackoffMin = 50 * time.Millisecond
	watchBackoffMax = 2 * time.Second
)

// events serves granary.v1.EventService.
type events struct{ *Gateway }

// WatchEvents implements the service. The first message comes at once: an event
// if there is one, else a heartbeat, so that the client holds a resume token from
// the start.
func (s events) WatchEvents(ctx context.Context, req *v1.WatchEventsRequest, stream granaryv1connect.EventServiceWatchEventsServerStream) error {
	connectionOf(ctx).streaming()
	id, _, err := parseKnowledgeBase("knowledge_base", req.GetKnowledgeBase())
	if err != nil {
		return err
	}
	w := &watcher{
		Gateway: s.Gateway, stream: stream, id: id, progress: req.GetIncludeProgress(),
		heartbeat: defaultHeartbeat, at: resumePoint{Revision: -1},
	}
	if req.GetHeartbeat() != nil {
		w.heartbeat = req.GetHeartbeat().AsDuration()
	}
	switch {
	case req.GetResumeToken() != "":
		if w.at, err = parseResumeToken(req.GetResumeToken()); err != nil {
			return err
		}
		w.resumed = true
	case req.GetFromStart():
		w.at.Revision = 0
	}
	return w.run(ctx)
}

// watcher is one open stream. It runs in the goroutine of its RPC.
type watcher struct {
	*Gateway
	stream    granaryv1connect.EventServiceWatchEventsServerStream
	id        string
	progress  bool
	heartbeat time.Duration

	at       resumePoint // what the client has
	resumed  bool        // at came from the client and is not checked yet
	started  bool        // the first read succeeded
	revision int64       // of the knowledge base, as last heard
	sent     time.Time   // of the last message
}

func (w *watcher) run(ctx context.Context) error {
	w.sent = time.Now()
	var failing time.Time // since when reads fail
	backoff := watchBackoffMin
	for {
		asked := time.Now()
		result, err := w.read(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			failing, backoff = time.Time{}, watchBackoffMin
			if err := w.deliver(ctx, result); err != nil {
				return err
			}
			if time.Since(asked) < watchBackoffMin && len(result.GetEvents())+len(result.GetProgress()) == 0 {
				// A grain that cannot wait must not make this a busy loop.
				if err := pause(ctx, watchBackoffMin); err != nil {
					return err
				}
			}
		case !passing(err):
			return err
		default:
			if failing.IsZero() {
				failing = time.Now()
			}
			if time.Since(failing) > watchPatience {
				return err
			}
			if err := pause(ctx, rand.N(backoff)+backoff/2); err != nil {
				return err
			}
			backoff = min(2*backoff, watchBackoffMax)
		}
		if w.started && time.Since(w.sent) >= w.heartbeat {
			if err := w.beat(ctx); err != nil {
				return err
			}
		}
	}
}

// read asks the grain for what comes after w.at. The first read does not wait, so
// that a wrong token or name is answered at once.
func (w *watcher) read(ctx context.Context) (*nodev1.ReadEventsResult, error) {
	var wait time.Duration
	if w.started {
		wait = max(0, min(maxEventWait, w.heartbeat-time.Since(w.sent)))
	}
	ctx, cancel := context.WithTimeout(ctx, wait+eventReplyTime)
	defer cancel()
	for {
		reply, err := w.askKnowledgeBase(ctx, w.id, &nodev1.KnowledgeBaseCall{
			Operation: &nodev1.KnowledgeBaseCall_ReadEvents{ReadEvents: &nodev1.ReadEvents{
				AfterRevision: w.at.Revision, IncludeProgress: w.progress, ProgressCursor: w.at.Progress,
				Wait: durationpb.New(wait), Limit: eventsPerRead,
			}},
		}, "")
		if err != nil {
			return nil, err
		}
		if reply.GetEvents() == nil {
			return nil, errReply
		}
		// The read may have waited, and this process may have stood still: what came is
		// shown to who may still see it. The knowledge base knows what other roles may.
		may := callOf(ctx).principal.Grants
		if err := w.readmit(ctx); err != nil {
			return nil, err
		}
		if slices.Equal(may, callOf(ctx).principal.Grants) {
			return reply.GetEvents(), nil
		}
		wait = 0
	}
}

// deliver sends what a read brought. Each message's token resumes after it; the
// cursor of progress moves with the last message only, so that a broken stream
// shows progress twice rather than not at all.
func (w *watcher) deliver(ctx context.Context, r *nodev1.ReadEventsResult) error {
	if err := w.admit(r); err != nil {
		return err
	}
	first := !w.started
	w.started, w.revision = true, r.GetRevision()
	for _, e := range r.GetEvents() {
		if e.GetRevision() <= w.at.Revision {
			continue // a read answered twice
		}
		w.at.Revision = e.GetRevision()
		if err := w.send(ctx, &v1.WatchEventsResponse{Item: &v1.WatchEventsResponse_Event{Event: e}}); err != nil {
			return err
		}
	}
	for i, p := range r.GetProgress() {
		if i == len(r.GetProgress())-1 {
			w.at.Progress = r.GetProgressCursor()
		}
		if err := w.send(ctx, &v1.WatchEventsResponse{Item: &v1.WatchEventsResponse_Progress{Progress: p}}); err != nil {
			return err
		}
	}
	w.at.Progress = r.GetProgressCursor()
	if first && len(r.GetEvents()) == 0 && len(r.GetProgress()) == 0 {
		return w.beat(ctx)
	}
	return nil
}

// admit checks that the answer is of the knowledge base the client means.
func (w *watcher) admit(r *nodev1.ReadEventsResult) error {
	switch {
	case w.resumed && (r.GetUid() != w.at.UID || w.at.Revision > r.GetRevision()):
		return resumeInvalid()
	case w.started && r.GetUid() != w.at.UID:
		return kb.Errorf(kb.CodeNotFound, kb.ReasonKnowledgeBaseNotFound, "The knowledge base that was watched is deleted.")
	}
	w.resumed, w.at.UID = false, r.GetUid()
	if w.at.Revision < 0 { // from now on: now is this revision
		w.at.Revision = r.GetRevision()
	}
	return nil
}

func (w *watcher) beat(ctx context.Context) error {
	return w.send(ctx, &v1.WatchEventsResponse{Item: &v1.WatchEventsResponse_Heartbeat{
		Heartbeat: &v1.Heartbeat{Revision: w.revision, Time: timestamppb.Now()},
	}})
}

func (w *watcher) send(ctx context.Context, msg *v1.WatchEventsResponse) error {
	token, err := w.at.token()
	if err != nil {
		return err
	}
	msg.ResumeToken = token
	w.sent = time.Now()
	return connectionOf(ctx).send(func() error { return w.stream.Send(msg) })
}

// passing reports whether a read that failed so may succeed a little later.
func passing(err error) bool {
	if e, ok := errors.AsType[*kb.Error](err); ok {
		return e.Code == kb.CodeUnavailable || e.Code == kb.CodeDeadlineExceeded || e.Reason == kb.ReasonBusy
	}
	return errors.Is(err, context.DeadlineExceeded)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
