package auth

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"granary.dev/granary/gateway"
)

// Config is whose tokens are good.
type Config struct {
	// Local is this server's own key; nil: it has none.
	Local *Authority
	// Issuers are the others. Their keys are read when the first token comes.
	Issuers []IssuerConfig
	Logger  *slog.Logger // nil discards
}

// Tokens verifies tokens of this server's own key and of issuers. It is safe for
// concurrent use; [Tokens.Close] ends what it reads beside calls.
type Tokens struct {
	local   *Authority
	issuers map[string]*issuer
	seen    *cache
	now     func() time.Time
	cancel  context.CancelFunc
}

// NewTokens checks the configuration; it asks nobody. Errors are [ErrIssuer].
func NewTokens(cfg Config) (*Tokens, error) { return newTokens(cfg, time.Now) }

func newTokens(cfg Config, now func() time.Time) (*Tokens, error) {
	list, err := completeAll(cfg.Issuers)
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	base, cancel := context.WithCancel(context.Background())
	t := &Tokens{local: cfg.Local, issuers: make(map[string]*issuer), seen: newCache(cacheEntries, cacheTime), now: now, cancel: cancel}
	client, operators := newClient(), map[string]bool{OperatorAudience: true}
	for _, c := range list {
		for _, a := range c.Audiences {
			if c.Operator {
				operators[a] = true
			}
		}
		keys := &keySet{name: c.Issuer, read: c.source(client), now: now, log: cfg.Logger, base: base}
		t.issuers[c.Issuer] = &issuer{IssuerConfig: c, keys: keys, now: now, operators: operators}
	}
	return t, nil
}

// Close ends reads of keys that are under way. Tokens of issuers whose keys are not
// known are not good afterwards.
func (t *Tokens) Close() {
	t.cancel()
	for _, i := range t.issuers {
		i.keys.close()
	}
}

// issued reads a token and finds whose it is: nil is this server.
func (t *Tokens) issued(token string) (*issuer, parsed, error) {
	p, err := parse(token)
	if err != nil {
		return nil, p, err
	}
	name, _ := p.claims["iss"].(string)
	if name == Issuer && t.local != nil {
		return nil, p, nil
	}
	if i := t.issuers[name]; i != nil {
		return i, p, nil
	}
	return nil, p, errShape("iss")
}

// Verify implements [gateway.Verifier]. Every error is [ErrToken], a context's, or
// of code UNAVAILABLE, when the issuer's keys cannot be read.
func (t *Tokens) Verify(ctx context.Context, token string) (gateway.Principal, error) {
	if len(token) > maxTokenBytes {
		return gateway.Principal{}, errShape("too long")
	}
	now := t.now()
	if p, ok := t.seen.get(token, now); ok {
		return p, nil
	}
	i, parsed, err := t.issued(token)
	switch {
	case err != nil:
		return gateway.Principal{}, err
	case i == nil:
		p, err := t.local.check(token)
		if err == nil {
			t.seen.put(token, entry{principal: p}, p.Expires.Add(-Leeway), now)
		}
		return p, err
	case i.Operator:
		return gateway.Principal{}, errShape("iss of operators")
	}
	c, err := i.check(ctx, parsed)
	if err != nil {
		return gateway.Principal{}, err
	}
	p, err := i.principal(c)
	if err == nil {
		t.seen.put(token, entry{principal: p, keys: i.keys, generation: c.generation}, c.expires, now)
	}
	return p, err
}

// VerifyOperator implements [gateway.OperatorVerifier]; errors are as those of Verify.
func (t *Tokens) VerifyOperator(ctx context.Context, token string) (gateway.Operator, error) {
	i, parsed, err := t.issued(token)
	switch {
	case err != nil:
		return gateway.Operator{}, err
	case i == nil:
		return t.local.VerifyOperator(ctx, token)
	case !i.Operator:
		return gateway.Operator{}, errShape("iss of tenants")
	}
	c, err := i.check(ctx, parsed)
	if err != nil {
		return gateway.Operator{}, err
	}
	return i.operator(c)
}

// Warm reads the keys of all issuers, so that what is wrong shows at the start and
// the first tokens need not wait. Files must be good; whoever is asked over the net
// may come back later.
func (t *Tokens) Warm(ctx context.Context) error {
	var errs []error
	for _, i := range t.issuers {
		if i.File != "" {
			text, err := i.keys.read(ctx)
			if err == nil {
				_, _, err = parseSet(text)
			}
			errs = append(errs, err)
		}
		i.keys.mu.Lock()
		i.keys.start(t.now())
		i.keys.mu.Unlock()
	}
	return errors.Join(errs...)
}
