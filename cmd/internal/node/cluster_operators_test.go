package node_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func placement(t *testing.T, m *nodetest.Member, kb string) *granaryv1.Placement {
	t.Helper()
	r, err := m.Operator.Cluster.GetPlacement(t.Context(), &granaryv1.GetPlacementRequest{Tenant: "dev", KnowledgeBase: kb})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetPlacement()
}

func health(t *testing.T, m *nodetest.Member) *granaryv1.GetClusterHealthResponse {
	t.Helper()
	r, err := m.Operator.Cluster.GetClusterHealth(t.Context(), &granaryv1.GetClusterHealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func relocate(t *testing.T, m *nodetest.Member, tenant, node string) error {
	t.Helper()
	_, err := m.Operator.Cluster.RelocateTenant(t.Context(), &granaryv1.RelocateTenantRequest{Tenant: tenant, Node: node})
	return err
}

func drain(t *testing.T, m *nodetest.Member, node string) error {
	t.Helper()
	_, err := m.Operator.Cluster.DrainNode(t.Context(), &granaryv1.DrainNodeRequest{Name: node})
	return err
}

func TestOperatorsSteerTheClusterFromAnyNode_A7_B3(t *testing.T) {
	web := nodetest.NewWeb(t)
	c := nodetest.StartCluster(t, pg.Database(t), 3, web.Allow)
	if h := health(t, c.Nodes[1]); h.GetHealth().GetState() != granaryv1.HealthState_HEALTH_STATE_OK || h.GetHealth().GetActiveMembers() != 3 {
		t.Errorf("health of a new cluster: %v", h)
	}
	l := load(c, false, c.Nodes...)
	watched := c.KBs(c.Nodes[0], "dev", "watched", 1)[0]
	c.Nodes[1].CreateKB(t, watched)
	relocations(t, c, watched)
	r, err := c.Nodes[2].Operator.Cluster.Rebalance(t.Context(), &granaryv1.RebalanceRequest{DryRun: true})
	if err != nil || len(r.GetMoves()) != 0 {
		t.Errorf("what would move where nothing is overloaded: %v, %v", r, err)
	}
	l.End()
	withoutCrash(t, c)
	t.Run("dead letters", func(t *testing.T) { deadLetters(t, c, web) })
	t.Run("store away", func(t *testing.T) { storeAway(t, c) })
	t.Run("drain", func(t *testing.T) { drainAllButOne(t, c) })
}

// relocations moves the tenant to one node and gives it back, while somebody
// follows a knowledge base and another writes to it.
func relocations(t *testing.T, c *nodetest.Cluster, watched string) {
	t.Helper()
	n1, n2, n3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	watch := follow(t, n2.Clients, watched)
	home := placement(t, n1, watched)
	if home.GetNode() != "nodes/n1" || home.GetOverridden() || home.GetHolder() != n1.ID().String() || home.GetEpoch() != 1 {
		t.Errorf("before: %v", home)
	}
	for i, to := range []string{"n3", "n2", ""} {
		if err := relocate(t, c.Nodes[i], "dev", to); err != nil {
			t.Fatal(err)
		}
		if err := write(t, n3.Clients, watched, "at "+to, "", 10*time.Second); err != nil {
			t.Fatal(err)
		}
		want := c.Node(to)
		if to == "" {
			want = n1
		}
		// The write may still have been the last owner's; the watcher then follows.
		nodetest.Await(t, "the grain is at "+want.Name, func() bool {
			p := placement(t, n2, watched)
			return p.GetNode() == "nodes/"+want.Name && p.GetOverridden() == (to != "") && p.GetHolder() == want.ID().String() &&
				p.GetTableNode() == "nodes/n1" && p.GetEpoch() == int64(i+2) && p.GetActive()
		})
	}
	watch(1 + 3) // created, and written on three nodes
	if err := relocate(t, n1, "dev", "nobody"); reason(t, err) != kb.ReasonNodeNotFound {
		t.Errorf("relocated to nobody: %v", err)
	}
	v, err := n3.Operator.Cluster.GetView(t.Context(), &granaryv1.GetViewRequest{})
	if err != nil || len(v.GetView().GetOverrides()) != 0 || len(v.GetView().GetMembers()) != 3 {
		t.Errorf("view: %v, %v", v, err)
	}
}

// deadLetters takes the runs of a document away, one after the other, so that
// each looks to the next owner as if it had taken its process down, until the
// document is quarantined; then an operator retries it.
func deadLetters(t *testing.T, c *nodetest.Cluster, web *nodetest.Web) {
	n1, n2, n3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	name := c.KBs(n1, "dev", "deadly", 1)[0]
	n2.CreateKB(t, name)
	web.Hold()
	doc := n2.AddURL(t, name, web.URL("deadly")).GetName()
	for run := range kb.MaxCrashes {
		web.Await(t, 1)
		// What the owner decides now comes too late; it hears so when it is to hand over.
		if _, err := c.DB.Exec(t.Context(), `UPDATE owner SET epoch = epoch + 1, activation = $1, released = true WHERE kind = 'kb' AND id = $2`,
			fmt.Sprintf("thief-%d", run), name); err != nil {
			t.Fatal(err)
		}
		if err := relocate(t, n3, "dev", []string{"n2", "n1"}[run%2]); err != nil {
			t.Fatal(err)
		}
	}
	d := n2.Settle(t, doc)
	if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_FAILED || d.GetError().GetReason() != kb.ReasonQuarantined {
		t.Fatalf("after %d crashes: %v", kb.MaxCrashes, d)
	}
	if l := listDeadLetters(t, n3); len(l) != 1 || l[0].GetDocument() != doc || l[0].GetTenant() != "tenants/dev" || l[0].GetReason() != kb.ReasonQuarantined {
		t.Errorf("dead letters: %v", l)
	}
	if h := health(t, n2); h.GetHealth().GetState() != granaryv1.HealthState_HEALTH_STATE_DEGRADED || !hasProblem(h, "DEAD_LETTERS", "") {
		t.Errorf("health: %v", h)
	}
	web.Release()
	if err := relocate(t, n3, "dev", ""); err != nil {
		t.Fatal(err)
	}
	retry := func() error {
		_, err := n3.Operator.Cluster.RetryDeadLetter(t.Context(), &granaryv1.RetryDeadLetterRequest{Tenant: "dev", Document: doc})
		return err
	}
	if err := retry(); err != nil {
		t.Fatal(err)
	}
	if d = n1.Settle(t, doc); d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY || len(listDeadLetters(t, n1)) != 0 {
		t.Errorf("after the retry: %v, %v", d, listDeadLetters(t, n1))
	}
	if err := retry(); reason(t, err) != kb.ReasonDeadLetterNotFound {
		t.Errorf("retried a document that is well: %v", err)
	}
	if h := health(t, n1); h.GetHealth().GetState() != granaryv1.HealthState_HEALTH_STATE_OK {
		t.Errorf("health: %v", h)
	}
}

func listDeadLetters(t *testing.T, m *nodetest.Member) []*granaryv1.DeadLetter {
	t.Helper()
	r, err := m.Operator.Cluster.ListDeadLetters(t.Context(), &granaryv1.ListDeadLettersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetDeadLetters()
}

// storeAway asks for the health where the store cannot be reached.
func storeAway(t *testing.T, c *nodetest.Cluster) {
	n1, n2, n3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	first := n2.ID()
	n2.Store.Cut()
	if h := health(t, n2); h.GetHealth().GetState() != granaryv1.HealthState_HEALTH_STATE_UNAVAILABLE || !hasProblem(h, "STORE_UNAVAILABLE", "") {
		t.Errorf("health as seen without the store: %v", h)
	}
	nodetest.Await(t, "the others say that n2 is not well, until they give it up", func() bool {
		h := health(t, n1)
		return hasProblem(h, "NODE_SICK", "nodes/n2") || hasProblem(h, "LEASE_MISSING", "nodes/n2") || n1.View().Gone(first)
	})
	n2.Store.Mend()
	c.Settle(n1, n2, n3)
	nodetest.Await(t, "all is well again", func() bool { return health(t, n1).GetHealth().GetState() == granaryv1.HealthState_HEALTH_STATE_OK })
}

// drainAllButOne drains node after node, asked for on another.
func drainAllButOne(t *testing.T, c *nodetest.Cluster) {
	n1, n2, n3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	if err := drain(t, n1, "nobody"); reason(t, err) != kb.ReasonNodeNotFound {
		t.Errorf("drained nobody: %v", err)
	}
	for i, m := range []*nodetest.Member{n3, n2} {
		if err := drain(t, n1, "nodes/"+m.Name); err != nil {
			t.Fatal(err)
		}
		if err := drain(t, n1, m.Name); err != nil {
			t.Errorf("drained a second time: %v", err)
		}
		nodetest.Await(t, "health tells that partitions move", func() bool {
			h := health(t, n1)
			return h.GetHealth().GetState() == granaryv1.HealthState_HEALTH_STATE_DEGRADED && hasProblem(h, "PARTITIONS_MOVING", "")
		})
		c.Settle([]*nodetest.Member{n1, n2}[:2-i]...)
	}
	nodetest.Await(t, "those that have left know it", func() bool { return n2.View().Version == n1.View().Version })
	if err := drain(t, n2, "n1"); reason(t, err) != kb.ReasonNodeState {
		t.Errorf("drained the last node: %v", err)
	}
	if err := relocate(t, n1, "dev", "n2"); reason(t, err) != kb.ReasonNodeState {
		t.Errorf("relocated to a node that has left: %v", err)
	}
	r, err := n3.Operator.Cluster.ListNodes(t.Context(), &granaryv1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var states []granaryv1.NodeState
	for _, n := range r.GetNodes() {
		states = append(states, n.GetState())
	}
	if want := []granaryv1.NodeState{granaryv1.NodeState_NODE_STATE_LIVE, granaryv1.NodeState_NODE_STATE_LEFT, granaryv1.NodeState_NODE_STATE_LEFT}; !slices.Equal(states, want) {
		t.Errorf("nodes: %v", states)
	}
	for _, m := range c.Nodes { // those that have left serve on
		if _, err := m.KBs.ListKnowledgeBases(t.Context(), &granaryv1.ListKnowledgeBasesRequest{}); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
}
