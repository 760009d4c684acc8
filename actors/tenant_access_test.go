package actors_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// workspaces makes workspaces of the test's tenant.
func (w *world) workspaces(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		if r := w.tenantCall(&nodev1.TenantCall{Operation: &nodev1.TenantCall_CreateWorkspace{
			CreateWorkspace: &granaryv1.CreateWorkspaceRequest{WorkspaceId: id}}}); r.GetWorkspace() == nil {
			w.t.Fatalf("workspace %s: %v", id, r)
		}
	}
}

// tenantAs sends the tenant a call of somebody with these grants.
func (w *world) tenantAs(m *nodev1.TenantCall, grants ...*nodev1.Grant) (*nodev1.TenantReply, error) {
	w.t.Helper()
	m.Header = &nodev1.Header{Tenant: tenant, Principal: "somebody", Grants: grants}
	r, err := w.ask(w.t.Context(), actors.KindTenant, tenant, m)
	if err != nil {
		return nil, err
	}
	reply := r.(*nodev1.TenantReply)
	if e := reply.GetError(); e != nil {
		return nil, &kb.Error{Code: kb.Code(e.GetCode()), Reason: e.GetReason(), Message: e.GetMessage()}
	}
	return reply, nil
}

func createKey(id string, expires time.Time, grants ...*granaryv1.AccessGrant) *nodev1.TenantCall {
	r := &granaryv1.CreateApiKeyRequest{DisplayName: "ci", Grants: grants}
	if !expires.IsZero() {
		r.ExpireTime = timestamppb.New(expires)
	}
	return &nodev1.TenantCall{Operation: &nodev1.TenantCall_CreateKey{CreateKey: &nodev1.CreateKey{Id: id, Mac: []byte("mac-" + id), Request: r}}}
}

func TestKeysAreGoodFromTheirMakingToTheirEndThroughRestarts_B1(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		admin := &nodev1.Grant{Role: "admin"}
		r, err := w.tenantAs(createKey("k1", time.Now().Add(time.Hour), &granaryv1.AccessGrant{Role: "viewer", KnowledgeBase: "docs"}), admin)
		if err != nil || r.GetKey().GetCreatedBy() != "somebody" || r.GetKey().GetName() != "apiKeys/k1" {
			t.Fatalf("%v %v", r, err)
		}
		if _, err := w.tenantAs(createKey("k2", time.Time{}, &granaryv1.AccessGrant{Role: "editor"}), admin); err != nil {
			t.Fatal(err)
		}
		if _, err := w.tenantAs(createKey("k3", time.Time{}, &granaryv1.AccessGrant{Role: "admin"}), &nodev1.Grant{Role: "admin", Workspace: "default"}); !kb.Is(err, kb.ReasonPermission) {
			t.Errorf("a key with more than its maker has: %v", err)
		}
		used := time.Now().Truncate(time.Second)
		w.tenantCall(&nodev1.TenantCall{Operation: &nodev1.TenantCall_ReportKeyUse{ReportKeyUse: &nodev1.ReportKeyUse{
			Uses: []*nodev1.KeyUse{{KeyId: "k1", Time: timestamppb.New(used)}, {KeyId: "nobody", Time: timestamppb.New(used)}}}}})
		for _, when := range []string{"at once", "after a restart"} {
			a := w.accessOf("", "k1")
			if string(a.GetKey().GetMac()) != "mac-k1" || a.GetKey().GetSubject() != "key:k1" || len(a.GetGrants()) != 1 || a.GetGrants()[0].GetKnowledgeBase() != "docs" {
				t.Errorf("%s: %v", when, a)
			}
			if a := w.accessOf("", "k3"); a.GetKey() != nil || len(a.GetGrants()) > 0 {
				t.Errorf("%s: a key that was not made: %v", when, a)
			}
			got, err := w.tenantAs(&nodev1.TenantCall{Operation: &nodev1.TenantCall_ListKeys{ListKeys: &granaryv1.ListApiKeysRequest{}}}, admin)
			if err != nil || len(got.GetKeys().GetApiKeys()) != 2 || !got.GetKeys().GetApiKeys()[0].GetLastUsedTime().AsTime().Equal(used) ||
				got.GetKeys().GetApiKeys()[1].GetLastUsedTime() != nil {
				t.Errorf("%s: %v %v", when, got, err)
			}
			w.restart()
		}
		revoke := &nodev1.TenantCall{Operation: &nodev1.TenantCall_RevokeKey{RevokeKey: &granaryv1.RevokeApiKeyRequest{Name: "apiKeys/k2"}}}
		for range 2 {
			if _, err := w.tenantAs(revoke, admin); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		for _, id := range []string{"k1", "k2"} {
			if a := w.accessOf("", id); a.GetKey() != nil || len(a.GetGrants()) > 0 {
				t.Errorf("%s is good past its end: %v", id, a)
			}
		}
	})
}

// Who is asked for and not there leaves no trace: it takes no row to be refused.
func TestAskingForAccessWritesNothing_B1(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		if a := w.accessOf("mallory", "no-such-key"); !a.GetUnknownTenant() || a.GetKey() != nil {
			t.Errorf("%v", a)
		}
		if n := w.faults.count("Append") + w.faults.count("Acquire"); n != 0 {
			t.Errorf("%d writes", n)
		}
	})
}

func TestAKnowledgeBaseGoesIntoWorkspacesThatAreThere_B1(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.workspaces("legal", "sales")
		admin := &nodev1.Grant{Role: "admin"}
		c := w.kb("plans")
		for range 2 {
			if _, err := c.as(kb.RoleEditor, createInCall("plans", "nowhere"), admin); !kb.Is(err, kb.ReasonWorkspaceNotFound) {
				t.Errorf("created in a workspace that is not there: %v", err)
			}
		}
		if _, err := c.as(kb.RoleEditor, createInCall("plans", "legal"), admin); err != nil {
			t.Fatal(err)
		}
		if _, err := c.as(kb.RoleEditor, moveCall("nowhere"), admin); !kb.Is(err, kb.ReasonWorkspaceNotFound) {
			t.Errorf("moved: %v", err)
		}
		if _, err := c.as(kb.RoleEditor, moveCall("legal"), admin); err != nil {
			t.Errorf("moved to where it is: %v", err)
		}
		remove := func(id string) error {
			_, err := w.tenantAs(&nodev1.TenantCall{Operation: &nodev1.TenantCall_DeleteWorkspace{DeleteWorkspace: &granaryv1.DeleteWorkspaceRequest{Name: id}}}, admin)
			return err
		}
		if err := remove("legal"); !kb.Is(err, kb.ReasonWorkspaceNotEmpty) {
			t.Errorf("deleted with what is in it: %v", err)
		}
		if _, err := c.as(kb.RoleEditor, moveCall("default"), admin); err != nil {
			t.Fatal(err)
		}
		if err := remove("legal"); err != nil {
			t.Errorf("empty, and yet: %v", err)
		}
	})
}

func TestWorkspacesAreSeenByWhoHasARoleInThem_B1(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.workspaces("legal", "sales")
		for name, c := range map[string]struct {
			grants []*nodev1.Grant
			want   []string
		}{
			"nobody":                     {nil, nil},
			"a viewer of the tenant":     {[]*nodev1.Grant{{Role: "viewer"}}, []string{"workspaces/default", "workspaces/legal", "workspaces/sales"}},
			"an editor of one":           {[]*nodev1.Grant{{Role: "editor", Workspace: "legal"}}, []string{"workspaces/legal"}},
			"of a knowledge base in one": {[]*nodev1.Grant{{Role: "viewer", Workspace: "sales", KnowledgeBase: "x"}}, []string{"workspaces/sales"}},
			"of a knowledge base":        {[]*nodev1.Grant{{Role: "admin", KnowledgeBase: "x"}}, nil},
			"an unknown role":            {[]*nodev1.Grant{{Role: "root"}}, nil},
		} {
			r, err := w.tenantAs(&nodev1.TenantCall{Operation: &nodev1.TenantCall_ListWorkspaces{ListWorkspaces: &granaryv1.ListWorkspacesRequest{}}}, c.grants...)
			var got []string
			for _, x := range r.GetWorkspaces().GetWorkspaces() {
				got = append(got, x.GetName())
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%s sees %v, %v", name, got, err)
			}
			for _, id := range []string{"default", "legal", "sales", "nowhere"} {
				_, err := w.tenantAs(&nodev1.TenantCall{Operation: &nodev1.TenantCall_GetWorkspace{GetWorkspace: &granaryv1.GetWorkspaceRequest{Name: id}}}, c.grants...)
				if seen := slices.Contains(c.want, "workspaces/"+id); seen != (err == nil) || !seen && !kb.Is(err, kb.ReasonWorkspaceNotFound) {
					t.Errorf("%s asks for %s: %v", name, id, err)
				}
			}
		}
	})
}

// A tenant of the same name is served from its first moment on, also by knowledge
// bases that knew the former one.
func TestATenantMadeAnewIsServedAtOnce_I3(t *testing.T) {
	bubble(t, setup{waker: true}, func(t *testing.T, w *world) {
		c := w.created("notes")
		if _, err := w.admin(deleteTenant(0)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		admin := &nodev1.Grant{Role: "admin"}
		if _, err := w.admin(&nodev1.TenantCall{Operation: &nodev1.TenantCall_CreateTenant{CreateTenant: &granaryv1.CreateTenantRequest{TenantId: tenant}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.as(kb.RoleEditor, createInCall("notes", ""), admin); err != nil {
			t.Errorf("create: %v", err)
		}
	})
}

// A change of tier is in force where documents are counted when it is answered.
func TestANewLimitIsInForceWhenItIsAnswered_B4(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		c := w.created("notes")
		c.mustAdd("d1", page("alpha", 1))
		set := func(documents int64) {
			if _, err := w.admin(&nodev1.TenantCall{Operation: &nodev1.TenantCall_UpdateTenant{UpdateTenant: &granaryv1.UpdateTenantRequest{
				LimitOverrides: &granaryv1.TenantLimits{DocumentsPerKnowledgeBase: documents}}}}); err != nil {
				t.Fatal(err)
			}
		}
		set(1)
		if _, err := c.add("d2", page("beta", 1)); !kb.Is(err, kb.ReasonDocumentLimit) {
			t.Errorf("beyond the new limit: %v", err)
		}
		set(2)
		if _, err := c.add("d2", page("beta", 1)); err != nil {
			t.Errorf("within the new limit: %v", err)
		}
		w.restart()
		if _, err := c.add("d3", page("gamma", 1)); !kb.Is(err, kb.ReasonDocumentLimit) {
			t.Errorf("after a restart: %v", err)
		}
	})
}
