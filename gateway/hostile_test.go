package gateway_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/apikey"
	"granary.dev/granary/gateway/auth"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

var b64 = base64.RawURLEncoding.EncodeToString

// outsiders is a gateway that trusts two issuers of tenants and one of operators,
// its own key, and API keys, and the means to make what it must not trust.
type outsiders struct {
	*world
	rsa  *rsa.PrivateKey   // of idp, kid r
	ec   *ecdsa.PrivateKey // of idp, kid e
	ed   ed25519.PrivateKey
	own  ed25519.PrivateKey // the server's own
	keys map[string]*nodev1.KeyRecord
}

func newOutsiders(t *testing.T) *outsiders {
	t.Helper()
	o := &outsiders{keys: map[string]*nodev1.KeyRecord{}}
	var errs [3]error
	o.rsa, errs[0] = rsa.GenerateKey(rand.Reader, 2048)
	o.ec, errs[1] = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, o.ed, errs[2] = ed25519.GenerateKey(rand.Reader)
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	point, err := o.ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	r := map[string]any{"kid": "r", "kty": "RSA", "use": "sig", "n": b64(o.rsa.N.Bytes()), "e": "AQAB"}
	e := map[string]any{"kid": "e", "kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
	d := map[string]any{"kid": "d", "kty": "OKP", "crv": "Ed25519", "x": b64(o.ed.Public().(ed25519.PublicKey))}
	file := func(keys ...map[string]any) string {
		text, err := json.Marshal(map[string]any{"keys": keys})
		path := filepath.Join(t.TempDir(), "keys.json")
		if err == nil {
			err = os.WriteFile(path, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	issuer := func(name, audience, path string) auth.IssuerConfig {
		return auth.IssuerConfig{Issuer: name, Audiences: []string{audience}, Algorithms: []string{"RS256", "ES256", "EdDSA"}, File: path}
	}
	ops := issuer("https://ops.example.com", "ops", file(d))
	ops.Operator = true
	local, own := keyed(t)
	o.own = own
	tokens, err := auth.NewTokens(auth.Config{Local: local, Issuers: []auth.IssuerConfig{
		issuer("https://idp.example.com", "api", file(r, e)), issuer("https://other.example.com", "api", file(d)), ops}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tokens.Close)
	o.world = start(t, func(c *gateway.Config) { c.Verifier, c.Operators, c.KeyPepper = tokens, tokens, gateway.Secret(pepper) })
	o.grains.answer(knowledgeBaseReply("handbook", 1))
	o.grains.access = func(_ string, q *nodev1.GetAccess) (proto.Message, error) {
		a := &nodev1.Access{}
		if k := o.keys[q.GetKeyId()]; k != nil {
			a.Key, a.Grants = k, []*nodev1.Grant{{Role: "viewer"}}
		}
		return &nodev1.TenantReply{Result: &nodev1.TenantReply_Access{Access: a}}, nil
	}
	return o
}

// key makes an API key that the tenant knows.
func (o *outsiders) key(tenant string, ends time.Time) apikey.Key {
	o.Helper()
	k, err := apikey.New(tenant, []byte(pepper))
	if err != nil {
		o.Fatal(err)
	}
	record := &nodev1.KeyRecord{Id: k.ID, Mac: k.MAC([]byte(pepper)), Subject: "key:" + k.ID}
	if !ends.IsZero() {
		record.ExpireTime = timestamppb.New(ends)
	}
	o.keys[k.ID] = record
	return k
}

func claims(change jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{"iss": "https://idp.example.com", "aud": "api", "sub": "ada", "tenant": "acme", "roles": []string{"viewer"},
		"exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range change {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

// sign makes a token with a header of the test's choice.
func (o *outsiders) sign(method jwt.SigningMethod, key any, header, change map[string]any) string {
	o.Helper()
	token := jwt.NewWithClaims(method, claims(change))
	maps.Copy(token.Header, header)
	for k, v := range header {
		if v == nil {
			delete(token.Header, k)
		}
	}
	text, err := token.SignedString(key)
	if err != nil {
		o.Fatal(err)
	}
	return text
}

// raw signs any texts as header and claims.
func (o *outsiders) raw(header, body string) string {
	o.Helper()
	text := b64([]byte(header)) + "." + b64([]byte(body))
	sig, err := jwt.SigningMethodRS256.Sign(text, o.rsa)
	if err != nil {
		o.Fatal(err)
	}
	return text + "." + b64(sig)
}

// with is a token that is good but for its claims, headed one that is but for its header.
func (o *outsiders) with(change map[string]any) string {
	return o.sign(jwt.SigningMethodRS256, o.rsa, map[string]any{"kid": "r"}, change)
}

func (o *outsiders) headed(header map[string]any) string {
	h := map[string]any{"kid": "r"}
	maps.Copy(h, header)
	return o.sign(jwt.SigningMethodRS256, o.rsa, h, nil)
}

// signatures are tokens whose signature is not one.
func (o *outsiders) signatures() map[string]string {
	good := o.with(nil)
	parts := strings.Split(good, ".")
	spki, err := x509.MarshalPKIXPublicKey(&o.rsa.PublicKey)
	if err != nil {
		o.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		o.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		o.Fatal(err)
	}
	ec := strings.Split(o.sign(jwt.SigningMethodES256, o.ec, map[string]any{"kid": "e"}, nil), ".")
	sig, err := base64.RawURLEncoding.DecodeString(ec[2])
	if err != nil {
		o.Fatal(err)
	}
	der, err := o.ec.Sign(rand.Reader, make([]byte, 32), nil)
	if err != nil {
		o.Fatal(err)
	}
	order := elliptic.P256().Params().N.Bytes()
	high := new(big.Int).Add(new(big.Int).SetBytes(sig[:32]), elliptic.P256().Params().N) // r + n does not fit 32 bytes
	none := func(alg string) string {
		return b64([]byte(`{"alg":"`+alg+`","typ":"JWT","kid":"r"}`)) + "." + parts[1] + "."
	}
	return map[string]string{
		"alg none": none("none"), "alg None": none("None"), "alg nOnE": none("nOnE"), "alg empty": none(""),
		"alg none, signed":            b64([]byte(`{"alg":"none","kid":"r"}`)) + "." + parts[1] + "." + parts[2],
		"HS256 with the public PEM":   o.sign(jwt.SigningMethodHS256, public, map[string]any{"kid": "r"}, nil),
		"HS256 with the modulus":      o.sign(jwt.SigningMethodHS256, o.rsa.N.Bytes(), map[string]any{"kid": "r"}, nil),
		"HS256 with an empty secret":  o.sign(jwt.SigningMethodHS256, []byte{}, map[string]any{"kid": "r"}, nil),
		"RS384, not the issuer's":     o.sign(jwt.SigningMethodRS384, o.rsa, map[string]any{"kid": "r"}, nil),
		"PS256, not the issuer's":     o.sign(jwt.SigningMethodPS256, o.rsa, map[string]any{"kid": "r"}, nil),
		"RS256 that says ES256":       b64([]byte(`{"alg":"ES256","kid":"r"}`)) + "." + parts[1] + "." + parts[2],
		"RS256 by the kid of ES256":   o.sign(jwt.SigningMethodRS256, o.rsa, map[string]any{"kid": "e"}, nil),
		"RS256 by another's key":      o.sign(jwt.SigningMethodRS256, weak, map[string]any{"kid": "r"}, nil),
		"EdDSA by another's key":      o.sign(jwt.SigningMethodEdDSA, stranger, nil, map[string]any{"iss": "https://other.example.com"}),
		"another issuer's key":        o.sign(jwt.SigningMethodEdDSA, o.ed, map[string]any{"kid": "d"}, nil),
		"the server's own key":        o.sign(jwt.SigningMethodEdDSA, o.own, nil, nil),
		"the server's own name":       o.sign(jwt.SigningMethodEdDSA, o.ed, nil, map[string]any{"iss": auth.Issuer, "aud": auth.Audience, "nbf": 1}),
		"signature empty":             parts[0] + "." + parts[1] + ".",
		"signature cut":               good[:len(good)-4],
		"signature extended":          good + "AAAA",
		"signature of other claims":   parts[0] + "." + strings.Split(o.with(map[string]any{"tenant": "umbrella"}), ".")[1] + "." + parts[2],
		"signature padded":            good + "=",
		"signature not canonical":     good[:len(good)-1] + nextBase64(good[len(good)-1]),
		"ECDSA of zeros":              ec[0] + "." + ec[1] + "." + b64(make([]byte, 64)),
		"ECDSA r zero":                ec[0] + "." + ec[1] + "." + b64(append(make([]byte, 32), sig[32:]...)),
		"ECDSA s zero":                ec[0] + "." + ec[1] + "." + b64(append(sig[:32:32], make([]byte, 32)...)),
		"ECDSA s the order":           ec[0] + "." + ec[1] + "." + b64(append(sig[:32:32], order...)),
		"ECDSA r beyond the order":    ec[0] + "." + ec[1] + "." + b64(append(high.FillBytes(make([]byte, 33)), sig[32:]...)),
		"ECDSA in DER":                ec[0] + "." + ec[1] + "." + b64(der),
		"Ed25519 of the neutral one":  o.neutral(),
		"Ed25519 cut":                 strings.TrimSuffix(o.neutral(), "AAAA"),
		"signature with a line break": good[:len(good)-8] + "\n" + good[len(good)-8:],
	}
}

// neutral has the signature that is good for keys of small order.
func (o *outsiders) neutral() string {
	parts := strings.Split(o.sign(jwt.SigningMethodEdDSA, o.ed, nil, map[string]any{"iss": "https://other.example.com"}), ".")
	return parts[0] + "." + parts[1] + "." + b64(append([]byte{1}, make([]byte, 63)...))
}

// nextBase64 differs in the bits that an RSA signature's last character does not use.
func nextBase64(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)^1])
}

// headers are tokens signed by the right key, with a header that must not be followed.
func (o *outsiders) headers() map[string]string {
	jwk := map[string]any{"kty": "RSA", "n": b64(o.rsa.N.Bytes()), "e": "AQAB"}
	out := map[string]string{}
	for name, h := range map[string]map[string]any{
		"kid of a path": {"kid": "../../../../dev/null"}, "kid of SQL": {"kid": "r' OR '1'='1"}, "kid huge": {"kid": strings.Repeat("r", 4096)},
		"kid a number": {"kid": 7}, "kid a list": {"kid": []string{"r"}}, "kid empty": {"kid": ""}, "kid unknown": {"kid": "forged"}, "kid NUL": {"kid": "r\x00"},
		"jku": {"jku": "https://evil.example.org/keys"}, "x5u": {"x5u": "https://evil.example.org/cert"}, "jwk": {"jwk": jwk}, "x5c": {"x5c": []string{"MIIB"}},
		"crit": {"crit": []string{"exp"}}, "crit b64": {"crit": []string{"b64"}, "b64": false}, "zip": {"zip": "DEF"}, "enc": {"enc": "A256GCM"},
		"cty JWT": {"cty": "JWT"}, "typ of another token": {"typ": "logout+jwt"}, "typ a number": {"typ": 1}, "alg in another case": {"alg": "rs256"},
		"unknown name": {"x": "y"}, "alg a list": {"alg": []string{"RS256"}},
	} {
		out["header "+name] = o.headed(h)
	}
	return out
}

// contents are tokens signed by the right key that say what no token may.
func (o *outsiders) contents() map[string]string {
	now := time.Now()
	good, err := json.Marshal(claims(nil))
	if err != nil {
		o.Fatal(err)
	}
	body, head := string(good), `{"alg":"RS256","kid":"r"}`
	out := map[string]string{
		"duplicate tenant":       o.raw(head, body[:len(body)-1]+`,"tenant":"umbrella"}`),
		"duplicate, escaped":     o.raw(head, body[:len(body)-1]+`,"\u0074enant":"umbrella"}`),
		"duplicate alg":          o.raw(`{"alg":"RS256","alg":"none","kid":"r"}`, body),
		"duplicate kid":          o.raw(`{"alg":"RS256","kid":"r","kid":"e"}`, body),
		"duplicate inside":       o.raw(head, body[:len(body)-1]+`,"x":{"a":1,"a":2}}`),
		"trailing data":          o.raw(head, body+"{}"),
		"trailing garbage":       o.raw(head, body+"x"),
		"a list":                 o.raw(head, "["+body+"]"),
		"not JSON":               o.raw(head, "tenant=acme"),
		"not UTF-8":              o.raw(head, strings.Replace(body, "ada", "ad\xff", 1)),
		"deep JSON":              o.raw(head, body[:len(body)-1]+`,"x":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+"}"),
		"byte order mark":        o.raw(head, "\ufeff"+body),
		"huge header":            o.raw(`{"alg":"RS256","kid":"r","x5t":"`+strings.Repeat("A", 9000)+`"}`, body),
		"names in capitals":      o.raw(head, strings.NewReplacer(`"tenant"`, `"TENANT"`, `"sub"`, `"SUB"`).Replace(body)),
		"a JWE of five parts":    b64([]byte(`{"alg":"RSA-OAEP","enc":"A256GCM"}`)) + ".AAAA.AAAA.AAAA.AAAA",
		"a token within a token": o.raw(`{"alg":"RS256","kid":"r","cty":"JWT"}`, `"`+o.with(nil)+`"`),
	}
	for name, c := range map[string]map[string]any{
		"expired": {"exp": now.Add(-2 * time.Minute).Unix()}, "no exp": {"exp": nil}, "exp a text": {"exp": "9999999999"}, "exp huge": {"exp": 1e300},
		"exp negative": {"exp": -1}, "exp a list": {"exp": []int64{now.Add(time.Hour).Unix()}}, "nbf in the future": {"nbf": now.Add(5 * time.Minute).Unix()},
		"nbf a text": {"nbf": "0"}, "iat in the future": {"iat": now.Add(5 * time.Minute).Unix()},
		"no aud": {"aud": nil}, "wrong aud": {"aud": "other"}, "aud empty": {"aud": ""}, "aud an empty list": {"aud": []string{}}, "aud an object": {"aud": map[string]any{"api": true}},
		"aud in part": {"aud": "api2"}, "aud of this server": {"aud": auth.Audience}, "aud of operators": {"aud": auth.OperatorAudience},
		"aud of both": {"aud": []string{"api", "ops"}}, "aud of an operator issuer": {"aud": "ops"},
		"no iss": {"iss": nil}, "wrong iss": {"iss": "https://evil.example.org"}, "iss with a slash": {"iss": "https://idp.example.com/"},
		"iss in capitals": {"iss": "HTTPS://IDP.EXAMPLE.COM"}, "iss a list": {"iss": []string{"https://idp.example.com"}}, "iss of operators": {"iss": "https://ops.example.com", "aud": "ops"},
		"no sub": {"sub": nil}, "sub empty": {"sub": ""}, "sub a number": {"sub": 1}, "sub NUL": {"sub": "ada\x00"}, "sub with a line end": {"sub": "ada\nadmin"},
		"sub C1": {"sub": "ada\u0085"}, "sub turned round": {"sub": "ada\u202egnp"}, "sub of zero width": {"sub": "a\u200bda"}, "sub long": {"sub": strings.Repeat("a", 257)},
		"sub system": {"sub": "system"}, "sub of a key": {"sub": "key:aaaaaaaaaaaaaaaa"},
		"no tenant": {"tenant": nil}, "tenant empty": {"tenant": ""}, "tenant a/../b": {"tenant": "a/../b"}, "tenant ../": {"tenant": "../acme"},
		"tenant encoded": {"tenant": "acme%2fumbrella"}, "tenant NUL": {"tenant": "acme\x00umbrella"}, "tenant in capitals": {"tenant": "ACME"},
		"tenant of a confusable": {"tenant": "аcme"}, "tenant full width": {"tenant": "ａｃｍｅ"}, "tenant with a space": {"tenant": "acme "}, "tenant a list": {"tenant": []string{"acme"}},
		"tenant *": {"tenant": "*"}, "tenant SQL": {"tenant": "acme'--"}, "tenant of 64": {"tenant": strings.Repeat("a", 64)},
		"roles a text": {"roles": "admin"}, "roles a number": {"roles": 7}, "roles an object": {"roles": map[string]any{"admin": true}}, "roles in a list": {"roles": []any{[]string{"admin"}}},
		"workspace empty": {"workspace": ""}, "workspace a list": {"workspace": []string{"w"}},
	} {
		out[name] = o.with(c)
	}
	return out
}

// apiKeys are texts that look like a key and open nothing.
func (o *outsiders) apiKeys() map[string]string {
	good := o.key("acme", time.Time{})
	text := good.Reveal()
	expired := o.key("acme", time.Now().Add(-time.Minute))
	revoked := o.key("acme", time.Time{})
	delete(o.keys, revoked.ID)
	other := o.key("acme", time.Time{})
	o.keys[other.ID].Mac = good.MAC([]byte(pepper)) // a key's id with another's secret
	foreign, err := apikey.New("acme", []byte(strings.Repeat("q", 32)))
	if err != nil {
		o.Fatal(err)
	}
	o.keys[foreign.ID] = &nodev1.KeyRecord{Id: foreign.ID, Mac: foreign.MAC([]byte(pepper)), Subject: "key:" + foreign.ID}
	return map[string]string{
		"key with a bad checksum": text[:len(text)-1] + string(text[len(text)-1]^1), "key cut": text[:len(text)-5], "key extended": text + "a",
		"key of another tenant": strings.Replace(text, "acme", "umbrella", 1), "key in capitals": strings.ToUpper(text), "key expired": expired.Reveal(),
		"key revoked": revoked.Reveal(), "key with another's secret": other.Reveal(), "key of another server": foreign.Reveal(), "key prefix only": apikey.Prefix,
		"key of ../": "grnk_../acme_" + text[len("grnk_acme_"):],
	}
}

func TestHostileCredentialsAreAnsweredAlike_B1(t *testing.T) {
	o := newOutsiders(t)
	op := o.sign(jwt.SigningMethodEdDSA, o.ed, map[string]any{"kid": "d"},
		map[string]any{"iss": "https://ops.example.com", "aud": "ops", "tenant": nil, "roles": []string{"operator"}})
	good := map[string]string{"RS256": o.with(nil), "no typ": o.headed(map[string]any{"typ": nil}), "at+jwt": o.headed(map[string]any{"typ": "at+jwt"}),
		"ES256": o.sign(jwt.SigningMethodES256, o.ec, map[string]any{"kid": "e"}, nil), "two audiences": o.with(map[string]any{"aud": []string{"api", "userinfo"}}),
		"API key": o.key("acme", time.Now().Add(time.Hour)).Reveal(), "in the leeway": o.with(map[string]any{"exp": time.Now().Add(-5 * time.Second).Unix()})}
	for name, token := range good {
		if res, out := o.post(token, getKB, `{"name":"handbook"}`); res.StatusCode != 200 {
			t.Fatalf("the pattern %s is not good itself: %d %s", name, res.StatusCode, out)
		}
	}
	reached, want, tried := o.reached(), "", 0
	refused := func(name, procedure string, headers ...string) {
		tried++
		res, out := o.do(http.MethodPost, procedure, `{"name":"handbook"}`, append([]string{"Content-Type", "application/json"}, headers...)...)
		if want == "" {
			want = out
		}
		if res.StatusCode != 401 || out != want || res.Header.Get("WWW-Authenticate") != `Bearer realm="granary"` || res.Header.Get("Retry-After") != "" {
			t.Errorf("%s: %d %v %s", name, res.StatusCode, res.Header, out)
		}
	}
	for _, table := range []map[string]string{o.signatures(), o.headers(), o.contents(), o.apiKeys()} {
		for name, token := range table {
			if strings.ContainsAny(token, "\r\n") {
				continue // no client sends it; TestHostileTokens has it
			}
			refused(name, getKB, "Authorization", "Bearer "+token)
			refused(name+", to operators", clusterService+"GetView", "Authorization", "Bearer "+token)
		}
	}
	token := good["RS256"]
	for name, headers := range map[string][]string{
		"nothing": nil, "no scheme": {"Authorization", token}, "Basic": {"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("ada:"+token))},
		"two headers": {"Authorization", "Bearer " + token, "Authorization", "Bearer " + token}, "two tokens": {"Authorization", "Bearer " + token + " " + token},
		"a list": {"Authorization", "Bearer " + token + ",Bearer " + token}, "white space inside": {"Authorization", "Bearer " + token[:9] + " " + token[9:]},
		"a tab": {"Authorization", "Bearer\t" + token}, "quoted": {"Authorization", `Bearer "` + token + `"`}, "another header": {"X-Authorization", "Bearer " + token},
		"a cookie": {"Cookie", "token=" + token}, "for a proxy": {"Proxy-Authorization", "Bearer " + token},
	} {
		refused(name, getKB, headers...)
	}
	refused("in the query", getKB+"?access_token="+token)
	refused("an operator's to tenants", getKB, "Authorization", "Bearer "+op)
	refused("a tenant's to operators", clusterService+"GetView", "Authorization", "Bearer "+token)
	refused("an API key to operators", clusterService+"GetView", "Authorization", "Bearer "+good["API key"])
	if n := o.reached(); n != reached {
		t.Errorf("%d calls reached a grain", n-reached)
	}
	if tried < 200 || !strings.Contains(want, kb.ReasonUnauthenticated) {
		t.Errorf("%d tried, all answered %s", tried, want)
	}
	t.Logf("%d hostile credentials, one answer: %s", tried, want)
	o.scopes(good["API key"])
}

// reached counts calls of knowledge bases.
func (o *outsiders) reached() (n int) {
	for _, a := range o.grains.all() {
		if a.kind == "kb" {
			n++
		}
	}
	return n
}

// scopes: a good credential that may not do a thing is told so, and no more.
func (o *outsiders) scopes(key string) {
	o.Helper()
	for name, token := range map[string]string{"viewer's token": o.with(nil), "viewer's key": key, "no role": o.with(map[string]any{"roles": nil}),
		"unknown roles": o.with(map[string]any{"roles": []string{"root", "operator", "Admin", " admin", "admin\u200b"}})} {
		res, out := o.post(token, "/granary.v1.KnowledgeBaseService/DeleteKnowledgeBase", `{"name":"handbook"}`)
		if res.StatusCode != 403 || !strings.Contains(out, kb.ReasonPermission) {
			o.Errorf("%s: %d %s", name, res.StatusCode, out)
		}
	}
}
