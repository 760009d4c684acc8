package node_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/storage/sealed"
)

// tryStart starts a node that may refuse, and gives its reason.
func tryStart(t *testing.T, cfg node.Config) error {
	t.Helper()
	c, err := cfg.Complete()
	if err != nil {
		return err
	}
	n, err := node.Start(t.Context(), c, t.Output())
	if err != nil {
		return err
	}
	return n.Stop(t.Context())
}

// inFiles lists the files below dir that hold one of these texts, in plain, hex or base64.
func inFiles(t *testing.T, dir string, texts ...string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, text := range texts {
			for _, form := range []string{text, hex.EncodeToString([]byte(text)), base64.RawStdEncoding.EncodeToString([]byte(text[:len(text)/3*3]))} {
				if bytes.Contains(data, []byte(form)) {
					found = append(found, filepath.Base(path)+": "+text)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// I2: a node that is alone makes its master key, says so, and keeps nothing of its
// tenants in plain; without the key, or with another, it does not start.
func TestI2_NodeKeepsNothingInPlainAndNeedsItsMasterKey(t *testing.T) {
	s := nodetest.Start(t)
	if !s.Logged("master key was made", "Back it up") {
		t.Error("nobody was told of the master key")
	}
	key := filepath.Join(s.Data, "master-key")
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("master key: %v, %v", info, err)
	}
	s.CreateKB(t, "handbook")
	const secret = "Zanzibarquokka"
	long := strings.Repeat("The "+secret+" signs in the seventh month. ", 40_000) // through a file of the parser
	for name, text := range map[string]string{secret + "-name.md": "# " + secret + " heading\n\nThe " + secret + " rotates keys.", "long.txt": long} {
		if d := s.Settle(t, s.AddText(t, "handbook", name, text).GetName()); d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY {
			t.Fatalf("%s: %v", name, d)
		}
	}
	if r := search(t, s, "handbook", secret); len(r.GetHits()) == 0 {
		t.Fatal("nothing is found")
	}
	s.Restart()
	if r := search(t, s, "handbook", secret+" month"); len(r.GetHits()) == 0 {
		t.Fatal("nothing is found after a restart")
	}
	s.Stop()
	if found := inFiles(t, s.Data, secret, strings.ToLower(secret)); len(found) > 0 {
		t.Errorf("in plain: %v", found)
	}

	cfg := node.Config{Dev: true, Data: s.Data, Listen: "127.0.0.1:0"}
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	other, err := sealed.NewMasterKey()
	if err != nil {
		t.Fatal(err)
	}
	for what, put := range map[string]func() error{
		"no key":       func() error { return os.Remove(key) },
		"another key":  func() error { return os.WriteFile(key, other, 0o600) },
		"no key in it": func() error { return os.WriteFile(key, nil, 0o600) },
	} {
		if err := put(); err != nil {
			t.Fatal(err)
		}
		if err := tryStart(t, cfg); !errors.Is(err, sealed.ErrMasterKey) {
			t.Errorf("%s: %v", what, err)
		}
		if what == "no key" {
			if _, err := os.Stat(key); !errors.Is(err, fs.ErrNotExist) {
				t.Error("a new key was made over old data")
			}
		}
	}
	if err := os.WriteFile(key, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tryStart(t, cfg); err != nil {
		t.Errorf("with its own key again: %v", err)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GRANARY_MASTER_KEY", string(text))
	if err := tryStart(t, cfg); err != nil {
		t.Errorf("with the key in the environment: %v", err)
	}
}

// I2: nodes that share a database are not started without a master key, and only with
// one kind of it.
func TestI2_SharedNodesNeedAMasterKey(t *testing.T) {
	shared := node.Config{Node: "n1", Store: "postgres://granary@127.0.0.1/granary", Auth: node.AuthConfig{KeyFile: "k"}}
	if _, err := shared.Complete(); !errors.Is(err, node.ErrConfig) || !strings.Contains(err.Error(), "granary master-key new") {
		t.Errorf("without a key: %v", err)
	}
	shared.Encryption.MasterKeyFile = "/etc/granary/master-key"
	if _, err := shared.Complete(); err != nil {
		t.Errorf("with a file: %v", err)
	}
	shared.Encryption.KMSURI = "hcvault://vault/transit/keys/granary"
	if _, err := shared.Complete(); !errors.Is(err, node.ErrConfig) {
		t.Errorf("with a file and a key service: %v", err)
	}
}

// I2, A7: an operator rotates both kinds of keys of a node that is alone.
func TestI2_OperatorRotatesKeys(t *testing.T) {
	s := nodetest.Start(t)
	s.CreateKB(t, "handbook")
	s.Settle(t, s.AddText(t, "handbook", "a.md", "The quokka rotates keys.").GetName())
	list, err := s.Operator.Keys.ListKeys(t.Context(), &granaryv1.ListKeysRequest{})
	if err != nil || len(list.GetKeys()) != 2 || list.GetKeys()[0].GetTenant() != "" || list.GetKeys()[1].GetTenant() != "tenants/dev" {
		t.Fatalf("keys: %v, %v", list, err)
	}
	r, err := s.Operator.Keys.RotateKey(t.Context(), &granaryv1.RotateKeyRequest{Tenant: "tenants/dev"})
	if err != nil || r.GetKeys().GetVersion() != 2 || r.GetKeys().GetKeyId() == list.GetKeys()[1].GetKeyId() {
		t.Fatalf("rotated to %v, %v", r, err)
	}
	if _, err := s.Operator.Keys.RotateKey(t.Context(), &granaryv1.RotateKeyRequest{Tenant: "nobody"}); reason(t, err) != "KEYS_NOT_FOUND" {
		t.Errorf("an unknown tenant: %v", err)
	}
	again, err := s.Operator.Keys.ReencryptTenant(t.Context(), &granaryv1.ReencryptTenantRequest{Tenant: "dev"})
	if err != nil || again.GetSealedCount() < 10 || again.GetBrokenCount() != 0 || again.GetComplete() || again.GetDestroyedCount() != 0 ||
		again.GetNotBefore().AsTime().Sub(r.GetKeys().GetRotateTime().AsTime().Add(10*time.Minute)).Abs() > time.Millisecond {
		t.Fatalf("re-encrypted right after the rotation: %v, %v", again, err)
	}
	for request, want := range map[*granaryv1.ReencryptTenantRequest]string{{Tenant: "nobody"}: "KEYS_NOT_FOUND", {Tenant: "dev", PageToken: "x"}: "PAGE_TOKEN_INVALID",
		{Tenant: "dev", PageToken: base64.RawURLEncoding.EncodeToString([]byte("reencryption\x00x"))}: "PAGE_TOKEN_INVALID"} {
		if _, err := s.Operator.Keys.ReencryptTenant(t.Context(), request); reason(t, err) != want {
			t.Errorf("%v: %v, want %s", request, err, want)
		}
	}
	path := filepath.Join(s.Data, "master-key")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := sealed.NewMasterKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(bytes.Clone(fresh), old...), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := s.Operator.Keys.RotateMasterKey(t.Context(), &granaryv1.RotateMasterKeyRequest{})
	if err != nil || !m.GetComplete() || m.GetWrappedCount() != 2 || m.GetMasterKeyId() == list.GetKeys()[0].GetMasterKeyId() {
		t.Fatalf("rotated the master key: %v, %v", m, err)
	}
	if err := os.WriteFile(path, fresh, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	if r := search(t, s, "handbook", "quokka"); len(r.GetHits()) == 0 {
		t.Fatal("nothing is found after rotations")
	}
	for _, secret := range [][]byte{old, fresh} {
		if s.Logged(strings.TrimSpace(string(secret))) {
			t.Error("a master key is in the log")
		}
	}
}

// I2: a tenant that is deleted for good loses its keys; one of the same name gets others
// and sees nothing of it.
func TestI2_DeletedTenantLosesItsKeys(t *testing.T) {
	s := nodetest.Start(t)
	s.CreateKB(t, "handbook")
	s.Settle(t, s.AddText(t, "handbook", "a.md", "The quokka rotates keys.").GetName())
	of := func() *granaryv1.TenantKeys {
		t.Helper()
		list, err := s.Operator.Keys.ListKeys(t.Context(), &granaryv1.ListKeysRequest{})
		if err != nil || len(list.GetKeys()) != 2 {
			t.Fatalf("keys: %v, %v", list, err)
		}
		return list.GetKeys()[1]
	}
	before := of()
	if _, err := s.Operator.Admin.DeleteTenant(t.Context(), &granaryv1.DeleteTenantRequest{Name: "tenants/dev", UndeleteFor: durationpb.New(0)}); err != nil {
		t.Fatal(err)
	}
	for !of().GetDestroyed() { // the purge works beside the call
		if t.Context().Err() != nil {
			t.Fatal("the keys are still there")
		}
		time.Sleep(20 * time.Millisecond)
	}
	for !s.Logged("tenant erased") { // the name becomes free after that
		if t.Context().Err() != nil {
			t.Fatal("the tenant is not erased")
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.Restart() // gateways remember for a while that the tenant was deleted
	s.CreateKB(t, "handbook")
	if after := of(); after.GetDestroyed() || after.GetKeyId() == before.GetKeyId() || after.GetVersion() <= before.GetVersion() {
		t.Errorf("keys were %v and are %v", before, after)
	}
	if r := search(t, s, "handbook", "quokka"); len(r.GetHits()) != 0 {
		t.Errorf("the next tenant finds %v", r.GetHits())
	}
}
