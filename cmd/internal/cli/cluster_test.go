package cli

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// Every command prints a table on a terminal and plain lines in a pipe.
func TestOutputOfTheClusterCommandsMatchesItsGoldenFiles_A7(t *testing.T) {
	cases := map[string][]string{
		"cluster_nodes":            {"nodes"},
		"cluster_view":             {"view"},
		"cluster_placement":        {"placement", "kb/handbook", "--tenant", "acme"},
		"cluster_placement_tenant": {"placement", "--tenant", "acme"},
		"cluster_activations":      {"activations"},
		"cluster_health":           {"health"},
		"cluster_drain":            {"drain", "n2"},
		"cluster_relocate":         {"relocate", "acme", "--to", "n2"},
		"cluster_relocate_back":    {"relocate", "tenants/acme"},
		"cluster_rebalance":        {"rebalance", "--dry-run"},
		"cluster_dead_letters":     {"dead-letters"},
		"cluster_keys":             {"keys", "list"},
		"cluster_keys_rotate":      {"keys", "rotate", "--tenant", "acme"},
		"cluster_keys_master":      {"keys", "rotate-master"},
		"cluster_retry":            {"retry", "kb/handbook/leave.md-1f", "--tenant", "acme"},
	}
	for name, args := range cases {
		t.Run(name, func(t *testing.T) {
			url := (&fake{answer: clusterScript}).serve(t, false)
			pipe := granary(t, url, world{}, append([]string{"cluster"}, args...)...)
			wantCode(t, pipe, ExitOK)
			if strings.Contains(pipe.stdout, "\x1b") {
				t.Errorf("a pipe got escape sequences: %q", pipe.stdout)
			}
			golden(t, name+".pipe", pipe.stdout+"--- stderr\n"+pipe.stderr)
			term := granary(t, url, world{terminal: true, width: 100}, append([]string{"cluster"}, args...)...)
			wantCode(t, term, ExitOK)
			golden(t, name+".terminal", term.stdout+"--- stderr\n"+term.stderr)
		})
	}
}

// --json is the response as protobuf JSON, with all pages of a list merged.
func TestClusterJSONParsesAsTheResponse_A7(t *testing.T) {
	cases := []struct {
		args []string
		into proto.Message
		want func(proto.Message) bool
	}{
		{[]string{"nodes"}, &granaryv1.ListNodesResponse{}, func(m proto.Message) bool {
			return proto.Equal(m, &granaryv1.ListNodesResponse{Nodes: sampleNodes()})
		}},
		{[]string{"view"}, &granaryv1.GetViewResponse{}, nil},
		{[]string{"placement", "handbook", "--tenant", "acme"}, &granaryv1.GetPlacementResponse{}, nil},
		{[]string{"activations"}, &granaryv1.ListActivationsResponse{}, func(m proto.Message) bool {
			r := m.(*granaryv1.ListActivationsResponse)
			return len(r.GetActivations()) == 2 && len(r.GetUnreachableNodes()) == 1 && r.GetNextPageToken() == ""
		}},
		{[]string{"activations", "--limit", "1"}, &granaryv1.ListActivationsResponse{}, func(m proto.Message) bool {
			r := m.(*granaryv1.ListActivationsResponse)
			return len(r.GetActivations()) == 1 && r.GetNextPageToken() == "p2"
		}},
		{[]string{"health"}, &granaryv1.GetClusterHealthResponse{}, nil},
		{[]string{"drain", "n2"}, &granaryv1.DrainNodeResponse{}, nil},
		{[]string{"relocate", "acme"}, &granaryv1.RelocateTenantResponse{}, nil},
		{[]string{"rebalance"}, &granaryv1.RebalanceResponse{}, func(m proto.Message) bool {
			return len(m.(*granaryv1.RebalanceResponse).GetMoves()) == 2
		}},
		{[]string{"dead-letters"}, &granaryv1.ListDeadLettersResponse{}, func(m proto.Message) bool {
			return len(m.(*granaryv1.ListDeadLettersResponse).GetDeadLetters()) == 2
		}},
		{[]string{"retry", "kb/handbook/d1", "--tenant", "acme"}, &granaryv1.RetryDeadLetterResponse{}, nil},
		{[]string{"keys", "list"}, &granaryv1.ListKeysResponse{}, func(m proto.Message) bool {
			return len(m.(*granaryv1.ListKeysResponse).GetKeys()) == 3
		}},
		{[]string{"keys", "rotate", "--tenant", "acme"}, &granaryv1.RotateKeyResponse{}, nil},
		{[]string{"keys", "reencrypt", "--tenant", "acme"}, &granaryv1.ReencryptTenantResponse{}, func(m proto.Message) bool {
			r := m.(*granaryv1.ReencryptTenantResponse)
			return r.GetSeenCount() == 750 && r.GetSealedCount() == 605 && r.GetBrokenCount() == 1 && !r.GetComplete()
		}},
		{[]string{"keys", "rotate-master"}, &granaryv1.RotateMasterKeyResponse{}, func(m proto.Message) bool {
			r := m.(*granaryv1.RotateMasterKeyResponse)
			return r.GetWrappedCount() == 203 && r.GetComplete()
		}},
	}
	url := (&fake{answer: clusterScript}).serve(t, false)
	for _, c := range cases {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			args := append(append([]string{"cluster"}, c.args...), "--json")
			r := granary(t, url, world{}, args...)
			wantCode(t, r, ExitOK)
			if strings.Count(r.stdout, "\n") != 1 {
				t.Errorf("not one line: %q", r.stdout)
			}
			if err := protojson.Unmarshal([]byte(r.stdout), c.into); err != nil {
				t.Fatalf("%v in %q", err, r.stdout)
			}
			if c.want != nil && !c.want(c.into) {
				t.Errorf("unexpected content: %s", r.stdout)
			}
			if term := granary(t, url, world{terminal: true}, args...); !json.Valid([]byte(term.stdout)) {
				t.Errorf("not JSON on a terminal: %q", term.stdout)
			}
		})
	}
}

// What a command line says reaches the server, and nothing else.
func TestClusterCommandsSendTheirFlags_A7(t *testing.T) {
	for _, c := range []struct {
		args []string
		want proto.Message
	}{
		{[]string{"placement", "kb/handbook", "--tenant", "acme"}, &granaryv1.GetPlacementRequest{Tenant: "acme", KnowledgeBase: "knowledgeBases/handbook"}},
		{[]string{"placement", "knowledgeBases/handbook", "--tenant", "acme"}, &granaryv1.GetPlacementRequest{Tenant: "acme", KnowledgeBase: "knowledgeBases/handbook"}},
		{[]string{"placement", "--tenant", "acme"}, &granaryv1.GetPlacementRequest{Tenant: "acme"}},
		{[]string{"activations", "--node", "n1", "--tenant", "acme", "--limit", "7"}, &granaryv1.ListActivationsRequest{Node: "n1", Tenant: "acme", PageSize: 7}},
		{[]string{"drain", "nodes/n2"}, &granaryv1.DrainNodeRequest{Name: "nodes/n2"}},
		{[]string{"relocate", "acme", "--to", "n2"}, &granaryv1.RelocateTenantRequest{Tenant: "acme", Node: "n2"}},
		{[]string{"relocate", "acme"}, &granaryv1.RelocateTenantRequest{Tenant: "acme"}},
		{[]string{"rebalance"}, &granaryv1.RebalanceRequest{}},
		{[]string{"keys", "rotate", "--tenant", "acme"}, &granaryv1.RotateKeyRequest{Tenant: "acme"}},
		{[]string{"rebalance", "--dry-run"}, &granaryv1.RebalanceRequest{DryRun: true}},
		{[]string{"retry", "kb/handbook/a.b", "--tenant", "acme"}, &granaryv1.RetryDeadLetterRequest{Tenant: "acme", Document: "knowledgeBases/handbook/documents/a.b"}},
		{[]string{"retry", "knowledgeBases/handbook/documents/a.b", "--tenant", "acme"}, &granaryv1.RetryDeadLetterRequest{Tenant: "acme", Document: "knowledgeBases/handbook/documents/a.b"}},
	} {
		f := &fake{answer: clusterScript}
		wantCode(t, granary(t, f.serve(t, false), world{}, append([]string{"cluster"}, c.args...)...), ExitOK)
		if !proto.Equal(f.requests[0], c.want) {
			t.Errorf("%v sent %v, want %v", c.args, f.requests[0], c.want)
		}
	}
}

func TestClusterUsageErrors_A7(t *testing.T) {
	f := &fake{answer: clusterScript}
	url := f.serve(t, false)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"drain"}, "NODE is missing"},
		{[]string{"relocate"}, "TENANT is missing"},
		{[]string{"relocate", "acme", "--to", ""}, "--to is empty"},
		{[]string{"placement", "kb/handbook"}, "--tenant is missing"},
		{[]string{"placement", "a", "b", "--tenant", "acme"}, "accepts at most 1 arg"},
		{[]string{"activations", "--limit", "-1"}, "--limit must not be negative"},
		{[]string{"retry", "handbook/d1", "--tenant", "acme"}, "want kb/NAME/DOC"},
		{[]string{"retry", "kb/handbook", "--tenant", "acme"}, "want kb/NAME/DOC"},
		{[]string{"retry", "kb/handbook/d1"}, "--tenant is missing"},
		{[]string{"node"}, `did you mean "nodes"`},
	} {
		r := granary(t, url, world{}, append([]string{"cluster"}, c.args...)...)
		wantCode(t, r, ExitUsage)
		wantContains(t, r.stderr, c.says)
	}
	if len(f.requests) > 0 {
		t.Errorf("the server was asked %v", f.requests)
	}
}

func TestHealthFailsUnlessAllIsWell_A7(t *testing.T) {
	health := sampleHealth()
	f := &fake{answer: func(proto.Message) (proto.Message, error) {
		return &granaryv1.GetClusterHealthResponse{Health: health}, nil
	}}
	url := f.serve(t, false)
	r := granary(t, url, world{}, "cluster", "health")
	wantCode(t, r, ExitFailed)
	golden(t, "cluster_health_bad.pipe", r.stdout+"--- stderr\n"+r.stderr)
	r = granary(t, url, world{terminal: true, width: 100}, "cluster", "health")
	wantCode(t, r, ExitFailed)
	golden(t, "cluster_health_bad.terminal", r.stdout+"--- stderr\n"+r.stderr)
	r = granary(t, url, world{}, "cluster", "health", "--json")
	wantCode(t, r, ExitFailed)
	if err := protojson.Unmarshal([]byte(r.stdout), &granaryv1.GetClusterHealthResponse{}); err != nil {
		t.Errorf("%v in %q", err, r.stdout)
	}
	for _, state := range []granaryv1.HealthState{granaryv1.HealthState_HEALTH_STATE_DEGRADED, granaryv1.HealthState_HEALTH_STATE_UNSPECIFIED} {
		health = &granaryv1.ClusterHealth{State: state}
		wantCode(t, granary(t, url, world{}, "cluster", "health"), ExitFailed)
	}
}

func TestEmptyClusterListsSaySo_A7(t *testing.T) {
	f := &fake{answer: func(req proto.Message) (proto.Message, error) {
		switch req.(type) {
		case *granaryv1.ListActivationsRequest:
			return &granaryv1.ListActivationsResponse{}, nil
		case *granaryv1.ListDeadLettersRequest:
			return &granaryv1.ListDeadLettersResponse{}, nil
		}
		return &granaryv1.RebalanceResponse{}, nil
	}}
	url := f.serve(t, false)
	for command, says := range map[string]string{"activations": "nothing is active", "dead-letters": "no dead letters", "rebalance": "nothing to move"} {
		r := granary(t, url, world{}, "cluster", command)
		wantCode(t, r, ExitOK)
		if r.stdout != "" || !strings.Contains(r.stderr, says) {
			t.Errorf("%s: %q %q", command, r.stdout, r.stderr)
		}
	}
}

// Only an operator's token is ever sent, and a development server's names the tenant.
func TestTheOperatorsTokenIsFoundAndNoOtherSent_B1_A7(t *testing.T) {
	f := &fake{answer: clusterScript}
	url := f.serve(t, false)
	dir := t.TempDir()
	write(t, dir, "dev-token", "s3cret-tenant\n")
	none := map[string]string{"GRANARY_OPERATOR_TOKEN": ""}
	wantCode(t, granary(t, url, world{env: none}, "cluster", "nodes", "--data", dir), ExitOK) // the fake lets all pass
	wantCode(t, granary(t, url, world{env: none}, "cluster", "placement", "--data", dir), ExitUsage)
	write(t, dir, "dev-operator-token", "s3cret-dev\n")
	wantCode(t, granary(t, url, world{env: none}, "cluster", "placement", "kb/handbook", "--data", dir), ExitOK)
	wantCode(t, granary(t, url, world{}, "cluster", "view", "--data", dir), ExitOK)
	wantCode(t, granary(t, url, world{}, "cluster", "view", "--token-file", filepath.Join(dir, "dev-operator-token")), ExitOK)
	wantCode(t, granary(t, url, world{}, "cluster", "placement", "--token-file", filepath.Join(dir, "dev-operator-token")), ExitUsage)
	if got := strings.Join(f.headers, ","); got != ",,Bearer s3cret-dev,Bearer s3cret-operator,Bearer s3cret-dev" {
		t.Errorf("sent %q", got)
	}
	if p := got[*granaryv1.GetPlacementRequest](f); len(p) != 1 || p[0].GetTenant() != "dev" {
		t.Errorf("placement of %v", p)
	}
	f.answer = func(proto.Message) (proto.Message, error) {
		return nil, rpcError(t, connect.CodeUnauthenticated, "UNAUTHENTICATED", "who are you", 0)
	}
	r := granary(t, url, world{env: none}, "cluster", "view", "--data", t.TempDir())
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stderr, "UNAUTHENTICATED", "no token was sent: GRANARY_OPERATOR_TOKEN is not set and there is no file", "dev-operator-token")
	f.answer = func(proto.Message) (proto.Message, error) {
		return nil, rpcError(t, connect.CodeFailedPrecondition, "CLUSTER_SINGLE_NODE", "This server is no member of a cluster.", 0)
	}
	r = granary(t, url, world{}, "cluster", "nodes")
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stderr, "granary: CLUSTER_SINGLE_NODE: This server is no member of a cluster.")
}

// draining is a cluster whose node n2 takes the given states, one for each look.
type draining struct {
	mu     sync.Mutex
	states []*granaryv1.Node
	begin  []error // of DrainNode, one for each try
	fail   error   // of ListNodes, once there are no more states
	drains int
}

func (d *draining) answer(req proto.Message) (proto.Message, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := req.(*granaryv1.DrainNodeRequest); ok {
		d.drains++
		if d.drains <= len(d.begin) && d.begin[d.drains-1] != nil {
			return nil, d.begin[d.drains-1]
		}
		return &granaryv1.DrainNodeResponse{}, nil
	}
	if len(d.states) == 0 {
		return nil, d.fail
	}
	now := d.states[0]
	if len(d.states) > 1 || d.fail != nil {
		d.states = d.states[1:]
	}
	res := &granaryv1.ListNodesResponse{Nodes: []*granaryv1.Node{sampleNodes()[0]}}
	if now != nil {
		res.Nodes = append(res.Nodes, now)
	}
	return res, nil
}

func n2(id string, state granaryv1.NodeState, partitions int32) *granaryv1.Node {
	return &granaryv1.Node{Name: "nodes/n2", Id: id, State: state, Partitions: partitions}
}

const (
	live   = granaryv1.NodeState_NODE_STATE_LIVE
	drains = granaryv1.NodeState_NODE_STATE_DRAINING
	left   = granaryv1.NodeState_NODE_STATE_LEFT
	dead   = granaryv1.NodeState_NODE_STATE_DEAD
	absent = granaryv1.NodeState_NODE_STATE_ABSENT
)

func TestDrainWaitFollowsTheNodeUntilItHasLeft_A7(t *testing.T) {
	moving := rpcError(t, connect.CodeAborted, "CLUSTER_MOVING", "partitions are moving", time.Second)
	for name, c := range map[string]struct {
		d    *draining
		code int
		says []string
	}{
		"leaves": {&draining{states: []*granaryv1.Node{n2("n2#b", live, 300), n2("n2#b", drains, 300), n2("n2#b", drains, 20), n2("n2#b", left, 0)}}, ExitOK,
			[]string{"n2: DRAINING, 300 partitions", "n2: DRAINING, 20 partitions", "n2 has left"}},
		"known to gossip only": {&draining{states: []*granaryv1.Node{n2("n2#b", live, 1), n2("n2#b", absent, 0)}}, ExitOK, []string{"n2 has left"}},
		"forgotten":            {&draining{states: []*granaryv1.Node{n2("n2#b", live, 1), nil}}, ExitOK, []string{"n2 has left"}},
		"came back as another": {&draining{states: []*granaryv1.Node{n2("n2#b", live, 1), n2("n2#c", live, 9)}}, ExitOK, []string{"n2 has left"}},
		"had left":             {&draining{states: []*granaryv1.Node{n2("n2#b", left, 0)}}, ExitOK, []string{"n2 has left"}},
		"dies":                 {&draining{states: []*granaryv1.Node{n2("n2#b", live, 1), n2("n2#b", dead, 0)}}, ExitFailed, []string{"n2 died before it had left"}},
		"waits for others": {&draining{states: []*granaryv1.Node{n2("n2#b", live, 1), n2("n2#b", left, 0)}, begin: []error{moving, moving}}, ExitOK,
			[]string{"other nodes come or go", "n2 has left"}},
		"is not there": {&draining{states: []*granaryv1.Node{nil}}, ExitFailed, []string{"NODE_NOT_FOUND: there is no node n2"}},
		"is refused": {&draining{states: []*granaryv1.Node{n2("n2#b", live, 1)}, begin: []error{rpcError(t, connect.CodeFailedPrecondition, "NODE_STATE", "the last node", 0)}},
			ExitFailed, []string{"NODE_STATE: the last node"}},
		"the connection breaks": {&draining{states: []*granaryv1.Node{n2("n2#b", live, 1)}, fail: rpcError(t, connect.CodeInternal, "INTERNAL", "broken", 0)},
			ExitFailed, []string{"INTERNAL: broken"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := granary(t, (&fake{answer: c.d.answer}).serve(t, false), world{}, "cluster", "drain", "n2", "--wait")
			wantCode(t, r, c.code)
			wantContains(t, r.stdout+r.stderr, c.says...)
			if name == "waits for others" && c.d.drains != 3 {
				t.Errorf("%d tries", c.d.drains)
			}
		})
	}
}

func TestDrainWaitOfTheNodeThatAnswersSaysWhatItSawLast_A7(t *testing.T) {
	self := n2("n2#b", drains, 5)
	self.Self = true
	d := &draining{states: []*granaryv1.Node{self, self}, fail: rpcError(t, connect.CodeUnavailable, "UNAVAILABLE", "shutting down", 20*time.Second)}
	var sleeps []time.Duration
	r := granary(t, (&fake{answer: d.answer}).serve(t, false), world{sleeps: &sleeps}, "cluster", "drain", "n2", "--wait")
	wantCode(t, r, ExitFailed)
	wantContains(t, r.stderr, "n2 is the node that was asked, and answers no more", "last seen: n2: DRAINING, 5 partitions")
	if len(sleeps) < 2 || sleeps[0] != drainPoll || sleeps[len(sleeps)-1] != 20*time.Second {
		t.Errorf("pauses %v", sleeps)
	}
}

func TestDrainWaitJSONIsTheNode_A7(t *testing.T) {
	d := &draining{states: []*granaryv1.Node{n2("n2#b", live, 1), n2("n2#b", left, 0)}}
	r := granary(t, (&fake{answer: d.answer}).serve(t, false), world{}, "cluster", "drain", "n2", "--wait", "--json")
	wantCode(t, r, ExitOK)
	var node granaryv1.Node
	if err := protojson.Unmarshal([]byte(r.stdout), &node); err != nil || node.GetState() != left || node.GetId() != "n2#b" {
		t.Errorf("%v in %q", err, r.stdout)
	}
}
