//go:build unix

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// parties gives an operator, and a tenant, at each node.
func (c *cluster) parties(t *testing.T, tenant string) (operators, users []party) {
	t.Helper()
	c.tenants(t, 1) // writes the key
	operator, of := tokens(t, filepath.Join(c.dir, "key"), tenant)
	for _, m := range c.members {
		operators, users = append(operators, partyAt(m.api, operator)), append(users, partyAt(m.api, of[tenant]))
	}
	return operators, users
}

// small makes a knowledge base of documents that are found by one word.
func (p party) small(t *testing.T, kb string, docs ...string) {
	t.Helper()
	p.fill(t, kb)
	for _, id := range docs {
		until(t, "add "+id, 30*time.Second, func(ctx context.Context) error {
			_, err := p.docs.CreateDocument(ctx, &v1.CreateDocumentRequest{Source: &v1.CreateDocumentRequest_Text{Text: "Granaries keep barley, and this is " + kb + " " + id + "."},
				Spec: &v1.DocumentSpec{KnowledgeBase: kb, DocumentId: id, DisplayName: id, RequestId: kb + id}})
			return err
		})
	}
	for _, id := range docs {
		p.settled(t, kb, id, 1)
	}
}

// watchers read all the time, by every way and through every node, and complain of what an
// answer holds that was deleted before its question was asked.
type watchers struct {
	t       *testing.T
	cluster *cluster
	token   string
	gone    sync.Map // knowledge base, or knowledge base/document: since when
	asked   [2]atomic.Int64
	hits    atomic.Int64
	same    atomic.Int64 // answers 304
	wrong   atomic.Int64
	stop    context.CancelFunc
	running sync.WaitGroup
}

// shown checks an answer to a question that was asked at a time.
func (w *watchers) shown(how string, asked time.Time, kb string, docs []string) {
	for _, d := range docs {
		w.hits.Add(1)
		for _, name := range []string{"", kb, kb + "/" + d} {
			if at, ok := w.gone.Load(name); ok && asked.After(at.(time.Time)) && w.wrong.Add(1) < 10 {
				w.t.Errorf("%s: %s/%s is shown by an answer to a question asked %v after it was deleted (%q)", how, kb, d, asked.Sub(at.(time.Time)), name)
			}
		}
	}
}

// get asks by GET, with the tag of the last answer.
type tagged struct {
	tag  string
	docs []string
}

// get gives the documents an answer shows, also one that says it is as the last one.
func (w *watchers) get(ctx context.Context, node int, method string, message any, last *tagged) (docs []string, err error) {
	body, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	q := url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {string(body)}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.cluster.members[node].api+"/granary.v1."+method+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+w.token)
	if last.tag != "" {
		r.Header.Set("If-None-Match", last.tag)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusNotModified {
		w.same.Add(1)
		return last.docs, nil
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s", res.Status, raw)
	}
	var answer struct {
		Hits      []struct{ DisplayName string }
		Documents []struct{ DisplayName string }
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, err
	}
	for _, h := range append(answer.Hits, answer.Documents...) {
		docs = append(docs, h.DisplayName)
	}
	*last = tagged{res.Header.Get("ETag"), docs}
	return docs, nil
}

// watch starts readers of some knowledge bases.
func (c *cluster) watch(t *testing.T, token string, users []party, kbs ...string) *watchers {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watchers{t: t, cluster: c, token: token, stop: cancel}
	for node := range c.members {
		for _, kb := range kbs {
			w.running.Go(func() {
				for ; ctx.Err() == nil; sleep(ctx, 5*time.Millisecond) {
					asked := time.Now()
					found, err := users[node].found(ctx, kb, "barley")
					if err == nil {
						w.asked[0].Add(1)
						var docs []string
						for d := range found {
							docs = append(docs, d)
						}
						w.shown("search", asked, kb, docs)
					}
				}
			})
			w.running.Go(func() {
				var search, list tagged
				for ; ctx.Err() == nil; sleep(ctx, 5*time.Millisecond) {
					for how, ask := range map[string]func() ([]string, error){
						"search by GET": func() ([]string, error) {
							return w.get(ctx, node, "SearchService/Search", map[string]any{"knowledgeBase": kb, "query": "barley"}, &search)
						},
						"list by GET": func() ([]string, error) {
							return w.get(ctx, node, "DocumentService/ListDocuments", map[string]any{"parent": kb, "pageSize": 100}, &list)
						},
					} {
						asked := time.Now()
						if docs, err := ask(); err == nil {
							w.asked[1].Add(1)
							w.shown(how, asked, kb, docs)
						}
					}
				}
			})
		}
	}
	return w
}

func (w *watchers) end() {
	w.stop()
	w.running.Wait()
	w.t.Logf("%d searches and %d reads by GET (%d of them 304) through %d nodes showed %d documents, %d that were deleted before", w.asked[0].Load(),
		w.asked[1].Load(), w.same.Load(), len(w.cluster.members), w.hits.Load(), w.wrong.Load())
	if w.asked[0].Load() == 0 || w.same.Load() == 0 || w.hits.Load() == 0 {
		w.t.Error("nothing was read")
	}
}

// I3: while documents, knowledge bases and then the tenant are deleted through one node after
// the other, no question asked after an acknowledgement is answered with what was deleted, by
// no node, and not by "not modified" either.
func TestNothingIsFoundAfterItsDeletionByAnyNode_I3(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	c := newCluster(t, clusterOptions{nodes: 3, seed: 1})
	operators, users := c.parties(t, "acme")
	_, of := tokens(t, filepath.Join(c.dir, "key"), "acme")
	var docs []string
	for i := range 12 {
		docs = append(docs, fmt.Sprintf("d%d", i))
	}
	kbs := []string{"one", "two", "three"}
	for _, kb := range kbs {
		users[0].small(t, kb, docs...)
	}
	w := c.watch(t, of["acme"], users, kbs...)
	erase := func(p party, target, name string) {
		t.Helper()
		until(t, "delete "+target, 30*time.Second, func(ctx context.Context) error {
			err := p.erase(ctx, target)
			if connect.CodeOf(err) == connect.CodeNotFound {
				return nil // a try before was applied
			}
			return err
		})
		w.gone.Store(name, time.Now())
		sleep(t.Context(), 100*time.Millisecond)
	}
	sleep(t.Context(), time.Second)
	for i, d := range docs[:8] {
		for k, kb := range kbs {
			erase(users[(i+k)%3], "knowledgeBases/"+kb+"/documents/"+d, kb+"/"+d)
		}
	}
	erase(users[1], "knowledgeBases/one", "one")
	erase(users[2], "knowledgeBases/two", "two")
	sleep(t.Context(), 500*time.Millisecond)
	// With time to take it back everything is there yet, and nobody may see it.
	until(t, "delete the tenant", 30*time.Second, func(ctx context.Context) error {
		_, err := operators[0].tenants.DeleteTenant(ctx, &v1.DeleteTenantRequest{Name: "tenants/acme", UndeleteFor: durationpb.New(time.Hour)})
		return err
	})
	w.gone.Store("", time.Now())
	sleep(t.Context(), 3*time.Second)
	w.end()
}

// I3: with several nodes on one database the owner is killed at steps of an erasure; another
// ends it, with one receipt, and nothing is left in the store or to the next of the name.
func TestErasureOutlivesItsOwnerKilledOnTheWay_I3(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	c := newCluster(t, clusterOptions{nodes: 3, seed: 1, crash: true})
	operators, users := c.parties(t, "acme")
	key := users[0].receiptKey(t)
	killed := steps{}
	for _, target := range []string{"knowledgeBases/notes/documents/goes", "knowledgeBases/notes", "tenants/acme"} {
		for _, n := range []int{1, 4, 9} {
			users[0].fill(t, "notes", "goes")
			by := users
			if strings.HasPrefix(target, "tenants/") {
				by = operators
			}
			if step := c.eraseWithKill(t, n, by, target, key); step != "" {
				killed.add(step)
			}
			c.nothingOf(t, target, users)
			if t.Failed() {
				t.Fatalf("%s, killed at step %d: %v", target, n, killed)
			}
		}
	}
	t.Log(killed)
	if len(killed) == 0 {
		t.Error("nobody was killed")
	}
}

// eraseWithKill erases a target while each node ends itself at its nth step, the first of
// them only; then all are healed.
func (c *cluster) eraseWithKill(t *testing.T, n int, by []party, target, key string) (step string) {
	t.Helper()
	before, err := by[0].receipts(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range c.members {
		m.mu.Lock()
		m.expectToFail = true
		m.mu.Unlock()
		arm(t, m.crashAt, n)
	}
	disarmAll := func() {
		for _, m := range c.members {
			disarm(m.crashAt)
		}
	}
	over := make(chan struct{})
	go func() { // one node is killed, the others live
		defer close(over)
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			for _, m := range c.members {
				if died(m.crashAt) != "" {
					disarmAll()
					return
				}
			}
		}
		disarmAll()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	asked := by[0].erase(ctx, target)
	cancel()
	<-over
	for _, m := range c.members {
		if s := died(m.crashAt); s != "" {
			step = s
			_ = m.kill() // it is dead or about to be
		}
	}
	if err := c.heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "delete again", 60*time.Second, func(ctx context.Context) error {
		if asked == nil {
			return nil // acknowledged
		}
		err := by[1].erase(ctx, target)
		if code := connect.CodeOf(err); code == connect.CodeNotFound || code == connect.CodeFailedPrecondition {
			return nil
		}
		return err
	})
	var got []*v1.ErasureReceipt
	until(t, fmt.Sprintf("no receipt of %s after a kill at step %d (%s)", target, n, step), 60*time.Second, func(ctx context.Context) (err error) {
		if got, err = by[2].receipts(ctx, target); err == nil && len(got) == len(before) {
			err = fmt.Errorf("%d receipts", len(got))
		}
		return err
	})
	if len(got) != len(before)+1 {
		t.Errorf("%d receipts of one erasure of %s", len(got)-len(before), target)
	}
	verified(t, key, got[len(got)-1])
	return step
}

// nothingOf wants that the store has nothing of a target, and that whoever takes its name sees nothing.
func (c *cluster) nothingOf(t *testing.T, target string, users []party) {
	t.Helper()
	pool, err := c.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	queries := []string{"SELECT count(*) FROM blobs WHERE tenant = 'acme'", "SELECT count(*) FROM blob_parts WHERE tenant = 'acme'",
		"SELECT count(*) FROM chunks WHERE tenant = 'acme'", "SELECT count(*) FROM attempts WHERE tenant = 'acme'", "SELECT count(*) FROM vectors WHERE tenant = 'acme'"}
	if !strings.Contains(target, "/documents/") {
		queries = append(queries, "SELECT count(*) FROM events WHERE tenant = 'acme' AND kind = 'kb'", "SELECT count(*) FROM idempotency WHERE tenant = 'acme' AND kind = 'kb'",
			"SELECT count(*) FROM index_parts WHERE tenant = 'acme'")
	}
	if strings.HasPrefix(target, "tenants/") {
		queries = append(queries, "SELECT count(*) FROM events WHERE tenant = 'acme'", "SELECT count(*) FROM tenant_keys WHERE tenant = 'acme' AND wrapped <> ''",
			"SELECT count(*) FROM receipts WHERE tenant = 'acme' AND NOT cluster")
	}
	for _, q := range queries {
		until(t, q, 30*time.Second, func(ctx context.Context) error {
			var n int
			err := pool.QueryRow(ctx, q).Scan(&n)
			if err == nil && n != 0 {
				err = fmt.Errorf("%d are left", n)
			}
			return err
		})
	}
	for i, p := range users {
		until(t, "the next of the name", 30*time.Second, func(ctx context.Context) error {
			_, err := p.kbs.CreateKnowledgeBase(ctx, &v1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "notes"})
			if connect.CodeOf(err) == connect.CodeAlreadyExists {
				err = nil
			}
			return err
		})
		until(t, "search", 30*time.Second, func(ctx context.Context) error {
			found, err := p.found(ctx, "notes", "barley")
			if err == nil && len(found) > 0 {
				t.Errorf("node %d finds %v", i+1, found)
			}
			return err
		})
	}
}
