package actors_test

import (
	"context"
	"log/slog"
	"sync"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// host runs the grains of a node as package cluster does: one activation of an
// identity at a time, and one answer to each call.
type host struct {
	grains *actors.Grains
	system *actor.ActorSystem

	mu    sync.Mutex
	seats map[journal.Identity]*seat
	ever  map[journal.Identity]bool
}

func newHost(g *actors.Grains) *host {
	quiet := slog.New(slog.DiscardHandler)
	return &host{grains: g, seats: make(map[journal.Identity]*seat), ever: make(map[journal.Identity]bool),
		system: actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return quiet }),
			actor.WithMetricProviders(nil), actor.WithDeadLetterRequestLogging(false))}
}

// seat is one activation.
type seat struct {
	h     *host
	id    journal.Identity
	pid   *actor.PID
	grain actor.Actor
	calls map[*hostCall]bool // true: handed over
}

// Receive implements actor.Actor.
func (s *seat) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		s.grain = s.h.grains.New(s.id.Kind, s.id.Tenant, s.id.ID)
	case *hostCall:
		s.h.mu.Lock()
		s.calls[m] = true
		s.h.mu.Unlock()
	}
	s.grain.Receive(ctx)
	if _, over := ctx.Message().(*actor.Stopped); over {
		s.over()
	}
}

// HandleFailure implements actor.SupervisorStrategy.
func (s *seat) HandleFailure(sys *actor.ActorSystem, sup actor.Supervisor, child *actor.PID, rs *actor.RestartStatistics, reason, message any) {
	s.grain.(actor.SupervisorStrategy).HandleFailure(sys, sup, child, rs, reason, message)
}

// over answers the calls that the grain left.
func (s *seat) over() {
	s.h.mu.Lock()
	delete(s.h.seats, s.id)
	calls := s.calls
	s.calls = nil
	s.h.mu.Unlock()
	for c, handed := range calls {
		if handed {
			c.finish(nil, kb.Errorf(kb.CodeUnavailable, kb.ReasonInDoubt, "gone"))
		} else {
			c.finish(nil, notHere())
		}
	}
}

// hostCall is a call to a grain.
type hostCall struct {
	ctx   context.Context
	m     proto.Message
	once  sync.Once
	reply chan struct{}
	out   proto.Message
	err   error
}

func (c *hostCall) Request() proto.Message   { return c.m }
func (c *hostCall) Context() context.Context { return c.ctx }

// Reply answers the caller, the first time.
func (c *hostCall) Reply(m proto.Message, err error) { c.finish(m, err) }

func (c *hostCall) finish(m proto.Message, err error) {
	c.once.Do(func() {
		c.out, c.err = m, err
		close(c.reply)
	})
}

// ask starts the grain if need be, and waits for its answer or for ctx's end.
func (h *host) ask(ctx context.Context, id journal.Identity, m proto.Message) (proto.Message, error) {
	c := h.send(ctx, id, m)
	select {
	case <-c.reply:
		return c.out, c.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send puts a call in front of a grain.
func (h *host) send(ctx context.Context, id journal.Identity, m proto.Message) *hostCall {
	c := &hostCall{ctx: ctx, m: m, reply: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.seats[id]
	if s == nil {
		s = &seat{h: h, id: id, calls: make(map[*hostCall]bool)}
		h.seats[id], h.ever[id] = s, true
		s.pid = h.system.Root.Spawn(actor.PropsFromProducer(func() actor.Actor { return s }))
	}
	s.calls[c] = false
	h.system.Root.Send(s.pid, c)
	return c
}

type drainRequest struct{}

func (drainRequest) DrainRequested() {}

// drain asks the grains chosen to hand over.
func (h *host) drain(which func(journal.Identity) bool) {
	for _, s := range h.all() {
		if which(s.id) {
			h.system.Root.Send(s.pid, drainRequest{})
		}
	}
}

// kill ends all grains as the end of their process does, without a word to anybody.
func (h *host) kill() {
	for _, s := range h.all() {
		_ = h.system.Root.StopFuture(s.pid).Wait()
	}
}

func (h *host) all() []*seat {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*seat
	for _, s := range h.seats {
		out = append(out, s)
	}
	return out
}

// active lists who is there, and known who ever was.
func (h *host) active() []journal.Identity {
	var out []journal.Identity
	for _, s := range h.all() {
		out = append(out, s.id)
	}
	return out
}

func (h *host) known() []journal.Identity {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []journal.Identity
	for id := range h.ever {
		out = append(out, id)
	}
	return out
}
