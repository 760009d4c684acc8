package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

var b64 = base64.RawURLEncoding.EncodeToString

// testKeys are made once: RSA keys are dear.
var testKeys = sync.OnceValue(func() map[string]crypto.Signer {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil
	}
	e256, err256 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	e384, err384 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	e521, err521 := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	_, ed, errEd := ed25519.GenerateKey(rand.Reader)
	if err256 != nil || err384 != nil || err521 != nil || errEd != nil {
		return nil
	}
	return map[string]crypto.Signer{"rsa": r, "p256": e256, "p384": e384, "p521": e521, "ed": ed}
})

// jwkOf writes a key as a set has it.
func jwkOf(kid, alg string, key crypto.PublicKey) map[string]any {
	out := map[string]any{"kid": kid, "use": "sig"}
	if alg != "" {
		out["alg"] = alg
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		maps.Copy(out, map[string]any{"kty": "RSA", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())})
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			return nil
		}
		half := (len(point) - 1) / 2
		maps.Copy(out, map[string]any{"kty": "EC", "crv": k.Curve.Params().Name, "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])})
	case ed25519.PublicKey:
		maps.Copy(out, map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(k)})
	}
	return out
}

func setOf(keys ...map[string]any) []byte {
	text, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		return nil
	}
	return text
}

// idp is an issuer on this machine.
type idp struct {
	*httptest.Server
	mu       sync.Mutex
	set      []byte
	document map[string]any
	status   int
	reads    atomic.Int64 // of the set
}

func newIDP(t testing.TB, keys ...map[string]any) *idp {
	t.Helper()
	i := &idp{set: setOf(keys...), status: 200}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		_ = json.NewEncoder(w).Encode(i.document)
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		i.reads.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		w.WriteHeader(i.status)
		_, _ = w.Write(i.set)
	})
	i.Server = httptest.NewServer(mux)
	i.document = map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys"}
	t.Cleanup(i.Close)
	return i
}

func (i *idp) serve(status int, keys ...map[string]any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.status, i.set = status, setOf(keys...)
}

func (i *idp) config() IssuerConfig {
	return IssuerConfig{Issuer: i.URL, Audiences: []string{"api"}, Algorithms: []string{"RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"}, Discovery: true,
		Claims: ClaimNames{Tenant: "org_id"}}
}

func tokens(t testing.TB, issuers ...IssuerConfig) (*Tokens, *clock) {
	t.Helper()
	c := &clock{epoch}
	out, err := newTokens(Config{Issuers: issuers}, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	return out, c
}

// claimsOf are those of a good token at epoch.
func claimsOf(issuer string, change jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{"iss": issuer, "aud": "api", "sub": "ada", "org_id": "acme", "roles": []string{"editor", "other"},
		"exp": epoch.Add(time.Hour).Unix()}
	for k, v := range change {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return c
}

func signed(t testing.TB, alg, kid string, key any, c jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(methods[alg], c)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
