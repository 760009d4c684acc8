package gateway_test

import (
	"context"
	"testing"

	"connectrpc.com/connect/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// B4: an upload for which there is no room is refused before it has travelled, and what
// has come is dropped.
func TestAnUploadWithoutRoomIsRefusedEarly_B4(t *testing.T) {
	w := start(t)
	const room = 5 << 20
	refusal := &nodev1.Error{Code: int32(kb.CodeResourceExhausted), Reason: kb.ReasonStorageLimit, Message: "full"}
	w.grains.setScript(func(_ context.Context, a asked) (proto.Message, error) {
		if m, ok := a.msg.(*nodev1.TenantCall); ok {
			if m.GetCheckStorage().GetBytes() > room {
				return &nodev1.TenantReply{Result: &nodev1.TenantReply_Error{Error: refusal}}, nil
			}
			return &nodev1.TenantReply{Result: &nodev1.TenantReply_Done{Done: &nodev1.Done{}}}, nil
		}
		if a.kb().GetStorage().GetCheck() > room {
			return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Error{Error: refusal}}, nil
		}
		return addReply(false), nil
	})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+w.token("editor"))
	stream, err := dialGRPC(t, w).NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/granary.v1.DocumentService/UploadDocument")
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 256<<10)
	err = stream.SendMsg(specMessage("handbook"))
	for sent := 0; err == nil && sent < 64<<20; sent += len(chunk) {
		err = stream.SendMsg(dataMessage(chunk))
	}
	err = stream.RecvMsg(&v1.UploadDocumentResponse{})
	if status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("got %v", err)
	}
	last := int64(0)
	for _, a := range w.grains.all() {
		last = max(last, a.kb().GetStorage().GetCheck())
		if a.kb().GetAddDocument() != nil {
			t.Error("the document was offered")
		}
	}
	if last > 2*room+int64(len(chunk)) {
		t.Errorf("refused after %d bytes", last)
	}
	w.blobs.mu.Lock()
	if w.blobs.aborted != 1 || len(w.blobs.kept) != 0 {
		t.Errorf("aborted %d, kept %d", w.blobs.aborted, len(w.blobs.kept))
	}
	w.blobs.mu.Unlock()
	// In parts the knowledge base is not named: the tenant is asked.
	c := granaryv1connect.NewDocumentServiceClient(w.client(w.token("editor")))
	token := ""
	for part := range 8 {
		res, err := c.AppendUpload(t.Context(), &v1.AppendUploadRequest{UploadToken: token, Data: make([]byte, 2<<20)})
		if part == 2 {
			if connect.CodeOf(err) != connect.CodeResourceExhausted {
				t.Fatalf("part %d: %v", part, err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		token = res.GetUploadToken()
	}
}
