package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (a *app) clusterKeys() *cobra.Command {
	cmd := a.group(&cobra.Command{
		Use:   "keys",
		Short: "See and rotate the keys everything is stored under",
		Long: "Everything a tenant stores is encrypted with keys of its own, which the master key wraps. These commands\n" +
			"show which keys there are, and rotate both kinds while the cluster serves. No command shows a key.",
		Example: `  granary cluster keys list
  granary cluster keys rotate --tenant acme
  granary cluster keys reencrypt --tenant acme
  granary cluster keys rotate-master`,
	})
	cmd.AddCommand(a.clusterKeysList(), a.clusterKeysRotate(), a.clusterKeysReencrypt(), a.clusterKeysMaster())
	return cmd
}

func (a *app) clusterKeysList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the keys of tenants: which, how old, under which master key",
		Example: `  granary cluster keys list
  granary cluster keys list --json | jq -r '.keys[] | select(.masterKeyId != "c0ffee00") | .tenant'`,
		Args: cobra.NoArgs,
		RunE: a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
			all := &granaryv1.ListKeysResponse{}
			req := &granaryv1.ListKeysRequest{PageSize: listPage}
			for {
				page, err := call(ctx, s, s.keys.ListKeys, req)
				if err != nil {
					return err
				}
				all.Keys = append(all.Keys, page.GetKeys()...)
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			if out.json {
				return out.message(all)
			}
			return out.tenantKeys(all.GetKeys())
		}),
	}
}

func (o *output) tenantKeys(list []*granaryv1.TenantKeys) error {
	var rows [][]cell
	for _, k := range list {
		state := cell{"in use", green}
		if k.GetDestroyed() {
			state = cell{"destroyed", red}
		}
		rows = append(rows, append(cells(firstOf(shortTenant(k.GetTenant()), "(the store)"), fmt.Sprint(k.GetVersion()), k.GetKeyId(),
			k.GetMasterKeyId(), stamp(k.GetCreateTime()), stamp(k.GetRotateTime())), state))
	}
	return o.table([]string{"TENANT", "VERSION", "KEY", "MASTER KEY", "SINCE", "ROTATED", "STATE"}, rows)
}

func (a *app) clusterKeysRotate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Give a tenant a new key; what is stored stays readable",
		Long: "What the tenant writes from now on is sealed with a new key, on all nodes within seconds. What it wrote\n" +
			"before stays under the keys it was written with, which are kept until it is re-encrypted.",
		Example: `  granary cluster keys rotate --tenant acme`,
		Args:    cobra.NoArgs,
	}
	tenant := tenantFlag(cmd)
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
		req := &granaryv1.RotateKeyRequest{}
		var err error
		if req.Tenant, err = tenant(s); err != nil {
			return err
		}
		res, err := call(ctx, s, s.keys.RotateKey, req)
		if err != nil {
			return err
		}
		if out.json {
			return out.message(res)
		}
		k := res.GetKeys()
		return out.printf("%s is sealed with key %s from now on (version %d)\n", shortTenant(k.GetTenant()), k.GetKeyId(), k.GetVersion())
	})
	return cmd
}

func (a *app) clusterKeysReencrypt() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reencrypt",
		Short: "Write what a tenant stored anew under its last key, and destroy the earlier ones",
		Long: "Writes anew, under the key that seals now, all that the tenant stored under earlier ones, while the cluster\n" +
			"serves; it works half of the time, so that others come first. Search indexes are forgotten and built anew when\n" +
			"they are needed. A pass that begins ten minutes after the last rotation ends with the destruction of the\n" +
			"earlier keys; after an earlier one this says when to run it again. It may be ended and run again at any time:\n" +
			"what is done is not done again. Back-ups from before still need the earlier keys, which are in them.",
		Example: `  granary cluster keys reencrypt --tenant acme`,
		Args:    cobra.NoArgs,
	}
	tenant := tenantFlag(cmd)
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
		req := &granaryv1.ReencryptTenantRequest{}
		var err error
		if req.Tenant, err = tenant(s); err != nil {
			return err
		}
		sum := &granaryv1.ReencryptTenantResponse{}
		for {
			res, err := call(ctx, s, s.keys.ReencryptTenant, req)
			if err != nil {
				return err
			}
			res.SeenCount += sum.GetSeenCount()
			res.SealedCount += sum.GetSealedCount()
			res.BrokenCount += sum.GetBrokenCount()
			if sum = res; res.GetNextPageToken() == "" {
				break
			}
			req.PageToken = res.GetNextPageToken()
			if !out.json {
				if err := out.printf("%s next: %d values seen, %d written anew\n", res.GetStage(), res.GetSeenCount(), res.GetSealedCount()); err != nil {
					return err
				}
			}
		}
		if out.json {
			return out.message(sum)
		}
		return out.reencrypted(sum)
	})
	return cmd
}

func (o *output) reencrypted(r *granaryv1.ReencryptTenantResponse) error {
	if n := r.GetBrokenCount(); n > 0 {
		if err := o.printf("%d values do not open and stay as they are: the log says which\n", n); err != nil {
			return err
		}
	}
	what := fmt.Sprintf("%d values seen, %d written anew", r.GetSeenCount(), r.GetSealedCount())
	switch {
	case r.GetDestroyedCount() > 0:
		return o.printf("%s; earlier keys destroyed: %d\n", what, r.GetDestroyedCount())
	case r.GetComplete():
		return o.printf("%s; there are no earlier keys\n", what)
	}
	return o.printf("%s; the earlier keys are still there: run this again after %s to destroy them\n", what, r.GetNotBefore().AsTime().Format(time.RFC3339))
}

func (a *app) clusterKeysMaster() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-master",
		Short: "Wrap the keys of all tenants under the first master key",
		Long: "Wraps the keys of all tenants under the first key of the master key file, or, with a key service, under a\n" +
			"new one. With a file: add the new key as the last line on all nodes, then make it the first on all nodes\n" +
			"(granary master-key), then run this; nodes read the file again by themselves. It may be ended and run again\n" +
			"at any time. When it is done, and back-ups that need the old key are gone, the old key can go.",
		Example: `  granary cluster keys rotate-master`,
		Args:    cobra.NoArgs,
		RunE: a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
			sum := &granaryv1.RotateMasterKeyResponse{}
			for !sum.GetComplete() {
				res, err := call(ctx, s, s.keys.RotateMasterKey, &granaryv1.RotateMasterKeyRequest{})
				if err != nil {
					return err
				}
				res.WrappedCount += sum.GetWrappedCount()
				sum = res
			}
			if out.json {
				return out.message(sum)
			}
			return out.printf("all keys are wrapped by master key %s, %d of them anew\n", sum.GetMasterKeyId(), sum.GetWrappedCount())
		}),
	}
}
