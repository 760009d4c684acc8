package gateway

import (
	"context"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// tenants serves granary.v1.TenantService.
type tenants struct{ *Gateway }

// GetTenant implements the service.
func (s tenants) GetTenant(ctx context.Context, req *v1.GetTenantRequest) (*v1.GetTenantResponse, error) {
	out, err := s.tenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_Get{Get: req}}, "")
	if err != nil {
		return nil, err
	}
	return &v1.GetTenantResponse{Tenant: out}, nil
}

// GetUsage implements the service.
func (s tenants) GetUsage(ctx context.Context, req *v1.GetUsageRequest) (*v1.GetUsageResponse, error) {
	reply, err := s.askTenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_GetUsage{GetUsage: req}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetUsage() == nil {
		return nil, errReply
	}
	return &v1.GetUsageResponse{Usage: reply.GetUsage()}, nil
}

// UpdateTenantConfig implements the service.
func (s tenants) UpdateTenantConfig(ctx context.Context, req *v1.UpdateTenantConfigRequest) (*v1.UpdateTenantConfigResponse, error) {
	key := req.GetRequestId()
	req.RequestId = ""
	out, err := s.tenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_UpdateConfig{UpdateConfig: req}}, key)
	if err != nil {
		return nil, err
	}
	return &v1.UpdateTenantConfigResponse{Tenant: out}, nil
}

func (s tenants) tenant(ctx context.Context, msg *nodev1.TenantCall, key string) (*v1.Tenant, error) {
	reply, err := s.askTenant(ctx, msg, key)
	if err != nil {
		return nil, err
	}
	if reply.GetTenant() == nil {
		return nil, errReply
	}
	return reply.GetTenant(), nil
}

// searches serves granary.v1.SearchService.
type searches struct{ *Gateway }

// Search implements the service.
func (s searches) Search(ctx context.Context, req *v1.SearchRequest) (*v1.SearchResponse, error) {
	id, full, err := parseKnowledgeBase("knowledge_base", req.GetKnowledgeBase())
	if err != nil {
		return nil, err
	}
	req.KnowledgeBase = full
	if callOf(ctx).principal.unproven && !req.GetAllowStale() {
		return nil, unreachable()
	}
	reply, err := s.askKnowledgeBase(ctx, id, &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Search{Search: req}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetSearch() == nil {
		return nil, errReply
	}
	return reply.GetSearch(), nil
}

// RecountUsage implements the service.
func (s tenants) RecountUsage(ctx context.Context, req *v1.RecountUsageRequest) (*v1.RecountUsageResponse, error) {
	reply, err := s.askTenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_RecountUsage{RecountUsage: req}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetRecount() == nil {
		return nil, errReply
	}
	return reply.GetRecount(), nil
}
