package transport

import "errors"

// What became of a call that has no answer. The errors of [Client] wrap one of
// these, or the error of the caller's context.
var (
	// ErrNotSent says that the call was certainly not delivered: the node could
	// not be reached, or the connection ended before the call was on its way.
	ErrNotSent = errors.New("call not sent")
	// ErrLost says that the connection ended while the call was on its way or
	// with the other node: it may have been delivered, and may have had effects.
	ErrLost = errors.New("call lost")
	// ErrFull refuses a call because too many, or too large ones, are in flight
	// to that node. It was not sent.
	ErrFull = errors.New("too many calls in flight")
)

// Reasons why a connection ended.
var (
	errClosed     = errors.New("client closed")
	errForgotten  = errors.New("node is gone")
	errNoGreeting = errors.New("node did not greet in time")
	errOneDial    = errors.New("a connection is not dialled again")
	errSilent     = errors.New("node does not answer")
	errEnded      = errors.New("node ended the connection")
	errMalformed  = errors.New("malformed message")
)
