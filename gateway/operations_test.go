package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// scripted is a double of the cluster port: it answers with its fields, fails
// with fail, and remembers what it was asked.
type scripted struct {
	mu    sync.Mutex
	asked []string
	fail  error

	nodes       []gateway.ClusterNode
	view        gateway.ClusterView
	placement   gateway.ClusterPlacement
	activations gateway.ClusterActivations
	health      gateway.ClusterHealth
	moves       []gateway.ClusterMove
	letters     []gateway.ClusterDeadLetter
	next        string
}

func (s *scripted) note(format string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf(format, args...))
	return s.fail
}

func (s *scripted) calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

func (s *scripted) last() string {
	if all := s.calls(); len(all) > 0 {
		return all[len(all)-1]
	}
	return ""
}

func (s *scripted) Nodes(context.Context) ([]gateway.ClusterNode, error) {
	return s.nodes, s.note("nodes")
}

func (s *scripted) View(context.Context) (gateway.ClusterView, error) {
	return s.view, s.note("view")
}

func (s *scripted) Placement(_ context.Context, tenant, kb string) (gateway.ClusterPlacement, error) {
	return s.placement, s.note("placement %q %q", tenant, kb)
}

func (s *scripted) Activations(_ context.Context, q gateway.ActivationQuery) (gateway.ClusterActivations, error) {
	return s.activations, s.note("activations %q %q %q %d", q.Node, q.Tenant, q.After, q.Limit)
}

func (s *scripted) Health(context.Context) (gateway.ClusterHealth, error) {
	return s.health, s.note("health")
}

func (s *scripted) Drain(_ context.Context, node string) error { return s.note("drain %q", node) }

func (s *scripted) Relocate(_ context.Context, tenant, node string) error {
	return s.note("relocate %q %q", tenant, node)
}

func (s *scripted) Rebalance(_ context.Context, dryRun bool) ([]gateway.ClusterMove, error) {
	return s.moves, s.note("rebalance %v", dryRun)
}

func (s *scripted) DeadLetters(_ context.Context, after string, limit int) ([]gateway.ClusterDeadLetter, string, error) {
	return s.letters, s.next, s.note("dead letters %q %d", after, limit)
}

func (s *scripted) DeadLetter(_ context.Context, tenant, kb, document string) error {
	return s.note("dead letter %q %q %q", tenant, kb, document)
}

// startCluster is a gateway with a scripted cluster, and an operator's client.
func startCluster(t *testing.T) (*world, *scripted, granaryv1connect.ClusterServiceClient) {
	t.Helper()
	s := &scripted{}
	w := start(t, func(c *gateway.Config) { c.Cluster = s })
	return w, s, granaryv1connect.NewClusterServiceClient(w.client(w.operatorToken()))
}

func same(t *testing.T, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestNodesAreListedByNameInPages_A7(t *testing.T) {
	_, s, c := startCluster(t)
	started := time.Unix(1_800_000_000, 0).UTC()
	s.nodes = []gateway.ClusterNode{
		{Name: "n3", Boot: "c", State: gateway.NodeAbsent, GossipState: gateway.GossipSuspect},
		{Name: "n1", Boot: "b", State: gateway.NodeDead, GossipState: gateway.GossipGone, Problems: []string{"its lease expired"}},
		{
			Name: "n1", Boot: "a", API: "h:1", Actors: "h:2", Gossip: "h:3", Zone: "z", Roles: []string{"gateway", "host"},
			State: gateway.NodeLive, GossipState: gateway.GossipAlive, Version: "v1", Load: 0.5, Partitions: 7, Activations: 8,
			PendingHandover: 9, LeaseAge: 250 * time.Millisecond, Started: started, Self: true,
		},
	}
	first, err := c.ListNodes(t.Context(), &v1.ListNodesRequest{PageSize: 1})
	if err != nil || first.GetNextPageToken() == "" {
		t.Fatalf("%v %v", first, err)
	}
	same(t, first.GetNodes()[0], &v1.Node{
		Name: "nodes/n1", Id: "n1#a", ApiAddress: "h:1", ActorsAddress: "h:2", GossipAddress: "h:3", Zone: "z",
		Roles: []string{"gateway", "host"}, State: v1.NodeState_NODE_STATE_LIVE, Gossip: v1.GossipState_GOSSIP_STATE_ALIVE,
		Version: "v1", Load: 0.5, Healthy: true, Partitions: 7, Activations: 8, PendingHandovers: 9,
		LeaseAge: durationpb.New(250 * time.Millisecond), StartTime: timestamppb.New(started), Self: true,
	})
	second, err := c.ListNodes(t.Context(), &v1.ListNodesRequest{PageSize: 1, PageToken: first.GetNextPageToken()})
	if err != nil {
		t.Fatal(err)
	}
	same(t, second.GetNodes()[0], &v1.Node{
		Name: "nodes/n1", Id: "n1#b", State: v1.NodeState_NODE_STATE_DEAD, Gossip: v1.GossipState_GOSSIP_STATE_GONE,
		Problems: []string{"its lease expired"},
	})
	third, err := c.ListNodes(t.Context(), &v1.ListNodesRequest{PageToken: second.GetNextPageToken()})
	if err != nil || third.GetNextPageToken() != "" || len(third.GetNodes()) != 1 || third.GetNodes()[0].GetId() != "n3#c" {
		t.Errorf("%v %v", third, err)
	}
	if s.nodes[0].Name != "n3" {
		t.Error("the cluster's own list was changed")
	}
}

func TestTheViewIsShownWhole_A7(t *testing.T) {
	_, s, c := startCluster(t)
	at := time.Unix(1_800_000_000, 0).UTC()
	s.view = gateway.ClusterView{
		Version: 12, Round: 3, Rounds: 10, Fingerprint: "f", CommittedAt: at,
		Members: []gateway.ClusterMember{
			{Name: "n1", Boot: "a", Actors: "h:2", Zone: "z", State: gateway.NodeDraining},
			{Name: "n2", Boot: "b", State: gateway.NodeJoining}, {Name: "n3", Boot: "c", State: gateway.NodeLeft},
		},
		Overrides: []gateway.ClusterOverride{{Tenant: "acme", Node: "n2"}},
	}
	got, err := c.GetView(t.Context(), &v1.GetViewRequest{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, got.GetView(), &v1.ClusterView{
		Version: 12, Round: 3, RoundCount: 10, Fingerprint: "f", CommitTime: timestamppb.New(at),
		Members: []*v1.ViewMember{
			{Node: "nodes/n1", Id: "n1#a", Address: "h:2", Zone: "z", State: v1.NodeState_NODE_STATE_DRAINING},
			{Node: "nodes/n2", Id: "n2#b", State: v1.NodeState_NODE_STATE_JOINING}, {Node: "nodes/n3", Id: "n3#c", State: v1.NodeState_NODE_STATE_LEFT},
		},
		Overrides: []*v1.ViewOverride{{Tenant: "tenants/acme", Node: "nodes/n2"}},
	})
}

func TestPlacementTakesNamesAndIDs_A7(t *testing.T) {
	_, s, c := startCluster(t)
	at := time.Unix(1_800_000_000, 0).UTC()
	s.placement = gateway.ClusterPlacement{
		Partition: 17, Partitions: 1021, Node: "n2", TableNode: "n1", Overridden: true, Active: proto.Bool(false),
		View: 12, Since: 9, SinceTime: at, Holder: "n2#b", Epoch: 4,
	}
	for _, req := range []*v1.GetPlacementRequest{
		{Tenant: "acme", KnowledgeBase: "handbook"}, {Tenant: "tenants/acme", KnowledgeBase: "knowledgeBases/handbook"},
	} {
		got, err := c.GetPlacement(t.Context(), req)
		if err != nil || s.last() != `placement "acme" "handbook"` {
			t.Fatalf("asked %s, %v", s.last(), err)
		}
		same(t, got.GetPlacement(), &v1.Placement{
			Tenant: "tenants/acme", KnowledgeBase: "knowledgeBases/handbook", Partition: 17, PartitionCount: 1021,
			Node: "nodes/n2", TableNode: "nodes/n1", Overridden: true, Active: proto.Bool(false),
			ViewVersion: 12, SinceVersion: 9, SinceTime: timestamppb.New(at), Holder: "n2#b", Epoch: 4,
		})
	}
	s.placement = gateway.ClusterPlacement{Node: "n1", TableNode: "n1"}
	got, err := c.GetPlacement(t.Context(), &v1.GetPlacementRequest{Tenant: "acme"})
	if err != nil || s.last() != `placement "acme" ""` {
		t.Fatalf("asked %s, %v", s.last(), err)
	}
	same(t, got.GetPlacement(), &v1.Placement{Tenant: "tenants/acme", Node: "nodes/n1", TableNode: "nodes/n1"})
}

func TestActivationsPageWithinTheirQuery_A7(t *testing.T) {
	_, s, c := startCluster(t)
	at := time.Unix(1_800_000_000, 0).UTC()
	s.activations = gateway.ClusterActivations{
		Items: []gateway.ClusterActivation{{
			Node: "n1", Kind: "kb", Tenant: "acme", ID: "handbook", Since: at, Idle: time.Second, Queued: 1, Pending: 2, Served: 3, Stopping: true,
		}},
		Next: "n1/kb/acme/handbook", Unreachable: []string{"n2"},
	}
	first, err := c.ListActivations(t.Context(), &v1.ListActivationsRequest{Node: "nodes/n1", Tenant: "tenants/acme", PageSize: 7})
	if err != nil || s.last() != `activations "n1" "acme" "" 7` {
		t.Fatalf("asked %s, %v", s.last(), err)
	}
	token := first.GetNextPageToken()
	same(t, first, &v1.ListActivationsResponse{
		Activations: []*v1.Activation{{
			Node: "nodes/n1", Kind: "kb", Tenant: "tenants/acme", Id: "handbook", StartTime: timestamppb.New(at),
			Idle: durationpb.New(time.Second), Queued: 1, Pending: 2, Served: 3, Stopping: true,
		}},
		NextPageToken: token, UnreachableNodes: []string{"nodes/n2"},
	})
	s.activations.Next = ""
	next, err := c.ListActivations(t.Context(), &v1.ListActivationsRequest{Node: "n1", Tenant: "acme", PageToken: token})
	if err != nil || s.last() != `activations "n1" "acme" "n1/kb/acme/handbook" 50` || next.GetNextPageToken() != "" {
		t.Errorf("asked %s, got %v, %v", s.last(), next, err)
	}
	before := len(s.calls())
	for _, req := range []*v1.ListActivationsRequest{
		{PageToken: token}, {Node: "n2", Tenant: "acme", PageToken: token}, {Node: "n1", PageToken: token},
		{Node: "n1", Tenant: "acme", PageToken: "!"}, {Node: "n1", Tenant: "acme", PageToken: token[:20]},
	} {
		_, err := c.ListActivations(t.Context(), req)
		if connect.CodeOf(err) != connect.CodeInvalidArgument || detailsOf(t, err).info.GetReason() != kb.ReasonPageTokenInvalid {
			t.Errorf("%v: %v", req, err)
		}
	}
	if _, err := c.ListDeadLetters(t.Context(), &v1.ListDeadLettersRequest{PageToken: token}); detailsOf(t, err).info.GetReason() != kb.ReasonPageTokenInvalid {
		t.Errorf("a token of another list: %v", err)
	}
	if len(s.calls()) != before {
		t.Error("a page token that is none reached the cluster")
	}
}

func TestHealthIsItsWorstProblem_A7(t *testing.T) {
	_, s, c := startCluster(t)
	sick := gateway.HealthProblem{Reason: gateway.HealthSick, Message: "disk full", State: gateway.HealthDegraded, Node: "n1", Count: 3}
	down := gateway.HealthProblem{Reason: gateway.HealthStoreUnavailable, Message: "the store does not answer", State: gateway.HealthUnavailable}
	for want, problems := range map[v1.HealthState][]gateway.HealthProblem{
		v1.HealthState_HEALTH_STATE_OK: nil, v1.HealthState_HEALTH_STATE_DEGRADED: {sick, sick},
		v1.HealthState_HEALTH_STATE_UNAVAILABLE: {sick, down, sick},
	} {
		s.health = gateway.ClusterHealth{Problems: problems, View: 5, Active: 3}
		got, err := c.GetClusterHealth(t.Context(), &v1.GetClusterHealthRequest{})
		h := got.GetHealth()
		if err != nil || h.GetState() != want || len(h.GetProblems()) != len(problems) || h.GetViewVersion() != 5 || h.GetActiveMembers() != 3 {
			t.Fatalf("%v, %v", got, err)
		}
		if len(problems) > 0 {
			same(t, h.GetProblems()[0], &v1.HealthProblem{
				Reason: "NODE_SICK", Message: "disk full", State: v1.HealthState_HEALTH_STATE_DEGRADED, Node: "nodes/n1", Count: 3,
			})
		}
	}
}

func TestChangesReachTheClusterAndTheLog_A7(t *testing.T) {
	w, s, c := startCluster(t)
	s.moves = []gateway.ClusterMove{
		{Tenant: "acme", From: "n1", To: "n2", Reason: gateway.MoveOverloaded, ToScore: &gateway.PlacementScore{Total: 0.9, Locality: 0.8, Headroom: 1, Nearness: 0.9}},
	}
	call := map[string]func() error{
		`drain "n1"`: func() error {
			_, err := c.DrainNode(t.Context(), &v1.DrainNodeRequest{Name: "nodes/n1"})
			return err
		},
		`relocate "acme" "n2"`: func() error {
			_, err := c.RelocateTenant(t.Context(), &v1.RelocateTenantRequest{Tenant: "tenants/acme", Node: "nodes/n2"})
			return err
		},
		`relocate "acme" ""`: func() error {
			_, err := c.RelocateTenant(t.Context(), &v1.RelocateTenantRequest{Tenant: "acme"})
			return err
		},
		`dead letter "acme" "handbook" "d.1"`: func() error {
			w.grains.answer(&nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Document{Document: &v1.Document{}}})
			_, err := c.RetryDeadLetter(t.Context(), &v1.RetryDeadLetterRequest{Tenant: "acme", Document: "knowledgeBases/handbook/documents/d.1"})
			return err
		},
		`rebalance false`: func() error {
			got, err := c.Rebalance(t.Context(), &v1.RebalanceRequest{})
			same(t, got.GetMoves()[0], &v1.TenantMove{
				Tenant: "tenants/acme", From: "nodes/n1", To: "nodes/n2", Reason: "OVERLOADED",
				ToScore: &v1.PlacementScore{Total: 0.9, Locality: 0.8, Headroom: 1, Nearness: 0.9},
			})
			return err
		},
	}
	for want, do := range call {
		if err := do(); err != nil || s.last() != want {
			t.Errorf("asked %s, want %s: %v", s.last(), want, err)
		}
	}
	if a := w.grains.last(t); a.kind != "kb" || a.tenant != "acme" || a.id != "handbook" ||
		a.kb().GetReprocessDocument().GetName() != "knowledgeBases/handbook/documents/d.1" || !a.kb().GetHeader().GetInternal() {
		t.Errorf("the retry asked %v", a)
	}
	if n := strings.Count(w.log.String(), `"msg":"an operator changes the cluster"`); n != len(call) {
		t.Errorf("%d changes are in the log, want %d", n, len(call))
	}
	for _, part := range []string{`"operator":"olga"`, `"method":"granary.v1.ClusterService/DrainNode"`, `"relocated_tenant":"acme"`, `"node":"n2"`} {
		if !strings.Contains(w.log.String(), part) {
			t.Errorf("the log has no %s", part)
		}
	}
	if _, err := c.Rebalance(t.Context(), &v1.RebalanceRequest{DryRun: true}); err != nil || s.last() != "rebalance true" {
		t.Errorf("asked %s: %v", s.last(), err)
	}
	if a := w.grains.last(t); a.kind != "kb" || a.tenant != "acme" || a.id != "handbook" ||
		a.kb().GetReprocessDocument().GetName() != "knowledgeBases/handbook/documents/d.1" || !a.kb().GetHeader().GetInternal() {
		t.Errorf("the retry asked %v", a)
	}
	if n := strings.Count(w.log.String(), `"msg":"an operator changes the cluster"`); n != len(call) {
		t.Error("a dry run is logged as a change")
	}
}

func TestDeadLettersAreListedInPages_A7(t *testing.T) {
	_, s, c := startCluster(t)
	at := time.Unix(1_800_000_000, 0).UTC()
	s.letters = []gateway.ClusterDeadLetter{
		{Tenant: "acme", KnowledgeBase: "handbook", Document: "d1", DisplayName: "a.pdf", Reason: "QUARANTINED", Since: at},
	}
	s.next = "acme\x00kb\x00handbook\x00d1"
	got, err := c.ListDeadLetters(t.Context(), &v1.ListDeadLettersRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	same(t, got.GetDeadLetters()[0], &v1.DeadLetter{
		Tenant: "tenants/acme", Document: "knowledgeBases/handbook/documents/d1", DisplayName: "a.pdf", Reason: "QUARANTINED", Time: timestamppb.New(at),
	})
	if _, err = c.ListDeadLetters(t.Context(), &v1.ListDeadLettersRequest{PageToken: got.GetNextPageToken()}); err != nil ||
		s.last() != fmt.Sprintf("dead letters %q 50", s.next) {
		t.Errorf("asked %s, %v", s.last(), err)
	}
}

func TestErrorsOfTheClusterReachTheOperator_A7(t *testing.T) {
	w, s, c := startCluster(t)
	for _, want := range []*kb.Error{
		kb.Errorf(kb.CodeNotFound, kb.ReasonNodeNotFound, "There is no node n9."),
		kb.Errorf(kb.CodeFailedPrecondition, kb.ReasonNodeState, "n9 is the last node.").With("node", "n9"),
		kb.Errorf(kb.CodeAborted, kb.ReasonClusterMoving, "Partitions are moving.").After(time.Second),
		kb.Errorf(kb.CodeUnavailable, kb.ReasonNodeUnreachable, "n9 does not answer."),
	} {
		s.fail = want
		_, err := c.DrainNode(t.Context(), &v1.DrainNodeRequest{Name: "n9"})
		if d := detailsOf(t, err); int(connect.CodeOf(err)) != int(want.Code) || d.info.GetReason() != want.Reason || !strings.Contains(err.Error(), want.Message) {
			t.Errorf("%v became %v", want, err)
		}
	}
	s.fail = fmt.Errorf("pq: password hunter2: %w", journal.ErrUnavailable)
	_, err := c.ListDeadLetters(t.Context(), &v1.ListDeadLettersRequest{})
	if connect.CodeOf(err) != connect.CodeUnavailable || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("store down: %v", err)
	}
	s.fail = errors.New("pq: password hunter2")
	for procedure, body := range unaryMethods(t) {
		if strings.HasPrefix(procedure, clusterService) {
			if res, out := w.post(w.operatorToken(), procedure, body); res.StatusCode != 500 || strings.Contains(out, "hunter2") {
				t.Errorf("%s: %d %s", procedure, res.StatusCode, out)
			}
		}
	}
}

func TestClusterRequestsAreValidated_A7(t *testing.T) {
	w, s, _ := startCluster(t)
	for method, bodies := range map[string][]string{
		"GetPlacement":    {`{}`, `{"tenant":"ACME"}`, `{"tenant":"../x"}`, `{"tenant":"acme","knowledgeBase":"a/b"}`},
		"ListActivations": {`{"node":"a b"}`, `{"tenant":"-"}`, `{"pageSize":1001}`, `{"pageSize":-1}`},
		"ListNodes":       {`{"pageSize":1001}`, `{"pageToken":"` + strings.Repeat("x", 513) + `"}`},
		"DrainNode":       {`{}`, `{"name":"nodes/"}`, `{"name":"n1#boot"}`, `{"name":"` + strings.Repeat("n", 135) + `"}`},
		"RelocateTenant":  {`{"node":"n1"}`, `{"tenant":"acme","node":"a/b"}`},
		"RetryDeadLetter": {`{"tenant":"acme","document":"d1"}`, `{"document":"knowledgeBases/handbook/documents/d1"}`},
		"ListDeadLetters": {`{"pageSize":9999}`},
		"Rebalance":       {`{"dryRunn":true}`},
	} {
		for _, body := range bodies {
			res, out := w.post(w.operatorToken(), clusterService+method, body)
			if res.StatusCode != http.StatusBadRequest || !strings.Contains(out, kb.ReasonRequestInvalid) {
				t.Errorf("%s %s: %d %s", method, body, res.StatusCode, out)
			}
		}
	}
	if len(s.calls()) != 0 {
		t.Errorf("the cluster was asked %v", s.calls())
	}
}
