//go:build unix

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"granary.dev/granary/gateway/auth"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// slowModel is an embedding server that takes its time and knows whose texts it is
// asked for: each run of a document asks once at a time, so that it sees from outside
// how many of a tenant's runs work at once.
type slowModel struct {
	server *httptest.Server
	limit  int
	hurry  atomic.Bool // it takes no time any more

	mu       sync.Mutex
	working  map[string]int
	over     map[string]time.Time // since when there are too many
	most     map[string]int
	asked    int
	violated []string
}

const (
	modelTime = 1200 * time.Millisecond
	// overTime is how long there may seem to be more runs than the limit: this process
	// hears of the end of a connection later than the node that ended it.
	overTime = 500 * time.Millisecond
)

func newSlowModel(t *testing.T, limit int) *slowModel {
	m := &slowModel{limit: limit, working: map[string]int{}, over: map[string]time.Time{}, most: map[string]int{}}
	m.server = httptest.NewServer(m)
	t.Cleanup(m.server.Close)
	return m
}

func (m *slowModel) config() string {
	return fmt.Sprintf("embedding: {provider: openai, url: %q, model: m, dims: 8}\n", m.server.URL+"/v1")
}

var markerOf = regexp.MustCompile(`zq\d+mark\d+qz`)

// ServeHTTP implements http.Handler.
func (m *slowModel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var q struct{ Input []string }
	if json.Unmarshal(body, &q) != nil {
		http.Error(w, "what?", http.StatusBadRequest)
		return
	}
	if whose := string(markerOf.Find(body)); whose != "" {
		m.add(whose, 1)
		defer m.add(whose, -1)
		if !m.hurry.Load() {
			sleep(r.Context(), modelTime)
		}
	}
	type item struct {
		Index     int       `json:"index"`
		Embedding []float32 `json:"embedding"`
	}
	var out struct {
		Data []item `json:"data"`
	}
	for i, text := range q.Input {
		out.Data = append(out.Data, item{i, []float32{1, float32(len(text)%7) + 1, 3, 4, 5, 6, 7, 8}})
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (m *slowModel) add(whose string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.working[whose] += n
	if n > 0 {
		m.asked++
	}
	switch now, since := m.working[whose], m.over[whose]; {
	case now <= m.limit:
		delete(m.over, whose)
	case since.IsZero():
		m.over[whose] = time.Now()
		time.AfterFunc(overTime, func() { m.judge(whose) })
	}
	m.most[whose] = max(m.most[whose], m.working[whose])
}

// judge notes a tenant that has had too many runs all the time.
func (m *slowModel) judge(whose string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if since := m.over[whose]; !since.IsZero() && time.Since(since) >= overTime {
		m.violated = append(m.violated, fmt.Sprintf("%s %s: %d runs at once for %v, the limit is %d", time.Now().Format("15:04:05.000"), whose, m.working[whose], time.Since(since), m.limit))
	}
}

// limited is a cluster whose tenants have limits, its load, and what is counted.
type limited struct {
	t        *testing.T
	cluster  *cluster
	model    *slowModel
	leaks    *leaks
	tenants  []tenant
	operator string
	began    time.Time
	stop     chan struct{}
	load     sync.WaitGroup

	mu      sync.Mutex
	done    map[string]int // what the load did, by what came of it
	served  int            // calls of the last tenant that were let in
	refused int            // and that its limit of calls refused
	wrong   []string
}

const (
	limitRuns  = 3
	limitCalls = 320
	limitBases = 4 // knowledge bases of each tenant
)

// B1, B4, E5: uploads, deletions, cancellations and imports go on while nodes are
// killed, drained and frozen, the tenants' owners among them. At no moment a tenant has
// more runs than its limit, nor more calls; a stranger's ids are answered like unknown
// ones; and afterwards all places are free and no counter has drifted.
func TestClusterKeepsLimitsAndDoorsUnderFaults_B1_B4_E5(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	l := newLimited(t)
	archive, questions := l.archive(), l.questions()
	for _, q := range questions {
		if q.want, _ = q.ask(t.Context(), l.client(0), 0, q.nobodys); q.want == "" {
			t.Fatalf("%s in calm: no answer", q.method)
		}
	}
	l.began = time.Now()
	for i := range l.tenants[:2] {
		for k := range limitBases {
			l.run(func(ctx context.Context) { l.work(ctx, i, k) })
		}
		l.run(func(ctx context.Context) { l.imports(ctx, i, archive) })
		l.run(func(ctx context.Context) { l.watchUsage(ctx, i) })
	}
	l.run(l.calls)
	l.run(func(ctx context.Context) { l.strangers(ctx, questions) })
	l.faults()
	close(l.stop)
	l.load.Wait()
	if err := l.cluster.heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.settle()
	l.check(questions)
}

func newLimited(t *testing.T) *limited {
	t.Helper()
	model := newSlowModel(t, limitRuns)
	c := newCluster(t, clusterOptions{nodes: 3, seed: seedOf(t), config: model.config()})
	l := &limited{t: t, cluster: c, model: model, leaks: &leaks{}, tenants: c.tenants(t, 3), stop: make(chan struct{}),
		done: map[string]int{}}
	authority, err := auth.Open(filepath.Join(c.dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := authority.IssueOperator(auth.OperatorGrant{Subject: "olga"})
	if err != nil {
		t.Fatal(err)
	}
	l.operator = token.Reveal()
	operator := c.client(tenant{token: l.operator}, nil, l.leaks)
	defer operator.close()
	for i, tn := range l.tenants {
		limits := &v1.TenantLimits{ConcurrentProcessing: limitRuns}
		if i == 2 {
			limits = &v1.TenantLimits{ApiCallsPerHour: limitCalls}
		}
		operator.insist(t, "TenantAdminService/CreateTenant", "", &v1.CreateTenantRequest{TenantId: tn.name, LimitOverrides: limits}, &v1.CreateTenantResponse{})
		client := l.client(i)
		for k := range limitBases {
			client.insist(t, "KnowledgeBaseService/CreateKnowledgeBase", fmt.Sprint("create", k), &v1.CreateKnowledgeBaseRequest{KnowledgeBaseId: baseName(i, k)}, &v1.CreateKnowledgeBaseResponse{})
		}
	}
	return l
}

// baseName is a tenant's own: no other has a knowledge base of the name.
func baseName(tenant, k int) string { return fmt.Sprintf("base-%d-%d", tenant, k) }

func (l *limited) client(i int) *client {
	c := l.cluster.client(l.tenants[i], l.tenants, l.leaks)
	l.t.Cleanup(c.close)
	return c
}

// run does something beside the faults until they are over.
func (l *limited) run(f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(l.t.Context())
	l.load.Go(func() {
		defer cancel()
		f(ctx)
	})
}

func (l *limited) over() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

func (l *limited) count(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[what]++
}

func (l *limited) finds(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wrong = append(l.wrong, fmt.Sprintf(format, args...)); len(l.wrong) > 10 {
		l.wrong = l.wrong[:10]
	}
}

// work adds, changes, cancels, processes anew and deletes documents of a knowledge base.
func (l *limited) work(ctx context.Context, who, k int) {
	c, r, kb := l.client(who), rand.New(rand.NewPCG(l.cluster.seed, uint64(10*who+k))), baseName(who, k)
	for n := 0; !l.over(); n++ {
		id := fmt.Sprintf("d%d", r.IntN(12))
		name := "knowledgeBases/" + kb + "/documents/" + id
		one, cancel := context.WithTimeout(ctx, 4*time.Second)
		key, node := fmt.Sprint(kb, "-", n), r.IntN(3)
		var t try
		what := "add"
		switch r.IntN(10) {
		case 0:
			what, t = "delete", c.send(one, node, "DocumentService/DeleteDocument", key, true, &v1.DeleteDocumentRequest{Name: name}, &emptypb.Empty{})
		case 1, 2:
			what, t = "cancel", c.send(one, node, "DocumentService/CancelDocument", key, true, &v1.CancelDocumentRequest{Name: name}, &v1.CancelDocumentResponse{})
		case 3:
			what, t = "process anew", c.send(one, node, "DocumentService/ReprocessDocument", key, true, &v1.ReprocessDocumentRequest{Name: name}, &v1.ReprocessDocumentResponse{})
		default:
			text := strings.Repeat(fmt.Sprintf("%s is what %s says of %d. ", l.tenants[who].marker, kb, r.Int64()), 1+r.IntN(40))
			t = c.send(one, node, "DocumentService/CreateDocument", key, true, &v1.CreateDocumentRequest{
				Spec: &v1.DocumentSpec{KnowledgeBase: kb, DocumentId: id}, Source: &v1.CreateDocumentRequest_Text{Text: text}}, &v1.CreateDocumentResponse{})
		}
		cancel()
		l.count(what + ": " + verdictNames[t.verdict()])
		if t.verdict() == verdictBroken {
			l.finds("%s of %s: %s", what, name, t.answer)
		}
		sleep(ctx, time.Duration(100+r.IntN(400))*time.Millisecond)
	}
}

var verdictNames = map[verdict]string{verdictOK: "ok", verdictRefused: "refused", verdictAgain: "not sent", verdictUnknown: "unknown", verdictBroken: "broken"}

// archive exports a knowledge base with some documents.
func (l *limited) archive() string {
	l.t.Helper()
	c := l.client(0)
	for i := range 3 {
		c.insist(l.t, "DocumentService/CreateDocument", fmt.Sprint("seed", i), &v1.CreateDocumentRequest{Spec: &v1.DocumentSpec{KnowledgeBase: baseName(0, 0)},
			Source: &v1.CreateDocumentRequest_Text{Text: fmt.Sprintf("What everybody may import, part %d.", i)}}, &v1.CreateDocumentResponse{})
	}
	out, err := l.granary(l.t.Context(), 0, 0, "", "kb", "export", baseName(0, 0))
	if err != nil {
		l.t.Fatal(err)
	}
	return string(out)
}

// granary runs the command line as a tenant's admin.
func (l *limited) granary(ctx context.Context, who, node int, input string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, binary, append(args, "--server", "http://"+l.cluster.members[node].api)...)
	cmd.Env = append(os.Environ(), "GRANARY_TOKEN="+l.tenants[who].token)
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%w: %s", err, errs.Bytes())
	}
	return out.Bytes(), nil
}

// imports makes knowledge bases of the archive, and deletes every second one.
func (l *limited) imports(ctx context.Context, who int, archive string) {
	for n := 0; !l.over(); n++ {
		name, node := fmt.Sprintf("import-%d-%d", who, n), n%3
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := l.granary(one, who, node, archive, "kb", "import", name)
		l.count(fmt.Sprintf("import: ok %v", err == nil))
		if err == nil && n%2 == 0 {
			_, err = l.granary(one, who, node, "", "kb", "delete", name, "--yes")
			l.count(fmt.Sprintf("delete imported: ok %v", err == nil))
		}
		cancel()
		sleep(ctx, 500*time.Millisecond)
	}
}

// watchUsage wants that what nodes were granted is never more than the limit.
func (l *limited) watchUsage(ctx context.Context, who int) {
	c := l.client(who)
	for n := 0; !l.over(); n++ {
		one, cancel := context.WithTimeout(ctx, 4*time.Second)
		res := &v1.GetUsageResponse{}
		t := c.send(one, n%3, "TenantService/GetUsage", "usage", false, &v1.GetUsageRequest{}, res)
		cancel()
		if t.verdict() == verdictOK {
			q := quotaOf(res.GetUsage(), "concurrent_processing")
			if q.GetLimit() != limitRuns || q.GetUsed()+q.GetGrantedUnused() > limitRuns || q.GetUsed() < 0 {
				l.finds("usage of %s: %v", c.tenant.name, q)
			}
			l.count("usage seen")
		}
		sleep(ctx, 150*time.Millisecond)
	}
}

func quotaOf(u *v1.Usage, metric string) *v1.Quota {
	at := slices.IndexFunc(u.GetQuotas(), func(q *v1.Quota) bool { return q.GetMetric() == metric })
	if at < 0 {
		return nil
	}
	return u.GetQuotas()[at]
}

// calls calls for the last tenant as fast as its limit is used up, and counts.
func (l *limited) calls(ctx context.Context) {
	c := l.client(2)
	for n := 0; !l.over(); n++ {
		one, cancel := context.WithTimeout(ctx, 4*time.Second)
		t := c.send(one, n%3, "KnowledgeBaseService/GetKnowledgeBase", "call", false, &v1.GetKnowledgeBaseRequest{Name: "knowledgeBases/" + baseName(2, 0)}, &v1.GetKnowledgeBaseResponse{})
		cancel()
		l.mu.Lock()
		switch {
		case t.answer.reason == "API_CALL_LIMIT":
			l.refused++
		case t.verdict() == verdictOK:
			l.served++
		}
		l.mu.Unlock()
		sleep(ctx, 30*time.Millisecond)
	}
}
