package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	ready     = granaryv1.DocumentState_DOCUMENT_STATE_READY
	failed    = granaryv1.DocumentState_DOCUMENT_STATE_FAILED
	queued    = granaryv1.DocumentState_DOCUMENT_STATE_QUEUED
	embedding = granaryv1.DocumentState_DOCUMENT_STATE_EMBEDDING
)

func sampleKB() *granaryv1.KnowledgeBase {
	config := &granaryv1.Config{
		Chunking:  &granaryv1.ChunkingConfig{TargetWords: proto.Int32(100), MaxWords: proto.Int32(150), OverlapSentences: proto.Int32(0)},
		Embedding: &granaryv1.EmbeddingConfig{Model: proto.String("use-lite")},
		Retrieval: &granaryv1.RetrievalConfig{
			Mode: granaryv1.SearchMode_SEARCH_MODE_HYBRID.Enum(), TopN: proto.Int32(10), KeywordWeight: proto.Float64(0.5),
			Fusion: granaryv1.Fusion_FUSION_RECIPROCAL_RANK.Enum(), MinScore: proto.Float64(0), Candidates: proto.Int32(100),
		},
	}
	return &granaryv1.KnowledgeBase{
		Name: "knowledgeBases/handbook", Uid: "u-1", DisplayName: "Staff handbook", Description: "How we work",
		EffectiveConfig: &granaryv1.EffectiveConfig{Config: config, Sources: map[string]granaryv1.ConfigLayer{
			"chunking.target_words": granaryv1.ConfigLayer_CONFIG_LAYER_KNOWLEDGE_BASE,
			"chunking.max_words":    granaryv1.ConfigLayer_CONFIG_LAYER_BUILT_IN,
			"retrieval.mode":        granaryv1.ConfigLayer_CONFIG_LAYER_TENANT,
		}},
		DocumentCounts: map[string]int64{"READY": 12, "FAILED": 1}, ChunkCount: 345, SourceBytes: 1234567,
		CreateTime: at(0), UpdateTime: at(60), Revision: 78, Etag: "e1", DocumentLimit: 1000,
	}
}

func sampleDoc(id string, state granaryv1.DocumentState) *granaryv1.Document {
	d := &granaryv1.Document{
		Name: "knowledgeBases/handbook/documents/" + id, DisplayName: "people/" + id, Version: 2, State: state, SearchableVersion: 1,
		MediaType: "text/markdown", Language: "en", Title: "Leave", SizeBytes: 20480, Sha256: "ab12", Pages: 3, ChunkCount: 7,
		EmbeddedChunkCount: 5, Attempts: 1, Metadata: map[string]string{"team": "people", "area": "hr"}, Warnings: []string{"odd table"},
		CreateTime: at(0), UpdateTime: at(5), Revision: 9,
	}
	switch state {
	case failed:
		d.Error = &granaryv1.DocumentError{Reason: "ENCRYPTED", Message: "the PDF needs a password", Stage: "parse"}
	case embedding:
		d.Progress, d.KeywordSearchable = 0.4, true
		d.Error = &granaryv1.DocumentError{Reason: "RATE_LIMITED", Stage: "embed", Retryable: true, RetryTime: at(90)}
	}
	return d
}

func sampleTenant() *granaryv1.Tenant {
	return &granaryv1.Tenant{
		Name: "tenants/acme", Tier: "starter", ConfigVersion: 4, Etag: "t4",
		Limits: &granaryv1.TenantLimits{
			ConcurrentProcessing: 5, DocumentsPerKnowledgeBase: 1000, StorageBytes: 10_000_000_000, ApiCallsPerHour: 1000, VectorOperationsPerMinute: 100,
		},
		DefaultConfig: &granaryv1.Config{Retrieval: &granaryv1.RetrievalConfig{TopN: proto.Int32(20)}},
	}
}

func sampleAnswer() *granaryv1.SearchResponse {
	text := "Everybody may work from home.\n\nParental\tleave is granted for \x1b[31mtwelve\x1b[0m months; ask 人事 early."
	at := strings.Index(text, "Parental")
	return &granaryv1.SearchResponse{
		Revision: 78, FallbackUsed: "keyword_search", Message: "the vector store is down",
		Hits: []*granaryv1.Hit{{
			Document: "knowledgeBases/handbook/documents/leave.md-1f3870be", DisplayName: "people/leave.md", Version: 3, Chunk: 4, Text: text, Score: 0.81249,
			Parts:    &granaryv1.ScoreParts{Bm25: 7.5, Keyword: 0.7, Vector: 0.9, HasVector: true},
			Headings: []string{"Leave", "Parental"}, Start: 1204, End: 1304, Page: 4,
			Highlights: []*granaryv1.Range{{Start: int32(at), End: int32(at + len("Parental\tleave"))}},
		}, {
			Document: "knowledgeBases/handbook/documents/d2", Version: 1, Text: "no highlights here", Score: 0.25, End: 18,
			Parts: &granaryv1.ScoreParts{Bm25: 1, Keyword: 0.1},
		}},
	}
}

// script answers every unary method with samples.
func script(req proto.Message) (proto.Message, error) {
	switch r := req.(type) {
	case *granaryv1.CreateKnowledgeBaseRequest:
		return &granaryv1.CreateKnowledgeBaseResponse{KnowledgeBase: sampleKB()}, nil
	case *granaryv1.GetKnowledgeBaseRequest:
		return &granaryv1.GetKnowledgeBaseResponse{KnowledgeBase: sampleKB()}, nil
	case *granaryv1.UpdateKnowledgeBaseRequest:
		return &granaryv1.UpdateKnowledgeBaseResponse{KnowledgeBase: sampleKB()}, nil
	case *granaryv1.ListKnowledgeBasesRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListKnowledgeBasesResponse{NextPageToken: "p2", KnowledgeBases: []*granaryv1.KnowledgeBase{
				{Name: "knowledgeBases/handbook", DisplayName: "Staff handbook", CreateTime: at(0)},
			}}, nil
		}
		return &granaryv1.ListKnowledgeBasesResponse{KnowledgeBases: []*granaryv1.KnowledgeBase{
			{Name: "knowledgeBases/a", DisplayName: "日本語の資料", CreateTime: at(1)},
		}}, nil
	case *granaryv1.DeleteKnowledgeBaseRequest, *granaryv1.DeleteDocumentRequest:
		return &emptypb.Empty{}, nil
	case *granaryv1.GetDocumentRequest:
		return &granaryv1.GetDocumentResponse{Document: sampleDoc("leave.md", embedding)}, nil
	case *granaryv1.CancelDocumentRequest:
		return &granaryv1.CancelDocumentResponse{Document: sampleDoc("leave.md", granaryv1.DocumentState_DOCUMENT_STATE_CANCELLED)}, nil
	case *granaryv1.ReprocessDocumentRequest:
		return &granaryv1.ReprocessDocumentResponse{Document: sampleDoc("leave.md", queued)}, nil
	case *granaryv1.ListDocumentsRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListDocumentsResponse{NextPageToken: "p2", Revision: 8, Documents: []*granaryv1.Document{sampleDoc("leave.md", ready)}}, nil
		}
		return &granaryv1.ListDocumentsResponse{Revision: 9, Documents: []*granaryv1.Document{
			sampleDoc("secret.pdf", failed), sampleDoc("big.txt", embedding),
		}}, nil
	case *granaryv1.ListChunksRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListChunksResponse{NextPageToken: "p2", Version: 2, Chunks: []*granaryv1.Chunk{
				{Ordinal: 0, Text: "First\nchunk.", End: 12, Headings: []string{"Leave", "Parental"}, Language: "en", Embedded: true},
			}}, nil
		}
		return &granaryv1.ListChunksResponse{Version: 2, Chunks: []*granaryv1.Chunk{{Ordinal: 1, Text: strings.Repeat("long ", 40), Start: 12, End: 212, Page: 2}}}, nil
	case *granaryv1.GetDocumentTextRequest:
		const all = "Line one\nline \x1b]two\x07 é"
		const part = 10
		from := int(r.GetOffset())
		return &granaryv1.GetDocumentTextResponse{
			Text: all[from:min(len(all), from+part)], Offset: r.GetOffset(), TotalBytes: int64(len(all)), Version: 2,
		}, nil
	case *granaryv1.SearchRequest:
		res := sampleAnswer()
		if r.GetExplain() {
			res.Explain = &granaryv1.Explain{
				Plan: "hybrid: exact int8 scan + bm25, convex fusion w=0.50", Reason: "345 chunks are few", Chunks: 345, Documents: 12,
				EligibleChunks: 300, Candidates: 100, Terms: []string{"parental", "leave"}, Node: "n1",
				Steps: []*granaryv1.ExplainStep{
					{Name: "embed", Took: durationpb.New(2400 * time.Microsecond), Detail: "1 window"},
					{Name: "scan", Took: durationpb.New(30 * time.Microsecond)},
				},
			}
		}
		return res, nil
	case *granaryv1.RecountUsageRequest:
		return &granaryv1.RecountUsageResponse{Recounts: sampleRecounts()}, nil
	case *granaryv1.RecountTenantUsageRequest:
		if strings.HasSuffix(r.GetName(), "acme") {
			return &granaryv1.RecountTenantUsageResponse{Recounts: sampleRecounts()}, nil
		}
		return &granaryv1.RecountTenantUsageResponse{Recounts: []*granaryv1.Recount{{Metric: "storage_bytes", Counter: 7, Recount: 7}, {Metric: "concurrent_processing"}}}, nil
	case *granaryv1.ListTenantsRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListTenantsResponse{Tenants: []*granaryv1.Tenant{{Name: "tenants/acme"}}, NextPageToken: "more"}, nil
		}
		return &granaryv1.ListTenantsResponse{Tenants: []*granaryv1.Tenant{{Name: "tenants/umbrella"}}}, nil
	case *granaryv1.GetUsageRequest:
		return &granaryv1.GetUsageResponse{Usage: sampleUsage()}, nil
	case *granaryv1.DescribeTenantUsageRequest:
		return &granaryv1.DescribeTenantUsageResponse{Usage: sampleUsage()}, nil
	case *granaryv1.GetTenantRequest:
		return &granaryv1.GetTenantResponse{Tenant: sampleTenant()}, nil
	case *granaryv1.UpdateTenantConfigRequest:
		t := sampleTenant()
		t.DefaultConfig = r.GetDefaultConfig()
		return &granaryv1.UpdateTenantConfigResponse{Tenant: t}, nil
	}
	return nil, connect.NewError(connect.CodeUnimplemented, fmt.Sprintf("no script for %T", req))
}

func sampleUsage() *granaryv1.Usage {
	at := func(minute int) *timestamppb.Timestamp {
		return timestamppb.New(time.Date(2026, 3, 4, 5, minute, 0, 0, time.UTC))
	}
	return &granaryv1.Usage{Quotas: []*granaryv1.Quota{
		{Metric: "api_calls_per_hour", Limit: 1250, Base: 1000, BurstAvailable: 250, Used: 412, GrantedUnused: 8, Remaining: 830,
			WindowStart: at(0), ResetTime: timestamppb.New(time.Date(2026, 3, 4, 6, 0, 0, 0, time.UTC))},
		{Metric: "vector_operations_per_minute", Limit: 100, Base: 100, Used: 100, WindowStart: at(6), ResetTime: at(7)},
		{Metric: "storage_bytes", Limit: 10_000_000_000, Base: 10_000_000_000, Used: 1_234_567_890, Remaining: 8_765_432_110},
		{Metric: "documents_per_knowledge_base", Limit: 1000, Base: 1000, Used: 12, Remaining: 988, KnowledgeBase: "knowledgeBases/handbook"},
		{Metric: "of_a_newer_server", Limit: 3, Base: 3, Used: 1, Remaining: 2},
	}}
}

// Every command prints a table on a terminal and plain lines in a pipe.
func TestOutputOfEveryCommandMatchesItsGoldenFiles(t *testing.T) {
	cases := map[string][]string{
		"kb_create":      {"kb", "create", "handbook", "--display-name", "Staff handbook"},
		"kb_get":         {"kb", "get", "handbook"},
		"kb_list":        {"kb", "list"},
		"kb_update":      {"kb", "update", "handbook", "--top", "20"},
		"kb_delete":      {"kb", "delete", "handbook", "--yes"},
		"doc_get":        {"doc", "get", "handbook", "leave.md"},
		"doc_list":       {"doc", "list", "handbook"},
		"doc_delete":     {"doc", "delete", "handbook", "a", "knowledgeBases/handbook/documents/b"},
		"doc_cancel":     {"doc", "cancel", "handbook", "leave.md"},
		"doc_reprocess":  {"doc", "reprocess", "handbook", "leave.md", "--target-words", "80"},
		"doc_chunks":     {"doc", "chunks", "handbook", "leave.md"},
		"doc_text":       {"doc", "text", "handbook", "leave.md"},
		"search":         {"search", "handbook", "parental", "leave"},
		"search_explain": {"search", "handbook", "parental leave", "--explain"},
		"tenant_get":     {"tenant", "get"},
		"tenant_config":  {"tenant", "config", "--set", "retrieval.mode=keyword", "--unset", "retrieval.top_n"},
		"usage":          {"usage"},
		"usage_tenant":   {"usage", "--tenant", "acme"},
		"usage_recount":  {"usage", "--recount"},

		"usage_recount_tenant": {"usage", "--recount", "--tenant", "acme"},
		"usage_recount_all":    {"usage", "--recount", "--all"},
		"version":              {"version"},
	}
	for name, args := range cases {
		t.Run(name, func(t *testing.T) {
			f := &fake{answer: script}
			url := f.serve(t, false)
			pipe := granary(t, url, world{}, args...)
			wantCode(t, pipe, ExitOK)
			if strings.Contains(strings.ReplaceAll(pipe.stdout, "\x1b]two", ""), "\x1b") {
				t.Errorf("a pipe got escape sequences: %q", pipe.stdout)
			}
			golden(t, name+".pipe", pipe.stdout+"--- stderr\n"+pipe.stderr)
			term := granary(t, url, world{terminal: true, width: 100}, args...)
			wantCode(t, term, ExitOK)
			golden(t, name+".terminal", term.stdout+"--- stderr\n"+term.stderr)
		})
	}
}

func sampleRecounts() []*granaryv1.Recount {
	return []*granaryv1.Recount{
		{Metric: "storage_bytes", Counter: 4096, Recount: 4096},
		{Metric: "documents_per_knowledge_base", KnowledgeBase: "knowledgeBases/handbook", Counter: 12, Recount: 11, Drift: 1},
		{Metric: "storage_bytes", KnowledgeBase: "knowledgeBases/old", Note: "is being deleted"},
	}
}

// --json is the response as protobuf JSON, one line per object in a pipe, with
// all pages of a list merged.
func TestJSONParsesAsTheResponse(t *testing.T) {
	cases := []struct {
		args []string
		into proto.Message
		want func(proto.Message) bool
	}{
		{[]string{"kb", "create", "handbook"}, &granaryv1.CreateKnowledgeBaseResponse{}, nil},
		{[]string{"kb", "get", "handbook"}, &granaryv1.GetKnowledgeBaseResponse{}, func(m proto.Message) bool {
			return proto.Equal(m, &granaryv1.GetKnowledgeBaseResponse{KnowledgeBase: sampleKB()})
		}},
		{[]string{"kb", "list"}, &granaryv1.ListKnowledgeBasesResponse{}, func(m proto.Message) bool {
			return len(m.(*granaryv1.ListKnowledgeBasesResponse).GetKnowledgeBases()) == 2
		}},
		{[]string{"kb", "update", "handbook", "--top", "3"}, &granaryv1.UpdateKnowledgeBaseResponse{}, nil},
		{[]string{"kb", "delete", "handbook", "-y"}, &emptypb.Empty{}, nil},
		{[]string{"doc", "get", "handbook", "x"}, &granaryv1.GetDocumentResponse{}, nil},
		{[]string{"doc", "list", "handbook"}, &granaryv1.ListDocumentsResponse{}, func(m proto.Message) bool {
			r := m.(*granaryv1.ListDocumentsResponse)
			return len(r.GetDocuments()) == 3 && r.GetNextPageToken() == "" && r.GetRevision() == 9
		}},
		{[]string{"doc", "delete", "handbook", "x"}, &emptypb.Empty{}, nil},
		{[]string{"doc", "cancel", "handbook", "x"}, &granaryv1.CancelDocumentResponse{}, nil},
		{[]string{"doc", "reprocess", "handbook", "x"}, &granaryv1.ReprocessDocumentResponse{}, nil},
		{[]string{"doc", "chunks", "handbook", "x"}, &granaryv1.ListChunksResponse{}, func(m proto.Message) bool {
			return len(m.(*granaryv1.ListChunksResponse).GetChunks()) == 2
		}},
		{[]string{"doc", "text", "handbook", "x"}, &granaryv1.GetDocumentTextResponse{}, func(m proto.Message) bool {
			return m.(*granaryv1.GetDocumentTextResponse).GetText() == "Line one\nline \x1b]two\x07 é"
		}},
		{[]string{"search", "handbook", "x"}, &granaryv1.SearchResponse{}, func(m proto.Message) bool { return proto.Equal(m, sampleAnswer()) }},
		{[]string{"tenant", "get"}, &granaryv1.GetTenantResponse{}, nil},
		{[]string{"tenant", "config"}, &granaryv1.GetTenantResponse{}, nil},
		{[]string{"usage", "--timeout=9s"}, &granaryv1.GetUsageResponse{}, func(m proto.Message) bool {
			return proto.Equal(m, &granaryv1.GetUsageResponse{Usage: sampleUsage()})
		}},
	}
	f := &fake{answer: script}
	url := f.serve(t, false)
	for _, c := range cases {
		t.Run(strings.Join(c.args[:2], " "), func(t *testing.T) {
			r := granary(t, url, world{}, append(c.args, "--json")...)
			wantCode(t, r, ExitOK)
			if strings.Count(r.stdout, "\n") != 1 {
				t.Errorf("not one line: %q", r.stdout)
			}
			if err := protojson.Unmarshal([]byte(r.stdout), c.into); err != nil {
				t.Fatalf("%v in %q", err, r.stdout)
			}
			if c.want != nil && !c.want(c.into) {
				t.Errorf("unexpected content: %s", r.stdout)
			}
			if term := granary(t, url, world{terminal: true}, append(c.args, "--json")...); !json.Valid([]byte(term.stdout)) {
				t.Errorf("not JSON on a terminal: %q", term.stdout)
			}
		})
	}
}

func TestVersionJSON(t *testing.T) {
	r := granary(t, "", world{}, "version", "--json")
	wantCode(t, r, ExitOK)
	var v version
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		t.Fatal(err)
	}
	if v.Version != "v1.2.3" || v.Go != "go1.99" || v.Revision != "abc123" || !v.Modified {
		t.Errorf("got %+v", v)
	}
}

// C7: an update names in its mask exactly what the flags name.
func TestUpdateBuildsTheFieldMask(t *testing.T) {
	f := &fake{answer: script}
	r := granary(t, f.serve(t, false), world{}, "kb", "update", "handbook", "--description", "", "--top", "20", "--mode", "KEYWORD",
		"--fusion", "reciprocal-rank", "--unset", "target-words", "--unset", "display_name,config.embedding", "--unset", "retrieval.candidates")
	wantCode(t, r, ExitOK)
	req := got[*granaryv1.UpdateKnowledgeBaseRequest](f)[0]
	mask := strings.Join(req.GetUpdateMask().GetPaths(), " ")
	want := "description config.retrieval.top_n config.retrieval.mode config.retrieval.fusion config.chunking.target_words display_name config.embedding config.retrieval.candidates"
	if mask != want {
		t.Errorf("mask %q, want %q", mask, want)
	}
	ret := req.GetKnowledgeBase().GetConfig().GetRetrieval()
	if ret.GetTopN() != 20 || ret.GetMode() != granaryv1.SearchMode_SEARCH_MODE_KEYWORD || ret.GetFusion() != granaryv1.Fusion_FUSION_RECIPROCAL_RANK || ret.Candidates != nil {
		t.Errorf("config %v", req.GetKnowledgeBase())
	}
	if req.GetKnowledgeBase().GetConfig().GetChunking() != nil || req.GetRequestId() == "" {
		t.Errorf("request %v", req)
	}
}

// C7: tenant config changes one setting, keeps the others and sends the etag it read.
func TestTenantConfigIsReadChangedAndWrittenUnderItsEtag(t *testing.T) {
	f := &fake{answer: script}
	r := granary(t, f.serve(t, false), world{}, "tenant", "config", "--set", "chunking.target_words=90", "--set", "embedding.model=m=1")
	wantCode(t, r, ExitOK)
	req := got[*granaryv1.UpdateTenantConfigRequest](f)[0]
	c := req.GetDefaultConfig()
	if req.GetEtag() != "t4" || c.GetChunking().GetTargetWords() != 90 || c.GetRetrieval().GetTopN() != 20 || c.GetEmbedding().GetModel() != "m=1" {
		t.Errorf("request %v", req)
	}
}

// C5: all flags of search reach the server, and only those that were given.
func TestSearchSendsItsFlags(t *testing.T) {
	f := &fake{answer: script}
	url := f.serve(t, false)
	wantCode(t, granary(t, url, world{}, "search", "knowledgeBases/handbook", "two", "words"), ExitOK)
	wantCode(t, granary(t, url, world{}, "search", "handbook", "q", "--mode", "vector", "--top", "3", "--filter", "page >= 3", "--explain",
		"--min-revision", "17", "--language", "de", "--keyword-weight", "0.25", "--allow-stale"), ExitOK)
	reqs := got[*granaryv1.SearchRequest](f)
	if !proto.Equal(reqs[0], &granaryv1.SearchRequest{KnowledgeBase: "knowledgeBases/handbook", Query: "two words"}) {
		t.Errorf("got %v", reqs[0])
	}
	want := &granaryv1.SearchRequest{
		KnowledgeBase: "knowledgeBases/handbook", Query: "q", Filter: "page >= 3", Explain: true, MinRevision: 17, Language: "de", AllowStale: true,
		Retrieval: &granaryv1.RetrievalConfig{
			Mode: granaryv1.SearchMode_SEARCH_MODE_VECTOR.Enum(), TopN: proto.Int32(3), KeywordWeight: proto.Float64(0.25),
		},
	}
	if !proto.Equal(reqs[1], want) {
		t.Errorf("got %v, want %v", reqs[1], want)
	}
}

// An answer that may be out of date says so, and to which revision it is true.
func TestStaleAnswersSaySo(t *testing.T) {
	f := &fake{answer: func(m proto.Message) (proto.Message, error) {
		reply, err := script(m)
		if s, ok := reply.(*granaryv1.SearchResponse); ok {
			s.FallbackUsed, s.Message, s.Stale = "", "the hits have no text", true
		}
		return reply, err
	}}
	r := granary(t, f.serve(t, false), world{}, "search", "handbook", "q", "--allow-stale")
	wantCode(t, r, ExitOK)
	for _, want := range []string{"note: the hits have no text\n", "note: stale: as of revision 78, newer changes may be missing\n"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("stderr lacks %q: %q", want, r.stderr)
		}
	}
}

func TestDocListSendsStates(t *testing.T) {
	f := &fake{answer: script}
	url := f.serve(t, false)
	wantCode(t, granary(t, url, world{}, "doc", "list", "handbook", "--state", "failed", "--state", "DOCUMENT_STATE_EMBEDDING,ready-empty"), ExitOK)
	if s := got[*granaryv1.ListDocumentsRequest](f)[0].GetStates(); len(s) != 3 || s[0] != failed || s[1] != embedding {
		t.Errorf("states %v", s)
	}
	r := granary(t, url, world{}, "doc", "list", "handbook", "--state", "broken")
	wantCode(t, r, ExitUsage)
	wantContains(t, r.stderr, `"broken" is not one of queued`)
}

// Deleting several documents goes on after one that fails.
func TestDocDeleteGoesOnAfterAFailure(t *testing.T) {
	f := &fake{answer: func(req proto.Message) (proto.Message, error) {
		if strings.HasSuffix(req.(*granaryv1.DeleteDocumentRequest).GetName(), "/a") {
			return nil, rpcError(t, connect.CodeNotFound, "DOCUMENT_NOT_FOUND", "no such document", 0)
		}
		return &emptypb.Empty{}, nil
	}}
	r := granary(t, f.serve(t, false), world{}, "doc", "delete", "handbook", "a", "b")
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stdout, "deleted b")
	wantContains(t, r.stderr, "failed a: DOCUMENT_NOT_FOUND: no such document", "1 of 2 documents")
}
