package gateway

import (
	"context"
	"errors"
	"io"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// UploadDocument implements the service: the first message says what, all others
// bring bytes, which go straight into the blob.
func (s documents) UploadDocument(ctx context.Context, stream granaryv1connect.DocumentServiceUploadDocumentServerStream) (*v1.UploadDocumentResponse, error) {
	connectionOf(ctx).reading()
	first, err := stream.Receive()
	if errors.Is(err, io.EOF) {
		return nil, invalid(kb.ReasonUploadInvalid, "spec", "The upload ended before its first message, which says what is uploaded.")
	}
	if err != nil {
		return nil, err
	}
	if first.GetSpec() == nil {
		return nil, invalid(kb.ReasonUploadInvalid, "spec", "The first message of an upload is its spec, not data.")
	}
	add, err := s.newAddition(ctx, "spec.knowledge_base", first.GetSpec())
	if err != nil {
		return nil, err
	}
	blob, err := s.receive(ctx, add, stream)
	if err != nil {
		return nil, err
	}
	result, err := s.offer(ctx, add, blob)
	if err != nil {
		return nil, err
	}
	return &v1.UploadDocumentResponse{Document: result.GetDocument(), Duplicate: result.GetDuplicate()}, nil
}

// receive writes the data messages into a blob. It stops reading at the first
// message that is wrong or passes the cap; the blob is then discarded.
func (s documents) receive(ctx context.Context, add addition, stream granaryv1connect.DocumentServiceUploadDocumentServerStream) (journal.BlobInfo, error) {
	w, err := s.cfg.Blobs.CreateBlob(ctx, callOf(ctx).principal.Tenant)
	if err != nil {
		return journal.BlobInfo{}, err
	}
	defer w.Abort()
	var size int64
	room := s.room(add)
	for {
		connectionOf(ctx).reading()
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return w.Commit(ctx)
		}
		if err != nil {
			return journal.BlobInfo{}, err
		}
		part, ok := msg.GetPart().(*v1.UploadDocumentRequest_Data)
		if !ok {
			return journal.BlobInfo{}, invalid(kb.ReasonUploadInvalid, "spec", "Only the first message of an upload is a spec.")
		}
		if size += int64(len(part.Data)); size > s.cfg.MaxUpload {
			return journal.BlobInfo{}, s.tooLarge()
		}
		if err := room.check(ctx, size); err != nil {
			return journal.BlobInfo{}, err
		}
		if _, err := w.Write(part.Data); err != nil {
			return journal.BlobInfo{}, err
		}
	}
}
