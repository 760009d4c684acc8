package cli

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a scripted server: a nil function is an unimplemented method.
type fake struct {
	granaryv1connect.UnimplementedKnowledgeBaseServiceHandler
	granaryv1connect.UnimplementedDocumentServiceHandler
	granaryv1connect.UnimplementedSearchServiceHandler
	granaryv1connect.UnimplementedEventServiceHandler
	granaryv1connect.UnimplementedTenantServiceHandler
	granaryv1connect.UnimplementedClusterServiceHandler

	mu       sync.Mutex
	requests []proto.Message // as they came
	headers  []string        // Authorization of each call
	protos   []string        // HTTP version of each call

	answer func(req proto.Message) (proto.Message, error) // unary methods
	upload func(spec *granaryv1.DocumentSpec, data []byte) (*granaryv1.UploadDocumentResponse, error)
	watch  func(ctx context.Context, req *granaryv1.WatchEventsRequest, send func(*granaryv1.WatchEventsResponse) error) error

	archives granaryv1connect.ArchiveServiceHandler
}

func (f *fake) note(ctx context.Context, req proto.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, proto.Clone(req))
	if info, ok := connect.CallInfoForServerContext(ctx); ok {
		f.headers = append(f.headers, info.RequestHeader().Get("Authorization"))
	}
	if info, ok := connecthttp.ServerInfoForContext(ctx); ok {
		f.protos = append(f.protos, info.RequestProto())
	}
}

// got are the requests of one type, in order.
func got[T proto.Message](f *fake) []T {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []T
	for _, r := range f.requests {
		if m, ok := r.(T); ok {
			list = append(list, m)
		}
	}
	return list
}

func unary[Res proto.Message](ctx context.Context, f *fake, req proto.Message) (res Res, err error) {
	f.note(ctx, req)
	if f.answer == nil {
		return res, connect.NewError(connect.CodeUnimplemented, "not scripted")
	}
	m, err := f.answer(req)
	if err != nil {
		return res, err
	}
	return m.(Res), nil
}

func (f *fake) CreateKnowledgeBase(ctx context.Context, r *granaryv1.CreateKnowledgeBaseRequest) (*granaryv1.CreateKnowledgeBaseResponse, error) {
	return unary[*granaryv1.CreateKnowledgeBaseResponse](ctx, f, r)
}

func (f *fake) GetKnowledgeBase(ctx context.Context, r *granaryv1.GetKnowledgeBaseRequest) (*granaryv1.GetKnowledgeBaseResponse, error) {
	return unary[*granaryv1.GetKnowledgeBaseResponse](ctx, f, r)
}

func (f *fake) ListKnowledgeBases(ctx context.Context, r *granaryv1.ListKnowledgeBasesRequest) (*granaryv1.ListKnowledgeBasesResponse, error) {
	return unary[*granaryv1.ListKnowledgeBasesResponse](ctx, f, r)
}

func (f *fake) UpdateKnowledgeBase(ctx context.Context, r *granaryv1.UpdateKnowledgeBaseRequest) (*granaryv1.UpdateKnowledgeBaseResponse, error) {
	return unary[*granaryv1.UpdateKnowledgeBaseResponse](ctx, f, r)
}

func (f *fake) DeleteKnowledgeBase(ctx context.Context, r *granaryv1.DeleteKnowledgeBaseRequest) (*emptypb.Empty, error) {
	return unary[*emptypb.Empty](ctx, f, r)
}

func (f *fake) CreateDocument(ctx context.Context, r *granaryv1.CreateDocumentRequest) (*granaryv1.CreateDocumentResponse, error) {
	return unary[*granaryv1.CreateDocumentResponse](ctx, f, r)
}

func (f *fake) AppendUpload(ctx context.Context, r *granaryv1.AppendUploadRequest) (*granaryv1.AppendUploadResponse, error) {
	return unary[*granaryv1.AppendUploadResponse](ctx, f, r)
}

func (f *fake) GetDocument(ctx context.Context, r *granaryv1.GetDocumentRequest) (*granaryv1.GetDocumentResponse, error) {
	return unary[*granaryv1.GetDocumentResponse](ctx, f, r)
}

func (f *fake) ListDocuments(ctx context.Context, r *granaryv1.ListDocumentsRequest) (*granaryv1.ListDocumentsResponse, error) {
	return unary[*granaryv1.ListDocumentsResponse](ctx, f, r)
}

func (f *fake) DeleteDocument(ctx context.Context, r *granaryv1.DeleteDocumentRequest) (*emptypb.Empty, error) {
	return unary[*emptypb.Empty](ctx, f, r)
}

func (f *fake) CancelDocument(ctx context.Context, r *granaryv1.CancelDocumentRequest) (*granaryv1.CancelDocumentResponse, error) {
	return unary[*granaryv1.CancelDocumentResponse](ctx, f, r)
}

func (f *fake) ReprocessDocument(ctx context.Context, r *granaryv1.ReprocessDocumentRequest) (*granaryv1.ReprocessDocumentResponse, error) {
	return unary[*granaryv1.ReprocessDocumentResponse](ctx, f, r)
}

func (f *fake) ListChunks(ctx context.Context, r *granaryv1.ListChunksRequest) (*granaryv1.ListChunksResponse, error) {
	return unary[*granaryv1.ListChunksResponse](ctx, f, r)
}

func (f *fake) GetDocumentText(ctx context.Context, r *granaryv1.GetDocumentTextRequest) (*granaryv1.GetDocumentTextResponse, error) {
	return unary[*granaryv1.GetDocumentTextResponse](ctx, f, r)
}

func (f *fake) Search(ctx context.Context, r *granaryv1.SearchRequest) (*granaryv1.SearchResponse, error) {
	return unary[*granaryv1.SearchResponse](ctx, f, r)
}

func (f *fake) RecountUsage(ctx context.Context, r *granaryv1.RecountUsageRequest) (*granaryv1.RecountUsageResponse, error) {
	return unary[*granaryv1.RecountUsageResponse](ctx, f, r)
}

func (f *fake) GetUsage(ctx context.Context, r *granaryv1.GetUsageRequest) (*granaryv1.GetUsageResponse, error) {
	return unary[*granaryv1.GetUsageResponse](ctx, f, r)
}

func (f *fake) GetTenant(ctx context.Context, r *granaryv1.GetTenantRequest) (*granaryv1.GetTenantResponse, error) {
	return unary[*granaryv1.GetTenantResponse](ctx, f, r)
}

func (f *fake) UpdateTenantConfig(ctx context.Context, r *granaryv1.UpdateTenantConfigRequest) (*granaryv1.UpdateTenantConfigResponse, error) {
	return unary[*granaryv1.UpdateTenantConfigResponse](ctx, f, r)
}

func (f *fake) UploadDocument(ctx context.Context, s granaryv1connect.DocumentServiceUploadDocumentServerStream) (*granaryv1.UploadDocumentResponse, error) {
	first, err := s.Receive()
	if err != nil {
		return nil, err
	}
	f.note(ctx, first)
	if f.upload == nil {
		return nil, connect.NewError(connect.CodeUnimplemented, "not scripted")
	}
	var data bytes.Buffer
	for {
		msg, err := s.Receive()
		if err == io.EOF || err != nil && strings.Contains(err.Error(), "EOF") {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(msg.GetData()) > 1<<20 {
			return nil, connect.NewError(connect.CodeInvalidArgument, "part too large")
		}
		data.Write(msg.GetData())
	}
	return f.upload(first.GetSpec(), data.Bytes())
}

func (f *fake) WatchEvents(ctx context.Context, r *granaryv1.WatchEventsRequest, s granaryv1connect.EventServiceWatchEventsServerStream) error {
	f.note(ctx, r)
	if f.watch == nil {
		return connect.NewError(connect.CodeUnimplemented, "not scripted")
	}
	return f.watch(ctx, r, s.Send)
}

// serve starts f; http1 leaves HTTP/2 in clear text out.
func (f *fake) serve(t *testing.T, http1 bool) string {
	t.Helper()
	server := connect.NewServer()
	granaryv1connect.RegisterKnowledgeBaseServiceHandler(server, f)
	granaryv1connect.RegisterDocumentServiceHandler(server, f)
	granaryv1connect.RegisterSearchServiceHandler(server, f)
	granaryv1connect.RegisterEventServiceHandler(server, f)
	granaryv1connect.RegisterTenantServiceHandler(server, f)
	granaryv1connect.RegisterClusterServiceHandler(server, f)
	granaryv1connect.RegisterEncryptionServiceHandler(server, f)
	granaryv1connect.RegisterAccessServiceHandler(server, f)
	granaryv1connect.RegisterTenantAdminServiceHandler(server, f)
	if f.archives != nil {
		granaryv1connect.RegisterArchiveServiceHandler(server, f.archives)
	}
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(!http1)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL
}

// world is the process around one run.
type world struct {
	stdin    string
	env      map[string]string
	terminal bool // all three streams
	width    int
	ctx      context.Context
	sleeps   *[]time.Duration // records pauses
	stopAt   string           // interrupts once standard output has this
}

type result struct {
	code           int
	stdout, stderr string
}

// granary runs a command line against the server at url.
func granary(t *testing.T, url string, w world, args ...string) result {
	t.Helper()
	var stdout, stderr lockedBuffer
	vars := map[string]string{"GRANARY_SERVER": url, "GRANARY_TOKEN": "s3cret-token", "GRANARY_OPERATOR_TOKEN": "s3cret-operator"}
	for k, v := range w.env {
		vars[k] = v
	}
	env := Env{
		Stdin: strings.NewReader(w.stdin), Stdout: &stdout, Stderr: &stderr,
		Getenv:     func(k string) string { return vars[k] },
		IsTerminal: func(any) bool { return w.terminal },
		Width:      func() int { return w.width },
		BuildInfo: func() (*debug.BuildInfo, bool) {
			return &debug.BuildInfo{
				GoVersion: "go1.99",
				Main:      debug.Module{Path: "granary.dev/granary", Version: "v1.2.3"},
				Settings:  []debug.BuildSetting{{Key: "vcs.revision", Value: "abc123"}, {Key: "vcs.modified", Value: "true"}},
			}, true
		},
	}
	env.Sleep = func(ctx context.Context, d time.Duration) error {
		if w.sleeps != nil {
			*w.sleeps = append(*w.sleeps, d)
		}
		return ctx.Err()
	}
	ctx := w.ctx
	if ctx == nil {
		ctx = t.Context()
	}
	if w.stopAt != "" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		stdout.until, stdout.reached = w.stopAt, cancel
	}
	root := Root(env)
	root.SetArgs(args)
	code := Execute(ctx, root)
	r := result{code, stdout.String(), stderr.String()}
	if strings.Contains(r.stdout+r.stderr, "s3cret") {
		t.Errorf("the token was printed: %q %q", r.stdout, r.stderr)
	}
	return r
}

// lockedBuffer may be written by several goroutines. It calls reached once it holds until.
type lockedBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	until   string
	reached func()
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.b.Write(p)
	if l.until != "" && strings.Contains(l.b.String(), l.until) {
		l.reached()
	}
	return n, err
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// golden compares text with a file of testdata.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("%s differs\n--- want\n%s\n--- got\n%s", path, want, text)
	}
}

// rpcError makes an error as the gateway does.
func rpcError(t *testing.T, code connect.Code, reason, message string, retry time.Duration, more ...proto.Message) error {
	t.Helper()
	e := connect.NewError(code, message)
	details := append([]proto.Message{&errdetails.ErrorInfo{Reason: reason, Domain: "granary.dev"}}, more...)
	if retry > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retry)})
	}
	for _, m := range details {
		d, err := connectproto.NewErrorDetail(m)
		if err != nil {
			t.Fatal(err)
		}
		e = e.WithDetail(d)
	}
	return e
}

// at is a fixed time for answers.
func at(seconds int64) *timestamppb.Timestamp {
	return timestamppb.New(time.Unix(1_800_000_000+seconds, 0))
}

func wantCode(t *testing.T, r result, code int) {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, code, r.stdout, r.stderr)
	}
}

func wantContains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in:\n%s", p, text)
		}
	}
}
