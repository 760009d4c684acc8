package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

const (
	defaultTimeout = 30 * time.Second
	// maxResponse bounds one message of the server: a page of 1,000 documents
	// with the most metadata allowed each is well below.
	maxResponse = 128 << 20
)

// clientFlags are the flags all client commands share.
type clientFlags struct {
	server    string
	tokenFile string
	dataDir   string
	color     string
	timeout   time.Duration
	json      bool
}

// credential is where the token of a command is found when no flag names a file:
// in an environment variable, else in a file of the data directory.
type credential struct{ env, file string }

func tenantCredential() credential { return credential{"GRANARY_TOKEN", DevTokenFile} }

func operatorCredential() credential {
	return credential{"GRANARY_OPERATOR_TOKEN", DevOperatorTokenFile}
}

// client gives cmd, and the commands below it, the shared flags.
func (a *app) client(cmd *cobra.Command) *cobra.Command {
	return a.clientWith(cmd, tenantCredential())
}

func (a *app) clientWith(cmd *cobra.Command, from credential) *cobra.Command {
	f := cmd.PersistentFlags()
	f.StringVar(&a.flags.server, "server", "", "URL of the server (default $GRANARY_SERVER, else "+DefaultServer+")")
	f.StringVar(&a.flags.tokenFile, "token-file", "", "file with the access token (default $"+from.env+", else DATA/"+from.file+")")
	f.StringVar(&a.flags.dataDir, "data", DefaultDataDir, "data directory of a local server, for its "+from.file)
	f.DurationVar(&a.flags.timeout, "timeout", defaultTimeout, "longest wait for one answer")
	f.BoolVar(&a.flags.json, "json", false, "print protobuf JSON")
	f.StringVar(&a.flags.color, "color", "auto", "auto, always or never")
	return cmd
}

// secret is a string that does not print.
type secret string

func (secret) String() string   { return "[redacted]" }
func (secret) GoString() string { return "[redacted]" }

// session is a connection to a server, as one tenant's principal or as an operator.
type session struct {
	server    string // without credentials
	tokenNote string // where the token came from, or was looked for
	devToken  bool   // it is that of a development server's data directory
	timeout   time.Duration
	transport *transport
	sleep     func(context.Context, time.Duration) error
	// cannotStream is set once the way to the server carried no streamed request.
	cannotStream atomic.Bool

	kbs     granaryv1connect.KnowledgeBaseServiceClient
	docs    granaryv1connect.DocumentServiceClient
	search  granaryv1connect.SearchServiceClient
	events  granaryv1connect.EventServiceClient
	tenants granaryv1connect.TenantServiceClient
	erasure granaryv1connect.ErasureServiceClient
	archive granaryv1connect.ArchiveServiceClient
	cluster granaryv1connect.ClusterServiceClient
	audit   granaryv1connect.AuditServiceClient
	audits  granaryv1connect.AuditAdminServiceClient
	keys    granaryv1connect.EncryptionServiceClient
	access  granaryv1connect.AccessServiceClient
	admin   granaryv1connect.TenantAdminServiceClient
}

// clientRun is the body of a client command.
type clientRun func(ctx context.Context, s *session, out *output, args []string) error

// run wraps a client command: connect, run, explain what failed.
func (a *app) run(body clientRun) func(*cobra.Command, []string) error {
	return a.runWith(tenantCredential(), body)
}

func (a *app) runWith(from credential, body clientRun) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		out, err := a.output()
		if err != nil {
			return err
		}
		s, err := a.connect(from)
		if err != nil {
			return err
		}
		defer s.transport.close()
		ctx := cmd.Context()
		return s.explain(ctx, body(ctx, s, out, args))
	}
}

// connect prepares a session; nothing is sent yet.
func (a *app) connect(from credential) (*session, error) {
	base, err := a.serverURL()
	if err != nil {
		return nil, err
	}
	if a.flags.timeout <= 0 {
		return nil, usagef("--timeout must be above 0")
	}
	found, err := a.token(from)
	if err != nil {
		return nil, err
	}
	address := strings.TrimRight(base.String(), "/")
	tr := newTransport(address)
	s := &session{
		server:    strings.TrimRight(base.Redacted(), "/"),
		tokenNote: found.note,
		devToken:  found.dev,
		timeout:   a.flags.timeout,
		transport: tr,
		sleep:     a.env.Sleep,
	}
	hc := &http.Client{
		Transport: tr,
		// An API does not redirect; following could carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	client := connect.NewClient(
		connecthttp.NewTransport(hc, address, connecthttp.WithReadMaxBytes(maxResponse)), authorize(found.token))
	s.kbs = granaryv1connect.NewKnowledgeBaseServiceClient(client)
	s.docs = granaryv1connect.NewDocumentServiceClient(client)
	s.search = granaryv1connect.NewSearchServiceClient(client)
	s.events = granaryv1connect.NewEventServiceClient(client)
	s.tenants = granaryv1connect.NewTenantServiceClient(client)
	s.erasure = granaryv1connect.NewErasureServiceClient(client)
	s.archive = granaryv1connect.NewArchiveServiceClient(client)
	s.cluster = granaryv1connect.NewClusterServiceClient(client)
	s.audit = granaryv1connect.NewAuditServiceClient(client)
	s.audits = granaryv1connect.NewAuditAdminServiceClient(client)
	s.keys = granaryv1connect.NewEncryptionServiceClient(client)
	s.access = granaryv1connect.NewAccessServiceClient(client)
	s.admin = granaryv1connect.NewTenantAdminServiceClient(client)
	return s, nil
}

func (a *app) serverURL() (*url.URL, error) {
	raw := a.flags.server
	if raw == "" {
		raw = a.env.Getenv("GRANARY_SERVER")
	}
	if raw == "" {
		raw = DefaultServer
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, usagef("the server must be an http:// or https:// URL, such as %s", DefaultServer)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, usagef("the server's URL must have no query and no fragment")
	}
	return u, nil
}

// foundToken is a token, and where it was found or looked for.
type foundToken struct {
	token secret
	note  string
	dev   bool // in a data directory
}

// token finds the token. None at all is left for the server to refuse.
func (a *app) token(from credential) (foundToken, error) {
	if path := a.flags.tokenFile; path != "" {
		t, err := readToken(path)
		if err != nil {
			return foundToken{}, &failure{message: "cannot read the token: " + err.Error(), cause: err}
		}
		return foundToken{token: t, note: "the token came from " + path + " (--token-file)"}, nil
	}
	if t := strings.TrimSpace(a.env.Getenv(from.env)); t != "" {
		return foundToken{token: secret(t), note: "the token came from " + from.env}, nil
	}
	path := filepath.Join(a.flags.dataDir, from.file)
	t, err := readToken(path)
	switch {
	case err == nil:
		return foundToken{token: t, note: "the token came from " + path + " (" + from.env + " is not set)", dev: true}, nil
	case errors.Is(err, fs.ErrNotExist):
		return foundToken{note: "no token was sent: " + from.env + " is not set and there is no file " + path}, nil
	default:
		return foundToken{}, &failure{message: "cannot read the token: " + err.Error(), cause: err}
	}
}

func readToken(path string) (secret, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	t := strings.TrimSpace(string(raw))
	if t == "" || strings.ContainsAny(t, "\r\n") {
		return "", fmt.Errorf("%s must hold one token", path)
	}
	return secret(t), nil
}

// authorize puts the token on every call.
func authorize(token secret) connect.ClientInterceptor {
	return func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if info, ok := connect.CallInfoForClientContext(ctx); ok && token != "" {
				info.RequestHeader().Set("Authorization", "Bearer "+string(token))
			}
			return next(ctx, spec)
		}
	}
}

// call makes one unary call within the session's time limit.
func call[Req, Res any](ctx context.Context, s *session, rpc func(context.Context, *Req) (*Res, error), req *Req) (*Res, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return rpc(ctx, req)
}

// requestID makes a change safe to repeat.
func requestID() string { return uuid.NewString() }
