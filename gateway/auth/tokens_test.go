package auth

import (
	"context"
	"crypto"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
)

func TestTokensOfAnIssuerVerifyWithEachAlgorithm_B1(t *testing.T) {
	k := testKeys()
	idp := newIDP(t, jwkOf("r", "", k["rsa"].Public()), jwkOf("e", "ES256", k["p256"].Public()), jwkOf("e3", "", k["p384"].Public()),
		jwkOf("e5", "", k["p521"].Public()), jwkOf("d", "EdDSA", k["ed"].Public()))
	a, _ := tokens(t, idp.config())
	for alg, by := range map[string][2]string{"RS256": {"r", "rsa"}, "PS256": {"r", "rsa"}, "ES256": {"e", "p256"}, "ES384": {"e3", "p384"}, "ES512": {"e5", "p521"}, "EdDSA": {"d", "ed"}} {
		for _, kid := range []string{by[0], ""} { // without a kid: the only key that fits
			text := signed(t, alg, kid, k[by[1]], claimsOf(idp.URL, nil))
			for range 2 {
				p, err := a.Verify(t.Context(), text)
				if err != nil || p.Tenant != "acme" || p.Subject != "ada" || !slices.Equal(p.Roles, []string{"editor"}) ||
					!p.Expires.Equal(epoch.Add(time.Hour+Leeway)) {
					t.Errorf("%s: %+v %v", alg, p, err)
				}
			}
		}
	}
	if n := idp.reads.Load(); n != 1 {
		t.Errorf("the keys were read %d times", n)
	}
}

func TestAnIssuersKeysAndAudienceAreItsOwn_B1(t *testing.T) {
	k := testKeys()
	one, two := newIDP(t, jwkOf("k", "", k["ed"].Public())), newIDP(t, jwkOf("k", "", k["p256"].Public()))
	ops := newIDP(t, jwkOf("k", "", k["ed"].Public()))
	operators := ops.config()
	operators.Operator, operators.Audiences, operators.Roles = true, []string{"ops"}, map[string]string{"sre": "operator"}
	a, _ := tokens(t, one.config(), two.config(), operators)
	good := signed(t, "EdDSA", "k", k["ed"], claimsOf(one.URL, nil))
	if _, err := a.Verify(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	if p, err := a.Verify(t.Context(), signed(t, "EdDSA", "k", k["ed"], claimsOf(two.URL, nil))); !errors.Is(err, ErrToken) {
		t.Errorf("a key of one issuer signs for another: %+v %v", p, err)
	}
	operator := claimsOf(ops.URL, jwt.MapClaims{"aud": []string{"ops"}, "org_id": nil, "roles": []string{"sre"}, "sub": "olga"})
	text := signed(t, "EdDSA", "k", k["ed"], operator)
	for range 2 {
		if o, err := a.VerifyOperator(t.Context(), text); err != nil || o.Subject != "olga" || !slices.Equal(o.Roles, []string{gateway.RoleOperator}) {
			t.Fatalf("%+v %v", o, err)
		}
		if p, err := a.Verify(t.Context(), text); !errors.Is(err, ErrToken) {
			t.Errorf("an operator's token makes a principal: %+v %v", p, err)
		}
		if o, err := a.VerifyOperator(t.Context(), good); !errors.Is(err, ErrToken) {
			t.Errorf("a tenant's token makes an operator: %+v %v", o, err)
		}
	}
	for name, change := range map[string]jwt.MapClaims{
		"with a tenant": {"org_id": "acme"}, "two audiences": {"aud": []string{"ops", "api"}}, "no role": {"roles": []string{"operator"}},
		"audience of tenants": {"aud": "api"}, "no subject": {"sub": nil},
	} {
		c := jwt.MapClaims{}
		for k, v := range operator {
			c[k] = v
		}
		for k, v := range change {
			c[k] = v
			if v == nil {
				delete(c, k)
			}
		}
		if o, err := a.VerifyOperator(t.Context(), signed(t, "EdDSA", "k", k["ed"], c)); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %+v %v", name, o, err)
		}
	}
	if p, err := a.Verify(t.Context(), signed(t, "EdDSA", "k", k["ed"], claimsOf(one.URL, jwt.MapClaims{"aud": []string{"api", "ops"}}))); !errors.Is(err, ErrToken) {
		t.Errorf("for tenants and operators: %+v %v", p, err)
	}
}

func TestClaimsMeanWhatTheConfigurationSays_B1(t *testing.T) {
	k := testKeys()["ed"]
	idp := newIDP(t, jwkOf("k", "", k.Public()))
	verify := func(change func(*IssuerConfig), claims jwt.MapClaims) (gateway.Principal, error) {
		c := idp.config()
		change(&c)
		a, _ := tokens(t, c)
		return a.Verify(t.Context(), signed(t, "EdDSA", "k", k, claimsOf(idp.URL, claims)))
	}
	p, err := verify(func(c *IssuerConfig) {
		c.Claims = ClaimNames{Tenant: "https://example.com/org", Roles: "/realm_access/roles", Workspace: "ws", Subject: "email"}
		c.Roles, c.Tenants, c.SubjectPrefix = map[string]string{"kb-admin": "admin", "kb-user": "viewer"}, []string{"umbrella", "acme"}, "idp:"
	}, jwt.MapClaims{"https://example.com/org": "umbrella", "realm_access": map[string]any{"roles": []string{"kb-admin", "editor", "kb-admin"}}, "ws": "w1", "email": "a@b.c"})
	if err != nil || p.Tenant != "umbrella" || p.Workspace != "w1" || p.Subject != "idp:a@b.c" || !slices.Equal(p.Roles, []string{"admin"}) {
		t.Errorf("%+v %v", p, err)
	}
	if p, err := verify(func(c *IssuerConfig) { c.Tenant = "acme" }, jwt.MapClaims{"org_id": nil, "roles": nil}); err != nil || p.Tenant != "acme" || p.Roles != nil {
		t.Errorf("one tenant, no roles: %+v %v", p, err)
	}
	for name, c := range map[string]struct {
		change func(*IssuerConfig)
		claims jwt.MapClaims
	}{
		"another tenant than its own": {func(c *IssuerConfig) { c.Tenant = "acme" }, jwt.MapClaims{"org_id": "umbrella"}},
		"a tenant not allowed":        {func(c *IssuerConfig) { c.Tenants = []string{"umbrella"} }, nil},
		"an empty workspace":          {func(*IssuerConfig) {}, jwt.MapClaims{"workspace": ""}},
		"a workspace of a number":     {func(*IssuerConfig) {}, jwt.MapClaims{"workspace": 7}},
		"roles a text":                {func(*IssuerConfig) {}, jwt.MapClaims{"roles": "admin"}},
		"roles an object":             {func(*IssuerConfig) {}, jwt.MapClaims{"roles": map[string]any{"admin": true}}},
		"roles with a number":         {func(*IssuerConfig) {}, jwt.MapClaims{"roles": []any{"admin", 1}}},
		"subject of a key":            {func(*IssuerConfig) {}, jwt.MapClaims{"sub": "key:abc"}},
		"subject of the cluster":      {func(*IssuerConfig) {}, jwt.MapClaims{"sub": "system"}},
		"prefix without a subject":    {func(c *IssuerConfig) { c.SubjectPrefix = "p:" }, jwt.MapClaims{"sub": nil}},
	} {
		if p, err := verify(c.change, c.claims); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %+v %v", name, p, err)
		}
	}
}

func TestConfigurationsOfIssuersThatAreRefused_B1(t *testing.T) {
	base := func() IssuerConfig {
		return IssuerConfig{Issuer: "https://idp.example.com", Audiences: []string{"api"}, Algorithms: []string{"RS256"}, Discovery: true}
	}
	if err := CheckIssuers([]IssuerConfig{base()}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*IssuerConfig){
		"no name": func(c *IssuerConfig) { c.Issuer = "" }, "our own name": func(c *IssuerConfig) { c.Issuer = Issuer },
		"no audience": func(c *IssuerConfig) { c.Audiences = nil }, "empty audience": func(c *IssuerConfig) { c.Audiences = []string{""} },
		"no algorithm": func(c *IssuerConfig) { c.Algorithms = nil }, "HMAC": func(c *IssuerConfig) { c.Algorithms = []string{"HS256"} },
		"none": func(c *IssuerConfig) { c.Algorithms = []string{"none"} }, "leeway": func(c *IssuerConfig) { c.Leeway = new(61 * time.Second) },
		"no keys": func(c *IssuerConfig) { c.Discovery = false }, "keys twice": func(c *IssuerConfig) { c.File = "f" },
		"http":                func(c *IssuerConfig) { c.Issuer = "http://idp.example.com" },
		"http keys":           func(c *IssuerConfig) { c.Discovery, c.URL = false, "http://idp.example.com/keys" },
		"user in the address": func(c *IssuerConfig) { c.Discovery, c.URL = false, "https://u:p@idp.example.com/keys" },
		"file address":        func(c *IssuerConfig) { c.Discovery, c.URL = false, "file:///etc/passwd" },
		"unknown role":        func(c *IssuerConfig) { c.Roles = map[string]string{"a": "root"} },
		"operator by role":    func(c *IssuerConfig) { c.Roles = map[string]string{"a": "operator"} },
		"tenant":              func(c *IssuerConfig) { c.Tenant = "../x" }, "tenants": func(c *IssuerConfig) { c.Tenants = []string{"ok", ""} },
		"operators of a tenant": func(c *IssuerConfig) { c.Operator, c.Tenant = true, "acme" },
		"operators' audience":   func(c *IssuerConfig) { c.Audiences = []string{OperatorAudience} },
		"tenants' audience":     func(c *IssuerConfig) { c.Operator, c.Audiences = true, []string{Audience} },
		"prefix of keys":        func(c *IssuerConfig) { c.SubjectPrefix = "key:" },
	} {
		c := base()
		change(&c)
		if err := CheckIssuers([]IssuerConfig{c}); !errors.Is(err, ErrIssuer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := CheckIssuers([]IssuerConfig{base(), base()}); !errors.Is(err, ErrIssuer) {
		t.Errorf("one issuer twice: %v", err)
	}
}

func TestKeysThatAreWeakOrForSomethingElseAreLeftOut_B1(t *testing.T) {
	k := testKeys()
	with := func(key string, change map[string]any) map[string]any {
		j := jwkOf("k", "", k[key].Public())
		for n, v := range change {
			j[n] = v
		}
		return j
	}
	short := strings.Repeat("_", 340) // 2040 bits
	for name, j := range map[string]map[string]any{
		"for encryption": with("rsa", map[string]any{"use": "enc"}), "key_ops": with("rsa", map[string]any{"key_ops": []string{"encrypt"}}),
		"another algorithm": with("rsa", map[string]any{"alg": "ES256"}), "RSA-OAEP": with("rsa", map[string]any{"alg": "RSA-OAEP"}),
		"HS256": with("rsa", map[string]any{"alg": "HS256"}), "a secret": {"kty": "oct", "k": b64([]byte("secret")), "alg": "HS256"},
		"short": with("rsa", map[string]any{"n": short}), "exponent 1": with("rsa", map[string]any{"e": b64([]byte{1})}),
		"even exponent": with("rsa", map[string]any{"e": b64([]byte{4})}), "huge": with("rsa", map[string]any{"n": strings.Repeat("_", 12000)}),
		"private": with("ed", map[string]any{"d": "AAAA"}), "off the curve": with("p256", map[string]any{"y": b64(make([]byte, 32))}),
		"other curve": with("p256", map[string]any{"crv": "secp256k1"}), "size": with("p384", map[string]any{"crv": "P-256"}),
		"X25519": with("ed", map[string]any{"crv": "X25519"}), "short Ed25519": with("ed", map[string]any{"x": "AAAA"}),
	} {
		if keys, skipped, err := parseSet(setOf(j)); !errors.Is(err, ErrKeySet) || len(keys) != 0 || len(skipped) != 1 {
			t.Errorf("%s: %v %v", name, keys, err)
		}
		if keys, _, err := parseSet(setOf(j, jwkOf("good", "", k["ed"].Public()))); err != nil || len(keys) != 1 || keys[0].kid != "good" {
			t.Errorf("%s takes the good one with it: %v", name, err)
		}
	}
	many := make([]map[string]any, maxKeys+1)
	for i := range many {
		many[i] = jwkOf("k", "", k["ed"].Public())
	}
	for name, text := range map[string][]byte{"no JSON": []byte("<html>"), "no keys": []byte(`{}`), "too many": setOf(many...), "odd": []byte(`{"keys":[7,"x"]}`)} {
		if _, _, err := parseSet(text); !errors.Is(err, ErrKeySet) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A point of small order has a signature that is good for about every eighth message
// and needs no key: the list is of such points.
func TestPointsOfSmallOrderAreNoKeys_B1(t *testing.T) {
	identity := append([]byte{1}, make([]byte, 63)...) // R, the neutral point; S = 0
	for _, p := range smallPoints {
		x := make([]byte, 32)
		for i := range x {
			x[i] = unhex(p[2*i])<<4 | unhex(p[2*i+1])
		}
		forged := false
		for n := range 256 {
			forged = forged || methods["EdDSA"].Verify(string(rune('a'+n)), identity, crypto.PublicKey(edKey(x))) == nil
		}
		if p[:2] != "ed" && p[:2] != "ee" && !forged { // those two are not reduced, which Go may refuse
			t.Errorf("%s is not of small order", p)
		}
		for _, sign := range []byte{0, 0x80} {
			y := slices.Clone(x)
			y[31] |= sign
			if _, _, err := parseSet(setOf(jwkOf("k", "", edKey(y)))); !errors.Is(err, ErrKeySet) {
				t.Errorf("%x is a key: %v", y, err)
			}
		}
	}
}

func TestDiscoveryIsBelievedForItsOwnIssuerOnly_B1(t *testing.T) {
	k := testKeys()["ed"]
	for name, change := range map[string]func(*idp){
		"another issuer": func(i *idp) { i.document["issuer"] = i.URL + "/" },
		"no keys":        func(i *idp) { delete(i.document, "jwks_uri") },
		"http elsewhere": func(i *idp) { i.document["jwks_uri"] = "http://192.0.2.1/keys" },
		"a file":         func(i *idp) { i.document["jwks_uri"] = "file:///etc/passwd" },
		"an error":       func(i *idp) { i.status = 500 },
		"huge":           func(i *idp) { i.set = []byte(strings.Repeat(" ", maxSetBytes+1)) },
	} {
		idp := newIDP(t, jwkOf("k", "", k.Public()))
		change(idp)
		a, _ := tokens(t, idp.config())
		_, err := a.Verify(t.Context(), signed(t, "EdDSA", "k", k, claimsOf(idp.URL, nil)))
		if e, ok := errors.AsType[*kb.Error](err); !ok || e.Code != kb.CodeUnavailable || e.RetryAfter == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	inner := newIDP(t, jwkOf("k", "", k.Public()))
	redirects := httptest.NewServer(http.RedirectHandler(inner.URL+"/keys", http.StatusFound))
	t.Cleanup(redirects.Close)
	if body, err := get(t.Context(), newClient(), redirects.URL, maxSetBytes); err == nil {
		t.Errorf("a redirect was followed to %s", body)
	}
}

func TestKeysFromAFile_B1(t *testing.T) {
	k := testKeys()["ed"]
	path := filepath.Join(t.TempDir(), "keys.json")
	c := IssuerConfig{Issuer: "urn:machines", Audiences: []string{"api"}, Algorithms: []string{"EdDSA"}, File: path, Claims: ClaimNames{Tenant: "org_id"}}
	a, _ := tokens(t, c)
	if err := a.Warm(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, setOf(jwkOf("k", "", k.Public())), 0o600); err != nil {
		t.Fatal(err)
	}
	a, _ = tokens(t, c)
	if err := a.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p, err := a.Verify(t.Context(), signed(t, "EdDSA", "", k, claimsOf("urn:machines", nil))); err != nil || p.Tenant != "acme" {
		t.Errorf("%+v %v", p, err)
	}
}

func TestSigningKeysAreRotatedWithoutAGap_B1(t *testing.T) {
	dir := t.TempDir()
	was, is := filepath.Join(dir, "old"), filepath.Join(dir, "new")
	old, err := Open(was)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(a *Authority) string {
		token, err := a.Issue(grant)
		if err != nil {
			t.Fatal(err)
		}
		return token.Reveal()
	}
	first := issue(old)
	both, err := Open(is, was)
	if err != nil {
		t.Fatal(err)
	}
	after, err := Open(is)
	if err != nil {
		t.Fatal(err)
	}
	all, err := NewTokens(Config{Local: both})
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	for _, v := range []interface {
		Verify(context.Context, string) (gateway.Principal, error)
	}{both, all} {
		for _, token := range []string{first, issue(both), issue(after)} {
			if _, err := v.Verify(t.Context(), token); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := after.Verify(t.Context(), first); !errors.Is(err, ErrToken) {
		t.Errorf("the old key is gone, its token is not: %v", err)
	}
	if _, err := old.Verify(t.Context(), issue(both)); !errors.Is(err, ErrToken) {
		t.Error("the old key signs")
	}
	if _, err := Open(is, filepath.Join(dir, "none")); !errors.Is(err, ErrKeyFile) {
		t.Errorf("an old key that is not there: %v", err)
	}
}
