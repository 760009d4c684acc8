package kb_test

import (
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The domain knows no actor, store, proto or clock: its files import the
// standard library only, whose paths have no dot in their first element.
func TestTheDomainImportsTheStandardLibraryOnly_C(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		seen++
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			root, _, _ := strings.Cut(path, "/")
			switch {
			case strings.Contains(root, "."), path == "C", path == "unsafe":
				t.Errorf("%s imports %s", f.Name(), path)
			case root == "os", root == "net" && path != "net/url", root == "sync", path == "math/rand", path == "math/rand/v2":
				t.Errorf("%s imports %s: a rule needs no system, lock or chance", f.Name(), path)
			}
		}
	}
	if seen == 0 {
		t.Fatal("no file was read")
	}
}
