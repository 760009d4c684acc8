package auth

import (
	"errors"
	"fmt"

	"github.com/golang-jwt/jwt/v5"

	"granary.dev/granary/gateway"
)

// refusal is an [ErrToken] that names the check which failed, for those who count.
type refusal struct {
	error
	cause string
}

// Cause is one of the gateway's causes.
func (r refusal) Cause() string { return r.cause }

// Unwrap is what errors.Is and errors.As look at.
func (r refusal) Unwrap() error { return r.error }

// checks are the causes by what [errShape] says; all else is a text that is no token.
var checks = map[string]string{
	"alg":       gateway.CauseSignature,
	"signature": gateway.CauseSignature,
	"iss":       gateway.CauseIssuer, "iss of operators": gateway.CauseIssuer, "iss of tenants": gateway.CauseIssuer,
	"aud": gateway.CauseAudience, "aud of operators": gateway.CauseAudience,
	"exp": gateway.CauseTime, "nbf": gateway.CauseTime, "iat": gateway.CauseTime,
	"roles": gateway.CauseClaims, "subject": gateway.CauseClaims, "subject or roles": gateway.CauseClaims,
	"audience or tenant": gateway.CauseClaims, "audience, tenant or subject": gateway.CauseClaims, "audience, tenant or roles": gateway.CauseClaims,
	"tenant, subject or workspace": gateway.CauseClaims, "tenant or subject": gateway.CauseClaims, "not a tenant of the issuer": gateway.CauseClaims,
}

// errShape is a text that is no token, or one with a part that is not good.
func errShape(what string) error {
	cause, ok := checks[what]
	if !ok {
		cause = gateway.CauseMalformed
	}
	return refusal{fmt.Errorf("%w: %s", ErrToken, what), cause}
}

// refused is a token that the library, or the keys of an issuer, do not let pass.
func refused(err error) error {
	cause := gateway.CauseMalformed
	for _, c := range []struct {
		is    error
		cause string
	}{
		{jwt.ErrTokenInvalidAudience, gateway.CauseAudience}, {jwt.ErrTokenInvalidIssuer, gateway.CauseIssuer},
		{jwt.ErrTokenExpired, gateway.CauseTime}, {jwt.ErrTokenNotValidYet, gateway.CauseTime}, {jwt.ErrTokenUsedBeforeIssued, gateway.CauseTime},
		{jwt.ErrTokenRequiredClaimMissing, gateway.CauseClaims}, {jwt.ErrTokenInvalidSubject, gateway.CauseClaims},
		{jwt.ErrTokenSignatureInvalid, gateway.CauseSignature}, {errNoKey, gateway.CauseSignature},
	} {
		if errors.Is(err, c.is) {
			cause = c.cause
			break
		}
	}
	return refusal{fmt.Errorf("%w: %w", ErrToken, err), cause}
}
