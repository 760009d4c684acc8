package node_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// B1, I13: a key or a subject with a role in one knowledge base learns of others
// only that it may not, whether they are there or not.
func TestRolesInOneKnowledgeBaseTellNothingOfOthers_B1_I13(t *testing.T) {
	m := newMatrix(t)
	admin := nodetest.Dial(t, m.w.base, strings.TrimPrefix(m.token("acme", "", "admin"), "Bearer "))
	admin.CreateKB(t, "allowed")
	grant := &granaryv1.AccessGrant{Role: "admin", KnowledgeBase: "allowed"}
	key, err := admin.Access.CreateApiKey(t.Context(), &granaryv1.CreateApiKeyRequest{Grants: []*granaryv1.AccessGrant{grant}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.Access.SetRoleBinding(t.Context(), &granaryv1.SetRoleBindingRequest{
		Binding: &granaryv1.RoleBinding{Subject: "ada", Grant: grant}})
	if err != nil {
		t.Fatal(err)
	}
	credentials := map[string]string{"a key": "Bearer " + key.GetSecret(), "a binding": m.token("acme", "")}
	for who, credential := range credentials { // they are good for something; a binding is in force within a second
		c := nodetest.Dial(t, m.w.base, strings.TrimPrefix(credential, "Bearer "))
		for deadline := time.Now().Add(10 * time.Second); ; {
			_, err := c.KBs.GetKnowledgeBase(t.Context(), &granaryv1.GetKnowledgeBaseRequest{Name: "allowed"})
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s opens nothing: %v", who, err)
			}
		}
	}
	each := func(do func(cell string, a answer)) {
		for _, rpc := range everyRPC() {
			if permissionOf(rpc).GetScope() != granaryv1.PermissionScope_PERMISSION_SCOPE_KNOWLEDGE_BASE {
				continue
			}
			for who, credential := range credentials {
				for _, way := range protocolsOf(rpc) {
					do(fmt.Sprintf("%s over %s by %s", rpc.FullName(), way, who), m.try(rpc, way, credential))
				}
			}
		}
	}
	before := map[string]answer{}
	each(func(cell string, a answer) { before[cell] = a })
	m.settle()
	each(func(cell string, a answer) {
		if a.code != connect.CodeNotFound || a.text != before[cell].text {
			t.Errorf("%s: that there is another knowledge base shows:\n%s\n--- before ---\n%s", cell, a.text, before[cell].text)
		}
	})
	for _, rpc := range everyRPC() { // what is made anew needs the role where it will be
		if rpc.Name() != "ImportKnowledgeBase" {
			continue
		}
		for who, credential := range credentials {
			messages := matrixRows[string(rpc.Name())](m)
			messages[0].(*granaryv1.ImportKnowledgeBaseRequest).GetSpec().ValidateOnly = false
			if a := m.w.call(rpc, overConnect, credential, messages...); a.code != connect.CodeNotFound && a.code != connect.CodePermissionDenied {
				t.Errorf("%s imports another knowledge base: %v %s", who, a.code, a.text)
			}
		}
	}
	if len(before) < 30 {
		t.Errorf("only %d cells", len(before))
	}
	t.Logf("%d cells tried", m.cells)
}

// twins are two tenants who have the same names, and so would find each other's
// things wherever the tenant was forgotten.
func twins(t *testing.T) (m *matrix, acme, globex *nodetest.Clients) {
	m = newMatrix(t)
	for tenant, c := range map[string]**nodetest.Clients{"acme": &acme, "globex": &globex} {
		*c = nodetest.Dial(t, m.w.base, strings.TrimPrefix(m.token(tenant, "", "admin"), "Bearer "))
		r, err := (*c).KBs.CreateKnowledgeBase(t.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "plans", DisplayName: tenant, RequestId: "same"})
		if err != nil || r.GetKnowledgeBase().GetDisplayName() != tenant {
			t.Fatalf("the key of an idempotent call of another tenant: %v, %v", r, err)
		}
		for i := range 3 {
			d, err := (*c).Documents.CreateDocument(t.Context(), &granaryv1.CreateDocumentRequest{
				Spec: &granaryv1.DocumentSpec{KnowledgeBase: "plans", DocumentId: fmt.Sprint("d", i), DisplayName: tenant,
					Metadata: map[string]string{"of": tenant}, RequestId: fmt.Sprint("same", i)},
				Source: &granaryv1.CreateDocumentRequest_Text{Text: fmt.Sprintf("The owls of %s, number %d, hunt at night.", tenant, i)}})
			if err != nil || d.GetDocument().GetDisplayName() != tenant || d.GetDuplicate() {
				t.Fatalf("a document of the same name and key: %v, %v", d, err)
			}
			(*c).Settle(t, d.GetDocument().GetName())
		}
	}
	return m, acme, globex
}

// B1, I13: what a server hands one tenant opens nothing in another's hands: tokens of
// pages, streams and uploads, idempotency keys, ETags.
func TestOneTenantsTokensOpenNothingInAnothersHands_B1_I13(t *testing.T) {
	m, acme, globex := twins(t)
	ctx := t.Context()

	page, err := acme.Documents.ListDocuments(ctx, &granaryv1.ListDocumentsRequest{Parent: "plans", PageSize: 1})
	if err != nil || page.GetNextPageToken() == "" {
		t.Fatal(page, err)
	}
	theirs, err := globex.Documents.ListDocuments(ctx, &granaryv1.ListDocumentsRequest{Parent: "plans", PageSize: 1, PageToken: page.GetNextPageToken()})
	for _, d := range theirs.GetDocuments() {
		if d.GetDisplayName() != "globex" {
			t.Errorf("a page token leads to %v", d)
		}
	}
	if err != nil && connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a foreign page token: %v", err)
	}

	for _, e := range watchAll(t, globex, resumeTokenOf(t, acme)) {
		if strings.Contains(e.String(), "acme") {
			t.Errorf("a resume token leads to %v", e)
		}
	}

	part, err := acme.Documents.AppendUpload(ctx, &granaryv1.AppendUploadRequest{Data: []byte(strings.Repeat("The owls of acme hunt. ", 65536/23+1)[:65536])})
	if err != nil {
		t.Fatal(err)
	}
	_, err = globex.Documents.AppendUpload(ctx, &granaryv1.AppendUploadRequest{UploadToken: part.GetUploadToken(), Data: []byte("x")})
	if code := connect.CodeOf(err); err == nil || code != connect.CodeInvalidArgument && code != connect.CodeNotFound {
		t.Errorf("a foreign upload goes on: %v", err)
	}
	_, err = globex.Documents.CreateDocument(ctx, &granaryv1.CreateDocumentRequest{Spec: &granaryv1.DocumentSpec{KnowledgeBase: "plans"},
		Source: &granaryv1.CreateDocumentRequest_UploadToken{UploadToken: part.GetUploadToken()}})
	if code := connect.CodeOf(err); err == nil || code != connect.CodeInvalidArgument && code != connect.CodeNotFound {
		t.Errorf("a foreign upload becomes a document: %v", err)
	}
	if _, err := acme.Documents.AppendUpload(ctx, &granaryv1.AppendUploadRequest{UploadToken: part.GetUploadToken(), Data: []byte("x")}); err != nil {
		t.Errorf("the owner's own token: %v", err)
	}

	for _, filter := range []string{"", `metadata.of = "acme"`, `document IN ["d0", "d1", "knowledgeBases/plans/documents/d2"]`, `metadata.of = "acme" OR NOT metadata.of = "x"`} {
		r, err := globex.Search.Search(ctx, &granaryv1.SearchRequest{KnowledgeBase: "plans", Query: "owls of acme", Filter: filter, Explain: true})
		if err != nil {
			t.Errorf("search with %q: %v", filter, err)
		}
		for _, h := range r.GetHits() {
			if strings.Contains(h.String(), "acme") {
				t.Errorf("a search with %q finds %v", filter, h)
			}
		}
	}
	checkETags(m)
}

// checkETags reads by GET as one tenant what the other has an ETag of.
func checkETags(m *matrix) {
	m.Helper()
	get := func(tenant, match string) *http.Response {
		q := url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {`{"name":"knowledgeBases/plans"}`}}
		r, err := http.NewRequestWithContext(m.Context(), http.MethodGet, m.w.base+"/granary.v1.KnowledgeBaseService/GetKnowledgeBase?"+q.Encode(), nil)
		if err != nil {
			m.Fatal(err)
		}
		r.Header.Set("Authorization", m.token(tenant, "", "admin"))
		if match != "" {
			r.Header.Set("If-None-Match", match)
		}
		res, err := m.w.http1.Do(r)
		if err != nil {
			m.Fatal(err)
		}
		_ = res.Body.Close()
		return res
	}
	first := get("acme", "")
	tag := first.Header.Get("Etag")
	if tag == "" || !strings.Contains(first.Header.Get("Cache-Control"), "private") || !strings.Contains(first.Header.Get("Vary"), "Authorization") {
		m.Errorf("a cache may keep it for others: %v", first.Header)
	}
	if res := get("acme", tag); res.StatusCode != http.StatusNotModified {
		m.Errorf("the owner's ETag: %d", res.StatusCode)
	}
	if res := get("globex", tag); res.StatusCode != http.StatusOK || res.Header.Get("Etag") == tag {
		m.Errorf("another tenant's ETag: %d %v", res.StatusCode, res.Header)
	}
}

// resumeTokenOf gives a token from the middle of the tenant's stream.
func resumeTokenOf(t *testing.T, c *nodetest.Clients) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := c.Events.WatchEvents(ctx, &granaryv1.WatchEventsRequest{KnowledgeBase: "plans", FromStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	for {
		r, err := stream.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if r.GetResumeToken() != "" {
			return r.GetResumeToken()
		}
	}
}

// watchAll reads what comes after a token until a heartbeat says that this was all;
// nothing when the token is refused.
func watchAll(t *testing.T, c *nodetest.Clients, token string) (events []*granaryv1.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := c.Events.WatchEvents(ctx, &granaryv1.WatchEventsRequest{KnowledgeBase: "plans", ResumeToken: token})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	for {
		r, err := stream.Receive()
		switch {
		case connect.CodeOf(err) == connect.CodeInvalidArgument, r.GetHeartbeat() != nil:
			return events
		case err != nil:
			t.Fatal(err)
		case r.GetEvent() != nil:
			events = append(events, r.GetEvent())
		}
	}
}
