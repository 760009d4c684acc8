// Package e2e tries the real binary: several processes, real files, real kills.
package e2e

import (
	"archive/zip"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	_ "modernc.org/sqlite" // the test looks into the store behind the server's back

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

var binary string // the granary binary under test

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "granary-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "granary")
	build := exec.Command("go", "build", "-o", binary, "granary.dev/granary/cmd/granary")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// server is one process of the binary.
type server struct {
	t    *testing.T
	data string
	addr string
	cmd  *exec.Cmd
	log  *logBuffer
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs the binary and waits until it is ready. args come after the usual flags.
func start(t *testing.T, data, addr string, args ...string) *server {
	t.Helper()
	s := &server{t: t, data: data, addr: addr, log: &logBuffer{}}
	s.cmd = exec.Command(binary, append([]string{"serve", "--dev", "--data", data, "--listen", addr, "--metrics", "127.0.0.1:0"}, args...)...)
	s.cmd.Stderr, s.cmd.Stdout = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		r, err := http.Get("http://" + addr + "/ready")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				// The token file is written when the server says hello.
				if _, err := os.Stat(filepath.Join(data, "dev-token")); err == nil {
					return s
				}
			}
		}
		if time.Now().After(deadline) || s.cmd.ProcessState != nil {
			_ = s.cmd.Process.Kill()
			t.Fatalf("not ready: %v\n%s", err, s.log)
		}
		time.Sleep(20 * time.Millisecond) // polling another process
	}
}

// kill ends the process the hard way.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// stop ends it the orderly way and returns how long that took.
func (s *server) stop() time.Duration {
	s.t.Helper()
	begin := time.Now()
	_ = s.cmd.Process.Signal(os.Interrupt)
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("server ended with %v\n%s", err, s.log)
	}
	return time.Since(begin)
}

type clients struct {
	kbs    granaryv1connect.KnowledgeBaseServiceClient
	docs   granaryv1connect.DocumentServiceClient
	search granaryv1connect.SearchServiceClient
}

func (s *server) clients() clients {
	s.t.Helper()
	token, err := os.ReadFile(filepath.Join(s.data, "dev-token"))
	if err != nil {
		s.t.Fatal(err)
	}
	hc := &http.Client{Timeout: 15 * time.Second, Transport: bearer(strings.TrimSpace(string(token)))}
	c := connect.NewClient(connecthttp.NewTransport(hc, "http://"+s.addr))
	return clients{granaryv1connect.NewKnowledgeBaseServiceClient(c), granaryv1connect.NewDocumentServiceClient(c), granaryv1connect.NewSearchServiceClient(c)}
}

type bearer string

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// source is a document to be sent.
type source struct {
	name   string
	data   []byte
	broken bool // must end FAILED
}

// corpus makes n documents of many types, a tenth of them broken.
func corpus(n int, r *rand.Rand) []source {
	words := strings.Fields("granary stores wheat barley oats in tall silos beside the river where barges load at dawn and millers grind flour for the bakers of the town who rise early to light their ovens")
	text := func(i, n int) string {
		var b strings.Builder
		fmt.Fprintf(&b, "Document number %d. ", i)
		for j := range n {
			b.WriteString(words[r.IntN(len(words))])
			if j%12 == 11 {
				b.WriteString(". ")
			} else {
				b.WriteByte(' ')
			}
		}
		return b.String()
	}
	out := make([]source, 0, n)
	for i := range n {
		size := 60 + r.IntN(500)
		s := source{}
		switch i % 10 {
		case 0, 1:
			s = source{name: "t.txt", data: []byte(text(i, size))}
		case 2, 3:
			s = source{name: "m.md", data: []byte("# Title " + fmt.Sprint(i) + "\n\n" + text(i, size) + "\n\n## More\n\n" + text(i, size))}
		case 4:
			s = source{name: "h.html", data: []byte("<html><body><h1>H</h1><p>" + text(i, size) + "</p></body></html>")}
		case 5:
			s = source{name: "c.csv", data: []byte("id,text\n" + strings.Repeat(fmt.Sprintf("%d,%s\n", i, text(i, 8)), 20))}
		case 6:
			s = source{name: "j.json", data: fmt.Appendf(nil, `{"id":%d,"body":%q}`, i, text(i, size))}
		case 7:
			s = source{name: "d.docx", data: docx(text(i, size))}
		case 8:
			s = source{name: "x.go", data: []byte("package x\n\n// " + text(i, 20) + "\nfunc F() int { return " + fmt.Sprint(i) + " }\n")}
		case 9:
			s = source{name: "b.docx", data: append([]byte("PK\x03\x04"), []byte(text(i, 30))...), broken: true}
		}
		s.name = fmt.Sprintf("%03d-%s", i, s.name)
		out = append(out, s)
	}
	return out
}

func docx(text string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, body := range map[string]string{
		"[Content_Types].xml": `<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="xml" ContentType="application/xml"/><Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>`,
		"_rels/.rels":         `<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>`,
		"word/document.xml":   `<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>` + text + `</w:t></w:r></w:p></w:body></w:document>`,
	} {
		w, _ := z.Create(name)
		_, _ = io.WriteString(w, body)
	}
	_ = z.Close()
	return b.Bytes()
}

// ingest sends documents until ctx ends, each until it is acknowledged, and
// records the acknowledgements.
func (s *server) ingest(ctx context.Context, docs []source, from int, acked *sync.Map) int {
	c := s.clients()
	for i := from; i < len(docs); i++ {
		for {
			r, err := c.docs.CreateDocument(ctx, &granaryv1.CreateDocumentRequest{
				Spec:   &granaryv1.DocumentSpec{KnowledgeBase: "kill", DisplayName: docs[i].name, RequestId: "req-" + docs[i].name},
				Source: &granaryv1.CreateDocumentRequest_Data{Data: docs[i].data},
			})
			if err == nil {
				if before, there := acked.Swap(i, r.GetDocument().GetName()); there && before != r.GetDocument().GetName() {
					s.t.Errorf("document %d was acknowledged as %v and as %v", i, before, r.GetDocument().GetName())
				}
				break
			}
			if ctx.Err() != nil {
				return i
			}
			time.Sleep(10 * time.Millisecond) // the server is being killed
		}
	}
	return len(docs)
}

// pendingWork counts the wake-ups in the store, without a client's call.
func pendingWork(t *testing.T, data string) int {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(data, "granary.db")+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRow("SELECT count(*) FROM wakeups").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A4, E5, I4, I5, I8, I10: kill −9 at random moments of an ingest loses nothing
// acknowledged, doubles nothing, strands nothing.
func TestKilledServerFinishesEveryDocumentByItself(t *testing.T) {
	kills, count := 20, 200
	if testing.Short() {
		kills, count = 4, 50
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	data, addr := t.TempDir(), freeAddr(t)
	docs := corpus(count, r)
	s := start(t, data, addr)
	if _, err := s.clients().kbs.CreateKnowledgeBase(t.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "kill"}); err != nil {
		t.Fatal(err)
	}
	acked := &sync.Map{}
	next := 0
	for range kills {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan int)
		go func() { done <- s.ingest(ctx, docs, next, acked) }()
		// Documents arrive at about this pace, so that kills meet all stages.
		select {
		case next = <-done:
			time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond) // a random moment
			s.kill()
		case <-time.After(time.Duration(100+r.IntN(900)) * time.Millisecond): // a random moment
			s.kill()
			cancel()
			next = <-done
		}
		cancel()
		s = start(t, data, addr)
	}
	s.ingest(t.Context(), docs, next, acked)
	s.kill()
	s = start(t, data, addr)
	defer s.stop()
	waitForWork(t, data)
	checkDocuments(t, s, docs, acked)
	t.Logf("%d documents, %d kills: lost 0, doubled 0, stranded 0", count, kills+1)
}

// waitForWork waits until the store owes nothing, without calling the server.
func waitForWork(t *testing.T, data string) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for pendingWork(t, data) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("work is still owed after 3 minutes")
		}
		time.Sleep(200 * time.Millisecond) // polling another process's store
	}
}

func checkDocuments(t *testing.T, s *server, docs []source, acked *sync.Map) {
	t.Helper()
	c := s.clients()
	byName := make(map[string]*granaryv1.Document)
	for token := ""; ; {
		page, err := c.docs.ListDocuments(t.Context(), &granaryv1.ListDocumentsRequest{Parent: "kill", PageSize: 100, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page.GetDocuments() {
			if byName[d.GetDisplayName()] != nil {
				t.Errorf("%s is there twice", d.GetDisplayName())
			}
			byName[d.GetDisplayName()] = d
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	for i, src := range docs {
		name, ok := acked.Load(i)
		d := byName[src.name]
		switch {
		case !ok:
			t.Errorf("%s was never acknowledged", src.name)
		case d == nil || d.GetName() != name:
			t.Errorf("%s was acknowledged as %v and is lost (%v)", src.name, name, d)
		case d.GetState() == granaryv1.DocumentState_DOCUMENT_STATE_FAILED:
			if d.GetError().GetReason() == "" || (!src.broken && d.GetError().GetReason() != "QUARANTINED") {
				t.Errorf("%s failed with %v", src.name, d.GetError())
			}
		case d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY || src.broken:
			t.Errorf("%s ended %v", src.name, d.GetState())
		default:
			checkChunks(t, c, d)
		}
	}
}

// checkChunks makes sure that a READY document has the chunks it says it has.
func checkChunks(t *testing.T, c clients, d *granaryv1.Document) {
	t.Helper()
	got, err := c.docs.ListChunks(t.Context(), &granaryv1.ListChunksRequest{Parent: d.GetName(), PageSize: 500})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.GetChunks()) == 0 || len(got.GetChunks()) != int(d.GetChunkCount()) {
		t.Errorf("%s is READY with %d chunks and says %d", d.GetDisplayName(), len(got.GetChunks()), d.GetChunkCount())
	}
}

// A second process is refused the folder, with a clear error, and the first
// stops within the time a rolling restart needs.
func TestSecondProcessIsRefusedAndStopIsQuick(t *testing.T) {
	data := t.TempDir()
	s := start(t, data, freeAddr(t))
	out, err := exec.Command(binary, "serve", "--dev", "--data", data, "--listen", freeAddr(t)).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "in use") {
		t.Errorf("second process: %v\n%s", err, out)
	}
	if took := s.stop(); took > 2*time.Second {
		t.Errorf("stop took %v", took)
	}
}
