package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// A document has at most 64 MiB, by either way of uploading, and the last byte
// too many is refused by name (A2).
func TestUploadsEndAt64MiB(t *testing.T) {
	if testing.Short() {
		t.Skip("sends 260 MB")
	}
	s, c, good := apiServer(t)
	m := s.meter()
	const size = 64 << 20
	line := "the loft holds barley and the cellar holds rye\n"
	text := []byte(strings.Repeat(line, size/len(line)+1)[:size])
	page := []byte("<!doctype html><html><body><p>A page with a huge remark.</p><!--" + strings.Repeat("-x", size/2))
	page = append(page[:size-3-14], "--></body></html>"...)
	d, err := c.add(t.Context(), "api", "huge.txt", text)
	if err != nil {
		t.Fatalf("64 MiB: %v", err)
	}
	if _, err = c.add(t.Context(), "api", "larger.txt", append(text, 'x')); reasonOf(err) != "UPLOAD_TOO_LARGE" {
		t.Errorf("64 MiB + 1: %v", err)
	}
	remark, err := c.add(t.Context(), "api", "remark.html", page)
	if err != nil {
		t.Fatalf("64 MiB of HTML: %v", err)
	}
	parts, token := append([]byte("other "), text[6:]...), ""
	for len(parts) > 0 {
		r, err := c.docs.AppendUpload(t.Context(), &granaryv1.AppendUploadRequest{UploadToken: token, Data: parts[:4<<20]})
		if err != nil {
			t.Fatal(err)
		}
		parts, token = parts[4<<20:], r.GetUploadToken()
	}
	_, err = c.docs.AppendUpload(t.Context(), &granaryv1.AppendUploadRequest{UploadToken: token, Data: []byte("x")})
	if reasonOf(err) != "UPLOAD_TOO_LARGE" {
		t.Errorf("64 MiB + 1 in parts: %v", err)
	}
	_, err = c.docs.AppendUpload(t.Context(), &granaryv1.AppendUploadRequest{Data: make([]byte, 4<<20+1)})
	if reasonOf(err) != invalidWhy {
		t.Errorf("a part of 4 MiB + 1: %v", err)
	}
	largeMessage(t, c)
	res, err := c.docs.CreateDocument(t.Context(), &granaryv1.CreateDocumentRequest{
		Spec: &granaryv1.DocumentSpec{KnowledgeBase: "api", DisplayName: "parts.txt"}, Source: &granaryv1.CreateDocumentRequest_UploadToken{UploadToken: token}})
	if err != nil {
		t.Fatalf("64 MiB in parts: %v", err)
	}
	docs := c.awaitAll(t, "api", time.Minute)
	for _, name := range []string{d.GetName(), res.GetDocument().GetName()} {
		if docs[name].GetSizeBytes() != size || outcome(docs[name]) != textLarge {
			t.Errorf("%s has %d bytes and ended as %v", name, docs[name].GetSizeBytes(), docs[name].GetError())
		}
	}
	t.Logf("64 MiB of HTML remark: %s", outcome(docs[remark.GetName()]))
	m.end()
	t.Log(m)
	if len(docs) != 4 || m.peak > serverCap || m.worker > workerCap+workerSlack {
		t.Errorf("%d documents, memory %v", len(docs), m)
	}
	stillServes(t, c, good)
}

// largeMessage sends more in one message of a stream than it may have.
func largeMessage(t *testing.T, c clients) {
	t.Helper()
	stream, _ := c.docs.UploadDocument(t.Context())
	_ = stream.Send(&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Spec{Spec: &granaryv1.DocumentSpec{KnowledgeBase: "api"}}})
	_ = stream.Send(&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Data{Data: make([]byte, 1<<20+1)}})
	if _, err := stream.CloseAndReceive(); reasonOf(err) != invalidWhy {
		t.Errorf("a message of 1 MiB + 1: %v", err)
	}
}

// reasonOf is the reason of an error of the API, else its text.
func reasonOf(err error) string {
	e, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return fmt.Sprint(err)
	}
	for _, d := range e.Details() {
		m, err := connectproto.UnmarshalErrorDetail(d)
		if info, ok := m.(*errdetails.ErrorInfo); err == nil && ok {
			return info.GetReason()
		}
	}
	return e.Error()
}
