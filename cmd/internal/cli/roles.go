package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (a *app) roleCommand() *cobra.Command {
	cmd := a.client(a.group(&cobra.Command{
		Use:   "role",
		Short: "Give and take roles in your tenant",
		Long: "A role holds in the whole tenant, in a workspace or in a knowledge base, in addition to what a subject's\n" +
			"token says. viewer reads, editor writes, admin deletes knowledge bases and gives roles.",
		Example: `  granary role grant jane@example.com editor --workspace legal
  granary role list`,
	}))
	cmd.AddCommand(a.roleGrant(), a.roleRevoke(), a.roleList())
	return cmd
}

func (a *app) roleGrant() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "grant SUBJECT ROLE",
		Short: "Give a subject a role, in the place of the one it has there",
		Example: `  granary role grant jane@example.com editor --kb handbook
  granary role grant ops@example.com admin`,
		Args: exactArgs("SUBJECT", "ROLE"),
	}
	places := addPlaces(cmd)
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		grant, err := places.one(args[1])
		if err != nil {
			return err
		}
		res, err := call(ctx, s, s.access.SetRoleBinding, &granaryv1.SetRoleBindingRequest{
			Binding: &granaryv1.RoleBinding{Subject: args[0], Grant: grant},
		})
		switch {
		case err != nil:
			return err
		case out.json:
			return out.message(res)
		}
		return out.printf("%s is %s of %s\n", oneLine(args[0]), grant.GetRole(), placeText(grant))
	})
	return cmd
}

func (a *app) roleRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "revoke SUBJECT",
		Short:   "Take a subject's role away, on all nodes within a second",
		Example: `  granary role revoke jane@example.com --kb handbook`,
		Args:    exactArgs("SUBJECT"),
	}
	places := addPlaces(cmd)
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		place, err := places.one("")
		if err != nil {
			return err
		}
		res, err := call(ctx, s, s.access.RemoveRoleBinding, &granaryv1.RemoveRoleBindingRequest{
			Subject: args[0], Workspace: place.GetWorkspace(), KnowledgeBase: place.GetKnowledgeBase(),
		})
		switch {
		case err != nil:
			return err
		case out.json:
			return out.message(res)
		}
		return out.printf("%s has no role bound in %s\n", oneLine(args[0]), placeText(place))
	})
	return cmd
}

func (a *app) roleList() *cobra.Command {
	return &cobra.Command{
		Use:     "list [SUBJECT]",
		Short:   "List who was given which role where",
		Example: "  granary role list\n  granary role list jane@example.com",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			all := &granaryv1.ListRoleBindingsResponse{}
			req := &granaryv1.ListRoleBindingsRequest{Subject: strings.Join(args, ""), PageSize: listPage}
			for {
				page, err := call(ctx, s, s.access.ListRoleBindings, req)
				if err != nil {
					return err
				}
				all.Bindings = append(all.Bindings, page.GetBindings()...)
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			switch {
			case out.json:
				return out.message(all)
			case len(all.GetBindings()) == 0:
				out.notef("no roles were given; tokens have roles of their own")
				return nil
			}
			var rows [][]cell
			for _, b := range all.GetBindings() {
				g := b.GetGrant()
				rows = append(rows, cells(b.GetSubject(), g.GetRole(), dash(g.GetWorkspace()), dash(g.GetKnowledgeBase())))
			}
			return out.table([]string{"SUBJECT", "ROLE", "WORKSPACE", "KNOWLEDGE BASE"}, rows)
		}),
	}
}
