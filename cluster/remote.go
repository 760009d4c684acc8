package cluster

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"granary.dev/granary/cluster/transport"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// attemptRemote sends the call to the node that owns the grain and waits for the
// answer.
func (n *Node) attemptRemote(ctx context.Context, s *standing, id *Identity, hash uint64, msg proto.Message, deadline time.Time) answer {
	if !n.running() {
		return answer{err: n.notRunning(id)}
	}
	kind, err := n.check(id)
	if err != nil {
		return answer{err: err}
	}
	owner, ok := s.owner(hash, id.Tenant)
	if !ok || owner == s.self {
		// Nobody is there yet, or this node is on its way out or back in.
		return answer{err: &Error{Reason: ReasonUnavailable, Identity: *id}, again: elsewhere}
	}
	request, err := proto.Marshal(msg)
	if err != nil {
		return answer{err: err}
	}
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	addr, relay := n.shared.wayTo(s, owner)
	reply, err := n.shared.client.Call(ctx, addr, &nodev1.Call{Kind: id.Kind, Tenant: id.Tenant, Grain: id.ID,
		Request: request, View: s.view.Version, Relay: relay})
	if !relay {
		n.shared.dim.note(owner, err)
	}
	if err != nil {
		return n.notAnswered(ctx, id, err)
	}
	return n.remoteAnswer(kind, id, reply)
}

// notAnswered says what is known of a call without an answer.
func (n *Node) notAnswered(ctx context.Context, id *Identity, err error) answer {
	switch {
	case errors.Is(err, transport.ErrNotSent):
		return answer{err: &Error{Reason: ReasonUnavailable, Identity: *id}, again: elsewhere}
	case errors.Is(err, transport.ErrLost):
		return answer{err: &Error{Reason: ReasonDeadLetter, Identity: *id}, again: ifSafe}
	case errors.Is(err, transport.ErrFull):
		return answer{err: &Error{Reason: ReasonBusy, Identity: *id, RetryAfter: hintUnknown}, again: always}
	case ctx.Err() != nil:
		return answer{err: ctx.Err()}
	}
	return answer{err: err}
}

// remoteAnswer is the answer of another node as if its grain lived here.
func (n *Node) remoteAnswer(kind *Kind, id *Identity, r *nodev1.Reply) answer {
	fail := func(reason string, again retry) answer {
		return answer{err: &Error{Reason: reason, Identity: *id,
			RetryAfter: time.Duration(r.GetRetryAfterMicros()) * time.Microsecond}, again: again}
	}
	switch r.GetOutcome() {
	case nodev1.Outcome_OUTCOME_REPLY:
		reply := kind.Reply()
		if err := proto.Unmarshal(r.GetReply(), reply); err != nil {
			return fail(ReasonMalformed, never)
		}
		return answer{reply: reply}
	case nodev1.Outcome_OUTCOME_ERROR:
		err := n.shared.cfg.Errors.Decode(r.GetError())
		if r.GetNotApplied() {
			return answer{err: err, again: elsewhere}
		}
		return answer{err: err}
	case nodev1.Outcome_OUTCOME_MOVED, nodev1.Outcome_OUTCOME_STOPPED:
		return fail(ReasonUnavailable, elsewhere)
	case nodev1.Outcome_OUTCOME_BUSY:
		return fail(ReasonBusy, always)
	case nodev1.Outcome_OUTCOME_GONE:
		return fail(ReasonDeadLetter, ifSafe)
	case nodev1.Outcome_OUTCOME_PANICKED:
		return fail(ReasonPanicked, never)
	case nodev1.Outcome_OUTCOME_UNKNOWN_KIND:
		return fail(ReasonUnknownKind, never)
	case nodev1.Outcome_OUTCOME_EXPIRED:
		return answer{err: context.DeadlineExceeded}
	}
	return fail(ReasonMalformed, never)
}

// ping asks a node who it is, and with back whether it reaches that address.
func (s *sharing) ping(ctx context.Context, addr, from string, view int64, back string) (*nodev1.PingResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.CallTimeout)
	defer cancel()
	r, err := s.client.Ping(ctx, addr, &nodev1.PingRequest{From: from, View: view, Back: back})
	if err == nil {
		s.heard(r.GetView())
	}
	return r, err
}
