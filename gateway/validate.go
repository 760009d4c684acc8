package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"granary.dev/granary/actors/kb"
)

// strictCodecs are binary and JSON. Unknown JSON fields are refused: a
// misspelt field that is silently dropped is worse than an error.
func strictCodecs() []connect.Codec {
	json := connectproto.NewJSONCodec()
	json.UnmarshalOptions.DiscardUnknown = false
	return []connect.Codec{connectproto.NewBinaryCodec(), json}
}

// newValidator compiles the rules of every request once, at start, so that no
// request pays for it.
func newValidator(servers ...*connect.Server) (protovalidate.Validator, error) {
	var inputs []protoreflect.MessageDescriptor
	for _, server := range servers {
		for spec := range server.Specs() {
			method, ok := spec.Schema.(protoreflect.MethodDescriptor)
			if !ok {
				return nil, fmt.Errorf("gateway: %s has no schema", spec.Procedure)
			}
			inputs = append(inputs, method.Input())
		}
	}
	return protovalidate.New(protovalidate.WithMessageDescriptors(inputs...), protovalidate.WithDisableLazy())
}

// validate checks every message that is received: that it can be read at all,
// and that it keeps the rules written in the protos.
func (g *Gateway) validate(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		return next(ctx, spec, &checkedStream{ServerStream: stream, ctx: ctx, validator: g.validator})
	}
}

// readable checks only that a message can be read, for services without rules.
func readable(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		return next(ctx, spec, &checkedStream{ServerStream: stream, ctx: ctx})
	}
}

// valid checks a message that came by another way than as a request.
func (g *Gateway) valid(m proto.Message) error {
	err := g.validator.Validate(m)
	if failed, ok := errors.AsType[*protovalidate.ValidationError](err); ok {
		return violations(failed)
	}
	return err
}

type checkedStream struct {
	connect.ServerStream
	ctx       context.Context
	validator protovalidate.Validator // nil: no rules
}

// Receive implements connect.ServerStream.
func (s *checkedStream) Receive(msg any) error {
	if err := s.ServerStream.Receive(msg); err != nil {
		return receiveError(s.ctx, err)
	}
	if s.validator == nil {
		return nil
	}
	m, ok := msg.(proto.Message)
	if !ok {
		return fmt.Errorf("gateway: received %T, which is no message", msg)
	}
	err := s.validator.Validate(m)
	if err == nil {
		return nil
	}
	failed, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok {
		return fmt.Errorf("gateway: validate: %w", err)
	}
	return violations(failed)
}

func violations(failed *protovalidate.ValidationError) *kb.Error {
	e := kb.Errorf(kb.CodeInvalidArgument, kb.ReasonRequestInvalid, "The request is not valid.")
	for i, v := range failed.Violations {
		path := protovalidate.FieldPathString(v.Proto.GetField())
		what := v.Proto.GetMessage()
		if what == "" {
			what = v.Proto.GetRuleId()
		}
		if i == 0 {
			e.Message = "The request is not valid: " + strings.TrimPrefix(path+": "+what, ": ") + "."
		}
		e.Fields = append(e.Fields, kb.FieldViolation{Field: path, Description: what})
	}
	return e
}

// receiveError says why a message could not be read. Whatever it is, but for a
// context or the client's going away, the bytes the client sent are the reason.
func receiveError(ctx context.Context, err error) error {
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return err
	}
	switch connect.CodeOf(err) {
	case connect.CodeCanceled, connect.CodeDeadlineExceeded:
		return err
	case connect.CodeResourceExhausted:
		return kb.Errorf(kb.CodeInvalidArgument, kb.ReasonRequestInvalid, "The message is larger than this method takes.")
	case connect.CodeInvalidArgument:
		return kb.Errorf(kb.CodeInvalidArgument, kb.ReasonRequestInvalid, "The request cannot be decoded: %s.", decodeText(err))
	}
	return kb.Errorf(kb.CodeInvalidArgument, kb.ReasonRequestInvalid, "The request is broken off or not framed as its protocol demands.")
}

// decodeText is the decoder's own description of the client's bytes, made fit to
// send back: no control characters, bounded, without the library's prefixes.
func decodeText(err error) string {
	text := err.Error()
	if c, ok := errors.AsType[*connect.Error](err); ok {
		text = c.Message()
	}
	text = strings.TrimPrefix(text, "unmarshal message: ")
	text = strings.TrimLeftFunc(strings.TrimPrefix(text, "proto:"), unicode.IsSpace)
	clean := make([]rune, 0, len(text))
	for _, r := range text {
		if len(clean) == 300 {
			break
		}
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case !unicode.IsPrint(r):
			r = '?'
		}
		clean = append(clean, r)
	}
	return string(clean)
}
