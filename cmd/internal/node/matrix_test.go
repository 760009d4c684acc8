package node_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"granary.dev/granary/cmd/internal/nodetest"
	"granary.dev/granary/gateway/auth"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// The isolation matrix: every RPC of every service × every way to come with the
// wrong credential × every protocol. Its rows are read from the protos, so that a
// new RPC fails until it has a request here.

// safe reports whether a method can be called by GET.
func safe(m protoreflect.MethodDescriptor) bool {
	o, _ := m.Options().(*descriptorpb.MethodOptions)
	return o.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

// permissionOf reads what a method needs.
func permissionOf(m protoreflect.MethodDescriptor) *granaryv1.Permission {
	p, _ := proto.GetExtension(m.Options(), granaryv1.E_Permission).(*granaryv1.Permission)
	return p
}

// everyRPC lists the methods of the API, those that delete last.
func everyRPC() []protoreflect.MethodDescriptor {
	var all []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("granary.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				all = append(all, f.Services().Get(i).Methods().Get(j))
			}
		}
		return true
	})
	slices.SortFunc(all, func(a, b protoreflect.MethodDescriptor) int {
		rank := func(m protoreflect.MethodDescriptor) string {
			switch n := string(m.Name()); {
			case n == "DeleteKnowledgeBase":
				return "3"
			case strings.HasPrefix(n, "Delete"):
				return "2"
			}
			return "1"
		}
		return strings.Compare(rank(a)+string(a.FullName()), rank(b)+string(b.FullName()))
	})
	return all
}

// matrix is the world the cells are tried in: one node, tenant acme that has
// something, tenant globex that has nothing.
type matrix struct {
	*testing.T
	w         *wire
	authority *auth.Authority
	key       ed25519.PrivateKey
	kb, doc   string // acme's
	apiKey    string // acme's
	receipt   string // acme's, of something that was erased
	cells     int
	before    map[string]answer // of globex and of strangers inside acme, when there was nothing yet
}

func newMatrix(t *testing.T) *matrix {
	s := nodetest.Start(t)
	path := filepath.Join(s.Data, "dev-key")
	authority, err := auth.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &matrix{T: t, w: newWire(t, s.URL), authority: authority, key: key.(ed25519.PrivateKey),
		kb: "plans", doc: "road-map", apiKey: "aaaaaaaaaaaaaaaa",
		receipt: "erasureReceipts/0123456789abcdef0123456789abcdef", before: map[string]answer{}}
}

// token makes a good token of a tenant.
func (m *matrix) token(tenant, workspace string, roles ...string) string {
	m.Helper()
	token, err := m.authority.Issue(auth.Grant{Tenant: tenant, Subject: "ada", Roles: roles, Workspace: workspace})
	if err != nil {
		m.Fatal(err)
	}
	return "Bearer " + token.Reveal()
}

func (m *matrix) operatorToken() string {
	m.Helper()
	token, err := m.authority.IssueOperator(auth.OperatorGrant{Subject: "olga"})
	if err != nil {
		m.Fatal(err)
	}
	return "Bearer " + token.Reveal()
}

// forged makes a token with any claims, by any method.
func (m *matrix) forged(method jwt.SigningMethod, key any, edit func(jwt.MapClaims)) string {
	m.Helper()
	now := time.Now()
	claims := jwt.MapClaims{"iss": auth.Issuer, "aud": []string{auth.Audience}, "sub": "ada", "tenant": "acme", "roles": []string{"admin"},
		"nbf": now.Add(-time.Hour).Unix(), "iat": now.Add(-time.Hour).Unix(), "exp": now.Add(time.Hour).Unix()}
	edit(claims)
	text, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		m.Fatal(err)
	}
	return "Bearer " + text
}

// strangers are credentials that are none, for either API.
func (m *matrix) strangers(operator bool) map[string]string {
	public := m.key.Public().(ed25519.PublicKey)
	audience, other := auth.Audience, m.operatorToken()
	if operator {
		audience, other = auth.OperatorAudience, m.token("acme", "", "admin")
	}
	of := func(c jwt.MapClaims) {
		if c["aud"] = []string{audience}; operator {
			delete(c, "tenant")
			c["roles"] = []string{"operator"}
		}
	}
	keep := func(jwt.MapClaims) {}
	with := func(edit func(jwt.MapClaims)) func(jwt.MapClaims) {
		return func(c jwt.MapClaims) { of(c); edit(c) }
	}
	return map[string]string{
		"no token":                "",
		"malformed":               "Bearer not.a.token",
		"another scheme":          "Basic YWRhOmx1bmNo",
		"expired":                 m.forged(jwt.SigningMethodEdDSA, m.key, with(func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Hour).Unix() })),
		"of the other API":        other,
		"wrong audience":          m.forged(jwt.SigningMethodEdDSA, m.key, with(func(c jwt.MapClaims) { c["aud"] = "elsewhere" })),
		"HS256, the public key":   m.forged(jwt.SigningMethodHS256, []byte(public), with(keep)),
		"alg none":                m.forged(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, with(keep)),
		"signed by somebody else": m.forged(jwt.SigningMethodEdDSA, ed25519.NewKeyFromSeed(make([]byte, 32)), with(keep)),
	}
}

// lower is a good credential of the role below the one a method needs.
func (m *matrix) lower(p *granaryv1.Permission) string {
	switch p.GetRole() {
	case granaryv1.PermissionRole_PERMISSION_ROLE_ADMIN:
		return m.token("acme", "", "editor")
	case granaryv1.PermissionRole_PERMISSION_ROLE_EDITOR:
		return m.token("acme", "", "viewer")
	}
	return m.token("acme", "")
}

// owner is a good credential with the role a method needs.
func (m *matrix) owner(p *granaryv1.Permission) string {
	switch p.GetRole() {
	case granaryv1.PermissionRole_PERMISSION_ROLE_OPERATOR:
		return m.operatorToken()
	case granaryv1.PermissionRole_PERMISSION_ROLE_ADMIN:
		return m.token("acme", "", "admin")
	case granaryv1.PermissionRole_PERMISSION_ROLE_EDITOR:
		return m.token("acme", "", "editor")
	}
	return m.token("acme", "", "viewer")
}

// try is one cell.
func (m *matrix) try(rpc protoreflect.MethodDescriptor, way, authorization string) answer {
	m.Helper()
	m.cells++
	return m.w.call(rpc, way, authorization, matrixRows[string(rpc.Name())](m)...)
}

// outsiders may not know of what acme has: another tenant's admin, and acme's own
// admin of another workspace.
func (m *matrix) outsiders() map[string]string {
	return map[string]string{"a foreign tenant": m.token("globex", "", "admin"), "another workspace": m.token("acme", "elsewhere", "admin")}
}

// unlike are methods whose answer is another each time, whatever there is: what is
// compared of them is the code. GetUsage counts itself.
var unlike = map[string]bool{"AppendUpload": true, "CreateApiKey": true, "ListApiKeys": true, "GetApiKey": true, "WhoAmI": true, "GetUsage": true, "ExportTenant": true,
	// An audit has the calls of who asks for it.
	"ListAuditEvents": true, "ExportAudit": true, "GetCheckpoint": true, "VerifyAudit": true, "ListRoleBindings": true}

// eachOutsider tries every method of tenants as every outsider.
func (m *matrix) eachOutsider(do func(cell string, rpc protoreflect.MethodDescriptor, who string, a answer)) {
	m.Helper()
	for _, rpc := range everyRPC() {
		p := permissionOf(rpc)
		if p.GetScope() == granaryv1.PermissionScope_PERMISSION_SCOPE_CLUSTER {
			continue
		}
		for who, credential := range m.outsiders() {
			for _, way := range protocolsOf(rpc) {
				do(fmt.Sprintf("%s over %s as %s", rpc.FullName(), way, who), rpc, who, m.try(rpc, way, credential))
			}
		}
	}
}

// settle makes acme's knowledge base and document.
func (m *matrix) settle() {
	m.Helper()
	token := strings.TrimPrefix(m.token("acme", "", "admin"), "Bearer ")
	c := nodetest.Dial(m.T, m.w.base, token)
	if _, err := c.KBs.CreateKnowledgeBase(m.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: m.kb}); err != nil {
		m.Fatal(err)
	}
	r, err := c.Documents.CreateDocument(m.Context(), &granaryv1.CreateDocumentRequest{
		Spec:   &granaryv1.DocumentSpec{KnowledgeBase: m.kb, DocumentId: m.doc, DisplayName: "road-map.md"},
		Source: &granaryv1.CreateDocumentRequest_Text{Text: rotation}})
	if err != nil {
		m.Fatal(err)
	}
	c.Settle(m.T, r.GetDocument().GetName())
	key, err := c.Access.CreateApiKey(m.Context(), &granaryv1.CreateApiKeyRequest{Grants: []*granaryv1.AccessGrant{{Role: "viewer"}}})
	if err != nil {
		m.Fatal(err)
	}
	m.apiKey = key.GetApiKey().GetName()
	m.erase(c)
}

// erase deletes something of acme's, for its receipt.
func (m *matrix) erase(c *nodetest.Clients) {
	m.Helper()
	name := c.Settle(m.T, c.AddText(m.T, m.kb, "old.md", "To be forgotten.").GetName()).GetName()
	if _, err := c.Documents.DeleteDocument(m.Context(), &granaryv1.DeleteDocumentRequest{Name: name}); err != nil {
		m.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		r, err := c.Erasures.ListErasureReceipts(m.Context(), &granaryv1.ListErasureReceiptsRequest{})
		if err != nil || time.Now().After(deadline) {
			m.Fatalf("no receipt: %v", err)
		}
		if len(r.GetReceipts()) > 0 {
			m.receipt = r.GetReceipts()[0].GetName()
			return
		}
	}
}

func TestNobodyGetsAtWhatIsNotTheirsByAnyRPC_B1_I13(t *testing.T) {
	m := newMatrix(t)
	for _, rpc := range everyRPC() {
		if permissionOf(rpc) == nil || matrixRows[string(rpc.Name())] == nil {
			t.Fatalf("%s has no permission, or no request in the matrix", rpc.FullName())
		}
	}
	m.eachOutsider(func(cell string, _ protoreflect.MethodDescriptor, _ string, a answer) { m.before[cell] = a })
	m.settle()
	m.eachOutsider(func(cell string, rpc protoreflect.MethodDescriptor, _ string, a answer) {
		if was := m.before[cell]; a.code != was.code || a.text != was.text && !unlike[string(rpc.Name())] {
			t.Errorf("%s: that acme has something shows:\n%s\n--- before ---\n%s", cell, a.text, was.text)
		}
		named := permissionOf(rpc).GetScope() == granaryv1.PermissionScope_PERMISSION_SCOPE_KNOWLEDGE_BASE
		if named && a.code != connect.CodeNotFound {
			t.Errorf("%s: %v, want not found", cell, a.code)
		}
	})
	m.credentials()
	m.owners()
	t.Logf("%d RPCs, %d cells tried", len(everyRPC()), m.cells)
}

// credentials tries what is no credential, and what is too weak.
func (m *matrix) credentials() {
	m.Helper()
	strangers := map[bool]map[string]string{false: m.strangers(false), true: m.strangers(true)}
	for _, rpc := range everyRPC() {
		p := permissionOf(rpc)
		operator := p.GetScope() == granaryv1.PermissionScope_PERMISSION_SCOPE_CLUSTER
		for _, way := range protocolsOf(rpc) {
			refusals := map[string][]string{}
			for who, credential := range strangers[operator] {
				a := m.try(rpc, way, credential)
				if a.code != connect.CodeUnauthenticated {
					m.Errorf("%s over %s with %s: %v", rpc.FullName(), way, who, a.code)
				}
				refusals[a.text] = append(refusals[a.text], who)
			}
			if len(refusals) != 1 {
				m.Errorf("%s over %s: bad credentials are told apart: %v", rpc.FullName(), way, slices.Collect(maps.Keys(refusals)))
			}
			if operator {
				continue // there is no lower role
			}
			if a := m.try(rpc, way, m.lower(p)); a.code != connect.CodePermissionDenied {
				m.Errorf("%s over %s with a lower role: %v", rpc.FullName(), way, a.code)
			}
		}
	}
}

// owners shows that the requests of the matrix are good ones: with the right
// credential, none is refused for it, nor misses what it names.
func (m *matrix) owners() {
	m.Helper()
	for _, rpc := range everyRPC() {
		switch a := m.try(rpc, overConnect, m.owner(permissionOf(rpc))); a.code {
		case connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeNotFound, connect.CodeInvalidArgument, connect.CodeUnimplemented, connect.CodeInternal:
			m.Errorf("%s with the right role: %s", rpc.FullName(), a.text)
		}
	}
}
