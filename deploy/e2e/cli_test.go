package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// user is somebody at a shell, in a folder of their own, with a server's data
// folder beside it.
type user struct {
	t      *testing.T
	dir    string
	server *server
}

// result is how a command ended.
type result struct {
	code        int
	out, errOut string
}

func (u user) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = u.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.dir, "GRANARY_SERVER=http://" + u.server.addr, "GRANARY_TOKEN=" + u.server.token()}
	return cmd
}

// run runs the command with a standard input and wants an exit code.
func (u user) run(code int, stdin string, args ...string) result {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	cmd := u.command(ctx, args...)
	var out, errOut strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	r := result{out: out.String(), errOut: errOut.String()}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.code = exit.ExitCode()
	} else if err != nil {
		u.t.Fatal(err)
	}
	if r.code != code {
		u.t.Fatalf("granary %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.errOut)
	}
	if strings.Contains(r.out+r.errOut, u.server.token()) {
		u.t.Errorf("granary %s prints the token", strings.Join(args, " "))
	}
	return r
}

func (u user) wants(text string, parts ...string) {
	u.t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			u.t.Errorf("there is no %q in\n%s", p, text)
		}
	}
}

// decode reads JSON that a command printed.
func (u user) decode(text string, into any) {
	u.t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		u.t.Fatalf("%v in %s", err, text)
	}
}

func newUser(t *testing.T) user {
	t.Helper()
	s := start(t, t.TempDir(), freeAddr(t))
	t.Cleanup(func() { s.stop() })
	u := user{t: t, dir: t.TempDir(), server: s}
	for name, text := range map[string]string{
		"docs/leave.md":          "# Leave\n\nParental leave lasts twelve weeks and is paid in full.\n",
		"docs/keys/signing.html": "<html><body><h1>Keys</h1><p>Rotate the signing key every ninety days.</p></body></html>",
		"docs/stock.csv":         "product,tons\nbarley,12\nrye,7\n",
		"docs/.secret.txt":       "hidden from everybody",
		"docs/photo.png":         "\x89PNG\r\n\x1a\n",
		"notes/one.txt":          "The first note is about oats.",
		"notes/two.txt":          "The second note is about spelt.",
		"notes/broken.docx":      "PK\x03\x04 and nothing behind it",
	} {
		path := filepath.Join(u.dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

// The command line as its users know it (A2, C1, C5, E1): the first ten minutes, against a real server.
func TestCommandLineFromCreateToDelete(t *testing.T) {
	u := newUser(t)
	u.wants(u.run(0, "", "kb", "create", "handbook", "--display-name", "Staff handbook").out, "handbook", "Staff handbook")
	u.wants(u.run(1, "", "kb", "create", "handbook").errOut, "KNOWLEDGE_BASE_EXISTS")

	added := u.run(0, "", "doc", "add", "handbook", "docs", "--wait", "--meta", "team=people")
	u.wants(added.out, "leave.md", "keys/signing.html", "stock.csv", "ready")
	u.wants(added.errOut, "skipped 1 hidden, 1 of unsupported types", "3 added", "3 processed, 0 not")
	u.wants(u.run(0, "", "doc", "add", "handbook", "docs", "--wait").errOut, "0 added, 0 new versions, 3 unchanged")
	u.edit("docs/leave.md", "# Leave\n\nParental leave lasts sixteen weeks.\n")
	u.wants(u.run(0, "", "doc", "add", "handbook", "docs", "--wait").errOut, "0 added, 1 new versions, 2 unchanged")
	u.wants(u.run(0, "Piped text about the mill race.", "doc", "add", "handbook", "-", "--name", "race.txt", "--id", "race", "--wait").out, "race")

	t.Run("search", u.searches)
	t.Run("glob", u.globs)
	t.Run("document", u.documents)
	t.Run("usage", u.misuse)
	t.Run("curl", u.curls)

	u.wants(u.run(2, "", "kb", "delete", "handbook").errOut, "--yes")
	u.wants(u.run(0, "", "kb", "delete", "handbook", "--yes").out, "deleted handbook")
	u.wants(u.run(1, "", "search", "handbook", "leave").errOut, "KNOWLEDGE_BASE_NOT_FOUND")
	u.wants(u.run(0, "", "kb", "list").errOut, "no knowledge bases")
}

func (u user) edit(name, text string) {
	u.t.Helper()
	if err := os.WriteFile(filepath.Join(u.dir, filepath.FromSlash(name)), []byte(text), 0o600); err != nil {
		u.t.Fatal(err)
	}
}

func (u user) searches(t *testing.T) {
	u.t = t
	found := u.run(0, "", "search", "handbook", "how long is parental leave", "--explain")
	lines := strings.Split(found.out, "\n")
	u.wants(lines[0], "RANK", "SCORE", "PARTS", "TEXT")
	u.wants(lines[1], "leave.md", "sixteen weeks", "bm25=", "vector=")
	u.wants(found.out, "hybrid", "keywords", "vectors")
	if strings.Contains(found.out, "twelve weeks") {
		t.Errorf("the old version is found:\n%s", found.out)
	}
	var res struct {
		Hits []struct {
			Document, DisplayName string
			Metadata              map[string]string
			Score                 float64
		}
		Revision string
	}
	u.decode(u.run(0, "", "search", "handbook", "rotate keys", "--json", "--top", "1", "--filter", `metadata.team = "people"`).out, &res)
	if len(res.Hits) != 1 || res.Hits[0].DisplayName != "keys/signing.html" || res.Hits[0].Metadata["team"] != "people" {
		t.Errorf("found %+v", res)
	}
	u.wants(u.run(0, "", "search", "handbook", "mill", "race", "--mode", "keyword", "--min-revision", res.Revision).out, "Piped text")
	u.wants(u.run(1, "", "search", "handbook", "x", "--filter", "page = ").errOut, "FILTER_INVALID")
	if none := u.run(0, "", "search", "handbook", "zzzqqq", "--mode", "keyword"); none.out != "" || !strings.Contains(none.errOut, "no hits") {
		t.Errorf("no hits prints %+v", none)
	}
}

// globs adds by pattern; one file that fails does not stop the others.
func (u user) globs(t *testing.T) {
	u.t = t
	r := u.run(1, "", "doc", "add", "handbook", "notes/*", "--wait")
	u.wants(r.errOut, "broken.docx", "MALFORMED", "3 added", "2 processed, 1 not")
	u.wants(u.run(0, "", "doc", "list", "handbook", "--state", "failed").out, "notes/broken.docx", "MALFORMED")
	u.wants(u.run(1, "", "doc", "add", "handbook", "nothing/*.txt").errOut, "nothing matches")
	u.wants(u.run(1, "", "doc", "add", "handbook", "missing.txt", "notes/one.txt").errOut, "missing.txt", "1 unchanged, 1 failed")
}

func (u user) documents(t *testing.T) {
	u.t = t
	var doc struct {
		Document struct{ Name, State, DisplayName string }
	}
	u.decode(u.run(0, "", "doc", "get", "handbook", "race", "--json").out, &doc)
	if doc.Document.State != "DOCUMENT_STATE_READY" || doc.Document.DisplayName != "race.txt" {
		t.Errorf("got %+v", doc)
	}
	var chunks struct{ Chunks []struct{ Text string } }
	u.decode(u.run(0, "", "doc", "chunks", "handbook", "race", "--json").out, &chunks)
	if len(chunks.Chunks) != 1 || chunks.Chunks[0].Text != "Piped text about the mill race." {
		t.Errorf("chunks are %+v", chunks)
	}
	u.wants(u.run(0, "", "doc", "chunks", "handbook", "race").out, "CHUNK", "Piped text")
	if text := u.run(0, "", "doc", "text", "handbook", "race").out; text != "Piped text about the mill race." {
		t.Errorf("the text is %q", text)
	}
	u.watches()
	u.wants(u.run(0, "", "doc", "delete", "handbook", "race").out, "deleted race")
	if none := u.run(0, "", "search", "handbook", "mill race", "--mode", "keyword"); none.out != "" {
		t.Errorf("a deleted document is found: %s", none.out)
	}
	u.wants(u.run(1, "", "doc", "get", "handbook", "race").errOut, "DOCUMENT_NOT_FOUND")
}

// watches follows the journal from its start: gapless, and ended by ^C without an error.
func (u user) watches() {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	cmd := u.command(ctx, "watch", "handbook", "--from-start", "--no-progress", "--json")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		u.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var types []string
	for len(types) < 12 && lines.Scan() {
		var msg struct {
			Event       struct{ Revision, Type string }
			ResumeToken string
		}
		u.decode(lines.Text(), &msg)
		types = append(types, msg.Event.Type)
		if msg.Event.Revision != strconv.Itoa(len(types)) || msg.ResumeToken == "" {
			u.t.Errorf("event %d is %s", len(types), lines.Text())
		}
	}
	u.wants(strings.Join(types, " "), "document.added", "document.indexed")
	_ = cmd.Process.Signal(os.Interrupt)
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		u.t.Errorf("watch ended with %v", err)
	}
}

// misuse exits with 2 and says how to do better.
func (u user) misuse(t *testing.T) {
	u.t = t
	for _, args := range [][]string{
		{"kb", "create"}, {"kb", "creat", "x"}, {"search", "handbook"}, {"search", "handbook", "x", "--mode", "magic"}, {"nonsense"},
		{"doc", "add", "handbook"}, {"doc", "add", "handbook", "-", "-"}, {"kb", "list", "--server", "not a URL"}, {"serve", "--listen", "0.0.0.0:1", "--dev"},
		{"watch", "handbook", "--from-start", "--resume", "x"}, {"kb", "list", "--no-such-flag"},
	} {
		if r := u.run(2, "", args...); r.errOut == "" || r.out != "" {
			t.Errorf("granary %v prints %+v", args, r)
		}
	}
	u.wants(u.run(1, "", "kb", "list", "--server", "http://127.0.0.1:1").errOut, "cannot reach http://127.0.0.1:1", "granary serve --dev")
	u.wants(u.run(1, "", "kb", "get", "Bad_Name").errOut, "REQUEST_INVALID", "name")
	if err := os.WriteFile(filepath.Join(u.dir, "bad-token"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.wants(u.run(1, "", "kb", "list", "--token-file", "bad-token").errOut, "UNAUTHENTICATED", "bad-token")
	u.wants(u.run(0, "", "--help").out, "granary serve --dev", "doc", "search", "watch")
}

// curls runs the request that the server suggests when it starts, as it is
// printed, and that of the README, with this server's file and address in it.
func (u user) curls(t *testing.T) {
	u.t = t
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("there is no curl")
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("data/dev-token", filepath.Join(u.server.data, "dev-token"), "http://127.0.0.1:8080", "http://"+u.server.addr)
	for name, text := range map[string]string{"welcome": u.server.log.String(), "README": here.Replace(string(readme))} {
		script := regexp.MustCompile(`(?s)(TOKEN=[^\n]*dev-token\)\n *curl .*?/Search)\n`).FindStringSubmatch(text)
		if script == nil {
			t.Fatalf("no example in %s", name)
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(script[1], "curl ", "curl -sS --fail-with-body ", 1))
		cmd.Dir = u.dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		var res struct {
			Hits []struct{ DisplayName, Text string }
		}
		u.decode(string(out), &res)
		if len(res.Hits) == 0 || res.Hits[0].DisplayName != "keys/signing.html" || !strings.Contains(res.Hits[0].Text, "ninety days") {
			t.Errorf("%s: found %+v", name, res)
		}
	}
}
