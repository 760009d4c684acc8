package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (a *app) usageCommand() *cobra.Command {
	cmd := a.client(&cobra.Command{
		Use:   "usage",
		Short: "Show what your tenant has used of its limits",
		Long: "Shows each limit, what is used and what is left of it. Limits of calls and of vector operations are counted in\n" +
			"windows of time (UTC), and renewed when one ends. A tenant that stayed below its limit has saved a burst, which\n" +
			"LEFT has in it. What is granted ahead to a node and not used shows as neither used nor left.\n\n" +
			"--recount counts what is stored and processed anew, from the journals and the stored sources, and shows it beside\n" +
			"the counters: each drift is 0 while nothing is under way.\n\n" +
			"--tenant shows another tenant to an operator, and --recount --all the storage of each tenant and every drift, with the token of GRANARY_OPERATOR_TOKEN or DATA/" + DevOperatorTokenFile + ".",
		Example: `  granary usage
  granary usage --recount
  granary usage --json | jq -r '.usage.quotas[] | .metric + " " + .used'
  granary usage --tenant acme
  granary usage --recount --tenant acme
  granary usage --recount --all`,
		Args: cobra.NoArgs,
	})
	tenant := cmd.Flags().String("tenant", "", "the `tenant` to show, to an operator")
	anew := cmd.Flags().Bool("recount", false, "count the usage anew, and show the drift of each counter")
	all := cmd.Flags().Bool("all", false, "with --recount: all tenants, to an operator")
	cmd.MarkFlagsMutuallyExclusive("tenant", "all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *all && !*anew {
			return usagef("--all goes with --recount")
		}
		if *tenant != "" || *all {
			return a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
				switch {
				case *all:
					return recountAll(ctx, s, out)
				case *anew:
					return recountTenant(ctx, s, out, *tenant)
				}
				res, err := call(ctx, s, s.admin.DescribeTenantUsage, &granaryv1.DescribeTenantUsageRequest{Name: *tenant})
				return out.usage(res, res.GetUsage(), err)
			})(cmd, args)
		}
		return a.run(func(ctx context.Context, s *session, out *output, _ []string) error {
			if *anew {
				return recount(ctx, s, out)
			}
			res, err := call(ctx, s, s.tenants.GetUsage, &granaryv1.GetUsageRequest{})
			return out.usage(res, res.GetUsage(), err)
		})(cmd, args)
	}
	return cmd
}

// usage prints one line for each limit.
func (o *output) usage(res proto.Message, u *granaryv1.Usage, err error) error {
	if err != nil {
		return err
	}
	if o.json {
		return o.message(res)
	}
	var rows [][]cell
	for _, q := range u.GetQuotas() {
		number := o.number
		if q.GetMetric() == "storage_bytes" {
			number = o.bytesText
		}
		left := cell{text: number(q.GetRemaining())}
		if q.GetRemaining() <= 0 {
			left.style = red
		}
		burst := "-"
		if q.GetWindowStart() != nil {
			burst = number(q.GetBurstAvailable())
		}
		row := cells(metricText(q), number(q.GetUsed()), number(q.GetBase()))
		row = append(row, left)
		rows = append(rows, append(row, cells(burst, stamp(q.GetResetTime()))...))
	}
	return o.table([]string{"LIMIT", "USED", "OF", "LEFT", "BURST", "RENEWED"}, rows)
}

// metricText names a limit, and the knowledge base it is of if each has its own.
func metricText(q *granaryv1.Quota) string {
	text := strings.ReplaceAll(q.GetMetric(), "_", " ")
	if id := q.GetKnowledgeBase(); id != "" {
		text += " (" + shortKB(id) + ")"
	}
	return text
}

// number prints a count; one beyond all use is no limit.
func (o *output) number(n int64) string {
	if n >= 1<<40 {
		return "unlimited"
	}
	return strconv.FormatInt(n, 10)
}

// waitText says why a document waits, and until when.
func waitText(reason string, until *timestamppb.Timestamp) string {
	if reason == "" || until == nil {
		return oneLine(reason)
	}
	return oneLine(reason) + ", until " + stamp(until)
}
