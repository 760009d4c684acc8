package actors

import (
	"time"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// How long a search that may be stale waits for the store: to say that it is not,
// and for the texts of its hits.
const (
	staleAfter = 300 * time.Millisecond
	staleTexts = time.Second
)

// staleMsg: such a search has waited long enough.
type staleMsg struct{ search *staleSearch }

// staleSearch is a search that rather has an old answer than none.
type staleSearch struct {
	call     call
	request  *nodev1.KnowledgeBaseCall
	timer    *time.Timer
	answered bool
}

// searchStale answers a search from memory if the store cannot say in time
// whether memory is current.
func (g *kbGrain) searchStale(c call, m *nodev1.KnowledgeBaseCall) {
	s := &staleSearch{call: c, request: m}
	s.timer = time.AfterFunc(staleAfter, func() { g.tell(&staleMsg{s}) })
	g.current(func(err error) {
		switch {
		case s.answered:
			return
		case err == nil && m.GetHeader().GetUnproven():
			c.Reply(nil, unprovenError())
		case err == nil:
			g.serve(c, m)
		case kb.Is(err, kb.ReasonUnavailable) && !isUnapplied(err):
			g.answerStale(s)
		default:
			c.Reply(nil, err)
		}
		s.answered = true
		s.timer.Stop()
	})
}

// unprovenError: the store is there, and so the tenant must be asked who calls. It may
// have been suspended; without the store it cannot be.
func unprovenError() error {
	return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "it cannot be told now who may call; try again").After(time.Second)
}

// answerStale searches what is in memory, and has the answer say so.
func (g *kbGrain) answerStale(s *staleSearch) {
	if s.answered {
		return
	}
	s.answered = true
	if g.broken != nil || g.stopping || g.phase != phaseActive {
		s.call.Reply(nil, movedError())
		return
	}
	if !g.owned {
		s.call.Reply(nil, readError()) // nothing is known here that could be told
		return
	}
	if err := g.authorize(s.request); err != nil {
		s.call.Reply(errorReply(err), nil)
		return
	}
	g.withSettings(orReply(s.call, func() { g.search(s.call, s.request.GetSearch(), true) }))
}
