package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/apikey"
	"granary.dev/granary/gateway/auth"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

const pepper = "pppppppppppppppppppppppppppppppp"

func peppered(c *gateway.Config) { c.KeyPepper = gateway.Secret(pepper) }

// registry is what tenants say of callers; a test changes it under the lock.
type registry struct {
	sync.Mutex
	asked    atomic.Int64
	down     bool
	state    v1.TenantState
	unknown  bool
	keys     map[string]*nodev1.KeyRecord // by tenant and id
	grants   map[string][]*nodev1.Grant   // by tenant and id, or subject
	reported atomic.Int64
	events   map[int64]time.Time // when the fake knowledge base made them, by revision
}

func newRegistry(w *world) *registry {
	r := &registry{state: v1.TenantState_TENANT_STATE_ACTIVE, keys: map[string]*nodev1.KeyRecord{}, grants: map[string][]*nodev1.Grant{}, events: map[int64]time.Time{}}
	w.grains.mu.Lock()
	defer w.grains.mu.Unlock()
	w.grains.access = r.answer
	return r
}

func (r *registry) answer(tenant string, q *nodev1.GetAccess) (proto.Message, error) {
	r.asked.Add(1)
	r.Lock()
	defer r.Unlock()
	if r.down {
		return nil, kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "down")
	}
	a := &nodev1.Access{State: r.state, UnknownTenant: r.unknown, Key: r.keys[tenant+"/"+q.GetKeyId()], Grants: r.grants[tenant+"/"+q.GetKeyId()+q.GetSubject()]}
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Access{Access: a}}, nil
}

// key makes a good key of a tenant.
func (r *registry) key(t *testing.T, tenant string, grants ...*nodev1.Grant) apikey.Key {
	t.Helper()
	k, err := apikey.New(tenant, []byte(pepper))
	if err != nil {
		t.Fatal(err)
	}
	r.Lock()
	defer r.Unlock()
	r.keys[tenant+"/"+k.ID] = &nodev1.KeyRecord{Id: k.ID, Mac: k.MAC([]byte(pepper)), Subject: "key:" + k.ID}
	r.grants[tenant+"/"+k.ID] = grants
	return k
}

func (r *registry) set(f func()) {
	r.Lock()
	defer r.Unlock()
	f()
}

// script serves reports of keys' uses, and knowledge bases to who may view them.
func (r *registry) script(_ context.Context, a asked) (proto.Message, error) {
	if m, ok := a.msg.(*nodev1.TenantCall); ok {
		if m.GetReportKeyUse() != nil {
			r.reported.Add(1)
		}
		return &nodev1.TenantReply{Result: &nodev1.TenantReply_Done{Done: &nodev1.Done{}}}, nil
	}
	var grants []kb.Grant
	for _, g := range a.kb().GetHeader().GetGrants() {
		grants = append(grants, kb.Grant{Role: kb.Role(g.GetRole()), Workspace: g.GetWorkspace(), KnowledgeBase: g.GetKnowledgeBase()})
	}
	if !kb.AllowsKB(grants, kb.RoleViewer, kb.DefaultWorkspace, a.id) {
		return refuse(int32(kb.CodeNotFound), kb.ReasonKnowledgeBaseNotFound, "not here"), nil
	}
	if a.kb().GetSearch() != nil {
		return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Search{Search: &v1.SearchResponse{}}}, nil
	}
	if events := a.kb().GetReadEvents(); events != nil {
		r.set(func() { r.events[events.GetAfterRevision()+1] = time.Now() })
		return &nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Events{Events: &nodev1.ReadEventsResult{
			Uid: "u", Revision: events.GetAfterRevision() + 1, Events: []*v1.Event{{Revision: events.GetAfterRevision() + 1}}}}}, nil
	}
	return knowledgeBaseReply(a.id, 1), nil
}

const getHandbook, nameHandbook = "/granary.v1.KnowledgeBaseService/GetKnowledgeBase", `{"name":"knowledgeBases/handbook"}`

// answerOf is what a client can tell answers apart by.
func answerOf(res *http.Response, body string) string {
	return res.Status + " " + body + " " + res.Header.Get("WWW-Authenticate") + res.Header.Get("Retry-After")
}

// mistyped is a key's text with one character of its secret another.
func mistyped(k apikey.Key) string {
	text := []byte(k.Reveal())
	at := len(text) - 10
	if text[at]++; text[at] > 'z' || text[at] < 'a' {
		text[at] = 'a'
	}
	return string(text)
}

// An API key that is good for nothing, for whatever reason, is refused as any other text is.
func TestEveryKeyThatIsNotGoodIsRefusedAlike_B1(t *testing.T) {
	w := start(t, peppered)
	r := newRegistry(w)
	w.grains.setScript(r.script)
	good := r.key(t, "acme", &nodev1.Grant{Role: "viewer"})
	if res, body := w.post(good.Reveal(), getHandbook, nameHandbook); res.StatusCode != http.StatusOK {
		t.Fatalf("a good key: %s %s", res.Status, body)
	}
	stolen, expired, foreign, gone := r.key(t, "acme"), r.key(t, "acme"), r.key(t, "umbrella"), r.key(t, "acme")
	r.set(func() {
		r.keys["acme/"+stolen.ID].Mac[0] ^= 1
		r.keys["acme/"+expired.ID].ExpireTime = timestamppb.New(time.Now().Add(-time.Second))
		r.keys["acme/"+foreign.ID] = r.keys["umbrella/"+foreign.ID]
		delete(r.keys, "umbrella/"+foreign.ID)
		delete(r.keys, "acme/"+gone.ID)
	})
	want := answerOf(w.post("nonsense", getHandbook, nameHandbook))
	asked := r.asked.Load()
	if got := answerOf(w.post(mistyped(good), getHandbook, nameHandbook)); got != want || r.asked.Load() != asked {
		t.Errorf("a mistyped key: %s, want %s; the tenant was asked %d times", got, want, r.asked.Load()-asked)
	}
	for name, k := range map[string]apikey.Key{"with another MAC": stolen, "expired": expired, "of another tenant": foreign, "revoked": gone} {
		if got := answerOf(w.post(k.Reveal(), getHandbook, nameHandbook)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	without := start(t) // a server without a pepper knows no keys
	if got := answerOf(without.post(good.Reveal(), getHandbook, nameHandbook)); got != want {
		t.Errorf("a server without keys: %s, want %s", got, want)
	}
}

// What tenants say is used for less than a second, and asked for once.
func TestStandingIsAskedOnceForManyCallsAndARevocationWorksWithinASecond_B1_P2(t *testing.T) {
	w := start(t, peppered)
	r := newRegistry(w)
	w.grains.setScript(r.script)
	k := r.key(t, "acme", &nodev1.Grant{Role: "viewer", KnowledgeBase: "handbook"})
	var calls sync.WaitGroup
	begin := time.Now()
	for range 20 {
		calls.Go(func() {
			for range 5 {
				if res, body := w.post(k.Reveal(), getHandbook, nameHandbook); res.StatusCode != http.StatusOK {
					t.Errorf("%s %s", res.Status, body)
				}
			}
		})
	}
	calls.Wait()
	if most := int64(2 + time.Since(begin)/(300*time.Millisecond)); r.asked.Load() > most {
		t.Errorf("100 calls asked the tenant %d times, at most %d are due", r.asked.Load(), most)
	}
	if r.reported.Load() > 1 { // the report waits a moment for those of other keys
		t.Errorf("its use was reported %d times", r.reported.Load())
	}
	r.set(func() { delete(r.keys, "acme/"+k.ID) })
	revoked := time.Now()
	for {
		sent := time.Now()
		res, _ := w.post(k.Reveal(), getHandbook, nameHandbook)
		if res.StatusCode == http.StatusUnauthorized {
			return
		}
		if sent.Sub(revoked) > time.Second {
			t.Fatalf("a call %v after the revocation went through: %s", sent.Sub(revoked), res.Status)
		}
	}
}

// A tenant that cannot be asked lets nobody in: a key may be revoked, a role taken,
// the tenant suspended.
func TestWithoutTheTenantEverybodyStaysOut_B1(t *testing.T) {
	w := start(t, peppered)
	r := newRegistry(w)
	w.grains.setScript(r.script)
	r.set(func() { r.down = true })
	for name, token := range map[string]string{"a key": r.key(t, "acme", &nodev1.Grant{Role: "viewer"}).Reveal(), "a token": w.token("viewer")} {
		res, body := w.post(token, getHandbook, nameHandbook)
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %s %s", name, res.Status, body)
		}
	}
	// But for a search that may be stale, which the knowledge base answers while the
	// store is away: by a token only, and by the roles it carries.
	r.set(func() { r.grants["acme/ada"] = []*nodev1.Grant{{Role: "admin"}} })
	const search, strict, stale = "/granary.v1.SearchService/Search", `{"knowledgeBase":"handbook","query":"q"}`, `{"knowledgeBase":"handbook","query":"q","allowStale":true}`
	if res, body := w.post(w.token("viewer"), search, strict); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a token that searches: %s %s", res.Status, body)
	}
	if res, body := w.post(r.key(t, "acme", &nodev1.Grant{Role: "viewer"}).Reveal(), search, stale); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a key that searches and takes what is stale: %s %s", res.Status, body)
	}
	before := len(w.grains.all())
	if res, body := w.post(w.token("viewer"), search, stale); res.StatusCode != http.StatusOK {
		t.Errorf("a token that searches and takes what is stale: %s %s", res.Status, body)
	}
	if all := w.grains.all(); len(all) != before+1 || !all[before].kb().GetHeader().GetUnproven() || len(all[before].kb().GetHeader().GetGrants()) != 1 {
		t.Errorf("the knowledge base was asked %v", all[before:])
	}
}

func TestWhoIsOfATenantThatIsNotActiveGetsNotIn_B1(t *testing.T) {
	for name, c := range map[string]struct {
		state   v1.TenantState
		unknown bool
		refuse  bool
		code    int
		reason  string
	}{
		"active":             {state: v1.TenantState_TENANT_STATE_ACTIVE, code: 200},
		"suspended":          {state: v1.TenantState_TENANT_STATE_SUSPENDED, code: 403, reason: kb.ReasonTenantSuspended},
		"deleted":            {state: v1.TenantState_TENANT_STATE_DELETED, code: 403, reason: kb.ReasonTenantDeleted},
		"being erased":       {state: v1.TenantState_TENANT_STATE_PURGING, code: 403, reason: kb.ReasonTenantDeleted},
		"unknown":            {unknown: true, code: 200},
		"unknown, and so no": {unknown: true, refuse: true, code: 401, reason: kb.ReasonUnauthenticated},
	} {
		w := start(t, peppered, func(cfg *gateway.Config) { cfg.RefuseUnknownTenants = c.refuse })
		r := newRegistry(w)
		w.grains.setScript(r.script)
		r.set(func() { r.state, r.unknown = c.state, c.unknown })
		bad := answerOf(w.post("nonsense", getHandbook, nameHandbook))
		for kind, token := range map[string]string{"token": w.token("admin"), "key": r.key(t, "acme", &nodev1.Grant{Role: "admin"}).Reveal()} {
			res, body := w.post(token, getHandbook, nameHandbook)
			if res.StatusCode != c.code || !strings.Contains(body, c.reason) {
				t.Errorf("%s, %s: %s %s", name, kind, res.Status, body)
			}
			if c.refuse && answerOf(res, body) != bad {
				t.Errorf("%s, %s is told from a bad credential: %s", name, kind, answerOf(res, body))
			}
		}
	}
}

// What is bound to a subject comes on top of its token's roles, inside the token's workspace.
func TestBoundRolesStayInsideTheTokensWorkspace_B1(t *testing.T) {
	w := start(t)
	r := newRegistry(w)
	w.grains.setScript(r.script)
	r.set(func() {
		r.grants["acme/ada"] = []*nodev1.Grant{{Role: "admin"}, {Role: "viewer", Workspace: "legal"}, {Role: "editor", Workspace: "default", KnowledgeBase: "a"}}
	})
	for workspace, want := range map[string]string{
		"":        `{"role":"viewer"},{"role":"admin"},{"role":"viewer","workspace":"legal"},{"role":"editor","workspace":"default","knowledgeBase":"a"}`,
		"legal":   `{"role":"viewer","workspace":"legal"},{"role":"admin","workspace":"legal"},{"role":"viewer","workspace":"legal"}`,
		"default": `{"role":"viewer","workspace":"default"},{"role":"admin","workspace":"default"},{"role":"editor","workspace":"default","knowledgeBase":"a"}`,
	} {
		token, err := w.auth.Issue(auth.Grant{Tenant: "acme", Subject: "ada", Roles: []string{"viewer"}, Workspace: workspace, Life: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		res, body := w.post(token.Reveal(), "/granary.v1.AccessService/WhoAmI", "{}")
		if got := strings.ReplaceAll(body, ", ", ","); res.StatusCode != http.StatusOK || !strings.Contains(strings.ReplaceAll(got, " ", ""), "["+want+"]") {
			t.Errorf("workspace %q: %s %s, want %s", workspace, res.Status, body, want)
		}
	}
}

// An open stream goes on only for who may still read: it ends within seconds of a
// revocation, and shows nothing of what comes more than one after it.
func TestARevocationEndsOpenStreams_B1(t *testing.T) {
	for name, c := range map[string]struct {
		key    bool
		change func(r *registry, id string)
		reason string
	}{
		"the role is taken":       {change: func(r *registry, _ string) { delete(r.grants, "acme/ada") }, reason: kb.ReasonKnowledgeBaseNotFound},
		"the tenant is suspended": {change: func(r *registry, _ string) { r.state = v1.TenantState_TENANT_STATE_SUSPENDED }, reason: kb.ReasonTenantSuspended},
		"the key is revoked":      {key: true, change: func(r *registry, id string) { delete(r.keys, "acme/"+id) }, reason: kb.ReasonUnauthenticated},
		"the key has less":        {key: true, change: func(r *registry, id string) { r.grants["acme/"+id] = nil }, reason: kb.ReasonKnowledgeBaseNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, peppered)
			r := newRegistry(w)
			w.grains.setScript(r.script)
			viewer := &nodev1.Grant{Role: "viewer", KnowledgeBase: "handbook"}
			r.set(func() { r.grants["acme/ada"] = []*nodev1.Grant{viewer} })
			token, id := w.token(), ""
			if c.key {
				k := r.key(t, "acme", viewer)
				token, id = k.Reveal(), k.ID
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			stream, err := granaryv1connect.NewEventServiceClient(w.client(token)).WatchEvents(ctx, &v1.WatchEventsRequest{KnowledgeBase: "handbook", FromStart: true})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Receive(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond) // what is known of the caller was asked for a while ago
			r.set(func() { c.change(r, id) })
			changed, last := time.Now(), int64(0)
			for err == nil {
				var m *v1.WatchEventsResponse
				if m, err = stream.Receive(); err == nil && m.GetEvent() != nil {
					last = m.GetEvent().GetRevision()
				}
			}
			r.set(func() {
				if late := r.events[last].Sub(changed); late > time.Second {
					t.Errorf("it was shown an event of %v after the change", late)
				}
			})
			if got := reasonOf(t, err); got != c.reason {
				t.Errorf("after %v: %v, want %q", time.Since(changed), err, c.reason)
			}
		})
	}
}

// reasonOf is the reason of an RPC's error, "" for none.
func reasonOf(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	return detailsOf(t, err).info.GetReason()
}
