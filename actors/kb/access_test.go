package kb_test

import (
	"testing"

	"granary.dev/granary/actors/kb"
)

func TestAGrantHoldsWhereItSaysAndNowhereElse_B1(t *testing.T) {
	type asked struct {
		need          kb.Role
		workspace, id string
	}
	for name, c := range map[string]struct {
		grants  []kb.Grant
		may     []asked
		mayNot  []asked
		tenants kb.Role // strongest role in the whole tenant
	}{
		"nobody": {mayNot: []asked{{kb.RoleViewer, "w", "a"}, {"", "w", "a"}}},
		"an editor of the tenant": {grants: []kb.Grant{{Role: kb.RoleEditor}}, tenants: kb.RoleEditor,
			may:    []asked{{kb.RoleViewer, "w", "a"}, {kb.RoleEditor, "", "b"}},
			mayNot: []asked{{kb.RoleAdmin, "w", "a"}, {"owner", "w", "a"}, {"", "w", "a"}}},
		"an admin of a workspace": {grants: []kb.Grant{{Role: kb.RoleAdmin, Workspace: "w"}},
			may: []asked{{kb.RoleAdmin, "w", "a"}}, mayNot: []asked{{kb.RoleViewer, "", "a"}, {kb.RoleViewer, "v", "a"}}},
		"a viewer of one knowledge base": {grants: []kb.Grant{{Role: kb.RoleViewer, KnowledgeBase: "a"}},
			may: []asked{{kb.RoleViewer, "w", "a"}}, mayNot: []asked{{kb.RoleViewer, "w", "b"}, {kb.RoleEditor, "w", "a"}}},
		"in a workspace only": {grants: []kb.Grant{{Role: kb.RoleViewer, Workspace: "w", KnowledgeBase: "a"}},
			may: []asked{{kb.RoleViewer, "w", "a"}}, mayNot: []asked{{kb.RoleViewer, "v", "a"}, {kb.RoleViewer, "w", "b"}}},
		"an unknown role": {grants: []kb.Grant{{Role: "root"}, {Role: ""}}, mayNot: []asked{{kb.RoleViewer, "w", "a"}, {"root", "w", "a"}}},
		"the strongest counts": {grants: []kb.Grant{{Role: kb.RoleViewer}, {Role: kb.RoleAdmin, KnowledgeBase: "a"}}, tenants: kb.RoleViewer,
			may: []asked{{kb.RoleAdmin, "w", "a"}, {kb.RoleViewer, "w", "b"}}, mayNot: []asked{{kb.RoleEditor, "w", "b"}}},
	} {
		for _, a := range c.may {
			if !kb.AllowsKB(c.grants, a.need, a.workspace, a.id) {
				t.Errorf("%s may not: %v", name, a)
			}
		}
		for _, a := range c.mayNot {
			if kb.AllowsKB(c.grants, a.need, a.workspace, a.id) {
				t.Errorf("%s may: %v", name, a)
			}
		}
		for _, need := range []kb.Role{kb.RoleViewer, kb.RoleEditor, kb.RoleAdmin} {
			if got, want := kb.AllowsTenant(c.grants, need), c.tenants != "" && c.tenants.Covers(need); got != want {
				t.Errorf("%s, %s in the whole tenant: %v, want %v", name, need, got, want)
			}
		}
	}
}
