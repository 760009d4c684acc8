package cli

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (f *fake) ListNodes(ctx context.Context, r *granaryv1.ListNodesRequest) (*granaryv1.ListNodesResponse, error) {
	return unary[*granaryv1.ListNodesResponse](ctx, f, r)
}

func (f *fake) GetView(ctx context.Context, r *granaryv1.GetViewRequest) (*granaryv1.GetViewResponse, error) {
	return unary[*granaryv1.GetViewResponse](ctx, f, r)
}

func (f *fake) GetPlacement(ctx context.Context, r *granaryv1.GetPlacementRequest) (*granaryv1.GetPlacementResponse, error) {
	return unary[*granaryv1.GetPlacementResponse](ctx, f, r)
}

func (f *fake) ListActivations(ctx context.Context, r *granaryv1.ListActivationsRequest) (*granaryv1.ListActivationsResponse, error) {
	return unary[*granaryv1.ListActivationsResponse](ctx, f, r)
}

func (f *fake) GetClusterHealth(ctx context.Context, r *granaryv1.GetClusterHealthRequest) (*granaryv1.GetClusterHealthResponse, error) {
	return unary[*granaryv1.GetClusterHealthResponse](ctx, f, r)
}

func (f *fake) DrainNode(ctx context.Context, r *granaryv1.DrainNodeRequest) (*granaryv1.DrainNodeResponse, error) {
	return unary[*granaryv1.DrainNodeResponse](ctx, f, r)
}

func (f *fake) RelocateTenant(ctx context.Context, r *granaryv1.RelocateTenantRequest) (*granaryv1.RelocateTenantResponse, error) {
	return unary[*granaryv1.RelocateTenantResponse](ctx, f, r)
}

func (f *fake) Rebalance(ctx context.Context, r *granaryv1.RebalanceRequest) (*granaryv1.RebalanceResponse, error) {
	return unary[*granaryv1.RebalanceResponse](ctx, f, r)
}

func (f *fake) ListDeadLetters(ctx context.Context, r *granaryv1.ListDeadLettersRequest) (*granaryv1.ListDeadLettersResponse, error) {
	return unary[*granaryv1.ListDeadLettersResponse](ctx, f, r)
}

func (f *fake) RetryDeadLetter(ctx context.Context, r *granaryv1.RetryDeadLetterRequest) (*granaryv1.RetryDeadLetterResponse, error) {
	return unary[*granaryv1.RetryDeadLetterResponse](ctx, f, r)
}

func (f *fake) ListKeys(ctx context.Context, r *granaryv1.ListKeysRequest) (*granaryv1.ListKeysResponse, error) {
	return unary[*granaryv1.ListKeysResponse](ctx, f, r)
}

func (f *fake) RotateKey(ctx context.Context, r *granaryv1.RotateKeyRequest) (*granaryv1.RotateKeyResponse, error) {
	return unary[*granaryv1.RotateKeyResponse](ctx, f, r)
}

func (f *fake) ReencryptTenant(ctx context.Context, r *granaryv1.ReencryptTenantRequest) (*granaryv1.ReencryptTenantResponse, error) {
	return unary[*granaryv1.ReencryptTenantResponse](ctx, f, r)
}

func (f *fake) RotateMasterKey(ctx context.Context, r *granaryv1.RotateMasterKeyRequest) (*granaryv1.RotateMasterKeyResponse, error) {
	return unary[*granaryv1.RotateMasterKeyResponse](ctx, f, r)
}

func sampleNodes() []*granaryv1.Node {
	return []*granaryv1.Node{{
		Name: "nodes/n1", Id: "n1#a", ApiAddress: "10.0.0.1:8080", ActorsAddress: "10.0.0.1:7947", GossipAddress: "10.0.0.1:7946",
		Zone: "a", Roles: []string{"gateway", "host"}, State: granaryv1.NodeState_NODE_STATE_LIVE,
		Gossip: granaryv1.GossipState_GOSSIP_STATE_ALIVE, Version: "v1.2.3", Load: 0.4213, Healthy: true, Partitions: 341,
		Activations: 1234, LeaseAge: durationpb.New(240 * time.Millisecond), StartTime: at(0), Self: true,
	}, {
		Name: "nodes/n2", Id: "n2#b", State: granaryv1.NodeState_NODE_STATE_DRAINING, Gossip: granaryv1.GossipState_GOSSIP_STATE_SUSPECT,
		Load: 1.5, Problems: []string{"does not answer", "load 1.50"}, Partitions: 17, LeaseAge: durationpb.New(2 * time.Second),
	}, {
		Name: "nodes/n3", Id: "n3#c", State: granaryv1.NodeState_NODE_STATE_ABSENT, Gossip: granaryv1.GossipState_GOSSIP_STATE_ALIVE,
		Roles: []string{"gateway"}, Healthy: true,
	}, {Name: "nodes/n4", Id: "n4#d", State: granaryv1.NodeState_NODE_STATE_DEAD, Problems: []string{"its lease\x1b[31m expired"}}}
}

func sampleHealth() *granaryv1.ClusterHealth {
	return &granaryv1.ClusterHealth{State: granaryv1.HealthState_HEALTH_STATE_UNAVAILABLE, ViewVersion: 12, ActiveMembers: 2, Problems: []*granaryv1.HealthProblem{
		{Reason: "STORE_UNAVAILABLE", Message: "the store does not answer", State: granaryv1.HealthState_HEALTH_STATE_UNAVAILABLE},
		{Reason: "DEAD_LETTERS", Message: "documents were given up", State: granaryv1.HealthState_HEALTH_STATE_DEGRADED, Count: 3},
		{Reason: "NODE_UNREACHABLE", Message: "does not answer", State: granaryv1.HealthState_HEALTH_STATE_DEGRADED, Node: "nodes/n2"},
	}}
}

func samplePlacement(r *granaryv1.GetPlacementRequest) *granaryv1.Placement {
	p := &granaryv1.Placement{
		Tenant: tenantPrefix + shortTenant(r.GetTenant()), KnowledgeBase: r.GetKnowledgeBase(), Partition: 17, PartitionCount: 1021,
		Node: "nodes/n2", TableNode: "nodes/n2", ViewVersion: 12, SinceVersion: 9, SinceTime: at(5),
	}
	if r.GetKnowledgeBase() != "" {
		p.Overridden, p.TableNode, p.Active, p.Holder, p.Epoch = true, "nodes/n1", proto.Bool(true), "n2#b", 4
	}
	return p
}

// clusterScript answers every method of the cluster with samples, lists in two pages.
func clusterScript(req proto.Message) (proto.Message, error) {
	switch r := req.(type) {
	case *granaryv1.ListNodesRequest:
		if all := sampleNodes(); r.GetPageToken() == "" {
			return &granaryv1.ListNodesResponse{Nodes: all[:1], NextPageToken: "p2"}, nil
		}
		return &granaryv1.ListNodesResponse{Nodes: sampleNodes()[1:]}, nil
	case *granaryv1.GetViewRequest:
		return &granaryv1.GetViewResponse{View: &granaryv1.ClusterView{
			Version: 12, Round: 3, RoundCount: 10, Fingerprint: "f00d", CommitTime: at(0),
			Members: []*granaryv1.ViewMember{
				{Node: "nodes/n1", Id: "n1#a", Address: "10.0.0.1:7947", Zone: "a", State: granaryv1.NodeState_NODE_STATE_LIVE},
				{Node: "nodes/n2", Id: "n2#b", Address: "10.0.0.2:7947", State: granaryv1.NodeState_NODE_STATE_JOINING},
				{Node: "nodes/n4", Id: "n4#d", State: granaryv1.NodeState_NODE_STATE_DEAD},
			},
			Overrides: []*granaryv1.ViewOverride{{Tenant: "tenants/acme", Node: "nodes/n2"}},
		}}, nil
	case *granaryv1.GetPlacementRequest:
		return &granaryv1.GetPlacementResponse{Placement: samplePlacement(r)}, nil
	case *granaryv1.ListActivationsRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListActivationsResponse{NextPageToken: "p2", UnreachableNodes: []string{"nodes/n2"}, Activations: []*granaryv1.Activation{
				{Node: "nodes/n1", Kind: "kb", Tenant: "tenants/acme", Id: "handbook", StartTime: at(0), Idle: durationpb.New(90 * time.Second), Queued: 1, Pending: 2, Served: 300},
			}}, nil
		}
		return &granaryv1.ListActivationsResponse{UnreachableNodes: []string{"nodes/n2"}, Activations: []*granaryv1.Activation{
			{Node: "nodes/n1", Kind: "tenant", Tenant: "tenants/acme", Id: "acme", StartTime: at(1), Idle: durationpb.New(0), Served: 1, Stopping: true},
		}}, nil
	case *granaryv1.GetClusterHealthRequest:
		return &granaryv1.GetClusterHealthResponse{Health: &granaryv1.ClusterHealth{
			State: granaryv1.HealthState_HEALTH_STATE_OK, ViewVersion: 12, ActiveMembers: 3,
		}}, nil
	case *granaryv1.DrainNodeRequest:
		return &granaryv1.DrainNodeResponse{}, nil
	case *granaryv1.RelocateTenantRequest:
		return &granaryv1.RelocateTenantResponse{}, nil
	case *granaryv1.RebalanceRequest:
		return &granaryv1.RebalanceResponse{Moves: []*granaryv1.TenantMove{
			{
				Tenant: "tenants/acme", From: "nodes/n1", To: "nodes/n2", Reason: "OVERLOADED",
				FromScore: &granaryv1.PlacementScore{Total: 0.6, Locality: 1, Headroom: 0, Nearness: 1},
				ToScore:   &granaryv1.PlacementScore{Total: 0.78, Locality: 0.5, Headroom: 0.95, Nearness: 1},
			},
			{Tenant: "tenants/umbrella", To: "nodes/n1", Reason: "HOME"},
		}}, nil
	case *granaryv1.ListDeadLettersRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListDeadLettersResponse{NextPageToken: "p2", DeadLetters: []*granaryv1.DeadLetter{
				{Tenant: "tenants/acme", Document: "knowledgeBases/handbook/documents/leave.md-1f", DisplayName: "people/leave.md", Reason: "QUARANTINED", Time: at(0)},
			}}, nil
		}
		return &granaryv1.ListDeadLettersResponse{DeadLetters: []*granaryv1.DeadLetter{
			{Tenant: "tenants/umbrella", Document: "knowledgeBases/a/documents/d1", DisplayName: "日本語の資料 " + "long ", Reason: "QUARANTINED", Time: at(1)},
		}}, nil
	case *granaryv1.RetryDeadLetterRequest:
		return &granaryv1.RetryDeadLetterResponse{}, nil
	}
	return keysScript(req)
}

// rewraps makes every second call of RotateMasterKey the one that completes it.
var rewraps atomic.Int64

// keysScript answers what concerns keys.
func keysScript(req proto.Message) (proto.Message, error) {
	acme := &granaryv1.TenantKeys{Tenant: "tenants/acme", Version: 2, KeyId: "0a1b2c3d", MasterKeyId: "c0ffee00", CreateTime: at(0), RotateTime: at(3)}
	switch r := req.(type) {
	case *granaryv1.ListKeysRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListKeysResponse{NextPageToken: "p2", Keys: []*granaryv1.TenantKeys{
				{Version: 1, KeyId: "99887766", MasterKeyId: "c0ffee00", CreateTime: at(0), RotateTime: at(0)}, acme}}, nil
		}
		return &granaryv1.ListKeysResponse{Keys: []*granaryv1.TenantKeys{
			{Tenant: "tenants/gone", Version: 3, KeyId: "01020304", MasterKeyId: "c0ffee00", CreateTime: at(1), RotateTime: at(1), Destroyed: true}}}, nil
	case *granaryv1.RotateKeyRequest:
		return &granaryv1.RotateKeyResponse{Keys: acme}, nil
	case *granaryv1.ReencryptTenantRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ReencryptTenantResponse{SeenCount: 700, SealedCount: 600, BrokenCount: 1, Stage: "chunks", NextPageToken: "p2"}, nil
		}
		return &granaryv1.ReencryptTenantResponse{SeenCount: 50, SealedCount: 5, NotBefore: at(1)}, nil
	case *granaryv1.RotateMasterKeyRequest:
		if rewraps.Add(1)%2 == 1 {
			return &granaryv1.RotateMasterKeyResponse{MasterKeyId: "c0ffee00", WrappedCount: 200}, nil
		}
		return &granaryv1.RotateMasterKeyResponse{MasterKeyId: "c0ffee00", WrappedCount: 3, Complete: true}, nil
	}
	return nil, connect.NewError(connect.CodeUnimplemented, fmt.Sprintf("no script for %T", req))
}
