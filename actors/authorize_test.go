package actors_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// as sends a call of somebody with these grants, who needs a role for it.
func (c *client) as(need kb.Role, m *nodev1.KnowledgeBaseCall, grants ...*nodev1.Grant) (*nodev1.KnowledgeBaseReply, error) {
	m = proto.CloneOf(m)
	m.Header = &nodev1.Header{Tenant: tenant, Principal: "somebody", RequiredRole: string(need), Grants: grants}
	return c.call(m)
}

func createInCall(id, workspace string) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Create{
		Create: &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: id, Workspace: workspace}}}
}

func moveCall(workspace string) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Update{Update: &granaryv1.UpdateKnowledgeBaseRequest{
		KnowledgeBase: &granaryv1.KnowledgeBase{Workspace: workspace}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"workspace"}}}}}
}

// listed gives the knowledge bases somebody sees in the tenant's list, with their workspaces.
func (w *world) listedFor(workspace string, grants ...*nodev1.Grant) map[string]string {
	w.t.Helper()
	r, err := w.ask(w.t.Context(), "tenant", tenant, &nodev1.TenantCall{
		Header:    &nodev1.Header{Tenant: tenant, Principal: "somebody", Grants: grants},
		Operation: &nodev1.TenantCall_List{List: &granaryv1.ListKnowledgeBasesRequest{Workspace: workspace}}})
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]string{}
	for _, k := range r.(*nodev1.TenantReply).GetList().GetKnowledgeBases() {
		out[k.GetName()] = k.GetWorkspace()
	}
	return out
}

func TestAKnowledgeBaseServesWhoMayAndIsNotThereForOthers_B1(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.workspaces("legal")
		c := w.kb("plans")
		if _, err := c.as(kb.RoleEditor, createInCall("plans", "legal"), &nodev1.Grant{Role: "editor", Workspace: "legal"}); err != nil {
			t.Fatalf("an editor of the workspace cannot create: %v", err)
		}
		if _, err := w.kb("other").as(kb.RoleEditor, createInCall("other", ""), &nodev1.Grant{Role: "editor", Workspace: "legal"}); !kb.Is(err, kb.ReasonPermission) {
			t.Errorf("created outside the workspace: %v", err)
		}
		unknown := func(m *nodev1.KnowledgeBaseCall, grants ...*nodev1.Grant) error {
			_, err := w.kb("nobody").as(kb.RoleViewer, m, grants...)
			return err
		}
		for name, asked := range map[string]struct {
			grants []*nodev1.Grant
			see    bool
			edit   bool
		}{
			"nobody":                            {},
			"an admin of the tenant":            {[]*nodev1.Grant{{Role: "admin"}}, true, true},
			"a viewer of the tenant":            {[]*nodev1.Grant{{Role: "viewer"}}, true, false},
			"an editor of the workspace":        {[]*nodev1.Grant{{Role: "editor", Workspace: "legal"}}, true, true},
			"an admin of another workspace":     {[]*nodev1.Grant{{Role: "admin", Workspace: "default"}}, false, false},
			"a viewer of the knowledge base":    {[]*nodev1.Grant{{Role: "viewer", KnowledgeBase: "plans"}}, true, false},
			"an admin of another one":           {[]*nodev1.Grant{{Role: "admin", KnowledgeBase: "plan"}}, false, false},
			"of it, while it is somewhere else": {[]*nodev1.Grant{{Role: "admin", KnowledgeBase: "plans", Workspace: "default"}}, false, false},
			"an unknown role":                   {[]*nodev1.Grant{{Role: "root"}}, false, false},
		} {
			for _, m := range []*nodev1.KnowledgeBaseCall{describeCall(), searchCall("x", 0), {Operation: &nodev1.KnowledgeBaseCall_ReadEvents{ReadEvents: &nodev1.ReadEvents{}}}} {
				_, err := c.as(kb.RoleViewer, m, asked.grants...)
				if (err == nil) != asked.see {
					t.Errorf("%s, %T: %v", name, m.GetOperation(), err)
				}
				if !asked.see && !sameAnswer(err, unknown(m, asked.grants...)) {
					t.Errorf("%s is told of what may not be seen: %v", name, err)
				}
			}
			if got := w.listedFor("", asked.grants...)["knowledgeBases/plans"] == "legal"; got != asked.see {
				t.Errorf("%s, in the list: %v", name, got)
			}
			_, err := c.as(kb.RoleEditor, reprocessCall("no-such"), asked.grants...)
			want := kb.ReasonKnowledgeBaseNotFound
			switch {
			case asked.edit:
				want = kb.ReasonDocumentNotFound
			case asked.see:
				want = kb.ReasonPermission
			}
			if !kb.Is(err, want) {
				t.Errorf("%s writes: %v, want %s", name, err, want)
			}
		}
		if _, err := c.as("", describeCall(), &nodev1.Grant{Role: "admin"}); err == nil {
			t.Error("a call that says no role it needs is served")
		}
	})
}

// sameAnswer compares two refusals but for the name that was asked for.
func sameAnswer(a, b error) bool {
	x, ok := a.(*kb.Error)
	y, ok2 := b.(*kb.Error)
	return ok && ok2 && x.Code == y.Code && x.Reason == y.Reason && len(x.Metadata) == len(y.Metadata) && x.RetryAfter == y.RetryAfter
}

func TestMovingAKnowledgeBaseNeedsAnAdminOfBothWorkspacesAndTheListFollows_B1(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.workspaces("legal")
		c := w.created("plans")
		for _, grants := range [][]*nodev1.Grant{
			{{Role: "editor"}}, {{Role: "admin", Workspace: "default"}}, {{Role: "editor", Workspace: "default"}, {Role: "admin", Workspace: "legal"}},
			{{Role: "viewer"}, {Role: "admin", Workspace: "legal"}},
		} {
			if _, err := c.as(kb.RoleEditor, moveCall("legal"), grants...); !kb.Is(err, kb.ReasonPermission) {
				t.Errorf("%v moves it: %v", grants, err)
			}
		}
		r, err := c.as(kb.RoleEditor, moveCall("legal"), &nodev1.Grant{Role: "admin", Workspace: "default"}, &nodev1.Grant{Role: "admin", Workspace: "legal"})
		if err != nil || r.GetKnowledgeBase().GetWorkspace() != "legal" {
			t.Fatalf("moved: %v %v", r.GetKnowledgeBase().GetWorkspace(), err)
		}
		admin := &nodev1.Grant{Role: "admin"}
		if got := w.listedFor("legal", admin); got["knowledgeBases/plans"] != "legal" {
			t.Errorf("the list says %v", got)
		}
		if got := w.listedFor("default", admin); len(got) != 0 {
			t.Errorf("the workspace it left lists %v", got)
		}
		w.restart()
		if k, err := w.kb("plans").describe(); err != nil || k.GetWorkspace() != "legal" {
			t.Errorf("after a restart: %v %v", k.GetWorkspace(), err)
		}
	})
}
