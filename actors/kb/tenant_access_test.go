package kb_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"granary.dev/granary/actors/kb"
)

// must applies what a rule decided.
func (w *tenantWorld) must(events []kb.Event, err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
	w.apply(events...)
}

// owner may everything.
func owner() []kb.Grant { return []kb.Grant{{Role: kb.RoleAdmin}} }

func TestNobodyGivesMoreThanTheyHave_B1(t *testing.T) {
	legal := []kb.Grant{{Role: kb.RoleAdmin, Workspace: "legal"}}
	for name, c := range map[string]struct {
		giver []kb.Grant
		given kb.Grant
		may   bool
	}{
		"the same":                            {owner(), kb.Grant{Role: kb.RoleAdmin}, true},
		"a weaker role":                       {owner(), kb.Grant{Role: kb.RoleViewer}, true},
		"a smaller place":                     {owner(), kb.Grant{Role: kb.RoleAdmin, KnowledgeBase: "docs"}, true},
		"a stronger role":                     {[]kb.Grant{{Role: kb.RoleEditor}}, kb.Grant{Role: kb.RoleAdmin}, false},
		"a larger place":                      {legal, kb.Grant{Role: kb.RoleViewer}, false},
		"another workspace":                   {legal, kb.Grant{Role: kb.RoleViewer, Workspace: "default"}, false},
		"a knowledge base of any place":       {legal, kb.Grant{Role: kb.RoleViewer, KnowledgeBase: "docs"}, false},
		"a knowledge base while it is there":  {legal, kb.Grant{Role: kb.RoleAdmin, Workspace: "legal", KnowledgeBase: "docs"}, true},
		"the workspace of one knowledge base": {[]kb.Grant{{Role: kb.RoleAdmin, Workspace: "legal", KnowledgeBase: "docs"}}, kb.Grant{Role: kb.RoleViewer, Workspace: "legal"}, false},
		"two halves make no whole":            {[]kb.Grant{{Role: kb.RoleViewer}, {Role: kb.RoleAdmin, Workspace: "legal"}}, kb.Grant{Role: kb.RoleAdmin}, false},
		"by nobody":                           {nil, kb.Grant{Role: kb.RoleViewer}, false},
		"by an unknown role":                  {[]kb.Grant{{Role: "root"}}, kb.Grant{Role: kb.RoleViewer}, false},
	} {
		w := newTenant(t)
		w.must(w.t.CreateWorkspace(kb.Workspace{ID: "legal", Created: epoch}))
		_, err := w.t.CreateKey(c.giver, kb.APIKey{ID: "k", MAC: []byte("m"), Grants: []kb.Grant{{Role: kb.RoleViewer, Workspace: "legal", KnowledgeBase: "docs"}, c.given}}, epoch)
		if _, bound := w.t.Bind(c.giver, kb.Binding{Subject: "jane", Grant: c.given}); (bound == nil) != c.may {
			t.Errorf("%s, bound: %v", name, bound)
		} else if bound != nil {
			refused(t, bound, kb.CodePermissionDenied, kb.ReasonPermission)
		}
		if c.may != (err == nil) && c.giver != nil {
			t.Errorf("%s, as a key: %v", name, err)
		}
	}
}

func TestARoleIsTakenOrReplacedOnlyByWhoCouldGiveIt_B1(t *testing.T) {
	w := newTenant(t)
	w.must(w.t.Bind(owner(), kb.Binding{Subject: "jane", Grant: kb.Grant{Role: kb.RoleAdmin, KnowledgeBase: "docs"}}))
	editor := []kb.Grant{{Role: kb.RoleEditor}}
	weaker := kb.Binding{Subject: "jane", Grant: kb.Grant{Role: kb.RoleViewer, KnowledgeBase: "docs"}}
	_, err := w.t.Bind(editor, weaker)
	refused(t, err, kb.CodePermissionDenied, kb.ReasonPermission)
	_, err = w.t.Unbind(editor, weaker)
	refused(t, err, kb.CodePermissionDenied, kb.ReasonPermission)
	if got := w.t.GrantsOf("jane"); len(got) != 1 || got[0].Role != kb.RoleAdmin {
		t.Errorf("jane has %v", got)
	}
	w.must(w.t.Bind(owner(), weaker))
	if got := w.t.GrantsOf("jane"); len(got) != 1 || got[0].Role != kb.RoleViewer {
		t.Errorf("a second role in the same place: %v", got)
	}
	if events, err := w.t.Bind(owner(), weaker); err != nil || len(events) > 0 {
		t.Errorf("the same again: %v, %v", events, err)
	}
	w.must(w.t.Unbind(owner(), kb.Binding{Subject: "jane", Grant: kb.Grant{KnowledgeBase: "docs"}}))
	if events, err := w.t.Unbind(editor, weaker); err != nil || len(events) > 0 || len(w.t.GrantsOf("jane")) > 0 {
		t.Errorf("taken twice: %v, %v", events, err)
	}
}

func TestAKeyIsGoodUntilItIsRevokedAndNeverAgain_B1(t *testing.T) {
	w := newTenant(t)
	k := kb.APIKey{ID: "k1", MAC: []byte("mac"), Grants: []kb.Grant{{Role: kb.RoleViewer}}, Created: epoch, CreatedBy: "jane", Expires: epoch.Add(time.Hour)}
	w.must(w.t.CreateKey(owner(), k, epoch))
	if events, err := w.t.CreateKey(owner(), k, epoch); err != nil || len(events) > 0 {
		t.Errorf("the same again: %v, %v", events, err)
	}
	other := k
	other.MAC = []byte("other")
	_, err := w.t.CreateKey(owner(), other, epoch)
	refused(t, err, kb.CodeUnavailable, kb.ReasonUnavailable)
	if got, ok := w.t.Key("k1"); !ok || string(got.MAC) != "mac" {
		t.Errorf("%v %v", got, ok)
	}
	w.apply(w.t.RevokeKey("k1")...)
	if _, ok := w.t.Key("k1"); ok || w.t.RevokeKey("k1") != nil || w.t.RevokeKey("nobody") != nil {
		t.Error("it is still there, or is revoked twice")
	}
	for name, bad := range map[string]kb.APIKey{
		"without a role":        {ID: "a"},
		"of an unknown role":    {ID: "a", Grants: []kb.Grant{{Role: "operator"}}},
		"ended before it began": {ID: "a", Grants: k.Grants, Expires: epoch},
		"of no knowledge base":  {ID: "a", Grants: []kb.Grant{{Role: kb.RoleViewer, KnowledgeBase: "../docs"}}},
	} {
		if _, err := w.t.CreateKey(owner(), bad, epoch); !kb.Is(err, kb.ReasonRequestInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = w.t.CreateKey(owner(), kb.APIKey{ID: "a", Grants: []kb.Grant{{Role: kb.RoleViewer, Workspace: "nowhere"}}}, epoch)
	refused(t, err, kb.CodeNotFound, kb.ReasonWorkspaceNotFound)
}

func TestKeysBindingsAndWorkspacesAreBounded_B1(t *testing.T) {
	tenant := kb.NewTenant("acme", kb.TierStarter)
	fill := func(decide func(i int) ([]kb.Event, error)) (n int) {
		for ; n < 20_000; n++ {
			events, err := decide(n)
			if err != nil {
				refused(t, err, kb.CodeResourceExhausted, kb.ReasonTooMany)
				return n
			}
			for _, e := range events {
				if err := tenant.Apply(tenant.Revision()+1, e); err != nil {
					t.Fatal(err)
				}
			}
		}
		return n
	}
	keys := fill(func(i int) ([]kb.Event, error) {
		return tenant.CreateKey(owner(), kb.APIKey{ID: fmt.Sprint("k", i), Grants: owner()}, epoch)
	})
	bindings := fill(func(i int) ([]kb.Event, error) {
		return tenant.Bind(owner(), kb.Binding{Subject: fmt.Sprint("s", i), Grant: kb.Grant{Role: kb.RoleViewer}})
	})
	workspaces := fill(func(i int) ([]kb.Event, error) { return tenant.CreateWorkspace(kb.Workspace{ID: fmt.Sprint("w", i)}) })
	if keys != 1000 || bindings != 10_000 || workspaces != 1000 {
		t.Errorf("%d keys, %d bindings, %d workspaces", keys, bindings, workspaces)
	}
}

func TestAWorkspaceEndsOnlyWhenItIsEmptyAndItsRolesEndWithIt_B1(t *testing.T) {
	w := newTenant(t)
	w.must(w.t.CreateWorkspace(kb.Workspace{ID: "legal", DisplayName: "Legal", Created: epoch}))
	_, err := w.t.CreateWorkspace(kb.Workspace{ID: "legal"})
	refused(t, err, kb.CodeAlreadyExists, kb.ReasonWorkspaceExists)
	_, err = w.t.CreateWorkspace(kb.Workspace{ID: kb.DefaultWorkspace})
	refused(t, err, kb.CodeAlreadyExists, kb.ReasonWorkspaceExists)
	w.must(w.t.Bind(owner(), kb.Binding{Subject: "jane", Grant: kb.Grant{Role: kb.RoleEditor, Workspace: "legal"}}))
	w.must(w.t.Bind(owner(), kb.Binding{Subject: "jane", Grant: kb.Grant{Role: kb.RoleViewer}}))
	w.apply(w.t.Register(kb.KBEntry{ID: "docs", UID: "u", Workspace: "legal", Created: epoch})...)
	_, err = w.t.DeleteWorkspace("legal")
	refused(t, err, kb.CodeFailedPrecondition, kb.ReasonWorkspaceNotEmpty)
	_, err = w.t.DeleteWorkspace(kb.DefaultWorkspace)
	refused(t, err, kb.CodeFailedPrecondition, kb.ReasonWorkspaceNotEmpty)
	w.apply(w.t.Unregister("docs", "u")...)
	w.must(w.t.DeleteWorkspace("legal"))
	if events, err := w.t.DeleteWorkspace("legal"); err != nil || len(events) > 0 {
		t.Errorf("deleted twice: %v, %v", events, err)
	}
	w.must(w.t.CreateWorkspace(kb.Workspace{ID: "legal", Created: epoch}))
	if got := w.t.GrantsOf("jane"); !slices.Equal(got, []kb.Grant{{Role: kb.RoleViewer}}) {
		t.Errorf("the role in the former workspace holds in the new one: %v", got)
	}
	w.must(w.t.RenameWorkspace(kb.DefaultWorkspace, "Main"))
	_, err = w.t.RenameWorkspace("nowhere", "x")
	refused(t, err, kb.CodeNotFound, kb.ReasonWorkspaceNotFound)
	page, more := w.t.Workspaces(owner(), "", 10)
	if more || len(page) != 2 || page[0].ID != kb.DefaultWorkspace || page[0].DisplayName != "Main" || page[1].ID != "legal" {
		t.Errorf("%v %v", page, more)
	}
}
