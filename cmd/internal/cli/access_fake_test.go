package cli

import (
	"context"
	"fmt"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (f *fake) WhoAmI(ctx context.Context, r *granaryv1.WhoAmIRequest) (*granaryv1.WhoAmIResponse, error) {
	return unary[*granaryv1.WhoAmIResponse](ctx, f, r)
}

func (f *fake) CreateApiKey(ctx context.Context, r *granaryv1.CreateApiKeyRequest) (*granaryv1.CreateApiKeyResponse, error) {
	return unary[*granaryv1.CreateApiKeyResponse](ctx, f, r)
}

func (f *fake) GetApiKey(ctx context.Context, r *granaryv1.GetApiKeyRequest) (*granaryv1.GetApiKeyResponse, error) {
	return unary[*granaryv1.GetApiKeyResponse](ctx, f, r)
}

func (f *fake) ListApiKeys(ctx context.Context, r *granaryv1.ListApiKeysRequest) (*granaryv1.ListApiKeysResponse, error) {
	return unary[*granaryv1.ListApiKeysResponse](ctx, f, r)
}

func (f *fake) RevokeApiKey(ctx context.Context, r *granaryv1.RevokeApiKeyRequest) (*emptypb.Empty, error) {
	return unary[*emptypb.Empty](ctx, f, r)
}

func (f *fake) SetRoleBinding(ctx context.Context, r *granaryv1.SetRoleBindingRequest) (*granaryv1.SetRoleBindingResponse, error) {
	return unary[*granaryv1.SetRoleBindingResponse](ctx, f, r)
}

func (f *fake) RemoveRoleBinding(ctx context.Context, r *granaryv1.RemoveRoleBindingRequest) (*emptypb.Empty, error) {
	return unary[*emptypb.Empty](ctx, f, r)
}

func (f *fake) ListRoleBindings(ctx context.Context, r *granaryv1.ListRoleBindingsRequest) (*granaryv1.ListRoleBindingsResponse, error) {
	return unary[*granaryv1.ListRoleBindingsResponse](ctx, f, r)
}

func (f *fake) CreateWorkspace(ctx context.Context, r *granaryv1.CreateWorkspaceRequest) (*granaryv1.CreateWorkspaceResponse, error) {
	return unary[*granaryv1.CreateWorkspaceResponse](ctx, f, r)
}

func (f *fake) GetWorkspace(ctx context.Context, r *granaryv1.GetWorkspaceRequest) (*granaryv1.GetWorkspaceResponse, error) {
	return unary[*granaryv1.GetWorkspaceResponse](ctx, f, r)
}

func (f *fake) ListWorkspaces(ctx context.Context, r *granaryv1.ListWorkspacesRequest) (*granaryv1.ListWorkspacesResponse, error) {
	return unary[*granaryv1.ListWorkspacesResponse](ctx, f, r)
}

func (f *fake) UpdateWorkspace(ctx context.Context, r *granaryv1.UpdateWorkspaceRequest) (*granaryv1.UpdateWorkspaceResponse, error) {
	return unary[*granaryv1.UpdateWorkspaceResponse](ctx, f, r)
}

func (f *fake) DeleteWorkspace(ctx context.Context, r *granaryv1.DeleteWorkspaceRequest) (*emptypb.Empty, error) {
	return unary[*emptypb.Empty](ctx, f, r)
}

func (f *fake) CreateTenant(ctx context.Context, r *granaryv1.CreateTenantRequest) (*granaryv1.CreateTenantResponse, error) {
	return unary[*granaryv1.CreateTenantResponse](ctx, f, r)
}

func (f *fake) RecountTenantUsage(ctx context.Context, r *granaryv1.RecountTenantUsageRequest) (*granaryv1.RecountTenantUsageResponse, error) {
	return unary[*granaryv1.RecountTenantUsageResponse](ctx, f, r)
}

func (f *fake) DescribeTenantUsage(ctx context.Context, r *granaryv1.DescribeTenantUsageRequest) (*granaryv1.DescribeTenantUsageResponse, error) {
	return unary[*granaryv1.DescribeTenantUsageResponse](ctx, f, r)
}

func (f *fake) DescribeTenant(ctx context.Context, r *granaryv1.DescribeTenantRequest) (*granaryv1.DescribeTenantResponse, error) {
	return unary[*granaryv1.DescribeTenantResponse](ctx, f, r)
}

func (f *fake) ListTenants(ctx context.Context, r *granaryv1.ListTenantsRequest) (*granaryv1.ListTenantsResponse, error) {
	return unary[*granaryv1.ListTenantsResponse](ctx, f, r)
}

func (f *fake) UpdateTenant(ctx context.Context, r *granaryv1.UpdateTenantRequest) (*granaryv1.UpdateTenantResponse, error) {
	return unary[*granaryv1.UpdateTenantResponse](ctx, f, r)
}

func (f *fake) SuspendTenant(ctx context.Context, r *granaryv1.SuspendTenantRequest) (*granaryv1.SuspendTenantResponse, error) {
	return unary[*granaryv1.SuspendTenantResponse](ctx, f, r)
}

func (f *fake) ResumeTenant(ctx context.Context, r *granaryv1.ResumeTenantRequest) (*granaryv1.ResumeTenantResponse, error) {
	return unary[*granaryv1.ResumeTenantResponse](ctx, f, r)
}

func (f *fake) DeleteTenant(ctx context.Context, r *granaryv1.DeleteTenantRequest) (*granaryv1.DeleteTenantResponse, error) {
	return unary[*granaryv1.DeleteTenantResponse](ctx, f, r)
}

func (f *fake) UndeleteTenant(ctx context.Context, r *granaryv1.UndeleteTenantRequest) (*granaryv1.UndeleteTenantResponse, error) {
	return unary[*granaryv1.UndeleteTenantResponse](ctx, f, r)
}

func sampleKey() *granaryv1.ApiKey {
	return &granaryv1.ApiKey{
		Name: "apiKeys/jb2xg4tfmzuwk3lp", DisplayName: "ci", CreatedBy: "jane", CreateTime: at(0), ExpireTime: at(90), LastUsedTime: at(7),
		Grants: []*granaryv1.AccessGrant{{Role: "editor", KnowledgeBase: "handbook"}, {Role: "viewer", Workspace: "legal"}},
	}
}

func describedTenant(state granaryv1.TenantState) *granaryv1.Tenant {
	t := sampleTenant()
	t.State, t.DisplayName, t.CreatedByOperator = state, "Acme\x1b[31m Inc.", true
	t.LimitOverrides = &granaryv1.TenantLimits{StorageBytes: 10_000_000_000}
	switch state {
	case granaryv1.TenantState_TENANT_STATE_SUSPENDED:
		t.SuspendReason = "unpaid"
	case granaryv1.TenantState_TENANT_STATE_DELETED:
		t.PurgeTime = at(60)
	}
	return t
}

// accessScript answers what concerns access and tenants, lists in two pages.
func accessScript(req proto.Message) (proto.Message, error) {
	switch r := req.(type) {
	case *granaryv1.WhoAmIRequest:
		return &granaryv1.WhoAmIResponse{Tenant: "tenants/acme", Subject: "jane", ExpireTime: at(5), Grants: sampleKey().GetGrants()}, nil
	case *granaryv1.CreateApiKeyRequest:
		k := sampleKey()
		k.DisplayName, k.Grants, k.ExpireTime = r.GetDisplayName(), r.GetGrants(), r.GetExpireTime()
		return &granaryv1.CreateApiKeyResponse{ApiKey: k, Secret: "grnk_acme_jb2xg4tfmzuwk3lp_madeup"}, nil
	case *granaryv1.GetApiKeyRequest:
		return &granaryv1.GetApiKeyResponse{ApiKey: sampleKey()}, nil
	case *granaryv1.ListApiKeysRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListApiKeysResponse{NextPageToken: "p2", ApiKeys: []*granaryv1.ApiKey{sampleKey()}}, nil
		}
		return &granaryv1.ListApiKeysResponse{ApiKeys: []*granaryv1.ApiKey{{Name: "apiKeys/z", Grants: []*granaryv1.AccessGrant{{Role: "admin"}}}}}, nil
	case *granaryv1.RevokeApiKeyRequest, *granaryv1.RemoveRoleBindingRequest, *granaryv1.DeleteWorkspaceRequest:
		return &emptypb.Empty{}, nil
	case *granaryv1.SetRoleBindingRequest:
		return &granaryv1.SetRoleBindingResponse{Binding: r.GetBinding()}, nil
	case *granaryv1.ListRoleBindingsRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListRoleBindingsResponse{NextPageToken: "p2", Bindings: []*granaryv1.RoleBinding{
				{Subject: "jane", Grant: &granaryv1.AccessGrant{Role: "editor", Workspace: "legal"}}}}, nil
		}
		return &granaryv1.ListRoleBindingsResponse{Bindings: []*granaryv1.RoleBinding{{Subject: "zoë", Grant: &granaryv1.AccessGrant{Role: "admin"}}}}, nil
	case *granaryv1.CreateWorkspaceRequest:
		return &granaryv1.CreateWorkspaceResponse{Workspace: &granaryv1.Workspace{Name: "workspaces/" + r.GetWorkspaceId(), DisplayName: r.GetDisplayName(), CreateTime: at(0)}}, nil
	case *granaryv1.GetWorkspaceRequest:
		return &granaryv1.GetWorkspaceResponse{Workspace: &granaryv1.Workspace{Name: "workspaces/" + r.GetName(), CreateTime: at(0)}}, nil
	case *granaryv1.UpdateWorkspaceRequest:
		return &granaryv1.UpdateWorkspaceResponse{Workspace: r.GetWorkspace()}, nil
	case *granaryv1.ListWorkspacesRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListWorkspacesResponse{NextPageToken: "p2", Workspaces: []*granaryv1.Workspace{{Name: "workspaces/default"}}}, nil
		}
		return &granaryv1.ListWorkspacesResponse{Workspaces: []*granaryv1.Workspace{{Name: "workspaces/legal", DisplayName: "法務部", CreateTime: at(1)}}}, nil
	}
	return tenantScript(req)
}

func tenantScript(req proto.Message) (proto.Message, error) {
	active := describedTenant(granaryv1.TenantState_TENANT_STATE_ACTIVE)
	deleted := describedTenant(granaryv1.TenantState_TENANT_STATE_DELETED)
	switch r := req.(type) {
	case *granaryv1.CreateTenantRequest:
		return &granaryv1.CreateTenantResponse{Tenant: active}, nil
	case *granaryv1.DescribeTenantRequest:
		return &granaryv1.DescribeTenantResponse{Tenant: active}, nil
	case *granaryv1.UpdateTenantRequest:
		return &granaryv1.UpdateTenantResponse{Tenant: active}, nil
	case *granaryv1.SuspendTenantRequest:
		return &granaryv1.SuspendTenantResponse{Tenant: describedTenant(granaryv1.TenantState_TENANT_STATE_SUSPENDED)}, nil
	case *granaryv1.ResumeTenantRequest:
		return &granaryv1.ResumeTenantResponse{Tenant: active}, nil
	case *granaryv1.DeleteTenantRequest:
		return &granaryv1.DeleteTenantResponse{Tenant: deleted}, nil
	case *granaryv1.UndeleteTenantRequest:
		return &granaryv1.UndeleteTenantResponse{Tenant: active}, nil
	case *granaryv1.ListTenantsRequest:
		if r.GetPageToken() == "" {
			return &granaryv1.ListTenantsResponse{NextPageToken: "p2", Tenants: []*granaryv1.Tenant{active}}, nil
		}
		return &granaryv1.ListTenantsResponse{Tenants: []*granaryv1.Tenant{{Name: "tenants/old", Tier: "starter",
			State: granaryv1.TenantState_TENANT_STATE_DELETED, PurgeTime: at(9)}}}, nil
	}
	return nil, connect.NewError(connect.CodeUnimplemented, fmt.Sprintf("no script for %T", req))
}
