package gateway_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

func specMessage(knowledgeBase string) *v1.UploadDocumentRequest {
	return &v1.UploadDocumentRequest{Part: &v1.UploadDocumentRequest_Spec{Spec: &v1.DocumentSpec{KnowledgeBase: knowledgeBase, RequestId: "u1"}}}
}

func dataMessage(b []byte) *v1.UploadDocumentRequest {
	return &v1.UploadDocumentRequest{Part: &v1.UploadDocumentRequest_Data{Data: b}}
}

// upload sends messages until one is not taken, as a client does.
func (w *world) upload(messages ...*v1.UploadDocumentRequest) (*v1.UploadDocumentResponse, error) {
	w.Helper()
	c := granaryv1connect.NewDocumentServiceClient(w.client(w.token("editor")))
	stream, err := c.UploadDocument(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			if !errors.Is(err, io.EOF) {
				w.Logf("send: %v", err)
			}
			break
		}
	}
	return stream.CloseAndReceive()
}

func TestStreamedUpload_C3(t *testing.T) {
	w := start(t)
	w.grains.answer(addReply(false))
	out, err := w.upload(specMessage("handbook"), dataMessage([]byte("one ")), dataMessage([]byte("two")))
	if err != nil || out.GetDocument().GetName() == "" {
		t.Fatal(out, err)
	}
	a := w.grains.last(t)
	add := a.kb().GetAddDocument()
	if got := w.blobs.body(t, "acme", add.GetSource().GetBlob()); got != "one two" || add.GetSource().GetSizeBytes() != 7 {
		t.Errorf("blob %q, source %v", got, add.GetSource())
	}
	if h := a.kb().GetHeader(); h.GetIdempotencyKey() != "u1" || h.GetMethod() != "granary.v1.DocumentService/UploadDocument" {
		t.Errorf("header %v", h)
	}
	if out, err = w.upload(specMessage("handbook")); err != nil {
		t.Errorf("an empty file: %v %v", out, err)
	}
}

func TestUploadsThatAreNone_C3(t *testing.T) {
	w := start(t)
	w.grains.answer(addReply(false))
	data := dataMessage([]byte("x"))
	for name, c := range map[string]struct {
		messages []*v1.UploadDocumentRequest
		reason   string
	}{
		"nothing":            {nil, kb.ReasonUploadInvalid},
		"data first":         {[]*v1.UploadDocumentRequest{data}, kb.ReasonUploadInvalid},
		"two specs":          {[]*v1.UploadDocumentRequest{specMessage("handbook"), data, specMessage("handbook")}, kb.ReasonUploadInvalid},
		"spec not valid":     {[]*v1.UploadDocumentRequest{specMessage("No Name"), data}, kb.ReasonRequestInvalid},
		"empty message":      {[]*v1.UploadDocumentRequest{specMessage("handbook"), {}}, kb.ReasonRequestInvalid},
		"message over 1 MiB": {[]*v1.UploadDocumentRequest{specMessage("handbook"), dataMessage(make([]byte, 1<<20+1))}, kb.ReasonRequestInvalid},
		"message over 3 MiB": {[]*v1.UploadDocumentRequest{specMessage("handbook"), dataMessage(make([]byte, 4<<20))}, kb.ReasonRequestInvalid},
	} {
		_, err := w.upload(c.messages...)
		if connect.CodeOf(err) != connect.CodeInvalidArgument || detailsOf(t, err).info.GetReason() != c.reason {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w.grains.all()) != 0 || w.blobs.count() != 0 {
		t.Errorf("%d calls to grains, %d blobs kept", len(w.grains.all()), w.blobs.count())
	}
}

// TestAnUploadOverTheCapIsStoppedAndHeldInNoMemory_C3 sends 64 MiB + 1 byte by gRPC.
func TestAnUploadOverTheCapIsStoppedAndHeldInNoMemory_C3(t *testing.T) {
	w := start(t)
	w.blobs.discard = true
	defer debug.SetGCPercent(debug.SetGCPercent(20)) // so that the heap shows what is held, not what is garbage
	w.grains.answer(addReply(false))
	chunk := make([]byte, 1<<20)
	send := func(total int) (grown uint64, err error) {
		runtime.GC()
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		var peak uint64
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+w.token("editor"))
		stream, err := dialGRPC(t, w).NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/granary.v1.DocumentService/UploadDocument")
		if err != nil {
			t.Fatal(err)
		}
		err = stream.SendMsg(specMessage("handbook"))
		for sent := 0; err == nil && sent < total; sent += len(chunk) {
			err = stream.SendMsg(dataMessage(chunk[:min(len(chunk), total-sent)]))
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapInuse)
		}
		if err == nil {
			err = stream.CloseSend()
		}
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		err = stream.RecvMsg(&v1.UploadDocumentResponse{})
		return peak - min(peak, before.HeapInuse), err
	}
	grown, err := send(gateway.MaxUpload)
	if err != nil {
		t.Fatalf("64 MiB: %v", err)
	}
	t.Logf("64 MiB: heap of client and server together grew by %d KiB at most", grown>>10)
	if grown > 32<<20 {
		t.Errorf("heap grew by %d MiB", grown>>20)
	}
	if got := w.grains.last(t).kb().GetAddDocument().GetSource().GetSizeBytes(); got != gateway.MaxUpload {
		t.Errorf("size %d", got)
	}
	additions := func() (n int) {
		for _, a := range w.grains.all() {
			if a.kb().GetAddDocument() != nil {
				n++
			}
		}
		return n
	}
	asked := additions()
	grown, err = send(gateway.MaxUpload + 1)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "67108864") {
		t.Errorf("64 MiB + 1: %v", err)
	}
	if grown > 32<<20 {
		t.Errorf("heap grew by %d MiB", grown>>20)
	}
	w.blobs.mu.Lock()
	defer w.blobs.mu.Unlock()
	if additions() != asked || w.blobs.aborted != 1 {
		t.Errorf("grains asked: %v, aborted %d", additions() != asked, w.blobs.aborted)
	}
}

func TestAnUploadBrokenOffLeavesNothing_C3(t *testing.T) {
	w := start(t)
	c := granaryv1connect.NewDocumentServiceClient(w.client(w.token("editor")))
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.UploadDocument(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*v1.UploadDocumentRequest{specMessage("handbook"), dataMessage([]byte("x"))} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	<-w.blobs.onBegin // else it is broken off before anything was begun
	cancel()
	select {
	case <-w.blobs.onAbort:
	case <-time.After(5 * time.Second):
		t.Fatal("the blob was not discarded")
	}
	if w.blobs.count() != 0 || len(w.grains.all()) != 0 {
		t.Error("something was left")
	}
}

// append sends one part and gives the next token.
func (w *world) append(token, credential string, data []byte) (string, string) {
	w.Helper()
	raw, err := json.Marshal(map[string]any{"uploadToken": token, "data": data})
	if err != nil {
		w.Fatal(err)
	}
	res, body := w.post(credential, "/granary.v1.DocumentService/AppendUpload", string(raw))
	var out struct{ UploadToken string }
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		w.Fatal(err)
	}
	if res.StatusCode != 200 {
		return "", body
	}
	return out.UploadToken, body
}

func (w *world) createFrom(token, credential, more string) (int, string) {
	w.Helper()
	res, body := w.post(credential, createDocument, `{"spec":{"knowledgeBase":"handbook"},"uploadToken":"`+token+`"`+more+`}`)
	return res.StatusCode, body
}

func TestUploadInParts_C3(t *testing.T) {
	w := start(t)
	w.grains.answer(addReply(false))
	ada := w.token("editor")
	a, b := bytes.Repeat([]byte("a"), 64<<10), []byte("the end")
	token, _ := w.append("", ada, a)
	token, body := w.append(token, ada, b)
	if !strings.Contains(body, `"65543"`) {
		t.Errorf("size: %s", body)
	}
	if _, body := w.append(token, ada, b); !strings.Contains(body, kb.ReasonUploadInvalid) {
		t.Errorf("after a last part: %s", body)
	}
	if code, body := w.createFrom(token, ada, `,"validateOnly":true`); code != 200 {
		t.Fatal(body)
	}
	if w.blobs.count() != 2 {
		t.Fatalf("%d blobs after validation", w.blobs.count())
	}
	if code, body := w.createFrom(token, ada, ""); code != 200 {
		t.Fatal(body)
	}
	source := w.grains.last(t).kb().GetAddDocument().GetSource()
	if got := w.blobs.body(t, "acme", source.GetBlob()); got != string(a)+string(b) {
		t.Errorf("%d bytes", len(got))
	}
	if w.blobs.count() != 1 {
		t.Errorf("%d blobs are left, want the document's alone", w.blobs.count())
	}
	if code, body := w.createFrom(token, ada, ""); code != 400 || !strings.Contains(body, kb.ReasonUploadInvalid) {
		t.Errorf("used twice: %d %s", code, body)
	}
}

func TestAKeyedCreateFromPartsCanBeRepeated_I5(t *testing.T) {
	w := start(t)
	w.grains.answer(addReply(false))
	ada := w.token("editor")
	token, _ := w.append("", ada, []byte("all"))
	for range 2 {
		res, body := w.post(ada, createDocument, `{"spec":{"knowledgeBase":"handbook","requestId":"r1"},"uploadToken":"`+token+`"}`)
		if res.StatusCode != 200 {
			t.Fatal(body)
		}
	}
	calls := w.grains.all()
	if one, two := calls[0].kb().GetAddDocument().GetSource(), calls[1].kb().GetAddDocument().GetSource(); one.GetSha256() != two.GetSha256() {
		t.Errorf("%v and %v", one, two)
	}
}

func TestARefusedCreateKeepsTheParts_C3(t *testing.T) {
	w := start(t)
	ada := w.token("editor")
	token, _ := w.append("", ada, []byte("all"))
	w.grains.answer(refuse(5, kb.ReasonKnowledgeBaseNotFound, "no such knowledge base"))
	if code, _ := w.createFrom(token, ada, ""); code != 404 || w.blobs.count() != 1 {
		t.Errorf("%d, %d blobs", code, w.blobs.count())
	}
	w.grains.answer(addReply(false))
	if code, body := w.createFrom(token, ada, ""); code != 200 {
		t.Error(body)
	}
}

func TestUploadTokensThatAreNotGood_B1(t *testing.T) {
	w := start(t)
	w.grains.answer(addReply(false))
	ada := w.token("editor")
	good, _ := w.append("", ada, []byte("x"))
	payload, mac, _ := strings.Cut(good, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	forged := base64.RawURLEncoding.EncodeToString(bytes.Replace(raw, []byte(`"s":1`), []byte(`"s":2`), 1))
	h := hmac.New(sha256.New, []byte(strings.Repeat("x", 32)))
	h.Write([]byte("granary upload v1\x00" + payload))
	for name, token := range map[string]string{
		"changed": forged + "." + mac, "no mac": payload, "empty mac": payload + ".", "garbage": "garbage",
		"other key": payload + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil)), "long": strings.Repeat("a", 60000) + ".b",
		"mac in another form": payload + "." + mac + "=",
	} {
		if code, body := w.createFrom(token, ada, ""); code != 400 || !strings.Contains(body, kb.ReasonUploadInvalid) {
			t.Errorf("%s: %d %s", name, code, body)
		}
		if next, body := w.append(token, ada, []byte("y")); next != "" || !strings.Contains(body, kb.ReasonUploadInvalid) {
			t.Errorf("%s: appended", name)
		}
	}
	for name, other := range map[string]string{
		"another tenant": w.tokenOf("umbrella", "ada", "editor"), "another subject": w.tokenOf("acme", "eve", "editor"),
	} {
		if code, body := w.createFrom(good, other, ""); code != 400 || !strings.Contains(body, kb.ReasonUploadInvalid) {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	if code, body := w.createFrom(good, ada, ""); code != 200 {
		t.Errorf("the good one: %s", body)
	}
}

func TestPartsAreCappedTogether_C3(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.MaxUpload = 100 << 10 })
	ada := w.token("editor")
	token, _ := w.append("", ada, make([]byte, 64<<10))
	if next, body := w.append(token, ada, make([]byte, 36<<10+1)); next != "" || !strings.Contains(body, kb.ReasonUploadTooLarge) {
		t.Errorf("over the cap: %s", body)
	}
	if next, body := w.append(token, ada, make([]byte, 36<<10)); next == "" {
		t.Errorf("to the cap: %s", body)
	}
}
