package gateway_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

const getKB = "/granary.v1.KnowledgeBaseService/GetKnowledgeBase"

func dialGRPC(t *testing.T, w *world) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestConnectJSONOverCurl_A6(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	res, body := w.post(w.token("editor"), "/granary.v1.KnowledgeBaseService/CreateKnowledgeBase",
		`{"knowledgeBaseId":"handbook","displayName":"Handbook"}`)
	if res.StatusCode != 200 || !strings.Contains(body, `"knowledgeBases/handbook"`) {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	if res.Header.Get("X-Request-Id") == "" {
		t.Error("no request id")
	}
	a := w.grains.last(t)
	if a.kind != "kb" || a.tenant != "acme" || a.id != "handbook" || a.kb().GetCreate().GetDisplayName() != "Handbook" {
		t.Errorf("asked %v", a)
	}
	h := a.kb().GetHeader()
	if h.GetTenant() != "acme" || h.GetPrincipal() != "ada" || !slices.Equal(h.GetRoles(), []string{"editor"}) ||
		h.GetRequestId() != res.Header.Get("X-Request-Id") {
		t.Errorf("header %v", h)
	}
	if left := h.GetRemaining().AsDuration(); left < 25*time.Second || left > 30*time.Second {
		t.Errorf("remaining %v, want the default of 30 s", left)
	}
}

func TestGRPC_A6(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 4))
	conn := dialGRPC(t, w)
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+w.token("viewer")), 5*time.Second)
	defer cancel()
	var out v1.GetKnowledgeBaseResponse
	if err := conn.Invoke(ctx, getKB, &v1.GetKnowledgeBaseRequest{Name: "handbook"}, &out); err != nil {
		t.Fatal(err)
	}
	if out.GetKnowledgeBase().GetRevision() != 4 {
		t.Errorf("got %v", &out)
	}
	if left := w.grains.last(t).kb().GetHeader().GetRemaining().AsDuration(); left > 5*time.Second || left < 3*time.Second {
		t.Errorf("remaining %v, want the client's 5 s", left)
	}
	w.grains.answer(refuse(5, kb.ReasonKnowledgeBaseNotFound, "no such thing"))
	err := conn.Invoke(ctx, getKB, &v1.GetKnowledgeBaseRequest{Name: "handbook"}, &out)
	if s := status.Convert(err); s.Code() != codes.NotFound || len(s.Details()) != 1 {
		t.Errorf("%v %v", err, s.Details())
	}
}

func TestGRPCWebOverHTTP1_A6(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 9))
	call := func(name string) (string, []byte) {
		raw, err := proto.Marshal(&v1.GetKnowledgeBaseRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw))), raw...)
		res, body := w.do(http.MethodPost, getKB, string(frame), "Content-Type", "application/grpc-web+proto",
			"X-Grpc-Web", "1", "Authorization", "Bearer "+w.token("viewer"))
		if res.StatusCode != 200 || res.ProtoMajor != 1 {
			t.Fatalf("%s %s", res.Proto, res.Status)
		}
		var message []byte
		for len(body) >= 5 {
			size := binary.BigEndian.Uint32([]byte(body[1:5]))
			if body[0]&0x80 != 0 {
				return body[5 : 5+size], message
			}
			message, body = []byte(body[5:5+size]), body[5+size:]
		}
		t.Fatalf("no trailers in %q, headers %v", body, res.Header)
		return "", nil
	}
	trailers, raw := call("handbook")
	var out v1.GetKnowledgeBaseResponse
	if err := proto.Unmarshal(raw, &out); err != nil || out.GetKnowledgeBase().GetRevision() != 9 {
		t.Errorf("%v %v", err, &out)
	}
	if !strings.Contains(trailers, "grpc-status: 0") {
		t.Errorf("trailers %q", trailers)
	}
	if trailers, _ = call("-"); !strings.Contains(trailers, "grpc-status: 3") {
		t.Errorf("trailers %q", trailers)
	}
}

func TestReadsByGETRevalidate_D1(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 7))
	path := getKB + "?connect=v1&encoding=json&message=" + url.QueryEscape(`{"name":"handbook"}`)
	auth := "Bearer " + w.token("viewer")
	res, body := w.do(http.MethodGet, path, "", "Authorization", auth)
	tag := res.Header.Get("ETag")
	if res.StatusCode != 200 || tag == "" || res.Header.Get("Cache-Control") != "private, no-cache" ||
		!slices.Contains(res.Header.Values("Vary"), "Authorization") {
		t.Fatalf("%d %s %v", res.StatusCode, body, res.Header)
	}
	res, body = w.do(http.MethodGet, path, "", "Authorization", auth, "If-None-Match", `"other", `+tag)
	if res.StatusCode != 304 || body != "" || res.Header.Get("ETag") != tag {
		t.Errorf("same answer: %d %q %v", res.StatusCode, body, res.Header)
	}
	w.grains.answer(knowledgeBaseReply("handbook", 8))
	res, _ = w.do(http.MethodGet, path, "", "Authorization", auth, "If-None-Match", tag)
	if res.StatusCode != 200 || res.Header.Get("ETag") == tag {
		t.Errorf("new revision: %d, tag %s", res.StatusCode, res.Header.Get("ETag"))
	}
	w.grains.answer(refuse(5, kb.ReasonKnowledgeBaseNotFound, "gone"))
	res, _ = w.do(http.MethodGet, path, "", "Authorization", auth, "If-None-Match", tag)
	if res.StatusCode != 404 || res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("ETag") != "" {
		t.Errorf("error: %d %v", res.StatusCode, res.Header)
	}
	// What changes something cannot be asked by GET.
	res, _ = w.do(http.MethodGet, "/granary.v1.KnowledgeBaseService/DeleteKnowledgeBase?connect=v1&encoding=json&message=%7B%7D", "", "Authorization", auth)
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("delete by GET: %d", res.StatusCode)
	}
}

func TestConnectClientByGET_D1(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 7))
	c := granaryv1connect.NewKnowledgeBaseServiceClient(w.clientWith(w.token("viewer"), nil, connecthttp.WithHTTPGet()))
	ctx, info := connect.NewClientContext(t.Context())
	if _, err := c.GetKnowledgeBase(ctx, &v1.GetKnowledgeBaseRequest{Name: "handbook"}); err != nil {
		t.Fatal(err)
	}
	tag := info.ResponseHeader().Get("ETag")
	c = granaryv1connect.NewKnowledgeBaseServiceClient(w.clientWith(w.token("viewer"), []string{"If-None-Match", tag}, connecthttp.WithHTTPGet()))
	_, err := c.GetKnowledgeBase(t.Context(), &v1.GetKnowledgeBaseRequest{Name: "handbook"})
	if tag == "" || !connecthttp.IsNotModifiedError(err) {
		t.Errorf("tag %q, error %v", tag, err)
	}
}

func TestSmallAnswersAreNotCompressed(t *testing.T) {
	w := start(t)
	for size, want := range map[int]string{10: "", 4000: "gzip"} {
		w.grains.answer(&nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_KnowledgeBase{
			KnowledgeBase: &v1.KnowledgeBase{Name: "knowledgeBases/handbook", Description: strings.Repeat("a", size)},
		}})
		res, _ := w.post(w.token("viewer"), getKB, `{"name":"handbook"}`, "Accept-Encoding", "gzip")
		if got := res.Header.Get("Content-Encoding"); got != want {
			t.Errorf("%d bytes: Content-Encoding %q, want %q", size, got, want)
		}
	}
}

func TestRequestsThatCannotBeReadAreRefusedClearly(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	for name, c := range map[string]struct{ body, says string }{
		"unknown field": {`{"name":"handbook","mane":"x"}`, `unknown field \"mane\"`},
		"no JSON":       {`{"name":`, "cannot be decoded"},
		"wrong type":    {`{"name":7}`, "cannot be decoded"},
		"invalid UTF-8": {"{\"name\":\"hand\xffbook\"}", "invalid UTF-8"},
		"empty":         {" ", "cannot be decoded"},
		"too large":     {`{"name":"` + strings.Repeat("a", 2<<20) + `"}`, "larger than this method takes"},
		"rule broken":   {`{"name":"No Such Name"}`, `"field":"name"`},
	} {
		res, body := w.post(w.token("viewer"), getKB, c.body)
		if res.StatusCode != 400 || !strings.Contains(body, `"invalid_argument"`) ||
			!strings.Contains(body, kb.ReasonRequestInvalid) || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
	}
	bad := binary.BigEndian.AppendUint32([]byte{0}, 4)
	bad = append(bad, 0x0a, 0x02, 0xff, 0xfe) // name = two bytes that are no UTF-8
	res, body := w.do(http.MethodPost, getKB, string(bad), "Content-Type", "application/grpc-web+proto",
		"Authorization", "Bearer "+w.token("viewer"))
	if !strings.Contains(body, "grpc-status: 3") || !strings.Contains(body, "invalid UTF-8") {
		t.Errorf("binary: %d %q", res.StatusCode, body)
	}
	if n := len(w.grains.all()); n != 0 {
		t.Errorf("%d of them reached a grain", n)
	}
}

func TestUnknownMethod(t *testing.T) {
	w := start(t)
	res, body := w.post(w.token("viewer"), "/granary.v1.KnowledgeBaseService/Burn", `{}`)
	if res.StatusCode != http.StatusNotImplemented || !strings.Contains(body, kb.ReasonUnknownOperation) {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if res, _ = w.do(http.MethodGet, "/nothing", ""); res.StatusCode != 404 {
		t.Errorf("unknown path: %d", res.StatusCode)
	}
}

func TestReflectionListsEveryService_A6(t *testing.T) {
	w := start(t)
	stream, err := reflectpb.NewServerReflectionClient(dialGRPC(t, w)).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range out.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	for _, want := range []string{
		"granary.v1.ClusterService", "granary.v1.DocumentService", "granary.v1.EventService", "granary.v1.KnowledgeBaseService",
		"granary.v1.SearchService", "granary.v1.TenantService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not in %v", want, names)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("end of stream: %v", err)
	}
}

func TestHealth(t *testing.T) {
	ready := error(nil)
	w := start(t, func(c *gateway.Config) { c.Ready = func(context.Context) error { return ready } })
	h := healthpb.NewHealthClient(dialGRPC(t, w))
	for service, want := range map[string]codes.Code{"": codes.OK, "granary.v1.SearchService": codes.OK, "nobody": codes.NotFound} {
		out, err := h.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if status.Code(err) != want || want == codes.OK && out.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v %v", service, out, err)
		}
	}
	all, err := h.List(t.Context(), &healthpb.HealthListRequest{})
	if err != nil || len(all.GetStatuses()) < 8 {
		t.Errorf("list: %v %v", all, err)
	}
	for path, want := range map[string]string{"/health": "alive", "/ready": "ready"} {
		res, body := w.do(http.MethodGet, path, "")
		var answer map[string]string
		if err := json.Unmarshal([]byte(body), &answer); err != nil || res.StatusCode != 200 ||
			answer["status"] != want || answer["version"] != "test" {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	ready = fmt.Errorf("dial postgres://user:hunter2@db: refused")
	res, body := w.do(http.MethodGet, "/ready", "")
	if res.StatusCode != 503 || strings.Contains(body, "hunter2") {
		t.Errorf("not ready: %d %s", res.StatusCode, body)
	}
	ready = kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "The store cannot be reached.")
	if res, body = w.do(http.MethodGet, "/ready", ""); res.StatusCode != 503 || !strings.Contains(body, "The store cannot be reached.") {
		t.Errorf("not ready: %d %s", res.StatusCode, body)
	}
	if res, _ = w.do(http.MethodGet, "/health", ""); res.StatusCode != 200 {
		t.Errorf("a node that is not ready is alive all the same: %d", res.StatusCode)
	}
}

func TestConnectGETWithBase64(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 7))
	raw, err := proto.Marshal(&v1.GetKnowledgeBaseRequest{Name: "knowledgeBases/handbook"})
	if err != nil {
		t.Fatal(err)
	}
	res, _ := w.do(http.MethodGet, getKB+"?connect=v1&encoding=proto&base64=1&message="+base64.RawURLEncoding.EncodeToString(raw), "",
		"Authorization", "Bearer "+w.token("viewer"))
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/proto" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	if got := w.grains.last(t); got.id != "handbook" || got.kb().GetGet().GetName() != "knowledgeBases/handbook" {
		t.Errorf("asked %v", got)
	}
}
