package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// reportOf reads a verification to its end.
func reportOf(t *testing.T, s interface {
	Receive() (*granaryv1.VerifyAuditResponse, error)
}, err error) *granaryv1.AuditReport {
	t.Helper()
	for err == nil {
		var m *granaryv1.VerifyAuditResponse
		if m, err = s.Receive(); err == nil && m.GetReport() != nil {
			return m.GetReport()
		}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("no report")
	}
	t.Fatal(err)
	return nil
}

// recorded counts the records of calls of one method, by request id.
func recorded(t *testing.T, c granaryv1connect.AuditServiceClient, method string) map[string]int {
	t.Helper()
	out := make(map[string]int)
	req := &granaryv1.ListAuditEventsRequest{Filter: &granaryv1.AuditFilter{Method: method}, PageSize: 7}
	for {
		page, err := c.ListAuditEvents(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.GetEvents() {
			out[e.GetRequestId()]++
			if e.GetRemoteAddress() != "127.0.0.1" || e.GetPrincipal() == "" {
				t.Fatalf("the record %v", e)
			}
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			return out
		}
	}
}

func TestCallsThroughAllNodesAreInOneTrail_I1(t *testing.T) {
	c := nodetest.StartCluster(t, pg.Database(t), 3)
	const method = "granary.v1.TenantService/GetTenant"
	n := 0
	call := func(ctx context.Context, m *nodetest.Member) {
		if _, err := m.Tenants.GetTenant(ctx, &granaryv1.GetTenantRequest{}); err == nil {
			n++
		}
	}
	c.Nodes[0].CreateKB(t, "handbook")
	for i := range 30 {
		call(t.Context(), c.Nodes[i%3])
	}
	nodetest.Await(t, "all calls are in the store", func() bool { return len(recorded(t, c.Nodes[1].Audit, method)) == n })
	for id, times := range recorded(t, c.Nodes[2].Audit, method) {
		if times != 1 {
			t.Fatalf("call %s is recorded %d times", id, times)
		}
	}
	// Any node signs on demand, and one at a time: the numbers have no gap.
	for i, m := range c.Nodes {
		r, err := m.Audit.GetCheckpoint(t.Context(), &granaryv1.GetCheckpointRequest{Refresh: true})
		if err != nil || r.GetNumber() > int64(i)+1 {
			t.Fatalf("checkpoint %d, %v", r.GetNumber(), err)
		}
	}
	for i, m := range c.Nodes {
		s, err := m.Audit.VerifyAudit(t.Context(), &granaryv1.VerifyAuditRequest{})
		r := reportOf(t, s, err)
		if len(r.GetProblems()) > 0 || r.GetStreams() != 3 || r.GetAccesses() < int64(n) || r.GetJournals() < 2 || r.GetCheckpoints() == 0 {
			t.Fatalf("node %d: %v", i, r)
		}
		o, err := m.Operator.Audits.VerifyTenantAudit(t.Context(), &granaryv1.VerifyTenantAuditRequest{Tenant: "dev"})
		if r := reportOf(t, o, err); len(r.GetProblems()) > 0 {
			t.Fatalf("node %d, as an operator: %v", i, r)
		}
	}
	// A node that stops has its records in the store, or ships them when it is back.
	before := n
	for range 10 {
		call(t.Context(), c.Nodes[2])
	}
	c.Nodes[2].Restart()
	nodetest.Await(t, fmt.Sprint(n-before, " calls of the life before are in the store"), func() bool { return len(recorded(t, c.Nodes[0].Audit, method)) == n })
}

// I1, I13: who takes a former tenant's name has an audit of its own, which it lists,
// exports and verifies; operators have both.
func TestLaterTenantOfANameHasAnAuditOfItsOwn_I1_I13(t *testing.T) {
	s := nodetest.Start(t)
	s.CreateKB(t, "handbook")
	s.CreateKB(t, "secret-plans")
	if _, err := s.Operator.Admin.DeleteTenant(t.Context(), &granaryv1.DeleteTenantRequest{Name: "tenants/dev", UndeleteFor: durationpb.New(0)}); err != nil {
		t.Fatal(err)
	}
	nodetest.Await(t, "the tenant is erased", func() bool { return s.Logged("tenant erased") })
	s.Restart() // gateways remember for a while that the tenant was deleted
	s.CreateKB(t, "handbook")
	if _, err := s.Operator.Admin.DescribeTenant(t.Context(), &granaryv1.DescribeTenantRequest{Name: "tenants/dev"}); err != nil {
		t.Fatal(err)
	}
	const create, describe = "granary.v1.KnowledgeBaseService/CreateKnowledgeBase", "granary.v1.TenantAdminService/DescribeTenant"
	nodetest.Await(t, "the calls are in the store", func() bool {
		return len(recorded(t, s.Audit, create)) == 1 && len(recorded(t, s.Audit, describe)) == 1
	})
	if _, err := s.Audit.GetCheckpoint(t.Context(), &granaryv1.GetCheckpointRequest{Refresh: true}); err != nil {
		t.Fatal(err)
	}
	v, err := s.Audit.VerifyAudit(t.Context(), &granaryv1.VerifyAuditRequest{})
	if r := reportOf(t, v, err); len(r.GetProblems()) > 0 || r.GetJournals() != 2 || r.GetEvents() == 0 || r.GetAccesses() == 0 ||
		r.GetCheckpoints() == 0 || len(r.GetErasures()) > 0 || len(r.GetLaterLives()) > 0 {
		t.Fatalf("its own: %v", r)
	}
	x, err := s.Audit.ExportAudit(t.Context(), &granaryv1.ExportAuditRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var lines []byte
	for {
		m, err := x.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, m.GetLines()...)
	}
	if bytes.Contains(lines, []byte("secret-plans")) || !bytes.Contains(lines, []byte("handbook")) {
		t.Fatalf("it exports %s", lines)
	}
	list, err := s.Operator.Audits.ListTenantAuditEvents(t.Context(), &granaryv1.ListTenantAuditEventsRequest{Tenant: "dev", Filter: &granaryv1.AuditFilter{Method: create}})
	if err != nil || len(list.GetEvents()) != 2 || len(list.GetLaterLives()) != 1 {
		t.Fatalf("the first, to operators: %v, %v", list, err)
	}
	life := list.GetLaterLives()[0]
	list, err = s.Operator.Audits.ListTenantAuditEvents(t.Context(), &granaryv1.ListTenantAuditEventsRequest{Tenant: "dev", Life: life, Filter: &granaryv1.AuditFilter{Method: create}})
	if err != nil || len(list.GetEvents()) != 1 {
		t.Fatalf("the second, to operators: %v, %v", list, err)
	}
	for _, of := range []*timestamppb.Timestamp{nil, life} {
		if _, err := s.Operator.Audits.GetTenantCheckpoint(t.Context(), &granaryv1.GetTenantCheckpointRequest{Tenant: "dev", Life: of, Refresh: true}); err != nil {
			t.Fatal(err)
		}
		o, err := s.Operator.Audits.VerifyTenantAudit(t.Context(), &granaryv1.VerifyTenantAuditRequest{Tenant: "dev", Life: of})
		if r := reportOf(t, o, err); len(r.GetProblems()) > 0 || len(r.GetLaterLives()) != 1 {
			t.Fatalf("to operators, life %v: %v", of, r)
		}
	}
	_, err = s.Operator.Audits.GetTenantCheckpoint(t.Context(), &granaryv1.GetTenantCheckpointRequest{Tenant: "dev", Life: &timestamppb.Timestamp{Nanos: -1}})
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Fatalf("a life that is no time: %v", err)
	}
}
