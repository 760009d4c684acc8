package cli

import (
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// A stream counts as dead when silentHeartbeats stay out, but not before
// shortestSilence, which also covers the opening of a stream.
const (
	silentHeartbeats = 3
	shortestSilence  = 15 * time.Second
)

// errSilent ends a stream that sends not even heartbeats.
var errSilent = errors.New("the server fell silent")

// follower reads the events of a knowledge base across lost connections.
type follower struct {
	session *session
	// request is where to begin; its resume token follows what was handled.
	request   *granaryv1.WatchEventsRequest
	heartbeat time.Duration
	// handle takes each message. An error of it ends the following.
	handle func(*granaryv1.WatchEventsResponse) error
	// lost is told once of each outage, in words, before the connection is made again.
	lost func(why string)

	met bool // the server has answered at least once
}

// handleError marks an error of handle, so that it is not taken for one of the stream.
type handleError struct{ error }

func (e handleError) Unwrap() error { return e.error }

// run follows until handle ends it, ctx ends, or an error stands that trying
// again cannot mend.
func (f *follower) run(ctx context.Context) error {
	f.request.Heartbeat = durationpb.New(f.heartbeat)
	for failures := 0; ; failures++ {
		got, err := f.stream(ctx)
		var own handleError
		if errors.As(err, &own) {
			return own.error
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !f.resumable(err) {
			return err
		}
		if got {
			failures = 0
		}
		pause, named := f.session.pauseAfter(err, failures)
		if !named {
			pause = backoff(failures)
		}
		if failures == 0 {
			f.lost(lostText(err))
		}
		if err := f.session.sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// lostText says what ended a stream.
func lostText(err error) string {
	var rpc *connect.Error
	switch {
	case err == nil:
		return "connection closed by the server, resuming …"
	case errors.As(err, &rpc) && rpc.Message() != "":
		err = errors.New(rpc.Message())
	}
	return "connection lost, resuming … (" + oneLine(err.Error()) + ")"
}

// stream reads one connection to its end. got reports whether it brought anything.
func (f *follower) stream(ctx context.Context) (got bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := max(shortestSilence, silentHeartbeats*f.heartbeat)
	watchdog := time.AfterFunc(limit, func() { cancel(errSilent) })
	defer watchdog.Stop()
	defer func() {
		if errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
	}()
	stream, err := f.session.events.WatchEvents(ctx, f.request)
	if err != nil {
		return false, err
	}
	defer func() { _ = stream.Close() }()
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got, f.met = true, true
		watchdog.Reset(limit)
		if err := f.handle(msg); err != nil {
			return got, handleError{err}
		}
		if token := msg.GetResumeToken(); token != "" {
			f.request.ResumeToken, f.request.FromStart = token, false
		}
	}
}

// resumable reports whether a stream that ended with err may be taken up
// again. The server's own verdict counts; a broken connection after a first
// answer is always worth another try.
func (f *follower) resumable(err error) bool {
	var rpc *connect.Error
	switch {
	case err == nil, errors.Is(err, errSilent):
		return true
	case !errors.As(err, &rpc):
		return f.met
	}
	switch rpc.Code() {
	case connect.CodeUnavailable:
		return f.met || !isDialError(err)
	case connect.CodeResourceExhausted:
		_, again := f.session.pauseAfter(err, 0)
		return again
	case connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeNotFound, connect.CodeUnimplemented:
		return false
	}
	return f.met && !rpc.IsRemote()
}
