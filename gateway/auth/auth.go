package auth

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"granary.dev/granary/gateway"
)

// What every token of this package says and demands.
const (
	Issuer   = "granary-dev"
	Audience = "granary"
	// OperatorAudience is what operators' tokens say instead: no token is good for
	// both APIs.
	OperatorAudience = "granary-operator"

	// Leeway is how far two clocks may differ.
	Leeway = 30 * time.Second

	// DefaultLife is how long a token is good when [Grant] does not say; MaxLife is the most.
	DefaultLife = 24 * time.Hour
	MaxLife     = 366 * 24 * time.Hour

	maxTokenBytes = 8 << 10
)

// ErrToken is every token that is not good. The reasons are for a log, not for
// whoever sent it.
var ErrToken = errors.New("auth: token is not good")

// ErrGrant is a grant no token can be made of.
var ErrGrant = errors.New("auth: grant is not valid")

// Token is a signed token. It prints as [redacted]; [Token.Reveal] gives the text.
type Token string

const redacted = "[redacted]"

// Reveal gives the token's text, to hand it to its owner.
func (t Token) Reveal() string { return string(t) }

// Format implements fmt.Formatter: unlike a Stringer's, its word holds for every verb.
func (Token) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// String implements fmt.Stringer.
func (Token) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, which JSON uses.
func (Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Grant is what a token says.
type Grant struct {
	Tenant    string
	Subject   string
	Roles     []string
	Workspace string
	Life      time.Duration // 0 = DefaultLife
}

// claims are the fields of a token.
type claims struct {
	jwt.RegisteredClaims
	Tenant    string   `json:"tenant,omitempty"`
	Roles     []string `json:"roles"`
	Workspace string   `json:"workspace,omitempty"`
}

// Authority issues and verifies tokens with one key. It is safe for concurrent use.
type Authority struct {
	key    ed25519.PrivateKey
	public ed25519.PublicKey
	others []jwt.VerificationKey // of a rotation: they verify, but sign nothing
	now    func() time.Time

	parser    *jwt.Parser // of tenants' tokens
	seen      *cache      // of tenants' tokens that were good
	operators *jwt.Parser // of operators' tokens, which are too few to remember
}

// Open makes an authority of the key file at path, which is created when absent and
// signs; others verify too, which lets keys be rotated without a gap: give all
// servers the new key as another, then as the first, then take the old one away.
// Errors are [ErrKeyFile].
func Open(path string, others ...string) (*Authority, error) {
	key, err := loadKey(path)
	if err != nil {
		return nil, err
	}
	a, err := New(key)
	if err != nil {
		return nil, err
	}
	for _, other := range others {
		k, err := readKey(other)
		if err != nil {
			return nil, err
		}
		if public, ok := k.Public().(ed25519.PublicKey); ok && !public.Equal(a.public) {
			a.others = append(a.others, public)
		}
	}
	return a, nil
}

// New makes an authority of a key. Errors are [ErrKey].
func New(key ed25519.PrivateKey) (*Authority, error) { return newAuthority(key, time.Now) }

// FromPEM makes an authority of a key as [NewKeyPEM] and key files hold it. Errors are [ErrKey].
func FromPEM(text []byte) (*Authority, error) {
	key, err := parseKey(text)
	if err != nil {
		return nil, err
	}
	return New(key)
}

func newAuthority(key ed25519.PrivateKey, now func() time.Time) (*Authority, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("%w: %d bytes are no Ed25519 key", ErrKey, len(key))
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: no Ed25519 public key", ErrKey)
	}
	return &Authority{
		key: key, public: public, now: now, seen: newCache(cacheEntries, cacheTime),
		parser: newParser(Audience, now), operators: newParser(OperatorAudience, now),
	}, nil
}

func newParser(audience string, now func() time.Time) *jwt.Parser {
	return jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(Issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithNotBeforeRequired(),
		jwt.WithLeeway(Leeway), jwt.WithTimeFunc(now), jwt.WithStrictDecoding(),
	)
}

// Issue makes a token. Errors are [ErrGrant].
func (a *Authority) Issue(g Grant) (Token, error) {
	if !(gateway.Principal{Tenant: g.Tenant, Subject: g.Subject}).Valid() {
		return "", fmt.Errorf("%w: tenant %q or subject %q", ErrGrant, g.Tenant, g.Subject)
	}
	for _, r := range g.Roles {
		if r != gateway.RoleViewer && r != gateway.RoleEditor && r != gateway.RoleAdmin {
			return "", fmt.Errorf("%w: unknown role %q", ErrGrant, r)
		}
	}
	return a.sign(claims{Tenant: g.Tenant, Roles: g.Roles, Workspace: g.Workspace}, Audience, g.Subject, g.Life)
}

// sign fills what all claims have in common and signs them.
func (a *Authority) sign(c claims, audience, subject string, life time.Duration) (Token, error) {
	if life == 0 {
		life = DefaultLife
	}
	if life < 0 || life > MaxLife {
		return "", fmt.Errorf("%w: life %v is not in (0, %v]", ErrGrant, life, MaxLife)
	}
	now := a.now()
	c.RegisteredClaims = jwt.RegisteredClaims{
		Issuer: Issuer, Audience: jwt.ClaimStrings{audience}, Subject: subject,
		NotBefore: jwt.NewNumericDate(now), IssuedAt: jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(life)),
	}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c).SignedString(a.key)
	if err != nil {
		return "", fmt.Errorf("auth: sign: %w", err)
	}
	if len(signed) > maxTokenBytes {
		return "", fmt.Errorf("%w: the token would have %d bytes", ErrGrant, len(signed))
	}
	return Token(signed), nil
}

// Verify implements [gateway.Verifier]. Every error is [ErrToken].
func (a *Authority) Verify(_ context.Context, token string) (gateway.Principal, error) {
	if len(token) > maxTokenBytes {
		return gateway.Principal{}, errShape("too long")
	}
	now := a.now()
	if p, ok := a.seen.get(token, now); ok {
		return p, nil
	}
	p, err := a.check(token)
	if err == nil {
		a.seen.put(token, entry{principal: p}, p.Expires.Add(-Leeway), now)
	}
	return p, err
}

// check proves a token that is not remembered.
func (a *Authority) check(token string) (gateway.Principal, error) {
	if _, err := parse(token); err != nil {
		return gateway.Principal{}, err
	}
	var c claims
	if _, err := a.parser.ParseWithClaims(token, &c, a.keyFor); err != nil {
		return gateway.Principal{}, refused(err)
	}
	p := gateway.Principal{
		Tenant: c.Tenant, Subject: c.Subject, Roles: c.Roles, Workspace: c.Workspace,
		Expires: c.ExpiresAt.Add(Leeway),
	}
	// What speaks to another API too is no tenant's, whoever signed it.
	if len(c.Audience) != 1 || !p.Valid() {
		return gateway.Principal{}, errShape("audience, tenant or subject")
	}
	return p, nil
}

// keyFor gives this server's keys. A header that names or brings a key (kid,
// jku, jwk, x5u, x5c), or demands what is not understood (crit), is refused.
func (a *Authority) keyFor(t *jwt.Token) (any, error) {
	for name, value := range t.Header {
		switch {
		case name == "alg":
		case name == "typ" && value == "JWT":
		default:
			return nil, fmt.Errorf("%w: header %q", ErrToken, name)
		}
	}
	if len(a.others) == 0 {
		return a.public, nil
	}
	return jwt.VerificationKeySet{Keys: append([]jwt.VerificationKey{a.public}, a.others...)}, nil
}
