package kb

import "slices"

// Role is what somebody may do, weakest first: each may do what the ones before it may.
type Role string

// The roles.
const (
	RoleViewer Role = "viewer"
	RoleEditor Role = "editor"
	RoleAdmin  Role = "admin"
)

var roleOrder = []Role{RoleViewer, RoleEditor, RoleAdmin}

// ValidRole reports whether r is one of the roles.
func ValidRole(r Role) bool { return slices.Contains(roleOrder, r) }

// Covers reports whether r may do what need may; an unknown role covers nothing
// and nothing covers it.
func (r Role) Covers(need Role) bool {
	return ValidRole(need) && slices.Index(roleOrder, r) >= slices.Index(roleOrder, need)
}

// DefaultWorkspace is where a knowledge base is that was not put into another.
const DefaultWorkspace = "default"

// WorkspaceOr gives the default for a workspace that is not named.
func WorkspaceOr(id string) string {
	if id == "" {
		return DefaultWorkspace
	}
	return id
}

// Grant is a role and where it holds: in one knowledge base, in the knowledge
// bases of one workspace, or (both empty) in the whole tenant. A grant that names
// both holds in that knowledge base while it is in that workspace.
type Grant struct {
	Role          Role   `json:"role"`
	Workspace     string `json:"workspace,omitempty"`
	KnowledgeBase string `json:"knowledge_base,omitempty"`
}

// holds reports whether the grant is good in a knowledge base.
func (g Grant) holds(workspace, id string) bool {
	return (g.Workspace == "" || g.Workspace == workspace) && (g.KnowledgeBase == "" || g.KnowledgeBase == id)
}

// AllowsTenant reports whether grants give need in the whole tenant.
func AllowsTenant(grants []Grant, need Role) bool {
	return slices.ContainsFunc(grants, func(g Grant) bool {
		return g.Workspace == "" && g.KnowledgeBase == "" && g.Role.Covers(need)
	})
}

// AllowsKB reports whether grants give need in the knowledge base id, which is in
// workspace.
func AllowsKB(grants []Grant, need Role, workspace, id string) bool {
	return slices.ContainsFunc(grants, func(g Grant) bool { return g.holds(workspace, id) && g.Role.Covers(need) })
}
