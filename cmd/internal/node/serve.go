package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"granary.dev/granary/actors/pipeline/sandbox"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
)

// ServeCommand is `granary serve`.
func ServeCommand() *cobra.Command {
	var flags Config
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a server",
		Long: `Run a Granary server.

With --dev it needs nothing else: one node with the embedded store, a local
signing key, tenant "dev", an admin token in DIR/dev-token, and a token for
granary cluster in DIR/dev-operator-token.`,
		Example: `  granary serve --dev
  granary serve --dev --data /var/lib/granary --listen 127.0.0.1:9090
  granary serve --config /etc/granary.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := merge(cmd, file, flags)
			if err != nil {
				return usage(err)
			}
			return serve(cmd.Context(), cfg, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&flags.Dev, "dev", false, "local signing key, tenant dev; loopback only")
	f.StringVar(&flags.Node, "node", "", "stable name of this node (default: the host's name)")
	f.StringVar((*string)(&flags.Store), "store", "", "database the nodes of a cluster share, postgres://… (or GRANARY_STORE); default: embedded, in --data")
	f.StringVar(&flags.Cluster.Gossip, "gossip", "", "address where nodes hear of each other (default 127.0.0.1:7946)")
	f.StringVar(&flags.Cluster.Actors, "actors", "", "address for calls of other nodes (default 127.0.0.1:7947)")
	f.StringSliceVar(&flags.Cluster.Join, "join", nil, "gossip addresses of other nodes; one that answers is enough")
	f.StringVar(&flags.Cluster.Advertise, "advertise", "", "host by which other nodes reach this one")
	f.StringSliceVar(&flags.Cluster.Roles, "roles", nil, "gateway, host (default both)")
	f.StringVar(&flags.Cluster.Zone, "zone", "", "failure domain, shown to operators")
	f.StringVar(&flags.Cluster.CAFile, "cluster-ca", "", "CA of the nodes' certificates")
	f.StringVar(&flags.Cluster.CertFile, "cluster-cert", "", "this node's certificate for other nodes")
	f.StringVar(&flags.Cluster.KeyFile, "cluster-key", "", "its key")
	f.StringVar(&flags.Cluster.GossipKeyFile, "gossip-key-file", "", "keys of gossip")
	f.StringVar(&flags.Data, "data", "", "data folder (default ./data)")
	f.StringVar(&flags.Tier, "tier", "", "limits of tenants: starter (default), professional, enterprise (default with --dev); with --dev also unlimited")
	f.StringVar(&flags.Listen, "listen", "", "address of the API (default 127.0.0.1:8080)")
	f.StringVar(&flags.Metrics.Listen, "metrics", "", "address of GET /metrics, for Prometheus; none: no such port (default 127.0.0.1:9464)")
	f.StringVar(&file, "config", "", "configuration file (YAML); flags win over it")
	f.StringVar(&flags.LogLevel, "log-level", "", "debug, info, warn or error (default info)")
	f.StringVar(&flags.LogFormat, "log-format", "", "text or json (default text)")
	return cmd
}

// merge lays flags over the file and completes the result.
func merge(cmd *cobra.Command, file string, flags Config) (Completed, error) {
	var cfg Config
	if file != "" {
		var err error
		if cfg, err = ReadFile(file); err != nil {
			return Completed{}, err
		}
	}
	if cmd.Flags().Changed("dev") {
		cfg.Dev = flags.Dev
	}
	c, k := &cfg.Cluster, &flags.Cluster
	for _, s := range []struct {
		from string
		to   *string
	}{
		{flags.Data, &cfg.Data}, {flags.Listen, &cfg.Listen}, {flags.Tier, &cfg.Tier}, {flags.LogLevel, &cfg.LogLevel}, {flags.LogFormat, &cfg.LogFormat},
		{flags.Node, &cfg.Node}, {string(flags.Store), (*string)(&cfg.Store)}, {k.Gossip, &c.Gossip}, {k.Actors, &c.Actors},
		{k.Advertise, &c.Advertise}, {k.Zone, &c.Zone}, {k.CAFile, &c.CAFile}, {k.CertFile, &c.CertFile}, {k.KeyFile, &c.KeyFile},
		{k.GossipKeyFile, &c.GossipKeyFile}, {flags.Metrics.Listen, &cfg.Metrics.Listen},
	} {
		if s.from != "" {
			*s.to = s.from
		}
	}
	if len(k.Join) > 0 {
		c.Join = k.Join
	}
	if len(k.Roles) > 0 {
		c.Roles = k.Roles
	}
	return cfg.Complete()
}

// usageError is an error in how the command was called.
type usageError struct{ error }

// ExitCode implements what the command line asks of errors.
func (usageError) ExitCode() int { return 2 }

func usage(err error) error { return usageError{err} }

// serve runs a node until ctx ends.
func serve(ctx context.Context, cfg Completed, stdout, stderr io.Writer) error {
	n, err := Start(ctx, cfg, stderr)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // asked to stop before it was ready: all that had begun is ended
	}
	if err != nil {
		return err
	}
	if err = n.Welcome(stdout); err == nil {
		select {
		case <-ctx.Done():
		case err = <-n.Served():
		}
	}
	n.log.Info("stopping")
	if stopErr := n.Stop(context.WithoutCancel(ctx)); err == nil {
		err = stopErr
	}
	return err
}

const devTokenLife = 365 * 24 * time.Hour

// writeDevTokens writes the development tokens, for the tenant dev and for the
// operator, and gives the path of the former, which comes last: who waits for it finds both.
func (n *Node) writeDevTokens() (string, error) {
	operator, err := n.auth.IssueOperator(auth.OperatorGrant{Subject: "dev", Life: devTokenLife})
	if err != nil {
		return "", err
	}
	if err := writeSecret(filepath.Join(n.cfg.Data, "dev-operator-token"), operator.Reveal()+"\n"); err != nil {
		return "", err
	}
	token, err := n.auth.Issue(auth.Grant{Tenant: "dev", Subject: "dev", Roles: []string{gateway.RoleAdmin}, Life: devTokenLife})
	if err != nil {
		return "", err
	}
	path := filepath.Join(n.cfg.Data, "dev-token")
	return path, writeSecret(path, token.Reveal()+"\n")
}

// Welcome says how to go on; a development server's tokens are written before.
func (n *Node) Welcome(out io.Writer) error {
	if n.listener == nil {
		_, err := fmt.Fprintf(out, "granary owns a share of the cluster as node %s and serves no clients\n", n.cfg.Node)
		return err
	}
	if !n.cfg.Dev {
		_, err := fmt.Fprintf(out, "granary serves on %s\n", n.Addr())
		return err
	}
	path, err := n.writeDevTokens()
	if err != nil {
		return err
	}
	server, data := n.URL(), ""
	if n.cfg.Data != "data" {
		data = " --data " + n.cfg.Data
	}
	if server != "http://127.0.0.1:8080" {
		data += " --server " + server
	}
	_, err = fmt.Fprintf(out, `granary serves on %[1]s (tenant dev; token in %[2]s)

  granary kb create handbook%[3]s
  granary doc add handbook ./docs --wait%[3]s
  granary search handbook "how do I rotate the signing key?"%[3]s

  TOKEN=$(cat %[2]s)
  curl -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \
    -d '{"knowledgeBase":"handbook","query":"how do I rotate the signing key?"}' \
    %[1]s/granary.v1.SearchService/Search

`, server, path, data)
	return err
}

// writeSecret replaces a file that only its owner may read.
func writeSecret(path, text string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// ParseWorkerCommand is `granary parse-worker`: the server runs it to parse
// untrusted sources where it can be stopped.
func ParseWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "parse-worker",
		Short:  "Parse documents for the server (started by it)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return sandbox.WorkerMain(cmd.Context(), os.Stdin, os.Stdout)
		},
	}
}

func logLevel(name string) (slog.Level, error) {
	var l slog.Level
	return l, l.UnmarshalText([]byte(strings.ToUpper(name)))
}

func newLogger(w io.Writer, format string, level slog.Level) *slog.Logger {
	opt := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	return slog.New(slog.NewTextHandler(w, opt))
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
