package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vault is a transit engine that keeps what it was given under a number.
func vault(t *testing.T) *httptest.Server {
	t.Helper()
	kept := map[string]map[string]string{}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req map[string]string
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || r.Header.Get("X-Vault-Token") != "the-token" {
			http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden)
			return
		}
		answer := map[string]string{}
		switch r.URL.Path {
		case "/v1/transit/encrypt/granary":
			id := "vault:v1:" + base64.StdEncoding.EncodeToString([]byte{byte(len(kept))})
			kept[id] = req
			answer["ciphertext"] = id
		case "/v1/transit/decrypt/granary":
			was, ok := kept[req["ciphertext"]]
			if !ok || was["associated_data"] != req["associated_data"] {
				http.Error(w, `{"errors":["cipher: message authentication failed"]}`, http.StatusBadRequest)
				return
			}
			answer["plaintext"] = was["plaintext"]
		default:
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": answer})
	}))
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VAULT_CACERT", ca)
	t.Setenv("VAULT_MAX_RETRIES", "0")
	t.Setenv("VAULT_TOKEN", "the-token")
	return s
}

func do(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, strings.NewReader(in), &out)
	return out.String(), err
}

// I2: what Vault wraps it unwraps, bound to what it was bound to, and for nobody
// without a token; no error tells what was to be wrapped.
func TestI2_VaultWrapsAndUnwraps(t *testing.T) {
	uri := "hcvault://" + vault(t).Listener.Addr().String() + "/transit/keys/granary"
	wrapped, err := do(t, "SECRET master key", "wrap", "--uri", uri, "--bind", "b")
	if err != nil || strings.Contains(wrapped, "SECRET") {
		t.Fatal(wrapped, err)
	}
	if got, err := do(t, wrapped, "unwrap", "--uri", uri, "--bind", "b"); err != nil || got != "SECRET master key" {
		t.Fatal(got, err)
	}
	if got, err := do(t, wrapped, "unwrap", "--uri", uri, "--bind", "other"); err == nil {
		t.Fatal("unwrapped for something else: " + got)
	}
	t.Setenv("VAULT_TOKEN", "another")
	if _, err := do(t, "SECRET master key", "wrap", "--uri", uri, "--bind", "b"); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Fatal(err)
	}
}

func TestWrongCallsAreRefused(t *testing.T) {
	for _, args := range [][]string{{}, {"show"}, {"wrap"}, {"wrap", "--uri", "file:///etc/passwd"}, {"wrap", "--nope"},
		{"unwrap", "--uri", "gcp-kms://nothing"}, {"wrap", "--uri", "hcvault://127.0.0.1:1/transit"}} {
		if out, err := do(t, "SECRET", args...); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
}
