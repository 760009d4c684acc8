package auth

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
)

const (
	maxKid = 256
	// maxDate is the last second of the year 9999: what is beyond it is no date.
	maxDate = 253402300799
)

// issuer checks the tokens of one issuer, by its own keys only.
type issuer struct {
	IssuerConfig
	keys *keySet
	now  func() time.Time
	// operators are the audiences of operators' tokens, which no tenant's token has.
	operators map[string]bool
}

// checked is what a token says, once everything about it is proven.
type checked struct {
	claims     map[string]any
	audiences  []string
	expires    time.Time
	generation uint64 // of the keys
}

// check proves a token that names this issuer. What costs nothing is checked before
// keys are looked for. Errors are [ErrToken], a context's, or of code UNAVAILABLE.
func (i *issuer) check(ctx context.Context, t parsed) (checked, error) {
	alg, kid, err := i.header(t.header)
	if err != nil {
		return checked{}, err
	}
	out := checked{claims: t.claims}
	if out.audiences, err = i.audience(t.claims["aud"]); err != nil {
		return checked{}, err
	}
	if out.expires, err = i.times(t.claims); err != nil {
		return checked{}, err
	}
	keys, generation, err := i.keys.candidates(ctx, alg, kid)
	if err != nil {
		if !errors.Is(err, errNoKey) {
			return checked{}, err
		}
		return checked{}, refused(err)
	}
	for _, k := range keys {
		if methods[alg].Verify(t.signed, t.sig, k.key) == nil {
			out.generation = generation
			return out, nil
		}
	}
	return checked{}, errShape("signature")
}

// header gives algorithm and key id. A header that names or brings a key (jku, jwk,
// x5u, x5c), or demands what is not understood (crit, zip, b64), is refused; kid
// chooses among the issuer's keys and does nothing else.
func (i *issuer) header(h map[string]any) (alg, kid string, err error) {
	for name, v := range h {
		text, isText := v.(string)
		switch name {
		case "alg":
			alg = text
		case "kid":
			if kid = text; !isText || len(kid) > maxKid || kid == "" {
				return "", "", errShape("kid")
			}
		case "typ":
			if t := strings.TrimPrefix(strings.ToLower(text), "application/"); t != "jwt" && t != "at+jwt" {
				return "", "", errShape("typ")
			}
		case "x5t", "x5t#S256": // fingerprints that some issuers add; not looked at
		default:
			return "", "", errShape("header")
		}
	}
	if !slices.Contains(i.Algorithms, alg) {
		return "", "", errShape("alg")
	}
	return alg, kid, nil
}

// audience reads aud: a text or a list of them, one of which is the issuer's here.
// What is for operators is for nobody else.
func (i *issuer) audience(claim any) ([]string, error) {
	list, ok := texts(claim)
	if one, isText := claim.(string); isText {
		list, ok = []string{one}, true
	}
	if !ok || !slices.ContainsFunc(list, func(a string) bool { return slices.Contains(i.Audiences, a) }) {
		return nil, errShape("aud")
	}
	if !i.Operator && slices.ContainsFunc(list, func(a string) bool { return i.operators[a] }) {
		return nil, errShape("aud of operators")
	}
	return list, nil
}

// times checks exp, which must be there, nbf and iat, and gives the end.
func (i *issuer) times(claims map[string]any) (time.Time, error) {
	now := i.now()
	exp, ok := date(claims["exp"])
	if !ok || !now.Before(exp.Add(*i.Leeway)) {
		return time.Time{}, errShape("exp")
	}
	for _, name := range []string{"nbf", "iat"} {
		if claim, there := claims[name]; there {
			if at, ok := date(claim); !ok || at.Add(-*i.Leeway).After(now) {
				return time.Time{}, errShape(name)
			}
		}
	}
	return exp, nil
}

func date(claim any) (time.Time, bool) {
	n, ok := claim.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseFloat(n.String(), 64)
	if err != nil || seconds < 0 || seconds > maxDate {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

func texts(claim any) ([]string, bool) {
	list, ok := claim.([]any)
	if !ok {
		return nil, false
	}
	out := make([]string, len(list))
	for i, v := range list {
		if out[i], ok = v.(string); !ok {
			return nil, false
		}
	}
	return out, true
}

// claim finds a claim by its name or way.
func claim(claims map[string]any, name string) (any, bool) {
	if !strings.HasPrefix(name, "/") {
		v, ok := claims[name]
		return v, ok
	}
	var at any = claims
	for step := range strings.SplitSeq(name[1:], "/") {
		object, ok := at.(map[string]any)
		if !ok {
			return nil, false
		}
		if at, ok = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)]; !ok {
			return nil, false
		}
	}
	return at, true
}

// text finds a claim that is a text. One that is there is never empty: no mistake
// of an issuer turns into a token that is good for more.
func text(claims map[string]any, name string) (value string, there, ok bool) {
	v, there := claim(claims, name)
	if !there {
		return "", false, true
	}
	value, ok = v.(string)
	return value, true, ok && value != ""
}

// roles are the roles a token has here; those that mean nothing are left out.
func (i *issuer) roles(claims map[string]any) ([]string, error) {
	v, there := claim(claims, i.Claims.Roles)
	if !there {
		return nil, nil
	}
	list, ok := texts(v)
	if !ok {
		return nil, errShape("roles")
	}
	var out []string
	for _, r := range list {
		if i.Roles != nil {
			r = i.Roles[r]
		}
		valid := i.Operator && r == gateway.RoleOperator || !i.Operator && kb.ValidRole(kb.Role(r))
		if valid && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out, nil
}

// principal is whom a proven token speaks for.
func (i *issuer) principal(c checked) (gateway.Principal, error) {
	tenant, named, ok := text(c.claims, i.Claims.Tenant)
	subject, _, ok2 := text(c.claims, i.Claims.Subject)
	workspace, _, ok3 := text(c.claims, i.Claims.Workspace)
	if !ok || !ok2 || !ok3 {
		return gateway.Principal{}, errShape("tenant, subject or workspace")
	}
	switch {
	case i.Tenant != "" && named && tenant != i.Tenant, i.Tenants != nil && !slices.Contains(i.Tenants, tenant):
		return gateway.Principal{}, errShape("not a tenant of the issuer")
	case i.Tenant != "":
		tenant = i.Tenant
	}
	roles, err := i.roles(c.claims)
	if err != nil {
		return gateway.Principal{}, err
	}
	p := gateway.Principal{Tenant: tenant, Roles: roles, Workspace: workspace, Expires: c.expires.Add(*i.Leeway)}
	if subject != "" {
		p.Subject = i.SubjectPrefix + subject
	}
	if !p.Valid() {
		return gateway.Principal{}, errShape("tenant or subject")
	}
	return p, nil
}

// operator is the operator a proven token speaks for. What speaks for a tenant too
// is no operator's, whoever signed it.
func (i *issuer) operator(c checked) (gateway.Operator, error) {
	if _, tenant := claim(c.claims, i.Claims.Tenant); tenant || len(c.audiences) != 1 {
		return gateway.Operator{}, errShape("audience or tenant")
	}
	subject, _, ok := text(c.claims, i.Claims.Subject)
	roles, err := i.roles(c.claims)
	if err != nil || !ok || len(roles) == 0 {
		return gateway.Operator{}, errShape("subject or roles")
	}
	o := gateway.Operator{Roles: roles, Expires: c.expires.Add(*i.Leeway)}
	if subject != "" {
		o.Subject = i.SubjectPrefix + subject
	}
	if !o.Valid() {
		return gateway.Operator{}, errShape("subject")
	}
	return o, nil
}
