package cluster

import (
	"time"

	"granary.dev/granary/cluster/protocol"
)

// Stable reasons of an [*Error]. They are never renamed and never reused.
const (
	ReasonBusy        = "GRAIN_BUSY"
	ReasonUnavailable = "GRAIN_UNAVAILABLE"
	ReasonDeadLetter  = "GRAIN_GONE"
	ReasonPanicked    = "GRAIN_PANICKED"
	ReasonStopped     = "NODE_STOPPED"
	ReasonUnknownKind = "KIND_UNKNOWN"
	ReasonMalformed   = "MESSAGE_MALFORMED"
	ReasonNoNode      = "NODE_NOT_FOUND"
	ReasonNodeState   = "NODE_STATE"
	ReasonLone        = "CLUSTER_SINGLE_NODE"
)

// Sentinels for errors.Is. What Ask returns is an [*Error] with the same Reason
// and the identity.
var (
	// ErrBusy refuses a call whose grain has a full mailbox; RetryAfter says
	// when to come again. The grain never saw the call.
	ErrBusy error = &Error{Reason: ReasonBusy}
	// ErrUnavailable says that no grain could be reached. It never saw the call.
	ErrUnavailable error = &Error{Reason: ReasonUnavailable}
	// ErrDeadLetter says that the grain took the call and stopped without
	// answering: whether it took effect is not known.
	ErrDeadLetter error = &Error{Reason: ReasonDeadLetter}
	// ErrPanicked says that the grain panicked while it handled the call.
	ErrPanicked error = &Error{Reason: ReasonPanicked}
	// ErrStopped says that the node stops or has stopped.
	ErrStopped error = &Error{Reason: ReasonStopped}
	// ErrMalformed says that a message could not be carried to or from another
	// node: it is too large, or the nodes' versions do not go together.
	ErrMalformed error = &Error{Reason: ReasonMalformed}
	// ErrNoNode says that the cluster has no node of that name.
	ErrNoNode error = &Error{Reason: ReasonNoNode}
	// ErrNodeState says that the node is not in a state for what was asked.
	ErrNodeState error = &Error{Reason: ReasonNodeState}
	// ErrLone says that this node is alone, so there is no cluster to steer.
	ErrLone error = &Error{Reason: ReasonLone}
	// ErrUnknownKind says that no node hosts the identity's kind.
	ErrUnknownKind error = &Error{Reason: ReasonUnknownKind}
)

// Error is what went wrong between a caller and a grain. What a grain answers
// itself passes through Ask unchanged and is no Error of this package, unless
// the grain passes one on.
type Error struct {
	Reason     string            // one of the Reason constants
	Identity   protocol.Identity // whom the call was for; zero in the sentinels
	RetryAfter time.Duration     // with ErrBusy: when a place is likely free, else 0
}

// Error names the reason and the identity.
func (e *Error) Error() string {
	if e.Identity == (protocol.Identity{}) {
		return "cluster: " + e.Reason
	}
	return "cluster: " + e.Reason + " " + e.Identity.String()
}

// Is reports whether target is an [*Error] of the same reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason
}
