//go:build unix

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// hardship is trouble in which something is taken from callers. The owner of their tenants is the
// second node, and the commands go to the first.
type hardship struct {
	name   string
	freeze int           // this node stands still meanwhile; 0: none
	awake  time.Duration // it is woken so long after the last acknowledgement
	kill   bool          // the owner is killed at once after it
}

// B1, E5: what is taken from a caller is taken on every node: no call that begins more
// than a second after the acknowledgement goes through, whoever is the owner, and
// whether it dies at once or a node has stood still meanwhile; and what is committed
// after that second is shown on no open stream.
func TestClusterTakesAccessWithinASecond_B1_E5(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	c := newCluster(t, clusterOptions{nodes: 3, seed: 1})
	r := newRevocations(t, c)
	for i, h := range []hardship{
		{name: "in calm"},
		{name: "another node stands still for a moment", freeze: 3, awake: 1200 * time.Millisecond},
		{name: "another node stands still for long", freeze: 3, awake: 5 * time.Second},
		{name: "the owner stands still", freeze: 2, awake: 2 * time.Second},
		{name: "the owner is killed after it", kill: true},
	} {
		t.Run(h.name, func(t *testing.T) { r.run(t, i+1, h) })
	}
}

type revocations struct {
	cluster   *cluster
	authority *auth.Authority
	operator  string
	one, two  []http.RoundTripper // of each node
}

func newRevocations(t *testing.T, c *cluster) *revocations {
	t.Helper()
	r := &revocations{cluster: c, authority: c.authority(t)}
	token, err := r.authority.IssueOperator(auth.OperatorGrant{Subject: "olga"})
	if err != nil {
		t.Fatal(err)
	}
	r.operator = token.Reveal()
	for range c.members {
		one := &http.Transport{MaxIdleConnsPerHost: 64}
		two := &http.Transport{Protocols: new(http.Protocols)}
		two.Protocols.SetUnencryptedHTTP2(true)
		t.Cleanup(one.CloseIdleConnections)
		t.Cleanup(two.CloseIdleConnections)
		r.one, r.two = append(r.one, one), append(r.two, two)
	}
	return r
}

// authority signs tokens as the cluster's development key does.
func (c *cluster) authority(t *testing.T) *auth.Authority {
	t.Helper()
	path := filepath.Join(c.dir, "key")
	if err := os.WriteFile(path, c.signingKey(t), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := auth.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// taking is a credential and how it is taken.
type taking struct {
	what, tenant, token string
	why                 string // what its holder is told then
	take                func(ctx context.Context) error
	at                  time.Time // when that was acknowledged
	knockers            []*knocker
}

func (r *revocations) token(t *testing.T, tenant, subject string, roles ...string) string {
	t.Helper()
	token, err := r.authority.Issue(auth.Grant{Tenant: tenant, Subject: subject, Roles: roles})
	if err != nil {
		t.Fatal(err)
	}
	return token.Reveal()
}

// at sends a request to a node until it is answered.
func (r *revocations) at(ctx context.Context, node int, token, method string, req, res proto.Message) error {
	c := r.cluster.client(tenant{token: token}, nil, &leaks{})
	defer c.close()
	for {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		got := c.send(one, node, method, "", false, req, res)
		cancel()
		switch v := got.verdict(); {
		case v == verdictOK:
			return nil
		case ctx.Err() != nil || v == verdictRefused || v == verdictBroken:
			return fmt.Errorf("%s at node %d: %v %s", method, node+1, got.err, got.answer)
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

// key makes an API key that may read all of a tenant.
func (r *revocations) key(ctx context.Context, t *testing.T, admin string, expires *timestamppb.Timestamp) (id, secret string) {
	t.Helper()
	made := &v1.CreateApiKeyResponse{}
	if err := r.at(ctx, 0, admin, "AccessService/CreateApiKey", &v1.CreateApiKeyRequest{Grants: []*v1.AccessGrant{{Role: gateway.RoleViewer}}, ExpireTime: expires}, made); err != nil {
		t.Fatal(err)
	}
	return made.GetApiKey().GetName(), made.GetSecret()
}

// takings makes three tenants with a knowledge base each, and the credentials.
func (r *revocations) takings(ctx context.Context, t *testing.T, round int) []*taking {
	t.Helper()
	stays, stops, goes := fmt.Sprintf("stays-%d", round), fmt.Sprintf("stops-%d", round), fmt.Sprintf("goes-%d", round)
	admins := make(map[string]string)
	for _, name := range []string{stays, stops, goes} {
		admins[name] = r.token(t, name, "ada", gateway.RoleAdmin)
		if err := r.at(ctx, 0, admins[name], "KnowledgeBaseService/CreateKnowledgeBase", &v1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "box"}, &v1.CreateKnowledgeBaseResponse{}); err != nil {
			t.Fatal(err)
		}
		r.moveTo(ctx, t, name, 1)
	}
	if err := r.at(ctx, 0, admins[stays], "AccessService/SetRoleBinding", &v1.SetRoleBindingRequest{Binding: &v1.RoleBinding{Subject: "bob",
		Grant: &v1.AccessGrant{Role: gateway.RoleViewer}}}, &v1.SetRoleBindingResponse{}); err != nil {
		t.Fatal(err)
	}
	revoked, secret := r.key(ctx, t, admins[stays], nil)
	_, other := r.key(ctx, t, admins[stops], nil)
	end := time.Now().Add(4 * time.Second)
	_, ending := r.key(ctx, t, admins[stays], timestamppb.New(end))
	ask := func(token, method string, req, res proto.Message) func(context.Context) error {
		return func(ctx context.Context) error { return r.at(ctx, 0, token, method, req, res) }
	}
	suspend := sync.OnceValue(func() error {
		return ask(r.operator, "TenantAdminService/SuspendTenant", &v1.SuspendTenantRequest{Name: stops}, &v1.SuspendTenantResponse{})(ctx)
	})
	return []*taking{
		{what: "a key is revoked", tenant: stays, token: secret, why: "UNAUTHENTICATED",
			take: ask(admins[stays], "AccessService/RevokeApiKey", &v1.RevokeApiKeyRequest{Name: revoked}, &emptypb.Empty{})},
		{what: "a key expires", tenant: stays, token: ending, why: "UNAUTHENTICATED", at: end},
		{what: "a role is taken", tenant: stays, token: r.token(t, stays, "bob"), why: "PERMISSION_DENIED",
			take: ask(admins[stays], "AccessService/RemoveRoleBinding", &v1.RemoveRoleBindingRequest{Subject: "bob"}, &emptypb.Empty{})},
		{what: "a tenant is suspended, token", tenant: stops, token: admins[stops], why: "TENANT_SUSPENDED", take: func(context.Context) error { return suspend() }},
		{what: "a tenant is suspended, key", tenant: stops, token: other, why: "TENANT_SUSPENDED", take: func(context.Context) error { return suspend() }},
		{what: "a tenant is deleted", tenant: goes, token: admins[goes], why: "TENANT_DELETED",
			take: ask(r.operator, "TenantAdminService/DeleteTenant", &v1.DeleteTenantRequest{Name: goes}, &v1.DeleteTenantResponse{})},
	}
}

// moveTo has an operator move a tenant to a node, and waits until it is there.
func (r *revocations) moveTo(ctx context.Context, t *testing.T, tenant string, node int) {
	t.Helper()
	pool, err := r.cluster.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	to := r.cluster.members[node]
	for {
		out, err := exec.CommandContext(ctx, binary, "cluster", "relocate", tenant, "--to", to.name, "--data", to.data, "--server", "http://"+to.api).CombinedOutput()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("%s does not come to %s: %v, %s", tenant, to.name, err, out)
		}
		sleep(ctx, 200*time.Millisecond) // partitions are moving
	}
	token := r.token(t, tenant, "ada", gateway.RoleAdmin)
	for elsewhere := 1; elsewhere > 0; sleep(ctx, 50*time.Millisecond) {
		err := r.at(ctx, 0, token, "KnowledgeBaseService/GetKnowledgeBase", &v1.GetKnowledgeBaseRequest{Name: "knowledgeBases/box"}, &v1.GetKnowledgeBaseResponse{})
		if err == nil {
			err = pool.QueryRow(ctx, "SELECT count(*) FROM owner WHERE tenant = $1 AND node NOT LIKE $2", tenant, to.name+"#%").Scan(&elsewhere)
		}
		if err != nil {
			t.Fatalf("%s does not come to %s: %v", tenant, to.name, err)
		}
	}
}

func (r *revocations) run(t *testing.T, round int, h hardship) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	taken := r.takings(ctx, t, round)
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, k := range taken {
		for n := range r.cluster.members {
			p := r.cluster.newKnocker(n, k.token, "box", r.one[n], r.two[n])
			k.knockers = append(k.knockers, p)
			running.Go(func() { p.run(ctx, stop) })
		}
	}

	running.Go(func() { r.write(ctx, taken[0].tenant, stop) })
	end := sync.OnceFunc(func() { close(stop); running.Wait() })
	defer end()
	sleep(ctx, 1500*time.Millisecond) // everybody is known everywhere
	if h.freeze > 0 {
		if _, err := r.cluster.members[h.freeze-1].signal(syscall.SIGSTOP, false); err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = r.cluster.members[h.freeze-1].signal(syscall.SIGCONT, false) }()
	}
	r.takeAll(ctx, t, taken)
	if h.kill {
		if err := r.cluster.members[1].kill(); err != nil {
			t.Fatal(err)
		}
	}
	if h.freeze > 0 {
		sleep(ctx, h.awake)
		if _, err := r.cluster.members[h.freeze-1].signal(syscall.SIGCONT, false); err != nil {
			t.Fatal(err)
		}
	}
	if h.kill {
		sleep(ctx, 3*time.Second)
		if err := r.cluster.members[1].start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.cluster.heal(ctx); err != nil {
		t.Fatal(err)
	}
	r.await(ctx, t, taken)
	end()
	for _, k := range taken {
		r.report(t, k)
	}
}

// takeAll takes everything at once.
func (r *revocations) takeAll(ctx context.Context, t *testing.T, taken []*taking) {
	t.Helper()
	var acks sync.WaitGroup
	for _, k := range taken {
		if k.take == nil {
			continue
		}
		acks.Go(func() {
			if err := k.take(ctx); err != nil {
				t.Errorf("%s: %v", k.what, err)
			}
			k.at = time.Now()
		})
	}
	acks.Wait()
}

// write keeps a knowledge base busy with events.
func (r *revocations) write(ctx context.Context, tenant string, stop <-chan struct{}) {
	token, err := r.authority.Issue(auth.Grant{Tenant: tenant, Subject: "ada", Roles: []string{gateway.RoleAdmin}})
	if err != nil {
		return
	}
	for i := 0; ctx.Err() == nil; i++ {
		select {
		case <-stop:
			return
		case <-time.After(100 * time.Millisecond):
		}
		_ = r.at(ctx, 0, token.Reveal(), "KnowledgeBaseService/UpdateKnowledgeBase", &v1.UpdateKnowledgeBaseRequest{
			KnowledgeBase: &v1.KnowledgeBase{Name: "knowledgeBases/box", Description: fmt.Sprint(i)},
			UpdateMask:    &fieldmaskpb.FieldMask{Paths: []string{"description"}}}, &v1.UpdateKnowledgeBaseResponse{})
	}
}

// await waits until everything is refused on all nodes in all ways.
func (r *revocations) await(ctx context.Context, t *testing.T, taken []*taking) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); ; sleep(ctx, 50*time.Millisecond) {
		var open []string
		for _, k := range taken {
			for _, p := range k.knockers {
				if !p.refused(k.why, k.at) {
					open = append(open, fmt.Sprintf("%s, node %d: last %s", k.what, p.node+1, p.last()))
				}
			}
		}
		if len(open) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("not refused:\n%s", strings.Join(open, "\n"))
			return
		}
	}
}

func (r *revocations) report(t *testing.T, k *taking) {
	t.Helper()
	var text []string
	for _, p := range k.knockers {
		longest, shown, stream := p.check(t, k.what, k.at)
		text = append(text, fmt.Sprintf("node %d: last call %d ms, last event %d ms, stream ended %d ms", p.node+1,
			longest.Milliseconds(), shown.Milliseconds(), stream.Milliseconds()))
	}
	t.Logf("%s, from the acknowledgement: %s", k.what, strings.Join(text, "; "))
}
