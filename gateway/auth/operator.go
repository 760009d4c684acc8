package auth

import (
	"context"
	"fmt"
	"slices"
	"time"

	"granary.dev/granary/gateway"
)

// OperatorGrant is what an operator's token says.
type OperatorGrant struct {
	Subject string
	Life    time.Duration // 0 = DefaultLife
}

// IssueOperator makes a token of the role operator, which belongs to no tenant.
// Errors are [ErrGrant].
func (a *Authority) IssueOperator(g OperatorGrant) (Token, error) {
	if !(gateway.Operator{Subject: g.Subject}).Valid() {
		return "", fmt.Errorf("%w: subject %q", ErrGrant, g.Subject)
	}
	return a.sign(claims{Roles: []string{gateway.RoleOperator}}, OperatorAudience, g.Subject, g.Life)
}

// VerifyOperator implements [gateway.OperatorVerifier]. Every error is [ErrToken].
func (a *Authority) VerifyOperator(_ context.Context, token string) (gateway.Operator, error) {
	if len(token) > maxTokenBytes {
		return gateway.Operator{}, errShape("too long")
	}
	if _, err := parse(token); err != nil {
		return gateway.Operator{}, err
	}
	var c claims
	if _, err := a.operators.ParseWithClaims(token, &c, a.keyFor); err != nil {
		return gateway.Operator{}, refused(err)
	}
	// What speaks for a tenant too is no operator's, whoever signed it.
	if len(c.Audience) != 1 || c.Tenant != "" || !slices.Equal(c.Roles, []string{gateway.RoleOperator}) {
		return gateway.Operator{}, errShape("audience, tenant or roles")
	}
	o := gateway.Operator{Subject: c.Subject, Roles: c.Roles, Expires: c.ExpiresAt.Add(Leeway)}
	if !o.Valid() {
		return gateway.Operator{}, errShape("subject")
	}
	return o, nil
}
