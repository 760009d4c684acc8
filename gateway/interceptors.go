package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/google/uuid"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// call is what is known of the RPC being served. One goroutine at a time uses it.
type call struct {
	requestID string
	principal Principal // of the tenants' API
	operator  Operator  // of the operators' API
	remote    string    // address of the client
	revision  int64     // of the knowledge base, from the last reply of its grain
}

type callKey struct{}

// callOf returns the call of ctx; an empty one when there is none.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

const headerRequestID = "X-Request-Id"

// requestID gives every call an id: the client's when it is sane, a new one
// otherwise. It is echoed, logged and travels to the grains.
func requestID(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		c := &call{}
		if info, ok := connect.CallInfoForServerContext(ctx); ok {
			if sent := info.RequestHeader().Values(headerRequestID); len(sent) == 1 && saneID(sent[0]) {
				c.requestID = sent[0]
			}
			if c.requestID == "" {
				c.requestID = newID()
			}
			info.ResponseHeader().Set(headerRequestID, c.requestID)
		}
		return next(context.WithValue(ctx, callKey{}, c), spec, stream)
	}
}

func newID() string {
	id, err := uuid.NewV7()
	if err != nil { // no randomness: an id in a log is not worth refusing a request for
		return "unknown"
	}
	return id.String()
}

// saneID keeps ids printable, short and free of what could forge a log line or header.
func saneID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
		default:
			return false
		}
	}
	return true
}

// accessLog writes one line per call: no bodies, no headers, no tokens.
func (g *Gateway) accessLog(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		start := time.Now()
		err := next(ctx, spec, stream)
		took := time.Since(start)
		code, level := "ok", slog.LevelInfo
		switch {
		case connecthttp.IsNotModifiedError(err):
			code = "not_modified"
		case err != nil:
			code = connect.CodeOf(err).String()
			if connect.CodeOf(err) == connect.CodeInternal {
				level = slog.LevelError
			}
		}
		if !strings.HasPrefix(spec.Procedure, "/granary.") && level == slog.LevelInfo {
			level = slog.LevelDebug // probes and reflection
		}
		c := callOf(ctx)
		g.observe(spec, c, code, err, took)
		attrs := []slog.Attr{
			slog.String("method", strings.TrimPrefix(spec.Procedure, "/")), slog.String("code", code),
			slog.Duration("duration", took), slog.String("request_id", c.requestID),
		}
		if c.principal.Tenant != "" {
			attrs = append(attrs, slog.String("tenant", c.principal.Tenant), slog.String("subject", c.principal.Subject))
		}
		if c.operator.Subject != "" {
			attrs = append(attrs, slog.String("operator", c.operator.Subject))
		}
		if c.principal.Workspace != "" {
			attrs = append(attrs, slog.String("workspace", c.principal.Workspace))
		}
		if info, ok := connect.CallInfoForServerContext(ctx); ok {
			attrs = append(attrs, slog.String("protocol", info.Protocol))
		}
		g.log.LogAttrs(ctx, level, "call", attrs...)
		return err
	}
}

// panicError carries a panic to the error table; it never reaches a client.
type panicError struct {
	value any
	stack []byte
}

// Error implements error.
func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// recoverPanics turns a panic into an error, so that it costs one request, not the node.
func recoverPanics(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = &panicError{value: v, stack: debug.Stack()}
			}
		}()
		return next(ctx, spec, stream)
	}
}

// deadline bounds every call but server streams: the client's deadline, or the
// default for unary calls, and never more than the cap.
func (g *Gateway) deadline(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		var limit time.Duration
		switch spec.StreamType {
		case connect.StreamTypeUnary:
			limit = maxUnaryTime
			if _, ok := ctx.Deadline(); !ok {
				limit = defaultUnaryTime
			}
		case connect.StreamTypeClient:
			limit = maxUploadTime
			switch spec.Procedure {
			case granaryv1connect.ArchiveServiceImportKnowledgeBaseProcedure, granaryv1connect.ArchiveServiceImportTenantProcedure:
				limit = maxImportTime
			}
		default:
			return next(ctx, spec, stream)
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return next(ctx, spec, stream)
	}
}

// neverCached keeps answers out of caches: what is true of a cluster now may not
// be in a second.
func neverCached(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		if info, ok := connect.CallInfoForServerContext(ctx); ok {
			info.ResponseHeader().Set("Cache-Control", "no-store")
		}
		return next(ctx, spec, stream)
	}
}

// unknownMethod answers for methods this version does not have.
func unknownMethod(_ context.Context, spec connect.Spec, _ connect.ServerStream) error {
	return kb.Errorf(kb.CodeUnimplemented, kb.ReasonUnknownOperation, "This server has no method %s.",
		strings.ToValidUTF8(strings.TrimPrefix(spec.Procedure, "/"), "?"))
}
