package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// unaryMethods lists every unary RPC of the API with its least request.
func unaryMethods(t *testing.T) map[string]string {
	t.Helper()
	least := map[string]string{
		"GetTenant": `{}`, "GetUsage": `{}`, "RecountUsage": `{}`, "UpdateTenantConfig": `{"defaultConfig":{}}`,
		"CreateKnowledgeBase": `{"knowledgeBaseId":"handbook"}`, "GetKnowledgeBase": `{"name":"handbook"}`,
		"ListKnowledgeBases": `{}`, "DeleteKnowledgeBase": `{"name":"handbook"}`,
		"UpdateKnowledgeBase": `{"knowledgeBase":{"name":"handbook"},"updateMask":"displayName"}`,
		"CreateDocument":      `{"spec":{"knowledgeBase":"handbook"},"text":"x"}`, "AppendUpload": `{"data":"eA=="}`,
		"GetDocument": "", "ListDocuments": `{"parent":"handbook"}`, "DeleteDocument": "", "CancelDocument": "",
		"ReprocessDocument": "", "ListChunks": `{"parent":"knowledgeBases/handbook/documents/d1"}`, "GetDocumentText": "",
		"Search": `{"knowledgeBase":"handbook","query":"q"}`,

		"ListNodes": `{}`, "GetView": `{}`, "GetPlacement": `{"tenant":"acme"}`, "ListActivations": `{}`,
		"GetClusterHealth": `{}`, "DrainNode": `{"name":"n1"}`, "RelocateTenant": `{"tenant":"acme","node":"n1"}`,
		"Rebalance": `{}`, "ListDeadLetters": `{}`,
		"RetryDeadLetter": `{"tenant":"acme","document":"knowledgeBases/handbook/documents/d1"}`,

		"WhoAmI": `{}`, "CreateApiKey": `{"grants":[{"role":"viewer"}]}`, "GetApiKey": `{"name":"aaaaaaaaaaaaaaaa"}`, "ListApiKeys": `{}`,
		"RevokeApiKey": `{"name":"aaaaaaaaaaaaaaaa"}`, "SetRoleBinding": `{"binding":{"subject":"bob","grant":{"role":"viewer"}}}`,
		"RemoveRoleBinding": `{"subject":"bob"}`, "ListRoleBindings": `{}`, "CreateWorkspace": `{"workspaceId":"legal"}`,
		"GetWorkspace": `{"name":"legal"}`, "ListWorkspaces": `{}`, "UpdateWorkspace": `{"workspace":{"name":"legal"}}`, "DeleteWorkspace": `{"name":"legal"}`,

		"CreateTenant": `{"tenantId":"acme"}`, "DescribeTenant": `{"name":"acme"}`, "DescribeTenantUsage": `{"name":"acme"}`, "RecountTenantUsage": `{"name":"acme"}`, "ListTenants": `{}`, "UpdateTenant": `{"name":"acme"}`,
		"SuspendTenant": `{"name":"acme"}`, "ResumeTenant": `{"name":"acme"}`, "DeleteTenant": `{"name":"acme"}`, "UndeleteTenant": `{"name":"acme"}`,
		"ListAuditEvents": `{}`, "GetCheckpoint": `{}`, "ListTenantAuditEvents": `{"tenant":"acme"}`, "GetTenantCheckpoint": `{"tenant":"acme"}`,

		"ListKeys": `{}`, "RotateKey": `{"tenant":"acme"}`, "RotateMasterKey": `{}`, "ReencryptTenant": `{"tenant":"acme"}`,
		"GetErasureReceipt": `{"name":"erasureReceipts/0123456789abcdef0123456789abcdef"}`, "ListErasureReceipts": `{}`,
		"GetReceiptKey": `{}`, "ListTenantErasures": `{}`,
	}
	out := map[string]string{}
	protoregistry.GlobalFiles.RangeFilesByPackage("granary.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				if m.IsStreamingClient() || m.IsStreamingServer() {
					continue
				}
				body, ok := least[string(m.Name())]
				if !ok {
					t.Errorf("no request for %s in this test", m.FullName())
				}
				if body == "" {
					body = `{"name":"knowledgeBases/handbook/documents/d1"}`
				}
				out["/"+string(s.FullName())+"/"+string(m.Name())] = body
			}
		}
		return true
	})
	return out
}

func TestEveryRPCNeedsACredential_B1(t *testing.T) {
	w := start(t)
	methods := unaryMethods(t)
	methods["/granary.v1.TenantService/NoSuchMethod"] = `{}`
	var first string
	for procedure, body := range methods {
		for _, auth := range []string{"", "Bearer", "Bearer not-a-token", "Basic YWRhOnB3", "Bearer a b"} {
			headers := []string{"Content-Type", "application/json"}
			if auth != "" {
				headers = append(headers, "Authorization", auth)
			}
			res, out := w.do(http.MethodPost, procedure, body, headers...)
			if res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") != `Bearer realm="granary"` {
				t.Errorf("%s with %q: %d %v", procedure, auth, res.StatusCode, res.Header)
			}
			if first == "" {
				first = out
			}
			if out != first {
				t.Errorf("%s with %q answers %s, not %s", procedure, auth, out, first)
			}
		}
	}
	for _, path := range []string{"/granary.v1.EventService/WatchEvents", "/granary.v1.DocumentService/UploadDocument"} {
		_, out := w.do(http.MethodPost, path, "\x00\x00\x00\x00\x02{}", "Content-Type", "application/connect+json")
		if !strings.Contains(out, "unauthenticated") {
			t.Errorf("%s: %q", path, out)
		}
	}
	res, _ := w.do(http.MethodPost, getKB, `{"name":"handbook"}`, "Content-Type", "application/json",
		"Authorization", "Bearer "+w.token("viewer"), "Authorization", "Bearer "+w.token("admin"))
	if res.StatusCode != 401 {
		t.Errorf("two credentials: %d", res.StatusCode)
	}
	if n := len(w.grains.all()); n != 0 {
		t.Errorf("%d calls reached a grain", n)
	}
}

func TestRoles_B1(t *testing.T) {
	w := start(t)
	w.grains.setScript(func(context.Context, asked) (proto.Message, error) {
		return nil, kb.Errorf(kb.CodeAborted, "REACHED", "the grain was reached")
	})
	admin := map[string]bool{
		"DeleteKnowledgeBase": true, "UpdateTenantConfig": true, "CreateApiKey": true, "GetApiKey": true, "ListApiKeys": true,
		"RevokeApiKey": true, "SetRoleBinding": true, "RemoveRoleBinding": true, "ListRoleBindings": true, "CreateWorkspace": true,
		"UpdateWorkspace": true, "DeleteWorkspace": true, "ListAuditEvents": true, "GetCheckpoint": true,
	}
	editor := map[string]bool{
		"CreateKnowledgeBase": true, "UpdateKnowledgeBase": true, "CreateDocument": true, "AppendUpload": true,
		"DeleteDocument": true, "CancelDocument": true, "ReprocessDocument": true,
	}
	for procedure, body := range unaryMethods(t) {
		if ofOperators(procedure) {
			continue // see TestNoTenantsTokenReachesTheClusterAPI
		}
		name := procedure[strings.LastIndex(procedure, "/")+1:]
		need := 0
		if editor[name] {
			need = 1
		}
		if admin[name] {
			need = 2
		}
		for have, role := range []string{"viewer", "editor", "admin", ""} {
			token := w.token()
			if role != "" {
				token = w.token(role)
			} else {
				have = -1
			}
			res, out := w.post(token, procedure, body)
			denied := res.StatusCode == 403 && strings.Contains(out, kb.ReasonPermission)
			passed := res.StatusCode == 409 || (strings.Contains(procedure, "ErasureService") || strings.Contains(procedure, "AuditService")) && !denied || (name == "AppendUpload" || name == "WhoAmI") && res.StatusCode == 200
			if have >= need && !passed || have < need && !denied {
				t.Errorf("%s as %q: %d %s", name, role, res.StatusCode, out)
			}
		}
	}
}

// TestTheTenantIsTheCredentials_B1 sends the same request with two credentials.
func TestTheTenantIsTheCredentials_B1(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	for _, tenant := range []string{"acme", "umbrella"} {
		w.post(w.tokenOf(tenant, "eve", "viewer"), getKB, `{"name":"handbook"}`, "X-Tenant", "acme", "Tenant", "acme")
		if a := w.grains.last(t); a.tenant != tenant || a.kb().GetHeader().GetTenant() != tenant {
			t.Errorf("the credential of %s asked for %s", tenant, a.tenant)
		}
	}
	w.grains.answer(&nodev1.TenantReply{Result: &nodev1.TenantReply_Tenant{Tenant: &v1.Tenant{Name: "tenants/umbrella"}}})
	w.post(w.tokenOf("umbrella", "eve", "viewer"), "/granary.v1.TenantService/GetTenant", `{}`)
	if a := w.grains.last(t); a.kind != "tenant" || a.tenant != "umbrella" || a.id != "umbrella" {
		t.Errorf("asked %v", a)
	}
}

type verifierFunc func(context.Context, string) (gateway.Principal, error)

func (f verifierFunc) Verify(ctx context.Context, t string) (gateway.Principal, error) {
	return f(ctx, t)
}

func TestAVerifierThatIsWrongIsNotBelieved_B1(t *testing.T) {
	var p gateway.Principal
	var fail error
	w := start(t, func(c *gateway.Config) {
		c.Verifier = verifierFunc(func(context.Context, string) (gateway.Principal, error) { return p, fail })
	})
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	for _, p = range []gateway.Principal{
		{}, {Tenant: "acme"}, {Subject: "ada"}, {Tenant: "../acme", Subject: "ada"}, {Tenant: "ACME", Subject: "ada"},
		{Tenant: "acme\n", Subject: "ada"}, {Tenant: "acme", Subject: "a\x00b"},
	} {
		p.Roles = []string{"admin"}
		if res, _ := w.post("x", getKB, `{"name":"handbook"}`); res.StatusCode != 401 {
			t.Errorf("%+v: %d", p, res.StatusCode)
		}
	}
	fail = kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "The keys cannot be fetched.").After(2 * time.Second)
	if res, _ := w.post("x", getKB, `{"name":"handbook"}`); res.StatusCode != 503 || res.Header.Get("Retry-After") != "2" {
		t.Errorf("keys not available: %d %v", res.StatusCode, res.Header)
	}
	p, fail = gateway.Principal{Tenant: "acme", Subject: "ada", Roles: []string{"viewer"}, Expires: time.Now().Add(-time.Second)}, nil
	w.grains.setScript(func(ctx context.Context, _ asked) (proto.Message, error) { <-ctx.Done(); return nil, ctx.Err() })
	if res, body := w.post("x", getKB, `{"name":"handbook"}`); res.StatusCode != 401 {
		t.Errorf("expired: %d %s", res.StatusCode, body)
	}
}

func TestCORS(t *testing.T) {
	w := start(t, func(c *gateway.Config) {
		c.AllowedOrigins, c.AllowLocalOrigins = []string{"https://console.example.com"}, true
	})
	strict := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	for origin, want := range map[string]bool{
		"https://console.example.com": true, "http://localhost:5173": true, "http://127.0.0.1:8080": true, "http://[::1]:3000": true,
		"https://console.example.com.evil.org": false, "http://localhost.evil.org": false, "https://evil.org": false,
		"null": false, "file://localhost": false, "http://user@localhost": false,
	} {
		res, _ := w.do(http.MethodOptions, getKB, "", "Origin", origin, "Access-Control-Request-Method", "POST",
			"Access-Control-Request-Headers", "authorization,x-grpc-web")
		if got := res.Header.Get("Access-Control-Allow-Origin") == origin; got != want || got != (res.StatusCode == 204) {
			t.Errorf("preflight of %s: %d %v", origin, res.StatusCode, res.Header)
		}
		res, _ = w.post(w.token("viewer"), getKB, `{"name":"handbook"}`, "Origin", origin)
		if got := res.Header.Get("Access-Control-Allow-Origin") == origin; got != want ||
			got != strings.Contains(res.Header.Get("Access-Control-Expose-Headers"), "Grpc-Status") {
			t.Errorf("call of %s: %v", origin, res.Header)
		}
		if res, _ = strict.do(http.MethodOptions, getKB, "", "Origin", origin, "Access-Control-Request-Method", "POST"); res.StatusCode != 403 {
			t.Errorf("by default %s is allowed", origin)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	for sent, kept := range map[string]bool{
		"abc-1.2_Z": true, strings.Repeat("a", 64): true, strings.Repeat("a", 65): false, "a b": false, `a"b`: false, "ä": false,
	} {
		res, _ := w.post(w.token("viewer"), getKB, `{"name":"handbook"}`, "X-Request-Id", sent)
		got := res.Header.Get("X-Request-Id")
		if (got == sent) != kept || got == "" || got != w.grains.last(t).kb().GetHeader().GetRequestId() {
			t.Errorf("sent %q, answered %q", sent, got)
		}
	}
}

func TestAccessLogHasNoSecretsAndNoBodies(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	token := w.token("viewer")
	w.post(token, "/granary.v1.SearchService/Search", `{"knowledgeBase":"handbook","query":"salary of the boss"}`, "X-Request-Id", "req-7")
	w.post(token+"x", getKB, `{"name":"handbook"}`)
	log := w.log.String()
	for _, never := range []string{token, token[len(token)-20:], "salary", "Bearer"} {
		if strings.Contains(log, never) {
			t.Errorf("the log contains %q", never)
		}
	}
	var line map[string]any
	for l := range strings.Lines(log) {
		if err := json.Unmarshal([]byte(l), &line); err != nil {
			t.Fatal(err)
		}
		if line["request_id"] == "req-7" && line["msg"] == "call" {
			break
		}
	}
	if line["method"] != "granary.v1.SearchService/Search" || line["tenant"] != "acme" || line["code"] != "internal" || line["duration"] == nil {
		t.Errorf("line %v", line) // the scripted reply does not fit a search: internal
	}
}
