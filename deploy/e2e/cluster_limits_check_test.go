//go:build unix

package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// question asks for something by its name, which is another tenant's or nobody's.
type question struct {
	method  string
	message func(name string) proto.Message
	theirs  string
	nobodys string // as long
	want    string // the answer to nobodys
}

// questions are a sample of what a stranger may try. The whole matrix is tried in calm,
// in cmd/internal/node.
func (l *limited) questions() []*question {
	l.t.Helper()
	other := l.client(1)
	theirs := baseName(1, 0)
	other.insist(l.t, "DocumentService/CreateDocument", "theirs", &v1.CreateDocumentRequest{Spec: &v1.DocumentSpec{KnowledgeBase: theirs, DocumentId: "theirs"},
		Source: &v1.CreateDocumentRequest_Text{Text: other.tenant.marker}}, &v1.CreateDocumentResponse{})
	other.insist(l.t, "AccessService/CreateWorkspace", "", &v1.CreateWorkspaceRequest{WorkspaceId: "theirs"}, &v1.CreateWorkspaceResponse{})
	key := &v1.CreateApiKeyResponse{}
	other.insist(l.t, "AccessService/CreateApiKey", "", &v1.CreateApiKeyRequest{Grants: []*v1.AccessGrant{{Role: "viewer"}}}, key)
	id := strings.TrimPrefix(key.GetApiKey().GetName(), "apiKeys/")
	swapped := id[1:] + id[:1]
	base := func(method string, message func(string) proto.Message) *question {
		return &question{method: method, message: message, theirs: theirs, nobodys: baseName(9, 0)}
	}
	mine := "knowledgeBases/" + baseName(0, 0) + "/documents/"
	return []*question{
		base("KnowledgeBaseService/GetKnowledgeBase", func(n string) proto.Message { return &v1.GetKnowledgeBaseRequest{Name: "knowledgeBases/" + n} }),
		base("KnowledgeBaseService/UpdateKnowledgeBase", func(n string) proto.Message {
			return &v1.UpdateKnowledgeBaseRequest{KnowledgeBase: &v1.KnowledgeBase{Name: "knowledgeBases/" + n, Description: "mine"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}}}
		}),
		base("KnowledgeBaseService/DeleteKnowledgeBase", func(n string) proto.Message { return &v1.DeleteKnowledgeBaseRequest{Name: "knowledgeBases/" + n} }),
		base("DocumentService/CreateDocument", func(n string) proto.Message {
			return &v1.CreateDocumentRequest{Spec: &v1.DocumentSpec{KnowledgeBase: n}, Source: &v1.CreateDocumentRequest_Text{Text: "mine"}}
		}),
		base("DocumentService/ListDocuments", func(n string) proto.Message { return &v1.ListDocumentsRequest{Parent: n} }),
		base("DocumentService/GetDocument", func(n string) proto.Message {
			return &v1.GetDocumentRequest{Name: "knowledgeBases/" + n + "/documents/theirs"}
		}),
		base("DocumentService/DeleteDocument", func(n string) proto.Message {
			return &v1.DeleteDocumentRequest{Name: "knowledgeBases/" + n + "/documents/theirs"}
		}),
		base("DocumentService/GetDocumentText", func(n string) proto.Message {
			return &v1.GetDocumentTextRequest{Name: "knowledgeBases/" + n + "/documents/theirs"}
		}),
		base("SearchService/Search", func(n string) proto.Message { return &v1.SearchRequest{KnowledgeBase: n, Query: "marker"} }),
		{method: "DocumentService/GetDocument", message: func(n string) proto.Message { return &v1.GetDocumentRequest{Name: mine + n} }, theirs: "theirs", nobodys: "nobody"},
		{method: "AccessService/GetWorkspace", message: func(n string) proto.Message { return &v1.GetWorkspaceRequest{Name: "workspaces/" + n} }, theirs: "theirs", nobodys: "nobody"},
		{method: "AccessService/DeleteWorkspace", message: func(n string) proto.Message { return &v1.DeleteWorkspaceRequest{Name: "workspaces/" + n} }, theirs: "theirs", nobodys: "nobody"},
		{method: "AccessService/GetApiKey", message: func(n string) proto.Message { return &v1.GetApiKeyRequest{Name: "apiKeys/" + n} }, theirs: id, nobodys: swapped},
		{method: "AccessService/RevokeApiKey", message: func(n string) proto.Message { return &v1.RevokeApiKeyRequest{Name: "apiKeys/" + n} }, theirs: id, nobodys: swapped},
	}
}

// ask gives what the first tenant can tell of an answer, and false when there was trouble.
func (q *question) ask(ctx context.Context, c *client, node int, name string) (string, bool) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	t := c.send(ctx, node, q.method, "stranger", false, q.message(name), &emptypb.Empty{})
	if v := t.verdict(); v == verdictAgain || v == verdictUnknown {
		return "", false
	}
	a := t.answer
	return fmt.Sprintf("%d, %d bytes, %s %s %s %v", a.status, len(a.body), a.code, a.reason, strings.ReplaceAll(a.message, name, "NAME"), t.err), true
}

// strangers asks for what is another tenant's, all the time.
func (l *limited) strangers(ctx context.Context, all []*question) {
	c := l.client(0)
	for n := 0; !l.over(); n++ {
		q := all[n%len(all)]
		if got, ok := q.ask(ctx, c, n/len(all)%3, q.theirs); ok {
			l.count("foreign names asked for")
			if got != q.want {
				l.finds("%s of another tenant's %s: %s, and of nobody's: %s", q.method, q.theirs, got, q.want)
			}
		}
		sleep(ctx, 30*time.Millisecond)
	}
}

// owner is the node that has a tenant's grain.
func (l *limited) owner(who int) *member {
	l.t.Helper()
	pool, err := l.cluster.connect(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	defer pool.Close()
	var name string
	if err := pool.QueryRow(l.t.Context(), "SELECT split_part(node, '#', 1) FROM owner WHERE kind = 'tenant' AND tenant = $1", l.tenants[who].name).Scan(&name); err != nil {
		l.t.Fatal(err)
	}
	for _, m := range l.cluster.members {
		if m.name == name {
			return m
		}
	}
	l.t.Fatalf("the owner is %q", name)
	return nil
}

// after is the member behind another.
func (l *limited) after(m *member, n int) *member {
	return l.cluster.members[(m.index+n)%len(l.cluster.members)]
}

// faults does one harm after another.
func (l *limited) faults() {
	ctx := l.t.Context()
	do := func(what string, err error) {
		l.t.Helper()
		if err != nil {
			l.t.Fatalf("%s: %v", what, err)
		}
		l.t.Logf("%s %s", time.Now().UTC().Format("15:04:05.000"), what)
	}
	back := func(gone ...*member) {
		l.t.Helper()
		sleep(ctx, 1500*time.Millisecond)
		for _, m := range gone {
			if !m.running() {
				do("start of "+m.name, m.start())
			}
		}
		do("all are back", l.cluster.heal(ctx))
		sleep(ctx, 1500*time.Millisecond)
	}
	sleep(ctx, 2*time.Second)
	m := l.owner(0)
	do("kill -9 of the first tenant's owner "+m.name, m.kill())
	back(m)
	m = l.after(l.owner(0), 1)
	_, err := m.stop()
	do("SIGTERM of "+m.name, err)
	back(m)
	m = l.after(l.owner(0), 1)
	_, err = m.signal(syscall.SIGSTOP, false)
	do("SIGSTOP of "+m.name, err)
	sleep(ctx, 5*time.Second)
	_, err = m.signal(syscall.SIGCONT, false)
	do("SIGCONT", err)
	back()
	m = l.owner(1)
	do("kill -9 of the second tenant's owner "+m.name, m.kill())
	do("kill -9 of another", l.after(m, 1).kill())
	back(m, l.after(m, 1))
	m = l.after(l.owner(0), 2)
	do("kill -9 of a node that has knowledge bases only "+m.name, m.kill())
	back(m)
}

// settle waits until no place is in use any more, as all nodes say.
func (l *limited) settle() {
	l.t.Helper()
	l.model.hurry.Store(true)
	for i := range l.tenants[:2] {
		c := l.client(i)
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			res := &v1.GetUsageResponse{}
			c.insist(l.t, "TenantService/GetUsage", "", &v1.GetUsageRequest{}, res)
			q := quotaOf(res.GetUsage(), "concurrent_processing")
			if q.GetUsed() == 0 && q.GetGrantedUnused() == 0 && l.ended(c, i) {
				break
			}
			if time.Now().After(deadline) {
				l.t.Fatalf("places of %s do not come back: %v", c.tenant.name, q)
			}
		}
	}
}

// ended reports whether all documents of a tenant have ended.
func (l *limited) ended(c *client, who int) bool {
	for k := range limitBases {
		res := &v1.ListDocumentsResponse{}
		c.insist(l.t, "DocumentService/ListDocuments", "", &v1.ListDocumentsRequest{Parent: baseName(who, k), PageSize: 1000}, res)
		for _, d := range res.GetDocuments() {
			if !ended(d) {
				return false
			}
		}
	}
	return true
}

// check compares what was counted with the limits, and has everything counted anew.
func (l *limited) check(all []*question) {
	t := l.t
	t.Helper()
	for _, w := range append(append(l.wrong, l.leaks.found...), l.model.violated...) {
		t.Error(w)
	}
	if most := max(l.model.most[l.tenants[0].marker], l.model.most[l.tenants[1].marker]); most < limitRuns {
		t.Errorf("no tenant had more than %d runs at once: this shows nothing of a limit of %d", most, limitRuns)
	}
	res := &v1.GetUsageResponse{}
	l.client(2).insist(t, "TenantService/GetUsage", "", &v1.GetUsageRequest{}, res)
	calls := quotaOf(res.GetUsage(), "api_calls_per_hour")
	limit := calls.GetLimit()
	if calls.GetWindowStart().AsTime().After(l.began) {
		limit += limitCalls * 3 / 2 // of the window before
	}
	if int64(l.served) > limit || calls.GetUsed() > calls.GetLimit() {
		t.Errorf("%d calls were let in, the limit is %d: %v", l.served, limit, calls)
	}
	if l.refused == 0 || l.served < limitCalls/2 {
		t.Errorf("%d calls were let in, %d refused: this shows nothing of a limit of %d", l.served, l.refused, limitCalls)
	}
	l.stillThere(all)
	l.raise()
	for i := range l.tenants {
		l.recount(i)
	}
	t.Logf("%v", l.done)
	t.Logf("%d calls let in and %d refused of a limit of %d; %d requests to the model, at once %v; %d answers looked through", l.served, l.refused, calls.GetLimit(), l.model.asked, l.model.most, l.leaks.answers.Load())
}

// stillThere wants that nothing was taken from the tenant whose things a stranger named.
func (l *limited) stillThere(all []*question) {
	other := l.client(1)
	for _, q := range all {
		if get := strings.Contains(q.method, "/Get"); get && q.theirs != "theirs" || q.method == "AccessService/GetWorkspace" {
			other.insist(l.t, q.method, "", q.message(q.theirs), &emptypb.Empty{})
		}
	}
}

// raise gives the last tenant calls enough for the recount.
func (l *limited) raise() {
	operator := l.cluster.client(tenant{token: l.operator}, nil, l.leaks)
	defer operator.close()
	operator.insist(l.t, "TenantAdminService/UpdateTenant", "", &v1.UpdateTenantRequest{Name: l.tenants[2].name,
		LimitOverrides: &v1.TenantLimits{ApiCallsPerHour: 100 * limitCalls}}, &v1.UpdateTenantResponse{})
}

// recount is what an admin does who wants to know whether the counters are right.
func (l *limited) recount(who int) {
	l.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(500 * time.Millisecond) {
		out, err := l.granary(l.t.Context(), who, who, "", "usage", "--recount", "--json")
		res := &v1.RecountUsageResponse{}
		if err == nil {
			err = protojson.Unmarshal(out, res)
		}
		var bad []string
		for _, c := range res.GetRecounts() {
			if c.GetDrift() != 0 || c.GetNote() != "" {
				bad = append(bad, c.String())
			}
		}
		if err == nil && len(bad) == 0 && len(res.GetRecounts()) > 2 {
			l.t.Logf("%s: %d counters counted anew, drift 0", l.tenants[who].name, len(res.GetRecounts()))
			return
		}
		if time.Now().After(deadline) {
			l.t.Errorf("%s: %v %s", l.tenants[who].name, err, strings.Join(bad, "; "))
			return
		}
	}
}
