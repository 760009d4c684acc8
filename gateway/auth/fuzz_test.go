package auth

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// FuzzToken: no text panics, and who changes a good token has none.
func FuzzToken(f *testing.F) {
	k := testKeys()["ed"]
	a, _ := tokens(f, IssuerConfig{Issuer: "urn:fuzz", Audiences: []string{"api"}, Algorithms: []string{"EdDSA"}, Discovery: false, File: "none",
		Claims: ClaimNames{Tenant: "org_id"}})
	set, _, err := parseSet(setOf(jwkOf("k", "", k.Public())))
	if err != nil {
		f.Fatal(err)
	}
	keys := a.issuers["urn:fuzz"].keys
	keys.keys, keys.fresh, keys.tried = set, epoch, epoch
	good := signed(f, "EdDSA", "k", k, claimsOf("urn:fuzz", nil))
	if _, err := a.Verify(f.Context(), good); err != nil {
		f.Fatal(err)
	}
	parts := strings.Split(good, ".")
	f.Add(good)
	for _, header := range []string{`{"alg":"none"}`, `{"alg":"EdDSA","kid":"k","kid":"k"}`, `{"alg":"EdDSA","jku":"https://x"}`, "[]", "", "{"} {
		f.Add(b64([]byte(header)) + "." + parts[1] + "." + parts[2])
		f.Add(parts[0] + "." + b64([]byte(header)) + "." + parts[2])
	}
	for i, part := range parts { // what a decoder of base64 may read as it reads the good one
		for _, other := range []string{part + "\n", part[:4] + "\r\n" + part[4:], part + "=", " " + part, part[:len(part)-1] + string(part[len(part)-1]^1)} {
			twin := slices.Clone(parts)
			twin[i] = other
			f.Add(strings.Join(twin, "."))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := a.Verify(t.Context(), text)
		if err == nil && text != good {
			t.Fatalf("%q is good for %+v", text, p)
		}
		if o, err := a.VerifyOperator(t.Context(), text); err == nil {
			t.Fatalf("%q makes the operator %+v", text, o)
		}
	})
}

// FuzzKeySet: no set panics, and what is taken from it is fit to check something.
func FuzzKeySet(f *testing.F) {
	for name, k := range testKeys() {
		f.Add(setOf(jwkOf(name, "", k.Public())))
	}
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"","y":""},{"kty":"OKP"},{"kty":"oct","k":"AA"},null,[]]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, _, err := parseSet(text)
		if (err == nil) != (len(keys) > 0) || len(keys) > maxKeys {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
		for _, k := range keys {
			fit := false
			for alg, m := range methods {
				if k.fits(alg) {
					fit = true
					_ = m.Verify("x", make([]byte, 64), k.key)
				}
			}
			if !fit {
				t.Fatalf("a key fits nothing: %+v", k)
			}
		}
	})
}

// BenchmarkRefuse is what a credential costs that is refused, beside a good one.
func BenchmarkRefuse(b *testing.B) {
	k := testKeys()
	idp := newIDP(b, jwkOf("r", "", k["rsa"].Public()), jwkOf("e", "", k["p256"].Public()), jwkOf("d", "", k["ed"].Public()))
	a, clock := tokens(b, idp.config())
	clock.now = epoch
	good := signed(b, "RS256", "r", k["rsa"], claimsOf(idp.URL, nil))
	if _, err := a.Verify(b.Context(), good); err != nil {
		b.Fatal(err)
	}
	flipped := func(alg, kid, key string) string {
		text := []byte(signed(b, alg, kid, k[key], claimsOf(idp.URL, jwt.MapClaims{"sub": alg})))
		text[len(text)-20] ^= 1
		return string(text)
	}
	for _, c := range []struct{ name, text string }{
		{"good, remembered", good}, {"garbage", strings.Repeat("A", 500)}, {"unknown issuer", signed(b, "EdDSA", "d", k["ed"], claimsOf("https://evil", nil))},
		{"expired", signed(b, "EdDSA", "d", k["ed"], claimsOf(idp.URL, jwt.MapClaims{"exp": epoch.Add(-time.Hour).Unix()}))},
		{"forged kid", signed(b, "RS256", "x", k["rsa"], claimsOf(idp.URL, nil))}, {"forged RS256", flipped("RS256", "r", "rsa")},
		{"forged ES256", flipped("ES256", "e", "p256")}, {"forged EdDSA", flipped("EdDSA", "d", "ed")},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				_, _ = a.Verify(b.Context(), c.text)
			}
		})
	}
}
