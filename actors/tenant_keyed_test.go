package actors_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// underKey sends the tenant a change of an admin under an idempotency key.
func (w *world) underKey(ctx context.Context, key string, m *nodev1.TenantCall) (*nodev1.TenantReply, error) {
	m = proto.CloneOf(m)
	m.Header = &nodev1.Header{Tenant: tenant, Principal: "ada", Grants: []*nodev1.Grant{{Role: "admin"}}, Method: fmt.Sprintf("%T", m.GetOperation()), IdempotencyKey: key}
	if changed := m.GetCreateTenant() != nil || m.GetSuspendTenant() != nil || m.GetUpdateTenant() != nil; changed {
		m.Header.Internal = true
	}
	r, err := w.ask(ctx, actors.KindTenant, tenant, m)
	if err != nil {
		return nil, err
	}
	return r.(*nodev1.TenantReply), nil
}

func newWorkspace(id string) *nodev1.TenantCall {
	return &nodev1.TenantCall{Operation: &nodev1.TenantCall_CreateWorkspace{CreateWorkspace: &granaryv1.CreateWorkspaceRequest{WorkspaceId: id}}}
}

func (w *world) tenantEvents() int {
	w.t.Helper()
	page, err := w.disk.Events(w.t.Context(), journal.Identity{Tenant: tenant, Kind: actors.KindTenant, ID: tenant}, 0, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(page)
}

// I5: a change of a tenant under a key is applied once, and answered alike, whoever was
// the owner in between; but another request under the key is refused.
func TestI5_ChangesOfATenantUnderAKeyAreAppliedOnce(t *testing.T) {
	rename := func(name string) *nodev1.TenantCall {
		return &nodev1.TenantCall{Operation: &nodev1.TenantCall_UpdateWorkspace{UpdateWorkspace: &granaryv1.Workspace{Name: "legal", DisplayName: name}}}
	}
	bind := func(role string) *nodev1.TenantCall {
		return &nodev1.TenantCall{Operation: &nodev1.TenantCall_BindRole{BindRole: &granaryv1.RoleBinding{Subject: "bob", Grant: &granaryv1.AccessGrant{Role: role}}}}
	}
	config := func(n int32) *nodev1.TenantCall {
		return &nodev1.TenantCall{Operation: &nodev1.TenantCall_UpdateConfig{UpdateConfig: &granaryv1.UpdateTenantConfigRequest{
			DefaultConfig: &granaryv1.Config{Retrieval: &granaryv1.RetrievalConfig{TopN: &n}}}}}
	}
	made := func(tier string) *nodev1.TenantCall {
		return &nodev1.TenantCall{Operation: &nodev1.TenantCall_CreateTenant{CreateTenant: &granaryv1.CreateTenantRequest{TenantId: tenant, Tier: tier}}}
	}
	bubble(t, setup{}, func(t *testing.T, w *world) {
		for i, c := range []struct{ first, other *nodev1.TenantCall }{
			{made("professional"), made("enterprise")}, {newWorkspace("legal"), newWorkspace("sales")}, {rename("Legal"), rename("Law")},
			{bind("viewer"), bind("editor")}, {config(7), config(8)},
			{createKey("k1", time.Time{}, &granaryv1.AccessGrant{Role: "viewer"}), createKey("k1", time.Time{}, &granaryv1.AccessGrant{Role: "editor"})},
		} {
			want, err := w.underKey(t.Context(), "key", c.first)
			if err != nil || want.GetError() != nil {
				t.Fatalf("%d: %v %v", i, want, err)
			}
			n := w.tenantEvents()
			again := c.first
			if k := again.GetCreateKey(); k != nil { // a gateway makes another text with each try
				again = proto.CloneOf(again)
				again.GetCreateKey().Id, again.GetCreateKey().Mac = "k2", []byte("other")
			}
			for _, between := range []func(){func() {}, w.restart, w.crash, func() { time.Sleep(71 * time.Hour) }} {
				between()
				if got, err := w.underKey(t.Context(), "key", again); err != nil || !proto.Equal(got, want) {
					t.Errorf("%d: again %v %v, want %v", i, got, err, want)
				}
			}
			if got, err := w.underKey(t.Context(), "key", c.other); err != nil || got.GetError().GetReason() != kb.ReasonIdempotencyMisuse {
				t.Errorf("%d: another request: %v %v", i, got, err)
			}
			if now := w.tenantEvents(); now != n {
				t.Errorf("%d: %d events came from repetitions", i, now-n)
			}
		}
		// Without the key, and under another, the same is another request.
		for _, key := range []string{"", "other"} {
			if got, err := w.underKey(t.Context(), key, newWorkspace("legal")); err != nil || got.GetError().GetReason() != kb.ReasonWorkspaceExists {
				t.Errorf("under %q: %v %v", key, got, err)
			}
		}
	})
}

// I5: those that come while the first is under way hear what it heard.
func TestI5_ATenantsKeyInUseMakesOthersWait(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.workspaces("first") // the tenant has an owner row, so that keys are looked up
		answers := make(chan *nodev1.TenantReply, 5)
		for range cap(answers) {
			go func() {
				r, err := w.underKey(context.Background(), "key", newWorkspace("legal"))
				if err != nil {
					r = &nodev1.TenantReply{Result: &nodev1.TenantReply_Error{Error: &nodev1.Error{Message: err.Error()}}}
				}
				answers <- r
			}()
		}
		for range cap(answers) {
			if r := <-answers; r.GetWorkspace().GetName() != "workspaces/legal" {
				t.Errorf("got %v", r)
			}
		}
		if n := w.tenantEvents(); n != 2 {
			t.Errorf("%d events", n)
		}
	})
}

// I5, I7: with a commit in doubt, a failing look-up, or an owner that leaves meanwhile,
// everybody gets an answer, and the next try under the key applies it once.
func TestI5_ATenantsKeySurvivesWhatFails(t *testing.T) {
	ofTenant := func(o op) bool { return o.grain.Kind == actors.KindTenant }
	for name, fail := range map[string]func(w *world){
		"in doubt, applied":     func(w *world) { w.faults.failOnce("Append", ofTenant, journal.ErrInDoubt, true) },
		"in doubt, not applied": func(w *world) { w.faults.failOnce("Append", ofTenant, journal.ErrInDoubt, false) },
		"not applied":           func(w *world) { w.faults.failOnce("Append", ofTenant, journal.ErrUnavailable, false) },
		"fenced":                func(w *world) { w.faults.failOnce("FindIdempotency", ofTenant, journal.ErrFenced, false) },
		"no look-up":            func(w *world) { w.faults.failOnce("FindIdempotency", ofTenant, journal.ErrUnavailable, false) },
		"leaves": func(w *world) {
			w.faults.on("FindIdempotency", func(_ op, do func() error) error {
				time.Sleep(3 * time.Second)
				return do()
			})
			go func() {
				time.Sleep(time.Second)
				w.restart()
			}()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{}, func(t *testing.T, w *world) {
				w.workspaces("first")
				fail(w)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				if r, err := w.underKey(ctx, "key", newWorkspace("legal")); ctx.Err() != nil {
					t.Fatalf("no answer: %v %v", r, err)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if r, err := w.underKey(t.Context(), "key", newWorkspace("legal")); err != nil || r.GetWorkspace() == nil {
					t.Errorf("again: %v %v", r, err)
				}
				if n := w.tenantEvents(); n != 2 {
					t.Errorf("%d events", n)
				}
			})
		})
	}
}

// I3: what an archive brings is decided as a whole, in the place of what is there.
func TestI3_ImportedSettingsAreTakenAsAWhole(t *testing.T) {
	settings := func(roles ...string) *nodev1.TenantCall {
		m := &nodev1.ImportSettings{Workspaces: []*granaryv1.Workspace{{Name: "workspaces/default"}, {Name: "workspaces/legal", DisplayName: "Legal"}}}
		for i, role := range roles {
			m.Bindings = append(m.Bindings, &granaryv1.RoleBinding{Subject: fmt.Sprintf("s%d", i), Grant: &granaryv1.AccessGrant{Role: role, Workspace: "legal"}})
		}
		return &nodev1.TenantCall{Operation: &nodev1.TenantCall_ImportSettings{ImportSettings: m}}
	}
	bubble(t, setup{}, func(t *testing.T, w *world) {
		admin := &nodev1.Grant{Role: "admin"}
		if _, err := w.tenantAs(settings("viewer", "nonsense"), admin); !kb.Is(err, kb.ReasonRequestInvalid) {
			t.Errorf("a role that is none: %v", err)
		}
		if _, err := w.tenantAs(settings("viewer", "editor"), &nodev1.Grant{Role: "admin", Workspace: "other"}); !kb.Is(err, kb.ReasonPermission) {
			t.Errorf("more than one has: %v", err)
		}
		check := settings("viewer")
		check.GetImportSettings().ValidateOnly = true
		if _, err := w.tenantAs(check, admin); err != nil {
			t.Error(err)
		}
		if n := w.tenantEvents(); n != 0 {
			t.Fatalf("%d events of what was refused or only checked", n)
		}
		for _, roles := range [][]string{{"viewer", "editor"}, {"viewer", "editor"}, {"admin", "editor"}} {
			if _, err := w.tenantAs(settings(roles...), admin); err != nil {
				t.Fatal(err)
			}
		}
		w.restart()
		if n := w.tenantEvents(); n != 4 { // a workspace, two roles, one of them anew
			t.Errorf("%d events", n)
		}
		r, err := w.tenantAs(&nodev1.TenantCall{Operation: &nodev1.TenantCall_ListRoles{ListRoles: &granaryv1.ListRoleBindingsRequest{}}}, admin)
		if b := r.GetRoles().GetBindings(); err != nil || len(b) != 2 || b[0].GetGrant().GetRole() != "admin" || b[1].GetGrant().GetRole() != "editor" {
			t.Errorf("%v %v", r, err)
		}
	})
}
