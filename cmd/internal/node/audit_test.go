package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

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
