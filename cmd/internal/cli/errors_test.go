package cli

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// Wrong usage exits 2 with one line and a hint, and asks the server nothing.
func TestUsageErrorsExitTwo(t *testing.T) {
	cases := map[string][]string{
		`unknown command "bogus"`:                        {"bogus"},
		`unknown command "serch", did you mean "search"`: {"serch"},
		`unknown command "creat", did you mean "create"`: {"kb", "creat"},
		`NAME is missing`:                                {"kb", "create"},
		`unexpected argument "b"`:                        {"kb", "get", "a", "b"},
		`QUERY is missing`:                               {"search", "handbook"},
		`SOURCE is missing`:                              {"doc", "add", "handbook"},
		`unknown flag: --nope`:                           {"kb", "list", "--nope"},
		`"x" is not one of hybrid, vector, keyword`:      {"search", "handbook", "q", "--mode", "x"},
		`"many" is not a whole number`:                   {"kb", "create", "a", "--top", "many"},
		`nothing to change`:                              {"kb", "update", "a"},
		`the same command sets it`:                       {"kb", "update", "a", "--top", "3", "--unset", "config.retrieval"},
		`--unset: unknown setting "foo"`:                 {"kb", "update", "a", "--unset", "foo"},
		`want setting=value`:                             {"tenant", "config", "--set", "retrieval"},
		`is a group of settings`:                         {"tenant", "config", "--set", "retrieval=3"},
		`has no part "x"`:                                {"tenant", "config", "--unset", "retrieval.top_n.x"},
		`--meta novalue: want key=value`:                 {"doc", "add", "h", "x", "--meta", "novalue"},
		`--on-duplicate: "replace" is not one of`:        {"doc", "add", "h", "x", "--on-duplicate", "replace"},
		`--concurrency must be`:                          {"doc", "add", "h", "x", "--concurrency", "0"},
		`--id and --name are for a single source`:        {"doc", "add", "h", "x", "y", "--id", "z"},
		`standard input can be read once only`:           {"doc", "add", "h", "-", "-"},
		`exclude each other`:                             {"watch", "h", "--from-start", "--resume", "t"},
		`--color must be`:                                {"kb", "list", "--color", "red"},
		`--timeout must be above 0`:                      {"kb", "list", "--timeout", "-1s"},
		`must be an http:// or https:// URL`:             {"kb", "list", "--server", "localhost:8080"},
		`must have no query`:                             {"kb", "list", "--server", "http://localhost?x=1"},
		`say --yes`:                                      {"kb", "delete", "a"},
	}
	f := &fake{answer: script}
	url := f.serve(t, false)
	for want, args := range cases {
		r := granary(t, url, world{}, args...)
		if r.code != ExitUsage {
			t.Errorf("%v: exit code %d\n%s", args, r.code, r.stderr)
		}
		lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
		if len(lines) != 2 || !strings.HasPrefix(lines[0], "granary: ") || !strings.Contains(lines[0], want) ||
			!strings.HasPrefix(lines[1], "see 'granary") || r.stdout != "" {
			t.Errorf("%v:\nwant %q\ngot %q\nstdout %q", args, want, r.stderr, r.stdout)
		}
	}
	if n := len(got[proto.Message](f)); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
}

// An error of the server shows its reason, message, fields, quotas and the time
// of the next try.
func TestServerErrorsAreReadable(t *testing.T) {
	f := &fake{answer: func(proto.Message) (proto.Message, error) {
		return nil, rpcError(t, connect.CodeResourceExhausted, "CONFIG_INVALID", "wrong\x1b[2J settings", 1500*time.Millisecond,
			&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "config.chunking.max_words", Description: "below target_words"}}},
			&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: "api_calls", Description: "1000 an hour"}}})
	}}
	r := granary(t, f.serve(t, false), world{}, "kb", "get", "handbook")
	wantCode(t, r, ExitFailed)
	want := "granary: CONFIG_INVALID: wrong[2J settings\n  config.chunking.max_words: below target_words\n" +
		"  quota api_calls: 1000 an hour\n  try again in 1.5s\n"
	if r.stderr != want {
		t.Errorf("got  %q\nwant %q", r.stderr, want)
	}
}

// An error without details falls back to its code.
func TestServerErrorWithoutDetailsShowsItsCode(t *testing.T) {
	f := &fake{answer: func(proto.Message) (proto.Message, error) { return nil, connect.NewError(connect.CodeNotFound, "") }}
	r := granary(t, f.serve(t, false), world{}, "kb", "get", "handbook")
	wantCode(t, r, ExitFailed)
	if r.stderr != "granary: NOT_FOUND: the server gave no reason\n" {
		t.Errorf("got %q", r.stderr)
	}
}

func TestUnreachableServerSaysWhatToDo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://user:pa55@" + l.Addr().String()
	_ = l.Close()
	dir := t.TempDir()
	write(t, dir, "a.md", "x")
	for _, args := range [][]string{
		{"kb", "list"},
		{"doc", "add", "h", dir},
		{"doc", "add", "h", dir, "--wait"},
		{"watch", "h"},
	} {
		var sleeps []time.Duration
		r := granary(t, url, world{sleeps: &sleeps}, args...)
		wantCode(t, r, ExitFailed)
		wantContains(t, r.stderr, "granary: cannot reach http://user:xxxxx@127.0.0.1:", ": is `granary serve --dev` running?\n", "connection refused")
		if len(sleeps) > 0 || strings.Contains(r.stderr, "pa55") {
			t.Errorf("%v: pauses %v, stderr %q", args, sleeps, r.stderr)
		}
	}
}

func TestUnauthenticatedSaysWhereTheTokenWasLookedFor(t *testing.T) {
	f := &fake{answer: func(proto.Message) (proto.Message, error) {
		return nil, rpcError(t, connect.CodeUnauthenticated, "UNAUTHENTICATED", "who are you", 0)
	}}
	url := f.serve(t, false)
	dir := t.TempDir()
	none := map[string]string{"GRANARY_TOKEN": ""}

	r := granary(t, url, world{}, "kb", "list")
	wantContains(t, r.stderr, "granary: UNAUTHENTICATED: who are you\n  the token came from GRANARY_TOKEN\n")
	r = granary(t, url, world{env: none}, "kb", "list", "--data", dir)
	wantContains(t, r.stderr, "no token was sent: GRANARY_TOKEN is not set and there is no file "+filepath.Join(dir, "dev-token"))

	write(t, dir, "dev-token", "s3cret-dev\n")
	r = granary(t, url, world{env: none}, "kb", "list", "--data", dir)
	wantContains(t, r.stderr, "the token came from "+filepath.Join(dir, "dev-token"))
	write(t, dir, "mine", " s3cret-mine ")
	r = granary(t, url, world{}, "kb", "list", "--token-file", filepath.Join(dir, "mine"))
	wantContains(t, r.stderr, "(--token-file)")
	wantCode(t, r, ExitFailed)

	f.mu.Lock()
	sent := strings.Join(f.headers, ",")
	f.mu.Unlock()
	if sent != "Bearer s3cret-token,,Bearer s3cret-dev,Bearer s3cret-mine" {
		t.Errorf("sent %q", sent)
	}
	write(t, dir, "empty", "\n")
	for _, file := range []string{"missing", "empty"} {
		r = granary(t, url, world{}, "kb", "list", "--token-file", filepath.Join(dir, file))
		wantCode(t, r, ExitFailed)
		wantContains(t, r.stderr, "granary: cannot read the token", file)
	}
}

func TestTheTokenDoesNotPrint(t *testing.T) {
	if s := secret("x").String() + secret("x").GoString(); strings.Contains(s, "x") {
		t.Errorf("got %q", s)
	}
}

// A redirect is not followed: it could carry the token to another host.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var asked []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.URL.Path) }))
	defer other.Close()
	first := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer first.Close()
	wantCode(t, granary(t, first.URL, world{}, "kb", "list"), ExitFailed)
	if len(asked) > 0 {
		t.Errorf("the other host was asked for %v", asked)
	}
}

func TestAnAnswerThatTakesTooLongIsATimeout(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	f := &fake{answer: func(proto.Message) (proto.Message, error) { <-release; return nil, nil }}
	r := granary(t, f.serve(t, false), world{}, "kb", "list", "--timeout", "50ms")
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stderr, "granary: DEADLINE_EXCEEDED: no answer within 50ms", "--timeout")
}

func TestInterruptIsShortlySaid(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{answer: func(proto.Message) (proto.Message, error) { cancel(); <-ctx.Done(); return &emptypb.Empty{}, nil }}
	r := granary(t, f.serve(t, false), world{ctx: ctx}, "kb", "delete", "a", "--yes")
	wantCode(t, r, ExitFailed)
	if r.stderr != "granary: interrupted\n" {
		t.Errorf("got %q", r.stderr)
	}
}

// kb delete asks on a terminal, and takes nothing but yes for a yes.
func TestDeleteAsksForConfirmation(t *testing.T) {
	for answer, deleted := range map[string]int{"y\n": 1, "YES\n": 1, "n\n": 0, "\n": 0, "": 0, "yess\n": 0} {
		f := &fake{answer: script}
		r := granary(t, f.serve(t, false), world{terminal: true, stdin: answer}, "kb", "delete", "handbook")
		wantContains(t, r.stderr, `Delete knowledge base "handbook" with all its documents? [y/N]`)
		if n := len(got[*granaryv1.DeleteKnowledgeBaseRequest](f)); n != deleted || r.code != 1-deleted {
			t.Errorf("answer %q: %d deleted, exit code %d", answer, n, r.code)
		}
	}
}

func TestColourFollowsFlagTerminalAndEnvironment(t *testing.T) {
	f := &fake{answer: script}
	url := f.serve(t, false)
	cases := []struct {
		terminal bool
		env      map[string]string
		flag     string
		want     bool
	}{
		{true, nil, "auto", true},
		{false, nil, "auto", false},
		{true, map[string]string{"NO_COLOR": "1"}, "auto", false},
		{true, map[string]string{"TERM": "dumb"}, "auto", false},
		{true, map[string]string{"NO_COLOR": "1"}, "always", true},
		{false, nil, "always", true},
		{true, nil, "never", false},
	}
	for _, c := range cases {
		r := granary(t, url, world{terminal: c.terminal, env: c.env}, "kb", "list", "--color", c.flag)
		wantCode(t, r, ExitOK)
		if strings.Contains(r.stdout, "\x1b[") != c.want {
			t.Errorf("%+v: %q", c, r.stdout)
		}
	}
}

// HTTP/2 in clear text where the server has it, HTTP/1.1 where not: all calls work over both.
func TestBothHTTPVersionsWork(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.md", "alpha")
	for http1, want := range map[bool]string{false: "HTTP/2.0", true: "HTTP/1.1"} {
		f := &fake{answer: script, upload: accept(nil), watch: watchOf(eventOf("a.md-"+hash("a.md"), 1, ready))}
		url := f.serve(t, http1)
		wantCode(t, granary(t, url, world{}, "kb", "get", "handbook"), ExitOK)
		wantCode(t, granary(t, url, world{}, "doc", "add", "handbook", dir, "--wait"), ExitOK)
		for _, p := range f.protos {
			if p != want {
				t.Errorf("spoke %v, want %s", f.protos, want)
			}
		}
	}
}

type codedError struct{}

func (codedError) Error() string { return "stopped on purpose" }
func (codedError) ExitCode() int { return 7 }

// Commands from outside run beside ours, and may choose their exit code.
func TestExtraCommandsJoin(t *testing.T) {
	var out lockedBuffer
	root := Root(Env{Stdout: &out, Stderr: &out, ExtraCommands: []*cobra.Command{
		{Use: "serve", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return codedError{} }},
	}})
	root.SetArgs([]string{"serve"})
	if code := Execute(t.Context(), root); code != 7 || !strings.Contains(out.String(), "granary: stopped on purpose") {
		t.Errorf("code %d, %q", code, out.String())
	}
	root.SetArgs([]string{"serve", "extra"})
	if code := Execute(t.Context(), root); code != ExitUsage {
		t.Errorf("code %d for an argument too many", code)
	}
}

// Each command's help has an example that starts with the command itself.
func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "completion" || c.Name() == "help" {
			return
		}
		if c.Short == "" || c.HasParent() && !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(Root(Env{}))
	for _, args := range [][]string{{}, {"kb"}, {"--help"}, {"doc", "add", "--help"}} {
		r := granary(t, "", world{}, args...)
		wantCode(t, r, ExitOK)
		wantContains(t, r.stdout, "Usage:", "Examples:")
	}
}

func TestLongTextIsCutByColumns(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{{"short", 5, "short"}, {"longer", 5, "long…"}, {"日本語の", 8, "日本語の"}, {"日本語の", 7, "日本語…"}, {"日本語の", 6, "日本…"}} {
		if got := cut(c.text, c.n); got != c.want || columns(got) > c.n {
			t.Errorf("cut(%q, %d) = %q", c.text, c.n, got)
		}
	}
}

// A snippet starts near its first match, at a word.
func TestSnippetShowsTheFirstMatch(t *testing.T) {
	text := strings.Repeat("padding ", 50) + "needle" + strings.Repeat(" after", 100)
	from := strings.Index(text, "needle")
	o := &output{color: true}
	got := o.snippet(&granaryv1.Hit{Text: text, Highlights: []*granaryv1.Range{{Start: int32(from), End: int32(from + 6)}}}, 100)
	if !strings.HasPrefix(got, "… padding ") || !strings.Contains(got, "\x1b[1mneedle\x1b[0m") || !strings.HasSuffix(got, " …") {
		t.Errorf("got %q", got)
	}
	// Ranges from a broken answer do no harm.
	o.snippet(&granaryv1.Hit{Text: "é", Highlights: []*granaryv1.Range{{Start: -5, End: 99}, {Start: 1, End: 1}, {Start: 500, End: 600}}}, 10)
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
