//go:build unix

package sealed_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"granary.dev/granary/storage/sealed"
)

// I2: the helper gets what is to be wrapped on its standard input only, and its
// complaint reaches the operator.
func TestI2_HelperSpeaksToTheKeyService(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "kms")
	script := `#!/bin/sh
[ "$2 $3 $4 $5" = "--uri test://key --bind b" ] || { echo "wrong call" >&2; exit 1; }
echo "$@" >> ` + dir + `/calls
case $1 in wrap) exec tr a-z n-za-m;; unwrap) exec tr n-za-m a-z;; esac
`
	check(t, os.WriteFile(program, []byte(script), 0o700))
	kms := sealed.HelperKMS{Program: program, URI: "test://key"}
	wrapped, err := kms.Wrap(t.Context(), sealed.Secret("secret master key"), []byte("b"))
	if err != nil || strings.Contains(string(wrapped), "secret") {
		t.Fatalf("wrapped to %q, %v", wrapped, err)
	}
	plain, err := kms.Unwrap(t.Context(), wrapped, []byte("b"))
	if err != nil || string(plain) != "secret master key" {
		t.Fatalf("unwrapped to %q, %v", string(plain), err)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil || strings.Contains(string(calls), "secret") {
		t.Fatalf("called with %s, %v", calls, err)
	}
	if _, err := kms.Wrap(t.Context(), sealed.Secret("secret"), []byte("c")); err == nil || !strings.Contains(err.Error(), "wrong call") ||
		strings.Contains(err.Error(), "secret") {
		t.Fatalf("a helper that fails: %v", err)
	}
	kms.Program = filepath.Join(dir, "none")
	if _, err := kms.Unwrap(t.Context(), wrapped, []byte("b")); err == nil {
		t.Fatal("a helper that is not there")
	}
}
