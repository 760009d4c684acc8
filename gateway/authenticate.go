package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway/apikey"
)

// maxTokenBytes bounds what is hashed and parsed for somebody not known yet.
const maxTokenBytes = 8 << 10

// BearerToken returns the token of an Authorization header: scheme Bearer in any
// case, one token of RFC 6750's characters, at most 8 KiB.
func BearerToken(header string) (string, bool) {
	if len(header) > maxTokenBytes+len("Bearer ") {
		return "", false
	}
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.Trim(token, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", false
	}
	for i := range len(token) {
		c := token[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~+/=", c) >= 0:
		default:
			return "", false
		}
	}
	return token, true
}

// unauthenticated says one thing for every way a credential can be wrong, so
// that trying tokens teaches nothing.
func unauthenticated() *kb.Error {
	return kb.Errorf(kb.CodeUnauthenticated, kb.ReasonUnauthenticated, "A valid bearer token is required.")
}

// caller is one kind of credential: how its token is verified, and whether its
// holder may use a method.
type caller struct {
	// verify notes who it is in the call and tells when the credential ends.
	verify func(ctx context.Context, spec connect.Spec, token string, c *call) (time.Time, error)
	may    func(c *call, need permission) bool
	// count counts the call, whatever becomes of it from here; nil: it is not limited.
	count func(ctx context.Context, info *connect.CallInfo) error
}

// authenticate admits principals of tenants, and nobody else.
func (g *Gateway) authenticate(next connect.ServerFunc) connect.ServerFunc {
	return g.admit(next, caller{
		verify: g.verifyPrincipal,
		may:    func(c *call, need permission) bool { return c.principal.may(need) },
		count:  g.countCall,
	})
}

// authenticateOperator admits operators, and nobody else.
func (g *Gateway) authenticateOperator(next connect.ServerFunc) connect.ServerFunc {
	return g.admit(next, caller{
		verify: g.verifyOperator,
		may: func(c *call, need permission) bool {
			return need.scope == scopeCluster && slices.Contains(c.operator.Roles, need.role)
		},
	})
}

// admit finds out who calls, checks the method's role and ends the call when the
// credential expires.
func (g *Gateway) admit(next connect.ServerFunc, who caller) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		info, ok := connect.CallInfoForServerContext(ctx)
		if !ok {
			return errors.New("gateway: call without call info")
		}
		expires, err := g.identify(ctx, spec, info.RequestHeader().Values("Authorization"), who)
		if err != nil {
			if kb.Is(err, kb.ReasonUnauthenticated) {
				info.ResponseHeader().Set("WWW-Authenticate", `Bearer realm="granary"`)
			}
			return err
		}
		if who.count != nil {
			if err := who.count(ctx, info); err != nil {
				return err
			}
		}
		if spec.Schema != nil { // a method this server has
			if err := who.authorize(callOf(ctx), spec.Procedure); err != nil {
				return err
			}
		}
		if !expires.IsZero() {
			expired := unauthenticated() // one value for the whole life of the context
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadlineCause(ctx, expires, expired)
			defer cancel()
		}
		return causeOf(ctx, next(ctx, spec, stream))
	}
}

func (g *Gateway) identify(ctx context.Context, spec connect.Spec, headers []string, who caller) (time.Time, error) {
	if len(headers) == 0 {
		g.observeRefusal(CauseMissing)
		return time.Time{}, unauthenticated()
	}
	token, ok := BearerToken(headers[0])
	if !ok || len(headers) != 1 {
		g.observeRefusal(CauseMalformed)
		return time.Time{}, unauthenticated()
	}
	expires, err := who.verify(ctx, spec, token, callOf(ctx))
	if err == nil && !expires.IsZero() && !g.now().Before(expires) {
		err = withCause(CauseTime, errors.New("the verified credential has ended"))
	}
	if err == nil || ctx.Err() != nil || isUnavailable(err) || isLockedOut(err) {
		return expires, err
	}
	g.observeRefusal(causeOfRefusal(err))
	g.log.DebugContext(ctx, "credential refused", slog.String("request_id", callOf(ctx).requestID), slog.Any("error", err))
	return time.Time{}, unauthenticated()
}

func (g *Gateway) verifyPrincipal(ctx context.Context, spec connect.Spec, token string, c *call) (time.Time, error) {
	p, err := g.principal(ctx, spec, token)
	if err == nil && !p.Valid() {
		err = errors.New("the verified principal has no fit tenant or subject")
	}
	if err == nil || isLockedOut(err) { // who it is, is proven; the record of the call says so
		c.principal = p
	}
	if err != nil {
		return time.Time{}, err
	}
	return p.Expires, nil
}

// principal is who holds a token or an API key, and what they may do.
func (g *Gateway) principal(ctx context.Context, spec connect.Spec, token string) (Principal, error) {
	if strings.HasPrefix(token, apikey.Prefix) {
		k, err := g.readKey(token)
		if err != nil {
			return Principal{}, err
		}
		return g.admitKey(ctx, k)
	}
	p, err := g.cfg.Verifier.Verify(ctx, token)
	if err != nil || !p.Valid() {
		return p, err
	}
	return g.admitToken(ctx, spec, p)
}

func (g *Gateway) verifyOperator(ctx context.Context, _ connect.Spec, token string, c *call) (time.Time, error) {
	if g.cfg.Operators == nil {
		return time.Time{}, errors.New("this server knows no operators")
	}
	o, err := g.cfg.Operators.VerifyOperator(ctx, token)
	if err == nil && !o.Valid() {
		err = errors.New("the verified operator has no fit subject")
	}
	if err != nil {
		return time.Time{}, err
	}
	c.operator = o
	return o.Expires, nil
}

func (who caller) authorize(c *call, procedure string) error {
	need, ok := permissions[procedure]
	if !ok {
		return errors.New("gateway: no permission is set for " + procedure)
	}
	if !who.may(c, need) {
		return kb.Errorf(kb.CodePermissionDenied, kb.ReasonPermission, "This needs the role %s.", need.role).
			With("required_role", need.role)
	}
	return nil
}

// isLockedOut tells the refusals of good credentials of a tenant that is not active.
func isLockedOut(err error) bool {
	return kb.Is(err, kb.ReasonTenantSuspended) || kb.Is(err, kb.ReasonTenantDeleted)
}

func isUnavailable(err error) bool {
	e, ok := errors.AsType[*kb.Error](err)
	return ok && e.Code == kb.CodeUnavailable
}
