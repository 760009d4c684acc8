package actors

import (
	"reflect"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// importSettings takes what the archive of a tenant holds beside knowledge bases.
func (g *tenantGrain) importSettings(c call, h *nodev1.Header, r *nodev1.ImportSettings) {
	var workspaces []kb.Workspace
	for _, w := range r.GetWorkspaces() {
		workspaces = append(workspaces, kb.Workspace{ID: resourceID(w.GetName()), DisplayName: w.GetDisplayName(), Created: g.deps.Now()})
	}
	var bindings []kb.Binding
	for _, b := range r.GetBindings() {
		bindings = append(bindings, kb.Binding{Subject: b.GetSubject(), Grant: grantOf(b.GetGrant())})
	}
	ch := change{reply: tenantDone, rule: func() ([]kb.Event, error) {
		events, err := g.importConfig(r)
		if err != nil {
			return nil, err
		}
		access, err := g.tenant.ImportAccess(giver(h), workspaces, bindings)
		if err != nil || r.GetValidateOnly() {
			return nil, err
		}
		return append(events, access...), nil
	}}
	if r.GetDefaultConfig() != nil && !r.GetValidateOnly() {
		ch.after = g.spread
	}
	g.change(c, h, ch)
}

// importConfig decides the default configuration of an archive; nothing if it is the one
// there is.
func (g *tenantGrain) importConfig(r *nodev1.ImportSettings) ([]kb.Event, error) {
	if r.GetDefaultConfig() == nil {
		return nil, nil
	}
	config := configOf(r.GetDefaultConfig())
	if err := g.checkConfig(config); err != nil || reflect.DeepEqual(config, g.tenant.Config()) {
		return nil, err
	}
	return g.tenant.Configure("", config)
}

// checkConfig validates default settings by themselves and on top of the built-in ones.
func (g *tenantGrain) checkConfig(config kb.Config) error {
	if err := config.Validate(g.deps.knownModel); err != nil {
		return err
	}
	return kb.Resolve(g.deps.builtIn(), config, kb.Config{}, kb.Config{}).ValidateEffective()
}
