package gateway_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"granary.dev/granary/gateway"
)

func defaultGrace(c *gateway.Config) { c.Grace = 0 }

func TestShutdownTellsWatchersOfHealth_H3(t *testing.T) {
	w := start(t, defaultGrace)
	stream, err := healthpb.NewHealthClient(dialGRPC(t, w)).Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "granary.v1.SearchService"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatal(m, err)
	}
	begin := time.Now()
	go func() { _ = w.gateway.Shutdown(context.Background()) }()
	if m, err := stream.Recv(); err != nil || m.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Fatal(m, err)
	}
	if took := time.Since(begin); took > 400*time.Millisecond {
		t.Errorf("NOT_SERVING came after %v", took)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("end: %v", err)
	}
}

func TestShutdownLetsACallInFlightEnd_H3(t *testing.T) {
	w := start(t, defaultGrace)
	asking := make(chan struct{})
	w.grains.setScript(func(ctx context.Context, _ asked) (proto.Message, error) {
		close(asking)
		return knowledgeBaseReply("handbook", 1), hang(ctx, 200*time.Millisecond)
	})
	result := make(chan int, 1)
	go func() {
		res, _ := w.post(w.token("viewer"), getKB, `{"name":"handbook"}`)
		result <- res.StatusCode
	}()
	<-asking
	if err := w.gateway.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if code := <-result; code != 200 {
		t.Errorf("the call in flight got %d", code)
	}
}

func TestShutdownEndsWithACallThatHearsNothing_H3(t *testing.T) {
	w := start(t, defaultGrace)
	asking, release := make(chan struct{}), make(chan struct{})
	w.grains.setScript(func(context.Context, asked) (proto.Message, error) {
		close(asking)
		<-release // deaf to its context
		return nil, context.Canceled
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		req, _ := http.NewRequest(http.MethodPost, w.url+getKB, strings.NewReader(`{"name":"handbook"}`))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+w.token("viewer"))
		if res, err := httpClient(t, false).Do(req); err == nil {
			_ = res.Body.Close()
		}
	}()
	<-asking
	begin := time.Now()
	err := w.gateway.Shutdown(context.Background())
	if took := time.Since(begin); took > 2*time.Second || err == nil {
		t.Errorf("after %v: %v", took, err)
	}
	close(release)
	<-ended
}

func TestShutdownBeforeServe(t *testing.T) {
	w := start(t, defaultGrace)
	g, err := gateway.New(gateway.Config{Grains: w.grains, Blobs: w.blobs, Verifier: w.auth, UploadKey: gateway.Secret(strings.Repeat("k", 32))})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Serve(context.Background(), listener); err != nil {
		t.Error(err)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	w := start(t, defaultGrace)
	g, err := gateway.New(gateway.Config{
		Grains: w.grains, Blobs: w.blobs, Verifier: w.auth, UploadKey: gateway.Secret(strings.Repeat("k", 32)), Grace: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- g.Serve(ctx, listener) }()
	res, err := httpClient(t, false).Get("http://" + listener.Addr().String() + "/health")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
