package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// meter counts calls, up to a limit.
type meter struct {
	mu    sync.Mutex
	used  map[string]int64
	base  int64
	limit int64
	fail  error

	opened []*account // in the order asked for
}

// account is the meter of one tenant.
type account struct {
	*meter
	tenant string
	kind   kb.Meter
	ended  atomic.Bool
}

func (m *meter) Account(tenant string, k kb.Meter) gateway.Account {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opened = append(m.opened, &account{meter: m, tenant: tenant, kind: k})
	return m.opened[len(m.opened)-1]
}

func (a *account) Ended() bool { return a.ended.Load() }

func (a *account) Take(context.Context) (kb.TokenState, error) {
	m, tenant := a.meter, a.tenant
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.kind != kb.MeterCalls || m.fail != nil {
		return kb.TokenState{}, m.fail
	}
	s := kb.TokenState{Base: m.base, Reset: 90*time.Second - time.Millisecond}
	if m.used[tenant] >= m.limit {
		return s, kb.Errorf(kb.CodeResourceExhausted, kb.ReasonCallLimit, "The limit of %d API calls an hour is reached.", m.base).After(1500 * time.Millisecond)
	}
	m.used[tenant]++
	s.Remaining = m.limit - m.used[tenant]
	return s, nil
}

func (m *meter) of(tenant string) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used[tenant]
}

func metered(t *testing.T, base, limit int64) (*world, *meter) {
	m := &meter{used: map[string]int64{}, base: base, limit: limit}
	w := start(t, func(c *gateway.Config) { c.Meters = m })
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	return w, m
}

func TestEachCallOfATenantCountsWhateverBecomesOfIt_B4(t *testing.T) {
	w, m := metered(t, 1000, 1000)
	viewer := w.token("viewer")
	counts := func(what string, by int64, do func()) {
		t.Helper()
		before := m.of("acme")
		if do(); m.of("acme") != before+by {
			t.Errorf("%s: counted %d times, want %d", what, m.of("acme")-before, by)
		}
	}
	get := getKB + `?encoding=json&connect=v1&message=%7B%22name%22%3A%22handbook%22%7D`
	var tag string
	counts("a read", 1, func() {
		res, body := w.do(http.MethodGet, get, "", "Authorization", "Bearer "+viewer)
		if tag = res.Header.Get("ETag"); res.StatusCode != 200 {
			t.Fatal(res.Status, body)
		}
	})
	counts("one that answers 304", 1, func() {
		if res, _ := w.do(http.MethodGet, get, "", "Authorization", "Bearer "+viewer, "If-None-Match", tag); res.StatusCode != 304 || res.Header.Get("RateLimit") == "" {
			t.Fatal(res.Status, res.Header)
		}
	})
	counts("a request that is not valid", 1, func() { w.post(viewer, getKB, `{"nonsense":1}`) })
	counts("one without the role", 1, func() {
		if res, body := w.post(viewer, "/granary.v1.KnowledgeBaseService/DeleteKnowledgeBase", `{"name":"handbook"}`); res.StatusCode != 403 || res.Header.Get("RateLimit") == "" {
			t.Fatal(res.Status, body, res.Header)
		}
	})
	counts("a method that does not exist", 1, func() { w.post(viewer, "/granary.v1.TenantService/Nothing", `{}`) })
	counts("one of nobody", 0, func() {
		if res, _ := w.post("rubbish", getKB, `{"name":"handbook"}`); res.StatusCode != 401 || res.Header.Get("RateLimit") != "" {
			t.Fatal(res.Status, res.Header)
		}
	})
	counts("health", 0, func() { w.do(http.MethodGet, "/health", "") })
	counts("an operator's", 0, func() { w.post(w.operatorToken(), "/granary.v1.ClusterService/ListNodes", `{}`) })
	counts("a stream, when it opens", 1, func() {
		w.grains.fail(kb.Errorf(kb.CodeNotFound, kb.ReasonKnowledgeBaseNotFound, "gone"))
		s, err := granaryv1connect.NewEventServiceClient(w.client(viewer)).WatchEvents(t.Context(), &v1.WatchEventsRequest{KnowledgeBase: "handbook"})
		if err == nil {
			_, err = s.Receive()
			_ = s.Close()
		}
		if connect.CodeOf(err) != connect.CodeNotFound {
			t.Error(err)
		}
	})
}

func TestACallerIsCountedWithoutALookUpUntilTheAccountEnds_B4(t *testing.T) {
	w, m := metered(t, 1000, 1000)
	ada, eve := w.token("viewer"), w.tokenOf("umbrella", "eve", "viewer")
	for range 3 {
		w.post(ada, getKB, `{"name":"handbook"}`)
		w.post(eve, getKB, `{"name":"handbook"}`)
	}
	m.mu.Lock()
	opened := slices.Clone(m.opened)
	m.mu.Unlock()
	if len(opened) != 2 || opened[0].tenant != "acme" || opened[1].tenant != "umbrella" {
		t.Fatalf("%d accounts", len(opened))
	}
	opened[0].ended.Store(true)
	w.post(ada, getKB, `{"name":"handbook"}`)
	w.post(eve, getKB, `{"name":"handbook"}`)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.opened) != 3 || m.opened[2].tenant != "acme" || m.used["acme"] != 4 || m.used["umbrella"] != 4 {
		t.Errorf("%d accounts, used %v", len(m.opened), m.used)
	}
}

func TestHeadersTellHowCallsStand_B4(t *testing.T) {
	w, _ := metered(t, 1000, 1500)
	check := func(res *http.Response, left string) {
		t.Helper()
		if got := res.Header.Get("RateLimit-Policy"); got != `"calls";q=1000;w=3600` {
			t.Errorf("RateLimit-Policy: %s", got)
		}
		if got := res.Header.Get("RateLimit"); got != `"calls";r=`+left+`;t=90` {
			t.Errorf("RateLimit: %s", got)
		}
	}
	for range 500 { // of what was saved no more is shown than the policy says
		res, _ := w.post(w.token("viewer"), getKB, `{"name":"handbook"}`)
		check(res, "1000")
	}
	res, _ := w.post(w.token("viewer"), getKB, `{"name":"handbook"}`)
	check(res, "999")
	res, _ = w.do(http.MethodOptions, getKB, "", "Origin", "https://console.example.com", "Access-Control-Request-Method", "POST")
	if res.Header.Get("RateLimit") != "" {
		t.Error("a preflight counts")
	}
	open := start(t, func(c *gateway.Config) {
		c.AllowedOrigins = []string{"https://console.example.com"}
		c.Meters = &meter{used: map[string]int64{}, base: kb.Unlimited, limit: kb.Unlimited}
	})
	open.grains.answer(knowledgeBaseReply("handbook", 1))
	res, _ = open.post(open.token("viewer"), getKB, `{"name":"handbook"}`, "Origin", "https://console.example.com")
	if exposed := res.Header.Get("Access-Control-Expose-Headers"); !strings.Contains(exposed, "RateLimit, RateLimit-Policy") {
		t.Errorf("pages may read %s", exposed)
	}
	if res.Header.Get("RateLimit") != "" || res.StatusCode != 200 {
		t.Errorf("without a limit: %v", res.Header)
	}
}

func TestAtTheLimitClientsAreToldWhenToComeBack_B4(t *testing.T) {
	w, m := metered(t, 2, 2)
	token := w.token("viewer")
	w.post(token, getKB, `{"name":"handbook"}`)
	w.post(token, getKB, `{"name":"handbook"}`)
	asked := len(w.grains.all())
	res, body := w.post(token, getKB, `{"name":"handbook"}`)
	if res.StatusCode != 429 || res.Header.Get("Retry-After") != "2" || res.Header.Get("RateLimit") != `"calls";r=0;t=90` || len(w.grains.all()) != asked {
		t.Fatalf("%s %s %v", res.Status, body, res.Header)
	}
	var e struct {
		Code    string
		Details []struct {
			Type  string
			Debug json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Code != "resource_exhausted" {
		t.Fatal(body)
	}
	for _, want := range []string{"google.rpc.ErrorInfo", "google.rpc.QuotaFailure", "google.rpc.RetryInfo", kb.ReasonCallLimit, "tenants/acme", "1.500s"} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is missing in %s", want, body)
		}
	}
	// Others have limits of their own.
	if res, _ := w.post(w.tokenOf("umbrella", "eve", "viewer"), getKB, `{"name":"handbook"}`); res.StatusCode != 200 {
		t.Error(res.Status)
	}
	// gRPC clients hear the same.
	_, err := granaryv1connect.NewKnowledgeBaseServiceClient(w.client(token)).GetKnowledgeBase(t.Context(), &v1.GetKnowledgeBaseRequest{Name: "handbook"})
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Error(err)
	}
	m.mu.Lock()
	m.fail = kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "away").After(time.Second)
	m.mu.Unlock()
	if res, body := w.post(token, getKB, `{"name":"handbook"}`); res.StatusCode != 503 || res.Header.Get("Retry-After") != "1" || res.Header.Get("RateLimit") != "" {
		t.Errorf("%s %s", res.Status, body)
	}
}

// uncounted are the RPCs that a tenant at its limit may still call, with a request.
var uncounted = map[string]string{
	"TenantService/GetTenant": `{}`, "TenantService/GetUsage": `{}`, "AccessService/WhoAmI": `{}`, "AccessService/ListApiKeys": `{}`,
	"AccessService/GetApiKey": `{"name":"aaaaaaaaaaaaaaaa"}`, "AccessService/RevokeApiKey": `{"name":"aaaaaaaaaaaaaaaa"}`,
	"AccessService/ListRoleBindings": `{}`, "AccessService/RemoveRoleBinding": `{"subject":"bob"}`,
}

func TestAtTheLimitATenantSeesWhyAndTakesAccessAway_B4(t *testing.T) {
	w, m := metered(t, 1, 0)
	w.grains.fail(kb.Errorf(kb.CodeAborted, "REACHED", "the grain was reached"))
	for procedure, body := range unaryMethods(t) {
		if ofOperators(procedure) {
			continue
		}
		free, want := uncounted[strings.TrimPrefix(procedure, "/granary.v1.")], 429
		if free != "" {
			body, want = free, 409
		}
		if strings.HasSuffix(procedure, "/WhoAmI") {
			want = 200
		}
		if res, out := w.post(w.token("admin"), procedure, body); res.StatusCode != want || (free != "") != (res.Header.Get("RateLimit") == "") {
			t.Errorf("%s at the limit: %d %s %v", procedure, res.StatusCode, out, res.Header)
		}
	}
	if m.of("acme") != 0 {
		t.Errorf("%d calls are counted", m.of("acme"))
	}
}

func TestCallsThatAreNotCountedAreFewEach_B4(t *testing.T) {
	w, m := metered(t, 1000, 2)
	w.grains.fail(kb.Errorf(kb.CodeAborted, "REACHED", "the grain was reached"))
	const most = 30 // at once; a slow machine may see another one in 2 s
	eve, refused := w.tokenOf("acme", "eve", "viewer"), 0
	for range 2 * most {
		if res, _ := w.post(eve, "/granary.v1.AccessService/WhoAmI", `{}`); res.StatusCode == 429 {
			refused++
		} else if res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
	}
	if m.of("acme") != 2 || refused == 0 || refused > most-2 {
		t.Errorf("of %d calls %d are counted and %d refused", 2*most, m.of("acme"), refused)
	}
	// Whose credential she has can be told, and it can be taken from her.
	for _, procedure := range []string{"AccessService/ListApiKeys", "AccessService/RevokeApiKey"} {
		if res, out := w.post(w.token("admin"), "/granary.v1."+procedure, uncounted[procedure]); res.StatusCode != 409 {
			t.Errorf("%s beside a flood: %d %s", procedure, res.StatusCode, out)
		}
	}
	for range 2 * most { // a flood of what is refused for its role is bounded too
		w.post(w.tokenOf("acme", "bob", "viewer"), "/granary.v1.AccessService/RevokeApiKey", uncounted["AccessService/RevokeApiKey"])
	}
	if res, _ := w.post(w.tokenOf("acme", "bob", "viewer"), "/granary.v1.AccessService/WhoAmI", `{}`); res.StatusCode != 429 {
		t.Errorf("after a flood: %d", res.StatusCode)
	}
}
