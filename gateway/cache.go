package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"
)

// cacheReads lets HTTP caches revalidate reads: an RPC without side effects asked
// by GET carries an ETag and answers 304 when the client has it (D1).
//
// The tag covers the answer itself beside the revision. The revision alone would
// be wrong: progress of a document and the tenant's default settings change an
// answer without a new revision.
func cacheReads(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		http1, ok := connecthttp.ServerInfoForContext(ctx)
		if !ok || http1.HTTPMethod() != http.MethodGet || spec.IdempotencyLevel != connect.IdempotencyNoSideEffects {
			return next(ctx, spec, stream)
		}
		return next(ctx, spec, &taggedStream{ServerStream: stream, ctx: ctx, procedure: spec.Procedure})
	}
}

type taggedStream struct {
	connect.ServerStream
	ctx       context.Context
	procedure string
}

// Send implements connect.ServerStream.
func (s *taggedStream) Send(msg any) error {
	m, isMessage := msg.(proto.Message)
	info, ok := connect.CallInfoForServerContext(s.ctx)
	if !ok || !isMessage {
		return s.ServerStream.Send(msg)
	}
	tag, err := etag(s.procedure, callOf(s.ctx), m)
	if err != nil {
		return err
	}
	h := info.ResponseHeader()
	h.Set("ETag", tag)
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Vary", "Authorization")
	if noneMatch(info.RequestHeader().Values("If-None-Match"), tag) {
		return connecthttp.NewNotModifiedError()
	}
	return s.ServerStream.Send(msg)
}

// etag is weak: the same answer has other bytes in JSON, binary and gzip.
func etag(procedure string, c *call, m proto.Message) (string, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	h.Write([]byte(procedure + "\x00" + c.principal.Tenant + "\x00"))
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(c.revision)))
	h.Write(body)
	return `W/"` + hex.EncodeToString(h.Sum(nil)[:16]) + `"`, nil
}

// noneMatch compares weakly, as RFC 9110 §13.1.2 has it.
func noneMatch(headers []string, tag string) bool {
	opaque := strings.TrimPrefix(tag, "W/")
	for _, header := range headers {
		for candidate := range strings.SplitSeq(header, ",") {
			candidate = strings.TrimSpace(candidate)
			if candidate == "*" || strings.TrimPrefix(candidate, "W/") == opaque {
				return true
			}
		}
	}
	return false
}
