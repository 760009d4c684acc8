package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/grpcreflect/v2"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// Sizes of messages and uploads.
const (
	// MaxUpload is the most bytes a document may have, as the API documents it.
	MaxUpload = 64 << 20

	minUploadKey     = 32
	minPepper        = 32
	compressMinBytes = 1 << 10 // below it compression costs more CPU than it saves bytes
	readMaxBytes     = 1 << 20 // most requests are far smaller
	streamMaxBytes   = 3 << 20 // 1 MiB of data, also as base64 in JSON, with room
	inlineMaxBytes   = 16 << 20
)

// Config is what a gateway needs. Grains, Blobs, Verifier and UploadKey must be set.
type Config struct {
	Grains   Grains
	Blobs    Blobs
	Verifier Verifier

	// Operators verifies who may call the cluster API; nil: nobody may.
	Operators OperatorVerifier
	// Cluster is what that API shows and steers; nil: this server is no member of
	// one, and all of its methods answer CLUSTER_SINGLE_NODE.
	Cluster Cluster
	// Keys are those everything is stored under; nil: this server does not encrypt.
	Keys Keys

	// Meters counts the calls of tenants; nil: nobody does.
	Meters Meters

	// KeyPepper makes the MACs of API keys: at least 32 random bytes, the same on all
	// nodes and for ever. Without it no API key is good, nor can be made.
	KeyPepper Secret
	// RefuseUnknownTenants refuses tenants that no operator created, as bad
	// credentials; else one comes to be by its first use.
	RefuseUnknownTenants bool

	// Tenants lists all tenants for operators.
	Tenants TenantDirectory

	// Receipts are the proofs of erasures; nil: there are none. ReceiptKey is what
	// they are checked with.
	Receipts   Receipts
	ReceiptKey ed25519.PublicKey

	// UploadKey signs the tokens of uploads in parts: at least 32 random bytes,
	// the same on all nodes.
	UploadKey Secret
	// MaxUpload caps a document's bytes; 0 means [MaxUpload], which is also the most.
	MaxUpload int64

	// Audit records every call of both APIs; nil: nothing is recorded.
	Audit Auditor
	// Trail is what the audit's own services show; nil: they answer UNIMPLEMENTED.
	Trail Trail
	// TrustedProxies are the addresses whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix

	// Observer counts calls and refused credentials; nil: nobody does.
	Observer Observer

	// Ready tells whether this node should get requests; nil: it always should.
	Ready func(context.Context) error
	// Logger receives the access log and errors; nil discards.
	Logger *slog.Logger
	// Version is shown by /health and /ready.
	Version string

	// AllowedOrigins are web origins, such as https://console.example.com, whose
	// pages may call. AllowLocalOrigins adds every port of this machine, for development.
	AllowedOrigins    []string
	AllowLocalOrigins bool

	// Grace is how long requests may go on after Shutdown is called; 0 means 0.5 s.
	Grace time.Duration
}

func (c *Config) complete() error {
	var problems []error
	for name, missing := range map[string]bool{
		"Grains": c.Grains == nil, "Blobs": c.Blobs == nil, "Verifier": c.Verifier == nil,
	} {
		if missing {
			problems = append(problems, fmt.Errorf("gateway: %s is not set", name))
		}
	}
	if len(c.UploadKey) < minUploadKey {
		problems = append(problems, fmt.Errorf("gateway: UploadKey has fewer than %d bytes", minUploadKey))
	}
	if c.MaxUpload == 0 {
		c.MaxUpload = MaxUpload
	}
	if c.MaxUpload < 0 || c.MaxUpload > MaxUpload {
		problems = append(problems, fmt.Errorf("gateway: MaxUpload is not in 1..%d", MaxUpload))
	}
	if c.Grace < 0 {
		problems = append(problems, errors.New("gateway: Grace is negative"))
	}
	if c.Grace == 0 {
		c.Grace = defaultGrace
	}
	if c.Ready == nil {
		c.Ready = func(context.Context) error { return nil }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(problems...)
}

// Gateway is the door of one node. Make it with [New]; it is safe for concurrent use.
type Gateway struct {
	cfg       Config
	log       *slog.Logger
	validator protovalidate.Validator
	health    *healthServer
	uploads   uploadSealer
	now       func() time.Time
	idle      idleTimes
	subjects  map[string]subject // what requests are about, by procedure
	handler   http.Handler

	server   *http.Server
	base     context.Context // parent of all requests' contexts
	cancel   context.CancelCauseFunc
	inFlight atomic.Int64 // HTTP requests being served

	standings  standings
	keyUses    keyUses
	background sync.WaitGroup // questions beside calls
	shutdown   sync.Once
	stopped    chan struct{} // closed when shutdown is done
}

// New checks cfg and builds the gateway; it starts nothing.
func New(cfg Config) (*Gateway, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	g := &Gateway{
		cfg: cfg, log: cfg.Logger, now: time.Now,
		idle:    idleTimes{idleReadTime, idleWriteTime},
		uploads: uploadSealer{cfg.UploadKey}, stopped: make(chan struct{}),
	}
	api, ops := g.apiServer(), g.operatorServer()
	if err := errors.Join(checkPermissions(api, false), checkPermissions(ops, true)); err != nil {
		return nil, err
	}
	var err error
	if g.validator, err = newValidator(api, ops); err != nil {
		return nil, err
	}
	g.subjects = subjectsOf(api, ops)
	g.health = newHealthServer(serviceNames(api, ops))
	g.handler = g.newHandler(api, ops, g.openServer(api, ops))
	g.base, g.cancel = context.WithCancelCause(context.Background())
	g.server = g.newServer()
	return g, nil
}

// InFlight is how many HTTP requests are being served, open streams among them.
func (g *Gateway) InFlight() int64 { return g.inFlight.Load() }

// Handler serves everything: the API in all three protocols, reflection,
// grpc.health.v1, /health and /ready. Serving gRPC needs HTTP/2; [Gateway.Serve] has it.
func (g *Gateway) Handler() http.Handler { return g.handler }

// apiServer holds the RPCs that need a tenant's credential.
func (g *Gateway) apiServer() *connect.Server {
	s := connect.NewServer(requestID, g.accessLog, g.audited, g.encodeErrors, recoverPanics,
		g.deadline, g.authenticate, g.validate, cacheReads)
	granaryv1connect.RegisterTenantServiceHandler(s, tenants{g})
	granaryv1connect.RegisterAccessServiceHandler(s, access{g})
	granaryv1connect.RegisterKnowledgeBaseServiceHandler(s, knowledgeBases{g})
	granaryv1connect.RegisterDocumentServiceHandler(s, documents{g})
	granaryv1connect.RegisterSearchServiceHandler(s, searches{g})
	granaryv1connect.RegisterEventServiceHandler(s, events{g})
	granaryv1connect.RegisterErasureServiceHandler(s, erasures{g})
	granaryv1connect.RegisterAuditServiceHandler(s, ownTrail{trails{g}})
	granaryv1connect.RegisterArchiveServiceHandler(s, archives{g})
	s.SetUnknownHandler(unknownMethod)
	return s
}

// operatorServer holds the RPCs that need an operator's credential. It is a server
// of its own so that no chain of interceptors ever takes both kinds.
func (g *Gateway) operatorServer() *connect.Server {
	s := connect.NewServer(requestID, g.accessLog, g.audited, g.encodeErrors, recoverPanics,
		g.deadline, g.authenticateOperator, g.validate, neverCached)
	granaryv1connect.RegisterClusterServiceHandler(s, operations{g})
	granaryv1connect.RegisterAuditAdminServiceHandler(s, anyTrail{trails{g}})
	granaryv1connect.RegisterEncryptionServiceHandler(s, encryption{operations{g}})
	granaryv1connect.RegisterTenantAdminServiceHandler(s, tenantAdmin{operations{g}})
	granaryv1connect.RegisterErasureAdminServiceHandler(s, erasures{g})
	s.SetUnknownHandler(unknownMethod)
	return s
}

// openServer holds the RPCs anybody may call: health and reflection. The schemas
// reflection shows are public; they are in the repository.
func (g *Gateway) openServer(shown ...*connect.Server) *connect.Server {
	s := connect.NewServer(requestID, g.accessLog, g.encodeErrors, recoverPanics, g.deadline, readable)
	g.health.register(s)
	grpcreflect.Register(s, grpcreflect.WithNamer(grpcreflect.NamerFunc(func() []string { return serviceNames(append(shown, s)...) })))
	s.SetUnknownHandler(unknownMethod)
	return s
}

func (g *Gateway) newHandler(servers ...*connect.Server) http.Handler {
	mux := http.NewServeMux()
	options := []connecthttp.Option{
		connecthttp.WithCodecs(strictCodecs()...),
		connecthttp.WithCompressMinBytes(compressMinBytes),
		connecthttp.WithReadMaxBytes(readMaxBytes),
		connecthttp.WithConditionalOptions(func(spec connect.Spec) []connecthttp.Option {
			switch spec.Procedure {
			case granaryv1connect.DocumentServiceCreateDocumentProcedure, granaryv1connect.DocumentServiceAppendUploadProcedure:
				// 4 MiB inline; JSON escapes and base64 make more of it.
				return []connecthttp.Option{connecthttp.WithReadMaxBytes(inlineMaxBytes)}
			case granaryv1connect.DocumentServiceUploadDocumentProcedure, granaryv1connect.ArchiveServiceImportKnowledgeBaseProcedure:
				return []connecthttp.Option{connecthttp.WithReadMaxBytes(streamMaxBytes)}
			}
			return nil
		}),
	}
	for _, server := range servers {
		connecthttp.Mount(mux, server, options...)
	}
	mux.HandleFunc("GET /health", g.serveAlive)
	mux.HandleFunc("GET /ready", g.serveReady)
	return g.boundConnections(g.cors(mux))
}
