package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func hash(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:4])
}

// accept answers uploads like a server that keeps documents by id.
func accept(store map[string][]byte) func(*granaryv1.DocumentSpec, []byte) (*granaryv1.UploadDocumentResponse, error) {
	return func(spec *granaryv1.DocumentSpec, data []byte) (*granaryv1.UploadDocumentResponse, error) {
		doc := &granaryv1.Document{
			Name: spec.GetKnowledgeBase() + "/documents/" + firstOf(spec.GetDocumentId(), "assigned"), DisplayName: spec.GetDisplayName(), Version: 1, State: queued,
		}
		old, there := store[spec.GetDocumentId()]
		if there && !bytes.Equal(old, data) {
			doc.Version = 2
		}
		if store != nil {
			store[spec.GetDocumentId()] = bytes.Clone(data)
		}
		return &granaryv1.UploadDocumentResponse{Document: doc, Duplicate: there && bytes.Equal(old, data)}, nil
	}
}

func names(f *fake) []string {
	var list []string
	for _, r := range got[*granaryv1.UploadDocumentRequest](f) {
		list = append(list, r.GetSpec().GetDisplayName())
	}
	slices.Sort(list)
	return list
}

// C3: a folder gives its files, named by their path in it; hidden files,
// node_modules, links and files without text are left out.
func TestAddFolder(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.md", "sub/b c.txt", "sub/deep/ü.html", ".hidden.md", ".git/config", "node_modules/x/readme.md", "pic.PNG", "lib.so", "noext"} {
		write(t, dir, name, "content of "+name)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link.txt")); err != nil {
		t.Fatal(err)
	}
	f := &fake{upload: accept(nil)}
	server := f.serve(t, false)
	r := granary(t, server, world{}, "doc", "add", "handbook", dir, "--concurrency", "1", "--meta", "team=people", "--meta", "note=a=b", "--type", "text/plain")
	wantCode(t, r, ExitOK)
	golden(t, "doc_add_folder.pipe", r.stdout+"--- stderr\n"+r.stderr)
	if n := names(f); !slices.Equal(n, []string{"a.md", "noext", "sub/b c.txt", "sub/deep/ü.html"}) {
		t.Errorf("added %q", n)
	}
	for _, req := range got[*granaryv1.UploadDocumentRequest](f) {
		s := req.GetSpec()
		if s.GetDocumentId() != stableID(s.GetDisplayName()) || s.GetRequestId() == "" || s.GetMediaType() != "text/plain" ||
			s.GetMetadata()["team"] != "people" || s.GetMetadata()["note"] != "a=b" || s.GetOnDuplicate() != granaryv1.OnDuplicate_ON_DUPLICATE_RETURN {
			t.Errorf("spec %v", s)
		}
	}
	f.requests = nil
	wantCode(t, granary(t, server, world{}, "doc", "add", "handbook", dir, "--no-recursive"), ExitOK)
	if n := names(f); !slices.Equal(n, []string{"a.md", "noext"}) {
		t.Errorf("not recursive: added %q", n)
	}
	if r := granary(t, server, world{}, "doc", "add", "handbook", filepath.Join(dir, ".git", "config")); r.code != ExitOK {
		t.Errorf("a file named on the command line was not added: %s", r.stderr)
	}
	r = granary(t, server, world{}, "doc", "add", "handbook", t.TempDir())
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stderr, "there is nothing to add in")
}

// Adding again: the same bytes change nothing, an edited file is the next version of its document.
func TestAddAgainKeepsTheDocument(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.md", "one")
	write(t, dir, "b.md", "two")
	f := &fake{upload: accept(map[string][]byte{})}
	server := f.serve(t, false)
	run := func() result { return granary(t, server, world{}, "doc", "add", "handbook", dir, "--concurrency", "1") }
	wantContains(t, run().stderr, "2 added, 0 new versions, 0 unchanged, 0 failed")
	write(t, dir, "b.md", "two, edited")
	r := run()
	wantCode(t, r, ExitOK)
	wantContains(t, r.stdout, "unchanged    a.md  v1", "new version  b.md  v2")
	wantContains(t, r.stderr, "0 added, 1 new versions, 1 unchanged, 0 failed")
}

func TestStableIDs(t *testing.T) {
	cases := map[string]string{
		"docs/leave policy.md":            "docs-leave-policy.md-",
		"über/Straße":                     "ber-Stra-e-",
		"日本語":                             "doc-",
		"https://example.com/a?b=c":       "example.com-a-b-c-",
		strings.Repeat("x/", 100) + "end": "x-",
		"../..":                           "doc-",
	}
	for name, prefix := range cases {
		id := stableID(name)
		if !strings.HasPrefix(id, prefix) || !strings.HasSuffix(id, "-"+hash(name)) || len(id) > maxSlug+9 {
			t.Errorf("stableID(%q) = %q", name, id)
		}
	}
	if stableID("a b") == stableID("a-b") {
		t.Error("names that look alike share an id")
	}
}

// Globs the shell left alone, files by relative and absolute paths, and what goes wrong with some of them.
func TestAddGlobAndFilesGoesOnAfterFailures(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, ".", "docs/a.md", "a")
	write(t, ".", "docs/b.md", "b")
	write(t, ".", "docs/.c.md", "c")
	abs, err := filepath.Abs("docs/b.md")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{upload: accept(nil)}
	server := f.serve(t, false)
	r := granary(t, server, world{}, "doc", "add", "handbook", "docs/*.md", "missing.md", "no*match", "http://")
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stderr, "failed       missing.md: stat missing.md: no such file", "failed       no*match: nothing matches",
		"failed       http://: this is no URL", "granary: 3 of 5 sources were not added", "skipped 1 hidden")
	if n := names(f); !slices.Equal(n, []string{"docs/a.md", "docs/b.md"}) {
		t.Errorf("added %q", n)
	}
	f.requests = nil
	r = granary(t, server, world{}, "doc", "add", "handbook", "./docs/a.md", abs, "docs/../docs/b.md")
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stderr, "docs/b.md: it would replace "+abs+" of the same name")
	if n := names(f); !slices.Equal(n, []string{"docs/a.md", "docs/b.md"}) {
		t.Errorf("added %q", n)
	}
	if got := displayPath("../../x/y.md"); got != "x/y.md" {
		t.Errorf("displayPath = %q", got)
	}
}

func TestAddStandardInput(t *testing.T) {
	var data []byte
	f := &fake{upload: func(s *granaryv1.DocumentSpec, d []byte) (*granaryv1.UploadDocumentResponse, error) {
		data = d
		return accept(nil)(s, d)
	}}
	server := f.serve(t, false)
	big := strings.Repeat("0123456789abcdef", 150_000) // several messages
	wantCode(t, granary(t, server, world{stdin: big}, "doc", "add", "handbook", "-", "--name", "notes.md"), ExitOK)
	wantCode(t, granary(t, server, world{stdin: "x"}, "doc", "add", "handbook", "-", "--id", "notes", "--on-duplicate", "new-version"), ExitOK)
	specs := got[*granaryv1.UploadDocumentRequest](f)
	if s := specs[0].GetSpec(); s.GetDocumentId() != "" || s.GetDisplayName() != "notes.md" {
		t.Errorf("spec %v", s)
	}
	if s := specs[1].GetSpec(); s.GetDocumentId() != "notes" || s.GetDisplayName() != "stdin" || s.GetOnDuplicate() != granaryv1.OnDuplicate_ON_DUPLICATE_NEW_VERSION {
		t.Errorf("spec %v", s)
	}
	if string(data) != "x" {
		t.Errorf("sent %d bytes", len(data))
	}
}

func TestAddSendsLargeFilesWhole(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "big.txt", strings.Repeat("0123456789abcdef", 200_000))
	write(t, dir, "empty.txt", "")
	if err := os.Truncate(filepath.Join(dir, "empty.txt"), 0); err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int{}
	f := &fake{upload: func(s *granaryv1.DocumentSpec, d []byte) (*granaryv1.UploadDocumentResponse, error) {
		sizes[s.GetDisplayName()] = len(d)
		return accept(nil)(s, d)
	}}
	wantCode(t, granary(t, f.serve(t, false), world{}, "doc", "add", "handbook", dir, "--concurrency", "1"), ExitOK)
	if sizes["big.txt"] != 3_200_000 || sizes["empty.txt"] != 0 || len(sizes) != 2 {
		t.Errorf("sizes %v", sizes)
	}
	huge := filepath.Join(dir, "huge.txt")
	write(t, dir, "huge.txt", "")
	if err := os.Truncate(huge, maxUpload+1); err != nil {
		t.Fatal(err)
	}
	r := granary(t, f.serve(t, false), world{}, "doc", "add", "handbook", huge)
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stderr, "UPLOAD_TOO_LARGE: 67108865 bytes are more than")
}

func TestAddURL(t *testing.T) {
	f := &fake{answer: func(req proto.Message) (proto.Message, error) {
		r := req.(*granaryv1.CreateDocumentRequest)
		return &granaryv1.CreateDocumentResponse{Document: &granaryv1.Document{
			Name: r.GetSpec().GetKnowledgeBase() + "/documents/" + r.GetSpec().GetDocumentId(), Version: 1, State: queued, SourceUrl: r.GetUrl(),
		}}, nil
	}}
	const page = "https://me:s3same@example.com/policy.html"
	r := granary(t, f.serve(t, false), world{}, "doc", "add", "handbook", page)
	wantCode(t, r, ExitOK)
	req := got[*granaryv1.CreateDocumentRequest](f)[0]
	if req.GetUrl() != page || !strings.HasPrefix(req.GetSpec().GetDocumentId(), "me-xxxxx-example.com-policy.html-") || strings.Contains(req.GetSpec().String()+r.stdout, "s3same") {
		t.Errorf("request %v, output %q", req, r.stdout)
	}
}

// --json gives each answer as one object on its line.
func TestAddJSON(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.md", "a")
	write(t, dir, "b.md", "b")
	f := &fake{upload: accept(nil), watch: watchOf(eventOf("a.md-"+hash("a.md"), 1, ready), eventOf("b.md-"+hash("b.md"), 1, ready))}
	r := granary(t, f.serve(t, false), world{}, "doc", "add", "handbook", dir, "--json", "--wait")
	wantCode(t, r, ExitOK)
	responses, events := 0, 0
	for line := range strings.Lines(r.stdout) {
		if protojson.Unmarshal([]byte(line), &granaryv1.UploadDocumentResponse{}) == nil {
			responses++
		}
		var msg granaryv1.WatchEventsResponse
		if protojson.Unmarshal([]byte(line), &msg) == nil && msg.GetEvent().GetState() == ready {
			events++
		}
	}
	if responses != 2 || events != 2 || strings.Count(r.stdout, "\n") != 4 {
		t.Errorf("%d responses and %d events in %q", responses, events, r.stdout)
	}
}

// On a terminal there is a bar, which is gone at the end.
func TestAddShowsABarOnATerminal(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.md", "a")
	f := &fake{upload: accept(nil), watch: watchOf(eventOf("a.md-"+hash("a.md"), 1, ready))}
	r := granary(t, f.serve(t, false), world{terminal: true, width: 80}, "doc", "add", "handbook", dir, "--wait")
	wantCode(t, r, ExitOK)
	wantContains(t, r.stderr, "] 0/1", "] 1/1", "1 added, 0 new versions, 0 unchanged, 0 failed; 1 processed, 0 not\n")
	if i := strings.LastIndex(r.stderr, "] "); !strings.Contains(r.stderr[i:], "\r\x1b[K") {
		t.Errorf("the bar stays: %q", r.stderr)
	}
}

func eventOf(id string, version int64, state granaryv1.DocumentState) *granaryv1.WatchEventsResponse {
	e := &granaryv1.Event{
		Revision: 7, Time: at(1), Type: "document." + strings.ToLower(stateText(state)), Document: "knowledgeBases/handbook/documents/" + id, Version: version, State: state,
	}
	if state == failed {
		e.Error = &granaryv1.DocumentError{Reason: "MALFORMED", Message: "not a PDF", Stage: "parse"}
	}
	return &granaryv1.WatchEventsResponse{Item: &granaryv1.WatchEventsResponse_Event{Event: e}, ResumeToken: "after-" + id}
}

func heartbeatOf() *granaryv1.WatchEventsResponse {
	return &granaryv1.WatchEventsResponse{Item: &granaryv1.WatchEventsResponse_Heartbeat{Heartbeat: &granaryv1.Heartbeat{Revision: 6}}, ResumeToken: "t0"}
}

// watchOf sends a heartbeat and the messages, and stays open.
func watchOf(msgs ...*granaryv1.WatchEventsResponse) func(context.Context, *granaryv1.WatchEventsRequest, func(*granaryv1.WatchEventsResponse) error) error {
	return func(ctx context.Context, _ *granaryv1.WatchEventsRequest, send func(*granaryv1.WatchEventsResponse) error) error {
		for _, m := range append([]*granaryv1.WatchEventsResponse{heartbeatOf()}, msgs...) {
			if err := send(m); err != nil {
				return err
			}
		}
		<-ctx.Done()
		return ctx.Err()
	}
}
