package gateway

import "context"

// readmit looks again who calls, in a call that has gone on for longer than what is
// known of callers is good for: an open stream ends, and a long upload is refused,
// when a key was revoked, a role taken or the tenant suspended meanwhile. A role may
// have been given, too. The knowledge base has the last word, as ever, with the
// grants it is told of now.
func (g *Gateway) readmit(ctx context.Context) error {
	c := callOf(ctx)
	p := c.principal
	if !p.Valid() || p.unproven || since(p.asked, g.now()) < standingLife {
		return nil
	}
	t, err := g.standing(ctx, p.caller())
	a := t.access
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case !t.fresh:
		return unreachable() // as at the door; a stream waits and tries again
	case p.KeyID != "" && a.GetKey() == nil:
		return unauthenticated()
	}
	if err := g.admitTenant(a); err != nil {
		if isLockedOut(err) {
			return err
		}
		return unauthenticated()
	}
	if p.KeyID != "" {
		p.Grants = accessGrants(a)
	} else {
		p.Grants = append(tokenGrants(p), boundGrants(p, a)...)
	}
	p.asked = t.asked
	c.principal = p
	return nil
}
