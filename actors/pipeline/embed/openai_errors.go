package embed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"granary.dev/granary/actors/pipeline"
)

// Reasons of a [pipeline.Error] from a remote embedder.
const (
	ReasonRateLimited  = "EMBEDDER_RATE_LIMITED" // retryable; see RetryAfter
	ReasonUnavailable  = "EMBEDDER_UNAVAILABLE"  // retryable: no connection, 5xx, answer cut off
	ReasonTimeout      = "EMBEDDER_TIMEOUT"      // retryable
	ReasonUnauthorized = "EMBEDDER_UNAUTHORIZED" // retryable, once an operator has put the key right
	ReasonRejected     = "EMBEDDER_REJECTED"     // the server refuses this input
	ReasonWrongDims    = "EMBEDDER_WRONG_DIMS"   // the model is not the configured one
	ReasonBadResponse  = "EMBEDDER_BAD_RESPONSE" // retryable: the answer makes no sense
)

// maxRetryAfter bounds what a server may ask for.
const maxRetryAfter = time.Hour

// RetryAfterError says when a server wants to be asked again.
type RetryAfterError struct {
	After time.Duration // 0 to 1 h
	Err   error         // what the server answered
}

// Error implements error.
func (e *RetryAfterError) Error() string { return fmt.Sprintf("%v (retry after %v)", e.Err, e.After) }

// Unwrap gives the cause.
func (e *RetryAfterError) Unwrap() error { return e.Err }

// RetryAfter returns how long the server asked to wait, if it did.
func RetryAfter(err error) (time.Duration, bool) {
	if e, ok := errors.AsType[*RetryAfterError](err); ok {
		return e.After, true
	}
	return 0, false
}

// Secret is a string that prints as [redacted]. Convert it to use it.
type Secret string

const redacted = "[redacted]"

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return redacted }

// MarshalText implements encoding.TextMarshaler, and so covers JSON and slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// transportError is for a request that got no whole answer. A caller that gave
// up gets its own context's error, which is no fault of the server.
func (o *OpenAI) transportError(parent context.Context, err error) error {
	if parent.Err() != nil {
		return fmt.Errorf("ask embedder: %w", context.Cause(parent))
	}
	e := &pipeline.Error{
		Stage: stage, Reason: ReasonUnavailable, Retryable: true, Err: err,
		Message: "The embedding server could not be reached.",
	}
	if errors.Is(err, context.DeadlineExceeded) {
		e.Reason, e.Message = ReasonTimeout, "The embedding server did not answer in time."
	}
	return e
}

// errorToken is what the type and the code of an error look like.
var errorToken = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,63}$`)

// said is what of an answer may go to the logs: the type and the code of the error.
// Its message may repeat the key, or the text that was to be embedded, a tenant's.
func said(body io.Reader) string {
	var answer struct {
		Error struct {
			Type string `json:"type"`
			Code any    `json:"code"` // a number on some servers
		} `json:"error"`
	}
	const read = 16 << 10
	_ = json.NewDecoder(io.LimitReader(body, read)).Decode(&answer) // best effort
	var out string
	for _, token := range []string{answer.Error.Type, fmt.Sprint(answer.Error.Code)} {
		if errorToken.MatchString(token) {
			out += " " + token
		}
	}
	return out
}

// statusError is for an answer other than 200.
func (o *OpenAI) statusError(resp *http.Response) error {
	cause := fmt.Errorf("status %d%s", resp.StatusCode, said(resp.Body))
	if after, ok := parseRetryAfter(resp.Header.Get("Retry-After"), time.Now()); ok {
		cause = &RetryAfterError{After: after, Err: cause}
	}
	e := &pipeline.Error{Stage: stage, Err: cause}
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests:
		e.Reason, e.Retryable = ReasonRateLimited, true
		e.Message = "The embedding server limits the rate of requests."
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		e.Reason, e.Retryable = ReasonUnauthorized, true
		e.Message = "The embedding server refuses the configured key."
	case code >= http.StatusInternalServerError || code == http.StatusRequestTimeout:
		e.Reason, e.Retryable = ReasonUnavailable, true
		e.Message = fmt.Sprintf("The embedding server failed with status %d.", code)
	default:
		e.Reason = ReasonRejected
		e.Message = fmt.Sprintf("The embedding server refused the text with status %d.", code)
	}
	return e
}

// parseRetryAfter reads seconds or an HTTP date.
func parseRetryAfter(header string, now time.Time) (time.Duration, bool) {
	if seconds, err := strconv.ParseFloat(header, 64); err == nil && seconds >= 0 {
		return time.Duration(min(seconds, maxRetryAfter.Seconds()) * float64(time.Second)), true
	}
	if at, err := http.ParseTime(header); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter), true
	}
	return 0, false
}

func badResponse(err error) error {
	return &pipeline.Error{
		Stage: stage, Reason: ReasonBadResponse, Retryable: true, Err: err,
		Message: "The embedding server gave an answer that cannot be used.",
	}
}

func wrongDims(got, want int) error {
	return &pipeline.Error{
		Stage: stage, Reason: ReasonWrongDims,
		Message: fmt.Sprintf("The embedding server's vectors have %d dimensions; %d are configured.", got, want),
	}
}
