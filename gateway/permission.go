package gateway

import (
	"fmt"
	"slices"

	"connectrpc.com/connect/v2"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// permission is what an RPC needs. Those of all RPCs are generated from the
// protos (permissions_gen.go).
type permission struct {
	role  string
	scope scope
}

// scope is where a role must hold.
type scope uint8

const (
	scopeKnowledgeBase scope = iota + 1 // in the one the request names; its grain has the last word
	scopeTenant                         // in the whole tenant
	scopeAnywhere                       // somewhere in the tenant; the handler or the grain looks further
	scopeCluster                        // for operators
)

// checkPermissions refuses a server that has a method without a row, or one of
// the other server's.
func checkPermissions(server *connect.Server, operators bool) error {
	for spec := range server.Specs() {
		p, ok := permissions[spec.Procedure]
		if !ok {
			return fmt.Errorf("gateway: no permission is set for %s", spec.Procedure)
		}
		if operators != (p.scope == scopeCluster) {
			return fmt.Errorf("gateway: %s is served to the wrong callers", spec.Procedure)
		}
	}
	return nil
}

// tokenGrants is what a token's own roles allow: in its workspace, if it names one.
func tokenGrants(p Principal) []kb.Grant {
	grants := make([]kb.Grant, 0, len(p.Roles))
	for _, r := range p.Roles {
		if kb.ValidRole(kb.Role(r)) {
			grants = append(grants, kb.Grant{Role: kb.Role(r), Workspace: p.Workspace})
		}
	}
	return grants
}

// may tells whether the principal may use a method at all. A role that is held
// nowhere is refused whatever the request names, which tells nothing of what there
// is; a role that is held somewhere leaves the decision to the knowledge base.
func (p Principal) may(need permission) bool {
	role := kb.Role(need.role)
	switch need.scope {
	case scopeTenant:
		return kb.AllowsTenant(p.Grants, role)
	case scopeKnowledgeBase, scopeAnywhere:
		return slices.ContainsFunc(p.Grants, func(g kb.Grant) bool { return g.Role.Covers(role) })
	}
	return false
}

// grantProtos is what a grain is told of a principal's grants.
func grantProtos(grants []kb.Grant) []*nodev1.Grant {
	out := make([]*nodev1.Grant, len(grants))
	for i, g := range grants {
		out[i] = &nodev1.Grant{Role: string(g.Role), Workspace: g.Workspace, KnowledgeBase: g.KnowledgeBase}
	}
	return out
}
