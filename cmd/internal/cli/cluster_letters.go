package cli

import (
	"context"

	"github.com/spf13/cobra"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (a *app) clusterDeadLetters() *cobra.Command {
	return &cobra.Command{
		Use:   "dead-letters",
		Short: "List documents whose processing was given up",
		Long: "Lists documents of all tenants that took a node down too often while they were processed. They are left\n" +
			"alone until somebody retries them.",
		Example: `  granary cluster dead-letters
  granary cluster dead-letters --json | jq -r '.deadLetters[] | .tenant + " " + .document'`,
		Args: cobra.NoArgs,
		RunE: a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
			all := &granaryv1.ListDeadLettersResponse{}
			req := &granaryv1.ListDeadLettersRequest{PageSize: listPage}
			for {
				page, err := call(ctx, s, s.cluster.ListDeadLetters, req)
				if err != nil {
					return err
				}
				all.DeadLetters = append(all.DeadLetters, page.GetDeadLetters()...)
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			if out.json {
				return out.message(all)
			}
			if len(all.GetDeadLetters()) == 0 {
				out.notef("there are no dead letters")
				return nil
			}
			var rows [][]cell
			for _, d := range all.GetDeadLetters() {
				rows = append(rows, cells(shortTenant(d.GetTenant()), shortGrain(d.GetDocument()), stamp(d.GetTime()), d.GetReason(), d.GetDisplayName()))
			}
			return out.table([]string{"TENANT", "DOCUMENT", "SINCE", "REASON", "NAME"}, rows)
		}),
	}
}

func (a *app) clusterRetry() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "retry kb/NAME/DOC",
		Short:   "Process a document again that was given up",
		Long:    "Queues a dead letter again. It is one more chance: if it takes nodes down again, it is given up again.",
		Example: "  granary cluster retry kb/handbook/leave.md --tenant acme",
		Args:    exactArgs("kb/NAME/DOC"),
	}
	tenant := tenantFlag(cmd)
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, args []string) error {
		req := &granaryv1.RetryDeadLetterRequest{}
		var err error
		if req.Document, err = grainDoc(args[0]); err != nil {
			return err
		}
		if req.Tenant, err = tenant(s); err != nil {
			return err
		}
		res, err := call(ctx, s, s.cluster.RetryDeadLetter, req)
		if err != nil {
			return err
		}
		if out.json {
			return out.message(res)
		}
		return out.printf("%s is queued again\n", shortGrain(req.GetDocument()))
	})
	return cmd
}
