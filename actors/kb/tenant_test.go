package kb_test

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"granary.dev/granary/actors/kb"
)

// tenantWorld is a tenant whose events go through their stored form.
type tenantWorld struct {
	*testing.T
	t       *kb.Tenant
	journal []stored
}

func (w *tenantWorld) apply(events ...kb.Event) {
	w.Helper()
	for _, e := range events {
		typ, data, err := kb.EncodeEvent(e)
		if err != nil {
			w.Fatal(err)
		}
		if err := w.t.Apply(w.t.Revision()+1, e); err != nil {
			w.Fatal(err)
		}
		w.journal = append(w.journal, stored{seq: w.t.Revision(), typ: typ, data: data})
	}
	w.same()
}

// same: the state is the fold of its events, and what its snapshot restores (I12).
func (w *tenantWorld) same() {
	w.Helper()
	folded := kb.NewTenant(w.t.ID(), w.t.Tier())
	for _, s := range w.journal {
		e, err := kb.DecodeEvent(s.typ, s.data)
		if err != nil {
			w.Fatal(err)
		}
		if err := folded.Apply(s.seq, e); err != nil {
			w.Fatal(err)
		}
	}
	want, err := w.t.Freeze()()
	if err != nil {
		w.Fatal(err)
	}
	restored, err := kb.RestoreTenant(w.t.ID(), w.t.Tier(), want)
	if err != nil {
		w.Fatal(err)
	}
	for name, other := range map[string]*kb.Tenant{"fold": folded, "restored": restored} {
		got, err := other.Freeze()()
		if err != nil || !bytes.Equal(got, want) || other.Etag() != w.t.Etag() || other.Revision() != w.t.Revision() {
			w.Fatalf("%s: %s\nwanted %s (%v)", name, got, want, err)
		}
	}
}

func newTenant(t *testing.T) *tenantWorld {
	return &tenantWorld{T: t, t: kb.NewTenant("acme", kb.TierStarter)}
}

func TestATenantsConfigurationIsVersionedAndGuardedByItsEtag_C7_I12(t *testing.T) {
	w := newTenant(t)
	first := w.t.Etag()
	events, err := w.t.Configure(first, full(1))
	if err != nil || w.t.ConfigVersion() != 0 {
		t.Fatalf("version %d, error %v", w.t.ConfigVersion(), err)
	}
	w.apply(events...)
	if w.t.ConfigVersion() != 1 || !reflect.DeepEqual(w.t.Config(), full(1)) || w.t.Etag() == first {
		t.Errorf("version %d %s", w.t.ConfigVersion(), image(t, w.t.Config()))
	}
	_, err = w.t.Configure(first, full(2))
	refused(t, err, kb.CodeAborted, kb.ReasonEtagMismatch)
	events, err = w.t.Configure("", kb.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w.apply(events...)
	if w.t.ConfigVersion() != 2 || !reflect.DeepEqual(w.t.Config(), kb.Config{}) {
		t.Errorf("cleared: version %d %s", w.t.ConfigVersion(), image(t, w.t.Config()))
	}
}

func TestATenantListsEachKnowledgeBaseOnceUnderItsIncarnation_C1_I12(t *testing.T) {
	w := newTenant(t)
	entry := kb.KBEntry{ID: "docs", UID: "u1", DisplayName: "Docs", Created: epoch}
	w.apply(w.t.Register(entry)...)
	if events := w.t.Register(entry); events != nil {
		t.Errorf("listed twice: %v", events)
	}
	entry.DisplayName = "Documents"
	w.apply(w.t.Register(entry)...)
	if page, _ := w.t.List("", 10); len(page) != 1 || page[0] != entry {
		t.Errorf("renamed: %v", page)
	}
	if events := w.t.Unregister("docs", "u0"); events != nil {
		t.Errorf("an older incarnation takes this one off the list: %v", events)
	}
	if events := append(w.t.Unregister("docs", ""), w.t.Unregister("nobody", "u1")...); events != nil {
		t.Errorf("took off what is not listed: %v", events)
	}
	entry.UID = "u2"
	w.apply(w.t.Register(entry)...)
	if events := w.t.Unregister("docs", "u1"); events != nil {
		t.Errorf("the late end of the former incarnation: %v", events)
	}
	w.apply(w.t.Unregister("docs", "u2")...)
	if page, more := w.t.List("", 10); len(page) != 0 || more {
		t.Errorf("still listed: %v", page)
	}
}

func TestPagesOfKnowledgeBasesAreInOrderWholeAndDisjoint_C1(t *testing.T) {
	w := newTenant(t)
	var want []string
	for i := range 23 {
		id := fmt.Sprintf("kb-%02d", (i*7)%23)
		want = append(want, id)
		w.apply(w.t.Register(kb.KBEntry{ID: id, UID: "u-" + id, Created: epoch})...)
	}
	slices.Sort(want)
	for limit := 1; limit <= 24; limit++ {
		var got []string
		for after, more := "", true; more; {
			var page []kb.KBEntry
			page, more = w.t.List(after, limit)
			if len(page) > limit || more && len(page) < limit {
				t.Fatalf("limit %d: a page of %d, more %v", limit, len(page), more)
			}
			for _, e := range page {
				got = append(got, e.ID)
			}
			after = got[len(got)-1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
	// A page goes on after an id that was taken off meanwhile.
	w.apply(w.t.Unregister("kb-04", "u-kb-04")...)
	if page, _ := w.t.List("kb-04", 1); page[0].ID != "kb-05" {
		t.Errorf("after kb-04: %v", page)
	}
	if page, more := w.t.List("kb-22", 5); len(page) != 0 || more {
		t.Errorf("after the last: %v", page)
	}
}

func TestATenantTakesNoGapAndNoForeignEvent_I12(t *testing.T) {
	w := newTenant(t)
	for _, seq := range []int64{-1, 0, 2} {
		if err := w.t.Apply(seq, &kb.TenantConfigured{}); err == nil {
			t.Errorf("event %d after revision 0 was taken", seq)
		}
	}
	if err := w.t.Apply(1, &kb.Created{}); err == nil || w.t.Revision() != 0 {
		t.Errorf("a knowledge base's event was taken: %v, revision %d", err, w.t.Revision())
	}
	for _, data := range []string{"", "{}", `{"format":2}`, "[]"} {
		if _, err := kb.RestoreTenant("acme", kb.TierStarter, []byte(data)); err == nil {
			t.Errorf("snapshot %q was taken", data)
		}
	}
}
