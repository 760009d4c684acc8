package actors

import (
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// change is a command on a tenant: what it decides, what is answered, and what
// must have happened before the answer.
type change struct {
	rule  func() ([]kb.Event, error)
	reply func() *nodev1.TenantReply // built when the events are applied
	after func(then func())          // delays the answer past the commit; nil: at once
}

// change decides a command, commits its events and answers. One that comes to
// nothing is a read: it is decided again on what is known to be current.
func (g *tenantGrain) change(c call, h *nodev1.Header, ch change) { g.decideChange(c, h, ch, false) }

func (g *tenantGrain) decideChange(c call, h *nodev1.Header, ch change, proven bool) {
	if g.broken != nil {
		c.Reply(nil, g.broken)
		return
	}
	events, err := ch.rule()
	if (err != nil || len(events) == 0) && g.unproven(c, proven, func() { g.decideChange(c, h, ch, true) }) {
		return
	}
	switch {
	case err != nil:
		g.answer(c, tenantError(err))
		return
	case len(events) == 0:
		g.answer(c, ch.reply())
		return
	}
	g.record(c, h, events, ch.reply, ch.after)
}

// read answers from what is current.
func (g *tenantGrain) read(c call, reply func() *nodev1.TenantReply) {
	if g.mayRead() {
		g.answer(c, reply())
		return
	}
	g.current(orReply(c, func() { g.answer(c, reply()) }))
}
