package actors

import (
	"slices"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// pathWorkspace is the path of a mask that moves a knowledge base.
const pathWorkspace = "workspace"

// grantsOf reads what a caller may do.
func grantsOf(h *nodev1.Header) []kb.Grant {
	grants := make([]kb.Grant, len(h.GetGrants()))
	for i, g := range h.GetGrants() {
		grants[i] = kb.Grant{Role: kb.Role(g.GetRole()), Workspace: g.GetWorkspace(), KnowledgeBase: g.GetKnowledgeBase()}
	}
	return grants
}

// authorize decides whether the caller may have an operation carried out here:
// the knowledge base has the last word, since it knows its workspace. To whom may
// not even view it, it is not there. A creation needs the role where the new one
// would be, and a move that of an admin on both sides.
func (g *kbGrain) authorize(m *nodev1.KnowledgeBaseCall) error {
	h := m.GetHeader()
	if h.GetInternal() {
		return nil
	}
	grants, need, id := grantsOf(h), kb.Role(h.GetRequiredRole()), g.id.ID
	create := m.GetCreate()
	if create == nil {
		create = m.GetBeginImport().GetCreate()
	}
	if create != nil {
		if !kb.AllowsKB(grants, need, kb.WorkspaceOr(create.GetWorkspace()), id) {
			return permissionError(need)
		}
		return nil
	}
	if !kb.AllowsKB(grants, kb.RoleViewer, g.kb.Workspace(), id) {
		return g.kb.NoKnowledgeBase()
	}
	if !kb.AllowsKB(grants, need, g.kb.Workspace(), id) {
		return permissionError(need)
	}
	if u := m.GetUpdate(); slices.Contains(u.GetUpdateMask().GetPaths(), pathWorkspace) {
		for _, w := range []string{g.kb.Workspace(), kb.WorkspaceOr(u.GetKnowledgeBase().GetWorkspace())} {
			if !kb.AllowsKB(grants, kb.RoleAdmin, w, id) {
				return permissionError(kb.RoleAdmin)
			}
		}
	}
	return nil
}

func permissionError(need kb.Role) error {
	return kb.Errorf(kb.CodePermissionDenied, kb.ReasonPermission, "This needs the role %s.", need).With("required_role", string(need))
}
