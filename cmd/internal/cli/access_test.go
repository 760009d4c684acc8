package cli

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// Every command prints a table on a terminal and plain lines in a pipe.
func TestOutputOfTheAccessCommandsMatchesItsGoldenFiles_B1(t *testing.T) {
	cases := map[string][]string{
		"whoami":           {"whoami"},
		"key_create":       {"key", "create", "ci", "--role", "editor", "--kb", "handbook", "--workspace", "legal", "--expires", "2027-03-01"},
		"key_get":          {"key", "get", "jb2xg4tfmzuwk3lp"},
		"key_list":         {"key", "list"},
		"key_revoke":       {"key", "revoke", "apiKeys/jb2xg4tfmzuwk3lp"},
		"role_grant":       {"role", "grant", "jane", "editor", "--workspace", "legal"},
		"role_revoke":      {"role", "revoke", "jane", "--kb", "handbook"},
		"role_list":        {"role", "list"},
		"workspace_create": {"workspace", "create", "legal", "--display-name", "Legal department"},
		"workspace_get":    {"workspace", "get", "legal"},
		"workspace_list":   {"workspace", "list"},
		"workspace_update": {"workspace", "update", "legal", "--display-name", "Law"},
		"workspace_delete": {"workspace", "delete", "legal"},
		"tenant_create":    {"tenant", "create", "acme", "--tier", "starter", "--limit", "storage_bytes=10000000000"},
		"tenant_show":      {"tenant", "show", "acme"},
		"tenant_list":      {"tenant", "list"},
		"tenant_suspend":   {"tenant", "suspend", "acme", "--reason", "unpaid"},
		"tenant_delete":    {"tenant", "delete", "acme", "--yes"},
	}
	for name, args := range cases {
		t.Run(name, func(t *testing.T) {
			url := (&fake{answer: accessScript}).serve(t, false)
			pipe := granary(t, url, world{}, args...)
			wantCode(t, pipe, ExitOK)
			if strings.Contains(pipe.stdout, "\x1b") {
				t.Errorf("a pipe got escape sequences: %q", pipe.stdout)
			}
			golden(t, name+".pipe", pipe.stdout+"--- stderr\n"+pipe.stderr)
			term := granary(t, url, world{terminal: true, width: 100}, args...)
			wantCode(t, term, ExitOK)
			golden(t, name+".terminal", term.stdout+"--- stderr\n"+term.stderr)
		})
	}
}

// --json is the response as protobuf JSON, with all pages of a list merged.
func TestAccessJSONParsesAsTheResponse_B1(t *testing.T) {
	url := (&fake{answer: accessScript}).serve(t, false)
	for _, c := range []struct {
		args string
		into proto.Message
		n    func(proto.Message) int // entries of a list; nil: not one
	}{
		{"whoami", &granaryv1.WhoAmIResponse{}, nil},
		{"key create", &granaryv1.CreateApiKeyResponse{}, nil},
		{"key get a", &granaryv1.GetApiKeyResponse{}, nil},
		{"key list", &granaryv1.ListApiKeysResponse{}, func(m proto.Message) int { return len(m.(*granaryv1.ListApiKeysResponse).GetApiKeys()) }},
		{"role grant jane viewer", &granaryv1.SetRoleBindingResponse{}, nil},
		{"role list", &granaryv1.ListRoleBindingsResponse{}, func(m proto.Message) int { return len(m.(*granaryv1.ListRoleBindingsResponse).GetBindings()) }},
		{"workspace create a", &granaryv1.CreateWorkspaceResponse{}, nil},
		{"workspace get a", &granaryv1.GetWorkspaceResponse{}, nil},
		{"workspace update a --display-name b", &granaryv1.UpdateWorkspaceResponse{}, nil},
		{"workspace list", &granaryv1.ListWorkspacesResponse{}, func(m proto.Message) int { return len(m.(*granaryv1.ListWorkspacesResponse).GetWorkspaces()) }},
		{"tenant create acme", &granaryv1.CreateTenantResponse{}, nil},
		{"tenant show acme", &granaryv1.DescribeTenantResponse{}, nil},
		{"tenant list", &granaryv1.ListTenantsResponse{}, func(m proto.Message) int { return len(m.(*granaryv1.ListTenantsResponse).GetTenants()) }},
		{"tenant update acme --tier starter", &granaryv1.UpdateTenantResponse{}, nil},
		{"tenant suspend acme", &granaryv1.SuspendTenantResponse{}, nil},
		{"tenant resume acme", &granaryv1.ResumeTenantResponse{}, nil},
		{"tenant delete acme -y", &granaryv1.DeleteTenantResponse{}, nil},
		{"tenant undelete acme", &granaryv1.UndeleteTenantResponse{}, nil},
	} {
		r := granary(t, url, world{}, append(strings.Fields(c.args), "--json")...)
		wantCode(t, r, ExitOK)
		if err := protojson.Unmarshal([]byte(r.stdout), c.into); err != nil || strings.Count(r.stdout, "\n") != 1 {
			t.Errorf("%s: %v in %q", c.args, err, r.stdout)
		}
		if c.n != nil && c.n(c.into) != 2 {
			t.Errorf("%s: pages are not merged: %s", c.args, r.stdout)
		}
	}
}

// What a command line says reaches the server, and nothing else.
func TestAccessCommandsSendTheirFlags_B1(t *testing.T) {
	overrides := describedTenant(granaryv1.TenantState_TENANT_STATE_ACTIVE).GetLimitOverrides()
	more := proto.CloneOf(overrides)
	more.ApiCallsPerHour = 5
	for _, c := range []struct {
		args string
		want proto.Message
	}{
		{"key create", &granaryv1.CreateApiKeyRequest{Grants: []*granaryv1.AccessGrant{{Role: "viewer"}}}},
		{"key create x --role admin --workspace workspaces/w --kb a,b", &granaryv1.CreateApiKeyRequest{DisplayName: "x", Grants: []*granaryv1.AccessGrant{
			{Role: "admin", Workspace: "w"}, {Role: "admin", KnowledgeBase: "a"}, {Role: "admin", KnowledgeBase: "b"}}}},
		{"role grant jane admin", &granaryv1.SetRoleBindingRequest{Binding: &granaryv1.RoleBinding{Subject: "jane", Grant: &granaryv1.AccessGrant{Role: "admin"}}}},
		{"role revoke jane --workspace w", &granaryv1.RemoveRoleBindingRequest{Subject: "jane", Workspace: "w"}},
		{"workspace update w --display-name n", &granaryv1.UpdateWorkspaceRequest{Workspace: &granaryv1.Workspace{Name: "workspaces/w", DisplayName: "n"}}},
		{"tenant create tenants/acme", &granaryv1.CreateTenantRequest{TenantId: "acme"}},
		{"tenant create acme --limit concurrent-processing=7", &granaryv1.CreateTenantRequest{TenantId: "acme", LimitOverrides: &granaryv1.TenantLimits{ConcurrentProcessing: 7}}},
		{"tenant update acme --display-name n", &granaryv1.UpdateTenantRequest{Name: "acme", DisplayName: proto.String("n")}},
		{"tenant update acme --limit api_calls_per_hour=5", &granaryv1.UpdateTenantRequest{Name: "acme", Etag: "t4", LimitOverrides: more}},
		{"tenant update acme --tier-limits", &granaryv1.UpdateTenantRequest{Name: "acme", Etag: "t4", LimitOverrides: &granaryv1.TenantLimits{}}},
		{"tenant suspend acme --reason r", &granaryv1.SuspendTenantRequest{Name: "acme", Reason: "r"}},
		{"tenant delete acme -y", &granaryv1.DeleteTenantRequest{Name: "acme", UndeleteFor: durationpb.New(30 * day)}},
		{"tenant delete acme -y --undelete-for 0", &granaryv1.DeleteTenantRequest{Name: "acme", UndeleteFor: durationpb.New(0)}},
	} {
		f := &fake{answer: accessScript}
		wantCode(t, granary(t, f.serve(t, false), world{}, strings.Fields(c.args)...), ExitOK)
		sent := f.requests[len(f.requests)-1]
		id := sent.ProtoReflect().Descriptor().Fields().ByName("request_id")
		if creates := strings.Contains(c.args, " create"); id != nil && creates == (sent.ProtoReflect().Get(id).String() == "") {
			t.Errorf("%s: the request id is %q", c.args, sent.ProtoReflect().Get(id))
		}
		if id != nil {
			sent.ProtoReflect().Clear(id)
		}
		if !proto.Equal(sent, c.want) {
			t.Errorf("%s sent %v, want %v", c.args, sent, c.want)
		}
	}
}

func TestAccessUsageErrors_B1(t *testing.T) {
	f := &fake{answer: accessScript}
	url := f.serve(t, false)
	for args, says := range map[string]string{
		"role grant jane":                             "ROLE is missing",
		"role grant jane viewer --kb a --kb b":        "one place at a time",
		"role revoke":                                 "SUBJECT is missing",
		"key create --expires soon":                   "--expires",
		"key revoke":                                  "ID is missing",
		"workspace update w":                          "nothing to change",
		"tenant update acme":                          "nothing to change",
		"tenant update acme --limit documents=1":      "there are concurrent_processing",
		"tenant create acme --limit storage_bytes=-1": "want limit=number",
		"tenant delete acme":                          "say --yes",
		"tenant delete acme -y --undelete-for x":      "--undelete-for",
	} {
		r := granary(t, url, world{}, strings.Fields(args)...)
		wantCode(t, r, ExitUsage)
		wantContains(t, r.stderr, says)
	}
	if len(f.requests) > 0 {
		t.Errorf("the server was asked %v", f.requests)
	}
}

// Standard output has the key alone, so that it can be piped to where it is kept.
func TestANewKeyAloneGoesToStandardOutput_B1(t *testing.T) {
	r := granary(t, (&fake{answer: accessScript}).serve(t, false), world{}, "key", "create", "ci")
	wantCode(t, r, ExitOK)
	if r.stdout != "grnk_acme_jb2xg4tfmzuwk3lp_madeup\n" || strings.Contains(r.stderr, "madeup") {
		t.Errorf("%q, %q", r.stdout, r.stderr)
	}
}

// Commands about any tenant send an operator's token, those about one's own a tenant's.
func TestTenantCommandsSendTheRightToken_B1(t *testing.T) {
	f := &fake{answer: func(req proto.Message) (proto.Message, error) {
		if _, own := req.(*granaryv1.GetTenantRequest); own {
			return script(req)
		}
		return accessScript(req)
	}}
	url := f.serve(t, false)
	for _, args := range []string{"tenant get", "tenant show acme", "tenant list", "whoami"} {
		wantCode(t, granary(t, url, world{}, strings.Fields(args)...), ExitOK)
	}
	if sent := strings.Join(f.headers, ","); sent != "Bearer s3cret-token,Bearer s3cret-operator,Bearer s3cret-operator,Bearer s3cret-operator,Bearer s3cret-token" {
		t.Errorf("sent %q", sent)
	}
	wantContains(t, granary(t, url, world{}, "tenant", "show", "--help").stdout, "GRANARY_OPERATOR_TOKEN")
	wantContains(t, granary(t, url, world{}, "tenant", "get", "--help").stdout, "$GRANARY_TOKEN")
}

func TestAnEndIsATimeADateOrATimeSpan_B1(t *testing.T) {
	now := time.Date(2026, 11, 28, 1, 2, 3, 4, time.UTC)
	for text, want := range map[string]string{
		"": "", "2027-03-01": "2027-03-01T00:00:00Z", "2027-03-01T05:00:00+01:00": "2027-03-01T04:00:00Z", "2d": "2026-11-30T01:02:03Z", "90m": "2026-11-28T02:32:03Z",
	} {
		if got, err := endOf(text, now); err != nil || stamp(got) != want {
			t.Errorf("%q: %s, %v", text, stamp(got), err)
		}
	}
	for _, text := range []string{"x", "-1h", "0d0", "01.02.2027"} {
		if got, err := endOf(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}
