//go:build unix

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/storage/pgtest"
)

// aviary is a lone node or a cluster, set up as in production (no --dev), at debug
// level, with a canary wherever there is something secret.
type aviary struct {
	t        *testing.T
	dir      string
	pg       *pgtest.Server // nil: a lone node
	web      *httptest.Server
	nodes    []*canaryNode
	canaries []canary
	admin    string // a token of tenant acme
	stranger string // an administrator's token of another tenant
	operator string

	mu     sync.Mutex
	public bytes.Buffer // answers that tell nobody anything: refusals, health, what strangers got
	owners bytes.Buffer // answers to the owner of the content
}

// canaryNode is one process of the binary.
type canaryNode struct {
	name, config, data, api, metrics string
	log                              *logBuffer
	cmd                              *exec.Cmd
}

// plant makes a random text and remembers it.
func (a *aviary) plant(name string, content bool) string {
	text := "Canary" + rand.Text()
	a.watch(name, text, content)
	return text
}

func (a *aviary) watch(name, secret string, content bool) {
	a.canaries = append(a.canaries, newCanary(name, []byte(secret), content))
}

// newAviary starts so many nodes; one is alone, with the embedded store.
func newAviary(t *testing.T, nodes int) *aviary {
	t.Helper()
	a := &aviary{t: t, dir: t.TempDir()}
	if nodes > 1 {
		var err error
		a.pg, err = pgtest.Start(context.WithoutCancel(t.Context()), pgtest.Options{TCP: true})
		pgtest.SkipWithout(t, err)
		t.Cleanup(func() {
			if err := a.pg.Stop(); err != nil {
				t.Error(err)
			}
		})
		a.watch("the password of the store", a.pg.Password(), false)
	}
	a.web = httptest.NewServer(http.HandlerFunc(a.serveWeb))
	t.Cleanup(a.web.Close)
	common := a.settings()
	seed := freePort(t)
	for i := range nodes {
		a.nodes = append(a.nodes, a.newNode(i, common, seed))
	}
	t.Cleanup(func() {
		for _, n := range a.nodes {
			if n.cmd.Process != nil {
				_ = n.cmd.Process.Kill()
			}
		}
	})
	for _, n := range a.nodes {
		a.run(n)
	}
	return a
}

// settings writes the secrets that nodes share to files, and gives the part of the
// configuration that names them.
func (a *aviary) settings() string {
	secrets := filepath.Join(a.dir, "secrets")
	file := func(name string) string { return filepath.Join(secrets, name) }
	write := func(name, text string) {
		if err := os.WriteFile(file(name), []byte(text+"\n"), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	if err := os.MkdirAll(secrets, 0o700); err != nil {
		a.t.Fatal(err)
	}
	a.granary("master-key", "new", file("master"))
	issue := []string{"token", "issue", "--key-file", file("sign")}
	a.admin = a.granary(append(issue, "--tenant", "acme", "--subject", "ada", "--role", "admin")...)
	a.stranger = a.granary(append(issue, "--tenant", "globex", "--subject", "eve", "--role", "admin")...)
	a.operator = a.granary(append(issue, "--operator", "--subject", "olga")...)
	for name, token := range map[string]string{"a token": a.admin, "a stranger's token": a.stranger, "an operator's token": a.operator} {
		a.watch(name, token, false)
		a.watch("the signature of "+name, token[strings.LastIndex(token, ".")+1:], false)
	}
	for _, name := range []string{"master", "sign"} {
		raw, err := os.ReadFile(file(name))
		if err != nil {
			a.t.Fatal(err)
		}
		key := raw
		if block, _ := pem.Decode(raw); block != nil {
			key = block.Bytes[len(block.Bytes)-32:] // the seed in PKCS #8
		} else if line := strings.Fields(string(raw)); len(line) > 0 {
			a.watch("the text of the key "+name, line[len(line)-1], false)
			if key, err = base64.StdEncoding.DecodeString(line[len(line)-1]); err != nil {
				a.t.Fatalf("the key %s is not base64: %v", name, err)
			}
		}
		a.watch("the key "+name, string(key), false)
	}
	write("embedding", a.plant("the key of the embedding server", false))
	config := fmt.Sprintf("log_level: debug\nauth: {key_file: %q}\nencryption: {master_key_file: %q}\nfetch: {allow_networks: [127.0.0.0/8], ports: [%s]}\n"+
		"embedding: {provider: openai, url: %q, model: m, dims: 8, api_key_file: %q}\n",
		file("sign"), file("master"), a.web.URL[strings.LastIndex(a.web.URL, ":")+1:], a.web.URL+"/v1", file("embedding"))
	if a.pg == nil {
		return config
	}
	gossip := make([]byte, 32)
	_, _ = rand.Read(gossip)
	a.watch("the key of gossip", string(gossip), false)
	a.watch("the text of the key of gossip", base64.StdEncoding.EncodeToString(gossip), false)
	write("gossip", base64.StdEncoding.EncodeToString(gossip))
	return config + fmt.Sprintf("store: %q\n", a.pg.URL("postgres"))
}

func (a *aviary) newNode(i int, common, seed string) *canaryNode {
	n := &canaryNode{name: fmt.Sprintf("n%d", i+1), api: freePort(a.t), metrics: freePort(a.t), log: &logBuffer{}}
	n.data, n.config = filepath.Join(a.dir, n.name), filepath.Join(a.dir, n.name+".yaml")
	text := common + fmt.Sprintf("data: %q\nlisten: %q\nmetrics: {listen: %q}\n", n.data, n.api, n.metrics)
	if a.pg != nil {
		gossip := seed
		if i > 0 {
			gossip = freePort(a.t)
		}
		text += fmt.Sprintf("node: %s\ncluster: {gossip: %q, actors: %q, join: [%q], gossip_key_file: %q}\n",
			n.name, gossip, freePort(a.t), seed, filepath.Join(a.dir, "secrets", "gossip"))
	}
	if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return n
}

// granary runs the command line and gives its output.
func (a *aviary) granary(args ...string) string {
	a.t.Helper()
	out, err := exec.Command(binary, args...).Output()
	if err != nil {
		a.t.Fatalf("granary %s: %v", args[0], err)
	}
	return strings.TrimSpace(string(out))
}

// run starts a node and waits until it is ready.
func (a *aviary) run(n *canaryNode) {
	a.t.Helper()
	n.cmd = exec.Command(binary, "serve", "--config", n.config)
	n.cmd.Stdout, n.cmd.Stderr, n.cmd.SysProcAttr = n.log, n.log, childAttributes()
	if err := n.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) { // polling another process
		if r, err := http.Get("http://" + n.api + "/ready"); err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("%s is not ready\n%s", n.name, n.log)
		}
	}
}

// serveWeb is the embedding server and the source of URLs. It fails now and then,
// and its errors repeat what it was sent, as those of some do.
func (a *aviary) serveWeb(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if strings.HasSuffix(r.URL.Path, "/embeddings") {
		var q struct{ Input []string }
		if json.Unmarshal(body, &q) != nil || bytes.Contains(body, []byte("EmbedderFails")) && !bytes.Contains(body, []byte("query")) {
			http.Error(w, `{"error":{"message":`+fmt.Sprintf("%q", r.Header.Get("Authorization")+" "+string(body))+`}}`, http.StatusBadRequest)
			return
		}
		type item struct {
			Index     int       `json:"index"`
			Embedding []float32 `json:"embedding"`
		}
		out := struct {
			Data []item `json:"data"`
		}{}
		for i, text := range q.Input {
			v := make([]float32, 8)
			for j := range v {
				v[j] = float32(len(text)%(j+7)) + 1
			}
			out.Data = append(out.Data, item{i, v})
		}
		_ = json.NewEncoder(w).Encode(out)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/resets") {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "text/plain")
	if strings.HasPrefix(r.URL.Path, "/fails") {
		w.WriteHeader(http.StatusForbidden)
	}
	_, _ = fmt.Fprintf(w, "What lies at %s.", r.URL)
}

// call sends a message in JSON. Answers to the owner are kept apart.
func (a *aviary) call(n *canaryNode, token, method, message string, headers ...string) answer {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), http.MethodPost, "http://"+n.api+"/granary.v1."+method, strings.NewReader(message))
	if err != nil {
		a.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return a.do(r, token == a.admin)
}

func (a *aviary) do(r *http.Request, owner bool) answer {
	a.t.Helper()
	res, err := (&http.Client{Timeout: 30 * time.Second}).Do(r)
	if err != nil {
		a.t.Logf("%s: %v", r.URL.Path, err)
		return answer{}
	}
	defer res.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	out := answer{status: res.StatusCode, body: string(raw), header: res.Header}
	out.decode(raw)
	a.mu.Lock()
	defer a.mu.Unlock()
	into := &a.public
	if owner {
		into = &a.owners
	}
	_, _ = fmt.Fprintf(into, "%d %v\n%s\n", res.StatusCode, res.Header, raw)
	return out
}

// check looks for all canaries in all there is. It tells how many bytes it read.
func (a *aviary) check() {
	a.t.Helper()
	for _, n := range a.nodes {
		log := []byte(n.log.String())
		if !bytes.Contains(log, []byte("level=DEBUG")) {
			a.t.Errorf("the log of %s has nothing at debug level: this shows little", n.name)
		}
		a.t.Logf("log of %s: %d bytes", n.name, search(a.t, "the log of "+n.name, log, a.canaries))
	}
	a.t.Logf("answers to strangers, refusals, health: %d bytes", search(a.t, "an answer", a.public.Bytes(), a.canaries))
	var secrets []canary
	for _, c := range a.canaries {
		if !c.content {
			secrets = append(secrets, c)
		}
	}
	a.t.Logf("answers to the owner: %d bytes", search(a.t, "an answer to the owner", a.owners.Bytes(), secrets))
	total, files := 0, 0
	for _, n := range a.nodes {
		err := filepath.WalkDir(n.data, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			total += search(a.t, path, raw, a.canaries)
			return nil
		})
		if err != nil {
			a.t.Error(err)
		}
	}
	a.t.Logf("data folders: %d files, %d bytes", files, total)
	if a.pg != nil {
		a.checkTables()
	}
}

// checkTables reads every table of the database, as the bytes of its values.
func (a *aviary) checkTables() {
	conn, err := pgx.Connect(a.t.Context(), a.pg.URL("postgres"))
	if err != nil {
		a.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(a.t.Context(), `SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables
		WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1`)
	if err != nil {
		a.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 15 {
		a.t.Fatalf("tables %v: %v", tables, err)
	}
	total := 0
	for _, table := range tables {
		for _, format := range []string{"binary", "text"} { // text: what several columns of a row make together
			var dump bytes.Buffer
			if _, err := conn.PgConn().CopyTo(a.t.Context(), &dump, "COPY "+table+" TO STDOUT (FORMAT "+format+")"); err != nil {
				a.t.Errorf("dump of %s: %v", table, err)
			}
			total += search(a.t, "table "+table, dump.Bytes(), a.canaries)
		}
	}
	a.t.Logf("%d tables, %d bytes", len(tables), total)
}
