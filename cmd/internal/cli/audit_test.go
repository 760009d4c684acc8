package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/journal/trail"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
	"granary.dev/granary/storage/embedded"
)

// auditFake is a scripted server of audits.
type auditFake struct {
	*fake
	report *granaryv1.AuditReport
}

func (f auditFake) ListAuditEvents(ctx context.Context, r *granaryv1.ListAuditEventsRequest) (*granaryv1.ListAuditEventsResponse, error) {
	return unary[*granaryv1.ListAuditEventsResponse](ctx, f.fake, r)
}

func (f auditFake) GetCheckpoint(ctx context.Context, r *granaryv1.GetCheckpointRequest) (*granaryv1.GetCheckpointResponse, error) {
	return unary[*granaryv1.GetCheckpointResponse](ctx, f.fake, r)
}

func (f auditFake) ExportAudit(ctx context.Context, r *granaryv1.ExportAuditRequest, s granaryv1connect.AuditServiceExportAuditServerStream) error {
	f.note(ctx, r)
	for _, line := range []string{"{\"one\":1}\n", "{\"two\":2}\n"} {
		if err := s.Send(&granaryv1.ExportAuditResponse{Lines: []byte(line)}); err != nil {
			return err
		}
	}
	return nil
}

func (f auditFake) VerifyAudit(ctx context.Context, r *granaryv1.VerifyAuditRequest, s granaryv1connect.AuditServiceVerifyAuditServerStream) error {
	f.note(ctx, r)
	if err := s.Send(&granaryv1.VerifyAuditResponse{Items: 5}); err != nil {
		return err
	}
	return s.Send(&granaryv1.VerifyAuditResponse{Items: 7, Report: f.report})
}

func (f auditFake) ListTenantAuditEvents(ctx context.Context, r *granaryv1.ListTenantAuditEventsRequest) (*granaryv1.ListAuditEventsResponse, error) {
	return unary[*granaryv1.ListAuditEventsResponse](ctx, f.fake, r)
}

func (f auditFake) GetTenantCheckpoint(ctx context.Context, r *granaryv1.GetTenantCheckpointRequest) (*granaryv1.GetCheckpointResponse, error) {
	return unary[*granaryv1.GetCheckpointResponse](ctx, f.fake, r)
}

func (f auditFake) ExportTenantAudit(ctx context.Context, r *granaryv1.ExportTenantAuditRequest, _ granaryv1connect.AuditAdminServiceExportTenantAuditServerStream) error {
	f.note(ctx, r)
	return nil
}

func (f auditFake) VerifyTenantAudit(ctx context.Context, r *granaryv1.VerifyTenantAuditRequest, s granaryv1connect.AuditAdminServiceVerifyTenantAuditServerStream) error {
	f.note(ctx, r)
	return s.Send(&granaryv1.VerifyAuditResponse{Report: f.report})
}

func (f auditFake) serve(t *testing.T) string {
	t.Helper()
	server := connect.NewServer()
	granaryv1connect.RegisterAuditServiceHandler(server, f)
	granaryv1connect.RegisterAuditAdminServiceHandler(server, f)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

func auditScript(req proto.Message) (proto.Message, error) {
	one := &granaryv1.AuditEvent{Time: at(0), Principal: "ada", Credential: "token", Method: "granary.v1.SearchService/Search", Resource: "knowledgeBases/handbook",
		RemoteAddress: "192.0.2.1", RequestId: "r1", Code: "ok", Duration: durationpb.New(time.Millisecond), Count: 1, Stream: "n#1", Sequence: 1}
	switch r := req.(type) {
	case *granaryv1.ListAuditEventsRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListAuditEventsResponse{NextPageToken: "p2", Events: []*granaryv1.AuditEvent{one}}, nil
		}
		return &granaryv1.ListAuditEventsResponse{Events: []*granaryv1.AuditEvent{{Time: at(1), Principal: "bob", Method: "granary.v1.EventService/WatchEvents",
			Phase: "open", RemoteAddress: "192.0.2.2", Code: "not_found", Reason: "KNOWLEDGE_BASE_NOT_FOUND", Count: 1}}}, nil
	case *granaryv1.ListTenantAuditEventsRequest:
		return &granaryv1.ListAuditEventsResponse{Events: []*granaryv1.AuditEvent{{Time: at(2), Phase: "summary", Code: "unauthenticated", Count: 4711}}}, nil
	}
	return &granaryv1.GetCheckpointResponse{Number: 3, Hash: []byte{0xab, 0xcd}, PublicKeys: "-----BEGIN PUBLIC KEY-----\n"}, nil
}

func wholeReport() *granaryv1.AuditReport {
	return &granaryv1.AuditReport{Journals: 2, Events: 7, Streams: 1, Accesses: 8, Checkpoints: 3, Uncovered: 1, LastCheckpoint: 3,
		LastCheckpointHash: []byte{0xab, 0xcd}, LastCheckpointTime: at(5), UnchainedEvents: 4,
		Erasures: []*granaryv1.AuditErasure{{Chain: "journal/kb/gone", Sequence: 3}}}
}

func TestOutputOfTheAuditCommandsMatchesItsGoldenFiles_I1(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"audit_list": {[]string{"list"}, ExitOK}, "audit_list_tenant": {[]string{"list", "--tenant", ""}, ExitOK},
		"audit_verify": {[]string{"verify"}, ExitOK}, "audit_verify_bad": {[]string{"verify", "--tenant", "acme"}, ExitFailed},
		"audit_export": {[]string{"export"}, ExitOK}, "audit_checkpoint": {[]string{"checkpoint"}, ExitOK}, "audit_key": {[]string{"key"}, ExitOK},
	} {
		t.Run(name, func(t *testing.T) {
			f := auditFake{&fake{answer: auditScript}, wholeReport()}
			if c.code != ExitOK {
				f.report.Problems = []*granaryv1.AuditProblem{{Chain: "journal/kb/handbook", Sequence: 3, What: "is missing"}}
			}
			url := f.serve(t)
			pipe := granary(t, url, world{}, append([]string{"audit"}, c.args...)...)
			wantCode(t, pipe, c.code)
			golden(t, name+".pipe", pipe.stdout+"--- stderr\n"+pipe.stderr)
			want := "Bearer s3cret-token"
			if strings.Contains(strings.Join(c.args, " "), "--tenant") {
				want = "Bearer s3cret-operator"
			}
			for _, h := range f.headers {
				if h != want {
					t.Errorf("sent the credential %q", h)
				}
			}
		})
	}
}

func TestExportIsVerifiedWithoutAServer_I1(t *testing.T) {
	dir := t.TempDir()
	s, err := embedded.Open(t.Context(), embedded.Config{Dir: filepath.Join(dir, "data")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	text, _ := trail.NewKeyPEM()
	signer, err := trail.ParseSigner(text)
	if err != nil {
		t.Fatal(err)
	}
	a := journal.Access{Tenant: "acme", Stream: "n#1", Seq: 1, Time: time.UnixMicro(1), Principal: "ada", Method: "m", Code: "ok", Count: 1}
	a.Hash = journal.LinkAccess(nil, a)
	if err := s.PutAccesses(t.Context(), []journal.Access{a}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := (&trail.Maker{Store: s, Signer: signer}).Make(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	if err := trail.Export(t.Context(), s, signer.Public(), "acme", true, func(i trail.Item) error { return enc.Encode(i) }); err != nil {
		t.Fatal(err)
	}
	public, _ := signer.Public().PEM()
	export, key := filepath.Join(dir, "e.jsonl"), filepath.Join(dir, "k.pem")
	write := func(b []byte) {
		if err := os.WriteFile(export, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(lines.Bytes())
	if err := os.WriteFile(key, public, 0o600); err != nil {
		t.Fatal(err)
	}
	nowhere := "http://127.0.0.1:1"
	r := granary(t, nowhere, world{}, "audit", "verify", "--from-export", export, "--public-key", key)
	wantCode(t, r, ExitOK)
	wantContains(t, r.stdout, "the audit is whole", "calls", "last checkpoint")
	write(bytes.Replace(lines.Bytes(), []byte(`"principal":"ada"`), []byte(`"principal":"eve"`), 1))
	r = granary(t, nowhere, world{}, "audit", "verify", "--from-export", export, "--public-key", key)
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stdout, "accesses/n#1 1: what the record says")
	write(lines.Bytes())
	r = granary(t, nowhere, world{}, "audit", "verify", "--from-export", export, "--public-key", key, "--expect", "2:abcd")
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stdout, "set back")
	wantCode(t, granary(t, nowhere, world{}, "audit", "verify", "--from-export", export), ExitUsage)
	wantCode(t, granary(t, nowhere, world{}, "audit", "verify", "--from-export", export, "--public-key", export), ExitFailed)
}
