package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const workspacePrefix = "workspaces/"

func shortWorkspace(name string) string { return strings.TrimPrefix(name, workspacePrefix) }

func (a *app) workspaceCommand() *cobra.Command {
	cmd := a.client(a.group(&cobra.Command{
		Use:   "workspace",
		Short: "Group the knowledge bases of your tenant",
		Long: "A workspace groups knowledge bases, and a role in it holds in all of them. A knowledge base that was put\n" +
			"into no other is in \"default\".",
		Example: `  granary workspace create legal --display-name "Legal department"
  granary kb create contracts --workspace legal
  granary role grant jane@example.com editor --workspace legal`,
	}))
	cmd.AddCommand(a.workspaceCreate(), a.workspaceGet(), a.workspaceList(), a.workspaceUpdate(), a.workspaceDelete())
	return cmd
}

func (o *output) workspaces(list ...*granaryv1.Workspace) error {
	var rows [][]cell
	for _, w := range list {
		rows = append(rows, cells(shortWorkspace(w.GetName()), dash(stamp(w.GetCreateTime())), w.GetDisplayName()))
	}
	return o.table([]string{"NAME", "CREATED", "DISPLAY NAME"}, rows)
}

func (a *app) workspaceCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Create a workspace",
		Example: `  granary workspace create legal --display-name "Legal department"`,
		Args:    exactArgs("NAME"),
	}
	name := cmd.Flags().String("display-name", "", "name for people")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		res, err := call(ctx, s, s.access.CreateWorkspace, &granaryv1.CreateWorkspaceRequest{RequestId: requestID(),
			WorkspaceId: shortWorkspace(args[0]), DisplayName: *name,
		})
		switch {
		case err != nil:
			return err
		case out.json:
			return out.message(res)
		}
		return out.workspaces(res.GetWorkspace())
	})
	return cmd
}

func (a *app) workspaceGet() *cobra.Command {
	return &cobra.Command{
		Use:     "get NAME",
		Short:   "Show a workspace",
		Example: "  granary workspace get legal",
		Args:    exactArgs("NAME"),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			res, err := call(ctx, s, s.access.GetWorkspace, &granaryv1.GetWorkspaceRequest{Name: args[0]})
			switch {
			case err != nil:
				return err
			case out.json:
				return out.message(res)
			}
			return out.workspaces(res.GetWorkspace())
		}),
	}
}

func (a *app) workspaceList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the workspaces of your tenant",
		Example: "  granary workspace list",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, s *session, out *output, _ []string) error {
			all := &granaryv1.ListWorkspacesResponse{}
			req := &granaryv1.ListWorkspacesRequest{PageSize: listPage}
			for {
				page, err := call(ctx, s, s.access.ListWorkspaces, req)
				if err != nil {
					return err
				}
				all.Workspaces = append(all.Workspaces, page.GetWorkspaces()...)
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			if out.json {
				return out.message(all)
			}
			return out.workspaces(all.GetWorkspaces()...)
		}),
	}
}

func (a *app) workspaceUpdate() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "update NAME",
		Short:   "Change a workspace's display name",
		Example: `  granary workspace update legal --display-name "Legal and compliance"`,
		Args:    exactArgs("NAME"),
	}
	name := cmd.Flags().String("display-name", "", "name for people")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		if !cmd.Flags().Changed("display-name") {
			return usagef("nothing to change: --display-name")
		}
		res, err := call(ctx, s, s.access.UpdateWorkspace, &granaryv1.UpdateWorkspaceRequest{
			Workspace: &granaryv1.Workspace{Name: workspacePrefix + shortWorkspace(args[0]), DisplayName: *name},
		})
		switch {
		case err != nil:
			return err
		case out.json:
			return out.message(res)
		}
		return out.workspaces(res.GetWorkspace())
	})
	return cmd
}

func (a *app) workspaceDelete() *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete an empty workspace, with the roles in it",
		Example: "  granary workspace delete legal",
		Args:    exactArgs("NAME"),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			res, err := call(ctx, s, s.access.DeleteWorkspace, &granaryv1.DeleteWorkspaceRequest{Name: args[0]})
			switch {
			case err != nil:
				return err
			case out.json:
				return out.message(res)
			}
			return out.printf("deleted workspace %s\n", shortWorkspace(args[0]))
		}),
	}
}
