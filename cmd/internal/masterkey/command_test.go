package masterkey

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"granary.dev/granary/storage/sealed"
)

// run runs the command and gives the ids it printed.
func run(t *testing.T, args ...string) ([]string, error) {
	t.Helper()
	cmd := Command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	var ids []string
	for l := range strings.Lines(out.String()) {
		ids = append(ids, strings.Fields(l)[0])
	}
	return ids, err
}

func must(t *testing.T, ids []string, err error) []string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// I2: the file goes through a rotation: a key is added, becomes the first, and the old
// one goes; the file is its owner's only, and no key is shown.
func TestI2_MasterKeysAreRotatedInTheirFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master-key")
	do := func(args ...string) []string {
		ids, err := run(t, args...)
		return must(t, ids, err)
	}
	first := do("new", path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	if _, err := run(t, "new", path); err == nil {
		t.Fatal("a key was written over")
	}
	both := do("add", path)
	if len(first) != 1 || len(both) != 2 || both[0] != first[0] {
		t.Fatalf("%v and %v", first, both)
	}
	if _, err := run(t, "remove", path, first[0]); err == nil {
		t.Fatal("the key in use was removed")
	}
	if _, err := run(t, "first", path, "00000000"); err == nil || !strings.Contains(err.Error(), first[0]) {
		t.Fatalf("an unknown key: %v", err)
	}
	if got := do("first", path, both[1]); !slices.Equal(got, []string{both[1], both[0]}) {
		t.Fatalf("the order is %v", got)
	}
	if got := do("remove", path, first[0]); !slices.Equal(got, both[1:]) || !slices.Equal(do("list", path), both[1:]) {
		t.Fatalf("left are %v", got)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := sealed.FixedMaster(text)
	if err != nil || !slices.Equal(m.IDs(), both[1:]) {
		t.Fatalf("nodes read %v, %v", m.IDs(), err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); err != nil || len(left) > 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}
