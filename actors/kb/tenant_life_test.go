package kb_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"granary.dev/granary/actors/kb"
)

func TestATierAndItsOverridesMakeTheLimits_B4(t *testing.T) {
	w := newTenant(t)
	w.must(w.t.Create(kb.TenantSpec{DisplayName: "Acme", Tier: kb.TierProfessional, Overrides: kb.Limits{StorageBytes: 7}}))
	base, _ := kb.LimitsOf(kb.TierProfessional)
	want := base
	want.StorageBytes = 7
	if got := w.t.Limits(); got != want {
		t.Errorf("limits %+v, want %+v", got, want)
	}
	etag := w.t.Etag()
	w.must(w.t.Update(etag, kb.TenantSpec{Tier: kb.TierStarter}))
	if got, _ := kb.LimitsOf(kb.TierStarter); w.t.Limits() != got || w.t.Etag() == etag {
		t.Errorf("taken back: %+v", w.t.Limits())
	}
	_, err := w.t.Update(etag, kb.TenantSpec{Tier: kb.TierEnterprise})
	refused(t, err, kb.CodeAborted, kb.ReasonEtagMismatch)
	for _, bad := range []kb.TenantSpec{{Tier: "gold"}, {Tier: ""}, {Tier: kb.TierStarter, Overrides: kb.Limits{APICallsPerHour: -1}}} {
		_, err := w.t.Update("", bad)
		refused(t, err, kb.CodeInvalidArgument, kb.ReasonRequestInvalid)
	}
	if events, err := w.t.Update("", w.t.Spec()); err != nil || len(events) > 0 {
		t.Errorf("the same again: %v, %v", events, err)
	}
}

func TestATenantThatNobodyKnowsCanOnlyBeCreated_B1(t *testing.T) {
	w := newTenant(t)
	for name, decide := range map[string]func() ([]kb.Event, error){
		"update":   func() ([]kb.Event, error) { return w.t.Update("", kb.TenantSpec{Tier: kb.TierStarter}) },
		"suspend":  func() ([]kb.Event, error) { return w.t.Suspend("", "") },
		"resume":   func() ([]kb.Event, error) { return w.t.Resume("") },
		"delete":   func() ([]kb.Event, error) { return w.t.Delete("", epoch) },
		"undelete": func() ([]kb.Event, error) { return w.t.Undelete("") },
	} {
		if _, err := decide(); !kb.Is(err, kb.ReasonTenantNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.t.Known() || w.t.Explicit() {
		t.Error("it is known")
	}
	w.apply(w.t.Register(kb.KBEntry{ID: "docs", UID: "u", Created: epoch})...) // comes to be by its use
	w.must(w.t.Create(kb.TenantSpec{Tier: kb.TierStarter}))
	if !w.t.Explicit() || !w.t.Lists("docs") {
		t.Error("what it had is lost")
	}
	_, err := w.t.Create(kb.TenantSpec{Tier: kb.TierStarter})
	refused(t, err, kb.CodeAlreadyExists, kb.ReasonTenantExists)
}

func TestADeletionIsTakenBackUntilItsTimeAndNeverLater_I3(t *testing.T) {
	w := newTenant(t)
	w.must(w.t.Create(kb.TenantSpec{Tier: kb.TierStarter}))
	w.must(w.t.Suspend("", "unpaid"))
	purge := epoch.Add(time.Hour)
	w.must(w.t.Delete("", purge))
	if w.t.State() != kb.TenantDeleted || !kb.Is(w.t.State().Admits(), kb.ReasonTenantDeleted) {
		t.Errorf("state %d", w.t.State())
	}
	if events, err := w.t.Delete("", purge.Add(time.Hour)); err != nil || len(events) > 0 {
		t.Errorf("a second deletion gives it more time: %v, %v", events, err)
	}
	if events := w.t.Purge(purge.Add(-time.Nanosecond)); events != nil {
		t.Error("erased before its time")
	}
	w.must(w.t.Undelete(""))
	if w.t.State() != kb.TenantLocked || w.t.SuspendReason() != "unpaid" || w.t.Purge(purge.Add(time.Hour)) != nil {
		t.Errorf("taken back: state %d", w.t.State())
	}
	w.must(w.t.Delete("", purge))
	w.must(w.t.Delete("", epoch)) // sooner
	w.apply(w.t.Purge(epoch)...)
	if w.t.State() != kb.TenantPurging || w.t.Purge(purge) != nil {
		t.Error("the erasure does not begin, or begins twice")
	}
	if _, err := w.t.Undelete(""); !kb.Is(err, kb.ReasonTenantNotFound) {
		t.Errorf("taken back while it is being erased: %v", err)
	}
	if _, err := w.t.Create(kb.TenantSpec{Tier: kb.TierStarter}); !kb.Is(err, kb.ReasonUnavailable) {
		t.Errorf("created while it is being erased: %v", err)
	}
}

// What is left of an erased tenant is its revision; what is left while it is being
// erased is that, too.
func TestAnErasedTenantIsNobodyKnows_I3_I12(t *testing.T) {
	w := newTenant(t)
	w.must(w.t.Create(kb.TenantSpec{DisplayName: "Acme", Tier: kb.TierEnterprise}))
	w.must(w.t.CreateKey(owner(), kb.APIKey{ID: "k", Grants: owner()}, epoch))
	w.must(w.t.Bind(owner(), kb.Binding{Subject: "jane", Grant: kb.Grant{Role: kb.RoleAdmin}}))
	w.must(w.t.CreateWorkspace(kb.Workspace{ID: "legal", Created: epoch}))
	w.must(w.t.Delete("", epoch))
	w.apply(w.t.Purge(epoch)...)
	remains := w.t.Remains()
	if remains.State() != kb.TenantPurging || remains.Revision() != w.t.Revision() || len(remains.Bindings("")) > 0 || remains.Spec().DisplayName != "" {
		t.Errorf("remains %+v", remains.Spec())
	}
	w.t.ResetTo(w.t.Revision(), epoch)
	image, err := w.t.Freeze()()
	if err != nil {
		t.Fatal(err)
	}
	again, err := kb.RestoreTenant("acme", kb.TierStarter, image)
	if err != nil {
		t.Fatal(err)
	}
	for name, tenant := range map[string]*kb.Tenant{"reset": w.t, "restored": again} {
		if _, ok := tenant.Key("k"); ok || tenant.Known() || tenant.Explicit() || tenant.State() != kb.TenantActive || tenant.Tier() != kb.TierStarter ||
			len(tenant.GrantsOf("jane")) > 0 || tenant.Revision() == 0 {
			t.Errorf("%s: something is left", name)
		}
		if page, _ := tenant.Workspaces(owner(), "", 10); len(page) != 1 {
			t.Errorf("%s: workspaces %v", name, page)
		}
		events, err := tenant.Create(kb.TenantSpec{Tier: kb.TierStarter})
		if err != nil || tenant.Apply(tenant.Revision()+1, events[0]) != nil || !tenant.Known() {
			t.Errorf("%s: the name is not free: %v", name, err)
		}
	}
}

// Whatever operators and admins do in whatever order: state is the fold of its
// events and what its snapshot restores, who is locked out is what was decided, and a
// purge starts only when its time has come.
func TestALifeOfATenantIsTheFoldOfItsEvents_I12(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := &tenantWorld{T: t, t: kb.NewTenant("acme", kb.TierStarter)}
		now := epoch
		suspended, deleted := false, time.Time{}
		names := rapid.SampledFrom([]string{"a", "b", "legal"})
		roles := rapid.SampledFrom([]kb.Role{kb.RoleViewer, kb.RoleEditor, kb.RoleAdmin})
		tiers := rapid.SampledFrom([]kb.Tier{kb.TierStarter, kb.TierProfessional, kb.TierEnterprise})
		try := func(events []kb.Event, err error) bool {
			if err == nil {
				w.apply(events...)
			}
			return err == nil
		}
		place := func(r *rapid.T) kb.Grant {
			g := kb.Grant{Role: roles.Draw(r, "role")}
			if rapid.Bool().Draw(r, "in a workspace") {
				g.Workspace = names.Draw(r, "workspace")
			}
			return g
		}
		r.Repeat(map[string]func(*rapid.T){
			"create": func(r *rapid.T) { try(w.t.Create(kb.TenantSpec{Tier: tiers.Draw(r, "tier")})) },
			"update": func(r *rapid.T) {
				try(w.t.Update("", kb.TenantSpec{Tier: tiers.Draw(r, "tier"), Overrides: kb.Limits{StorageBytes: rapid.Int64Range(0, 9).Draw(r, "bytes")}}))
			},
			"suspend": func(r *rapid.T) { suspended = try(w.t.Suspend("", names.Draw(r, "reason"))) || suspended },
			"resume":  func(*rapid.T) { suspended = !try(w.t.Resume("")) && suspended },
			"delete": func(r *rapid.T) {
				at := now.Add(time.Duration(rapid.IntRange(0, 5).Draw(r, "hours")) * time.Hour)
				if try(w.t.Delete("", at)) && (deleted.IsZero() || at.Before(deleted)) {
					deleted = at
				}
			},
			"undelete": func(*rapid.T) {
				if try(w.t.Undelete("")) {
					deleted = time.Time{}
				}
			},
			"wait": func(*rapid.T) { now = now.Add(time.Hour) },
			"key": func(r *rapid.T) {
				try(w.t.CreateKey(owner(), kb.APIKey{ID: names.Draw(r, "id"), MAC: []byte{1}, Grants: []kb.Grant{place(r)}}, now))
			},
			"revoke": func(r *rapid.T) { w.apply(w.t.RevokeKey(names.Draw(r, "id"))...) },
			"bind": func(r *rapid.T) {
				try(w.t.Bind([]kb.Grant{place(r)}, kb.Binding{Subject: names.Draw(r, "subject"), Grant: place(r)}))
			},
			"unbind": func(r *rapid.T) {
				try(w.t.Unbind([]kb.Grant{place(r)}, kb.Binding{Subject: names.Draw(r, "subject"), Grant: place(r)}))
			},
			"workspace": func(r *rapid.T) { try(w.t.CreateWorkspace(kb.Workspace{ID: names.Draw(r, "id")})) },
			"remove":    func(r *rapid.T) { try(w.t.DeleteWorkspace(names.Draw(r, "id"))) },
			"purge": func(r *rapid.T) {
				if w.t.State() == kb.TenantPurging {
					r.SkipNow()
				}
				events := w.t.Purge(now)
				if due := !deleted.IsZero() && !now.Before(deleted); due != (len(events) > 0) {
					r.Fatalf("purge %v at %v, deleted for %v", events, now, deleted)
				}
				w.apply(events...)
			},
			"": func(r *rapid.T) {
				want := kb.TenantActive
				switch {
				case w.t.State() == kb.TenantPurging:
					return
				case !deleted.IsZero():
					want = kb.TenantDeleted
				case suspended:
					want = kb.TenantLocked
				}
				if w.t.State() != want || (want == kb.TenantActive) != (w.t.State().Admits() == nil) {
					r.Fatalf("state %d, want %d", w.t.State(), want)
				}
			},
		})
	})
}
