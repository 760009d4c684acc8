package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
)

// MaxLeeway is the most that may be allowed for clocks that differ.
const MaxLeeway = 60 * time.Second

// ErrIssuer is the configuration of an issuer that cannot be used; the text says why.
var ErrIssuer = errors.New("auth: issuer")

// IssuerConfig says whose tokens are good, and for whom.
type IssuerConfig struct {
	// Issuer is what tokens say in iss, to the letter.
	Issuer string `yaml:"issuer"`
	// Audiences: a token must be for one of them (aud).
	Audiences []string `yaml:"audiences"`
	// Algorithms that its signatures may have, such as RS256, ES256, EdDSA; what a
	// token says only chooses among them. None with a shared secret.
	Algorithms []string `yaml:"algorithms"`

	// Where its keys are: one of a JWK set's address, a file with one, or what OpenID
	// Connect discovery at Issuer says.
	URL       string `yaml:"jwks_url"`
	File      string `yaml:"jwks_file"`
	Discovery bool   `yaml:"discovery"`

	Claims ClaimNames `yaml:"claims"`
	// Roles gives the issuer's roles (names in its tokens) their meaning here; if it
	// is set, others mean nothing. Default: viewer, editor and admin mean themselves.
	Roles map[string]string `yaml:"roles"`
	// Tenants it may speak for; default: any.
	Tenants []string `yaml:"tenants"`
	// Tenant is that of all its tokens, which then need not name one.
	Tenant string `yaml:"tenant"`
	// SubjectPrefix comes before the subjects of its tokens, to tell the ada of one
	// issuer from that of another.
	SubjectPrefix string `yaml:"subject_prefix"`
	// Leeway for clocks that differ, at most [MaxLeeway]. Default [Leeway].
	Leeway *time.Duration `yaml:"leeway"`
	// Operator: its tokens are those of operators, and good for nothing else. They
	// need the role operator (see Roles), one audience and no tenant.
	Operator bool `yaml:"operator"`
}

// ClaimNames are the names of claims: of one at the top, or, when it begins with a
// slash, the way to it (a JSON pointer), such as /realm_access/roles.
type ClaimNames struct {
	Tenant    string `yaml:"tenant"`
	Roles     string `yaml:"roles"`
	Workspace string `yaml:"workspace"`
	Subject   string `yaml:"subject"`
}

// complete checks an issuer's configuration and fills its defaults.
func (c IssuerConfig) complete() (IssuerConfig, error) {
	for name, to := range map[string]*string{"tenant": &c.Claims.Tenant, "roles": &c.Claims.Roles,
		"workspace": &c.Claims.Workspace, "sub": &c.Claims.Subject} {
		if *to == "" {
			*to = name
		}
	}
	if c.Leeway == nil {
		c.Leeway = new(Leeway)
	}
	for _, check := range []func(*IssuerConfig) error{(*IssuerConfig).checkTrust, (*IssuerConfig).checkSource, (*IssuerConfig).checkMeaning} {
		if err := check(&c); err != nil {
			return c, fmt.Errorf("%w %q: %w", ErrIssuer, c.Issuer, err)
		}
	}
	return c, nil
}

func (c *IssuerConfig) checkTrust() error {
	switch {
	case c.Issuer == "":
		return errors.New("issuer is not set")
	case c.Issuer == Issuer:
		return errors.New("the name is that of this server's own tokens")
	case len(c.Audiences) == 0 || slices.Contains(c.Audiences, ""):
		return errors.New("audiences: name at least one; a token for anybody would be one for nobody")
	case len(c.Algorithms) == 0:
		return errors.New("algorithms: name at least one")
	case *c.Leeway < 0 || *c.Leeway > MaxLeeway:
		return fmt.Errorf("leeway is not in 0..%v", MaxLeeway)
	}
	for _, a := range c.Algorithms {
		if methods[a] == nil {
			return fmt.Errorf("algorithms: %q is none of RS, PS, ES with 256, 384, 512, or EdDSA", a)
		}
	}
	return nil
}

func (c *IssuerConfig) checkSource() error {
	named := 0
	for _, set := range []bool{c.URL != "", c.File != "", c.Discovery} {
		if set {
			named++
		}
	}
	switch {
	case named != 1:
		return errors.New("set one of jwks_url, jwks_file and discovery")
	case c.URL != "":
		return checkURL(c.URL)
	case c.Discovery:
		return checkURL(c.Issuer)
	}
	return nil
}

func (c *IssuerConfig) checkMeaning() error {
	for name, role := range c.Roles {
		if ok := kb.ValidRole(kb.Role(role)); c.Operator && role != gateway.RoleOperator || !c.Operator && !ok {
			return fmt.Errorf("roles: %q cannot mean %q", name, role)
		}
	}
	if c.Tenant != "" && (len(c.Tenants) > 0 || c.Operator) || c.Operator && len(c.Tenants) > 0 {
		return errors.New("tenant, tenants and operator exclude each other")
	}
	for _, t := range append(slices.Clone(c.Tenants), c.Tenant) {
		if t != "" && !gateway.ValidTenant(t) || t == "" && slices.Contains(c.Tenants, "") {
			return fmt.Errorf("%q is not a tenant", t)
		}
	}
	if p := c.SubjectPrefix; p != "" && (!(gateway.Operator{Subject: p}).Valid() || strings.HasPrefix(p, "key:") || len(p) > 64) {
		return fmt.Errorf("subject_prefix: %q cannot begin a subject", p)
	}
	return nil
}

// CheckIssuers reports what is wrong with the configuration of issuers, together:
// no two have one name, and no audience is good for both tenants and operators.
func CheckIssuers(list []IssuerConfig) error {
	_, err := completeAll(list)
	return err
}

func completeAll(list []IssuerConfig) ([]IssuerConfig, error) {
	var errs []error
	names := map[string]bool{}
	audiences := map[string]bool{Audience: false, OperatorAudience: true}
	out := make([]IssuerConfig, len(list))
	for i, c := range list {
		var err error
		if out[i], err = c.complete(); err != nil {
			errs = append(errs, err)
		}
		if names[c.Issuer] {
			errs = append(errs, fmt.Errorf("%w %q is there twice", ErrIssuer, c.Issuer))
		}
		names[c.Issuer] = true
		for _, a := range c.Audiences {
			if operator, taken := audiences[a]; taken && operator != c.Operator {
				errs = append(errs, fmt.Errorf("%w %q: the audience %q would be both tenants' and operators'", ErrIssuer, c.Issuer, a))
			}
			audiences[a] = c.Operator
		}
	}
	return out, errors.Join(errs...)
}
