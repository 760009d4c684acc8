package gateway_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/audit"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// auditor remembers records; it can refuse them.
type auditor struct {
	mu     sync.Mutex
	list   []journal.Access
	ready  error
	fail   func(journal.Access) error
	before func(journal.Access) // is told of each record before it counts
}

func (a *auditor) Ready() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ready
}

func (a *auditor) Record(r journal.Access) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.before != nil {
		a.before(r)
	}
	if a.fail != nil {
		if err := a.fail(r); err != nil {
			return err
		}
	}
	a.list = append(a.list, r)
	return nil
}

func (a *auditor) take() []journal.Access {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.list
	a.list = nil
	return list
}

// one takes the only record there is.
func (a *auditor) one(t *testing.T) journal.Access {
	t.Helper()
	list := a.take()
	if len(list) != 1 {
		t.Fatalf("%d records: %+v", len(list), list)
	}
	return list[0]
}

func withAudit(a *auditor) func(*gateway.Config) { return func(c *gateway.Config) { c.Audit = a } }

// publicMethods are all methods of the public API, by their descriptors.
func publicMethods(t *testing.T) (out []protoreflect.MethodDescriptor) {
	t.Helper()
	protoregistry.GlobalFiles.RangeFilesByPackage("granary.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				out = append(out, f.Services().Get(i).Methods().Get(j))
			}
		}
		return true
	})
	if len(out) < 30 {
		t.Fatalf("%d methods", len(out))
	}
	return out
}

func enveloped(body string) string {
	return "\x00" + string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
}

func TestI1_EveryMethodIsRecordedWhateverComesOfIt(t *testing.T) {
	a := &auditor{}
	w := start(t, withAudit(a))
	w.grains.setScript(func(context.Context, asked) (proto.Message, error) {
		return nil, kb.Errorf(kb.CodeNotFound, kb.ReasonKnowledgeBaseNotFound, "no")
	})
	for _, m := range publicMethods(t) {
		name := string(m.Parent().FullName()) + "/" + string(m.Name())
		token := w.token(gateway.RoleAdmin)
		if ofOperators("/" + name) {
			token = w.operatorToken()
		}
		for _, bearer := range []string{token, "nonsense"} {
			content, body := "application/json", "{}"
			if m.IsStreamingClient() || m.IsStreamingServer() {
				content, body = "application/connect+json", enveloped("{}")
			}
			_, out := w.do(http.MethodPost, "/"+name, body, "Content-Type", content, "Authorization", "Bearer "+bearer)
			list := a.take()
			if len(list) == 0 {
				t.Errorf("%s: nothing is recorded, the answer is %q", name, out)
				continue
			}
			last := list[len(list)-1]
			if last.Method != name || last.Remote != "127.0.0.1" || last.RequestID == "" || last.Code == "" || last.Count != 1 || last.Phase == journal.PhaseOpen {
				t.Errorf("%s: the record is %+v", name, last)
			}
			if last.Code != "ok" && !strings.Contains(out, `"`+last.Code+`"`) {
				t.Errorf("%s: recorded as %s, the answer is %q", name, last.Code, out)
			}
			if known := last.Principal != ""; known != (bearer == token) || !known && last.Code != "unauthenticated" {
				t.Errorf("%s: the record is %+v", name, last)
			}
		}
	}
	_, _ = w.post(w.token(), "/granary.v1.SearchService/Sear%63hSecretWord", `{}`)
	if r := a.one(t); r.Method != "unknown" || r.Code != "unimplemented" {
		t.Errorf("a method nobody has is recorded as %+v", r)
	}
}

func TestI1_RecordSaysWhoWhatWhenFromWhereAndWhatCameOfIt(t *testing.T) {
	a := &auditor{}
	w := start(t, withAudit(a))
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	before := time.Now()
	_, _ = w.post(w.token(gateway.RoleViewer), getKB, `{"name":"handbook"}`, "X-Request-Id", "r-1")
	r := a.one(t)
	if r.Tenant != "acme" || r.Principal != "ada" || r.Credential != "token" || r.Method != "granary.v1.KnowledgeBaseService/GetKnowledgeBase" ||
		r.Resource != "knowledgeBases/handbook" || r.RequestID != "r-1" || r.Code != "ok" || r.Reason != "" || r.Time.Before(before) || r.Duration <= 0 {
		t.Errorf("a call that succeeds: %+v", r)
	}
	if h := w.grains.last(t).kb().GetHeader(); h.GetRemote() != "127.0.0.1" {
		t.Errorf("the grain is told the client is at %q", h.GetRemote())
	}
	_, _ = w.post(w.token(gateway.RoleViewer), "/granary.v1.DocumentService/DeleteDocument", `{"name":"knowledgeBases/handbook/documents/d1"}`)
	if r := a.one(t); r.Code != "permission_denied" || r.Reason != kb.ReasonPermission || r.Principal != "ada" {
		t.Errorf("a refusal: %+v", r)
	}
	_, _ = w.post(w.token(gateway.RoleEditor), "/granary.v1.DocumentService/CreateDocument",
		`{"spec":{"knowledgeBase":"handbook","documentId":"d1","displayName":"secret name"},"text":"secret text"}`)
	if r := a.one(t); r.Resource != "knowledgeBases/handbook/documents/d1" {
		t.Errorf("a document: %+v", r)
	}
	_, _ = w.post(w.token(gateway.RoleViewer), getKB, `{"name":"Se cret/../"}`)
	if r := a.one(t); r.Resource != "" || r.Code != "invalid_argument" {
		t.Errorf("what is no name: %+v", r)
	}
	_, _ = w.do(http.MethodPost, clusterService+"RelocateTenant", `{"tenant":"tenants/other","node":"nodes/n1"}`,
		"Content-Type", "application/json", "Authorization", "Bearer "+w.operatorToken())
	if r := a.one(t); r.Tenant != "other" || r.Principal != "olga" || r.Credential != "operator" {
		t.Errorf("an operator's call: %+v", r)
	}
	_, _ = w.do(http.MethodPost, tenantAdminService+"DescribeTenant", `{"name":"other"}`,
		"Content-Type", "application/json", "Authorization", "Bearer "+w.operatorToken())
	if r := a.one(t); r.Tenant != "other" || r.Resource != "tenants/other" || r.Principal != "olga" {
		t.Errorf("an operator's call about a tenant: %+v", r)
	}
	path := getKB + "?connect=v1&encoding=json&message=%7B%22name%22%3A%22handbook%22%7D"
	res, _ := w.do(http.MethodGet, path, "", "Authorization", "Bearer "+w.token(gateway.RoleViewer))
	_, _ = w.do(http.MethodGet, path, "", "Authorization", "Bearer "+w.token(gateway.RoleViewer), "If-None-Match", res.Header.Get("ETag"))
	if list := a.take(); len(list) != 2 || list[0].Code != "ok" || list[1].Code != "not_modified" {
		t.Errorf("a read and its repetition: %+v", list)
	}
}

func TestI1_RecordIsWrittenBeforeTheAnswerLeaves(t *testing.T) {
	out, told := httptest.NewRecorder(), 0
	a := &auditor{before: func(journal.Access) {
		if told++; out.Body.Len() > 0 {
			t.Error("the answer had begun")
		}
	}}
	w := start(t, withAudit(a))
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	for _, token := range []string{w.token(gateway.RoleViewer), "nonsense"} {
		req := httptest.NewRequest(http.MethodPost, getKB, strings.NewReader(`{"name":"handbook"}`))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		out = httptest.NewRecorder()
		w.gateway.Handler().ServeHTTP(out, req)
	}
	if told != 2 {
		t.Fatalf("%d records", told)
	}
}

func TestI1_StreamsAreRecordedWhenTheyOpenAndWhenTheyEnd(t *testing.T) {
	a := &auditor{}
	w := start(t, withAudit(a))
	w.grains.answer(addReply(false))
	body := enveloped(`{"spec":{"knowledgeBase":"handbook","documentId":"d1"}}`) + enveloped(`{"data":"YQ=="}`)
	_, out := w.do(http.MethodPost, "/granary.v1.DocumentService/UploadDocument", body, "Content-Type", "application/connect+json",
		"Authorization", "Bearer "+w.token(gateway.RoleEditor))
	if list := a.take(); len(list) != 2 || list[0].Phase != journal.PhaseOpen || list[1].Phase != journal.PhaseEnd ||
		list[1].Code != "ok" || list[1].Resource != "knowledgeBases/handbook/documents/d1" || !strings.Contains(out, "d1") {
		t.Errorf("an upload: %+v, %s", list, out)
	}
	w.grains.answer(&nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Error{Error: &nodev1.Error{Code: int32(kb.CodeNotFound), Reason: kb.ReasonKnowledgeBaseNotFound}}})
	_, _ = w.do(http.MethodPost, "/granary.v1.EventService/WatchEvents", enveloped(`{"knowledgeBase":"handbook"}`), "Content-Type", "application/connect+json",
		"Authorization", "Bearer "+w.token(gateway.RoleViewer))
	if list := a.take(); len(list) != 2 || list[0].Phase != journal.PhaseOpen || list[1].Code != "not_found" || list[1].Resource != "knowledgeBases/handbook" {
		t.Errorf("a watch: %+v", list)
	}
}

// failure reads what an error answer says.
func failure(t *testing.T, out string) (code, reason, outcome string) {
	t.Helper()
	var e struct {
		Code    string
		Details []struct {
			Debug struct {
				Reason   string
				Metadata map[string]string
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, d := range e.Details {
		if d.Debug.Reason != "" {
			reason, outcome = d.Debug.Reason, d.Debug.Metadata["outcome"]
		}
	}
	return e.Code, reason, outcome
}

func TestI1_CallThatCannotBeRecordedFails(t *testing.T) {
	a := &auditor{}
	w := start(t, withAudit(a))
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	const deleteKB = "/granary.v1.KnowledgeBaseService/DeleteKnowledgeBase"
	want := func(what, out, outcome string) {
		t.Helper()
		if code, reason, got := failure(t, out); code != "unavailable" || reason != kb.ReasonAuditUnavailable || got != outcome || strings.Contains(out, "uid-") {
			t.Errorf("%s: %s %s %q: %s", what, code, reason, got, out)
		}
	}
	a.ready = audit.ErrUnavailable
	for _, path := range []string{getKB, deleteKB} {
		res, out := w.post(w.token(gateway.RoleAdmin), path, `{"name":"handbook"}`)
		want("while the log is known to fail", out, "")
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") != "1" {
			t.Errorf("%d %v", res.StatusCode, res.Header)
		}
	}
	if len(w.grains.all()) != 0 {
		t.Error("a grain was asked although nothing could be recorded")
	}
	a.ready, a.fail = nil, func(journal.Access) error { return errors.New("disk full, device sda1") }
	_, out := w.post(w.token(gateway.RoleAdmin), getKB, `{"name":"handbook"}`)
	want("a read", out, "")
	if strings.Contains(out, "sda1") {
		t.Error("the answer has the disk's words")
	}
	w.grains.answer(&nodev1.KnowledgeBaseReply{Revision: 3, Result: &nodev1.KnowledgeBaseReply_Done{Done: &nodev1.Done{}}})
	_, out = w.post(w.token(gateway.RoleAdmin), deleteKB, `{"name":"handbook"}`)
	want("a change that may have been applied", out, "unknown")
	_, out = w.post("nonsense", getKB, `{"name":"handbook"}`)
	want("a refusal", out, "")
}

func TestI1_ClientsAddressIsBelievedOfTrustedProxiesOnly(t *testing.T) {
	local := netip.MustParsePrefix("127.0.0.0/8")
	inner := netip.MustParsePrefix("10.0.0.0/8")
	for what, c := range map[string]struct {
		trusted []netip.Prefix
		headers []string
		want    string
	}{
		"nobody is trusted":         {nil, []string{"203.0.113.9"}, "127.0.0.1"},
		"another is trusted":        {[]netip.Prefix{inner}, []string{"203.0.113.9"}, "127.0.0.1"},
		"a proxy without a header":  {[]netip.Prefix{local}, nil, "127.0.0.1"},
		"a proxy":                   {[]netip.Prefix{local}, []string{"203.0.113.9"}, "203.0.113.9"},
		"a client that forges":      {[]netip.Prefix{local}, []string{"192.0.2.66, 203.0.113.9"}, "203.0.113.9"},
		"two proxies":               {[]netip.Prefix{local, inner}, []string{"192.0.2.66, 203.0.113.9 , 10.1.2.3"}, "203.0.113.9"},
		"two headers":               {[]netip.Prefix{local, inner}, []string{"203.0.113.9", "10.1.2.3"}, "203.0.113.9"},
		"all of them trusted":       {[]netip.Prefix{local, inner}, []string{"10.9.9.9, 10.1.2.3"}, "10.9.9.9"},
		"a word":                    {[]netip.Prefix{local, inner}, []string{"203.0.113.9, unknown, 10.1.2.3"}, "10.1.2.3"},
		"ports and IPv6":            {[]netip.Prefix{local}, []string{"[2001:db8::7]:4711"}, "2001:db8::7"},
		"an IPv4 in an IPv6":        {[]netip.Prefix{local}, []string{"::ffff:203.0.113.9"}, "203.0.113.9"},
		"more hops than are looked": {[]netip.Prefix{local, inner}, []string{"203.0.113.9" + strings.Repeat(",10.0.0.1", 100)}, "10.0.0.1"},
	} {
		a := &auditor{}
		w := start(t, withAudit(a), func(cfg *gateway.Config) { cfg.TrustedProxies = c.trusted })
		w.grains.answer(knowledgeBaseReply("handbook", 1))
		var headers []string
		for _, h := range c.headers {
			headers = append(headers, "X-Forwarded-For", h)
		}
		_, _ = w.post(w.token(gateway.RoleViewer), getKB, `{"name":"handbook"}`, headers...)
		if r := a.one(t); r.Remote != c.want || w.grains.last(t).kb().GetHeader().GetRemote() != c.want {
			t.Errorf("%s: %s, want %s", what, r.Remote, c.want)
		}
	}
}
