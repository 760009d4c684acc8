package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func TestMain(m *testing.M) { nodetest.Main(m, pg.Close) }

func createKB(t *testing.T, s *nodetest.Server, id string) *granaryv1.KnowledgeBase {
	t.Helper()
	r, err := s.KBs.CreateKnowledgeBase(t.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: id})
	if err != nil {
		t.Fatalf("create %s: %v", id, err)
	}
	return r.GetKnowledgeBase()
}

func search(t *testing.T, s *nodetest.Server, kb, query string) *granaryv1.SearchResponse {
	t.Helper()
	r, err := s.Search.Search(t.Context(), &granaryv1.SearchRequest{KnowledgeBase: kb, Query: query})
	if err != nil {
		t.Fatalf("search %s: %v", kb, err)
	}
	return r
}

// reason gives the stable reason of an API error.
func reason(t *testing.T, err error) string {
	t.Helper()
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok {
		t.Fatalf("not an API error: %v", err)
	}
	for _, d := range ce.Details() {
		v, err := connectproto.UnmarshalErrorDetail(d)
		if err != nil {
			t.Fatal(err)
		}
		if info, ok := v.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	t.Fatalf("no ErrorInfo in %v", err)
	return ""
}

const rotation = `# Signing keys

## Rotation

To rotate the signing key, run the rotate command on any node. The old key stays
valid for a day, so that tokens that were issued before go on working.

# Lunch

The canteen serves soup on Mondays and lasagne on Fridays.
`

// C1, C4, C5: from nothing to an answer with a citation.
func TestDocumentIsFoundByMeaningAndByWordsWithCitation(t *testing.T) {
	s := nodetest.Start(t)
	created := createKB(t, s, "handbook")
	if created.GetUid() == "" || created.GetRevision() == 0 || created.GetEtag() == "" {
		t.Fatalf("incomplete: %v", created)
	}
	doc := s.Settle(t, s.AddText(t, "handbook", "keys.md", rotation).GetName())
	if doc.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY || doc.GetChunkCount() == 0 || doc.GetEmbeddedChunkCount() != doc.GetChunkCount() {
		t.Fatalf("not ready and whole: %v", doc)
	}
	r := search(t, s, "handbook", "how do I replace the key that tokens are signed with?")
	if len(r.GetHits()) == 0 {
		t.Fatal("nothing found")
	}
	hit := r.GetHits()[0]
	if !strings.Contains(hit.GetText(), "rotate the signing key") || hit.GetDocument() != doc.GetName() || hit.GetVersion() != 1 {
		t.Fatalf("wrong hit: %v", hit)
	}
	if got := rotation[hit.GetStart():hit.GetEnd()]; got != hit.GetText() {
		t.Errorf("byte offsets cite %q, the hit says %q", got, hit.GetText())
	}
	if strings.Join(hit.GetHeadings(), "/") != "Signing keys/Rotation" {
		t.Errorf("heading path %q", hit.GetHeadings())
	}
	if len(hit.GetHighlights()) == 0 || hit.GetScore() <= 0 || !hit.GetParts().GetHasVector() {
		t.Errorf("incomplete hit: %v", hit)
	}
	if r.GetRevision() < doc.GetRevision() {
		t.Errorf("answered from revision %d, the document is of %d", r.GetRevision(), doc.GetRevision())
	}
}

// A4, I12: what was acknowledged is there after a restart, index included.
func TestRestartKeepsEverything(t *testing.T) {
	s := nodetest.Start(t)
	createKB(t, s, "handbook")
	doc := s.Settle(t, s.AddText(t, "handbook", "keys.md", rotation).GetName())
	before := search(t, s, "handbook", "rotate signing key")
	s.Restart()
	after, err := s.Documents.GetDocument(t.Context(), &granaryv1.GetDocumentRequest{Name: doc.GetName()})
	if err != nil {
		t.Fatal(err)
	}
	if after.GetDocument().GetState() != doc.GetState() || after.GetDocument().GetSha256() != doc.GetSha256() {
		t.Fatalf("changed by the restart: %v", after)
	}
	again := search(t, s, "handbook", "rotate signing key")
	if len(again.GetHits()) != len(before.GetHits()) || again.GetHits()[0].GetText() != before.GetHits()[0].GetText() {
		t.Fatalf("found %v, before the restart %v", again.GetHits(), before.GetHits())
	}
	list, err := s.KBs.ListKnowledgeBases(t.Context(), &granaryv1.ListKnowledgeBasesRequest{})
	if err != nil || len(list.GetKnowledgeBases()) != 1 {
		t.Fatalf("list: %v, %v", list, err)
	}
}

// C2: the duplicate rule, and versions.
func TestSameBytesAreOneDocumentAndOtherBytesAreItsNextVersion(t *testing.T) {
	s := nodetest.Start(t)
	createKB(t, s, "handbook")
	add := func(id, text string, on granaryv1.OnDuplicate) (*granaryv1.CreateDocumentResponse, error) {
		return s.Documents.CreateDocument(t.Context(), &granaryv1.CreateDocumentRequest{
			Spec:   &granaryv1.DocumentSpec{KnowledgeBase: "handbook", DocumentId: id, DisplayName: "a.txt", OnDuplicate: on},
			Source: &granaryv1.CreateDocumentRequest_Text{Text: text},
		})
	}
	first, err := add("a", "the quick brown fox", 0)
	if err != nil {
		t.Fatal(err)
	}
	s.Settle(t, first.GetDocument().GetName())
	same, err := add("", "the quick brown fox", granaryv1.OnDuplicate_ON_DUPLICATE_RETURN)
	if err != nil || !same.GetDuplicate() || same.GetDocument().GetName() != first.GetDocument().GetName() {
		t.Fatalf("RETURN gave %v, %v", same, err)
	}
	if _, err = add("", "the quick brown fox", granaryv1.OnDuplicate_ON_DUPLICATE_FAIL); reason(t, err) != "DOCUMENT_DUPLICATE" {
		t.Fatalf("FAIL gave %v", err)
	}
	next, err := add("a", "the slow green turtle", 0)
	if err != nil || next.GetDuplicate() || next.GetDocument().GetVersion() != 2 {
		t.Fatalf("other bytes under the id gave %v, %v", next, err)
	}
	s.Settle(t, next.GetDocument().GetName())
	if hits := search(t, s, "handbook", "turtle").GetHits(); len(hits) != 1 || hits[0].GetVersion() != 2 {
		t.Fatalf("found %v", hits)
	}
	for _, h := range search(t, s, "handbook", "fox").GetHits() {
		if strings.Contains(h.GetText(), "fox") {
			t.Errorf("the superseded version is still found: %v", h)
		}
	}
}

// C4: deletion is complete from the acknowledgement on, in any state.
func TestDeletedIsNeverFound(t *testing.T) {
	s := nodetest.Start(t)
	createKB(t, s, "handbook")
	doc := s.Settle(t, s.AddText(t, "handbook", "keys.md", rotation).GetName())
	if len(search(t, s, "handbook", "signing key").GetHits()) == 0 {
		t.Fatal("not found to begin with")
	}
	if _, err := s.Documents.DeleteDocument(t.Context(), &granaryv1.DeleteDocumentRequest{Name: doc.GetName()}); err != nil {
		t.Fatal(err)
	}
	if hits := search(t, s, "handbook", "signing key").GetHits(); len(hits) != 0 {
		t.Fatalf("found after the acknowledgement: %v", hits)
	}
	if _, err := s.Documents.GetDocument(t.Context(), &granaryv1.GetDocumentRequest{Name: doc.GetName()}); reason(t, err) != "DOCUMENT_NOT_FOUND" {
		t.Fatal(err)
	}
	// The same bytes can come back.
	s.Settle(t, s.AddText(t, "handbook", "keys.md", rotation).GetName())
	if _, err := s.KBs.DeleteKnowledgeBase(t.Context(), &granaryv1.DeleteKnowledgeBaseRequest{Name: "handbook"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Search.Search(t.Context(), &granaryv1.SearchRequest{KnowledgeBase: "handbook", Query: "x"}); reason(t, err) != "KNOWLEDGE_BASE_NOT_FOUND" {
		t.Fatal(err)
	}
	if list, err := s.KBs.ListKnowledgeBases(t.Context(), &granaryv1.ListKnowledgeBasesRequest{}); err != nil || len(list.GetKnowledgeBases()) != 0 {
		t.Fatalf("still listed: %v, %v", list, err)
	}
	recreate(t, s, "handbook")
	if hits := search(t, s, "handbook", "signing key").GetHits(); len(hits) != 0 {
		t.Fatalf("the recreated knowledge base sees old rows: %v", hits)
	}
}

// recreate waits out the erasure of a former incarnation.
func recreate(t *testing.T, s *nodetest.Server, id string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, err := s.KBs.CreateKnowledgeBase(t.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: id})
		if err == nil {
			return
		}
		if reason(t, err) != "UNAVAILABLE" || time.Now().After(deadline) {
			t.Fatalf("recreate: %v", err)
		}
	}
}

// C7: call > knowledge base > tenant > built-in, and the answer says which.
func TestAnswerSaysWhichSettingApplied(t *testing.T) {
	s := nodetest.Start(t)
	createKB(t, s, "handbook")
	s.Settle(t, s.AddText(t, "handbook", "keys.md", rotation).GetName())
	layers := func(r *granaryv1.RetrievalConfig) (int32, granaryv1.ConfigLayer) {
		t.Helper()
		resp, err := s.Search.Search(t.Context(), &granaryv1.SearchRequest{KnowledgeBase: "handbook", Query: "key", Retrieval: r})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetApplied().GetConfig().GetRetrieval().GetTopN(), resp.GetApplied().GetSources()["retrieval.top_n"]
	}
	top := func(n int32) *granaryv1.RetrievalConfig { return &granaryv1.RetrievalConfig{TopN: &n} }
	check := func(r *granaryv1.RetrievalConfig, want int32, layer granaryv1.ConfigLayer) {
		t.Helper()
		if n, l := layers(r); n != want || l != layer {
			t.Errorf("top_n %d from %v, want %d from %v", n, l, want, layer)
		}
	}
	check(nil, 10, granaryv1.ConfigLayer_CONFIG_LAYER_BUILT_IN)
	if _, err := s.Tenants.UpdateTenantConfig(t.Context(), &granaryv1.UpdateTenantConfigRequest{DefaultConfig: &granaryv1.Config{Retrieval: top(7)}}); err != nil {
		t.Fatal(err)
	}
	check(nil, 7, granaryv1.ConfigLayer_CONFIG_LAYER_TENANT)
	if _, err := s.KBs.UpdateKnowledgeBase(t.Context(), &granaryv1.UpdateKnowledgeBaseRequest{
		KnowledgeBase: &granaryv1.KnowledgeBase{Name: "handbook", Config: &granaryv1.Config{Retrieval: top(5)}},
		UpdateMask:    &fieldmaskpb.FieldMask{Paths: []string{"config.retrieval.top_n"}},
	}); err != nil {
		t.Fatal(err)
	}
	check(nil, 5, granaryv1.ConfigLayer_CONFIG_LAYER_KNOWLEDGE_BASE)
	check(top(2), 2, granaryv1.ConfigLayer_CONFIG_LAYER_CALL)
}

// C3: URL sources, with the dialled address checked.
func TestURLIsFetchedAndRefusedAddressesAreNot(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, "<html><head><title>Owls</title></head><body><h1>Owls</h1><p>Owls hunt mice at night and turn their heads far round.</p></body></html>")
	}))
	defer web.Close()
	var port uint16
	if _, err := fmt.Sscanf(web.URL, "http://127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	add := func(s *nodetest.Server, url string) *granaryv1.Document {
		t.Helper()
		createKB(t, s, "birds")
		r, err := s.Documents.CreateDocument(t.Context(), &granaryv1.CreateDocumentRequest{
			Spec: &granaryv1.DocumentSpec{KnowledgeBase: "birds"}, Source: &granaryv1.CreateDocumentRequest_Url{Url: url}})
		if err != nil {
			t.Fatal(err)
		}
		return s.Settle(t, r.GetDocument().GetName())
	}
	s := nodetest.Start(t, func(c *node.Config) { c.Fetch.Ports = []uint16{port} })
	if d := add(s, web.URL+"/owls"); d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY || d.GetTitle() != "Owls" {
		t.Fatalf("not fetched: %v", d)
	}
	closed := nodetest.Start(t, func(c *node.Config) { c.Fetch.Ports, c.Fetch.AllowNetworks = []uint16{port}, nil })
	d := add(closed, web.URL+"/owls")
	if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_FAILED || d.GetError().GetReason() != "ADDRESS_NOT_ALLOWED" {
		t.Fatalf("loopback was not refused: %v", d)
	}
}

// C4: a broken file fails alone, with its reason.
func TestBrokenFileFailsAlone(t *testing.T) {
	s := nodetest.Start(t)
	createKB(t, s, "mixed")
	add := func(name string, data []byte) string {
		t.Helper()
		r, err := s.Documents.CreateDocument(t.Context(), &granaryv1.CreateDocumentRequest{
			Spec: &granaryv1.DocumentSpec{KnowledgeBase: "mixed", DisplayName: name}, Source: &granaryv1.CreateDocumentRequest_Data{Data: data}})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetDocument().GetName()
	}
	good, bad, empty := add("good.txt", []byte("a good text about herons")), add("bad.docx", []byte("PK\x03\x04 broken")), add("empty.txt", []byte("  \n "))
	if d := s.Settle(t, bad); d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_FAILED || d.GetError().GetReason() == "" || d.GetError().GetStage() != "parse" {
		t.Errorf("broken: %v", d)
	}
	if d := s.Settle(t, good); d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY {
		t.Errorf("good: %v", d)
	}
	if d := s.Settle(t, empty); d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY_EMPTY {
		t.Errorf("empty: %v", d)
	}
}

// I3, I12: the event stream is gapless and can be resumed anywhere.
func TestEventsAreGaplessAndResumable(t *testing.T) {
	s := nodetest.Start(t)
	createKB(t, s, "handbook")
	doc := s.Settle(t, s.AddText(t, "handbook", "keys.md", rotation).GetName())
	read := func(token string, n int64) (events []*granaryv1.Event, last string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		stream, err := s.Events.WatchEvents(ctx, &granaryv1.WatchEventsRequest{KnowledgeBase: "handbook", ResumeToken: token, FromStart: token == ""})
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		for {
			m, err := stream.Receive()
			if err != nil {
				if errors.Is(err, io.EOF) {
					return events, last
				}
				t.Fatal(err)
			}
			if e := m.GetEvent(); e != nil {
				events, last = append(events, e), m.GetResumeToken()
				if e.GetRevision() == n {
					return events, last
				}
			}
		}
	}
	all, _ := read("", doc.GetRevision())
	for i, e := range all {
		if e.GetRevision() != int64(i+1) {
			t.Fatalf("event %d has revision %d", i, e.GetRevision())
		}
	}
	if all[0].GetType() != "kb.created" || all[len(all)-1].GetType() != "document.indexed" {
		t.Fatalf("from %s to %s", all[0].GetType(), all[len(all)-1].GetType())
	}
	_, token := read("", 2)
	rest, _ := read(token, doc.GetRevision())
	if len(rest) != len(all)-2 || rest[0].GetRevision() != 3 {
		t.Fatalf("resumed at %d with %d events", rest[0].GetRevision(), len(rest))
	}
}

// I5: a keyed request applies once, whatever happens between its tries.
func TestKeyedRequestAppliesOnce(t *testing.T) {
	s := nodetest.Start(t)
	createKB(t, s, "handbook")
	req := func(text string) (*granaryv1.CreateDocumentResponse, error) {
		return s.Documents.CreateDocument(t.Context(), &granaryv1.CreateDocumentRequest{
			Spec:   &granaryv1.DocumentSpec{KnowledgeBase: "handbook", RequestId: "r-1", OnDuplicate: granaryv1.OnDuplicate_ON_DUPLICATE_NEW_VERSION},
			Source: &granaryv1.CreateDocumentRequest_Text{Text: text},
		})
	}
	first, err := req("one")
	if err != nil {
		t.Fatal(err)
	}
	s.Settle(t, first.GetDocument().GetName())
	s.Restart()
	again, err := req("one")
	if err != nil || again.GetDocument().GetName() != first.GetDocument().GetName() || again.GetDocument().GetVersion() != 1 {
		t.Fatalf("second try gave %v, %v", again, err)
	}
	if _, err := req("two"); reason(t, err) != "IDEMPOTENCY_KEY_REUSED" {
		t.Fatal(err)
	}
}

// A lock keeps a second process off the data folder.
func TestSecondServerIsRefusedTheFolder(t *testing.T) {
	s := nodetest.Start(t)
	cfg, err := node.Config{Dev: true, Data: s.Data, Listen: "127.0.0.1:0"}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	_, err = node.Start(t.Context(), cfg, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("second server: %v", err)
	}
}

// The token files are for their owner only.
func TestDevTokensArePrivate_B1_A7(t *testing.T) {
	s := nodetest.Start(t)
	for _, name := range []string{"dev-token", "dev-operator-token"} {
		info, err := os.Stat(filepath.Join(s.Data, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
}

// A token issued with the server's key works, with its role and no more; the
// usage is checked.
func TestIssuedTokenWorksWithItsRole(t *testing.T) {
	s := nodetest.Start(t)
	issue := func(args ...string) (string, error) {
		var out strings.Builder
		cmd := node.TokenCommand()
		cmd.SetArgs(append([]string{"issue", "--key-file", filepath.Join(s.Data, "dev-key")}, args...))
		cmd.SetOut(&out)
		cmd.SetErr(io.Discard)
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		err := cmd.ExecuteContext(t.Context())
		return strings.TrimSpace(out.String()), err
	}
	token, err := issue("--tenant", "acme", "--role", "viewer")
	if err != nil {
		t.Fatal(err)
	}
	createKB(t, s, "handbook") // of tenant dev
	viewer := nodetest.Dial(t, s.URL, token)
	list, err := viewer.KBs.ListKnowledgeBases(t.Context(), &granaryv1.ListKnowledgeBasesRequest{})
	if err != nil || len(list.GetKnowledgeBases()) != 0 {
		t.Errorf("another tenant's viewer sees %v, %v", list, err)
	}
	if _, err := viewer.KBs.GetKnowledgeBase(t.Context(), &granaryv1.GetKnowledgeBaseRequest{Name: "handbook"}); reason(t, err) != "KNOWLEDGE_BASE_NOT_FOUND" {
		t.Error(err)
	}
	if _, err := viewer.KBs.CreateKnowledgeBase(t.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "x"}); reason(t, err) != "PERMISSION_DENIED" {
		t.Error(err)
	}
	operator, err := issue("--operator", "--subject", "olga")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nodetest.Dial(t, s.URL, operator).KBs.ListKnowledgeBases(t.Context(), &granaryv1.ListKnowledgeBasesRequest{}); reason(t, err) != "UNAUTHENTICATED" {
		t.Errorf("an operator lists a tenant's knowledge bases: %v", err)
	}
	for token, want := range map[string]string{operator: "CLUSTER_SINGLE_NODE", token: "UNAUTHENTICATED"} {
		if _, err := nodetest.Dial(t, s.URL, token).Cluster.GetView(t.Context(), &granaryv1.GetViewRequest{}); reason(t, err) != want {
			t.Errorf("the view of a server without a cluster: %v, want %s", err, want)
		}
	}
	for _, bad := range [][]string{{"--operator", "--tenant", "acme"}, {"--operator", "--role", "admin"}, {"--tenant", "../x"}, {"--tenant", "a", "--role", "root"}, {"--tenant", "a", "--ttl", "-1h"}, {}} {
		if out, err := issue(bad...); err == nil || out != "" {
			t.Errorf("%v gave a token, %v", bad, err)
		}
	}
}
