package actors

import (
	"cmp"
	"time"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// undeleteFor is how long a deletion can be taken back when nothing is said.
const undeleteFor = 30 * 24 * time.Hour

// serveAdmin carries out what concerns the tenant's own life; false when the
// operation is not of these. Only operators' calls come here: their gateway sends
// them as the cluster's own.
func (g *tenantGrain) serveAdmin(c call, m *nodev1.TenantCall) bool {
	ch, ok := g.adminChange(m)
	if _, describe := m.GetOperation().(*nodev1.TenantCall_DescribeTenant); !ok && !describe {
		return false
	}
	switch {
	case !m.GetHeader().GetInternal():
		c.Reply(tenantError(permissionError("operator")), nil)
	case !ok:
		g.read(c, g.describe)
	default:
		ch.reply = g.describe
		ch.after = g.spread
		g.change(c, m.GetHeader(), ch)
	}
	return true
}

// adminChange is what an operator's command decides.
func (g *tenantGrain) adminChange(m *nodev1.TenantCall) (ch change, ok bool) {
	t := g.tenant
	switch op := m.GetOperation().(type) {
	case *nodev1.TenantCall_CreateTenant:
		r := op.CreateTenant
		ch.rule = func() ([]kb.Event, error) {
			return t.Create(kb.TenantSpec{DisplayName: r.GetDisplayName(), Tier: cmp.Or(kb.Tier(r.GetTier()), t.Tier()),
				Overrides: limitsOf(r.GetLimitOverrides())})
		}
	case *nodev1.TenantCall_UpdateTenant:
		r := op.UpdateTenant
		ch.rule = func() ([]kb.Event, error) {
			s := t.Spec()
			if r.DisplayName != nil {
				s.DisplayName = r.GetDisplayName()
			}
			if r.Tier != nil {
				s.Tier = kb.Tier(r.GetTier())
			}
			if r.GetLimitOverrides() != nil {
				s.Overrides = limitsOf(r.GetLimitOverrides())
			}
			return t.Update(r.GetEtag(), s)
		}
	case *nodev1.TenantCall_SuspendTenant:
		ch.rule = func() ([]kb.Event, error) { return t.Suspend(op.SuspendTenant.GetEtag(), op.SuspendTenant.GetReason()) }
	case *nodev1.TenantCall_ResumeTenant:
		ch.rule = func() ([]kb.Event, error) { return t.Resume(op.ResumeTenant.GetEtag()) }
	case *nodev1.TenantCall_DeleteTenant:
		window := undeleteFor
		if w := op.DeleteTenant.GetUndeleteFor(); w != nil {
			window = w.AsDuration()
		}
		ch.rule = func() ([]kb.Event, error) { return t.Delete(op.DeleteTenant.GetEtag(), g.deps.Now().Add(window)) }
	case *nodev1.TenantCall_UndeleteTenant:
		ch.rule = func() ([]kb.Event, error) { return t.Undelete(op.UndeleteTenant.GetEtag()) }
	default:
		return change{}, false
	}
	return ch, true
}

// spread tells the knowledge bases what holds now, before the answer, and sees to
// what is due.
func (g *tenantGrain) spread(then func()) {
	g.purgeWhenDue()
	g.publish(g.settings(), then)
}

// describe is the tenant as operators see it.
func (g *tenantGrain) describe() *nodev1.TenantReply {
	t := g.tenant
	if !t.Known() || t.State() == kb.TenantPurging {
		return tenantError(kb.Errorf(kb.CodeNotFound, kb.ReasonTenantNotFound, "tenant %q does not exist", t.ID()).With("tenant", t.ID()))
	}
	out := g.tenantProto()
	out.SuspendReason, out.PurgeTime, out.CreatedByOperator = t.SuspendReason(), timestamp(t.PurgeAt()), t.Explicit()
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Tenant{Tenant: out}}
}

// tenantProto is the tenant as its own users see it.
func (g *tenantGrain) tenantProto() *granaryv1.Tenant {
	t := g.tenant
	out := &granaryv1.Tenant{Name: "tenants/" + t.ID(), Tier: string(t.Tier()), Limits: limitsProto(t.Limits()),
		DefaultConfig: configProto(t.Config()), ConfigVersion: t.ConfigVersion(), Etag: t.Etag(),
		State: granaryv1.TenantState(t.State()), DisplayName: t.Spec().DisplayName}
	if o := t.Spec().Overrides; o != (kb.Limits{}) {
		out.LimitOverrides = limitsProto(o)
	}
	return out
}
