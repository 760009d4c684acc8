package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"granary.dev/granary/gateway"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is a time that a test moves.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func authority(t testing.TB) (*Authority, *clock) {
	t.Helper()
	key, err := loadKey(filepath.Join(t.TempDir(), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{epoch}
	a, err := newAuthority(key, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	return a, c
}

var grant = Grant{Tenant: "acme", Subject: "ada", Roles: []string{"viewer", "editor"}, Workspace: "w1", Life: time.Hour}

func TestIssuedTokensVerify_B1(t *testing.T) {
	a, clock := authority(t)
	token, err := a.Issue(grant)
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]time.Duration{
		"at once": 0, "from the cache": time.Second, "after the cache's time": 10 * time.Minute,
		"a slow clock": -Leeway, "at the end": time.Hour, "in the leeway": time.Hour + Leeway - time.Second,
	} {
		clock.now = epoch.Add(at)
		p, err := a.Verify(t.Context(), token.Reveal())
		if err != nil || p.Tenant != "acme" || p.Subject != "ada" || p.Workspace != "w1" ||
			!slices.Equal(p.Roles, grant.Roles) || !p.Expires.Equal(epoch.Add(time.Hour+Leeway)) {
			t.Errorf("%s: %+v %v", name, p, err)
		}
	}
	for name, at := range map[string]time.Duration{"expired": time.Hour + Leeway, "just expired": time.Hour + Leeway + time.Second, "long expired": 9999 * time.Hour, "not yet": -Leeway - time.Second} {
		clock.now = epoch.Add(at)
		a.seen = newCache(1, cacheTime)
		if p, err := a.Verify(t.Context(), token.Reveal()); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %+v %v", name, p, err)
		}
	}
}

// hostile lists tokens that must not pass. Each is wrong in one thing.
func hostile(t testing.TB, a *Authority) map[string]string {
	t.Helper()
	good := func() jwt.MapClaims {
		return jwt.MapClaims{
			"iss": Issuer, "aud": Audience, "sub": "ada", "tenant": "acme", "roles": []string{"admin"},
			"exp": epoch.Add(time.Hour).Unix(), "nbf": epoch.Unix(),
		}
	}
	sign := func(method jwt.SigningMethod, key any, header map[string]any, change jwt.MapClaims, drop ...string) string {
		c := good()
		for k, v := range change {
			c[k] = v
		}
		for _, k := range drop {
			delete(c, k)
		}
		token := jwt.NewWithClaims(method, c)
		for k, v := range header {
			token.Header[k] = v
		}
		s, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	with := func(change jwt.MapClaims, drop ...string) string {
		return sign(jwt.SigningMethodEdDSA, a.key, nil, change, drop...)
	}
	headed := func(name string, value any) string {
		return sign(jwt.SigningMethodEdDSA, a.key, map[string]any{name: value}, nil)
	}
	if _, err := a.Verify(t.Context(), with(nil)); err != nil {
		t.Fatalf("the pattern of all hostile tokens is not good itself: %v", err)
	}
	_, otherKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(a.public)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	base := with(nil)
	parts := strings.Split(base, ".")
	raw := base64.RawURLEncoding.EncodeToString
	jwk := map[string]string{"kty": "OKP", "crv": "Ed25519", "x": raw(otherKey.Public().(ed25519.PublicKey))}
	flipped := []byte(base)
	flipped[len(flipped)-10] ^= 1
	return map[string]string{
		"alg none":                  sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, nil),
		"alg None":                  raw([]byte(`{"alg":"None","typ":"JWT"}`)) + "." + parts[1] + ".",
		"alg missing":               raw([]byte(`{"typ":"JWT"}`)) + "." + parts[1] + "." + parts[2],
		"HS256 with the public key": sign(jwt.SigningMethodHS256, []byte(a.public), nil, nil),
		"HS256 with the public PEM": sign(jwt.SigningMethodHS256, publicPEM, nil, nil),
		"RS256":                     sign(jwt.SigningMethodRS256, rsaKey, nil, nil),
		"another key":               sign(jwt.SigningMethodEdDSA, otherKey, nil, nil),
		"another key, brought":      sign(jwt.SigningMethodEdDSA, otherKey, map[string]any{"jwk": jwk}, nil),
		"header kid":                headed("kid", "../../dev/null"),
		"header jku":                headed("jku", "https://evil.org/keys"),
		"header jwk":                headed("jwk", jwk),
		"header x5u":                headed("x5u", "https://evil.org/cert"),
		"header x5c":                headed("x5c", []string{"MII"}),
		"header crit":               headed("crit", []string{"exp"}),
		"header zip":                headed("zip", "DEF"),
		"another typ":               headed("typ", "at+jwt"),
		"wrong aud":                 with(jwt.MapClaims{"aud": "other"}),
		"no aud":                    with(nil, "aud"),
		"wrong iss":                 with(jwt.MapClaims{"iss": "https://evil.org"}),
		"no iss":                    with(nil, "iss"),
		"expired":                   with(jwt.MapClaims{"exp": epoch.Add(-time.Minute).Unix()}),
		"no exp":                    with(nil, "exp"),
		"exp a string":              with(jwt.MapClaims{"exp": "tomorrow"}),
		"nbf in the future":         with(jwt.MapClaims{"nbf": epoch.Add(2 * Leeway).Unix()}),
		"no nbf":                    with(nil, "nbf"),
		"no tenant":                 with(nil, "tenant"),
		"empty tenant":              with(jwt.MapClaims{"tenant": ""}),
		"tenant ../":                with(jwt.MapClaims{"tenant": "../acme"}),
		"tenant with a slash":       with(jwt.MapClaims{"tenant": "acme/kb"}),
		"tenant in capitals":        with(jwt.MapClaims{"tenant": "ACME"}),
		"tenant with a line end":    with(jwt.MapClaims{"tenant": "acme\n"}),
		"tenant of 64":              with(jwt.MapClaims{"tenant": strings.Repeat("a", 64)}),
		"tenant a list":             with(jwt.MapClaims{"tenant": []string{"acme", "umbrella"}}),
		"no subject":                with(nil, "sub"),
		"subject with NUL":          with(jwt.MapClaims{"sub": "a\x00b"}),
		"roles a number":            with(jwt.MapClaims{"roles": 7}),
		"truncated":                 base[:len(base)-8],
		"signature changed":         string(flipped),
		"signature empty":           parts[0] + "." + parts[1] + ".",
		"claims of another":         parts[0] + "." + strings.Split(with(jwt.MapClaims{"tenant": "umbrella"}), ".")[1] + "." + parts[2],
		"two parts":                 parts[0] + "." + parts[1],
		"four parts":                base + ".x",
		"padded":                    base + "==",
		"huge":                      with(jwt.MapClaims{"workspace": strings.Repeat("w", maxTokenBytes)}),
		"huge garbage":              strings.Repeat("A", 1<<20),
		"non-ASCII":                 parts[0] + "." + parts[1] + ".ä",
		"empty":                     "",
		"dots":                      "..",
		"not JSON":                  raw([]byte("x")) + "." + raw([]byte("y")) + "." + parts[2],
	}
}

func TestHostileTokens_B1(t *testing.T) {
	a, _ := authority(t)
	tokens := hostile(t, a)
	if len(tokens) < 25 {
		t.Fatalf("only %d", len(tokens))
	}
	for name, token := range tokens {
		for range 2 { // the second time from a cache, if it were remembered
			if p, err := a.Verify(t.Context(), token); !errors.Is(err, ErrToken) || p.Tenant != "" {
				t.Errorf("%s: %+v %v", name, p, err)
			}
		}
	}
	if len(a.seen.entries) != 1 {
		t.Errorf("%d tokens remembered, want the good one", len(a.seen.entries))
	}
}

func TestGrantsThatAreNone(t *testing.T) {
	a, _ := authority(t)
	for name, change := range map[string]func(*Grant){
		"tenant": func(g *Grant) { g.Tenant = "../x" }, "no tenant": func(g *Grant) { g.Tenant = "" },
		"no subject": func(g *Grant) { g.Subject = "" }, "role": func(g *Grant) { g.Roles = []string{"root"} },
		"life": func(g *Grant) { g.Life = -1 }, "long life": func(g *Grant) { g.Life = MaxLife + 1 },
		"too big": func(g *Grant) { g.Workspace = strings.Repeat("w", maxTokenBytes) },
	} {
		g := grant
		change(&g)
		if token, err := a.Issue(g); !errors.Is(err, ErrGrant) || token != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTokensDoNotPrint(t *testing.T) {
	a, _ := authority(t)
	token, err := a.Issue(grant)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", token)
	raw, err := json.Marshal(map[string]any{"t": token})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %s %q %x %#v %d", token, token, token, token, token, token) + log.String() + string(raw)
	if strings.Contains(all, token.Reveal()[:20]) || strings.Contains(all, fmt.Sprintf("%x", token.Reveal()[:20])) {
		t.Error(all)
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key.pem")
	var wg sync.WaitGroup
	keys := make([]ed25519.PrivateKey, 8)
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = loadKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if !k.Equal(keys[0]) {
			t.Fatal("two openers at once have two keys")
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o666: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); (err == nil) != ok || err != nil && !errors.Is(err, ErrKeyFile) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"empty": nil, "no PEM": []byte("x"), "other PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"bad DER": pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: []byte("x")}),
		"RSA":     pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}),
	} {
		p := filepath.Join(dir, "bad.pem")
		if err := os.WriteFile(p, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(p); !errors.Is(err, ErrKeyFile) {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(p); err != nil || string(got) != string(content) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if _, err := Open(filepath.Join(dir, "no", "such", "folder")); !errors.Is(err, ErrKeyFile) {
		t.Errorf("no folder: %v", err)
	}
}

func TestTheCacheIsBoundedAndForgets(t *testing.T) {
	c := newCache(3, time.Minute)
	for i := range 10 {
		c.put(fmt.Sprint(i), entry{principal: gateway.Principal{Subject: fmt.Sprint(i)}}, epoch.Add(time.Hour), epoch)
	}
	if len(c.entries) != 3 || len(c.ring) != 3 {
		t.Errorf("%d entries, ring of %d", len(c.entries), len(c.ring))
	}
	for i, want := range map[int]bool{6: false, 7: true, 8: true, 9: true} {
		if p, ok := c.get(fmt.Sprint(i), epoch); ok != want || ok && p.Subject != fmt.Sprint(i) {
			t.Errorf("%d: %v %v", i, p, ok)
		}
	}
	if _, ok := c.get("9", epoch.Add(time.Minute)); ok {
		t.Error("remembered beyond its time")
	}
	c.put("short", entry{}, epoch.Add(time.Second), epoch)
	if _, ok := c.get("short", epoch.Add(time.Second)); ok {
		t.Error("remembered beyond exp")
	}
	c.put("short", entry{}, epoch.Add(time.Hour), epoch)
	if len(c.entries) != 3 {
		t.Errorf("%d entries after a renewal", len(c.entries))
	}
}

func FuzzAuthorizationHeader(f *testing.F) {
	a, _ := authority(f)
	good, err := a.Issue(grant)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("Bearer " + good.Reveal())
	for _, token := range hostile(f, a) {
		f.Add("Bearer " + token)
	}
	f.Add("bearer  x")
	f.Add("Basic YTpi")
	f.Fuzz(func(t *testing.T, header string) {
		token, ok := gateway.BearerToken(header)
		if !ok {
			return
		}
		if token == "" || len(token) > len(header) || strings.ContainsAny(token, " \r\n\x00") {
			t.Fatalf("%q gives the token %q", header, token)
		}
		p, err := a.Verify(context.Background(), token)
		if err == nil && !p.Valid() {
			t.Fatalf("%q gives %+v", header, p)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	a, _ := authority(b)
	token, err := a.Issue(grant)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("cached", func(b *testing.B) {
		for b.Loop() {
			if _, err := a.Verify(b.Context(), token.Reveal()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("checked", func(b *testing.B) {
		for b.Loop() {
			a.seen = newCache(1, time.Minute)
			if _, err := a.Verify(b.Context(), token.Reveal()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
