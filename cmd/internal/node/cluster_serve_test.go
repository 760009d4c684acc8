package node_test

import (
	"context"

	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// tenantMethods are the paths of all methods of the tenants' API.
func tenantMethods() []string {
	var all []string
	for _, f := range []protoreflect.FileDescriptor{granaryv1.File_granary_v1_knowledge_base_proto, granaryv1.File_granary_v1_document_proto,
		granaryv1.File_granary_v1_search_proto, granaryv1.File_granary_v1_event_proto, granaryv1.File_granary_v1_tenant_proto} {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				all = append(all, "/"+string(s.FullName())+"/"+string(s.Methods().Get(j).Name()))
			}
		}
	}
	return all
}

// tenantOwner is the node that tenant dev's own grain is placed on.
func tenantOwner(t *testing.T, c *nodetest.Cluster) *nodetest.Member {
	t.Helper()
	r, err := c.Nodes[0].Operator.Cluster.GetPlacement(t.Context(), &granaryv1.GetPlacementRequest{Tenant: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	return c.Node(strings.TrimPrefix(r.GetPlacement().GetNode(), "nodes/"))
}

// others are the nodes of a cluster but for some.
func others(c *nodetest.Cluster, but ...*nodetest.Member) []*nodetest.Member {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(m *nodetest.Member) bool { return slices.Contains(but, m) })
}

func TestAnyNodeServesAnyRequest_A1_A3_A6(t *testing.T) {
	web := nodetest.NewWeb(t)
	c := nodetest.StartCluster(t, pg.Database(t), 3, web.Allow)
	through := others(c, tenantOwner(t, c))[0]
	owner := others(c, through)[0]
	var mu sync.Mutex
	called := map[string]bool{}
	s := nodetest.Dial(t, through.URL, through.Token, func(path string) {
		mu.Lock()
		defer mu.Unlock()
		called[path] = true
	})
	everyMethod(t, c, s, owner, web)
	for _, m := range tenantMethods() {
		if !called[m] {
			t.Errorf("%s was not tried", m)
		}
	}
	t.Run("each owner through each node", func(t *testing.T) { eachThroughEach(t, c) })
	t.Run("roles", func(t *testing.T) { rolesOfNodes(t, c) })
}

// everyMethod calls each method of the tenants' API for a knowledge base of owner.
func everyMethod(t *testing.T, c *nodetest.Cluster, s *nodetest.Clients, owner *nodetest.Member, web *nodetest.Web) {
	t.Helper()
	ctx := t.Context()
	kb := c.KBs(owner, "dev", "all", 1)[0]
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	_, err := s.Tenants.GetUsage(ctx, &granaryv1.GetUsageRequest{})
	must("get usage", err)
	_, err = s.Tenants.RecountUsage(ctx, &granaryv1.RecountUsageRequest{})
	must("recount usage", err)
	_, err = s.Tenants.GetTenant(ctx, &granaryv1.GetTenantRequest{})
	must("get tenant", err)
	top := int32(7)
	_, err = s.Tenants.UpdateTenantConfig(ctx, &granaryv1.UpdateTenantConfigRequest{
		DefaultConfig: &granaryv1.Config{Retrieval: &granaryv1.RetrievalConfig{TopN: &top}}})
	must("update tenant", err)
	s.CreateKB(t, kb)
	_, err = s.KBs.UpdateKnowledgeBase(ctx, &granaryv1.UpdateKnowledgeBaseRequest{
		KnowledgeBase: &granaryv1.KnowledgeBase{Name: kb, Description: "all"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}}})
	must("update", err)
	got, err := s.KBs.GetKnowledgeBase(ctx, &granaryv1.GetKnowledgeBaseRequest{Name: kb})
	must("get", err)
	if got.GetKnowledgeBase().GetDescription() != "all" || got.GetKnowledgeBase().GetEffectiveConfig().GetConfig().GetRetrieval().GetTopN() != 7 {
		t.Errorf("got %v", got)
	}
	list, err := s.KBs.ListKnowledgeBases(ctx, &granaryv1.ListKnowledgeBasesRequest{})
	must("list", err)
	if len(list.GetKnowledgeBases()) != 1 {
		t.Errorf("listed %v", list)
	}
	everyDocumentMethod(t, c, s, kb, web)
	ranked, err := s.Search.Search(ctx, &granaryv1.SearchRequest{KnowledgeBase: kb, Query: "rotate the signing key", Explain: true})
	must("search", err)
	if len(ranked.GetHits()) == 0 || !strings.HasPrefix(ranked.GetExplain().GetNode(), owner.Name) {
		t.Errorf("%d hits from node %q, the owner is %s", len(ranked.GetHits()), ranked.GetExplain().GetNode(), owner.Name)
	}
	_, err = s.KBs.DeleteKnowledgeBase(ctx, &granaryv1.DeleteKnowledgeBaseRequest{Name: kb})
	must("delete", err)
	if _, err = s.KBs.GetKnowledgeBase(ctx, &granaryv1.GetKnowledgeBaseRequest{Name: kb}); reason(t, err) != "KNOWLEDGE_BASE_NOT_FOUND" {
		t.Error(err)
	}
}

// everyDocumentMethod calls those of documents, with an upload whose parts go to
// different nodes and a document that is cancelled while it is fetched.
func everyDocumentMethod(t *testing.T, c *nodetest.Cluster, s *nodetest.Clients, kb string, web *nodetest.Web) {
	t.Helper()
	ctx := t.Context()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	keys := s.Settle(t, s.AddText(t, kb, "keys.md", rotation).GetName())
	parts := uploadAcross(t, c, s, kb)
	up, err := s.Documents.UploadDocument(ctx)
	must("upload", err)
	must("upload", up.Send(&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Spec{
		Spec: &granaryv1.DocumentSpec{KnowledgeBase: kb, DisplayName: "streamed.txt"}}}))
	must("upload", up.Send(&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Data{Data: []byte("streamed in pieces")}}))
	streamed, err := up.CloseAndReceive()
	must("upload", err)
	s.Settle(t, streamed.GetDocument().GetName())
	again, err := s.Documents.ReprocessDocument(ctx, &granaryv1.ReprocessDocumentRequest{Name: keys.GetName()})
	must("reprocess", err)
	if keys = s.Settle(t, keys.GetName()); keys.GetVersion() != again.GetDocument().GetVersion() || keys.GetVersion() != 2 {
		t.Errorf("reprocessed: %v", keys)
	}
	chunks, err := s.Documents.ListChunks(ctx, &granaryv1.ListChunksRequest{Parent: keys.GetName()})
	must("chunks", err)
	text, err := s.Documents.GetDocumentText(ctx, &granaryv1.GetDocumentTextRequest{Name: keys.GetName()})
	must("text", err)
	if len(chunks.GetChunks()) == 0 || !strings.Contains(text.GetText(), "rotate command") {
		t.Errorf("%d chunks, text %q", len(chunks.GetChunks()), text.GetText())
	}
	web.Hold()
	slow := s.AddURL(t, kb, web.URL("slow"))
	web.Await(t, 1)
	_, err = s.Documents.CancelDocument(ctx, &granaryv1.CancelDocumentRequest{Name: slow.GetName()})
	must("cancel", err)
	web.Release()
	if d := s.Settle(t, slow.GetName()); d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_CANCELLED {
		t.Errorf("cancelled: %v", d)
	}
	_, err = s.Documents.DeleteDocument(ctx, &granaryv1.DeleteDocumentRequest{Name: parts})
	must("delete", err)
	list, err := s.Documents.ListDocuments(ctx, &granaryv1.ListDocumentsRequest{Parent: kb})
	must("list", err)
	if len(list.GetDocuments()) != 3 {
		t.Errorf("%d documents are listed, want 3", len(list.GetDocuments()))
	}
}

// uploadAcross uploads one document in as many parts as there are nodes, each to
// another one, and gives its name once it is READY.
func uploadAcross(t *testing.T, c *nodetest.Cluster, s *nodetest.Clients, kb string) string {
	t.Helper()
	token, want := "", ""
	for i, m := range c.Nodes {
		part := strings.Repeat("part "+strconv.Itoa(i)+" of the upload. ", 4000)
		client := m.Clients
		if i == 0 {
			client = s
		}
		r, err := client.Documents.AppendUpload(t.Context(), &granaryv1.AppendUploadRequest{UploadToken: token, Data: []byte(part)})
		if err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
		token, want = r.GetUploadToken(), want+part
		if r.GetSizeBytes() != int64(len(want)) {
			t.Errorf("%d bytes after part %d, want %d", r.GetSizeBytes(), i, len(want))
		}
	}
	r, err := s.Documents.CreateDocument(t.Context(), &granaryv1.CreateDocumentRequest{
		Spec:   &granaryv1.DocumentSpec{KnowledgeBase: kb, DisplayName: "parts.txt"},
		Source: &granaryv1.CreateDocumentRequest_UploadToken{UploadToken: token}})
	if err != nil {
		t.Fatal(err)
	}
	d := s.Settle(t, r.GetDocument().GetName())
	if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY || d.GetSizeBytes() != int64(len(want)) {
		t.Errorf("uploaded in parts: %v", d)
	}
	return d.GetName()
}

// eachThroughEach writes to a knowledge base of each node through each node, and
// follows it through each: what one acknowledged, all others show at once.
func eachThroughEach(t *testing.T, c *nodetest.Cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, owner := range c.Nodes {
		kb := c.KBs(owner, "dev", "each-"+owner.Name, 1)[0]
		owner.CreateKB(t, kb)
		for i, writer := range c.Nodes {
			r, err := writer.KBs.UpdateKnowledgeBase(ctx, &granaryv1.UpdateKnowledgeBaseRequest{
				KnowledgeBase: &granaryv1.KnowledgeBase{Name: kb, Description: writer.Name}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}}, RequestId: "by-" + writer.Name})
			if err != nil {
				t.Fatal(err)
			}
			revision := r.GetKnowledgeBase().GetRevision()
			if i == 0 {
				writer.AddText(t, kb, "a.txt", "herons stand in the water")
			}
			for _, reader := range c.Nodes {
				got, err := reader.KBs.GetKnowledgeBase(ctx, &granaryv1.GetKnowledgeBaseRequest{Name: kb})
				if err != nil || got.GetKnowledgeBase().GetDescription() != writer.Name {
					t.Errorf("%s of %s, written through %s, read through %s: %v, %v", kb, owner.Name, writer.Name, reader.Name, got, err)
				}
				found, err := reader.Search.Search(ctx, &granaryv1.SearchRequest{KnowledgeBase: kb, Query: "heron", MinRevision: revision})
				if err != nil || found.GetRevision() < revision {
					t.Errorf("search through %s: revision %d of %d, %v", reader.Name, found.GetRevision(), revision, err)
				}
			}
		}
		for _, watcher := range c.Nodes {
			gapless(t, watcher.Clients, kb, int64(len(c.Nodes)+2))
		}
	}
	oneActivationEach(t, c)
}

// gapless reads the first events of a knowledge base: each revision once.
func gapless(t *testing.T, s *nodetest.Clients, kb string, n int64) {
	t.Helper()
	follow(t, s, kb)(n)
}

// follow opens the stream of a knowledge base's events. What it gives reads on
// until a revision; each must come once.
func follow(t *testing.T, s *nodetest.Clients, kb string) func(until int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	stream, err := s.Events.WatchEvents(ctx, &granaryv1.WatchEventsRequest{KnowledgeBase: kb, FromStart: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	at := int64(0)
	return func(until int64) {
		t.Helper()
		for at < until {
			m, err := stream.Receive()
			if err != nil {
				t.Fatalf("after %d events of %s: %v", at, kb, err)
			}
			if e := m.GetEvent(); e != nil {
				if e.GetRevision() != at+1 {
					t.Fatalf("event %d of %s follows %d", e.GetRevision(), kb, at)
				}
				at++
			}
		}
	}
}

// oneActivationEach checks that each grain lives on one node, where it is placed.
func oneActivationEach(t *testing.T, c *nodetest.Cluster) {
	t.Helper()
	at := map[string]string{}
	op := c.Nodes[0].Operator.Cluster
	for token := ""; ; {
		r, err := op.ListActivations(t.Context(), &granaryv1.ListActivationsRequest{PageSize: 3, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range r.GetActivations() {
			id := a.GetKind() + "/" + a.GetTenant() + "/" + a.GetId()
			if before, twice := at[id]; twice {
				t.Errorf("%s is active on %s and %s", id, before, a.GetNode())
			}
			at[id] = a.GetNode()
			where := &granaryv1.GetPlacementRequest{Tenant: a.GetTenant()}
			if a.GetKind() == "kb" {
				where.KnowledgeBase = a.GetId()
			}
			p, err := op.GetPlacement(t.Context(), where)
			if err != nil || p.GetPlacement().GetNode() != a.GetNode() || !p.GetPlacement().GetActive() {
				t.Errorf("%s is active on %s; placement %v, %v", id, a.GetNode(), p, err)
			}
		}
		if token = r.GetNextPageToken(); token == "" {
			break
		}
	}
	if len(at) < 4 { // the tenant and a knowledge base of each node
		t.Errorf("%d grains are active", len(at))
	}
}

// rolesOfNodes adds a node that only serves clients and one that only owns.
func rolesOfNodes(t *testing.T, c *nodetest.Cluster) {
	door := c.Add(func(cfg *node.Config) { cfg.Node, cfg.Cluster.Roles = "door", []string{"gateway"} })
	host := c.Add(func(cfg *node.Config) { cfg.Node, cfg.Cluster.Roles = "host", []string{"host"} })
	hosts := others(c, door)
	c.Settle(hosts...)
	nodetest.Await(t, "the door knows the last view", func() bool { return door.View().Version == host.View().Version })
	if _, member := host.View().Named("door"); member {
		t.Error("a node that only serves clients is a member")
	}
	for _, owner := range hosts {
		kb := c.KBs(owner, "dev", "role-"+owner.Name, 1)[0]
		door.CreateKB(t, kb)
		d := door.Settle(t, door.AddText(t, kb, "a.txt", "owned by "+owner.Name).GetName())
		if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY || !nodetest.Finds(t, door.Clients, kb, owner.Name, d.GetName()) {
			t.Errorf("through the door: %v", d)
		}
	}
	r, err := door.Operator.Cluster.ListNodes(t.Context(), &granaryv1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range r.GetNodes() {
		switch n.GetName() {
		case "nodes/door":
			if n.GetPartitions() != 0 || n.GetActivations() != 0 || n.GetState() != granaryv1.NodeState_NODE_STATE_ABSENT || !slices.Equal(n.GetRoles(), []string{"gateway"}) {
				t.Errorf("the door: %v", n)
			}
		case "nodes/host":
			if n.GetPartitions() == 0 || n.GetApiAddress() != "" || !slices.Equal(n.GetRoles(), []string{"host"}) {
				t.Errorf("the host: %v", n)
			}
		default:
			if !slices.Equal(n.GetRoles(), []string{"gateway", "host"}) {
				t.Errorf("%v", n)
			}
		}
	}
	if len(r.GetNodes()) != 5 {
		t.Errorf("%d nodes are listed", len(r.GetNodes()))
	}
}
