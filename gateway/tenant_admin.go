package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// TenantDirectory lists the ids of all tenants anything was ever written for, those
// that were erased among them, in order, after one; "" starts.
type TenantDirectory interface {
	TenantIDs(ctx context.Context, after string, limit int) ([]string, error)
}

// tenantAdmin serves granary.v1.TenantAdminService, to operators.
type tenantAdmin struct{ operations }

// ask sends an operation to any tenant, in the operator's name.
func (s tenantAdmin) ask(ctx context.Context, name string, msg *nodev1.TenantCall, key string) (*v1.Tenant, error) {
	reply, err := s.askAny(ctx, name, msg, key)
	if err != nil {
		return nil, err
	}
	if reply.GetTenant() == nil {
		return nil, errReply
	}
	return reply.GetTenant(), nil
}

func (s tenantAdmin) askAny(ctx context.Context, name string, msg *nodev1.TenantCall, key string) (*nodev1.TenantReply, error) {
	id := strings.TrimPrefix(name, tenantsPrefix)
	if !ValidTenant(id) {
		return nil, invalid(kb.ReasonRequestInvalid, "name", "%q is no tenant.", name)
	}
	h, err := operatorHeader(ctx, id, key)
	if err != nil {
		return nil, err
	}
	msg.Header = h
	answer, err := s.cfg.Grains.Ask(ctx, kindTenant, id, id, msg)
	if err != nil {
		return nil, err
	}
	reply, ok := answer.(*nodev1.TenantReply)
	switch {
	case ok && reply.GetError() != nil:
		return nil, refusal{domainError(reply.GetError())}
	case !ok:
		return nil, fmt.Errorf("%w: %T", errReply, answer)
	}
	return reply, nil
}

// operatorHeader tells a grain of any tenant that an operator asks.
func operatorHeader(ctx context.Context, tenant, key string) (*nodev1.Header, error) {
	c := callOf(ctx)
	if !c.operator.Valid() {
		return nil, errors.New("gateway: call without an operator")
	}
	h := &nodev1.Header{Tenant: tenant, Principal: operatorSubject + c.operator.Subject, RequestId: c.requestID, Remote: c.remote, Internal: true}
	return h, complete(ctx, h, key)
}

// CreateTenant implements the service.
func (s tenantAdmin) CreateTenant(ctx context.Context, req *v1.CreateTenantRequest) (*v1.CreateTenantResponse, error) {
	s.record(ctx, slog.String("tenant", req.GetTenantId()))
	t, err := s.ask(ctx, req.GetTenantId(), &nodev1.TenantCall{Operation: &nodev1.TenantCall_CreateTenant{CreateTenant: req}}, taken(&req.RequestId))
	if err != nil {
		return nil, err
	}
	return &v1.CreateTenantResponse{Tenant: t}, nil
}

// DescribeTenant implements the service.
func (s tenantAdmin) DescribeTenant(ctx context.Context, req *v1.DescribeTenantRequest) (*v1.DescribeTenantResponse, error) {
	t, err := s.ask(ctx, req.GetName(), &nodev1.TenantCall{Operation: &nodev1.TenantCall_DescribeTenant{DescribeTenant: req}}, "")
	if err != nil {
		return nil, err
	}
	return &v1.DescribeTenantResponse{Tenant: t}, nil
}

// DescribeTenantUsage implements the service.
func (s tenantAdmin) DescribeTenantUsage(ctx context.Context, req *v1.DescribeTenantUsageRequest) (*v1.DescribeTenantUsageResponse, error) {
	if err := s.exists(ctx, req.GetName()); err != nil {
		return nil, err
	}
	reply, err := s.askAny(ctx, req.GetName(), &nodev1.TenantCall{Operation: &nodev1.TenantCall_GetUsage{GetUsage: &v1.GetUsageRequest{}}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetUsage() == nil {
		return nil, errReply
	}
	return &v1.DescribeTenantUsageResponse{Usage: reply.GetUsage()}, nil
}

// exists refuses a tenant that does not: it has used nothing, and shows nothing.
func (s tenantAdmin) exists(ctx context.Context, name string) error {
	_, err := s.ask(ctx, name, &nodev1.TenantCall{Operation: &nodev1.TenantCall_DescribeTenant{DescribeTenant: &v1.DescribeTenantRequest{Name: name}}}, "")
	return err
}

// RecountTenantUsage implements the service.
func (s tenantAdmin) RecountTenantUsage(ctx context.Context, req *v1.RecountTenantUsageRequest) (*v1.RecountTenantUsageResponse, error) {
	if err := s.exists(ctx, req.GetName()); err != nil {
		return nil, err
	}
	reply, err := s.askAny(ctx, req.GetName(), &nodev1.TenantCall{Operation: &nodev1.TenantCall_RecountUsage{RecountUsage: &v1.RecountUsageRequest{}}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetRecount() == nil {
		return nil, errReply
	}
	return &v1.RecountTenantUsageResponse{Recounts: reply.GetRecount().GetRecounts()}, nil
}

// UpdateTenant implements the service.
func (s tenantAdmin) UpdateTenant(ctx context.Context, req *v1.UpdateTenantRequest) (*v1.UpdateTenantResponse, error) {
	s.record(ctx, slog.String("tenant", req.GetName()), slog.String("tier", req.GetTier()))
	t, err := s.ask(ctx, req.GetName(), &nodev1.TenantCall{Operation: &nodev1.TenantCall_UpdateTenant{UpdateTenant: req}}, taken(&req.RequestId))
	if err != nil {
		return nil, err
	}
	return &v1.UpdateTenantResponse{Tenant: t}, nil
}

// SuspendTenant implements the service.
func (s tenantAdmin) SuspendTenant(ctx context.Context, req *v1.SuspendTenantRequest) (*v1.SuspendTenantResponse, error) {
	s.record(ctx, slog.String("tenant", req.GetName()))
	t, err := s.ask(ctx, req.GetName(), &nodev1.TenantCall{Operation: &nodev1.TenantCall_SuspendTenant{SuspendTenant: req}}, taken(&req.RequestId))
	if err != nil {
		return nil, err
	}
	return &v1.SuspendTenantResponse{Tenant: t}, nil
}

// ResumeTenant implements the service.
func (s tenantAdmin) ResumeTenant(ctx context.Context, req *v1.ResumeTenantRequest) (*v1.ResumeTenantResponse, error) {
	s.record(ctx, slog.String("tenant", req.GetName()))
	t, err := s.ask(ctx, req.GetName(), &nodev1.TenantCall{Operation: &nodev1.TenantCall_ResumeTenant{ResumeTenant: req}}, taken(&req.RequestId))
	if err != nil {
		return nil, err
	}
	return &v1.ResumeTenantResponse{Tenant: t}, nil
}

// DeleteTenant implements the service. It answers when the deletion is in force on every
// node: from then on nobody finds anything.
func (s tenantAdmin) DeleteTenant(ctx context.Context, req *v1.DeleteTenantRequest) (*v1.DeleteTenantResponse, error) {
	s.record(ctx, slog.String("tenant", req.GetName()))
	t, err := s.ask(ctx, req.GetName(), &nodev1.TenantCall{Operation: &nodev1.TenantCall_DeleteTenant{DeleteTenant: req}}, taken(&req.RequestId))
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, standingLife); err != nil {
		return nil, err
	}
	return &v1.DeleteTenantResponse{Tenant: t}, nil
}

// UndeleteTenant implements the service.
func (s tenantAdmin) UndeleteTenant(ctx context.Context, req *v1.UndeleteTenantRequest) (*v1.UndeleteTenantResponse, error) {
	s.record(ctx, slog.String("tenant", req.GetName()))
	t, err := s.ask(ctx, req.GetName(), &nodev1.TenantCall{Operation: &nodev1.TenantCall_UndeleteTenant{UndeleteTenant: req}}, taken(&req.RequestId))
	if err != nil {
		return nil, err
	}
	return &v1.UndeleteTenantResponse{Tenant: t}, nil
}

// ListTenants implements the service. Each tenant of a page tells of itself;
// those that were erased are left out.
func (s tenantAdmin) ListTenants(ctx context.Context, req *v1.ListTenantsRequest) (*v1.ListTenantsResponse, error) {
	after, err := parsePosition(req.GetPageToken(), "tenants")
	if err != nil {
		return nil, err
	}
	if s.cfg.Tenants == nil {
		return nil, errors.New("gateway: no directory of tenants")
	}
	limit := pageLimit(req.GetPageSize())
	ids, err := s.cfg.Tenants.TenantIDs(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	out := &v1.ListTenantsResponse{}
	for _, id := range ids {
		t, err := s.ask(ctx, id, &nodev1.TenantCall{Operation: &nodev1.TenantCall_DescribeTenant{DescribeTenant: &v1.DescribeTenantRequest{Name: id}}}, "")
		switch {
		case kb.Is(err, kb.ReasonTenantNotFound):
		case err != nil:
			return nil, err
		default:
			out.Tenants = append(out.Tenants, t)
		}
	}
	if len(ids) == limit {
		out.NextPageToken = position(ids[len(ids)-1], "tenants")
	}
	return out, nil
}
