package actors

import (
	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/actors/kb"
)

// placeLostMsg: a run has lost its place, since its tenant could not be reached for too
// long. It ends, and goes on when there is a place again.
type placeLostMsg struct {
	id string
	of *child
}

func (g *kbGrain) placeKey() placeKey { return g.deps.places.key(g.id.Tenant, g.fence.Node) }

// takePlace gives a place for a run of a document, or nil and wakes the knowledge base
// when it may have one.
func (g *kbGrain) takePlace(id string, c *child, want int) *place {
	return g.deps.places.take(g.placeKey(), g.id.ID, want,
		func() { g.tell(&wakeMsg{}) }, func() { g.tell(&placeLostMsg{id, c}) })
}

// hungry notes whether a document waits for a place; one that was wanted and is not any
// more is left to others.
func (g *kbGrain) hungry(starved bool) {
	if w := g.work; w.starved || starved {
		if w.starved = starved; !starved {
			g.deps.places.pass(g.placeKey(), g.id.ID)
		}
	}
}

// waitsForPlace reports whether a document is held up by others of its tenant.
func (g *kbGrain) waitsForPlace(id string) bool {
	w := g.work
	return w != nil && w.starved && w.queued[id] && g.deps.places.full(g.placeKey())
}

func (g *kbGrain) placeLost(ctx actor.Context, m *placeLostMsg) {
	w := g.work
	if w == nil || w.children[m.id] != m.of || g.stopping || g.broken != nil || g.phase != phaseActive {
		return
	}
	g.endRun(ctx, m.id)
	d := g.kb.Document(m.id)
	if d == nil || !d.Running {
		return
	}
	g.record([]kb.Event{&kb.DocumentPaused{ID: d.ID, Version: d.Version}}, func(err error) {
		if err == nil {
			g.enqueueRun(m.id)
		}
	})
}
