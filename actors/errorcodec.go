package actors

import (
	"errors"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// ErrorCodec carries what grains answer as errors from node to node.
type ErrorCodec struct{}

// Encode gives nil for what is no *kb.Error.
func (ErrorCodec) Encode(err error) *nodev1.Error {
	if _, ok := errors.AsType[*kb.Error](err); !ok {
		return nil
	}
	return errorProto(err)
}

// Decode gives the *kb.Error that was encoded.
func (ErrorCodec) Decode(e *nodev1.Error) error { return fromError(e) }
