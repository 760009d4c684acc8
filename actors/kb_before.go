package actors

import (
	"context"
	"slices"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// lockedFresh is how long the tenant's word that it is not active is repeated to
// those who write without asking it again: it may have been resumed, or made anew.
const lockedFresh = time.Second

// write decides a change, queues its events, and replies after the commit. What the
// tenant must be asked before is asked first.
func (g *kbGrain) write(c call, m *nodev1.KnowledgeBaseCall, key *journal.IdempotencyKey) {
	decide := func(err error) { g.decideAndReply(c, m, key, err, false) }
	g.withSettings(func(err error) {
		if err != nil {
			decide(err)
			return
		}
		g.whenUnlocked(m, func(err error) {
			if err != nil {
				decide(err)
				return
			}
			g.whenThere(namedWorkspace(m), func(err error) {
				if kb.Is(err, kb.ReasonWorkspaceNotFound) {
					g.answer(c, errorReply(err))
					g.settleKey(key)
					return
				}
				decide(err)
			})
		})
	})
}

// whenUnlocked goes on with what the tenant says now, if what it said before would
// refuse the call.
func (g *kbGrain) whenUnlocked(m *nodev1.KnowledgeBaseCall, then func(error)) {
	w := g.busy()
	if g.admits(m) == nil || g.deps.Now().Sub(w.settings.at) < lockedFresh {
		then(nil)
		return
	}
	w.unready = append(w.unready, then)
	g.askSettings()
}

// namedWorkspace is the workspace that a call puts the knowledge base into, "" for
// none or the one that is always there.
func namedWorkspace(m *nodev1.KnowledgeBaseCall) string {
	id := m.GetCreate().GetWorkspace()
	if create := m.GetBeginImport().GetCreate(); create != nil {
		id = create.GetWorkspace()
	}
	if u := m.GetUpdate(); slices.Contains(u.GetUpdateMask().GetPaths(), pathWorkspace) {
		id = u.GetKnowledgeBase().GetWorkspace()
	}
	if id == kb.DefaultWorkspace {
		return ""
	}
	return id
}

// whenThere goes on when the tenant has the workspace. One that is deleted in the
// same moment leaves a knowledge base in a workspace that is no more, which who
// may everything in the tenant can move.
func (g *kbGrain) whenThere(workspace string, then func(error)) {
	if workspace == "" || workspace == g.kb.Workspace() && g.kb.Phase() == kb.PhaseActive {
		then(nil)
		return
	}
	w := g.busy()
	p := &placing{then}
	if w.placing == nil {
		w.placing = make(map[*placing]struct{})
	}
	w.placing[p] = struct{}{}
	g.aside(func(context.Context) error {
		_, err := g.askTenant(&nodev1.TenantCall{Operation: &nodev1.TenantCall_GetWorkspace{
			GetWorkspace: &granaryv1.GetWorkspaceRequest{Name: workspace}}})
		return err
	}, func(err error) {
		if _, waits := w.placing[p]; waits {
			delete(w.placing, p)
			then(err)
		}
	})
}

// placing waits for what the tenant says of a workspace.
type placing struct{ then func(error) }
