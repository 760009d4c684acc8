package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	searchMethod = "SearchService/Search"
	createMethod = "DocumentService/CreateDocument"
	invalidCode  = "invalid_argument"
	invalidWhy   = "REQUEST_INVALID"
)

// quoted is text as JSON.
func quoted(text string) string {
	raw, _ := json.Marshal(text)
	return string(raw)
}

func query(text, more string) string {
	return `{"knowledgeBase":"api","query":` + quoted(text) + more + `}`
}

func filter(text string) string { return query("barley", `,"filter":`+quoted(text)) }

// apiServer is a server with a knowledge base "api" and one good document in it.
func apiServer(t *testing.T) (*server, clients, string) {
	t.Helper()
	s := start(t, t.TempDir(), freeAddr(t), "--config", writeConfig(t, hostileConfig))
	t.Cleanup(func() { s.stop() })
	c := s.clients()
	if _, err := c.kbs.CreateKnowledgeBase(t.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "api"}); err != nil {
		t.Fatal(err)
	}
	d, err := c.add(t.Context(), "api", "good.txt", []byte("Barley is kept in the loft."))
	if err != nil {
		t.Fatal(err)
	}
	c.awaitAll(t, "api", time.Minute)
	return s, c, d.GetName()
}

// stillServes wants the good document found before all others.
func stillServes(t *testing.T, c clients, name string) {
	t.Helper()
	res, err := c.search.Search(t.Context(), &granaryv1.SearchRequest{KnowledgeBase: "api", Query: "barley"})
	if err != nil || len(res.GetHits()) == 0 || res.GetHits()[0].GetDocument() != name {
		t.Errorf("the good document is not what is found: %v %v", res.GetHits(), err)
	}
}

// hostileCalls are JSON bodies and what they are answered.
func hostileCalls(good string) map[string]struct{ method, body, code, reason string } {
	spec := func(more string) string { return `{"spec":{"knowledgeBase":"api"` + more + `},"text":"x"}` }
	keys := make([]string, 65)
	for i := range keys {
		keys[i] = fmt.Sprintf(`"k%d":"v"`, i)
	}
	nested := strings.Repeat(`{"spec":`, 100_000)
	type row = struct{ method, body, code, reason string }
	return map[string]row{
		"query of 8 KiB":         {searchMethod, query(strings.Repeat("barley ", 1171)[:8192], ""), "", ""},
		"query of 8 KiB + 1":     {searchMethod, query(strings.Repeat("q", 8193), ""), invalidCode, invalidWhy},
		"query of 1 MB":          {searchMethod, query(strings.Repeat("long ", 200_000), ""), invalidCode, invalidWhy},
		"query of 2 MB":          {searchMethod, query(strings.Repeat("long ", 400_000), ""), invalidCode, invalidWhy},
		"query of spaces":        {searchMethod, query("   \t\n", ""), invalidCode, "QUERY_EMPTY"},
		"query of punctuation":   {searchMethod, query("!!! ??? *** (((", ""), "", ""},
		"query of NUL":           {searchMethod, query("bar\x00ley", ""), "", ""},
		"query of marks":         {searchMethod, query("e"+strings.Repeat("\u0301", 4000), ""), "", ""},
		"query of one word":      {searchMethod, query(strings.Repeat("b", 8192), ""), "", ""},
		"query of CJK":           {searchMethod, query(strings.Repeat("粮", 2730), ""), "", ""},
		"filter too long":        {searchMethod, filter(strings.Repeat("x", 4097)), invalidCode, invalidWhy},
		"filter too deep":        {searchMethod, filter(strings.Repeat("(", 2000) + "page = 1" + strings.Repeat(")", 2000)), invalidCode, "FILTER_INVALID"},
		"filter of NOT":          {searchMethod, filter(strings.Repeat("NOT ", 1000) + "page = 1"), invalidCode, "FILTER_INVALID"},
		"filter of minus":        {searchMethod, filter(strings.Repeat("-", 4000) + "page = 1"), invalidCode, "FILTER_INVALID"},
		"filter of OR":           {searchMethod, filter("page=1" + strings.Repeat(" OR page=1", 400)), invalidCode, "FILTER_INVALID"},
		"filter of IN":           {searchMethod, filter("page IN [" + strings.Repeat("1,", 1900) + "1]"), invalidCode, "FILTER_INVALID"},
		"filter of quotes":       {searchMethod, filter(strings.Repeat(`"`, 4095)), invalidCode, "FILTER_INVALID"},
		"filter of backslashes":  {searchMethod, filter(`metadata.a = "` + strings.Repeat(`\`, 4001)), invalidCode, "FILTER_INVALID"},
		"filter of SQL":          {searchMethod, filter(`page = 1; DROP TABLE events; --`), invalidCode, "FILTER_INVALID"},
		"filter of wildcards":    {searchMethod, filter(`metadata.a : "` + strings.Repeat("*a", 1900) + `"`), "*", "*"},
		"filter of big number":   {searchMethod, filter("page = " + strings.Repeat("9", 4000)), invalidCode, "FILTER_INVALID"},
		"top_n of a billion":     {searchMethod, query("x", `,"retrieval":{"topN":1000000000}`), invalidCode, invalidWhy},
		"weight not a number":    {searchMethod, query("x", `,"retrieval":{"keywordWeight":"NaN"}`), invalidCode, invalidWhy},
		"unknown field":          {searchMethod, query("x", `,"topN":3`), invalidCode, invalidWhy},
		"field twice":            {searchMethod, `{"knowledgeBase":"api","query":"a","query":"b"}`, invalidCode, invalidWhy},
		"broken JSON":            {searchMethod, `{"knowledgeBase":"api","query":`, invalidCode, invalidWhy},
		"JSON and more":          {searchMethod, query("x", "") + `{}`, invalidCode, invalidWhy},
		"JSON array":             {searchMethod, `[]`, invalidCode, invalidWhy},
		"no JSON":                {searchMethod, "\x00\x01\x02", invalidCode, invalidWhy},
		"empty body":             {searchMethod, "", invalidCode, invalidWhy},
		"JSON invalid UTF-8":     {searchMethod, "{\"knowledgeBase\":\"api\",\"query\":\"bar\xff\xfeley\"}", invalidCode, invalidWhy},
		"JSON lone surrogate":    {searchMethod, `{"knowledgeBase":"api","query":"\ud800"}`, invalidCode, invalidWhy},
		"JSON deep":              {createMethod, nested, invalidCode, invalidWhy},
		"JSON deep array":        {searchMethod, `{"query":` + strings.Repeat("[", 500_000), invalidCode, invalidWhy},
		"foreign knowledge base": {searchMethod, `{"knowledgeBase":"nobody","query":"x"}`, "not_found", "KNOWLEDGE_BASE_NOT_FOUND"},
		"name that climbs":       {searchMethod, `{"knowledgeBase":"../../etc","query":"x"}`, invalidCode, invalidWhy},
		"name escaped":           {searchMethod, `{"knowledgeBase":"api%2f..%2fother","query":"x"}`, invalidCode, invalidWhy},
		"name with NUL":          {searchMethod, `{"knowledgeBase":"api\u0000","query":"x"}`, invalidCode, invalidWhy},
		"name with line feed":    {searchMethod, `{"knowledgeBase":"api\n","query":"x"}`, invalidCode, invalidWhy},
		"document that climbs":   {"DocumentService/GetDocument", `{"name":"knowledgeBases/api/documents/../../x"}`, invalidCode, invalidWhy},
		"document escaped":       {"DocumentService/GetDocument", `{"name":"knowledgeBases/api/documents/a%2fb"}`, invalidCode, invalidWhy},
		"document id climbs":     {createMethod, spec(`,"documentId":"../x"`), invalidCode, invalidWhy},
		"no such document":       {"DocumentService/GetDocument", `{"name":"knowledgeBases/api/documents/nothing"}`, "not_found", "DOCUMENT_NOT_FOUND"},
		"65 keys":                {createMethod, spec(`,"metadata":{` + strings.Join(keys, ",") + `}`), invalidCode, invalidWhy},
		"key of spaces":          {createMethod, spec(`,"metadata":{"a b":"v"}`), invalidCode, invalidWhy},
		"long value":             {createMethod, spec(`,"metadata":{"a":"` + strings.Repeat("v", 1025) + `"}`), invalidCode, invalidWhy},
		"long display name":      {createMethod, spec(`,"displayName":"` + strings.Repeat("n", 1025) + `"`), invalidCode, invalidWhy},
		"no source":              {createMethod, `{"spec":{"knowledgeBase":"api"}}`, invalidCode, invalidWhy},
		"two sources":            {createMethod, `{"spec":{"knowledgeBase":"api"},"text":"a","url":"http://a"}`, invalidCode, invalidWhy},
		"text of 4 MiB + 1":      {createMethod, `{"spec":{"knowledgeBase":"api"},"text":"` + strings.Repeat("a", 4<<20+1) + `"}`, invalidCode, invalidWhy},
		"message of 20 MB":       {createMethod, `{"spec":{"knowledgeBase":"api"},"text":"` + strings.Repeat("a", 20<<20) + `"}`, invalidCode, invalidWhy},
		"forged upload token":    {createMethod, `{"spec":{"knowledgeBase":"api"},"uploadToken":"e30.AAAA"}`, invalidCode, "UPLOAD_INVALID"},
		"URL of a file":          {createMethod, `{"spec":{"knowledgeBase":"api"},"url":"file:///etc/passwd"}`, invalidCode, "URL_NOT_VALID"},
		"page token":             {"DocumentService/ListDocuments", `{"parent":"api","pageToken":"bm90LWEtdG9rZW4"}`, invalidCode, "PAGE_TOKEN_INVALID"},
		"page token of noise":    {"DocumentService/ListDocuments", `{"parent":"api","pageToken":"%%%"}`, invalidCode, "PAGE_TOKEN_INVALID"},
		"page token of another":  {"DocumentService/ListChunks", `{"parent":"` + good + `","pageToken":"ZDU"}`, invalidCode, "PAGE_TOKEN_INVALID"},
		"page token of names":    {"KnowledgeBaseService/ListKnowledgeBases", `{"pageToken":"AAAA"}`, invalidCode, "PAGE_TOKEN_INVALID"},
		"long page token":        {"DocumentService/ListDocuments", `{"parent":"api","pageToken":"` + strings.Repeat("a", 513) + `"}`, invalidCode, invalidWhy},
		"page size of a billion": {"DocumentService/ListDocuments", `{"parent":"api","pageSize":1000000000}`, invalidCode, invalidWhy},
		"text far beyond":        {"DocumentService/GetDocumentText", `{"name":"` + good + `","offset":"9223372036854775807"}`, "*", "*"},
		"unknown method":         {"SearchService/Nothing", `{}`, "unimplemented", "UNKNOWN_OPERATION"},
	}
}

// Hostile input (A2, A6, D6): whatever a client sends is answered with a code and
// a stable reason, at a bounded price, and everybody else is served.
func TestHostileRequestsAreRefusedClearly(t *testing.T) {
	s, c, good := apiServer(t)
	m := s.meter()
	loris := func(*testing.T) {}
	if !testing.Short() { // it takes the server's 10 s
		loris = s.slowLoris(t)
	}
	for name, call := range hostileCalls(good) {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			a := s.post(call.method, call.body)
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			wantAnswer(t, a, call.code, call.reason)
		})
	}
	t.Run("binary", func(t *testing.T) { hostileBinary(t, s) })
	t.Run("HTTP", func(t *testing.T) { hostileHTTP(t, s) })
	t.Run("compressed", func(t *testing.T) { hostileGzip(t, s) })
	t.Run("watch", func(t *testing.T) { hostileWatch(t, s) })
	stillServes(t, c, good)
	loris(t)
	m.end()
	t.Log(m)
	if m.peak > serverCap {
		t.Errorf("memory is not bounded: %v", m)
	}
	stillServes(t, c, good)
	if docs := c.documents(t, "api"); len(docs) != 1 {
		t.Errorf("refused requests left %d documents", len(docs)-1)
	}
}

// wantAnswer compares an answer with a code and a reason; "" means success, and
// "*" either success or any clear refusal.
func wantAnswer(t *testing.T, a answer, code, reason string) {
	t.Helper()
	switch {
	case code == "*":
		if a.status != http.StatusOK && (a.code != invalidCode || a.reason == "" || a.message == "") {
			t.Errorf("answered %v", a)
		}
	case code == "":
		if a.status != http.StatusOK {
			t.Errorf("answered %v", a)
		}
	case a.status == http.StatusOK || a.code != code || a.reason != reason || a.message == "":
		t.Errorf("answered %v, want %s %s", a, code, reason)
	}
}

func field(n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), value)
}

// hostileBinary sends messages in the binary form.
func hostileBinary(t *testing.T, s *server) {
	kbField := field(1, []byte("api"))
	groups := bytes.Repeat(protowire.AppendTag(nil, 99, protowire.StartGroupType), 500_000)
	for name, body := range map[string][]byte{
		"invalid UTF-8":    append(bytes.Clone(kbField), field(2, []byte("bar\xff\xfeley"))...),
		"cut short":        append(bytes.Clone(kbField), field(2, []byte("barley"))[:4]...),
		"length lies":      append(bytes.Clone(kbField), 0x12, 0xff, 0xff, 0xff, 0xff, 0x0f),
		"endless varint":   bytes.Repeat([]byte{0xff}, 1000),
		"deep groups":      append(bytes.Clone(kbField), groups...),
		"field zero":       {0, 0, 0, 0},
		"wrong wire types": {0x08, 1, 0x10, 2},
		"noise":            []byte("\xde\xad\xbe\xef\xf0\x0d"),
	} {
		a, err := s.send(http.MethodPost, "/granary.v1."+searchMethod, bytes.NewReader(body), "Content-Type", "application/proto")
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		t.Run(name, func(t *testing.T) { wantAnswer(t, a, invalidCode, invalidWhy) })
	}
}

// hostileHTTP is wrong below the level of messages.
func hostileHTTP(t *testing.T, s *server) {
	get := func(values string) string { return "/granary.v1." + searchMethod + "?" + values }
	good := url.QueryEscape(query("barley", ""))
	for _, c := range []struct {
		name, method, path, contentType string
		status                          int
		code, reason                    string
	}{
		{"GET is a way to ask", "GET", get("connect=v1&encoding=json&message=" + good), "", 200, "", ""},
		{"GET of garbage", "GET", get("connect=v1&encoding=json&message=%ff%fe"), "", 400, invalidCode, invalidWhy},
		{"GET without message", "GET", get("connect=v1&encoding=json"), "", 400, "*", "*"},
		{"GET of broken base64", "GET", get("connect=v1&encoding=proto&base64=1&message=!!!"), "", 400, "*", "*"},
		{"GET of broken gzip", "GET", get("connect=v1&encoding=json&base64=1&compression=gzip&message=AAAA"), "", 400, "*", "*"},
		{"GET of a bomb", "GET", get("connect=v1&encoding=json&base64=1&compression=gzip&message=" + base64.URLEncoding.EncodeToString(zeros(40<<20))), "", 400, "*", "*"},
		{"GET in no encoding", "GET", get("connect=v1&encoding=yaml&message=" + good), "", 415, "*", "*"},
		{"GET that is too long", "GET", get("connect=v1&encoding=json&message=" + strings.Repeat("a", 128<<10)), "", 431, "*", "*"},
		{"GET of a change", "GET", "/granary.v1." + createMethod + "?connect=v1&encoding=json&message=%7B%7D", "", 405, "*", "*"},
		{"content type of a form", "POST", "/granary.v1." + searchMethod, "application/x-www-form-urlencoded", 415, "*", "*"},
		{"content type of text", "POST", "/granary.v1." + searchMethod, "text/plain", 415, "*", "*"},
		{"content type of noise", "POST", "/granary.v1." + searchMethod, "\x80;;;=", 415, "*", "*"},
		{"no content type", "POST", "/granary.v1." + searchMethod, "", 415, "*", "*"},
		{"DELETE", "DELETE", "/granary.v1." + searchMethod, "application/json", 405, "*", "*"},
		{"path that climbs", "POST", "/granary.v1.SearchService/../../etc/passwd", "application/json", 307, "*", "*"},
		{"path escaped", "POST", "/granary.v1.SearchService%2fSearch", "application/json", 404, "*", "*"},
		{"path of NUL", "POST", "/%00", "application/json", 404, "*", "*"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := s.send(c.method, c.path, nil, "Content-Type", c.contentType)
			if err != nil {
				t.Fatal(err)
			}
			if a.status != c.status {
				t.Errorf("answered %v, want status %d", a, c.status)
			}
			if c.code != "*" {
				wantAnswer(t, a, c.code, c.reason)
			}
		})
	}
	t.Run("thousands of headers", func(t *testing.T) {
		headers := []string{"Content-Type", "application/json"}
		for i := range 5000 {
			headers = append(headers, fmt.Sprintf("X-Header-%d", i), strings.Repeat("v", 20))
		}
		if a, err := s.send("POST", "/granary.v1."+searchMethod, nil, headers...); err == nil && a.status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("answered %v", a)
		}
	})
	t.Run("credentials", func(t *testing.T) {
		for _, token := range []string{"", "Bearer", "Bearer x", "Bearer " + strings.Repeat("a", 20_000), "Basic eDp5",
			"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJkZXYifQ.", "Bearer " + s.token() + "x"} {
			a, err := s.send("POST", "/granary.v1."+searchMethod, strings.NewReader(query("barley", "")), "Content-Type", "application/json", "Authorization", token)
			if err != nil {
				t.Error(err)
			}
			wantAnswer(t, a, "unauthenticated", "UNAUTHENTICATED")
		}
	})
}

// zeros is n bytes of zero, compressed.
func zeros(n int64) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	_, _ = io.CopyN(z, zeroReader{}, n)
	_ = z.Close()
	return b.Bytes()
}

type zeroReader struct{}

// Read implements io.Reader.
func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// hostileGzip sends bodies that unpack to 1 GB, whole and in frames.
func hostileGzip(t *testing.T, s *server) {
	bomb := zeros(1 << 30)
	frame := append([]byte{1, byte(len(bomb) >> 24), byte(len(bomb) >> 16), byte(len(bomb) >> 8), byte(len(bomb))}, bomb...)
	huge := []byte{0, 0xff, 0xff, 0xff, 0xff, 'x'}
	upload := "DocumentService/UploadDocument"
	for _, c := range []struct {
		name, method, contentType, header string
		body                              []byte
	}{
		{"search", searchMethod, "application/json", "Content-Encoding", bomb},
		{"search, binary", searchMethod, "application/proto", "Content-Encoding", bomb},
		{"document", createMethod, "application/json", "Content-Encoding", bomb},
		{"broken gzip", createMethod, "application/json", "Content-Encoding", bomb[:100]},
		{"no gzip", createMethod, "application/json", "Content-Encoding", []byte("this is no gzip")},
		{"stream", upload, "application/connect+proto", "Connect-Content-Encoding", frame},
		{"gRPC-Web", searchMethod, "application/grpc-web+proto", "Grpc-Encoding", frame},
		{"frame of 4 GiB", upload, "application/connect+proto", "Connect-Content-Encoding", huge},
		{"gRPC-Web frame of 4 GiB", searchMethod, "application/grpc-web+proto", "Grpc-Encoding", huge},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := status(s.cmd.Process.Pid)["VmHWM"]
			a, err := s.send("POST", "/granary.v1."+c.method, bytes.NewReader(c.body), "Content-Type", c.contentType, c.header, "gzip")
			if err != nil {
				t.Fatal(err)
			}
			// Streams answer with status 200 and the error in their last frame or trailer.
			told := a.body + fmt.Sprint(a.header)
			if a.reason != invalidWhy && !strings.Contains(told, "invalid_argument") && !strings.Contains(strings.ToLower(told), "grpc-status:[3]") && !strings.Contains(told, "grpc-status: 3") {
				t.Errorf("answered %v %v", a, a.header)
			}
			if more := status(s.cmd.Process.Pid)["VmHWM"] - before; more > 128<<20 {
				t.Errorf("the bomb cost %d MiB", more>>20)
			}
		})
	}
}

// hostileWatch resumes streams from where they never were.
func hostileWatch(t *testing.T, s *server) {
	token := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for name, c := range map[string]struct{ body, reason string }{
		"token of noise":      {`{"knowledgeBase":"api","resumeToken":"%%%"}`, "RESUME_TOKEN_INVALID"},
		"token of nobody":     {`{"knowledgeBase":"api","resumeToken":"` + token(`{"u":"other","r":1}`) + `"}`, "RESUME_TOKEN_INVALID"},
		"token of the future": {`{"knowledgeBase":"api","resumeToken":"` + token(`{"u":"x","r":9223372036854775807}`) + `"}`, "RESUME_TOKEN_INVALID"},
		"token of the past":   {`{"knowledgeBase":"api","resumeToken":"` + token(`{"u":"x","r":-5}`) + `"}`, "RESUME_TOKEN_INVALID"},
		"long token":          {`{"knowledgeBase":"api","resumeToken":"` + strings.Repeat("a", 257) + `"}`, invalidWhy},
		"foreign":             {`{"knowledgeBase":"nobody"}`, "KNOWLEDGE_BASE_NOT_FOUND"},
		"short heartbeat":     {`{"knowledgeBase":"api","heartbeat":"0.001s"}`, invalidWhy},
	} {
		t.Run(name, func(t *testing.T) {
			frame := append([]byte{0, 0, 0, byte(len(c.body) >> 8), byte(len(c.body))}, c.body...)
			a, err := s.send("POST", "/granary.v1.EventService/WatchEvents", bytes.NewReader(frame), "Content-Type", "application/connect+json")
			if err != nil {
				t.Fatal(err)
			}
			var last struct{ Error json.RawMessage }
			if len(a.body) < 5 || a.body[0] != 2 || json.Unmarshal([]byte(a.body[5:]), &last) != nil {
				t.Fatalf("answered %v", a)
			}
			a.decode(last.Error)
			if a.reason != c.reason || a.message == "" {
				t.Errorf("answered %v, want %s", a, c.reason)
			}
		})
	}
}

// slowLoris opens connections that never end their headers. The check waits
// until the server has closed them all.
func (s *server) slowLoris(t *testing.T) func(*testing.T) {
	t.Helper()
	begin := time.Now()
	var open []net.Conn
	for range 200 {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "POST /granary.v1."+searchMethod+" HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		t.Cleanup(func() { _ = conn.Close() })
		open = append(open, conn)
	}
	return func(t *testing.T) {
		t.Helper()
		for i, conn := range open {
			// Twice the server's time, and some for a test that comes late.
			_ = conn.SetReadDeadline(time.Now().Add(max(time.Second, 20*time.Second-time.Since(begin))))
			// A byte now and then does not keep the connection.
			_, _ = io.WriteString(conn, "a")
			_, err := io.Copy(io.Discard, bufio.NewReader(conn))
			if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
				t.Fatalf("connection %d is open after %v", i, time.Since(begin))
			}
		}
		t.Logf("%d unfinished requests were closed after %v", len(open), time.Since(begin).Round(time.Millisecond))
	}
}
