package gateway

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// knowledgeBases serves granary.v1.KnowledgeBaseService. The key of a changing
// request travels in the header alone, so that a request means the same whether
// its key came as a field or as a header.
type knowledgeBases struct{ *Gateway }

// CreateKnowledgeBase implements the service.
func (s knowledgeBases) CreateKnowledgeBase(ctx context.Context, req *v1.CreateKnowledgeBaseRequest) (*v1.CreateKnowledgeBaseResponse, error) {
	key := req.GetRequestId()
	req.RequestId = ""
	out, err := s.knowledgeBase(ctx, req.GetKnowledgeBaseId(),
		&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Create{Create: req}}, key)
	if err != nil {
		return nil, err
	}
	return &v1.CreateKnowledgeBaseResponse{KnowledgeBase: out}, nil
}

// GetKnowledgeBase implements the service.
func (s knowledgeBases) GetKnowledgeBase(ctx context.Context, req *v1.GetKnowledgeBaseRequest) (*v1.GetKnowledgeBaseResponse, error) {
	id, full, err := parseKnowledgeBase("name", req.GetName())
	if err != nil {
		return nil, err
	}
	req.Name = full
	out, err := s.knowledgeBase(ctx, id, &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Get{Get: req}}, "")
	if err != nil {
		return nil, err
	}
	return &v1.GetKnowledgeBaseResponse{KnowledgeBase: out}, nil
}

// ListKnowledgeBases implements the service.
func (s knowledgeBases) ListKnowledgeBases(ctx context.Context, req *v1.ListKnowledgeBasesRequest) (*v1.ListKnowledgeBasesResponse, error) {
	reply, err := s.askTenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_List{List: req}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetList() == nil {
		return nil, errReply
	}
	return reply.GetList(), nil
}

// UpdateKnowledgeBase implements the service.
func (s knowledgeBases) UpdateKnowledgeBase(ctx context.Context, req *v1.UpdateKnowledgeBaseRequest) (*v1.UpdateKnowledgeBaseResponse, error) {
	id, full, err := parseKnowledgeBase("knowledge_base.name", req.GetKnowledgeBase().GetName())
	if err != nil {
		return nil, err
	}
	key := req.GetRequestId()
	req.KnowledgeBase.Name, req.RequestId = full, ""
	out, err := s.knowledgeBase(ctx, id, &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Update{Update: req}}, key)
	if err != nil {
		return nil, err
	}
	return &v1.UpdateKnowledgeBaseResponse{KnowledgeBase: out}, nil
}

// DeleteKnowledgeBase implements the service.
func (s knowledgeBases) DeleteKnowledgeBase(ctx context.Context, req *v1.DeleteKnowledgeBaseRequest) (*emptypb.Empty, error) {
	id, full, err := parseKnowledgeBase("name", req.GetName())
	if err != nil {
		return nil, err
	}
	key := req.GetRequestId()
	req.Name, req.RequestId = full, ""
	reply, err := s.askKnowledgeBase(ctx, id, &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Delete{Delete: req}}, key)
	if err != nil {
		return nil, err
	}
	if reply.GetDone() == nil {
		return nil, errReply
	}
	return &emptypb.Empty{}, nil
}

func (s knowledgeBases) knowledgeBase(ctx context.Context, id string, msg *nodev1.KnowledgeBaseCall, key string) (*v1.KnowledgeBase, error) {
	reply, err := s.askKnowledgeBase(ctx, id, msg, key)
	if err != nil {
		return nil, err
	}
	if reply.GetKnowledgeBase() == nil {
		return nil, errReply
	}
	return reply.GetKnowledgeBase(), nil
}
