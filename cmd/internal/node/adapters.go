package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/fetch"
	"granary.dev/granary/actors/pipeline/sandbox"
	"granary.dev/granary/cluster"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// asker turns the cluster's calls and errors into what gateway and grains know.
type asker struct {
	node *cluster.Node
}

// repeatable tells whether a call may be carried out twice without harm: it
// changes nothing, says the same again, or carries an idempotency key.
func repeatable(m proto.Message) bool {
	switch m := m.(type) {
	case *nodev1.TenantCall:
		switch m.GetOperation().(type) {
		case *nodev1.TenantCall_UpdateConfig, *nodev1.TenantCall_CreateWorkspace, *nodev1.TenantCall_CreateTenant, *nodev1.TenantCall_UpdateTenant,
			*nodev1.TenantCall_SuspendTenant, *nodev1.TenantCall_ResumeTenant, *nodev1.TenantCall_DeleteTenant, *nodev1.TenantCall_UndeleteTenant,
			*nodev1.TenantCall_ImportSettings:
			return m.GetHeader().GetIdempotencyKey() != ""
		}
		return true
	case *nodev1.KnowledgeBaseCall:
		switch m.GetOperation().(type) {
		case *nodev1.KnowledgeBaseCall_Create, *nodev1.KnowledgeBaseCall_Update, *nodev1.KnowledgeBaseCall_Delete,
			*nodev1.KnowledgeBaseCall_AddDocument, *nodev1.KnowledgeBaseCall_BeginImport, *nodev1.KnowledgeBaseCall_DeleteDocument,
			*nodev1.KnowledgeBaseCall_CancelDocument, *nodev1.KnowledgeBaseCall_ReprocessDocument:
			return m.GetHeader().GetIdempotencyKey() != ""
		}
		return true
	}
	return false
}

// Ask implements gateway.Grains and actors.Asker.
func (a *asker) Ask(ctx context.Context, kind, tenant, id string, m proto.Message) (proto.Message, error) {
	if repeatable(m) {
		ctx = cluster.WithSafe(ctx)
	}
	reply, err := a.node.Ask(ctx, cluster.Identity{Kind: kind, Tenant: tenant, ID: id}, m)
	if err == nil {
		return reply, nil
	}
	if own, ok := errors.AsType[*kb.Error](err); ok {
		return nil, own
	}
	e, ok := errors.AsType[*cluster.Error](err)
	if !ok {
		return nil, err
	}
	switch e.Reason {
	case cluster.ReasonBusy:
		return nil, kb.Errorf(kb.CodeResourceExhausted, kb.ReasonBusy, "too many requests for this object at once").
			After(max(e.RetryAfter, 50*time.Millisecond))
	case cluster.ReasonDeadLetter:
		return nil, kb.Errorf(kb.CodeUnavailable, kb.ReasonInDoubt,
			"the object moved while it handled the request; repeat it with the same idempotency key").After(100 * time.Millisecond)
	case cluster.ReasonPanicked, cluster.ReasonUnknownKind:
		return nil, kb.Errorf(kb.CodeInternal, kb.ReasonInternal, "internal error")
	}
	return nil, kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the object cannot be reached now; try again").After(200 * time.Millisecond)
}

// inMemory is up to which size a source is handed to a parser in memory.
const inMemory = 1 << 20

// parser runs parses in the pool of worker processes.
type parser struct {
	pool *sandbox.Pool
	dir  string // for sources that do not go through memory
}

// Parse implements actors.Parser.
func (p *parser) Parse(ctx context.Context, r actors.ParseRequest) (*pipeline.Parsed, error) {
	req := sandbox.Request{Tenant: r.Tenant, Name: r.Name, MediaType: r.MediaType, Size: r.Size}
	if r.Size <= inMemory {
		data, err := io.ReadAll(io.LimitReader(r.Body, r.Size+1))
		if err != nil {
			return nil, err
		}
		req.Data, req.Size = bytes.NewReader(data), int64(len(data))
		return p.pool.Parse(ctx, req)
	}
	f, err := newScratch(p.dir, "source-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Remove() }() // what remains goes at the next start
	if req.Size, err = f.ReadFrom(io.LimitReader(r.Body, r.Size+1)); err != nil {
		return nil, err
	}
	req.Data = f
	return p.pool.Parse(ctx, req)
}

// fetcher adapts package fetch.
type fetcher struct{ f *fetch.Fetcher }

// Fetch implements actors.Fetcher.
func (a fetcher) Fetch(ctx context.Context, url string, w io.Writer) (actors.Fetched, error) {
	m, err := a.f.Fetch(ctx, url, w)
	if err != nil {
		return actors.Fetched{}, err
	}
	return actors.Fetched{MediaType: m.MediaType, FileName: m.FileName}, nil
}
