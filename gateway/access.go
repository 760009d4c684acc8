package gateway

import (
	"context"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway/apikey"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// access serves granary.v1.AccessService.
type access struct{ *Gateway }

const apiKeysPrefix = "apiKeys/"

// WhoAmI implements the service.
func (s access) WhoAmI(ctx context.Context, _ *v1.WhoAmIRequest) (*v1.WhoAmIResponse, error) {
	p := callOf(ctx).principal
	out := &v1.WhoAmIResponse{Tenant: tenantsPrefix + p.Tenant, Subject: p.Subject}
	for _, g := range p.Grants {
		out.Grants = append(out.Grants, &v1.AccessGrant{Role: string(g.Role), Workspace: g.Workspace, KnowledgeBase: g.KnowledgeBase})
	}
	if p.KeyID != "" {
		out.ApiKey = apiKeysPrefix + p.KeyID
	}
	if !p.Expires.IsZero() {
		out.ExpireTime = timestamppb.New(p.Expires)
	}
	return out, nil
}

// CreateApiKey implements the service. The key's text is made here and stays here:
// the tenant's grain gets the MAC.
func (s access) CreateApiKey(ctx context.Context, req *v1.CreateApiKeyRequest) (*v1.CreateApiKeyResponse, error) {
	if len(s.cfg.KeyPepper) < minPepper {
		return nil, kb.Errorf(kb.CodeUnimplemented, kb.ReasonUnknownOperation, "This server has no API keys.")
	}
	k, err := apikey.New(callOf(ctx).principal.Tenant, s.cfg.KeyPepper)
	if err != nil {
		return nil, err
	}
	reply, err := s.askTenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_CreateKey{
		CreateKey: &nodev1.CreateKey{Request: req, Id: k.ID, Mac: k.MAC(s.cfg.KeyPepper)}}}, taken(&req.RequestId))
	if err != nil {
		return nil, err
	}
	if reply.GetKey() == nil {
		return nil, errReply
	}
	if name := reply.GetKey().GetName(); name != apiKeysPrefix+k.ID { // of the first request under its key
		return nil, kb.Errorf(kb.CodeAlreadyExists, kb.ReasonKeyExists,
			"This request has made the API key %s, whose text was in its first answer only. If that is lost, revoke the key and make another.",
			strings.TrimPrefix(name, apiKeysPrefix)).With("api_key", name)
	}
	noStore(ctx)
	return &v1.CreateApiKeyResponse{ApiKey: reply.GetKey(), Secret: k.Reveal()}, nil
}

// taken takes the key of a request out of it: what is asked is the same with and without.
func taken(requestID *string) string {
	key := *requestID
	*requestID = ""
	return key
}

// noStore keeps an answer out of every cache.
func noStore(ctx context.Context) {
	if info, ok := connect.CallInfoForServerContext(ctx); ok {
		info.ResponseHeader().Set("Cache-Control", "no-store")
	}
}

// GetApiKey implements the service.
func (s access) GetApiKey(ctx context.Context, req *v1.GetApiKeyRequest) (*v1.GetApiKeyResponse, error) {
	reply, err := s.askTenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_GetKey{GetKey: req}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetKey() == nil {
		return nil, errReply
	}
	return &v1.GetApiKeyResponse{ApiKey: reply.GetKey()}, nil
}

// ListApiKeys implements the service.
func (s access) ListApiKeys(ctx context.Context, req *v1.ListApiKeysRequest) (*v1.ListApiKeysResponse, error) {
	reply, err := s.askTenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_ListKeys{ListKeys: req}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetKeys() == nil {
		return nil, errReply
	}
	return reply.GetKeys(), nil
}

// done sends a tenant what answers with nothing but that it is done.
func (s access) done(ctx context.Context, msg *nodev1.TenantCall, key string) (*emptypb.Empty, error) {
	reply, err := s.askTenant(ctx, msg, key)
	if err != nil {
		return nil, err
	}
	if reply.GetDone() == nil {
		return nil, errReply
	}
	return &emptypb.Empty{}, nil
}

// RevokeApiKey implements the service.
func (s access) RevokeApiKey(ctx context.Context, req *v1.RevokeApiKeyRequest) (*emptypb.Empty, error) {
	return s.done(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_RevokeKey{RevokeKey: req}}, taken(&req.RequestId))
}

// SetRoleBinding implements the service.
func (s access) SetRoleBinding(ctx context.Context, req *v1.SetRoleBindingRequest) (*v1.SetRoleBindingResponse, error) {
	b := req.GetBinding()
	if !validSubject(b.GetSubject()) || reserved(b.GetSubject()) {
		return nil, invalid(kb.ReasonRequestInvalid, "binding.subject", "Nobody can have this subject.")
	}
	if _, err := s.done(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_BindRole{BindRole: b}}, req.GetRequestId()); err != nil {
		return nil, err
	}
	return &v1.SetRoleBindingResponse{Binding: b}, nil
}

// RemoveRoleBinding implements the service.
func (s access) RemoveRoleBinding(ctx context.Context, req *v1.RemoveRoleBindingRequest) (*emptypb.Empty, error) {
	return s.done(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_UnbindRole{UnbindRole: req}}, taken(&req.RequestId))
}

// ListRoleBindings implements the service.
func (s access) ListRoleBindings(ctx context.Context, req *v1.ListRoleBindingsRequest) (*v1.ListRoleBindingsResponse, error) {
	reply, err := s.askTenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_ListRoles{ListRoles: req}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetRoles() == nil {
		return nil, errReply
	}
	return reply.GetRoles(), nil
}

func (s access) workspace(ctx context.Context, msg *nodev1.TenantCall, key string) (*v1.Workspace, error) {
	reply, err := s.askTenant(ctx, msg, key)
	if err != nil {
		return nil, err
	}
	if reply.GetWorkspace() == nil {
		return nil, errReply
	}
	return reply.GetWorkspace(), nil
}

// CreateWorkspace implements the service.
func (s access) CreateWorkspace(ctx context.Context, req *v1.CreateWorkspaceRequest) (*v1.CreateWorkspaceResponse, error) {
	w, err := s.workspace(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_CreateWorkspace{CreateWorkspace: req}}, taken(&req.RequestId))
	if err != nil {
		return nil, err
	}
	return &v1.CreateWorkspaceResponse{Workspace: w}, nil
}

// GetWorkspace implements the service.
func (s access) GetWorkspace(ctx context.Context, req *v1.GetWorkspaceRequest) (*v1.GetWorkspaceResponse, error) {
	w, err := s.workspace(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_GetWorkspace{GetWorkspace: req}}, "")
	if err != nil {
		return nil, err
	}
	return &v1.GetWorkspaceResponse{Workspace: w}, nil
}

// UpdateWorkspace implements the service.
func (s access) UpdateWorkspace(ctx context.Context, req *v1.UpdateWorkspaceRequest) (*v1.UpdateWorkspaceResponse, error) {
	w, err := s.workspace(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_UpdateWorkspace{UpdateWorkspace: req.GetWorkspace()}}, req.GetRequestId())
	if err != nil {
		return nil, err
	}
	return &v1.UpdateWorkspaceResponse{Workspace: w}, nil
}

// DeleteWorkspace implements the service.
func (s access) DeleteWorkspace(ctx context.Context, req *v1.DeleteWorkspaceRequest) (*emptypb.Empty, error) {
	return s.done(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_DeleteWorkspace{DeleteWorkspace: req}}, taken(&req.RequestId))
}

// ListWorkspaces implements the service.
func (s access) ListWorkspaces(ctx context.Context, req *v1.ListWorkspacesRequest) (*v1.ListWorkspacesResponse, error) {
	reply, err := s.askTenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_ListWorkspaces{ListWorkspaces: req}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetWorkspaces() == nil {
		return nil, errReply
	}
	return reply.GetWorkspaces(), nil
}
