package gateway

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// documents serves granary.v1.DocumentService; adding documents is in add.go,
// upload.go and append.go.
type documents struct{ *Gateway }

// GetDocument implements the service.
func (s documents) GetDocument(ctx context.Context, req *v1.GetDocumentRequest) (*v1.GetDocumentResponse, error) {
	out, err := s.document(ctx, req.GetName(),
		&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_GetDocument{GetDocument: req}}, "")
	if err != nil {
		return nil, err
	}
	return &v1.GetDocumentResponse{Document: out}, nil
}

// ListDocuments implements the service.
func (s documents) ListDocuments(ctx context.Context, req *v1.ListDocumentsRequest) (*v1.ListDocumentsResponse, error) {
	id, full, err := parseKnowledgeBase("parent", req.GetParent())
	if err != nil {
		return nil, err
	}
	req.Parent = full
	reply, err := s.askKnowledgeBase(ctx, id,
		&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ListDocuments{ListDocuments: req}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetDocuments() == nil {
		return nil, errReply
	}
	return reply.GetDocuments(), nil
}

// DeleteDocument implements the service.
func (s documents) DeleteDocument(ctx context.Context, req *v1.DeleteDocumentRequest) (*emptypb.Empty, error) {
	owner, err := documentOwner("name", req.GetName())
	if err != nil {
		return nil, err
	}
	key := req.GetRequestId()
	req.RequestId = ""
	reply, err := s.askKnowledgeBase(ctx, owner,
		&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_DeleteDocument{DeleteDocument: req}}, key)
	if err != nil {
		return nil, err
	}
	if reply.GetDone() == nil {
		return nil, errReply
	}
	return &emptypb.Empty{}, nil
}

// CancelDocument implements the service.
func (s documents) CancelDocument(ctx context.Context, req *v1.CancelDocumentRequest) (*v1.CancelDocumentResponse, error) {
	key := req.GetRequestId()
	req.RequestId = ""
	out, err := s.document(ctx, req.GetName(),
		&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_CancelDocument{CancelDocument: req}}, key)
	if err != nil {
		return nil, err
	}
	return &v1.CancelDocumentResponse{Document: out}, nil
}

// ReprocessDocument implements the service.
func (s documents) ReprocessDocument(ctx context.Context, req *v1.ReprocessDocumentRequest) (*v1.ReprocessDocumentResponse, error) {
	key := req.GetRequestId()
	req.RequestId = ""
	out, err := s.document(ctx, req.GetName(),
		&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ReprocessDocument{ReprocessDocument: req}}, key)
	if err != nil {
		return nil, err
	}
	return &v1.ReprocessDocumentResponse{Document: out}, nil
}

// ListChunks implements the service.
func (s documents) ListChunks(ctx context.Context, req *v1.ListChunksRequest) (*v1.ListChunksResponse, error) {
	owner, err := documentOwner("parent", req.GetParent())
	if err != nil {
		return nil, err
	}
	reply, err := s.askKnowledgeBase(ctx, owner,
		&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ListChunks{ListChunks: req}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetChunks() == nil {
		return nil, errReply
	}
	return reply.GetChunks(), nil
}

// GetDocumentText implements the service.
func (s documents) GetDocumentText(ctx context.Context, req *v1.GetDocumentTextRequest) (*v1.GetDocumentTextResponse, error) {
	owner, err := documentOwner("name", req.GetName())
	if err != nil {
		return nil, err
	}
	reply, err := s.askKnowledgeBase(ctx, owner,
		&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_GetText{GetText: req}}, "")
	if err != nil {
		return nil, err
	}
	if reply.GetText() == nil {
		return nil, errReply
	}
	return reply.GetText(), nil
}

func (s documents) document(ctx context.Context, name string, msg *nodev1.KnowledgeBaseCall, key string) (*v1.Document, error) {
	owner, err := documentOwner("name", name)
	if err != nil {
		return nil, err
	}
	reply, err := s.askKnowledgeBase(ctx, owner, msg, key)
	if err != nil {
		return nil, err
	}
	if reply.GetDocument() == nil {
		return nil, errReply
	}
	return reply.GetDocument(), nil
}
