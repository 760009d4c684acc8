package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (a *app) tenantCommand() *cobra.Command {
	cmd := a.client(a.group(&cobra.Command{
		Use:   "tenant",
		Short: "Show your tenant and change its defaults; as an operator, manage all tenants",
		Long: "get and config are about your own tenant. The others manage any tenant and take an operator's token:\n" +
			"granary token issue --operator.",
		Example: "  granary tenant get\n  granary tenant config --set retrieval.top_n=20\n  granary tenant create acme --tier professional",
	}))
	cmd.AddCommand(&cobra.Command{
		Use:     "get",
		Short:   "Show your tenant's tier, limits and defaults",
		Example: "  granary tenant get\n  granary tenant get --json | jq .tenant.limits",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, s *session, out *output, _ []string) error {
			res, err := call(ctx, s, s.tenants.GetTenant, &granaryv1.GetTenantRequest{})
			if err != nil {
				return err
			}
			if out.json {
				return out.message(res)
			}
			return out.tenant(res.GetTenant())
		}),
	}, a.tenantConfig(), a.tenantExport(), a.tenantImport())
	cmd.AddCommand(a.tenantOperations()...)
	return cmd
}

func (a *app) tenantConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show or change the defaults of all your knowledge bases",
		Long: "Without flags, shows the tenant's default settings. --set and --unset change them; a change made\n" +
			"by somebody else in between is not overwritten (ETAG_MISMATCH).\n\nSettings: " +
			strings.Join(settingPaths(), ", "),
		Example: `  granary tenant config
  granary tenant config --set retrieval.mode=hybrid --set retrieval.top_n=20 --unset chunking.target_words`,
		Args: cobra.NoArgs,
	}
	set := cmd.Flags().StringArray("set", nil, "`setting=value`; may be repeated")
	unset := cmd.Flags().StringArray("unset", nil, "`setting` to clear; may be repeated")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, _ []string) error {
		// What cannot be set is refused before anything is asked.
		if err := editConfig(&granaryv1.Config{}, *set, *unset); err != nil {
			return err
		}
		res, err := call(ctx, s, s.tenants.GetTenant, &granaryv1.GetTenantRequest{})
		if err != nil {
			return err
		}
		tenant := res.GetTenant()
		if len(*set)+len(*unset) > 0 {
			config := proto.CloneOf(tenant.GetDefaultConfig())
			if config == nil {
				config = &granaryv1.Config{}
			}
			if err := editConfig(config, *set, *unset); err != nil {
				return err
			}
			updated, err := call(ctx, s, s.tenants.UpdateTenantConfig, &granaryv1.UpdateTenantConfigRequest{
				DefaultConfig: config, Etag: tenant.GetEtag(), RequestId: requestID(),
			})
			if err != nil {
				return err
			}
			tenant = updated.GetTenant()
		}
		if out.json {
			return out.message(&granaryv1.GetTenantResponse{Tenant: tenant})
		}
		return out.config(tenant.GetDefaultConfig())
	})
	return cmd
}

// editConfig applies --set and --unset.
func editConfig(config *granaryv1.Config, set, unset []string) error {
	for _, s := range set {
		path, value, ok := strings.Cut(s, "=")
		if !ok {
			return usagef("--set %s: want setting=value", s)
		}
		if err := setPath(config, path, value); err != nil {
			return usagef("--set %s: %s", s, err)
		}
	}
	for _, path := range unset {
		if err := clearPath(config, path); err != nil {
			return usagef("--unset %s: %s", path, err)
		}
	}
	return nil
}

func (o *output) tenant(t *granaryv1.Tenant) error {
	pairs := [][2]string{{"name", shortTenant(t.GetName())}, {"display name", t.GetDisplayName()}, {"tier", t.GetTier()}}
	if err := o.pairs(nil, append(append(pairs, o.limits(t)...),
		[2]string{"configuration version", fmt.Sprint(t.GetConfigVersion())})); err != nil {
		return err
	}
	if err := o.printf("\n"); err != nil {
		return err
	}
	return o.config(t.GetDefaultConfig())
}

// config prints settings of one layer; what is unset shows as a hyphen.
func (o *output) config(c *granaryv1.Config) error {
	var rows [][]cell
	walkSettings(c.ProtoReflect(), "", func(path, value string) {
		if value == "" {
			value = "-"
		}
		rows = append(rows, cells(path, value))
	})
	return o.table([]string{"SETTING", "VALUE"}, rows)
}
