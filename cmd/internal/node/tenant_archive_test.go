package node_test

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/cmd/internal/nodetest"
	"granary.dev/granary/gateway/archive"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func exportTenant(t *testing.T, c *nodetest.Clients) []byte {
	t.Helper()
	stream, err := c.Archives.ExportTenant(t.Context(), &granaryv1.ExportTenantRequest{Compression: granaryv1.Compression_COMPRESSION_NONE})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	var b bytes.Buffer
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return b.Bytes()
		}
		if err != nil {
			t.Fatalf("export: %v", err)
		}
		b.Write(msg.GetData())
	}
}

func importTenant(t *testing.T, c *nodetest.Clients, spec *granaryv1.ImportTenantSpec, data []byte) (*granaryv1.ImportTenantResponse, error) {
	t.Helper()
	stream, err := c.Archives.ImportTenant(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&granaryv1.ImportTenantRequest{Part: &granaryv1.ImportTenantRequest_Spec{Spec: spec}})
	for len(data) > 0 && err == nil {
		n := min(len(data), 1000)
		err = stream.Send(&granaryv1.ImportTenantRequest{Part: &granaryv1.ImportTenantRequest_Data{Data: data[:n]}})
		data = data[n:]
	}
	return stream.CloseAndReceive()
}

// tenantContent is what an archive of a tenant holds, but for what its specification excepts.
type tenantContent struct {
	config string
	access archive.Access
	parts  map[string]*content
}

func (c *tenantContent) Tenant(h archive.TenantHeader) error {
	var t granaryv1.Tenant
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(h.Tenant, &t); err != nil {
		return err
	}
	c.config, c.parts = t.GetDefaultConfig().String(), make(map[string]*content)
	return nil
}

func (c *tenantContent) Workspace(w archive.Workspace) error {
	w.CreateTime = time.Time{}
	c.access.Workspaces = append(c.access.Workspaces, w)
	return nil
}

func (c *tenantContent) Binding(b archive.Binding) error {
	c.access.Bindings = append(c.access.Bindings, b)
	return nil
}

func (c *tenantContent) Key(k archive.Key) error {
	c.access.Keys = append(c.access.Keys, k)
	return nil
}

func (c *tenantContent) KnowledgeBase(id string) (archive.Sink, error) {
	c.parts[id] = &content{}
	return c.parts[id], nil
}

func (c *tenantContent) Part(id string, _ archive.Summary) error {
	slices.SortFunc(c.parts[id].docs, func(a, b archive.Document) int { return strings.Compare(a.ID, b.ID) })
	return nil
}

func tenantContentOf(t *testing.T, data []byte) *tenantContent {
	t.Helper()
	c := &tenantContent{}
	if _, err := archive.ReadTenant(bytes.NewReader(data), archive.TenantLimits{KnowledgeBases: 10, Workspaces: 10, Bindings: 10, Keys: 10,
		Part: archive.Limits{Documents: 1000, SourceSize: 1 << 20, SourceBytes: 1 << 24}}, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// furnish gives a tenant something of everything.
func furnish(t *testing.T, s *nodetest.Server) {
	t.Helper()
	var err error
	ok := func(_ any, e error) { err = errors.Join(err, e) }
	ok(s.Tenants.UpdateTenantConfig(t.Context(), &granaryv1.UpdateTenantConfigRequest{DefaultConfig: &granaryv1.Config{
		Retrieval: &granaryv1.RetrievalConfig{TopN: proto.Int32(7)}}}))
	ok(s.Access.UpdateWorkspace(t.Context(), &granaryv1.UpdateWorkspaceRequest{Workspace: &granaryv1.Workspace{Name: "default", DisplayName: "All"}}))
	ok(s.Access.CreateWorkspace(t.Context(), &granaryv1.CreateWorkspaceRequest{WorkspaceId: "legal", DisplayName: "Legal"}))
	ok(s.Access.CreateWorkspace(t.Context(), &granaryv1.CreateWorkspaceRequest{WorkspaceId: "empty"}))
	for _, b := range []*granaryv1.RoleBinding{
		{Subject: "ada", Grant: &granaryv1.AccessGrant{Role: "admin"}}, {Subject: "ada", Grant: &granaryv1.AccessGrant{Role: "viewer", Workspace: "legal"}},
		{Subject: "bob@example.com", Grant: &granaryv1.AccessGrant{Role: "editor", KnowledgeBase: "contracts"}},
		{Subject: "eve", Grant: &granaryv1.AccessGrant{Role: "viewer", Workspace: "legal", KnowledgeBase: "contracts"}},
	} {
		ok(s.Access.SetRoleBinding(t.Context(), &granaryv1.SetRoleBindingRequest{Binding: b}))
	}
	ok(s.Access.CreateApiKey(t.Context(), &granaryv1.CreateApiKeyRequest{DisplayName: "ci", Grants: []*granaryv1.AccessGrant{{Role: "viewer", Workspace: "legal"}}}))
	ok(s.KBs.CreateKnowledgeBase(t.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "contracts", DisplayName: "Contracts", Description: "of all",
		Workspace: "legal", Retention: &granaryv1.Retention{MaxAge: durationpb.New(1000 * time.Hour)}, Config: &granaryv1.Config{Retrieval: &granaryv1.RetrievalConfig{TopN: proto.Int32(3)}}}))
	ok(s.KBs.CreateKnowledgeBase(t.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "notes"}))
	if err != nil {
		t.Fatal(err)
	}
	s.Settle(t, s.AddText(t, "contracts", "lease.md", "# Lease\n\nThe lighthouse is leased to its keeper.").GetName())
	s.Settle(t, s.AddText(t, "notes", "storm.md", "# Storm\n\nA storm came from the north.").GetName())
	s.Settle(t, s.AddText(t, "notes", "calm.md", "# Calm\n\nThen it was calm.").GetName())
}

// I3: all that a tenant owns comes out of it, goes into another one, and comes out of that
// the same.
func TestTenantExportImportRoundTrip_I3(t *testing.T) {
	from, to := nodetest.Start(t), nodetest.Start(t)
	furnish(t, from)
	data := exportTenant(t, from.Clients)
	for _, secret := range []string{"grnk_", "mac"} {
		if strings.Contains(strings.ToLower(string(data)), secret) {
			t.Errorf("the archive has %s", secret)
		}
	}
	check, err := importTenant(t, to.Clients, &granaryv1.ImportTenantSpec{ValidateOnly: true}, data)
	if err != nil || check.GetRoleBindings() != 4 {
		t.Fatalf("checked: %v %v", check, err)
	}
	if r, err := to.Access.ListRoleBindings(t.Context(), &granaryv1.ListRoleBindingsRequest{}); err != nil || len(r.GetBindings()) != 0 {
		t.Errorf("a check gave roles: %v %v", r, err)
	}
	var first *granaryv1.ImportTenantResponse
	for range 2 { // the same request again answers the same, and makes nothing twice
		got, err := importTenant(t, to.Clients, &granaryv1.ImportTenantSpec{RequestId: "move-1"}, data)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = got
		}
		if !proto.Equal(got, first) || len(got.GetKnowledgeBases()) != 2 || got.GetWorkspaces() != 3 || got.GetRoleBindings() != 4 || got.GetApiKeys() != 1 || !got.GetDefaultConfig() {
			t.Errorf("imported %v", got)
		}
	}
	for _, id := range []string{"contracts", "notes"} {
		list, err := to.Documents.ListDocuments(t.Context(), &granaryv1.ListDocumentsRequest{Parent: id, PageSize: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list.GetDocuments() {
			to.Settle(t, d.GetName())
		}
	}
	a, b := tenantContentOf(t, data), tenantContentOf(t, exportTenant(t, to.Clients))
	if len(a.access.Keys) != 1 || len(b.access.Keys) != 0 || a.access.Keys[0].DisplayName != "ci" {
		t.Errorf("keys %+v, %+v", a.access.Keys, b.access.Keys)
	}
	a.access.Keys = nil
	if len(a.parts) != 2 || a.parts["contracts"].kb.Workspace != "legal" || !strings.Contains(a.config, "7") {
		t.Errorf("exported %+v", a)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("exported\n%+v, imported and exported again\n%+v", a, b)
	}
	tenant, err := to.Tenants.GetTenant(t.Context(), &granaryv1.GetTenantRequest{})
	if err != nil || tenant.GetTenant().GetConfigVersion() != 1 {
		t.Errorf("the receiving tenant: %v %v", tenant, err)
	}
	if got := names(search(t, to, "contracts", "keeper of the lighthouse")); !slices.Equal(got, []string{"lease.md"}) {
		t.Errorf("found %v", got)
	}
}

// I3: no role of an archive is given unless it is good to its end; what is wrong has a
// reason; what is there is not replaced.
func TestABadTenantArchiveGivesNoRoles_I3(t *testing.T) {
	from, to := nodetest.Start(t), nodetest.Start(t)
	furnish(t, from)
	data := exportTenant(t, from.Clients)
	for name, bad := range map[string][]byte{
		"nothing": nil, "cut off": data[:len(data)-2048], "noise": bytes.Repeat([]byte("noise"), 1000),
		"a role changed":      bytes.Replace(data, []byte(`"role":"viewer"`), []byte(`"role":"editor"`), 1),
		"a reserved subject":  bytes.Replace(data, []byte(`"bob@example.com"`), []byte(`"operator:boss.."`), 1),
		"a knowledge base's":  exportKB(t, from.Clients, "notes", granaryv1.Compression_COMPRESSION_NONE),
		"a source changed":    bytes.Replace(data, []byte("from the north"), []byte("from the south"), 1),
		"a config of nothing": bytes.Replace(data, []byte(`"topN": 7`), []byte(`"topN":-7`), 1),
	} {
		_, err := importTenant(t, to.Clients, &granaryv1.ImportTenantSpec{}, bad)
		if err == nil {
			t.Errorf("%s was taken", name)
			continue
		}
		if why := reason(t, err); why != "ARCHIVE_INVALID" && (name != "a config of nothing" || why != "CONFIG_INVALID" && why != "REQUEST_INVALID") &&
			why != "KNOWLEDGE_BASE_EXISTS" { // of an earlier one that was whole
			t.Errorf("%s: %v", name, err)
		}
		if r, err := to.Access.ListRoleBindings(t.Context(), &granaryv1.ListRoleBindingsRequest{}); err != nil || len(r.GetBindings()) != 0 {
			t.Fatalf("%s gave roles: %v %v", name, r, err)
		}
	}
	if _, err := importTenant(t, from.Clients, &granaryv1.ImportTenantSpec{}, data); err == nil || reason(t, err) != "KNOWLEDGE_BASE_EXISTS" {
		t.Errorf("over what is there: %v", err)
	}
}
