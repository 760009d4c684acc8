package cli

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect/v2"

	"granary.dev/granary/actors/kb"
)

const (
	// retryBudget is how long the pauses between tries of one change may last together.
	retryBudget = 30 * time.Second
	// firstPause and longestPause bound the pauses the server says nothing about.
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
)

// retry runs try until it succeeds, fails for good, or the pauses would exceed
// the budget; then the last error stands. try must carry a request id.
func (s *session) retry(ctx context.Context, try func(context.Context) error) error {
	left := retryBudget
	for n := 0; ; n++ {
		err := try(ctx)
		pause, again := s.pauseAfter(err, n)
		if !again || pause > left || ctx.Err() != nil {
			return err
		}
		left -= pause
		if s.sleep(ctx, pause) != nil {
			return err
		}
	}
}

// pauseAfter says whether a call that failed with err may be repeated, and how
// long to wait before. n counts the failures before this one.
func (s *session) pauseAfter(err error, n int) (time.Duration, bool) {
	var rpc *connect.Error
	if err == nil || !errors.As(err, &rpc) {
		return 0, false
	}
	d := detailsOf(rpc)
	switch rpc.Code() {
	case connect.CodeUnavailable:
		// A server that never answered is not there, rather than restarting.
		if isDialError(err) && !s.transport.reached.Load() {
			return 0, false
		}
	case connect.CodeResourceExhausted:
		// A full knowledge base or storage does not empty itself.
		if !d.retry && d.reason != kb.ReasonBusy {
			return 0, false
		}
	default:
		return 0, false
	}
	if d.retry && d.retryAfter > 0 {
		return d.retryAfter, true
	}
	return backoff(n), true
}

// hopeless reports whether err will meet every other change to the same
// knowledge base too.
func (s *session) hopeless(err error) bool {
	var rpc *connect.Error
	if !errors.As(err, &rpc) {
		return false
	}
	switch rpc.Code() {
	case connect.CodeUnauthenticated, connect.CodePermissionDenied:
		return true
	case connect.CodeNotFound:
		return detailsOf(rpc).reason == kb.ReasonKnowledgeBaseNotFound
	case connect.CodeResourceExhausted:
		return detailsOf(rpc).reason == kb.ReasonCallLimit
	}
	return isDialError(err)
}

// backoff doubles from firstPause to longestPause, with jitter of a half.
func backoff(n int) time.Duration {
	pause := min(longestPause, firstPause<<min(n, 10))
	return pause/2 + rand.N(pause/2+1)
}
