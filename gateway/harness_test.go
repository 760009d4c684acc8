package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asked is one call a grain got.
type asked struct {
	kind, tenant, id string
	msg              proto.Message
}

func (a asked) kb() *nodev1.KnowledgeBaseCall { return a.msg.(*nodev1.KnowledgeBaseCall) }

// grains is a scripted double of the port: script answers, calls are remembered.
type grains struct {
	mu     sync.Mutex
	calls  []asked
	script func(ctx context.Context, a asked) (proto.Message, error)
	access func(tenant string, q *nodev1.GetAccess) (proto.Message, error) // nil: everybody is welcome
}

func (g *grains) Ask(ctx context.Context, kind, tenant, id string, msg proto.Message) (proto.Message, error) {
	if m, ok := msg.(*nodev1.TenantCall); ok && m.GetGetAccess() != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.access != nil {
			return g.access(tenant, m.GetGetAccess())
		}
		return &nodev1.TenantReply{Result: &nodev1.TenantReply_Access{Access: &nodev1.Access{}}}, nil
	}
	a := asked{kind, tenant, id, proto.Clone(msg)}
	g.mu.Lock()
	g.calls = append(g.calls, a)
	script := g.script
	g.mu.Unlock()
	return script(ctx, a)
}

func (g *grains) answer(m proto.Message) {
	g.setScript(func(context.Context, asked) (proto.Message, error) { return m, nil })
}

func (g *grains) fail(err error) {
	g.setScript(func(context.Context, asked) (proto.Message, error) { return nil, err })
}

func (g *grains) setScript(f func(context.Context, asked) (proto.Message, error)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.script = f
}

func (g *grains) all() []asked {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]asked(nil), g.calls...)
}

func (g *grains) last(t *testing.T) asked {
	t.Helper()
	all := g.all()
	if len(all) == 0 {
		t.Fatal("no grain was asked")
	}
	return all[len(all)-1]
}

// blobs keeps blobs in memory; with discard it keeps sizes and hashes only.
type blobs struct {
	mu      sync.Mutex
	discard bool
	fail    error // of CreateBlob
	kept    map[string][]byte
	info    map[string]journal.BlobInfo
	aborted int
	onAbort chan struct{} // gets one value for each Abort, when there is room
	onBegin chan struct{} // the same, for each CreateBlob
}

func newBlobs() *blobs {
	return &blobs{kept: map[string][]byte{}, info: map[string]journal.BlobInfo{}, onAbort: make(chan struct{}, 1), onBegin: make(chan struct{}, 1)}
}

type blobWriter struct {
	store  *blobs
	tenant string
	body   bytes.Buffer
	size   int64
	hash   hash.Hash
	done   bool
}

func (b *blobs) CreateBlob(_ context.Context, tenant string) (journal.BlobWriter, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.onBegin <- struct{}{}:
	default:
	}
	return &blobWriter{store: b, tenant: tenant, hash: sha256.New()}, b.fail
}

func (w *blobWriter) Write(p []byte) (int, error) {
	w.hash.Write(p)
	w.size += int64(len(p))
	if !w.store.discard {
		w.body.Write(p)
	}
	return len(p), nil
}

func (w *blobWriter) Commit(context.Context) (journal.BlobInfo, error) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.done = true
	info := journal.BlobInfo{ID: uuid.NewString(), Size: w.size, SHA256: hex.EncodeToString(w.hash.Sum(nil))}
	w.store.kept[w.tenant+"/"+info.ID] = w.body.Bytes()
	w.store.info[w.tenant+"/"+info.ID] = info
	return info, nil
}

func (w *blobWriter) Abort() {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if !w.done {
		w.done = true
		w.store.aborted++
		select {
		case w.store.onAbort <- struct{}{}:
		default:
		}
	}
}

func (b *blobs) OpenBlob(_ context.Context, tenant, id string) (io.ReadCloser, journal.BlobInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, ok := b.kept[tenant+"/"+id]
	if !ok {
		return nil, journal.BlobInfo{}, journal.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(body)), b.info[tenant+"/"+id], nil
}

func (b *blobs) DeleteBlob(_ context.Context, tenant, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.kept, tenant+"/"+id)
	return nil
}

// ClaimedBlobs: nobody has claimed anything here.
func (b *blobs) ClaimedBlobs(_ context.Context, id journal.Identity, after string, limit int) (out []string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key := range b.kept {
		if tenant, blob, _ := strings.Cut(key, "/"); tenant == id.Tenant && blob > after {
			out = append(out, blob)
		}
	}
	slices.Sort(out)
	return out[:min(limit, len(out))], nil
}

func (b *blobs) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.kept)
}

func (b *blobs) body(t *testing.T, tenant, id string) string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	body, ok := b.kept[tenant+"/"+id]
	if !ok {
		t.Fatalf("no blob %s of %s", id, tenant)
	}
	return string(body)
}

// world is a gateway that serves on loopback, with its doubles.
type world struct {
	*testing.T
	grains  *grains
	blobs   *blobs
	auth    *auth.Authority
	gateway *gateway.Gateway
	address string // host:port
	url     string
	log     *syncBuffer
}

// syncBuffer is a log that a test can wait on.
type syncBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	written chan struct{} // gets a value after a write, when there is room
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.written <- struct{}{}:
	default:
	}
	return s.b.Write(p)
}

// await waits until the log contains text.
func (s *syncBuffer) await(t *testing.T, text string, limit time.Duration) {
	t.Helper()
	end := time.After(limit)
	for !strings.Contains(s.String(), text) {
		select {
		case <-s.written:
		case <-end:
			t.Fatalf("after %v the log has no %q", limit, text)
		}
	}
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func start(t *testing.T, change ...func(*gateway.Config)) *world {
	t.Helper()
	return startWith(t, func(*gateway.Gateway) {}, change...)
}

// startWith lets a test turn an unexported screw before anything is served.
func startWith(t *testing.T, turn func(*gateway.Gateway), change ...func(*gateway.Config)) *world {
	t.Helper()
	authority, err := auth.Open(filepath.Join(t.TempDir(), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, grains: &grains{}, blobs: newBlobs(), auth: authority, log: &syncBuffer{written: make(chan struct{}, 1)}}
	w.grains.fail(errors.New("no script"))
	cfg := gateway.Config{
		Grains: w.grains, Blobs: w.blobs, Verifier: authority, Operators: authority, Version: "test",
		UploadKey: gateway.Secret(strings.Repeat("k", 32)), KeyPepper: gateway.Secret(strings.Repeat("p", 32)), Grace: 20 * time.Millisecond,
		Logger: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&cfg)
	}
	if w.gateway, err = gateway.New(cfg); err != nil {
		t.Fatal(err)
	}
	turn(w.gateway)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address, w.url = listener.Addr().String(), "http://"+listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- w.gateway.Serve(context.Background(), listener) }()
	t.Cleanup(func() {
		_ = w.gateway.Shutdown(context.Background())
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return w
}

func (w *world) token(roles ...string) string {
	w.Helper()
	return w.tokenOf("acme", "ada", roles...)
}

func (w *world) tokenOf(tenant, subject string, roles ...string) string {
	w.Helper()
	token, err := w.auth.Issue(auth.Grant{Tenant: tenant, Subject: subject, Roles: roles, Life: time.Hour})
	if err != nil {
		w.Fatal(err)
	}
	return token.Reveal()
}

func (w *world) operatorToken() string {
	w.Helper()
	token, err := w.auth.IssueOperator(auth.OperatorGrant{Subject: "olga", Life: time.Hour})
	if err != nil {
		w.Fatal(err)
	}
	return token.Reveal()
}

// httpClient speaks HTTP/1.1, or HTTP/2 without TLS.
func httpClient(t *testing.T, h2 bool) *http.Client {
	t.Helper()
	p := new(http.Protocols)
	p.SetHTTP1(!h2)
	p.SetUnencryptedHTTP2(h2)
	transport := &http.Transport{Protocols: p}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// client is a Connect client that sends the token and headers (name, value, …).
func (w *world) client(token string, headers ...string) *connect.Client {
	w.Helper()
	return w.clientWith(token, headers)
}

func (w *world) clientWith(token string, headers []string, options ...connecthttp.Option) *connect.Client {
	w.Helper()
	return connect.NewClient(connecthttp.NewTransport(httpClient(w.T, true), w.url, options...),
		func(next connect.ClientFunc) connect.ClientFunc {
			return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
				info, _ := connect.CallInfoForClientContext(ctx)
				if token != "" {
					info.RequestHeader().Set("Authorization", "Bearer "+token)
				}
				for i := 0; i+1 < len(headers); i += 2 {
					info.RequestHeader().Set(headers[i], headers[i+1])
				}
				return next(ctx, spec)
			}
		})
}

// do sends one request over HTTP/1.1, as curl would.
func (w *world) do(method, path, body string, headers ...string) (*http.Response, string) {
	w.Helper()
	req, err := http.NewRequest(method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	if body == "" {
		req.Body = http.NoBody
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := httpClient(w.T, false).Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		w.Fatal(err)
	}
	return res, string(out)
}

// post calls an RPC with JSON and the token.
func (w *world) post(token, procedure, body string, headers ...string) (*http.Response, string) {
	w.Helper()
	return w.do(http.MethodPost, procedure, body,
		append([]string{"Content-Type", "application/json", "Authorization", "Bearer " + token}, headers...)...)
}

func knowledgeBaseReply(id string, revision int64) *nodev1.KnowledgeBaseReply {
	return &nodev1.KnowledgeBaseReply{Revision: revision, Result: &nodev1.KnowledgeBaseReply_KnowledgeBase{
		KnowledgeBase: &v1.KnowledgeBase{Name: "knowledgeBases/" + id, Uid: "uid-" + id, Revision: revision},
	}}
}

func addReply(duplicate bool) *nodev1.KnowledgeBaseReply {
	return &nodev1.KnowledgeBaseReply{Revision: 2, Result: &nodev1.KnowledgeBaseReply_AddDocument{
		AddDocument: &nodev1.AddDocumentResult{
			Document:  &v1.Document{Name: "knowledgeBases/handbook/documents/d1", State: v1.DocumentState_DOCUMENT_STATE_QUEUED},
			Duplicate: duplicate,
		},
	}}
}

func refuse(code int32, reason, message string) *nodev1.KnowledgeBaseReply {
	return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Error{
		Error: &nodev1.Error{Code: code, Reason: reason, Message: message},
	}}
}
