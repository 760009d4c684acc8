package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/reflect/protoreflect"
	"granary.dev/granary/actors/kb"
)

// readyTime bounds one check of readiness; probes come every few seconds.
const readyTime = 2 * time.Second

const healthService = "grpc.health.v1.Health"

// healthServer is grpc.health.v1.Health (the protocol load balancers speak) for
// the server as a whole ("") and each of its services, which stand and fall together.
type healthServer struct {
	services map[string]bool

	mu      sync.Mutex
	serving bool
	changed chan struct{} // closed at the next change
}

func newHealthServer(services []string) *healthServer {
	h := &healthServer{services: map[string]bool{"": true}, serving: true, changed: make(chan struct{})}
	for _, s := range services {
		h.services[s] = true
	}
	return h
}

func (h *healthServer) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.serving {
		h.serving = false
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

func (h *healthServer) status() (health.HealthCheckResponse_ServingStatus, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.serving {
		return health.HealthCheckResponse_SERVING, h.changed
	}
	return health.HealthCheckResponse_NOT_SERVING, h.changed
}

func (h *healthServer) register(server *connect.Server) {
	methods := health.File_grpc_health_v1_health_proto.Services().ByName("Health").Methods()
	for name, m := range map[protoreflect.Name]struct {
		kind    connect.StreamType
		handler connect.ServerFunc
	}{
		"Check": {connect.StreamTypeUnary, h.check},
		"List":  {connect.StreamTypeUnary, h.list},
		"Watch": {connect.StreamTypeServer, h.watch},
	} {
		server.Register(connect.Method{Handler: m.handler, Spec: connect.Spec{
			StreamType: m.kind, Schema: methods.ByName(name), Procedure: "/" + healthService + "/" + string(name),
		}})
	}
}

func (h *healthServer) check(_ context.Context, _ connect.Spec, stream connect.ServerStream) error {
	var req health.HealthCheckRequest
	if err := stream.Receive(&req); err != nil {
		return err
	}
	if !h.services[req.GetService()] {
		return kb.Errorf(kb.CodeNotFound, kb.ReasonUnknownOperation, "This server has no such service.")
	}
	status, _ := h.status()
	return stream.Send(&health.HealthCheckResponse{Status: status})
}

func (h *healthServer) list(_ context.Context, _ connect.Spec, stream connect.ServerStream) error {
	var req health.HealthListRequest
	if err := stream.Receive(&req); err != nil {
		return err
	}
	status, _ := h.status()
	out := &health.HealthListResponse{Statuses: map[string]*health.HealthCheckResponse{}}
	for s := range h.services {
		out.Statuses[s] = &health.HealthCheckResponse{Status: status}
	}
	return stream.Send(out)
}

func (h *healthServer) watch(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
	var req health.HealthCheckRequest
	if err := stream.Receive(&req); err != nil {
		return err
	}
	connectionOf(ctx).streaming()
	for {
		status, changed := h.status()
		if !h.services[req.GetService()] {
			status = health.HealthCheckResponse_SERVICE_UNKNOWN
		}
		err := connectionOf(ctx).send(func() error { return stream.Send(&health.HealthCheckResponse{Status: status}) })
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serveAlive answers whether the process runs: 200 as long as it can answer at all.
func (g *Gateway) serveAlive(w http.ResponseWriter, _ *http.Request) {
	writeStatus(w, http.StatusOK, map[string]string{"status": "alive", "version": g.cfg.Version})
}

// serveReady answers whether this node should get requests. Only reasons made for
// users are shown: the probe is open to anybody.
func (g *Gateway) serveReady(w http.ResponseWriter, r *http.Request) {
	answer := map[string]string{"status": "ready", "version": g.cfg.Version}
	if status, _ := g.health.status(); status != health.HealthCheckResponse_SERVING {
		answer["status"], answer["reason"] = "not ready", "shutting down"
		writeStatus(w, http.StatusServiceUnavailable, answer)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTime)
	defer cancel()
	if err := g.cfg.Ready(ctx); err != nil {
		g.log.WarnContext(ctx, "not ready", slog.Any("error", err))
		answer["status"], answer["reason"] = "not ready", "a part this node needs is not available"
		if e, ok := errors.AsType[*kb.Error](err); ok {
			answer["reason"] = e.Message
		}
		writeStatus(w, http.StatusServiceUnavailable, answer)
		return
	}
	writeStatus(w, http.StatusOK, answer)
}

func writeStatus(w http.ResponseWriter, code int, answer map[string]string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer) // the prober has gone
}

// serviceNames lists the services of servers, sorted.
func serviceNames(servers ...*connect.Server) []string {
	names := map[string]bool{}
	for _, s := range servers {
		for spec := range s.Specs() {
			if m, ok := spec.Schema.(protoreflect.MethodDescriptor); ok {
				names[string(m.Parent().FullName())] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}
