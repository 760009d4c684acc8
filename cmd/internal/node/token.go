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

// issueFlags are the flags of token issue.
type issueFlags struct {
	keyFile, tenant, subject, role string
	operator                       bool
	life                           time.Duration
}

func issueCommand() *cobra.Command {
	var flags issueFlags
	cmd := &cobra.Command{
		Use:   "issue",
		Short: "Print a token signed with a server's key",
		Long: `Print an access token signed with the Ed25519 key of a server (auth.key_file in
its configuration, DIR/dev-key with --dev). The key is made when the file does
not exist. Whoever can read the key can be anybody.

With --operator the token is for granary cluster: it sees and steers the cluster,
and is good for no tenant's API.`,
		Example: `  granary token issue --key-file /etc/granary.key --tenant acme --subject ci --role editor --ttl 24h > token
  granary token issue --key-file /etc/granary.key --operator --subject olga --ttl 8h > operator-token`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(cmd.Flags().Changed("role")); err != nil {
				return usage(err)
			}
			token, err := flags.issue()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token.Reveal())
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.keyFile, "key-file", "", "the server's signing key")
	f.StringVar(&flags.tenant, "tenant", "", "the tenant the token speaks for")
	f.BoolVar(&flags.operator, "operator", false, "a token of the cluster's operator instead of a tenant's")
	f.StringVar(&flags.subject, "subject", "operator", "who uses the token, for the journal and the log")
	f.StringVar(&flags.role, "role", gateway.RoleViewer, "viewer, editor or admin")
	f.DurationVar(&flags.life, "ttl", 24*time.Hour, "how long it is good")
	return cmd
}

func (f *issueFlags) check(roleGiven bool) error {
	switch {
	case f.keyFile == "":
		return configErrorf("--key-file is needed")
	case f.operator && (f.tenant != "" || roleGiven):
		return configErrorf("--operator: an operator belongs to no tenant and has no other role")
	case !f.operator && !gateway.ValidTenant(f.tenant):
		return configErrorf("--tenant: %q is not 1 to 63 lower-case letters, digits and hyphens", f.tenant)
	case !slices.Contains([]string{gateway.RoleViewer, gateway.RoleEditor, gateway.RoleAdmin}, f.role):
		return configErrorf("--role: %q is not viewer, editor or admin", f.role)
	case f.life <= 0:
		return configErrorf("--ttl must be above 0")
	}
	return nil
}

func (f *issueFlags) issue() (auth.Token, error) {
	authority, err := auth.Open(f.keyFile)
	if err != nil {
		return "", err
	}
	if f.operator {
		return authority.IssueOperator(auth.OperatorGrant{Subject: f.subject, Life: f.life})
	}
	return authority.Issue(auth.Grant{Tenant: f.tenant, Subject: f.subject, Roles: []string{f.role}, Life: f.life})
}
