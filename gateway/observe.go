package gateway

import (
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"granary.dev/granary/actors/kb"
)

// Observer hears how calls end and why credentials are refused, to count them. It is
// called on every call, and neither blocks nor keeps what it is given.
type Observer interface {
	Called(o Outcome)
	// CredentialRefused hears the check a credential failed, one of the Cause constants.
	// Clients are never told.
	CredentialRefused(cause string)
}

// Outcome is how a call ended, as its line in the log has it.
type Outcome struct {
	Method string // such as granary.v1.SearchService/Search; "unknown" when there is none of that name
	Tenant string // of the credential; "" when nobody is known
	Code   string // ok, not_modified or the code of the error
	Reason string // the stable reason of the error; "" without one
	Took   time.Duration
	Stream bool // it took as long as its client wanted
}

// Causes for which credentials are refused.
const (
	CauseMissing   = "missing"   // there is none
	CauseMalformed = "malformed" // no text of a credential
	CauseSignature = "signature" // not made with the issuer's key, in its algorithm
	CauseIssuer    = "issuer"    // of an issuer this server does not know, or of the other API
	CauseAudience  = "audience"  // for somebody else
	CauseTime      = "time"      // over, or not valid yet
	CauseClaims    = "claims"    // tenant, subject or roles are not fit
	CauseKey       = "api_key"   // an API key that nobody made, was revoked or is over
	CauseTenant    = "no_tenant" // good, of a tenant that does not exist
	CauseOther     = "other"     // this server knows no operators, or a verifier that tells nothing
)

// ownProcedures are counted; probes and reflection are not.
const ownProcedures = "/granary."

// causer is an error of a [Verifier] that tells which check failed.
type causer interface {
	error
	Cause() string
}

type causedError struct {
	error
	cause string
}

// Cause implements causer.
func (e causedError) Cause() string { return e.cause }

// Unwrap is what errors.Is and errors.As look at.
func (e causedError) Unwrap() error { return e.error }

func withCause(cause string, err error) error { return causedError{err, cause} }

func causeOfRefusal(err error) string {
	if e, ok := errors.AsType[causer](err); ok {
		return e.Cause()
	}
	return CauseOther
}

func (g *Gateway) observeRefusal(cause string) {
	if g.cfg.Observer != nil {
		g.cfg.Observer.CredentialRefused(cause)
	}
}

// observe tells of a call of either API. What a client makes up is not passed on: it
// must not become the name of anything.
func (g *Gateway) observe(spec connect.Spec, c *call, code string, err error, took time.Duration) {
	if g.cfg.Observer == nil || !strings.HasPrefix(spec.Procedure, ownProcedures) {
		return
	}
	o := Outcome{Method: "unknown", Tenant: c.principal.Tenant, Code: code, Took: took, Stream: spec.StreamType != connect.StreamTypeUnary}
	if spec.Schema != nil {
		o.Method = spec.Procedure[1:]
	}
	if err != nil {
		if e, ok := errors.AsType[*kb.Error](err); ok {
			o.Reason = e.Reason
		}
	}
	g.cfg.Observer.Called(o)
}
