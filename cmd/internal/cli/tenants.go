package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// tenantOperations are the commands below `tenant` that take an operator's token.
func (a *app) tenantOperations() []*cobra.Command {
	all := []*cobra.Command{a.tenantCreate(), a.tenantList(), a.tenantShow(), a.tenantUpdate(), a.tenantSuspend(), a.tenantResume(),
		a.tenantDelete(), a.tenantUndelete()}
	for _, cmd := range all {
		a.clientWith(cmd, operatorCredential()) // in the place of the group's flags, which name another token
	}
	return all
}

// limitFlags are the limits of one tenant.
type limitFlags struct {
	set   []string
	clear bool
}

func addLimits(cmd *cobra.Command) *limitFlags {
	l := &limitFlags{}
	cmd.Flags().StringArrayVar(&l.set, "limit", nil, "`limit=number` of this tenant alone; 0 is the tier's; may be repeated")
	return l
}

// apply changes overrides by what the flags say.
func (l *limitFlags) apply(to *granaryv1.TenantLimits) error {
	fields := to.ProtoReflect().Descriptor().Fields()
	for _, s := range l.set {
		name, text, ok := strings.Cut(s, "=")
		field := fields.ByName(protoreflect.Name(strings.ReplaceAll(name, "-", "_")))
		n, err := strconv.ParseInt(text, 10, 64)
		switch {
		case !ok || err != nil || n < 0:
			return usagef("--limit %s: want limit=number", s)
		case field == nil:
			return usagef("--limit %s: there are %s", s, strings.Join(limitNames(), ", "))
		}
		to.ProtoReflect().Set(field, protoreflect.ValueOfInt64(n))
	}
	return nil
}

// limitNames are the limits as the API names them.
func limitNames() []string {
	fields := (&granaryv1.TenantLimits{}).ProtoReflect().Descriptor().Fields()
	names := make([]string, fields.Len())
	for i := range names {
		names[i] = string(fields.Get(i).Name())
	}
	return names
}

func (a *app) tenantCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a tenant, as an operator",
		Long: "Creates a tenant. One that came to be by its first use is taken over with all it has.\n\nLimits: " +
			strings.Join(limitNames(), ", "),
		Example: `  granary tenant create acme --tier professional --display-name "Acme Inc."
  granary tenant create acme --limit storage_bytes=50000000000`,
		Args: exactArgs("NAME"),
	}
	tier := cmd.Flags().String("tier", "", "starter, professional or enterprise (default: the server's)")
	name := cmd.Flags().String("display-name", "", "name for people")
	limits := addLimits(cmd)
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, args []string) error {
		req := &granaryv1.CreateTenantRequest{TenantId: shortTenant(args[0]), Tier: *tier, DisplayName: *name, RequestId: requestID()}
		if len(limits.set) > 0 {
			req.LimitOverrides = &granaryv1.TenantLimits{}
			if err := limits.apply(req.GetLimitOverrides()); err != nil {
				return err
			}
		}
		res, err := call(ctx, s, s.admin.CreateTenant, req)
		return out.oneTenant(res, res.GetTenant(), err)
	})
	return cmd
}

// oneTenant prints the tenant of an answer.
func (o *output) oneTenant(res proto.Message, t *granaryv1.Tenant, err error) error {
	switch {
	case err != nil:
		return err
	case o.json:
		return o.message(res)
	}
	return o.described(t)
}

func (a *app) tenantList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all tenants, as an operator",
		Example: `  granary tenant list
  granary tenant list --json | jq -r '.tenants[] | select(.state != "TENANT_STATE_ACTIVE") | .name'`,
		Args: cobra.NoArgs,
		RunE: a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
			all := &granaryv1.ListTenantsResponse{}
			req := &granaryv1.ListTenantsRequest{PageSize: tenantPage}
			for {
				page, err := call(ctx, s, s.admin.ListTenants, req)
				if err != nil {
					return err
				}
				all.Tenants = append(all.Tenants, page.GetTenants()...)
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			switch {
			case out.json:
				return out.message(all)
			case len(all.GetTenants()) == 0:
				out.notef("no tenants yet: granary tenant create NAME")
				return nil
			}
			var rows [][]cell
			for _, t := range all.GetTenants() {
				rows = append(rows, append(append(cells(shortTenant(t.GetName()), t.GetTier()), tenantStateCell(t.GetState())),
					cells(dash(stamp(t.GetPurgeTime())), t.GetDisplayName())...))
			}
			return out.table([]string{"NAME", "TIER", "STATE", "ERASED AT", "DISPLAY NAME"}, rows)
		}),
	}
}

// tenantPage is the page size of the list: each tenant is asked for itself.
const tenantPage = 200

func (a *app) tenantShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show any tenant, as an operator",
		Example: "  granary tenant show acme",
		Args:    exactArgs("NAME"),
		RunE: a.operate(func(ctx context.Context, s *session, out *output, args []string) error {
			res, err := call(ctx, s, s.admin.DescribeTenant, &granaryv1.DescribeTenantRequest{Name: args[0]})
			return out.oneTenant(res, res.GetTenant(), err)
		}),
	}
}

func (a *app) tenantUpdate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Change a tenant's tier, name and limits, as an operator",
		Long: "Changes exactly what is named by a flag; in force on all nodes within a second. A change made by\n" +
			"somebody else in between is not overwritten (ETAG_MISMATCH).\n\nLimits: " + strings.Join(limitNames(), ", "),
		Example: `  granary tenant update acme --tier enterprise
  granary tenant update acme --limit storage_bytes=50000000000 --limit api_calls_per_hour=0`,
		Args: exactArgs("NAME"),
	}
	tier := cmd.Flags().String("tier", "", "starter, professional or enterprise")
	name := cmd.Flags().String("display-name", "", "name for people")
	limits := addLimits(cmd)
	cmd.Flags().BoolVar(&limits.clear, "tier-limits", false, "take all limits back to those of the tier")
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, args []string) error {
		if err := limits.apply(&granaryv1.TenantLimits{}); err != nil {
			return err
		}
		req := &granaryv1.UpdateTenantRequest{Name: args[0]}
		if cmd.Flags().Changed("tier") {
			req.Tier = tier
		}
		if cmd.Flags().Changed("display-name") {
			req.DisplayName = name
		}
		if len(limits.set) > 0 || limits.clear {
			now, err := call(ctx, s, s.admin.DescribeTenant, &granaryv1.DescribeTenantRequest{Name: args[0]})
			if err != nil {
				return err
			}
			req.Etag, req.LimitOverrides = now.GetTenant().GetEtag(), &granaryv1.TenantLimits{}
			if !limits.clear {
				proto.Merge(req.GetLimitOverrides(), now.GetTenant().GetLimitOverrides())
			}
			if err := limits.apply(req.GetLimitOverrides()); err != nil {
				return err
			}
		}
		if req.Tier == nil && req.DisplayName == nil && req.GetLimitOverrides() == nil {
			return usagef("nothing to change: name at least one field")
		}
		res, err := call(ctx, s, s.admin.UpdateTenant, req)
		return out.oneTenant(res, res.GetTenant(), err)
	})
	return cmd
}

func (a *app) tenantSuspend() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "suspend NAME",
		Short: "Lock a tenant's users out and pause its processing, as an operator",
		Long: "Nobody of the tenant gets in (TENANT_SUSPENDED) and nothing is processed, on all nodes within a second.\n" +
			"Nothing is lost: tenant resume.",
		Example: `  granary tenant suspend acme --reason "unpaid since March"`,
		Args:    exactArgs("NAME"),
	}
	reason := cmd.Flags().String("reason", "", "why, for operators; the tenant's users are not told")
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, args []string) error {
		res, err := call(ctx, s, s.admin.SuspendTenant, &granaryv1.SuspendTenantRequest{Name: args[0], Reason: *reason})
		return out.oneTenant(res, res.GetTenant(), err)
	})
	return cmd
}

func (a *app) tenantResume() *cobra.Command {
	return &cobra.Command{
		Use:     "resume NAME",
		Short:   "End a tenant's suspension, as an operator",
		Long:    "Ends a suspension: users get in, and processing goes on where it was.",
		Example: "  granary tenant resume acme",
		Args:    exactArgs("NAME"),
		RunE: a.operate(func(ctx context.Context, s *session, out *output, args []string) error {
			res, err := call(ctx, s, s.admin.ResumeTenant, &granaryv1.ResumeTenantRequest{Name: args[0]})
			return out.oneTenant(res, res.GetTenant(), err)
		}),
	}
}

func (a *app) tenantDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a tenant with everything it has, as an operator",
		Long: "Locks the tenant's users out at once and erases everything when --undelete-for is over: knowledge bases,\n" +
			"keys, roles and the keys everything is encrypted with. Until then: tenant undelete.\n" +
			"A terminal is asked for confirmation; in a pipe --yes is needed.",
		Example: `  granary tenant delete acme --yes
  granary tenant delete acme --undelete-for 0 --yes   # erase now, there is no way back`,
		Args: exactArgs("NAME"),
	}
	window := cmd.Flags().String("undelete-for", "30d", "how long it can be taken back, e.g. 30d or 12h; 0 erases at once")
	yes := cmd.Flags().BoolP("yes", "y", false, "do not ask")
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, args []string) error {
		age := time.Duration(0)
		if *window != "0" {
			var err error
			if age, err = parseAge(*window); err != nil {
				return usagef("--undelete-for: %s", err)
			}
		}
		if !*yes {
			what := fmt.Sprintf("Delete tenant %q, and erase everything it has after %s?", shortTenant(args[0]), *window)
			if age == 0 {
				what = fmt.Sprintf("Erase tenant %q with everything it has, now and for good?", shortTenant(args[0]))
			}
			if err := a.confirm(ctx, what); err != nil {
				return err
			}
		}
		res, err := call(ctx, s, s.admin.DeleteTenant, &granaryv1.DeleteTenantRequest{Name: args[0], UndeleteFor: durationpb.New(age)})
		return out.oneTenant(res, res.GetTenant(), err)
	})
	return cmd
}

func (a *app) tenantUndelete() *cobra.Command {
	return &cobra.Command{
		Use:     "undelete NAME",
		Short:   "Take a tenant's deletion back before its time is over, as an operator",
		Example: "  granary tenant undelete acme",
		Args:    exactArgs("NAME"),
		RunE: a.operate(func(ctx context.Context, s *session, out *output, args []string) error {
			res, err := call(ctx, s, s.admin.UndeleteTenant, &granaryv1.UndeleteTenantRequest{Name: args[0]})
			return out.oneTenant(res, res.GetTenant(), err)
		}),
	}
}

func tenantStateCell(s granaryv1.TenantState) cell {
	c := cell{text: shortEnum(s.Descriptor(), s.Number())}
	switch s {
	case granaryv1.TenantState_TENANT_STATE_ACTIVE:
		c.style = green
	case granaryv1.TenantState_TENANT_STATE_SUSPENDED:
		c.style = yellow
	default:
		c.style = red
	}
	return c
}

// described prints a tenant as its operator sees it.
func (o *output) described(t *granaryv1.Tenant) error {
	state, born := tenantStateCell(t.GetState()), "by its first use"
	if t.GetCreatedByOperator() {
		born = "by an operator"
	}
	pairs := [][2]string{
		{"name", shortTenant(t.GetName())},
		{"display name", t.GetDisplayName()},
		{"state", state.text},
		{"reason", t.GetSuspendReason()},
		{"erased at", stamp(t.GetPurgeTime())},
		{"created", born},
		{"tier", t.GetTier()},
	}
	return o.pairs(map[string]style{"state": state.style}, append(append(pairs, o.limits(t)...), [2]string{"etag", t.GetEtag()}))
}

// limits are the limits in force, and which of them are this tenant's alone.
func (o *output) limits(t *granaryv1.Tenant) [][2]string {
	l, own := t.GetLimits(), t.GetLimitOverrides()
	note := func(text string, own int64) string {
		if own > 0 {
			text += " (of this tenant alone)"
		}
		return text
	}
	return [][2]string{
		{"concurrent processing", note(fmt.Sprint(l.GetConcurrentProcessing()), own.GetConcurrentProcessing())},
		{"documents per knowledge base", note(fmt.Sprint(l.GetDocumentsPerKnowledgeBase()), own.GetDocumentsPerKnowledgeBase())},
		{"storage bytes", note(o.bytesText(l.GetStorageBytes()), own.GetStorageBytes())},
		{"API calls per hour", note(fmt.Sprint(l.GetApiCallsPerHour()), own.GetApiCallsPerHour())},
		{"vector operations per minute", note(fmt.Sprint(l.GetVectorOperationsPerMinute()), own.GetVectorOperationsPerMinute())},
	}
}
