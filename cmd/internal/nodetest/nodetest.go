// Package nodetest runs whole nodes in one test process: the real store,
// parsers, embedder, grains and gateway, reached over loopback as a client would.
package nodetest

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"granary.dev/granary/actors/pipeline/sandbox"
	"granary.dev/granary/cmd/internal/node"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// Main runs a package's tests. The test binary is also the parse worker that
// the nodes start, as the granary binary is for a server.
func Main(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "parse-worker" {
		if err := sandbox.WorkerMain(context.Background(), os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Server is a running node with clients of its API.
type Server struct {
	*Clients
	Data string
	URL  string

	t    testing.TB
	node *node.Node
	cfg  node.Config
	logs *logWriter
}

// Clients are typed clients of one server under one token.
type Clients struct {
	Token     string
	KBs       granaryv1connect.KnowledgeBaseServiceClient
	Documents granaryv1connect.DocumentServiceClient
	Search    granaryv1connect.SearchServiceClient
	Events    granaryv1connect.EventServiceClient
	Tenants   granaryv1connect.TenantServiceClient
	Cluster   granaryv1connect.ClusterServiceClient
}

// Start runs a development node in a folder of the test, until the test ends.
func Start(t testing.TB, edit ...func(*node.Config)) *Server {
	t.Helper()
	s := &Server{t: t, Data: t.TempDir(), logs: &logWriter{t: t}}
	s.cfg = node.Config{Dev: true, Data: s.Data, Listen: "127.0.0.1:0", LogLevel: "debug"}
	s.cfg.Fetch.AllowNetworks = []string{"127.0.0.0/8"}
	for _, e := range edit {
		e(&s.cfg)
	}
	s.start()
	t.Cleanup(s.Stop)
	return s
}

func (s *Server) start() {
	s.t.Helper()
	cfg, err := s.cfg.Complete()
	if err != nil {
		s.t.Fatal(err)
	}
	if s.node, err = node.Start(s.t.Context(), cfg, s.logs); err != nil {
		s.t.Fatal(err)
	}
	if err := s.node.Welcome(logDiscard{}); err != nil {
		s.t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(s.Data, "dev-token"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.URL = "http://" + s.node.Addr().String()
	s.Clients = Dial(s.t, s.URL, strings.TrimSpace(string(token)))
}

// Stop ends the node in the orderly way.
func (s *Server) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.node.Stop(ctx); err != nil {
		s.t.Errorf("stop: %v", err)
	}
}

// Restart stops the node and starts another on the same data.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.start()
}

// Dial makes clients of a server.
func Dial(t testing.TB, url, token string) *Clients {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	client := connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: bearer{tr, token}}, url))
	return &Clients{
		Token:     token,
		KBs:       granaryv1connect.NewKnowledgeBaseServiceClient(client),
		Documents: granaryv1connect.NewDocumentServiceClient(client),
		Search:    granaryv1connect.NewSearchServiceClient(client),
		Events:    granaryv1connect.NewEventServiceClient(client),
		Tenants:   granaryv1connect.NewTenantServiceClient(client),
		Cluster:   granaryv1connect.NewClusterServiceClient(client),
	}
}

// bearer adds the token to each request.
type bearer struct {
	next  http.RoundTripper
	token string
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// AddText adds a text document and returns it as queued.
func (c *Clients) AddText(t testing.TB, kb, name, text string) *granaryv1.Document {
	t.Helper()
	r, err := c.Documents.CreateDocument(t.Context(), &granaryv1.CreateDocumentRequest{
		Spec:   &granaryv1.DocumentSpec{KnowledgeBase: kb, DisplayName: name},
		Source: &granaryv1.CreateDocumentRequest_Text{Text: text},
	})
	if err != nil {
		t.Fatalf("add %s: %v", name, err)
	}
	return r.GetDocument()
}

// Terminal reports whether a document rests.
func Terminal(s granaryv1.DocumentState) bool {
	return s >= granaryv1.DocumentState_DOCUMENT_STATE_READY && s <= granaryv1.DocumentState_DOCUMENT_STATE_CANCELLED
}

// Settle waits until a document rests, by the event stream, and returns it.
func (c *Clients) Settle(t testing.TB, name string) *granaryv1.Document {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	kb, _, _ := strings.Cut(strings.TrimPrefix(name, "knowledgeBases/"), "/")
	stream, err := c.Events.WatchEvents(ctx, &granaryv1.WatchEventsRequest{KnowledgeBase: kb, FromStart: true})
	if err != nil {
		t.Fatalf("watch %s: %v", kb, err)
	}
	defer func() { _ = stream.Close() }()
	for {
		d, err := c.Documents.GetDocument(ctx, &granaryv1.GetDocumentRequest{Name: name})
		if err != nil {
			t.Fatalf("get %s: %v", name, err)
		}
		if Terminal(d.GetDocument().GetState()) {
			return d.GetDocument()
		}
		// Something happened in the knowledge base: look again.
		if _, err := stream.Receive(); err != nil {
			t.Fatalf("watch %s: %v", kb, err)
		}
	}
}

// logWriter sends the node's log to the test's.
type logWriter struct{ t testing.TB }

// Write implements io.Writer.
func (w *logWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// logDiscard drops the welcome.
type logDiscard struct{}

// Write implements io.Writer.
func (logDiscard) Write(p []byte) (int, error) { return len(p), nil }
