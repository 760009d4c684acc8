package gateway_test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
)

const (
	clusterService     = "/granary.v1.ClusterService/"
	encryptionService  = "/granary.v1.EncryptionService/"
	tenantAdminService = "/granary.v1.TenantAdminService/"
	auditAdminService  = "/granary.v1.AuditAdminService/"
)

// ofOperators tells the methods that are for operators.
func ofOperators(procedure string) bool {
	return strings.HasPrefix(procedure, clusterService) || strings.HasPrefix(procedure, encryptionService) ||
		strings.HasPrefix(procedure, tenantAdminService) || strings.HasPrefix(procedure, "/granary.v1.ErasureAdminService/") ||
		strings.HasPrefix(procedure, auditAdminService)
}

// keyed is an authority whose key the test has, to sign what the authority would not.
func keyed(t *testing.T) (*auth.Authority, ed25519.PrivateKey) {
	t.Helper()
	text, err := auth.NewKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	authority, err := auth.FromPEM(text)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return authority, key.(ed25519.PrivateKey)
}

func TestOnlyOperatorsReachTheClusterAPI_B1_A7(t *testing.T) {
	authority, key := keyed(t)
	s := &scripted{}
	w := start(t, func(c *gateway.Config) { c.Cluster, c.Verifier, c.Operators = s, authority, authority })
	w.auth = authority
	sign := func(audience string, age time.Duration) string {
		now := time.Now().Add(-age)
		text, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
			"iss": auth.Issuer, "aud": audience, "sub": "olga", "roles": []string{gateway.RoleOperator},
			"nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		}).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + text
	}
	if res, out := w.do(http.MethodPost, clusterService+"GetView", `{}`, "Content-Type", "application/json",
		"Authorization", sign(auth.OperatorAudience, 0)); res.StatusCode != 200 {
		t.Fatalf("the pattern of all refused tokens is not good itself: %d %s", res.StatusCode, out)
	}
	if len(s.calls()) != 1 {
		t.Fatal("the cluster was not asked")
	}
	methods := map[string]string{clusterService + "NoSuchMethod": `{}`}
	for procedure, body := range unaryMethods(t) {
		if ofOperators(procedure) {
			methods[procedure] = body
		}
	}
	if len(methods) < 14 {
		t.Errorf("%d methods", len(methods))
	}
	var first string
	for procedure, body := range methods {
		for name, header := range map[string]string{
			"no token": "", "not a token": "Bearer x", "a tenant's viewer": "Bearer " + w.token("viewer"),
			"a tenant's admin": "Bearer " + w.token("admin"), "expired": sign(auth.OperatorAudience, 2*time.Hour),
			"wrong audience": sign("granary-operators", 0), "audience of tenants": sign(auth.Audience, 0),
		} {
			headers := []string{"Content-Type", "application/json"}
			if header != "" {
				headers = append(headers, "Authorization", header)
			}
			res, out := w.do(http.MethodPost, procedure, body, headers...)
			if res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") != `Bearer realm="granary"` {
				t.Errorf("%s with %s: %d %s", procedure, name, res.StatusCode, out)
			}
			if first == "" {
				first = out
			}
			if out != first {
				t.Errorf("%s with %s answers %s, not %s", procedure, name, out, first)
			}
		}
	}
	if len(s.calls()) != 1 {
		t.Errorf("the cluster was asked %v", s.calls())
	}
}

func TestNoOperatorReachesATenantsAPI_B1_A7(t *testing.T) {
	w := start(t)
	token := w.operatorToken()
	methods := unaryMethods(t)
	methods["/granary.v1.TenantService/NoSuchMethod"] = `{}`
	for procedure, body := range methods {
		if ofOperators(procedure) {
			continue
		}
		if res, out := w.post(token, procedure, body); res.StatusCode != 401 || !strings.Contains(out, kb.ReasonUnauthenticated) {
			t.Errorf("%s: %d %s", procedure, res.StatusCode, out)
		}
	}
	for _, path := range []string{"/granary.v1.EventService/WatchEvents", "/granary.v1.DocumentService/UploadDocument"} {
		_, out := w.do(http.MethodPost, path, "\x00\x00\x00\x00\x02{}", "Content-Type", "application/connect+json", "Authorization", "Bearer "+token)
		if !strings.Contains(out, "unauthenticated") {
			t.Errorf("%s: %q", path, out)
		}
	}
	if n := len(w.grains.all()); n != 0 || w.blobs.count() != 0 {
		t.Errorf("%d calls reached a grain, %d blobs", n, w.blobs.count())
	}
}

func TestWithoutAClusterOperatorsAreToldSo_A7(t *testing.T) {
	w := start(t)
	for procedure, body := range unaryMethods(t) {
		if !strings.HasPrefix(procedure, clusterService) {
			continue
		}
		res, out := w.post(w.operatorToken(), procedure, body)
		if res.StatusCode != 400 || !strings.Contains(out, "failed_precondition") || !strings.Contains(out, "is no member of a cluster") {
			t.Errorf("%s: %d %s", procedure, res.StatusCode, out)
		}
	}
	if res, _ := start(t, func(c *gateway.Config) { c.Operators = nil }).post(w.operatorToken(), clusterService+"GetView", `{}`); res.StatusCode != 401 {
		t.Errorf("a server that knows no operators: %d", res.StatusCode)
	}
}

type operatorsFunc func() (gateway.Operator, error)

func (f operatorsFunc) VerifyOperator(context.Context, string) (gateway.Operator, error) { return f() }

func TestAnOperatorsVerifierThatIsWrongIsNotBelieved_B1_A7(t *testing.T) {
	s := &scripted{}
	var o gateway.Operator
	var fail error
	w := start(t, func(c *gateway.Config) {
		c.Cluster, c.Operators = s, operatorsFunc(func() (gateway.Operator, error) { return o, fail })
	})
	operator := []string{gateway.RoleOperator}
	for name, c := range map[string]struct {
		operator gateway.Operator
		fail     error
		status   int
	}{
		"nobody":       {gateway.Operator{Roles: operator}, nil, 401},
		"odd subject":  {gateway.Operator{Subject: "o\x00", Roles: operator}, nil, 401},
		"no role":      {gateway.Operator{Subject: "olga"}, nil, 403},
		"other roles":  {gateway.Operator{Subject: "olga", Roles: []string{"admin", "root", ""}}, nil, 403},
		"expired":      {gateway.Operator{Subject: "olga", Roles: operator, Expires: time.Now().Add(-time.Second)}, nil, 401},
		"failed":       {gateway.Operator{Subject: "olga", Roles: operator}, errors.New("no"), 401},
		"keys are off": {gateway.Operator{}, kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "no keys"), 503},
		"good":         {gateway.Operator{Subject: "olga", Roles: operator}, nil, 200},
	} {
		o, fail = c.operator, c.fail
		if res, out := w.post("x", clusterService+"DrainNode", `{"name":"n1"}`); res.StatusCode != c.status {
			t.Errorf("%s: %d %s, want %d", name, res.StatusCode, out, c.status)
		}
	}
}

func TestAnswersOfTheClusterAreNotCached_A7(t *testing.T) {
	w, _, _ := startCluster(t)
	query := url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {`{}`}}
	res, out := w.do(http.MethodGet, clusterService+"GetView?"+query.Encode(), "", "Authorization", "Bearer "+w.operatorToken())
	if res.StatusCode != 200 || res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("ETag") != "" {
		t.Errorf("%d %v %s", res.StatusCode, res.Header, out)
	}
	res, _ = w.do(http.MethodGet, clusterService+"DrainNode?"+query.Encode(), "", "Authorization", "Bearer "+w.operatorToken())
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a change by GET: %d", res.StatusCode)
	}
}

func TestTheAccessLogNamesTheOperator_B1(t *testing.T) {
	w, _, _ := startCluster(t)
	token := w.operatorToken()
	w.post(token, clusterService+"GetView", `{}`)
	w.log.await(t, `"method":"granary.v1.ClusterService/GetView"`, 5*time.Second)
	log := w.log.String()
	if !strings.Contains(log, `"operator":"olga"`) || strings.Contains(log, token[len(token)-20:]) || strings.Contains(log, "Bearer") {
		t.Error(log)
	}
}
