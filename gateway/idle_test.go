package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

func impatient(g *gateway.Gateway) { g.SetIdleTimes(300*time.Millisecond, time.Second) }

func TestAClientThatStallsInItsRequestIsCutOff_E2(t *testing.T) {
	w := startWith(t, impatient)
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\n{\"name\":",
		getKB, w.token("viewer"))
	begin := time.Now()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if took := time.Since(begin); res.StatusCode != http.StatusGatewayTimeout || took > 3*time.Second {
		t.Errorf("after %v: %d %s", took, res.StatusCode, body)
	}
	if len(w.grains.all()) != 0 {
		t.Error("half a request reached a grain")
	}
}

func TestAnUploadThatStallsIsCutOffAndDiscarded_E2(t *testing.T) {
	w := startWith(t, impatient)
	stream, err := granaryv1connect.NewDocumentServiceClient(w.client(w.token("editor"))).UploadDocument(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*v1.UploadDocumentRequest{specMessage("handbook"), dataMessage([]byte("x"))} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-w.blobs.onAbort:
	case <-time.After(5 * time.Second):
		t.Fatal("the upload waits on")
	}
	if _, err := stream.CloseAndReceive(); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Errorf("%v", err)
	}
}

// TestAWatchOutlivesTheIdleTimes_A6 guards against a deadline of the request
// ending a stream that is well.
func TestAWatchOutlivesTheIdleTimes_A6(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		w := startWith(t, impatient)
		w.grains.setScript((&stage{uid: "u1", head: 1, next: func(ctx context.Context, read int, r *nodev1.ReadEvents) error {
			if read == 4 {
				return kb.Errorf(kb.CodeNotFound, kb.ReasonKnowledgeBaseNotFound, "end of the test")
			}
			return hang(ctx, r.GetWait().AsDuration()) // heartbeats a second apart
		}}).ask)
		body := `{"knowledgeBase":"handbook","heartbeat":"1s"}`
		req, err := http.NewRequest(http.MethodPost, w.url+"/granary.v1.EventService/WatchEvents",
			strings.NewReader("\x00\x00\x00\x00"+string(rune(len(body)))+body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/connect+json")
		req.Header.Set("Authorization", "Bearer "+w.token("viewer"))
		res, err := httpClient(t, h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || strings.Count(string(out), `"heartbeat"`) != 3 || !strings.Contains(string(out), "end of the test") {
			t.Errorf("HTTP/2 %v: %v %q", h2, err, out)
		}
	}
}

func TestAWatcherThatDoesNotReadIsCutOff_E2(t *testing.T) {
	w := startWith(t, impatient)
	details := map[string]string{"x": strings.Repeat("x", 1<<20)}
	w.grains.setScript(func(_ context.Context, a asked) (proto.Message, error) {
		r := a.kb().GetReadEvents()
		return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Events{Events: &nodev1.ReadEventsResult{
			Uid: "u1", Revision: r.GetAfterRevision() + 1,
			Events: []*v1.Event{{Revision: r.GetAfterRevision() + 1, Details: details}},
		}}}, nil
	})
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"knowledgeBase":"handbook","fromStart":true}`
	fmt.Fprintf(conn, "POST /granary.v1.EventService/WatchEvents HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+json\r\n"+
		"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n\x00\x00\x00\x00%c%s", w.token("viewer"), len(body)+5, len(body), body)
	w.log.await(t, `"msg":"call"`, 10*time.Second)
	if n := len(w.grains.all()); n > 64 {
		t.Errorf("%d MiB were read ahead for a client that reads nothing", n)
	}
}
