//go:build unix

package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// I13, I2: whatever is secret, or a tenant's, is planted as a canary and then looked
// for in all that a server leaves behind, after everything that can go wrong did.
func TestI13_CanariesAppearNowhere(t *testing.T) {
	for name, nodes := range map[string]int{"a lone node": 1, "three nodes with PostgreSQL": 3} {
		t.Run(name, func(t *testing.T) {
			a := newAviary(t, nodes)
			content := a.use()
			a.misuse(content)
			a.scrape()
			a.disturb(content)
			a.scrape()
			a.leave()
			t.Logf("%d canaries", len(a.canaries))
			a.check()
		})
	}
}

// planted are the texts of a tenant's content.
type planted struct {
	text, meta, name, kb, description, query, url, heading, broken, apiKey string
}

// ok wants a call of the owner to be answered.
func (a *aviary) ok(method, message string) answer {
	a.t.Helper()
	var got answer
	for range 5 {
		n := a.nodes[len(a.owners.String())%len(a.nodes)] // any
		if got = a.call(n, a.admin, method, message); got.status == http.StatusOK {
			return got
		}
		time.Sleep(300 * time.Millisecond) // a node may just have died
	}
	a.t.Fatalf("%s: %v", method, got)
	return got
}

func js(format string, args ...any) string {
	for i, arg := range args {
		b, _ := json.Marshal(arg)
		args[i] = string(b)
	}
	return fmt.Sprintf(format, args...)
}

// use does what an ordinary day does.
func (a *aviary) use() planted {
	a.t.Helper()
	p := planted{
		text: a.plant("text of a document", true), meta: a.plant("metadata", true), name: a.plant("name of a document", true),
		kb: a.plant("name of a knowledge base", true), description: a.plant("description", true), query: a.plant("a query", true),
		url: a.plant("a signature in a URL", true), heading: a.plant("a heading", true), broken: a.plant("text of a broken file", true),
	}
	a.ok("KnowledgeBaseService/CreateKnowledgeBase", js(`{"knowledgeBaseId":"vault","displayName":%s,"description":%s,"requestId":"r1"}`, p.kb, p.description))
	add := func(id, source string) {
		a.t.Helper()
		a.ok("DocumentService/CreateDocument", js(`{"spec":{"knowledgeBase":"vault","documentId":%s,"displayName":%s,"metadata":{"owner":%s},"requestId":%s},`,
			id, p.name+".md", p.meta, "req-"+id)+source+"}")
	}
	add("text", js(`"text":%s`, "# "+p.heading+"\n\n"+strings.Repeat("The owl said "+p.text+" to the river. ", 40)))
	add("data", js(`"data":%s`, base64.StdEncoding.EncodeToString([]byte("<h1>"+p.heading+"</h1><p>"+p.text+"</p>"))))
	add("broken", js(`"data":%s`, base64.StdEncoding.EncodeToString([]byte("PK\x03\x04"+p.broken+strings.Repeat(p.broken, 20)))))
	add("nope", js(`"text":%s`, "EmbedderFails "+p.text))
	add("url", js(`"url":%s`, a.web.URL+"/page?sig="+p.url))
	add("gone", js(`"url":%s`, a.web.URL+"/fails?sig="+p.url))
	add("reset", js(`"url":%s`, a.web.URL+"/resets?sig="+p.url))
	add("inside", js(`"url":%s`, strings.Replace(a.web.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1)+"/?sig="+p.url))
	a.waitForEnds(7)
	for _, mode := range []string{"HYBRID", "VECTOR", "KEYWORD"} {
		a.ok("SearchService/Search", js(`{"knowledgeBase":"vault","query":%s,"filter":%s,"explain":true,"retrieval":{"mode":%s}}`,
			"query "+p.query+" "+p.text, `metadata.owner = "`+p.meta+`"`, "SEARCH_MODE_"+mode))
	}
	a.get(p) // by GET the query is in the URL
	for _, method := range []string{"DocumentService/GetDocumentText", "DocumentService/GetDocument"} {
		a.ok(method, `{"name":"knowledgeBases/vault/documents/text"}`)
	}
	a.ok("DocumentService/ListChunks", `{"parent":"knowledgeBases/vault/documents/text"}`)
	a.ok("TenantService/GetUsage", `{}`)
	a.watchEvents()
	p.apiKey = a.apiKey(p)
	return p
}

// waitForEnds waits until all documents are done or given up.
func (a *aviary) waitForEnds(want int) {
	a.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(200 * time.Millisecond) { // polling another process
		list := a.ok("DocumentService/ListDocuments", `{"parent":"knowledgeBases/vault"}`).body
		ended := strings.Count(list, "STATE_READY") + strings.Count(list, "STATE_FAILED")
		if ended >= want || time.Now().After(deadline) && strings.Contains(list, "STATE_READY") {
			a.t.Logf("%d of %d documents ended: %d ready, %d failed", ended, want, strings.Count(list, "STATE_READY"), strings.Count(list, "STATE_FAILED"))
			return
		}
	}
}

// get searches and reads by GET.
func (a *aviary) get(p planted) {
	message := js(`{"knowledgeBase":"vault","query":%s}`, "query "+p.query)
	r, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet,
		"http://"+a.nodes[0].api+"/granary.v1.SearchService/Search?connect=v1&encoding=json&message="+url.QueryEscape(message), nil)
	if err != nil {
		a.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+a.admin)
	if got := a.do(r, true); got.status != http.StatusOK {
		a.t.Errorf("search by GET: %v", got)
	}
}

// watchEvents reads the stream for a moment, by the command line.
func (a *aviary) watchEvents() {
	ctx, cancel := context.WithTimeout(a.t.Context(), 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "watch", "vault", "--json")
	cmd.Env = append(os.Environ(), "GRANARY_SERVER=http://"+a.nodes[0].api, "GRANARY_TOKEN="+a.admin)
	out, _ := cmd.CombinedOutput() // ended by its time
	_, _ = a.owners.Write(out)
}

// apiKey makes a key and uses it. Its text is in one answer, and that is taken away.
func (a *aviary) apiKey(p planted) string {
	a.t.Helper()
	before := a.owners.Len()
	body := a.ok("AccessService/CreateApiKey", js(`{"displayName":%s,"grants":[{"role":"editor"}]}`, p.name)).body
	a.owners.Truncate(before)
	var made struct{ Secret string }
	if err := json.Unmarshal([]byte(body), &made); err != nil || made.Secret == "" {
		a.t.Fatalf("no API key: %s", body)
	}
	a.watch("an API key", made.Secret, false)
	if got := a.call(a.nodes[0], made.Secret, "AccessService/WhoAmI", `{}`); got.status != http.StatusOK {
		a.t.Errorf("with an API key: %v", got)
	}
	a.ok("AccessService/ListApiKeys", `{}`)
	return made.Secret
}

// misuse does what somebody hostile or confused does, with canaries where they
// should not be.
func (a *aviary) misuse(p planted) {
	n := a.nodes[len(a.nodes)-1]
	search := func(token string, headers ...string) answer {
		return a.call(n, token, "SearchService/Search", `{"knowledgeBase":"vault","query":"x"}`, headers...)
	}
	forged := a.plant("a forged token", false)
	for name, token := range map[string]string{
		"forged": forged, "cut": a.admin[:len(a.admin)-4], "key with a wrong end": p.apiKey[:len(p.apiKey)-2] + "xx", "doubled": a.admin + a.admin,
		"operator's": a.operator, "unsigned": strings.Join(strings.Split(a.admin, ".")[:2], ".") + ".", "spaced": a.admin + " " + forged,
	} {
		if got := search(token); got.status == http.StatusOK {
			a.t.Errorf("a %s credential was good: %v", name, got)
		}
	}
	if got := search(a.stranger); got.status == http.StatusOK {
		a.t.Errorf("a stranger searched: %v", got)
	}
	search("", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("ada:"+forged)), "Cookie", "token="+forged, "X-Api-Key", forged)
	for _, path := range []string{"/?access_token=", "/granary.v1.SearchService/Search?token=", "/granary.v1.SearchService/", "/", "/ready?", "/health?t="} {
		if r, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, "http://"+n.api+path+url.QueryEscape(forged), nil); err == nil {
			r.Header.Set("User-Agent", forged)
			r.Header.Set("Referer", "http://x/"+forged)
			r.Header.Set("X-Request-Id", forged)
			got := a.do(r, true) // a path may come back to who sent it
			_ = got
		}
	}
	for method, message := range map[string]string{
		"SearchService/Search":                     js(`{"knowledgeBase":"vault","query":"x","filter":%s}`, "metadata.owner = = "+p.meta),
		"KnowledgeBaseService/CreateKnowledgeBase": js(`{"knowledgeBaseId":%s}`, p.kb+"!"),
		"DocumentService/CreateDocument":           js(`{"spec":{"knowledgeBase":"vault"},"url":%s}`, "http://user:"+p.url+"@10.0.0.1/"),
		"DocumentService/GetDocument":              `{"name":` + p.name,
		"DocumentService/ListDocuments":            js(`{"parent":"knowledgeBases/vault","pageToken":%s}`, p.query),
		"DocumentService/AppendUpload":             js(`{"uploadToken":%s,"data":"eA=="}`, p.query),
		"TenantService/UpdateTenantConfig":         js(`{"defaultConfig":{"chunking":{"%s":1}}}`, p.query),
	} {
		if got := a.call(n, a.admin, method, message); got.status == http.StatusOK || got.status >= 500 {
			a.t.Errorf("%s, malformed: %v", method, got)
		}
	}
	for _, path := range []string{"/health", "/ready"} {
		if r, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, "http://"+n.api+path, nil); err == nil {
			a.do(r, false)
		}
	}
	a.badConfigurations()
}

// badConfigurations starts nodes whose configuration is wrong beside its secrets.
func (a *aviary) badConfigurations() {
	a.t.Helper()
	password := a.plant("a password in a configuration that is wrong", false)
	for name, text := range map[string]string{
		"unknown": "store: postgres://granary:" + password + "@127.0.0.1:1/x\nno_such_setting: 1\n",
		"type":    "store: [\"postgres://granary:" + password + "@127.0.0.1:1/x\"]\n",
		"syntax":  "store: \"postgres://granary:" + password + "@127.0.0.1:1/x\nlisten: x\n",
		"address": "store: \"postgres://granary:" + password + "@127.0.0.1:port/x?sslmode=nonsense\"\n",
		"indent":  "data: x\n  store: postgres://granary:" + password + "@127.0.0.1:1/x\n",
	} {
		file := filepath.Join(a.dir, "bad.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			a.t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(a.t.Context(), 20*time.Second)
		out, err := exec.CommandContext(ctx, binary, "serve", "--config", file, "--data", filepath.Join(a.dir, "bad")).CombinedOutput()
		cancel()
		if err == nil {
			a.t.Errorf("a node started with the configuration %s", name)
		}
		_, _ = fmt.Fprintf(&a.public, "configuration %s: %s\n", name, out)
	}
}

// disturb kills parsers at their work and then a node at its.
func (a *aviary) disturb(p planted) {
	a.t.Helper()
	for i := range 8 {
		a.ok("DocumentService/CreateDocument", js(`{"spec":{"knowledgeBase":"vault","documentId":%s,"displayName":"big.html"},"text":%s}`,
			fmt.Sprintf("big-%d", i), strings.Repeat(fmt.Sprintf("Barley %d and %s. ", i, p.text), 3000)))
		for _, n := range a.nodes {
			for _, pid := range childrenOf(n.cmd.Process.Pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	n := a.nodes[len(a.nodes)-1]
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
	a.run(n)
	a.waitForEnds(15)
	a.ok("SearchService/Search", js(`{"knowledgeBase":"vault","query":%s}`, "query "+p.text))
}

// scrape reads what each node shows to Prometheus.
func (a *aviary) scrape() {
	a.t.Helper()
	for _, n := range a.nodes {
		r, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, "http://"+n.metrics+"/metrics", nil)
		if err != nil {
			a.t.Fatal(err)
		}
		got := a.do(r, false)
		if got.status != http.StatusOK || !strings.Contains(got.body, "granary_build_info{") || len(got.body) < 5000 {
			a.t.Errorf("metrics of %s: %d, %d bytes", n.name, got.status, len(got.body))
		}
		for _, tenant := range []string{"acme", "globex"} {
			if strings.Contains(got.body, tenant) {
				a.t.Errorf("the metrics of %s name the tenant %s", n.name, tenant)
			}
		}
	}
}

// leave deletes everything but what a failed document leaves, and stops the nodes.
func (a *aviary) leave() {
	a.t.Helper()
	a.ok("DocumentService/DeleteDocument", `{"name":"knowledgeBases/vault/documents/data"}`)
	a.ok("KnowledgeBaseService/CreateKnowledgeBase", `{"knowledgeBaseId":"second"}`)
	a.ok("KnowledgeBaseService/DeleteKnowledgeBase", `{"name":"knowledgeBases/second"}`)
	a.exportAudit()
	for _, n := range a.nodes {
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, n := range a.nodes {
		if err := n.cmd.Wait(); err != nil {
			a.t.Errorf("%s ended with %v", n.name, err)
		}
	}
}

// exportAudit reads the whole audit: as its owner, whose it is, and as an operator, to
// whom it shows no content.
func (a *aviary) exportAudit() {
	a.t.Helper()
	for token, args := range map[string][]string{a.admin: {"audit", "export"}, a.operator: {"audit", "export", "--tenant", "acme"}} {
		cmd := exec.CommandContext(a.t.Context(), binary, args...)
		cmd.Env = append(os.Environ(), "GRANARY_SERVER=http://"+a.nodes[0].api, "GRANARY_TOKEN="+token, "GRANARY_OPERATOR_TOKEN="+token)
		out, err := cmd.CombinedOutput()
		if err != nil || bytes.Count(out, []byte("\n")) < 10 {
			a.t.Errorf("granary %v: %v, %d bytes: %.300s", args, err, len(out), out)
		}
		if token == a.operator {
			_, _ = a.public.Write(out)
		} else {
			_, _ = a.owners.Write(out)
		}
	}
}
