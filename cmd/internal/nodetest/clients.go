package nodetest

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// Clients are typed clients of one server under one token.
type Clients struct {
	Token     string
	KBs       granaryv1connect.KnowledgeBaseServiceClient
	Documents granaryv1connect.DocumentServiceClient
	Search    granaryv1connect.SearchServiceClient
	Events    granaryv1connect.EventServiceClient
	Tenants   granaryv1connect.TenantServiceClient
	Access    granaryv1connect.AccessServiceClient
	Archives  granaryv1connect.ArchiveServiceClient
	Erasures  granaryv1connect.ErasureServiceClient
	Cluster   granaryv1connect.ClusterServiceClient
	Keys      granaryv1connect.EncryptionServiceClient
	Admin     granaryv1connect.TenantAdminServiceClient // of all tenants, for operators
	Audit     granaryv1connect.AuditServiceClient
	Audits    granaryv1connect.AuditAdminServiceClient // of all tenants, for operators
}

// Dial makes clients of a server. watch, if given, is told the path of each request.
func Dial(t testing.TB, url, token string, watch ...func(path string)) *Clients {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	client := connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: bearer{tr, token, watch}}, url))
	return &Clients{
		Token:     token,
		KBs:       granaryv1connect.NewKnowledgeBaseServiceClient(client),
		Documents: granaryv1connect.NewDocumentServiceClient(client),
		Search:    granaryv1connect.NewSearchServiceClient(client),
		Events:    granaryv1connect.NewEventServiceClient(client),
		Tenants:   granaryv1connect.NewTenantServiceClient(client),
		Access:    granaryv1connect.NewAccessServiceClient(client),
		Archives:  granaryv1connect.NewArchiveServiceClient(client),
		Erasures:  granaryv1connect.NewErasureServiceClient(client),
		Cluster:   granaryv1connect.NewClusterServiceClient(client),
		Keys:      granaryv1connect.NewEncryptionServiceClient(client),
		Admin:     granaryv1connect.NewTenantAdminServiceClient(client),
		Audit:     granaryv1connect.NewAuditServiceClient(client),
		Audits:    granaryv1connect.NewAuditAdminServiceClient(client),
	}
}

// bearer adds the token to each request.
type bearer struct {
	next  http.RoundTripper
	token string
	watch []func(path string)
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	for _, w := range b.watch {
		w(r.URL.Path)
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// What follows carries keys of its own, as clients' requests should: only then is
// a call sent again whose connection between two nodes broke.

// CreateKB creates a knowledge base.
func (c *Clients) CreateKB(t testing.TB, id string) *granaryv1.KnowledgeBase {
	t.Helper()
	r, err := c.KBs.CreateKnowledgeBase(t.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: id, RequestId: rand.Text()})
	if err != nil {
		t.Fatalf("create %s: %v", id, err)
	}
	return r.GetKnowledgeBase()
}

// AddText adds a text document and returns it as queued.
func (c *Clients) AddText(t testing.TB, kb, name, text string) *granaryv1.Document {
	t.Helper()
	r, err := c.Documents.CreateDocument(t.Context(), &granaryv1.CreateDocumentRequest{
		Spec:   &granaryv1.DocumentSpec{KnowledgeBase: kb, DisplayName: name, RequestId: rand.Text()},
		Source: &granaryv1.CreateDocumentRequest_Text{Text: text},
	})
	if err != nil {
		t.Fatalf("add %s: %v", name, err)
	}
	return r.GetDocument()
}

// AddURL adds a document to be fetched and returns it as queued.
func (c *Clients) AddURL(t testing.TB, kb, url string) *granaryv1.Document {
	t.Helper()
	r, err := c.Documents.CreateDocument(t.Context(), &granaryv1.CreateDocumentRequest{
		Spec:   &granaryv1.DocumentSpec{KnowledgeBase: kb, RequestId: rand.Text()},
		Source: &granaryv1.CreateDocumentRequest_Url{Url: url},
	})
	if err != nil {
		t.Fatalf("add %s: %v", url, err)
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
