package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIssuersOfAConfigurationFile_B1(t *testing.T) {
	read := func(change func(string) string) error {
		path := filepath.Join(t.TempDir(), "c.yaml")
		text := change(`auth:
  issuers:
    - issuer: https://login.example.com
      audiences: [granary]
      algorithms: [RS256, ES256]
      discovery: true
      claims: {tenant: org_id, roles: /realm_access/roles}
      roles: {staff: viewer}
      tenants: [acme]
      subject_prefix: "main:"
      leeway: 45s
    - {issuer: https://ops.example.com, audiences: [ops], algorithms: [EdDSA], jwks_url: https://ops.example.com/keys, operator: true, roles: {sre: operator}}
`)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := ReadFile(path)
		if err == nil {
			_, err = c.Complete()
		}
		return err
	}
	if err := read(strings.Clone); err != nil {
		t.Fatal(err) // without a key file: issuers are enough
	}
	for name, swap := range map[string][2]string{
		"a shared secret": {"RS256, ES256", "HS256"}, "no encryption": {"https://login", "http://login"}, "leeway": {"45s", "61s"},
		"a role that is none": {"staff: viewer", "staff: root"}, "one audience for both": {"[ops]", "[granary]"},
		"a name that is none": {"leeway:", "leaway:"}, "one issuer twice": {"https://ops.example.com,", "https://login.example.com,"},
		"nobody": {"auth:", "fetch: {}\nx-auth:"},
	} {
		if err := read(func(s string) string { return strings.Replace(s, swap[0], swap[1], 1) }); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
