//go:build unix

package e2e

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// crashing is a lone node that ends itself when it is told to.
type crashing struct {
	t         *testing.T
	data, api string
	arm       string // file
	key       string // public key of receipts, a file
	cmd       *exec.Cmd
	ended     chan struct{}
	log       *logBuffer
	operator  party
	dev, acme party
}

func newCrashing(t *testing.T) *crashing {
	t.Helper()
	c := &crashing{t: t, data: t.TempDir(), api: freePort(t), log: &logBuffer{}}
	c.arm = filepath.Join(c.data, "crash")
	c.start()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.ended
	})
	operator, of := tokens(t, filepath.Join(c.data, "dev-key"), "dev", "acme")
	c.operator, c.dev, c.acme = partyAt(c.api, operator), partyAt(c.api, of["dev"]), partyAt(c.api, of["acme"])
	c.key = c.dev.receiptKey(t)
	return c
}

// start runs the process and waits until it is ready.
func (c *crashing) start() {
	c.t.Helper()
	path, err := crashBinary()
	if err != nil {
		c.t.Fatal(err)
	}
	c.cmd = exec.Command(path, "serve", "--dev", "--data", c.data, "--listen", c.api)
	c.cmd.Env = append(os.Environ(), "GRANARY_CRASHPOINTS="+c.arm)
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.SysProcAttr = c.log, c.log, childAttributes()
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(c.cmd, c.ended)
	until(c.t, "not ready", 30*time.Second, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.api+"/ready", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		if _, err := os.Stat(filepath.Join(c.data, "dev-token")); err != nil || res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s %w", res.Status, err)
		}
		return nil
	})
}

// crashAt erases a target with the process ending itself at the nth step, and has the next
// one finish it; step is "" when the erasure was over before.
func (c *crashing) crashAt(n int, by party, target string) (step string) {
	c.t.Helper()
	before, err := c.reader(target).receipts(c.t.Context(), target)
	if err != nil {
		c.t.Fatal(err)
	}
	arm(c.t, c.arm, n)
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	asked := by.erase(ctx, target)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for ctx.Err() == nil {
			if got, err := c.reader(target).receipts(ctx, target); err == nil && len(got) > len(before) {
				return
			}
			sleep(ctx, 20*time.Millisecond)
		}
	}()
	select {
	case <-c.ended:
		step = died(c.arm)
		disarm(c.arm)
		cancel()
		<-over
		c.start()
	case <-over:
		// The receipt is there; what follows it, as the end of the journal does, may take a crash too.
		select {
		case <-c.ended:
			step = died(c.arm)
			disarm(c.arm)
			c.start()
		case <-time.After(300 * time.Millisecond):
			disarm(c.arm)
			select {
			case <-c.ended: // it was about to
				step = died(c.arm)
				c.start()
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	if asked != nil { // not acknowledged: who asked says it again
		until(c.t, "delete again", 30*time.Second, func(ctx context.Context) error {
			err := by.erase(ctx, target)
			if code := connect.CodeOf(err); code == connect.CodeNotFound || code == connect.CodeFailedPrecondition {
				return nil
			}
			return err
		})
	}
	var got []*v1.ErasureReceipt
	until(c.t, fmt.Sprintf("no receipt after the crash at step %d (%s)", n, step), 40*time.Second, func(ctx context.Context) (err error) {
		if got, err = c.reader(target).receipts(ctx, target); err == nil && len(got) == len(before) {
			err = fmt.Errorf("%d receipts", len(got))
		}
		return err
	})
	if len(got) != len(before)+1 {
		c.t.Errorf("%d receipts of one erasure of %s", len(got)-len(before), target)
	}
	verified(c.t, c.key, got[len(got)-1])
	return step
}

// reader is who may read the receipt of a target.
func (c *crashing) reader(target string) party {
	if strings.HasPrefix(target, "tenants/") {
		return c.operator
	}
	return c.dev
}

// count asks the database behind the server's back.
func (c *crashing) count(query string, args ...any) (n int) {
	c.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(c.data, "granary.db")+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		c.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(query, args...).Scan(&n); err != nil {
		c.t.Fatalf("%s: %v", query, err)
	}
	return n
}

// files counts the sources that are files.
func (c *crashing) files() (n int) {
	for _, dir := range []string{"blobs", "tmp"} {
		_ = filepath.WalkDir(filepath.Join(c.data, dir), func(_ string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				n++
			}
			return nil
		})
	}
	return n
}

// rows counts what the store has, by where it is. A query's arguments are the tenant and
// the id of a knowledge base.
func (c *crashing) rows(queries map[string]string, tenant, kb string) map[string]int {
	out := map[string]int{"files": c.files()}
	for name, query := range queries {
		out[name] = c.count(query, tenant, kb)
	}
	return out
}

// wantRows waits until the store has no more than it should: what follows a receipt, as the
// end of a wake-up row does, takes a moment.
func (c *crashing) wantRows(what string, queries map[string]string, tenant, kb string, want map[string]int) {
	c.t.Helper()
	var wrong string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		wrong = ""
		for name, n := range c.rows(queries, tenant, kb) {
			if n != want[name] {
				wrong += fmt.Sprintf(" %s %d, want %d;", name, n, want[name])
			}
		}
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Errorf("%s: the store has%s", what, wrong)
			return
		}
	}
}

// storeOf asks for all that a knowledge base has in the store.
var storeOf = map[string]string{
	"blobs":       "SELECT count(*) FROM blobs WHERE tenant = ?1 AND ?2 <> ''",
	"chunks":      "SELECT count(*) FROM chunks WHERE tenant = ?1 AND ?2 <> ''",
	"attempts":    "SELECT count(*) FROM attempts WHERE tenant = ?1 AND ?2 <> ''",
	"vectors":     "SELECT count(*) FROM vectors WHERE tenant = ?1 AND ?2 <> ''",
	"events":      "SELECT count(*) FROM events WHERE tenant = ?1 AND kind = 'kb' AND id = ?2",
	"keys":        "SELECT count(*) FROM idempotency WHERE tenant = ?1 AND kind = 'kb' AND id = ?2",
	"indexes":     "SELECT count(*) FROM indexes WHERE tenant = ?1 AND kind = 'kb' AND id = ?2",
	"index parts": "SELECT count(*) FROM index_parts WHERE tenant = ?1 AND kind = 'kb' AND id = ?2",
	"letters":     "SELECT count(*) FROM dead_letters WHERE tenant = ?1 AND kind = 'kb' AND id = ?2",
	"wake-ups":    "SELECT count(*) FROM wakeups WHERE tenant = ?1 AND kind = 'kb' AND id = ?2",
}

// parts of what a document has in the store; its journal goes on.
func only(names ...string) map[string]string {
	out := make(map[string]string)
	for _, n := range names {
		out[n] = storeOf[n]
	}
	return out
}

// steps of an erasure at which a process was killed.
type steps map[string]int

func (s steps) add(step string) { s[step]++ }

func (s steps) String() string {
	n := 0
	for _, k := range s {
		n += k
	}
	return fmt.Sprintf("killed at each of %d steps %v", n, map[string]int(s))
}

// mostSteps bounds the steps of an erasure; the test fails if it has more.
const mostSteps = 80

// I3: kill −9 of the real process at each step of an erasure: the next one ends it by itself,
// with one receipt that verifies; nothing is found, listed or stored, and whoever takes the
// name sees nothing.
func TestEraseOutlivesAKillAtEachStep_I3(t *testing.T) {
	if testing.Short() {
		t.Skip("kills dozens of processes")
	}
	if _, err := crashBinary(); err != nil {
		t.Fatal(err)
	}
	for name, erase := range map[string]func(*testing.T, *crashing, int) string{
		"document": eraseDocument, "knowledge base": eraseKnowledgeBase, "tenant": eraseTenant} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, killed := newCrashing(t), steps{}
			for n := 1; ; n++ {
				step := erase(t, c, n)
				if t.Failed() {
					t.Fatalf("killed at step %d (%s)\n%s", n, step, c.log)
				}
				if step == "" {
					break
				}
				if killed.add(step); n > mostSteps {
					t.Fatalf("an erasure has more than %d steps: %v", mostSteps, killed)
				}
			}
			t.Log(killed)
			if len(killed) == 0 {
				t.Error("nothing was killed")
			}
		})
	}
}

func eraseDocument(t *testing.T, c *crashing, n int) string {
	left := only("blobs", "chunks", "attempts", "vectors", "wake-ups", "index parts")
	if n == 1 {
		c.dev.fill(t, "notes", "stays")
		c.wantRows("before", only("wake-ups"), "dev", "notes", map[string]int{"files": 1})
	}
	want := c.rows(left, "dev", "notes")
	want["index parts"] = 0
	c.dev.fill(t, "notes", "goes")
	step := c.crashAt(n, c.dev, "knowledgeBases/notes/documents/goes")
	if got, err := c.dev.found(t.Context(), "notes", "barley goes stays"); err != nil || got["goes.html"] || !got["stays.html"] {
		t.Errorf("found %v, %v", got, err)
	}
	if docs := c.dev.documents(t, "knowledgeBases/notes"); len(docs) != 1 {
		t.Errorf("listed: %v", docs)
	}
	c.wantRows(fmt.Sprintf("after step %d (%s)", n, step), left, "dev", "notes", want)
	return step
}

func eraseKnowledgeBase(t *testing.T, c *crashing, n int) string {
	c.dev.fill(t, "notes", "one", "two")
	step := c.crashAt(n, c.dev, "knowledgeBases/notes")
	if got, err := c.dev.found(t.Context(), "notes", "barley"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("found %v, %v", got, err)
	}
	c.wantRows(fmt.Sprintf("after step %d (%s)", n, step), storeOf, "dev", "notes", map[string]int{})
	c.seesNothing(c.dev, "dev")
	return step
}

// seesNothing makes the knowledge base anew, which finds nothing of before.
func (c *crashing) seesNothing(p party, tenant string) {
	c.t.Helper()
	list, err := p.kbs.ListKnowledgeBases(c.t.Context(), &v1.ListKnowledgeBasesRequest{})
	if err != nil || len(list.GetKnowledgeBases()) != 0 {
		c.t.Errorf("listed: %v, %v", list, err)
	}
	p.fill(c.t, "notes")
	if got, err := p.found(c.t.Context(), "notes", "barley one two"); err != nil || len(got) != 0 {
		c.t.Errorf("the next of the name finds %v, %v", got, err)
	}
	if docs := p.documents(c.t, "knowledgeBases/notes"); len(docs) != 0 {
		c.t.Errorf("the next of the name lists %v", docs)
	}
	if n := c.count("SELECT count(*) FROM events WHERE tenant = ?1 AND kind = 'kb' AND id = ?2 AND type LIKE 'document.%'", tenant, "notes"); n != 0 {
		c.t.Errorf("its journal has %d events of documents", n)
	}
}

// storeOfTenant asks for all that a tenant has in the store but the record of calls, which
// is never retired.
var storeOfTenant = func() map[string]string {
	out := map[string]string{
		"live keys": "SELECT count(*) FROM tenant_keys WHERE tenant = ?1 AND length(wrapped) > 0 AND ?2 <> ''",
		"receipts":  "SELECT count(*) FROM receipts WHERE tenant = ?1 AND cluster = 0 AND ?2 <> ''",
		"counters":  "SELECT count(*) FROM counters WHERE tenant = ?1 AND ?2 <> ''",
	}
	for name, query := range storeOf {
		out[name] = strings.Replace(query, "kind = 'kb' AND id = ?2", "?2 <> ''", 1)
	}
	return out
}()

func eraseTenant(t *testing.T, c *crashing, n int) string {
	if n == 1 {
		if _, err := c.operator.tenants.CreateTenant(t.Context(), &v1.CreateTenantRequest{TenantId: "acme", Tier: "enterprise"}); err != nil {
			t.Fatal(err)
		}
	}
	c.acme.fill(t, "notes", "one")
	if n%2 == 0 {
		c.acme.fill(t, "more", "two")
	}
	step := c.crashAt(n, c.operator, "tenants/acme")
	c.wantRows(fmt.Sprintf("after step %d (%s)", n, step), storeOfTenant, "acme", "notes", map[string]int{})
	until(t, "the name is not free", 20*time.Second, func(ctx context.Context) error {
		_, err := c.operator.tenants.CreateTenant(ctx, &v1.CreateTenantRequest{TenantId: "acme", Tier: "enterprise"})
		return err
	})
	c.seesNothing(c.acme, "acme") // the next step erases this one
	return step
}
