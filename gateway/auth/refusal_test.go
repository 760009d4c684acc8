package auth

import (
	"errors"
	"testing"

	"granary.dev/granary/gateway"
)

// B1, F1: a token that is not good says to those who count which check it failed.
func TestRefusalsNameTheirCause_B1(t *testing.T) {
	a, _ := authority(t)
	want := map[string]string{
		"alg none": gateway.CauseSignature, "HS256 with the public key": gateway.CauseSignature, "another key": gateway.CauseSignature,
		"signature changed": gateway.CauseSignature, "claims of another": gateway.CauseSignature,
		"header jwk": gateway.CauseMalformed, "two parts": gateway.CauseMalformed, "huge": gateway.CauseMalformed, "not JSON": gateway.CauseMalformed,
		"wrong aud": gateway.CauseAudience, "wrong iss": gateway.CauseIssuer,
		"expired": gateway.CauseTime, "nbf in the future": gateway.CauseTime,
		"no exp": gateway.CauseClaims, "no tenant": gateway.CauseClaims, "tenant ../": gateway.CauseClaims, "no subject": gateway.CauseClaims,
	}
	for name, token := range hostile(t, a) {
		_, err := a.Verify(t.Context(), token)
		r, ok := errors.AsType[refusal](err)
		if !ok || r.Cause() == "" {
			t.Errorf("%s: %v", name, err)
		}
		if w, checked := want[name]; checked && r.Cause() != w {
			t.Errorf("%s is of cause %s, not %s: %v", name, r.Cause(), w, err)
		}
	}
	if _, err := a.VerifyOperator(t.Context(), "x"); !errors.Is(err, ErrToken) {
		t.Error(err)
	}
	for what, w := range checks {
		if r, ok := errors.AsType[refusal](errShape(what)); !ok || r.Cause() != w || !errors.Is(r, ErrToken) {
			t.Errorf("%s: %v", what, r)
		}
	}
}
