package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/journal/trail"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// scopes notes whose audit is asked for.
type scopes struct{ list []string }

func (s *scopes) Accesses(_ context.Context, q journal.AccessQuery) ([]journal.Access, error) {
	s.list = append(s.list, q.Tenant)
	return nil, nil
}

func (s *scopes) Checkpoint(_ context.Context, tenant string, _ bool) (journal.Checkpoint, bool, error) {
	s.list = append(s.list, tenant)
	return journal.Checkpoint{Number: 1}, true, nil
}

func (s *scopes) Export(_ context.Context, tenant string, _ bool, _ func([]byte) error) error {
	s.list = append(s.list, tenant)
	return nil
}

func (s *scopes) Verify(_ context.Context, tenant string, _ func(int64) error) (*trail.Report, error) {
	s.list = append(s.list, tenant)
	return &trail.Report{}, nil
}

func (s *scopes) Later(context.Context, string) ([]time.Time, error) { return nil, nil }

func (s *scopes) PublicKeys() (string, error) { return "", nil }

func TestI1_I13_LaterTenantOfANameIsRecordedAndAnsweredApart(t *testing.T) {
	a, trails := &auditor{}, &scopes{}
	since := time.Date(2026, 3, 4, 5, 6, 7, 89000, time.UTC)
	state := v1.TenantState_TENANT_STATE_ACTIVE
	w := start(t, withAudit(a), func(c *gateway.Config) { c.Trail = trails })
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	w.grains.access = func(string, *nodev1.GetAccess) (proto.Message, error) {
		return &nodev1.TenantReply{Result: &nodev1.TenantReply_Access{Access: &nodev1.Access{State: state, Since: timestamppb.New(since)}}}, nil
	}
	scope := journal.AuditScope("acme", since)
	_, _ = w.post(w.token(gateway.RoleViewer), getKB, `{"name":"handbook"}`)
	if r := a.one(t); r.Tenant != scope || r.Principal != "ada" {
		t.Errorf("a call: %+v", r)
	}
	_, _ = w.do(http.MethodPost, tenantAdminService+"DescribeTenant", `{"name":"acme"}`, "Content-Type", "application/json", "Authorization", "Bearer "+w.operatorToken())
	if r := a.one(t); r.Tenant != scope || r.Credential != "operator" {
		t.Errorf("an operator's call about it: %+v", r)
	}
	// One that ends the tenant is the record of the one it ended.
	ended := since.Add(time.Hour)
	w.grains.setScript(func(context.Context, asked) (proto.Message, error) {
		since = ended
		return nil, kb.Errorf(kb.CodeNotFound, kb.ReasonKnowledgeBaseNotFound, "no")
	})
	time.Sleep(time.Second) // what is known of it is that old at most
	_, _ = w.do(http.MethodPost, tenantAdminService+"DescribeTenant", `{"name":"acme"}`, "Content-Type", "application/json", "Authorization", "Bearer "+w.operatorToken())
	if r := a.one(t); r.Tenant != scope || !since.Equal(ended) {
		t.Errorf("a call that ended it: %+v", r)
	}
	since = since.Add(-time.Hour)
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	time.Sleep(time.Second)
	const service = "/granary.v1.AuditService/"
	_, _ = w.post(w.token(gateway.RoleAdmin), service+"ListAuditEvents", `{}`)
	_, _ = w.post(w.token(gateway.RoleAdmin), service+"GetCheckpoint", `{}`)
	for _, m := range []string{"ExportAudit", "VerifyAudit"} {
		_, _ = w.do(http.MethodPost, service+m, enveloped("{}"), "Content-Type", "application/connect+json", "Authorization", "Bearer "+w.token(gateway.RoleAdmin))
	}
	if len(trails.list) != 4 || strings.Join(trails.list, " ") != strings.Repeat(scope+" ", 3)+scope {
		t.Errorf("its admin is answered from %v", trails.list)
	}
	a.take()
	// Who is refused because of the tenant's state is recorded with it, too.
	state = v1.TenantState_TENANT_STATE_SUSPENDED
	time.Sleep(time.Second) // what is known of it is that old at most
	_, _ = w.post(w.token(gateway.RoleViewer), getKB, `{"name":"handbook"}`)
	if r := a.one(t); r.Tenant != scope || r.Code == "ok" {
		t.Errorf("a refusal: %+v", r)
	}
	// A tenant that cannot be asked: the trail is not shown, since whose it is is unknown.
	trails.list = nil
	w.grains.access = func(string, *nodev1.GetAccess) (proto.Message, error) {
		return nil, kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "no")
	}
	v := start(t, withAudit(a), func(c *gateway.Config) { c.Trail = trails })
	v.grains.access = w.grains.access
	_, out := v.post(v.token(gateway.RoleAdmin), service+"ListAuditEvents", `{}`)
	if code, _, _ := failure(t, out); code != "unavailable" || len(trails.list) != 0 {
		t.Errorf("%s, asked for %v", out, trails.list)
	}
	_, _ = v.do(http.MethodPost, tenantAdminService+"DescribeTenant", `{"name":"acme"}`, "Content-Type", "application/json", "Authorization", "Bearer "+v.operatorToken())
	if list := a.take(); len(list) != 2 || list[1].Tenant != "acme" || list[1].Credential != "operator" {
		t.Errorf("when it cannot be told whose the name is: %+v", list)
	}
}
