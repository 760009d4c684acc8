package actors

import (
	"context"
	"time"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"

	"google.golang.org/protobuf/types/known/timestamppb"

	"granary.dev/granary/actors/kb"
)

const (
	// settingsFresh is how long the tenant's settings are used without asking
	// again. The tenant tells its knowledge bases of a change at once; this
	// bounds what a lost message costs.
	settingsFresh = time.Minute
	askTimeout    = 10 * time.Second
	settingsAgain = time.Second
)

type settingsMsg struct {
	settings *nodev1.TenantSettings
	err      error
}

// withSettings runs f when the tenant's settings are known, with the error if
// they cannot be had.
func (g *kbGrain) withSettings(f func(error)) {
	w := g.busy()
	if w.settings == nil {
		w.unready = append(w.unready, f)
		g.askSettings()
		return
	}
	if g.deps.Now().Sub(w.settings.at) > settingsFresh {
		g.askSettings()
	}
	f(nil)
}

// prefetch asks for the settings that a search will need while the state is still
// being loaded, so that its answer does not wait for one after the other.
func (g *kbGrain) prefetch(c call) {
	if m, ok := c.Request().(*nodev1.KnowledgeBaseCall); ok && g.phase == phaseLoading && m.GetSearch() != nil {
		g.askSettings()
	}
}

func (g *kbGrain) askSettings() {
	w := g.busy()
	if w.asking {
		return
	}
	w.asking = true
	go func() {
		r, err := g.askTenant(&nodev1.TenantCall{Operation: &nodev1.TenantCall_GetSettings{
			GetSettings: &nodev1.GetSettings{Subscriber: g.id.ID}}})
		g.tell(&settingsMsg{settings: r.GetSettings(), err: err})
	}()
}

// askTenant asks the tenant's grain from a goroutine of its own.
func (g *kbGrain) askTenant(m *nodev1.TenantCall) (*nodev1.TenantReply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	m.Header = &nodev1.Header{Tenant: g.id.Tenant, Principal: system.principal, Internal: true}
	r, err := g.deps.Asker.Ask(ctx, KindTenant, g.id.Tenant, g.id.Tenant, m)
	if err != nil {
		return nil, err
	}
	reply, ok := r.(*nodev1.TenantReply)
	if !ok {
		return nil, kb.Errorf(kb.CodeInternal, kb.ReasonInternal, "unexpected answer of the tenant")
	}
	if e := reply.GetError(); e != nil {
		return nil, fromError(e)
	}
	return reply, nil
}

func (g *kbGrain) receiveSettings(m *settingsMsg) {
	w := g.busy()
	w.asking = false
	if m.err == nil {
		g.setSettings(m.settings)
	} else {
		g.log().Warn("tenant settings not read", "error", m.err)
	}
	if w.settings == nil {
		m.err = kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "the tenant's settings cannot be read; try again").After(time.Second)
	} else {
		m.err = nil
	}
	unready := w.unready
	w.unready = nil
	for _, f := range unready {
		f(m.err)
	}
	if m.err != nil {
		g.wakeAt(g.deps.Now().Add(settingsAgain)) // a tenant that cannot be read is not asked without end
		return
	}
	g.tell(&wakeMsg{})
}

// setSettings takes settings unless newer ones are there.
func (g *kbGrain) setSettings(s *nodev1.TenantSettings) {
	w := g.busy()
	if w.settings != nil && w.settings.revision > s.GetRevision() {
		return
	}
	w.settings = &settings{version: s.GetVersion(), revision: s.GetRevision(), state: kb.TenantState(s.GetState()), config: configOf(s.GetDefaultConfig()), limits: limitsOf(s.GetLimits()), at: g.deps.Now()}
}

// unlist runs beside the mailbox.
func (g *kbGrain) unlist(uid string) error {
	_, err := g.askTenant(&nodev1.TenantCall{Operation: &nodev1.TenantCall_Unregister{
		Unregister: &nodev1.UnregisterKnowledgeBase{Id: g.id.ID, Uid: uid}}})
	return err
}

// register lists the knowledge base with its tenant and then calls then. A
// tenant that cannot be reached is told later, by the wake-up.
func (g *kbGrain) register(then func()) {
	g.busy().listing = true
	entry := &nodev1.RegisterKnowledgeBase{Id: g.id.ID, Uid: g.kb.UID(), DisplayName: g.kb.DisplayName(),
		Workspace: g.kb.Workspace(), CreateTime: timestamppb.New(g.kb.CreatedAt())}
	g.aside(func(context.Context) error {
		_, err := g.askTenant(&nodev1.TenantCall{Operation: &nodev1.TenantCall_Register{Register: entry}})
		return err
	}, func(err error) {
		g.work.listing = false
		if err != nil {
			g.log().Warn("not registered with the tenant yet", "error", err)
		} else if g.kb.UID() == entry.GetUid() && !g.kb.Listed() && g.kb.Phase() == kb.PhaseActive &&
			g.kb.DisplayName() == entry.GetDisplayName() && g.kb.Workspace() == entry.GetWorkspace() {
			g.record([]kb.Event{&kb.Registered{}}, nil)
		}
		then()
	})
}

// unregister takes the knowledge base off its tenant's list before the reply.
func (g *kbGrain) unregister(uid string) func(func()) {
	return func(then func()) {
		g.aside(func(context.Context) error { return g.unlist(uid) }, func(err error) {
			if err != nil {
				g.log().Warn("not taken off the tenant's list yet", "error", err)
			}
			then()
		})
	}
}
