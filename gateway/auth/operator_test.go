package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"granary.dev/granary/gateway"
)

var operatorGrant = OperatorGrant{Subject: "olga", Life: time.Hour}

func TestOperatorsTokensVerify_B1_A7(t *testing.T) {
	a, clock := authority(t)
	token, err := a.IssueOperator(operatorGrant)
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]time.Duration{"at once": 0, "again": 0, "a slow clock": -Leeway, "in the leeway": time.Hour + Leeway - time.Second} {
		clock.now = epoch.Add(at)
		o, err := a.VerifyOperator(t.Context(), token.Reveal())
		if err != nil || o.Subject != "olga" || !slices.Equal(o.Roles, []string{gateway.RoleOperator}) || !o.Expires.Equal(epoch.Add(time.Hour+Leeway)) {
			t.Errorf("%s: %+v %v", name, o, err)
		}
	}
	for name, at := range map[string]time.Duration{"expired": time.Hour + Leeway, "not yet": -Leeway - time.Second} {
		clock.now = epoch.Add(at)
		if o, err := a.VerifyOperator(t.Context(), token.Reveal()); !errors.Is(err, ErrToken) || o.Subject != "" {
			t.Errorf("%s: %+v %v", name, o, err)
		}
	}
}

func TestNoTokenIsGoodForBothAPIs_B1_A7(t *testing.T) {
	a, _ := authority(t)
	tenants, err := a.Issue(grant)
	if err != nil {
		t.Fatal(err)
	}
	operators, err := a.IssueOperator(operatorGrant)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time a tenant's token is remembered
		if _, err := a.Verify(t.Context(), tenants.Reveal()); err != nil {
			t.Fatal(err)
		}
		if o, err := a.VerifyOperator(t.Context(), tenants.Reveal()); !errors.Is(err, ErrToken) {
			t.Errorf("a tenant's token makes an operator: %+v %v", o, err)
		}
		if _, err := a.VerifyOperator(t.Context(), operators.Reveal()); err != nil {
			t.Fatal(err)
		}
		if p, err := a.Verify(t.Context(), operators.Reveal()); !errors.Is(err, ErrToken) {
			t.Errorf("an operator's token makes a principal: %+v %v", p, err)
		}
	}
}

// Each token is wrong in one thing.
func TestHostileOperatorTokens_B1_A7(t *testing.T) {
	a, _ := authority(t)
	sign := func(key any, change jwt.MapClaims, drop ...string) string {
		t.Helper()
		c := jwt.MapClaims{
			"iss": Issuer, "aud": OperatorAudience, "sub": "olga", "roles": []string{gateway.RoleOperator},
			"exp": epoch.Add(time.Hour).Unix(), "nbf": epoch.Unix(),
		}
		for k, v := range change {
			c[k] = v
		}
		for _, k := range drop {
			delete(c, k)
		}
		s, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if _, err := a.VerifyOperator(t.Context(), sign(a.key, nil)); err != nil {
		t.Fatalf("the pattern of all hostile tokens is not good itself: %v", err)
	}
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	headed := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": Issuer, "aud": OperatorAudience, "sub": "olga", "roles": []string{gateway.RoleOperator},
		"exp": epoch.Add(time.Hour).Unix(), "nbf": epoch.Unix(),
	})
	headed.Header["kid"] = "1"
	kid, err := headed.SignedString(a.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"another key":         sign(other, nil),
		"header kid":          kid,
		"audience of tenants": sign(a.key, jwt.MapClaims{"aud": Audience}),
		"both audiences":      sign(a.key, jwt.MapClaims{"aud": []string{OperatorAudience, Audience}}),
		"no audience":         sign(a.key, nil, "aud"),
		"a tenant":            sign(a.key, jwt.MapClaims{"tenant": "acme"}),
		"no roles":            sign(a.key, nil, "roles"),
		"role admin":          sign(a.key, jwt.MapClaims{"roles": []string{gateway.RoleAdmin}}),
		"role beside it":      sign(a.key, jwt.MapClaims{"roles": []string{gateway.RoleOperator, gateway.RoleAdmin}}),
		"no subject":          sign(a.key, nil, "sub"),
		"subject with NUL":    sign(a.key, jwt.MapClaims{"sub": "a\x00b"}),
		"another issuer":      sign(a.key, jwt.MapClaims{"iss": "https://evil.org"}),
		"no exp":              sign(a.key, nil, "exp"),
		"no nbf":              sign(a.key, nil, "nbf"),
		"expired":             sign(a.key, jwt.MapClaims{"exp": epoch.Add(-time.Minute).Unix()}),
		"huge":                sign(a.key, jwt.MapClaims{"pad": strings.Repeat("p", maxTokenBytes)}),
		"empty":               "",
	} {
		if o, err := a.VerifyOperator(t.Context(), token); !errors.Is(err, ErrToken) || o.Subject != "" {
			t.Errorf("%s: %+v %v", name, o, err)
		}
	}
	for name, token := range hostile(t, a) {
		if _, err := a.VerifyOperator(t.Context(), token); !errors.Is(err, ErrToken) {
			t.Errorf("hostile to tenants, %s: %v", name, err)
		}
	}
}

func TestOperatorGrantsThatAreNone(t *testing.T) {
	a, _ := authority(t)
	for name, g := range map[string]OperatorGrant{
		"no subject": {}, "life": {Subject: "o", Life: -1}, "long life": {Subject: "o", Life: MaxLife + 1}, "NUL": {Subject: "\x00"},
	} {
		if token, err := a.IssueOperator(g); !errors.Is(err, ErrGrant) || token != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if token, err := a.Issue(Grant{Tenant: "acme", Subject: "ada", Roles: []string{gateway.RoleOperator}}); !errors.Is(err, ErrGrant) || token != "" {
		t.Errorf("a tenant's operator: %v", err)
	}
}

// A key may live anywhere: whoever has the text is the same authority.
func TestAKeyIsTheSameAuthorityWhereverItLives(t *testing.T) {
	text, err := NewKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := FromPEM(text)
	if err != nil {
		t.Fatal(err)
	}
	given, err := New(file.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []*Authority{file, stored, given} {
		token, err := from.Issue(grant)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range []*Authority{file, stored, given} {
			if p, err := to.Verify(t.Context(), token.Reveal()); err != nil || p.Tenant != "acme" {
				t.Errorf("%+v %v", p, err)
			}
		}
	}
	if again, err := NewKeyPEM(); err != nil || string(again) == string(text) {
		t.Errorf("two keys are the same: %v", err)
	}
	for name, bad := range map[string][]byte{"empty": nil, "no PEM": []byte("x"), "cut": text[:len(text)/2]} {
		if _, err := FromPEM(bad); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []ed25519.PrivateKey{nil, make([]byte, 5)} {
		if _, err := New(bad); !errors.Is(err, ErrKey) {
			t.Errorf("a key of %d bytes: %v", len(bad), err)
		}
	}
}
