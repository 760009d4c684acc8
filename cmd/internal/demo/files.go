package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	maxFile = 1 << 20 // larger files are left out
	minFile = 64      // shorter ones say nothing
)

// file is a document to add.
type file struct {
	name string // where it comes from, without this machine's folders
	path string
	size int64
}

// moduleVersion is the version in a file's name.
var moduleVersion = regexp.MustCompile(`@v[^/]+`)

// subject is a file's name without the version of its module.
func subject(name string) string { return moduleVersion.ReplaceAllString(name, "") }

// corpus collects files up to a limit, none twice.
type corpus struct {
	limit    int
	files    []file
	paths    map[string]bool
	contents map[[sha256.Size]byte]bool
}

// findFiles gives up to limit documents in an order that depends only on what
// is installed: Go's own documentation, the modules the binary was built from,
// READMEs first, then the rest of the module cache, then the package comments of
// the standard library.
func findFiles(ctx context.Context, binary string, limit int) ([]file, error) {
	goroot, cache, err := goFolders(ctx)
	if err != nil {
		return nil, err
	}
	c := &corpus{limit: limit, paths: make(map[string]bool), contents: make(map[[sha256.Size]byte]bool)}
	c.walk(goroot, "go/", isDocumentation)
	modules := builtFrom(binary)
	for _, m := range modules {
		c.add(filepath.Join(cache, filepath.FromSlash(m), "README.md"), m+"/README.md")
	}
	for _, m := range modules {
		c.walk(filepath.Join(cache, filepath.FromSlash(m)), m+"/", isDocumentation)
	}
	c.walk(cache, "", isDocumentation)
	c.walk(filepath.Join(goroot, "src"), "go/src/", func(name string) bool { return name == "doc.go" })
	return c.files, nil
}

// goFolders asks go where it and its modules are.
func goFolders(ctx context.Context) (goroot, cache string, err error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOMODCACHE").Output()
	if err != nil {
		return "", "", fmt.Errorf("go env: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 2 {
		return "", "", fmt.Errorf("go env: unexpected answer %q", out)
	}
	return strings.TrimSpace(lines[0]), strings.TrimSpace(lines[1]), nil
}

// builtFrom lists the modules in a binary as folders of the module cache.
func builtFrom(binary string) []string {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil // stripped: the walk through the whole cache finds them too
	}
	var out []string
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		out = append(out, escape(d.Path)+"@"+escape(d.Version))
	}
	slices.Sort(out)
	return out
}

// escape writes upper case as the module cache does: A is !a.
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isDocumentation(name string) bool {
	lower := strings.ToLower(name)
	switch filepath.Ext(lower) {
	case ".md", ".html", ".htm":
		return true
	case "", ".txt", ".rst", ".vendor":
		return strings.HasPrefix(lower, "readme")
	}
	return false
}

// skipped are folders without documentation for people.
var skipped = []string{"testdata", "node_modules", "vendor", "cache", ".git", ".github"}

// walk adds what is wanted below root, in the order of names. A folder that
// cannot be read is left out.
func (c *corpus) walk(root, prefix string, wanted func(name string) bool) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case len(c.files) >= c.limit:
			return fs.SkipAll
		case err != nil:
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			if path != root && slices.Contains(skipped, d.Name()) {
				return fs.SkipDir
			}
			return nil
		case d.Type().IsRegular() && wanted(d.Name()):
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			c.add(path, prefix+filepath.ToSlash(rel))
		}
		return nil
	})
}

// add takes a file unless it is there already, or too short or long to be of use.
func (c *corpus) add(path, name string) {
	if len(c.files) >= c.limit || c.paths[path] {
		return
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() < minFile || info.Size() > maxFile {
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	c.paths[path] = true
	if sum := sha256.Sum256(data); !c.contents[sum] {
		c.contents[sum] = true
		c.files = append(c.files, file{name: name, path: path, size: int64(len(data))})
	}
}
