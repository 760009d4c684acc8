package actors_test

import (
	"context"
	"crypto/ed25519"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// shredder counts destroyed keys, with faults.
type shredder struct {
	f         *faults
	destroyed *atomic.Int64
}

// Destroy implements actors.Shredder.
func (s shredder) Destroy(ctx context.Context, tenant string) error {
	return s.f.run(op{ctx: ctx, name: "Destroy", grain: journal.Identity{Kind: actors.KindTenant, Tenant: tenant, ID: tenant}}, func() error {
		s.destroyed.Add(1)
		return nil
	})
}

// admin carries out an operator's command on the test's tenant.
func (w *world) admin(m *nodev1.TenantCall) (*granaryv1.Tenant, error) {
	w.t.Helper()
	m.Header = &nodev1.Header{Tenant: tenant, Principal: "operator:olga", Internal: true}
	r, err := w.ask(w.t.Context(), actors.KindTenant, tenant, m)
	if err != nil {
		return nil, err
	}
	reply := r.(*nodev1.TenantReply)
	if e := reply.GetError(); e != nil {
		return nil, &kb.Error{Code: kb.Code(e.GetCode()), Reason: e.GetReason(), Message: e.GetMessage()}
	}
	return reply.GetTenant(), nil
}

func deleteTenant(window time.Duration) *nodev1.TenantCall {
	return &nodev1.TenantCall{Operation: &nodev1.TenantCall_DeleteTenant{DeleteTenant: &granaryv1.DeleteTenantRequest{UndeleteFor: durationpb.New(window)}}}
}

func suspendTenant() *nodev1.TenantCall {
	return &nodev1.TenantCall{Operation: &nodev1.TenantCall_SuspendTenant{SuspendTenant: &granaryv1.SuspendTenantRequest{Reason: "unpaid"}}}
}

// accessOf is what a gateway is told of a subject and a key.
func (w *world) accessOf(subject, key string) *nodev1.Access {
	w.t.Helper()
	return w.tenantCall(&nodev1.TenantCall{Operation: &nodev1.TenantCall_GetAccess{GetAccess: &nodev1.GetAccess{Subject: subject, KeyId: key}}}).GetAccess()
}

// settleTenant gives the tenant a knowledge base, a key and a role.
func (w *world) settleTenant() (c *client, uid string, sources []string) {
	w.t.Helper()
	c = w.kb("notes")
	created, err := c.create()
	if err != nil {
		w.t.Fatal(err)
	}
	add := c.addCall("d1", page("alpha", 3))
	if _, err := c.call(add); err != nil {
		w.t.Fatal(err)
	}
	c.ready("d1")
	w.tenantCall(&nodev1.TenantCall{Operation: &nodev1.TenantCall_CreateKey{CreateKey: &nodev1.CreateKey{Id: "aaaaaaaaaaaaaaaa", Mac: []byte("mac"),
		Request: &granaryv1.CreateApiKeyRequest{Grants: []*granaryv1.AccessGrant{{Role: "viewer"}}}}}})
	w.tenantCall(&nodev1.TenantCall{Operation: &nodev1.TenantCall_BindRole{BindRole: &granaryv1.RoleBinding{Subject: "bob", Grant: &granaryv1.AccessGrant{Role: "editor"}}}})
	if a := w.accessOf("bob", "aaaaaaaaaaaaaaaa"); a.GetKey() == nil || len(a.GetGrants()) != 1 {
		w.t.Fatalf("access: %v", a)
	}
	never := c.addCall("d2", page("beta", 3)) // uploaded, and never added
	return c, created.GetUid(), []string{add.GetAddDocument().GetSource().GetBlob(), never.GetAddDocument().GetSource().GetBlob()}
}

// nothingOfTheTenant: after the purge nobody knows the tenant, and its next
// incarnation sees nothing.
func (w *world) nothingOfTheTenant(uid string, sources []string) {
	w.t.Helper()
	if a := w.accessOf("bob", "aaaaaaaaaaaaaaaa"); !a.GetUnknownTenant() || a.GetKey() != nil || len(a.GetGrants()) != 0 || a.GetState() != granaryv1.TenantState_TENANT_STATE_ACTIVE {
		w.t.Errorf("still known: %v", a)
	}
	checkErased(w.t, w, uid, sources)
	if e, err := w.disk.Events(w.t.Context(), journal.Identity{Kind: actors.KindTenant, Tenant: tenant, ID: tenant}, 0, 10); err != nil || len(e) != 0 {
		w.t.Errorf("events of the tenant are left: %v %v", e, err)
	}
	if _, err := w.admin(&nodev1.TenantCall{Operation: &nodev1.TenantCall_CreateTenant{CreateTenant: &granaryv1.CreateTenantRequest{TenantId: tenant, Tier: "professional"}}}); err != nil {
		w.t.Errorf("the name is not free: %v", err)
	}
	c := w.kb("notes")
	if _, err := c.create(); err != nil {
		w.t.Errorf("the next tenant's knowledge base: %v", err)
	}
	if _, err := c.get("d1"); !kb.Is(err, kb.ReasonDocumentNotFound) {
		w.t.Errorf("the next tenant sees the former's document: %v", err)
	}
}

func TestADeletedTenantIsErasedAtItsTimeByItself_I3(t *testing.T) {
	bubble(t, setup{waker: true, idle: 10 * time.Minute, trim: 5 * time.Minute}, func(t *testing.T, w *world) {
		_, uid, sources := w.settleTenant()
		if _, err := w.admin(deleteTenant(40 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute) // passivated meanwhile
		if a := w.accessOf("bob", ""); a.GetState() != granaryv1.TenantState_TENANT_STATE_DELETED || len(a.GetGrants()) != 1 {
			t.Fatalf("before its time: %v", a)
		}
		w.restart()
		time.Sleep(12 * time.Minute)
		synctest.Wait()
		if w.shredded.Load() == 0 {
			t.Error("its keys were not destroyed")
		}
		w.onePurgeReceipt("boss")
		w.nothingOfTheTenant(uid, sources)
	})
}

// onePurgeReceipt wants the one receipt of the tenant, kept for operators, and none that
// the next tenant of the name could read. by may be "": a crash behind the
// destruction of the keys leaves nobody who could say who asked.
func (w *world) onePurgeReceipt(by string) {
	w.t.Helper()
	rows, err := w.disk.Receipts(w.t.Context(), journal.ReceiptQuery{Cluster: true, Limit: 10})
	if err != nil || len(rows) != 1 {
		w.t.Fatalf("receipts of the tenant: %v, %v", rows, err)
	}
	r, err := kb.VerifyReceipt(rows[0].Body, receiptKey().Public().(ed25519.PublicKey))
	if err != nil || r.Target != "tenants/"+tenant || !r.KeyDestroyed || r.Counts.KnowledgeBases == 0 || r.Counts.Chunks == 0 || r.Counts.Events == 0 {
		w.t.Errorf("receipt %+v, %v", r, err)
	}
	if by != "" && r.RequestedBy == "" {
		w.t.Errorf("the receipt does not say who asked: %+v", r)
	}
	if left := w.receipts(); len(left) != 0 {
		w.t.Errorf("receipts of its knowledge bases are left: %v", left)
	}
}

func TestACrashAtAnyStepOfAPurgeLosesNoneOfIt_I3(t *testing.T) {
	for _, late := range []bool{false, true} {
		for n, over := 1, false; !over; n++ {
			bubble(t, setup{waker: true}, func(t *testing.T, w *world) {
				_, uid, sources := w.settleTenant()
				hashes := w.faults.hashes()
				if _, err := w.admin(deleteTenant(2 * time.Minute)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(90 * time.Second)
				synctest.Wait()
				w.faults.dieAt(n, late)
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				over = !w.faults.burntOut()
				w.crash()
				time.Sleep(3 * time.Minute) // the waker finds what is left
				synctest.Wait()
				w.faults.tallyHashes(hashes)
				// Died behind the erasure of the journal, all but the name is gone already: who
				// asks for it next finishes the last step.
				w.accessOf("bob", "")
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if w.shredded.Load() == 0 {
					t.Errorf("n %d: its keys were not destroyed", n)
				}
				w.onePurgeReceipt("")
				w.nothingOfTheTenant(uid, sources)
			})
			if t.Failed() {
				t.Fatalf("crashed at operation %d, late %v", n, late)
			}
			if n > 200 {
				t.Fatal("there is no end to it")
			}
		}
	}
}

func TestASuspendedTenantIsPausedAndGoesOnWhereItWas_B1(t *testing.T) {
	bubble(t, setup{waker: true}, func(t *testing.T, w *world) {
		c := w.created("notes")
		if _, err := w.admin(suspendTenant()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.as(kb.RoleEditor, c.addCall("d1", page("alpha", 3)), &nodev1.Grant{Role: "admin"}); !kb.Is(err, kb.ReasonTenantSuspended) {
			t.Errorf("written while suspended: %v", err)
		}
		c.mustAdd("d2", page("beta", 3)) // the cluster itself may, and it waits
		time.Sleep(10 * time.Minute)
		if d, err := c.get("d2"); err != nil || d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_QUEUED {
			t.Errorf("processed while suspended: %v %v", d.GetState(), err)
		}
		w.restart() // nobody remembers whom to tell of the end
		time.Sleep(time.Minute)
		if _, err := w.admin(&nodev1.TenantCall{Operation: &nodev1.TenantCall_ResumeTenant{ResumeTenant: &granaryv1.ResumeTenantRequest{}}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if d, err := c.get("d2"); err != nil || d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY {
			t.Errorf("not gone on with: %v %v", d.GetState(), err)
		}
	})
}
