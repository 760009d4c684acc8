package gateway_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

const createDocument = "/granary.v1.DocumentService/CreateDocument"

func TestInlineTextBecomesABlobAndIsAdded_C3(t *testing.T) {
	w := start(t)
	w.grains.answer(addReply(false))
	res, body := w.post(w.token("editor"), createDocument,
		`{"spec":{"knowledgeBase":"handbook","displayName":"note.md"},"text":"Grüße"}`)
	if res.StatusCode != 200 || !strings.Contains(body, "QUEUED") {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	a := w.grains.last(t)
	add := a.kb().GetAddDocument()
	if a.id != "handbook" || add.GetSpec().GetKnowledgeBase() != "knowledgeBases/handbook" || add.GetSpec().GetMediaType() != "text/plain" {
		t.Errorf("asked %v", a)
	}
	const sum = "f83e039796c6453a10f5519e39fd113901572316a1a8ea07cb525d2801dfd074"
	s := add.GetSource()
	if got := w.blobs.body(t, "acme", s.GetBlob()); got != "Grüße" || s.GetSizeBytes() != 7 || s.GetSha256() != sum {
		t.Errorf("source %v of %q", s, got)
	}
}

func TestValidateOnlyStoresNothing_C3(t *testing.T) {
	w := start(t)
	w.grains.answer(addReply(true))
	res, body := w.post(w.token("editor"), createDocument, `{"spec":{"knowledgeBase":"handbook"},"data":"aGk=","validateOnly":true}`)
	if res.StatusCode != 200 || !strings.Contains(body, `"duplicate":true`) {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	add := w.grains.last(t).kb().GetAddDocument()
	const hi = "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"
	if !add.GetValidateOnly() || add.GetSource().GetBlob() != "" || add.GetSource().GetSha256() != hi || add.GetSource().GetSizeBytes() != 2 {
		t.Errorf("asked %v", add)
	}
	if w.blobs.count()+w.blobs.aborted != 0 {
		t.Error("a blob was made")
	}
}

// TestABlobIsDeletedOnlyWhenTheGrainDidNotTakeIt_I4 is about never losing an
// acknowledged document to tidiness.
func TestABlobIsDeletedOnlyWhenTheGrainDidNotTakeIt_I4(t *testing.T) {
	reply := func(code int32, reason string) func(context.Context, asked) (proto.Message, error) {
		return func(context.Context, asked) (proto.Message, error) { return refuse(code, reason, "no"), nil }
	}
	delivery := func(err error) func(context.Context, asked) (proto.Message, error) {
		return func(context.Context, asked) (proto.Message, error) { return nil, err }
	}
	w := start(t)
	for name, c := range map[string]struct {
		script  func(context.Context, asked) (proto.Message, error)
		deleted bool
	}{
		"refused as duplicate":  {reply(6, kb.ReasonDocumentDuplicate), true},
		"refused by limit":      {reply(8, kb.ReasonDocumentLimit), true},
		"no such kb":            {reply(5, kb.ReasonKnowledgeBaseNotFound), true},
		"busy":                  {reply(8, kb.ReasonBusy), false},
		"in doubt":              {reply(14, kb.ReasonInDoubt), false},
		"unavailable":           {reply(14, kb.ReasonUnavailable), false},
		"grain's bug":           {reply(13, kb.ReasonInternal), false},
		"delivery not found":    {delivery(kb.Errorf(kb.CodeNotFound, "X", "not from the grain")), false},
		"delivery unavailable":  {delivery(kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "x")), false},
		"deadline":              {delivery(context.DeadlineExceeded), false},
		"accepted":              {delivery(nil), false},
		"accepted as duplicate": {func(context.Context, asked) (proto.Message, error) { return addReply(true), nil }, false},
	} {
		if name == "accepted" {
			c.script = func(context.Context, asked) (proto.Message, error) { return addReply(false), nil }
		}
		w.grains.setScript(c.script)
		w.post(w.token("editor"), createDocument, `{"spec":{"knowledgeBase":"handbook"},"text":"x"}`)
		id := w.grains.last(t).kb().GetAddDocument().GetSource().GetBlob()
		_, _, err := w.blobs.OpenBlob(t.Context(), "acme", id)
		if deleted := err != nil; deleted != c.deleted {
			t.Errorf("%s: deleted %v, want %v", name, deleted, c.deleted)
		}
	}
}

func TestStorageDownIsUnavailable_E2(t *testing.T) {
	w := start(t)
	for _, cause := range []error{journal.ErrUnavailable, journal.ErrInDoubt} {
		w.blobs.fail = cause
		res, body := w.post(w.token("editor"), createDocument, `{"spec":{"knowledgeBase":"handbook"},"text":"x"}`)
		if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || len(w.grains.all()) > 0 {
			t.Errorf("%v: %d %s", cause, res.StatusCode, body)
		}
	}
}

func TestURLSourcesAreCheckedInForm_C3(t *testing.T) {
	w := start(t)
	w.grains.answer(addReply(false))
	for u, ok := range map[string]bool{
		"https://example.com/a.pdf": true, "HTTP://example.com": true, "http://[2001:db8::1]:8080/x?y=z": true,
		"ftp://example.com/a": false, "file:///etc/passwd": false, "example.com": false, "http://": false, "https:///x": false,
		"http://ada:pw@example.com/": false, "http:opaque": false, "http://exa mple.com": false, "javascript:alert(1)": false,
		"https://example.com/%zz": false, "http://example.com:port/": false,
	} {
		raw, err := json.Marshal(map[string]any{"spec": map[string]string{"knowledgeBase": "handbook"}, "url": u})
		if err != nil {
			t.Fatal(err)
		}
		before := len(w.grains.all())
		res, body := w.post(w.token("editor"), createDocument, string(raw))
		reached := len(w.grains.all()) > before
		if reached != ok || !ok && (res.StatusCode != 400 || !strings.Contains(body, kb.ReasonURLNotValid) || strings.Contains(body, "pw@")) {
			t.Errorf("%s: %d %s", u, res.StatusCode, body)
		}
		if reached && w.grains.last(t).kb().GetAddDocument().GetSource().GetUrl() != u {
			t.Errorf("%s: sent %v", u, w.grains.last(t))
		}
	}
	if w.blobs.count() != 0 {
		t.Error("a URL made a blob")
	}
}

func TestIdempotencyKeys_I5(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	const create = "/granary.v1.KnowledgeBaseService/CreateKnowledgeBase"
	call := func(field string, headers ...string) (int, *nodev1.KnowledgeBaseCall) {
		before := len(w.grains.all())
		res, _ := w.post(w.token("editor"), create, `{"knowledgeBaseId":"handbook","requestId":"`+field+`"}`, headers...)
		if len(w.grains.all()) == before {
			return res.StatusCode, nil
		}
		return res.StatusCode, w.grains.last(t).kb()
	}
	_, byField := call("k1")
	_, byHeader := call("", "Idempotency-Key", "k1")
	for _, c := range []*nodev1.KnowledgeBaseCall{byField, byHeader} {
		if h := c.GetHeader(); h.GetIdempotencyKey() != "k1" || h.GetMethod() != create[1:] {
			t.Errorf("header %v", h)
		}
	}
	if !proto.Equal(byField.GetCreate(), byHeader.GetCreate()) {
		t.Errorf("the same request differs: %v and %v", byField.GetCreate(), byHeader.GetCreate())
	}
	if _, c := call("k1", "Idempotency-Key", "k1"); c == nil {
		t.Error("both, equal: refused")
	}
	for name, headers := range map[string][]string{
		"differ": {"Idempotency-Key", "k2"}, "too long": {"Idempotency-Key", strings.Repeat("k", 129)},
		"not ASCII": {"Idempotency-Key", "ké"}, "two": {"Idempotency-Key", "k1", "Idempotency-Key", "k1"}, "empty": {"Idempotency-Key", ""},
	} {
		if code, c := call("k1", headers...); code != 400 || c != nil {
			t.Errorf("%s: %d, reached the grain: %v", name, code, c != nil)
		}
	}
	if _, c := call(""); c.GetHeader().GetIdempotencyKey() != "" || c.GetHeader().GetMethod() != "" {
		t.Error("a request without a key got one")
	}
	w.post(w.token("viewer"), getKB, `{"name":"handbook"}`, "Idempotency-Key", "k1")
	if w.grains.last(t).kb().GetHeader().GetIdempotencyKey() != "" {
		t.Error("a read is keyed")
	}
}

// TestEveryDocumentMethodAsksItsKnowledgeBase covers routing and replies.
func TestEveryDocumentMethodAsksItsKnowledgeBase(t *testing.T) {
	w := start(t)
	const name = `{"name":"knowledgeBases/handbook/documents/d1"}`
	document := &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Document{Document: &v1.Document{Name: "d"}}}
	done := &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Done{Done: &nodev1.Done{}}}
	for method, c := range map[string]struct {
		body  string
		reply *nodev1.KnowledgeBaseReply
		want  string
	}{
		"DocumentService/GetDocument":              {name, document, `{"document":{"name":"d"}}`},
		"DocumentService/CancelDocument":           {name, document, `{"document":{"name":"d"}}`},
		"DocumentService/ReprocessDocument":        {name, document, `{"document":{"name":"d"}}`},
		"DocumentService/DeleteDocument":           {name, done, `{}`},
		"KnowledgeBaseService/DeleteKnowledgeBase": {`{"name":"handbook"}`, done, `{}`},
		"KnowledgeBaseService/UpdateKnowledgeBase": {`{"knowledgeBase":{"name":"handbook"},"updateMask":"displayName"}`, knowledgeBaseReply("handbook", 3), `{"knowledgeBase":{"name":"knowledgeBases/handbook","uid":"uid-handbook","revision":"3"}}`},
		"DocumentService/ListDocuments":            {`{"parent":"handbook"}`, &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Documents{Documents: &v1.ListDocumentsResponse{Revision: 5}}}, `{"revision":"5"}`},
		"DocumentService/ListChunks":               {`{"parent":"knowledgeBases/handbook/documents/d1"}`, &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Chunks{Chunks: &v1.ListChunksResponse{Version: 2}}}, `{"version":"2"}`},
		"DocumentService/GetDocumentText":          {name, &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Text{Text: &v1.GetDocumentTextResponse{Text: "t"}}}, `{"text":"t"}`},
		"SearchService/Search":                     {`{"knowledgeBase":"handbook","query":"q"}`, &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Search{Search: &v1.SearchResponse{Revision: 6}}}, `{"revision":"6"}`},
	} {
		w.grains.answer(c.reply)
		res, body := w.post(w.token("admin"), "/granary.v1."+method, c.body)
		if compact := strings.ReplaceAll(body, " ", ""); res.StatusCode != 200 || compact != c.want {
			t.Errorf("%s: %d %s", method, res.StatusCode, body)
		}
		if a := w.grains.last(t); a.kind != "kb" || a.tenant != "acme" || a.id != "handbook" || a.kb().GetOperation() == nil {
			t.Errorf("%s asked %v", method, a)
		}
	}
	w.grains.answer(&nodev1.TenantReply{Result: &nodev1.TenantReply_List{List: &v1.ListKnowledgeBasesResponse{NextPageToken: "n"}}})
	if _, body := w.post(w.token("viewer"), "/granary.v1.KnowledgeBaseService/ListKnowledgeBases", `{}`); !strings.Contains(body, `"n"`) {
		t.Error(body)
	}
}

func TestNamesThatAreNoNames(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("x", 1))
	for _, name := range []string{"", "Handbook", "knowledgeBases/", "knowledgeBases/knowledgeBases/x", strings.Repeat("a", 64), "a-", "../x", "a/b", "1a"} {
		res, body := w.post(w.token("editor"), "/granary.v1.KnowledgeBaseService/UpdateKnowledgeBase",
			`{"knowledgeBase":{"name":"`+name+`"},"updateMask":"displayName"}`)
		if res.StatusCode != 400 || !strings.Contains(body, "knowledge_base.name") {
			t.Errorf("%q: %d %s", name, res.StatusCode, body)
		}
	}
}
