package actors

import (
	"context"
	"errors"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/embed"
	"granary.dev/granary/actors/pipeline/fetch"
)

// busyError refuses a call because too many wait.
func busyError() error {
	return kb.Errorf(kb.CodeResourceExhausted, kb.ReasonBusy, "too many requests for this object at once").After(100 * time.Millisecond)
}

// commitError says to the caller what is known of a failed commit.
func commitError(err error) error {
	switch {
	case errors.Is(err, journal.ErrInDoubt):
		return kb.Errorf(kb.CodeUnavailable, kb.ReasonInDoubt,
			"the outcome is not known yet; repeat the request with the same idempotency key").After(500 * time.Millisecond)
	case errors.Is(err, journal.ErrFenced):
		return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the object moved to another node; try again").After(100 * time.Millisecond)
	}
	return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the store cannot be reached; nothing was changed").After(time.Second)
}

// loadError says to the caller why a grain could not load.
func loadError(err error) error {
	if errors.Is(err, journal.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the store cannot be reached").After(time.Second)
	}
	return kb.Errorf(kb.CodeInternal, kb.ReasonInternal, "the object cannot be loaded; an operator must look at the log")
}

// documentError is what the document's owner is told of a failed run.
func documentError(err error) kb.DocumentError {
	if p, ok := errors.AsType[*pipeline.Error](err); ok {
		return kb.DocumentError{Reason: p.Reason, Message: p.Message, Stage: p.Stage, Retryable: p.Retryable}
	}
	if errors.Is(err, journal.ErrNotFound) {
		return kb.DocumentError{Reason: "SOURCE_MISSING", Message: "the stored source is gone", Stage: "parse"}
	}
	// Whatever the store or the machine refused now it may grant later.
	return kb.DocumentError{Reason: "STORE_UNAVAILABLE", Message: "the store did not take the result", Stage: "index", Retryable: true}
}

// retryAfter is how long the failing side asked to wait, 0 when it did not.
func retryAfter(err error) time.Duration {
	d, ok := embed.RetryAfter(err)
	if status, is := errors.AsType[*fetch.StatusError](err); !ok && is {
		d = status.RetryAfter
	}
	return min(d, maxRetryAfter)
}

// maxRetryAfter bounds what a stranger's server can make a document wait.
const maxRetryAfter = time.Hour
