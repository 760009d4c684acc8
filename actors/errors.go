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

// unapplied is the error of a call that changed nothing and never will. It may
// be sent again, to whoever owns the grain now.
type unapplied struct{ err *kb.Error }

func (e *unapplied) Error() string { return e.err.Error() }
func (e *unapplied) Unwrap() error { return e.err }

// NotApplied tells package cluster, which finds this method by an interface of
// its own, that the call may be repeated.
func (e *unapplied) NotApplied() bool { return true }

func isUnapplied(err error) bool {
	_, ok := errors.AsType[*unapplied](err)
	return ok
}

// movedError sends a call to the next owner.
func movedError() error {
	return &unapplied{kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the object is being moved; try again").After(50 * time.Millisecond)}
}

// doubtError tells the caller of a write that nobody knows what became of it.
func doubtError() error {
	return kb.Errorf(kb.CodeUnavailable, kb.ReasonInDoubt,
		"the outcome is not known yet; repeat the request with the same idempotency key").After(500 * time.Millisecond)
}

func internalError() error { return kb.Errorf(kb.CodeInternal, kb.ReasonInternal, "internal error") }

// commitError says to the caller of a write what is known of its commit that
// failed. One that the store did not take is not sent again: it would only be
// refused again, after another load.
func commitError(err error) error {
	if isMoved(err) {
		return movedError()
	}
	return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the store cannot be reached; nothing was changed").After(time.Second)
}

// loadError says to the caller why a grain could not load.
func loadError(err error) error {
	switch {
	case isMoved(err):
		return movedError()
	case errors.Is(err, journal.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the store cannot be reached").After(time.Second)
	}
	return kb.Errorf(kb.CodeInternal, kb.ReasonInternal, "the object cannot be loaded; an operator must look at the log")
}

// errChanged: what a read found in memory is gone from the store, replaced or
// erased since, here or by the next owner.
var errChanged = errors.New("actors: what is read was replaced meanwhile")

// changedError has the read done again.
func changedError() error {
	return &unapplied{kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "what is read was replaced meanwhile; try again").After(50 * time.Millisecond)}
}

// readError says that the store did not answer what a read needs.
func readError() error {
	return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the store cannot be read; try again").After(time.Second)
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
