package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/cmd/internal/nodetest"
	"granary.dev/granary/gateway/auth"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// clientOf makes clients of a server, as somebody of a tenant.
func clientOf(t *testing.T, url, data, tenant, subject string, roles ...string) *nodetest.Clients {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(data, "dev-key"))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := auth.FromPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	token, err := authority.Issue(auth.Grant{Tenant: tenant, Subject: subject, Roles: roles})
	if err != nil {
		t.Fatal(err)
	}
	return nodetest.Dial(t, url, token.Reveal())
}

// refusedFor tells why a client may not list its knowledge bases, "" when it may.
func refusedFor(t *testing.T, c *nodetest.Clients) string {
	t.Helper()
	_, err := c.KBs.ListKnowledgeBases(t.Context(), &granaryv1.ListKnowledgeBasesRequest{})
	if err == nil {
		return ""
	}
	return reason(t, err)
}

func TestOnlyTenantsThatWereCreatedGetInWhereItIsSaidSo_B1(t *testing.T) {
	s := nodetest.Start(t, func(c *node.Config) { c.Tenants.RefuseUnknown = true })
	acme := clientOf(t, s.URL, s.Data, "acme", "ada", "admin")
	if got := refusedFor(t, acme); got != kb.ReasonUnauthenticated {
		t.Errorf("before it is created: %q", got)
	}
	if _, err := s.Operator.Admin.CreateTenant(t.Context(), &granaryv1.CreateTenantRequest{TenantId: "acme", Tier: "starter"}); err != nil {
		t.Fatal(err)
	}
	nodetest.Await(t, "acme gets in", func() bool { return refusedFor(t, acme) == "" })
	acme.CreateKB(t, "handbook")
	if _, err := s.Operator.Admin.DeleteTenant(t.Context(), &granaryv1.DeleteTenantRequest{Name: "acme", UndeleteFor: durationpb.New(0)}); err != nil {
		t.Fatal(err)
	}
	nodetest.Await(t, "acme is erased and unknown", func() bool { return refusedFor(t, acme) == kb.ReasonUnauthenticated })
	list, err := s.Operator.Admin.ListTenants(t.Context(), &granaryv1.ListTenantsRequest{})
	if err != nil || strings.Contains(list.String(), "acme") {
		t.Errorf("listed: %v %v", list, err)
	}
}

// What an operator or an admin decides by way of one node holds on every other within
// a second, and a tenant is erased for all of them, keys included.
func TestDecisionsHoldOnEveryNodeWithinASecond_B1_I3(t *testing.T) {
	c := nodetest.StartCluster(t, pg.Database(t), 2)
	n1, n2 := c.Nodes[0], c.Nodes[1]
	admin := func(m *nodetest.Member) *nodetest.Clients { return nodetest.Dial(t, m.URL, c.Token("acme", "admin")) }
	a1, a2 := admin(n1), admin(n2)
	operate := n1.Operator.Admin
	if _, err := operate.CreateTenant(t.Context(), &granaryv1.CreateTenantRequest{TenantId: "acme", Tier: "professional"}); err != nil {
		t.Fatal(err)
	}
	a2.CreateKB(t, "handbook")
	a1.Settle(t, a2.AddText(t, "handbook", "leave", "Parental leave is twelve months.").GetName())

	key, err := a1.Access.CreateApiKey(t.Context(), &granaryv1.CreateApiKeyRequest{Grants: []*granaryv1.AccessGrant{{Role: "viewer", KnowledgeBase: "handbook"}}})
	if err != nil {
		t.Fatal(err)
	}
	k1, k2 := nodetest.Dial(t, n1.URL, key.GetSecret()), nodetest.Dial(t, n2.URL, key.GetSecret())
	for _, k := range []*nodetest.Clients{k1, k2} {
		if got := refusedFor(t, k); got != "" {
			t.Errorf("a new key: %q", got)
		}
	}
	if _, err := a1.Access.RevokeApiKey(t.Context(), &granaryv1.RevokeApiKeyRequest{Name: key.GetApiKey().GetName()}); err != nil {
		t.Fatal(err)
	}
	within(t, "the key is refused", func() bool {
		return refusedFor(t, k1) == kb.ReasonUnauthenticated && refusedFor(t, k2) == kb.ReasonUnauthenticated
	})

	if _, err := operate.SuspendTenant(t.Context(), &granaryv1.SuspendTenantRequest{Name: "acme", Reason: "unpaid"}); err != nil {
		t.Fatal(err)
	}
	within(t, "acme is locked out", func() bool {
		return refusedFor(t, a1) == kb.ReasonTenantSuspended && refusedFor(t, a2) == kb.ReasonTenantSuspended
	})
	if got := refusedFor(t, n2.Clients); got != "" {
		t.Errorf("another tenant: %q", got)
	}
	if _, err := n2.Operator.Admin.ResumeTenant(t.Context(), &granaryv1.ResumeTenantRequest{Name: "acme"}); err != nil {
		t.Fatal(err)
	}
	within(t, "acme is back", func() bool { return refusedFor(t, a1) == "" && refusedFor(t, a2) == "" })

	before := keyOf(t, n1, "acme")
	if _, err := n2.Operator.Admin.DeleteTenant(t.Context(), &granaryv1.DeleteTenantRequest{Name: "acme", UndeleteFor: durationpb.New(0)}); err != nil {
		t.Fatal(err)
	}
	nodetest.Await(t, "acme is erased and its name is free", func() bool {
		_, err := operate.CreateTenant(t.Context(), &granaryv1.CreateTenantRequest{TenantId: "acme"})
		return err == nil
	})
	if after := keyOf(t, n2, "acme"); before == "" || after == before {
		t.Errorf("sealed with %q before and %q after", before, after)
	}
	within(t, "the next acme gets in", func() bool { return refusedFor(t, a1) == "" && refusedFor(t, a2) == "" })
	a1.CreateKB(t, "handbook") // the name is free
	if r, err := a2.Search.Search(t.Context(), &granaryv1.SearchRequest{KnowledgeBase: "handbook", Query: "parental leave"}); err != nil || len(r.GetHits()) > 0 {
		t.Errorf("the next acme finds %v, %v", r.GetHits(), err)
	}
}

// keyOf is the id of the key that seals what a tenant stores.
func keyOf(t *testing.T, m *nodetest.Member, tenant string) string {
	t.Helper()
	keys, err := m.Operator.Keys.ListKeys(t.Context(), &granaryv1.ListKeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys.GetKeys() {
		if k.GetTenant() == "tenants/"+tenant && !k.GetDestroyed() {
			return k.GetKeyId()
		}
	}
	return ""
}

// within waits for what must have come true for calls sent a second from now on.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	begin := time.Now()
	for {
		sent := time.Now()
		if ok() {
			return
		}
		if sent.Sub(begin) > time.Second {
			t.Fatalf("%s: not so for a call sent %v later", what, sent.Sub(begin))
		}
	}
}
