package gateway_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/archive"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// streamRequests are requests of the RPCs that stream, message by message.
func streamRequests(t *testing.T) map[string][]string {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, archive.Header{})
	if err == nil {
		err = w.Close(0)
	}
	if err != nil {
		t.Fatal(err)
	}
	var tenant bytes.Buffer
	tw, err := archive.NewTenantWriter(&tenant, time.Now(), []byte(`{"configVersion":"1"}`), archive.Access{
		Workspaces: []archive.Workspace{{ID: "legal"}}, Bindings: []archive.Binding{{Subject: "bob", Grant: archive.Grant{Role: "viewer"}}}})
	if err == nil {
		err = tw.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]string{
		"ImportTenant":        {`{"spec":{}}`, `{"data":"` + base64.StdEncoding.EncodeToString(tenant.Bytes()) + `"}`},
		"UploadDocument":      {`{"spec":{"knowledgeBase":"handbook"}}`, `{"data":"eA=="}`},
		"WatchEvents":         {`{"knowledgeBase":"handbook"}`},
		"ExportKnowledgeBase": {`{"name":"handbook"}`},
		"ImportKnowledgeBase": {`{"spec":{"knowledgeBaseId":"handbook"}}`, `{"data":"` + base64.StdEncoding.EncodeToString(b.Bytes()) + `"}`},
		"ExportTenant":        {`{}`},
	}
}

// asksNoGrain are RPCs that are answered without a grain, or from elsewhere.
var asksNoGrain = []string{
	"WhoAmI", "AppendUpload", // of the call alone
	"ListNodes", "GetView", "GetPlacement", "ListActivations", "GetClusterHealth", "DrainNode", "RelocateTenant", "Rebalance", "ListDeadLetters",
	"ListKeys", "RotateKey", "RotateMasterKey", "ReencryptTenant",
	"ListAuditEvents", "GetCheckpoint", "ExportAudit", "VerifyAudit",
	"ListTenantAuditEvents", "GetTenantCheckpoint", "ExportTenantAudit", "VerifyTenantAudit",
	"GetErasureReceipt", "ListErasureReceipts", "GetReceiptKey", "ListTenantErasures",
}

// I1: whatever RPC is called, each grain that is asked for it is told who asks, in
// which request and from where, so that its journal can say so.
func TestEveryRPCTellsGrainsWhoAsksFromWhere_I1(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Cluster, c.Tenants = &scripted{}, directory{"acme"} })
	w.grains.setScript(func(_ context.Context, a asked) (proto.Message, error) {
		if m, ok := a.msg.(*nodev1.TenantCall); ok {
			switch m.GetOperation().(type) {
			case *nodev1.TenantCall_Get, *nodev1.TenantCall_DescribeTenant: // the first of several questions
				return &nodev1.TenantReply{Result: &nodev1.TenantReply_Tenant{Tenant: &v1.Tenant{
					Limits: &v1.TenantLimits{DocumentsPerKnowledgeBase: 10, StorageBytes: 1 << 20}}}}, nil
			case *nodev1.TenantCall_ListRoles, *nodev1.TenantCall_ListWorkspaces, *nodev1.TenantCall_ListKeys, *nodev1.TenantCall_ImportSettings:
				return &nodev1.TenantReply{Result: &nodev1.TenantReply_Done{Done: &nodev1.Done{}}}, nil
			}
		}
		return nil, kb.Errorf(kb.CodeAborted, "REACHED", "the grain was reached")
	})
	unary, streams := unaryMethods(t), streamRequests(t)
	for _, m := range publicMethods(t) {
		procedure := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
		body, content := unary[procedure], "application/json"
		if m.IsStreamingClient() || m.IsStreamingServer() {
			body, content = "", "application/connect+json"
			for _, part := range streams[string(m.Name())] {
				body += enveloped(part)
			}
		}
		token, subject := w.token("admin"), "ada"
		if ofOperators(procedure) {
			token, subject = w.operatorToken(), "operator:olga"
		}
		before := len(w.grains.all())
		w.do("POST", procedure, body, "Content-Type", content, "Authorization", "Bearer "+token, "X-Request-Id", "request-7")
		calls := w.grains.all()[before:]
		if none := slices.Contains(asksNoGrain, string(m.Name())); none != (len(calls) == 0) {
			t.Errorf("%s asked %d grains", m.Name(), len(calls))
		}
		for _, a := range calls {
			h := headerOf(a.msg)
			if h.GetPrincipal() != subject || h.GetRemote() != "127.0.0.1" || h.GetRequestId() != "request-7" || h.GetTenant() != "acme" || a.tenant != "acme" {
				t.Errorf("%s told %v", m.Name(), h)
			}
			if operators := ofOperators(procedure); h.GetInternal() != operators || !operators && (h.GetRequiredRole() == "" || len(h.GetGrants()) == 0) {
				t.Errorf("%s: the grain cannot tell what may be done: %v", m.Name(), h)
			}
		}
	}
}

func headerOf(m proto.Message) *nodev1.Header {
	return m.(interface{ GetHeader() *nodev1.Header }).GetHeader()
}

// directory lists tenants.
type directory []string

func (d directory) TenantIDs(_ context.Context, after string, limit int) ([]string, error) {
	ids := slices.DeleteFunc(slices.Clone([]string(d)), func(id string) bool { return id <= after })
	return ids[:min(len(ids), limit)], nil
}
