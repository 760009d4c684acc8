package gateway

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/durationpb"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

const headerIdempotencyKey = "Idempotency-Key"

// errReply is a reply that does not fit the operation: a bug, or nodes of versions
// that do not go together.
var errReply = errors.New("gateway: the grain's reply does not fit the operation")

// refusal is an error in a grain's own reply, as against one of the delivery: the
// grain decided, and nothing was applied.
type refusal struct{ decided *kb.Error }

// Error implements error.
func (r refusal) Error() string { return r.decided.Error() }

// Unwrap lets errors.As find the domain error.
func (r refusal) Unwrap() error { return r.decided }

// definite reports whether err proves that the grain did not take what it was sent.
// BUSY does not: it may stand for the second try of a call whose first one went through.
func definite(err error) bool {
	r, ok := errors.AsType[refusal](err)
	if !ok || r.decided.Reason == kb.ReasonBusy {
		return false
	}
	switch r.decided.Code {
	case kb.CodeInvalidArgument, kb.CodeNotFound, kb.CodeAlreadyExists, kb.CodePermissionDenied,
		kb.CodeResourceExhausted, kb.CodeFailedPrecondition, kb.CodeAborted, kb.CodeUnimplemented:
		return true
	default:
		return false
	}
}

// askKnowledgeBase sends an operation to a knowledge base of the caller's tenant.
// key is the request_id field of a changing request, "" for reads.
func (g *Gateway) askKnowledgeBase(ctx context.Context, id string, msg *nodev1.KnowledgeBaseCall, key string) (*nodev1.KnowledgeBaseReply, error) {
	if err := g.readmit(ctx); err != nil {
		return nil, err
	}
	h, err := header(ctx, key)
	if err != nil {
		return nil, err
	}
	return g.askWith(ctx, id, msg, h)
}

// askKeyed sends an operation that is part of a call, under a key of its own.
func (g *Gateway) askKeyed(ctx context.Context, id string, msg *nodev1.KnowledgeBaseCall, key string) (*nodev1.KnowledgeBaseReply, error) {
	h, err := header(ctx, "")
	if err != nil {
		return nil, err
	}
	h.Method, h.IdempotencyKey = "granary.v1.ArchiveService/ImportKnowledgeBase", key
	return g.askWith(ctx, id, msg, h)
}

func (g *Gateway) askWith(ctx context.Context, id string, msg *nodev1.KnowledgeBaseCall, h *nodev1.Header) (*nodev1.KnowledgeBaseReply, error) {
	msg.Header = h
	answer, err := g.cfg.Grains.Ask(ctx, kindKnowledgeBase, h.GetTenant(), id, msg)
	if err != nil {
		return nil, err
	}
	reply, ok := answer.(*nodev1.KnowledgeBaseReply)
	if !ok || reply.GetResult() == nil {
		return nil, fmt.Errorf("%w: %T", errReply, answer)
	}
	if e := reply.GetError(); e != nil {
		return nil, refusal{domainError(e)}
	}
	callOf(ctx).revision = reply.GetRevision()
	return reply, nil
}

// askTenant sends an operation to the caller's own tenant.
func (g *Gateway) askTenant(ctx context.Context, msg *nodev1.TenantCall, key string) (*nodev1.TenantReply, error) {
	h, err := header(ctx, key)
	if err != nil {
		return nil, err
	}
	return g.askTenantWith(ctx, msg, h)
}

func (g *Gateway) askTenantWith(ctx context.Context, msg *nodev1.TenantCall, h *nodev1.Header) (*nodev1.TenantReply, error) {
	msg.Header = h
	answer, err := g.cfg.Grains.Ask(ctx, kindTenant, h.GetTenant(), h.GetTenant(), msg)
	if err != nil {
		return nil, err
	}
	reply, ok := answer.(*nodev1.TenantReply)
	if !ok || reply.GetResult() == nil {
		return nil, fmt.Errorf("%w: %T", errReply, answer)
	}
	if e := reply.GetError(); e != nil {
		return nil, refusal{domainError(e)}
	}
	return reply, nil
}

// header tells the grain who asks. The tenant is the credential's; no message of
// a client is looked at here (B1).
func header(ctx context.Context, key string) (*nodev1.Header, error) {
	c := callOf(ctx)
	if !c.principal.Valid() {
		return nil, errors.New("gateway: call without a principal")
	}
	h := &nodev1.Header{
		Tenant: c.principal.Tenant, Principal: c.principal.Subject, Roles: c.principal.Roles, RequestId: c.requestID,
		Remote: c.remote, Unproven: c.principal.unproven,
		Grants: grantProtos(c.principal.Grants),
	}
	if info, ok := connect.CallInfoForServerContext(ctx); ok {
		h.RequiredRole = permissions[info.Spec.Procedure].role
	}
	return h, complete(ctx, h, key)
}

// complete adds how long the caller waits and, for what changes something, the key
// that makes a repetition safe.
func complete(ctx context.Context, h *nodev1.Header, key string) error {
	if end, ok := ctx.Deadline(); ok {
		left := time.Until(end)
		if left <= 0 {
			return context.DeadlineExceeded
		}
		h.Remaining = durationpb.New(left)
	}
	info, ok := connect.CallInfoForServerContext(ctx)
	if !ok {
		return errors.New("gateway: call without call info")
	}
	if info.Spec.IdempotencyLevel == connect.IdempotencyNoSideEffects {
		return nil
	}
	key, err := idempotencyKey(info.RequestHeader().Values(headerIdempotencyKey), key)
	if err != nil {
		return err
	}
	if key != "" {
		h.Method, h.IdempotencyKey = strings.TrimPrefix(info.Spec.Procedure, "/"), key
	}
	return nil
}

// idempotencyKey takes the key from the header or the request_id field; both may
// be there when they agree.
func idempotencyKey(headers []string, field string) (string, error) {
	if len(headers) == 0 {
		return field, nil
	}
	key := headers[0]
	if len(headers) > 1 || key == "" || len(key) > 128 {
		return "", invalid(kb.ReasonRequestInvalid, "", "The header %s is one key of 1 to 128 characters.", headerIdempotencyKey)
	}
	for i := range len(key) {
		if key[i] < ' ' || key[i] > '~' {
			return "", invalid(kb.ReasonRequestInvalid, "", "The header %s holds printable ASCII only.", headerIdempotencyKey)
		}
	}
	if field != "" && field != key {
		return "", invalid(kb.ReasonRequestInvalid, "request_id", "The field request_id and the header %s differ.", headerIdempotencyKey)
	}
	return key, nil
}
