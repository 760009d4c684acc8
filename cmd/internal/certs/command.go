package certs

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"
)

const maxDays = 3650

var (
	nodeNames = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	hostNames = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)
)

// usageError is an error in how the command was called.
type usageError struct{ error }

// ExitCode implements what the command line asks of errors.
func (usageError) ExitCode() int { return 2 }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Command is `granary cert`.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Make certificates for the nodes of a cluster",
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(devCommand())
	return cmd
}

func devCommand() *cobra.Command {
	var r request
	var days int
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Make an authority, a certificate per node, and a gossip key",
		Long: `Write to DIR: ca.pem and ca-key.pem (an authority), NAME.pem and NAME-key.pem per
node (both ends of a connection), and gossip.key. Run again with other --nodes, it
uses the authority and the gossip key that are there. It never writes over a
node's files, unless --force makes everything anew.

Whoever can read ca-key.pem can be a node: no node needs it, keep it away from
them. Certificates of an authority of your own will do as well: nodes ask for
the DNS name "granary-node" and the uses clientAuth and serverAuth.`,
		Example: `  granary cert dev --out certs --nodes n1,n2,n3
  granary cert dev --out certs --nodes n4 --host n4.example.org --host 10.0.0.4
  granary serve --node n1 --store postgres://… --gossip :7946 --actors :7947 \
    --cluster-ca certs/ca.pem --cluster-cert certs/n1.pem --cluster-key certs/n1-key.pem \
    --gossip-key-file certs/gossip.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := r.check(days); err != nil {
				return err
			}
			r.until = time.Now().AddDate(0, 0, days)
			written, err := r.make()
			if err != nil {
				return fmt.Errorf("cert: %w", err)
			}
			return r.report(cmd.OutOrStdout(), written)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.dir, "out", "", "folder for the files")
	f.StringSliceVar(&r.nodes, "nodes", []string{"n1", "n2", "n3"}, "names of the nodes")
	f.StringSliceVar(&r.hosts, "host", nil, "further host name or address that all of them have")
	f.IntVar(&days, "days", 365, "how long they are good")
	f.BoolVar(&r.force, "force", false, "make everything anew, over what is there")
	return cmd
}

// check's errors are about how the command was called.
func (r request) check(days int) error {
	if r.dir == "" {
		return usagef("--out is needed")
	}
	if days < 1 || days > maxDays {
		return usagef("--days: %d is not 1 to %d", days, maxDays)
	}
	if len(r.nodes) == 0 {
		return usagef("--nodes: name one at least")
	}
	taken := map[string]bool{caFile: true, caKeyFile: true, gossipFile: true}
	for _, n := range r.nodes {
		if !nodeNames.MatchString(n) {
			return usagef("--nodes: %q is not 1 to 63 letters, digits, '.', '_' and '-', the first one a letter or digit", n)
		}
		for _, name := range []string{certFile(n), keyFile(n)} {
			if taken[name] {
				return usagef("--nodes: %q would need the file %s, which is another's", n, name)
			}
			taken[name] = true
		}
	}
	for _, h := range r.hosts {
		if net.ParseIP(h) == nil && (!hostNames.MatchString(h) || len(h) > 253) {
			return usagef("--host: %q is neither a host name nor an address", h)
		}
	}
	return nil
}

func (r request) report(out io.Writer, written []string) error {
	for _, path := range written {
		if _, err := fmt.Fprintln(out, path); err != nil {
			return err
		}
	}
	in := func(name string) string { return filepath.Join(r.dir, name) }
	n := r.nodes[0]
	_, err := fmt.Fprintf(out, `
A node is given its own files, the authority's certificate and the gossip key:

  granary serve --node %s … \
    --cluster-ca %s --cluster-cert %s --cluster-key %s \
    --gossip-key-file %s
`, n, in(caFile), in(certFile(n)), in(keyFile(n)), in(gossipFile))
	return err
}
