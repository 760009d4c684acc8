package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"granary.dev/granary/actors/pipeline"
)

// Reasons of fetch failures, stable across releases.
const (
	ReasonURL              = "URL_NOT_VALID"       // cannot be fetched as written
	ReasonAddress          = "ADDRESS_NOT_ALLOWED" // the URL holds an address that is not public
	ReasonTooLarge         = "TOO_LARGE"           // more bytes than Config.MaxBytes
	ReasonTooManyRedirects = "TOO_MANY_REDIRECTS"  // more than Config.MaxRedirects
	ReasonStatus           = "HTTP_STATUS"         // answered, but not with the document; see StatusError
	ReasonTimeout          = "TIMEOUT"             // Config.Timeout, HeaderTimeout, or the caller's deadline
	ReasonTLS              = "TLS_FAILED"          // no trusted connection
	ReasonDNS              = "DNS_FAILED"          // the name has no address, or none that is public
	ReasonConnection       = "CONNECTION_FAILED"   // refused, reset or cut short
	ReasonEncoding         = "ENCODING_NOT_SUPPORTED"
)

// StatusError is the cause of an HTTP_STATUS failure.
type StatusError struct {
	Code       int           // e.g. 503
	RetryAfter time.Duration // the server's wish, 0 when it has none; at most a day
}

// Error implements error.
func (e *StatusError) Error() string { return fmt.Sprintf("status %d", e.Code) }

func fetchError(reason, message string, retryable bool, cause error) error {
	return &pipeline.Error{Stage: "fetch", Reason: reason, Message: message, Retryable: retryable, Err: cause}
}

func urlError(what string, cause error) error {
	return fetchError(ReasonURL, "the URL cannot be fetched: "+what, false, cause)
}

func addressError(message string, cause error) error {
	return fetchError(ReasonAddress, message, false, cause)
}

// refusedError is an address that may not be dialled. It stays in the log: see [nameError].
type refusedError struct{ why error }

// Error implements error.
func (e *refusedError) Error() string { return "refused: " + e.why.Error() }

// nameError says of a host name that there is nothing to fetch from. That its
// addresses are refused is for the log: told apart from a name that does not exist,
// it would tell a tenant which names the server's own network has.
func nameError(cause error) error {
	return fetchError(ReasonDNS, "the host name has no address on the public Internet", false, cause)
}

// statusError judges a response that is not the document. Only what the server
// may answer otherwise later is worth another try.
func statusError(resp *http.Response, now time.Time) error {
	e := &StatusError{Code: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), now)}
	retry := e.Code == http.StatusRequestTimeout || e.Code == http.StatusTooManyRequests || e.Code >= 500
	return fetchError(ReasonStatus, fmt.Sprintf("the server answered with status %d", e.Code), retry, e)
}

// retryAfter reads seconds or a date.
func retryAfter(v string, now time.Time) time.Duration {
	const day = 24 * time.Hour
	if n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, day)
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(t.Sub(now), 0), day)
	}
	return 0
}

// transportError names a failure of the exchange. parent is the caller's
// context: when the caller gave up, that is no failure of the source.
func transportError(parent context.Context, err error) error {
	if parent.Err() != nil && errors.Is(parent.Err(), context.Canceled) {
		return fmt.Errorf("fetch: %w", parent.Err())
	}
	if e, ok := errors.AsType[*pipeline.Error](err); ok {
		return e // of a check on the way: redirect, address, size
	}
	err = withoutURL(err)
	if isTLS(err) {
		return fetchError(ReasonTLS, "no trusted connection to the server", false, err)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return nameError(err)
	} else if ok {
		return fetchError(ReasonDNS, "the host name could not be resolved", true, err)
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return fetchError(ReasonTimeout, "the server was too slow", true, err)
	}
	return fetchError(ReasonConnection, "the connection to the server failed", true, connectionCause(err))
}

// withoutURL takes away what the client puts around every error. A URL may hold a
// signature or a token in its query, and causes go to the log.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// connectionCause keeps what the system says of a connection. Other errors may quote
// what the server sent: a redirect, a header, its first bytes.
func connectionCause(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e
	}
	for _, known := range []error{io.ErrUnexpectedEOF, io.EOF, net.ErrClosed} {
		if errors.Is(err, known) {
			return known
		}
	}
	return fmt.Errorf("an answer that is no HTTP (%T)", err)
}

// isTLS tells failures of the handshake.
func isTLS(err error) bool {
	if errors.Is(err, http.ErrSchemeMismatch) {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	_, ok := errors.AsType[x509.HostnameError](err)
	return ok
}
