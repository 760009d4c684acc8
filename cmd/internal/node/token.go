package node

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
)

// TokenCommand is `granary token`: credentials made with a signing key at hand.
func TokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make access tokens",
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(issueCommand())
	return cmd
}

func issueCommand() *cobra.Command {
	var keyFile, tenant, subject, role string
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "issue",
		Short: "Print a token signed with a server's key",
		Long: `Print an access token signed with the Ed25519 key of a server (auth.key_file in
its configuration, DIR/dev-key with --dev). The key is made when the file does
not exist. Whoever can read the key can be anybody.`,
		Example: `  granary token issue --key-file /etc/granary.key --tenant acme --subject ci --role editor --ttl 24h > token`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case keyFile == "":
				return usage(configErrorf("--key-file is needed"))
			case !gateway.ValidTenant(tenant):
				return usage(configErrorf("--tenant: %q is not 1 to 63 lower-case letters, digits and hyphens", tenant))
			case !slices.Contains([]string{gateway.RoleViewer, gateway.RoleEditor, gateway.RoleAdmin}, role):
				return usage(configErrorf("--role: %q is not viewer, editor or admin", role))
			case life <= 0:
				return usage(configErrorf("--ttl must be above 0"))
			}
			authority, err := auth.Open(keyFile)
			if err != nil {
				return err
			}
			token, err := authority.Issue(auth.Grant{Tenant: tenant, Subject: subject, Roles: []string{role}, Life: life})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token.Reveal())
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&keyFile, "key-file", "", "the server's signing key")
	f.StringVar(&tenant, "tenant", "", "the tenant the token speaks for")
	f.StringVar(&subject, "subject", "operator", "who uses the token, for the journal and the log")
	f.StringVar(&role, "role", gateway.RoleViewer, "viewer, editor or admin")
	f.DurationVar(&life, "ttl", 24*time.Hour, "how long it is good")
	return cmd
}
