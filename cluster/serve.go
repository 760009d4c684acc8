package cluster

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/protobuf/proto"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// server answers other nodes; it is the transport's handler.
type server sharing

// Call puts a call of another node in front of its grain. It does not block: the
// answer goes out from whoever gives it.
func (h *server) Call(ctx context.Context, c *nodev1.Call, reply func(*nodev1.Reply)) {
	s := (*sharing)(h)
	n := s.node
	s.heard(c.GetView())
	id := Identity{Kind: c.GetKind(), Tenant: c.GetTenant(), ID: c.GetGrain()}
	kind, err := n.check(&id)
	if err != nil {
		reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_UNKNOWN_KIND})
		return
	}
	hash := id.Hash()
	if c.GetRelay() && !n.standing.Load().local(hash, id.Tenant) {
		s.wg.Go(func() { s.passOn(ctx, c, hash, reply) })
		return
	}
	request := kind.Request()
	if err := proto.Unmarshal(c.GetRequest(), request); err != nil {
		reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_MALFORMED})
		return
	}
	in := &Call{request: request, caller: ctx, then: func(c *Call) { reply(s.outcome(c, &id)) }}
	if _, err := n.send(in, &id, hash); err != nil {
		reply(refusal(err))
	}
}

// refusal says why a call never came in front of a grain.
func refusal(err error) *nodev1.Reply {
	var e *Error
	switch {
	case errors.Is(err, ErrBusy) && errors.As(err, &e):
		return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_BUSY, RetryAfterMicros: e.RetryAfter.Microseconds()}
	case errors.Is(err, ErrStopped):
		return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_STOPPED}
	}
	return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_MOVED}
}

// outcome is what became of a call, for another node.
func (s *sharing) outcome(c *Call, id *Identity) *nodev1.Reply {
	switch c.outcome {
	case byGrain:
		return s.grainAnswer(c, id)
	case byStop, byNode:
		return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_GONE}
	case byMove:
		return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_MOVED}
	case byPanic:
		return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_PANICKED}
	}
	return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_EXPIRED}
}

func (s *sharing) grainAnswer(c *Call, id *Identity) *nodev1.Reply {
	if c.err == nil {
		data, err := proto.Marshal(c.reply)
		if err != nil {
			s.log.Error("an answer cannot be encoded", slog.String("grain", id.String()), slog.Any("error", err))
			return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_MALFORMED}
		}
		return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY, Reply: data}
	}
	if errors.Is(c.err, context.DeadlineExceeded) || errors.Is(c.err, context.Canceled) {
		return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_EXPIRED}
	}
	e := s.cfg.Errors.Encode(c.err)
	if e == nil {
		s.log.Error("a grain answered with an error of its own kind", slog.String("grain", id.String()), slog.Any("error", c.err))
		return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_PANICKED}
	}
	return &nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_ERROR, Error: e, NotApplied: notApplied(c.err)}
}

// Ping tells who this node is, and tries the way back if asked to.
func (h *server) Ping(ctx context.Context, r *nodev1.PingRequest) (*nodev1.PingResponse, error) {
	s := (*sharing)(h)
	s.heard(r.GetView())
	now := s.node.standing.Load()
	out := &nodev1.PingResponse{Node: now.id, View: now.view.Version}
	if l := s.life.Load(); l != nil {
		out.Node = l.id.String() // before it is a member, too
	}
	if r.GetBack() != "" {
		back, err := s.ping(ctx, r.GetBack(), out.GetNode(), out.GetView(), "")
		out.Reached = err == nil && back.GetNode() == r.GetFrom()
	}
	return out, nil
}

// View is the version of the view this node acts on.
func (h *server) View() int64 { return h.node.standing.Load().view.Version }
