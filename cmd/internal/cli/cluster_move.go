package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (a *app) clusterRelocate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "relocate TENANT",
		Short: "Move a tenant with all its knowledge bases to a node",
		Long: "Places a tenant on the node of --to, whatever the partition table says. Without --to it goes back to\n" +
			"where the table has it.",
		Example: `  granary cluster relocate acme --to n3
  granary cluster relocate acme`,
		Args: exactArgs("TENANT"),
	}
	to := cmd.Flags().String("to", "", "the node; without it the partition table decides again")
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, args []string) error {
		if cmd.Flags().Changed("to") && *to == "" {
			// A script's empty variable must not move a tenant.
			return usagef("--to is empty; leave it out to give the tenant back to the partition table")
		}
		res, err := call(ctx, s, s.cluster.RelocateTenant, &granaryv1.RelocateTenantRequest{Tenant: args[0], Node: *to})
		switch {
		case err != nil:
			return err
		case out.json:
			return out.message(res)
		case *to == "":
			return out.printf("%s is placed by the partition table\n", shortTenant(args[0]))
		}
		return out.printf("%s is placed on %s\n", shortTenant(args[0]), shortNode(*to))
	})
	return cmd
}

func (a *app) clusterRebalance() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Move tenants off overloaded and sick nodes now",
		Long: "Moves tenants away from nodes that are sick or at a load of 0.8 and above, to where 0.4 locality + 0.4\n" +
			"headroom + 0.2 nearness is clearly better, and those back whose own node has room again. The cluster\n" +
			"does the same by itself from time to time.",
		Example: `  granary cluster rebalance --dry-run
  granary cluster rebalance --json | jq '.moves | length'`,
		Args: cobra.NoArgs,
	}
	dryRun := cmd.Flags().Bool("dry-run", false, "print the moves, make none")
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
		res, err := call(ctx, s, s.cluster.Rebalance, &granaryv1.RebalanceRequest{DryRun: *dryRun})
		switch {
		case err != nil:
			return err
		case out.json:
			return out.message(res)
		case len(res.GetMoves()) == 0:
			out.notef("nothing to move")
			return nil
		}
		if err := out.moves(res.GetMoves()); err != nil {
			return err
		}
		if *dryRun {
			out.notef("%d tenants would move; none did", len(res.GetMoves()))
		}
		return nil
	})
	return cmd
}

func (o *output) moves(moves []*granaryv1.TenantMove) error {
	var rows [][]cell
	for _, m := range moves {
		from, to := m.GetFromScore(), m.GetToScore()
		rows = append(rows, cells(shortTenant(m.GetTenant()), dash(shortNode(m.GetFrom())), shortNode(m.GetTo()), m.GetReason(),
			scoreTotalText(from)+" -> "+scoreTotalText(to), scorePartsText(from)+" -> "+scorePartsText(to)))
	}
	return o.table([]string{"TENANT", "FROM", "TO", "WHY", "SCORE", "LOCALITY/HEADROOM/NEARNESS"}, rows)
}

func scoreTotalText(s *granaryv1.PlacementScore) string {
	if s == nil {
		return "?"
	}
	return fmt.Sprintf("%.2f", s.GetTotal())
}

func scorePartsText(s *granaryv1.PlacementScore) string {
	if s == nil {
		return "?"
	}
	return fmt.Sprintf("%.2f/%.2f/%.2f", s.GetLocality(), s.GetHeadroom(), s.GetNearness())
}
