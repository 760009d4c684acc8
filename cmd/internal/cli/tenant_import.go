package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (a *app) tenantImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Bring the archive of a tenant from standard input into your tenant",
		Long: "Brings an archive that tenant export wrote, of this server or another, into your tenant: its default\n" +
			"configuration, its workspaces, its knowledge bases under their ids, and at the end its role bindings. A knowledge\n" +
			"base that exists is an error; those before it stay, and no role was given. The same --request-id goes on with an\n" +
			"import that was cut off. Tier and limits are the operator's, and API keys have to be made anew.",
		Example: "  granary tenant import < tenant.tar.zst\n  granary tenant import --validate-only < tenant.tar.zst",
		Args:    cobra.NoArgs,
	}
	check := cmd.Flags().Bool("validate-only", false, "check the archive and change nothing")
	request := cmd.Flags().String("request-id", "", "makes a retry safe (default: a new one)")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, _ []string) error {
		id := *request
		if id == "" {
			id = requestID()
		}
		res, err := sendTenant(ctx, s, a.env.Stdin, &granaryv1.ImportTenantSpec{ValidateOnly: *check, RequestId: id})
		switch {
		case err != nil:
			return err
		case out.json:
			return out.message(res)
		}
		return out.importedTenant(res, *check)
	})
	return cmd
}

func sendTenant(ctx context.Context, s *session, from io.Reader, spec *granaryv1.ImportTenantSpec) (*granaryv1.ImportTenantResponse, error) {
	stream, err := s.archive.ImportTenant(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&granaryv1.ImportTenantRequest{Part: &granaryv1.ImportTenantRequest_Spec{Spec: spec}})
	if err := sendPieces(from, err, func(data []byte) error {
		return stream.Send(&granaryv1.ImportTenantRequest{Part: &granaryv1.ImportTenantRequest_Data{Data: data}})
	}); err != nil {
		return nil, err
	}
	return stream.CloseAndReceive()
}

func (o *output) importedTenant(res *granaryv1.ImportTenantResponse, checked bool) error {
	verb := "imported"
	if checked {
		verb = "the archive is good:"
	}
	for _, k := range res.GetKnowledgeBases() {
		if err := o.printf("%s: %s %d documents, %s of sources\n", shortKB(k.GetName()), verb, k.GetDocuments(), o2bytes(o, k.GetSourceBytes())); err != nil {
			return err
		}
		if n := k.GetExpiredDocuments(); n > 0 {
			if err := o.printf("%s: %d documents whose time is over were left out\n", shortKB(k.GetName()), n); err != nil {
				return err
			}
		}
	}
	if err := o.printf("%s %d knowledge bases, %d workspaces, %d role bindings\n", verb, len(res.GetKnowledgeBases()), res.GetWorkspaces(),
		res.GetRoleBindings()); err != nil {
		return err
	}
	if n := res.GetApiKeys(); n > 0 {
		o.notef("%d API keys have to be made anew", n)
	}
	return nil
}
