package gateway

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"strconv"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// errorDomain is the domain of every ErrorInfo.
const errorDomain = "granary.dev"

// codes is the one table from the domain's codes to the wire's.
var codes = map[kb.Code]connect.Code{
	kb.CodeInvalidArgument:    connect.CodeInvalidArgument,
	kb.CodeDeadlineExceeded:   connect.CodeDeadlineExceeded,
	kb.CodeNotFound:           connect.CodeNotFound,
	kb.CodeAlreadyExists:      connect.CodeAlreadyExists,
	kb.CodePermissionDenied:   connect.CodePermissionDenied,
	kb.CodeResourceExhausted:  connect.CodeResourceExhausted,
	kb.CodeFailedPrecondition: connect.CodeFailedPrecondition,
	kb.CodeAborted:            connect.CodeAborted,
	kb.CodeUnimplemented:      connect.CodeUnimplemented,
	kb.CodeInternal:           connect.CodeInternal,
	kb.CodeUnavailable:        connect.CodeUnavailable,
	kb.CodeUnauthenticated:    connect.CodeUnauthenticated,
}

// quotaReasons are the refusals that a QuotaFailure explains. BUSY is not one:
// it is a full mailbox, which no quota of the tenant causes.
var quotaReasons = map[string]bool{
	kb.ReasonDocumentLimit: true,
	kb.ReasonStorageLimit:  true,
	kb.ReasonCallLimit:     true,
	kb.ReasonVectorLimit:   true,
}

// encodeErrors turns every error of an RPC into what the client is told.
func (g *Gateway) encodeErrors(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		err := next(ctx, spec, stream)
		if err == nil || connecthttp.IsNotModifiedError(err) {
			return err
		}
		c := callOf(ctx)
		answer := g.classify(ctx, spec, err)
		if answer == nil { // the client has gone: nobody reads it
			return connect.NewError(connect.CodeCanceled, "the call was cancelled")
		}
		if info, ok := connect.CallInfoForServerContext(ctx); ok {
			setErrorHeaders(info, answer)
		}
		return wireError(answer, c)
	}
}

// classify finds the domain error in err, or makes one that says nothing but
// where to look. nil means that the caller cancelled.
func (g *Gateway) classify(ctx context.Context, spec connect.Spec, err error) *kb.Error {
	err = causeOf(ctx, err)
	if e, ok := errors.AsType[*kb.Error](err); ok && e != nil {
		if _, known := codes[e.Code]; known {
			return e
		}
	}
	late, cancelled := errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled)
	switch {
	case (errors.Is(err, journal.ErrUnavailable) || errors.Is(err, journal.ErrInDoubt)) && (ctx.Err() == nil || !late && !cancelled):
		// In doubt is a blob that no document names yet: nothing was changed. A time
		// that the store gave itself may have passed, which is no deadline of the caller's.
		g.log.WarnContext(ctx, "storage is not available", slog.String("method", spec.Procedure), slog.Any("error", err))
		return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "The storage is not available at the moment.").After(time.Second)
	case late, connect.CodeOf(err) == connect.CodeDeadlineExceeded:
		return kb.Errorf(kb.CodeDeadlineExceeded, kb.ReasonDeadline, "The deadline passed before the request was done.")
	case cancelled, connect.CodeOf(err) == connect.CodeCanceled:
		return nil
	case connect.CodeOf(err) == connect.CodeInvalidArgument: // a library's handler, such as reflection
		return kb.Errorf(kb.CodeInvalidArgument, kb.ReasonRequestInvalid, "The request is not valid.")
	}
	id := callOf(ctx).requestID
	g.log.ErrorContext(ctx, "internal error", slog.String("method", spec.Procedure),
		slog.String("request_id", id), slog.Any("error", err))
	return kb.Errorf(kb.CodeInternal, kb.ReasonInternal, "Internal error; the server's log has it under request id %s.", id).
		With("request_id", id)
}

// causeOf prefers the reason a context was ended for (shutdown, an expired
// credential) over the bare fact that it ended. What a grain decided stays.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() == nil || err == nil {
		return err
	}
	if e, ok := errors.AsType[*kb.Error](err); ok && e.Reason != kb.ReasonDeadline {
		return err
	}
	if e, ok := errors.AsType[*kb.Error](context.Cause(ctx)); ok {
		return e
	}
	return err
}

func setErrorHeaders(info *connect.CallInfo, e *kb.Error) {
	h := info.ResponseHeader()
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	// 404 and others may be cached by default (RFC 9111 §4.2.2); errors of a GET must not be.
	h.Set("Cache-Control", "no-store")
}

func wireError(e *kb.Error, c *call) *connect.Error {
	out := connect.NewError(codes[e.Code], e.Message).WithCause(e)
	details := []proto.Message{&errdetails.ErrorInfo{Reason: e.Reason, Domain: errorDomain, Metadata: e.Metadata}}
	if len(e.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range e.Fields {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: f.Field, Description: f.Description})
		}
		details = append(details, bad)
	}
	if e.Code == kb.CodeResourceExhausted && quotaReasons[e.Reason] {
		details = append(details, &errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{
			Subject: "tenants/" + c.principal.Tenant, Description: e.Message,
		}}})
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	for _, d := range details {
		// Only invalid UTF-8 in metadata can fail here; the answer then goes without that detail.
		if detail, err := connectproto.NewErrorDetail(d); err == nil {
			out = out.WithDetail(detail)
		}
	}
	return out
}

// domainError is the error of a grain's reply.
func domainError(e *nodev1.Error) *kb.Error {
	out := &kb.Error{
		Code: kb.Code(e.GetCode()), Reason: e.GetReason(), Message: e.GetMessage(),
		Metadata: e.GetMetadata(), RetryAfter: e.GetRetryAfter().AsDuration(),
	}
	for _, f := range e.GetFields() {
		out.Fields = append(out.Fields, kb.FieldViolation{Field: f.GetField(), Description: f.GetDescription()})
	}
	return out
}

// invalid is a request that is wrong in one field.
func invalid(reason, field, format string, args ...any) *kb.Error {
	e := kb.Errorf(kb.CodeInvalidArgument, reason, format, args...)
	if field != "" {
		e.Fields = []kb.FieldViolation{{Field: field, Description: e.Message}}
	}
	return e
}
