package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

func TestEveryRPCHasAPermissionAndAHandler_B1_A7(t *testing.T) {
	g := &Gateway{}
	served := map[string]bool{}
	for server, operators := range map[*connect.Server]bool{g.apiServer(): false, g.operatorServer(): true} {
		if err := checkPermissions(server, operators); err != nil {
			t.Error(err)
		}
		if checkPermissions(server, !operators) == nil {
			t.Error("the methods of tenants and of operators are not told apart")
		}
		for spec := range server.Specs() {
			if served[spec.Procedure] {
				t.Errorf("%s is served twice", spec.Procedure)
			}
			served[spec.Procedure] = true
		}
	}
	protoregistry.GlobalFiles.RangeFilesByPackage("granary.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				procedure := fmt.Sprintf("/%s/%s", s.FullName(), s.Methods().Get(j).Name())
				if !served[procedure] || permissions[procedure].role == "" {
					t.Errorf("%s is not served, or has no permission", procedure)
				}
				delete(served, procedure)
			}
		}
		return true
	})
	if len(served) > 0 {
		t.Errorf("served, and in no proto: %v", served)
	}
}

func TestRolesOpenWhatTheirScopeSays_B1(t *testing.T) {
	tenantAdmin := []kb.Grant{{Role: kb.RoleAdmin}}
	for _, c := range []struct {
		grants []kb.Grant
		need   permission
		may    bool
	}{
		{tenantAdmin, permission{RoleAdmin, scopeTenant}, true},
		{tenantAdmin, permission{RoleViewer, scopeKnowledgeBase}, true},
		{tenantAdmin, permission{RoleOperator, scopeCluster}, false},
		{tenantAdmin, permission{RoleOperator, scopeTenant}, false},
		{tenantAdmin, permission{}, false},
		{[]kb.Grant{{Role: kb.RoleEditor, KnowledgeBase: "a"}}, permission{RoleEditor, scopeKnowledgeBase}, true},
		{[]kb.Grant{{Role: kb.RoleEditor, KnowledgeBase: "a"}}, permission{RoleEditor, scopeAnywhere}, true},
		{[]kb.Grant{{Role: kb.RoleEditor, KnowledgeBase: "a"}}, permission{RoleAdmin, scopeKnowledgeBase}, false},
		{[]kb.Grant{{Role: kb.RoleAdmin, Workspace: "w"}}, permission{RoleViewer, scopeTenant}, false},
		{[]kb.Grant{{Role: "root"}, {Role: ""}, {Role: "Admin"}}, permission{RoleViewer, scopeAnywhere}, false},
		{nil, permission{RoleViewer, scopeAnywhere}, false},
	} {
		if got := (Principal{Grants: c.grants}).may(c.need); got != c.may {
			t.Errorf("%v with %v: %v", c.grants, c.need, got)
		}
	}
	grants := tokenGrants(Principal{Roles: []string{"root", "", "Admin", RoleEditor}, Workspace: "w"})
	if len(grants) != 1 || grants[0] != (kb.Grant{Role: kb.RoleEditor, Workspace: "w"}) {
		t.Errorf("a token's roles give %v", grants)
	}
}

func TestAMethodWithoutAPermissionIsNotServed_B1_A7(t *testing.T) {
	row := permissions[granaryv1connect.ClusterServiceDrainNodeProcedure]
	delete(permissions, granaryv1connect.ClusterServiceDrainNodeProcedure)
	defer func() { permissions[granaryv1connect.ClusterServiceDrainNodeProcedure] = row }()
	cfg := Config{Grains: noGrains{}, Blobs: noBlobs{}, Verifier: noVerifier{}, UploadKey: Secret(strings.Repeat("k", minUploadKey))}
	if g, err := New(cfg); err == nil || g != nil || !strings.Contains(err.Error(), "DrainNode") {
		t.Errorf("New makes a gateway: %v", err)
	}
}

// Parts of a gateway that is never asked anything.
type (
	noGrains   struct{ Grains }
	noBlobs    struct{ Blobs }
	noVerifier struct{ Verifier }
)

func TestConfigIsCheckedWhole(t *testing.T) {
	_, err := New(Config{MaxUpload: MaxUpload + 1, Grace: -1})
	for _, want := range []string{"Grains", "Blobs", "Verifier", "UploadKey", "MaxUpload", "Grace"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not complained of: %v", want, err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := Secret("hunter2")
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", s, "config", Config{UploadKey: s})
	raw, err := json.Marshal(map[string]any{"k": s})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %s %q %x %#v %+v %d", s, s, s, s, s, Config{UploadKey: s}, s) + log.String() + string(raw)
	for _, never := range []string{"hunter2", "68756e74657232", "104 117", "aHVudGVyMg"} {
		if strings.Contains(all, never) {
			t.Errorf("%q is in %s", never, all)
		}
	}
}

func TestTheLargestUploadsTokenFitsItsField(t *testing.T) {
	s := uploadSealer{Secret(strings.Repeat("k", 32))}
	p := Principal{Tenant: strings.Repeat("t", 63), Subject: strings.Repeat("s", 256)}
	now := time.Now()
	u := s.start(p, now)
	for range MaxUpload / minPartBytes {
		u.Parts = append(u.Parts, newPart(journal.BlobInfo{ID: uuid.NewString(), Size: minPartBytes}))
	}
	token, err := s.seal(u)
	if err != nil || len(token) > 65536 {
		t.Fatalf("%d bytes, %v", len(token), err)
	}
	t.Logf("%d parts make a token of %d bytes", len(u.Parts), len(token))
	back, err := s.open(p, token, now.Add(uploadLife-time.Second))
	if err != nil || back.size() != MaxUpload || back.ids()[7] != u.Parts[7].id() {
		t.Errorf("%v", err)
	}
	if _, err := s.open(p, token, now.Add(uploadLife+time.Second)); !kb.Is(err, kb.ReasonUploadInvalid) {
		t.Errorf("a day later: %v", err)
	}
	for _, id := range []string{uuid.NewString(), "not-a-uuid", strings.ToUpper(uuid.NewString()), strings.Repeat("a", 22) + "x"} {
		if got := newPart(journal.BlobInfo{ID: id}).id(); got != id {
			t.Errorf("%s became %s", id, got)
		}
	}
}

func TestResumeTokens(t *testing.T) {
	r := resumePoint{UID: uuid.NewString(), Revision: 1 << 60, Progress: "node-1/42"}
	token, err := r.token()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := parseResumeToken(token); err != nil || back != r || len(token) > maxResumeToken {
		t.Errorf("%v %v", back, err)
	}
	r.Progress = strings.Repeat("c", 300)
	if token, err = r.token(); err != nil || len(token) > maxResumeToken {
		t.Errorf("%d bytes, %v", len(token), err)
	}
	for _, bad := range []string{"", "!", "e30", "bnVsbA", "eyJ1IjoieCIsInIiOi0xfQ", token[:20], token + "="} {
		if _, err := parseResumeToken(bad); !kb.Is(err, kb.ReasonResumeTokenInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// twins are texts that a decoder of base64 may read as it reads good.
func twins(good string) []string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	end := len(good) - 1
	last := alphabet[strings.IndexByte(alphabet, good[end])^1]
	return []string{good + "\n", good[:9] + "\r\n" + good[9:], good + "=", good[:end] + string(last), " " + good, strings.NewReplacer("-", "+", "_", "/").Replace(good) + "\n"}
}

func FuzzTokensOfClients(f *testing.F) {
	s := uploadSealer{Secret(strings.Repeat("k", 32))}
	p := Principal{Tenant: "acme", Subject: "ada"}
	now := time.Unix(1_700_000_000, 0)
	good, err := s.seal(s.start(p, now))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("eyJ1IjoieCIsInIiOjF9")
	for _, other := range twins(good) {
		f.Add(other)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := s.open(p, token, now); err == nil && token != good {
			t.Errorf("%q opens an upload", token)
		}
		if r, err := parseResumeToken(token); err == nil && (r.UID == "" || r.Revision < 0) {
			t.Errorf("%q gives %v", token, r)
		}
	})
}

func TestWhatAGrainDecidedOutlivesItsContext_E2(t *testing.T) {
	shutdown := kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "shutting down")
	ctx, cancel := context.WithCancelCause(t.Context())
	decided := refusal{kb.Errorf(kb.CodeNotFound, kb.ReasonDocumentNotFound, "none")}
	if err := causeOf(ctx, context.Canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("before the end: %v", err)
	}
	cancel(shutdown)
	for _, ended := range []error{context.Canceled, kb.Errorf(kb.CodeDeadlineExceeded, kb.ReasonDeadline, "late")} {
		if err := causeOf(ctx, ended); err != error(shutdown) {
			t.Errorf("%v stays, instead of the reason of the end", err)
		}
	}
	if err := causeOf(ctx, decided); !kb.Is(err, kb.ReasonDocumentNotFound) {
		t.Errorf("a decision became %v", err)
	}
	if causeOf(ctx, nil) != nil {
		t.Error("a success became an error")
	}
}
