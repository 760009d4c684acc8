package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// source is one thing to add.
type source struct {
	name string // shown to people; a path with slashes, or a URL
	id   string // document id, "" to leave it to the server
	file string // path of a file
	url  string
	data []byte // standard input, read before
	err  error  // why it cannot be added
}

// sourceSet is what the arguments of doc add stand for.
type sourceSet struct {
	list        []source
	hidden      int // files of folders left out because their name, or a folder's, starts with a dot
	unsupported int // files of folders left out for their extension, links and devices
	seen        map[string]string
}

// expand turns arguments into sources: files, folders, globs, URLs and "-".
// An argument that cannot be read becomes a source with an error, so that it
// does not stop the others.
func expand(args []string, stdin func() ([]byte, error), recursive bool) *sourceSet {
	set := &sourceSet{seen: map[string]string{}}
	for _, arg := range args {
		switch {
		case arg == "-":
			data, err := stdin()
			set.list = append(set.list, source{name: "stdin", data: data, err: err})
		case strings.HasPrefix(arg, "http://"), strings.HasPrefix(arg, "https://"):
			set.addURL(arg)
		default:
			set.addPath(arg, recursive)
		}
	}
	return set
}

func (set *sourceSet) add(s source) {
	if first, taken := set.seen[s.id]; taken && s.err == nil {
		s.err = fmt.Errorf("it would replace %s of the same name; add the folder above both, or give --id", first)
	} else if s.err == nil {
		set.seen[s.id] = firstOf(s.file, s.url)
	}
	set.list = append(set.list, s)
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func (set *sourceSet) addURL(raw string) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		set.list = append(set.list, source{name: raw, err: fmt.Errorf("this is no URL")})
		return
	}
	name := u.Redacted() // a password stays out of names and ids
	set.add(source{name: name, id: stableID(name), url: raw})
}

// addPath adds a file, a folder or, if there is no such file, what a glob matches.
func (set *sourceSet) addPath(arg string, recursive bool) {
	info, err := os.Stat(arg)
	if err != nil && strings.ContainsAny(arg, "*?[") {
		set.addGlob(arg, recursive)
		return
	}
	switch {
	case err != nil:
		set.list = append(set.list, source{name: filepath.ToSlash(arg), err: err})
	case info.IsDir():
		set.addFolder(arg, recursive)
	default:
		// What is named on the command line is added whatever it looks like.
		set.addFile(arg, displayPath(arg))
	}
}

func (set *sourceSet) addGlob(pattern string, recursive bool) {
	matches, err := filepath.Glob(pattern)
	if err == nil && len(matches) == 0 {
		err = fmt.Errorf("nothing matches")
	}
	if err != nil {
		set.list = append(set.list, source{name: filepath.ToSlash(pattern), err: err})
		return
	}
	for _, match := range matches {
		// As in a shell, * does not match a leading dot.
		if isHidden(filepath.Base(match)) && !isHidden(filepath.Base(pattern)) {
			set.hidden++
			continue
		}
		set.addPath(match, recursive)
	}
}

// addFolder adds the files of a folder. Symbolic links inside are left out: a
// folder from somebody else could point them at anything.
func (set *sourceSet) addFolder(root string, recursive bool) {
	if real, err := filepath.EvalSymlinks(root); err == nil {
		root = real
	}
	// The callback fails never: what cannot be read becomes a source with an error.
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(root, path)
		if relErr != nil {
			rel = path
		}
		name := filepath.ToSlash(rel)
		if err != nil {
			set.list = append(set.list, source{name: name, err: err})
			return nil
		}
		if path == root {
			return nil
		}
		if entry.IsDir() {
			if !recursive || isHidden(entry.Name()) || entry.Name() == "node_modules" {
				return fs.SkipDir
			}
			return nil
		}
		switch {
		case isHidden(entry.Name()):
			set.hidden++
		case !entry.Type().IsRegular(), isUnsupported(entry.Name()):
			set.unsupported++
		default:
			set.addFile(path, name)
		}
		return nil
	})
}

func (set *sourceSet) addFile(path, name string) {
	set.add(source{name: name, id: stableID(name), file: path})
}

// displayPath is how a file given by itself is called: its path below the
// working directory, or without what leads out of it.
func displayPath(arg string) string {
	path := filepath.Clean(arg)
	if filepath.IsAbs(path) {
		if wd, err := os.Getwd(); err == nil {
			if rel, err := filepath.Rel(wd, path); err == nil && filepath.IsLocal(rel) {
				path = rel
			}
		}
		path = path[len(filepath.VolumeName(path)):]
	}
	name := filepath.ToSlash(path)
	for strings.HasPrefix(name, "../") {
		name = name[len("../"):]
	}
	return strings.TrimLeft(name, "/")
}

func isHidden(name string) bool { return strings.HasPrefix(name, ".") }

// maxSlug bounds the readable part of a derived document id.
const maxSlug = 80

// stableID derives a document id from a name: the same name is the same
// document for ever, so that a changed file becomes its next version. The hash
// keeps names apart whose readable parts agree.
func stableID(name string) string {
	sum := sha256.Sum256([]byte(name))
	readable := name
	if _, rest, ok := strings.Cut(name, "://"); ok {
		readable = rest
	}
	var b strings.Builder
	gap := false
	for _, r := range readable {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_':
			b.WriteRune(r)
			gap = false
		case !gap:
			b.WriteByte('-')
			gap = true
		}
	}
	slug := b.String()
	if len(slug) > maxSlug {
		slug = slug[len(slug)-maxSlug:] // the end of a path says more than its start
	}
	if slug = strings.Trim(slug, "-._"); slug == "" {
		slug = "doc"
	}
	return slug + "-" + hex.EncodeToString(sum[:4])
}

// isUnsupported reports whether files of this extension hold no text that
// Granary can read. Anything else is left to the server, which looks inside.
func isUnsupported(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".ico", ".tif", ".tiff", ".webp", ".heic", ".avif", ".psd", ".ai", ".eps", ".raw",
		".mp3", ".wav", ".flac", ".ogg", ".m4a", ".aac", ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv",
		".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".jar", ".war", ".whl", ".deb", ".rpm", ".apk",
		".dmg", ".iso", ".img", ".cab", ".msi",
		".exe", ".dll", ".so", ".dylib", ".a", ".o", ".obj", ".lib", ".class", ".pyc", ".pyo", ".wasm", ".bin", ".dat",
		".ttf", ".otf", ".woff", ".woff2", ".eot",
		".db", ".sqlite", ".sqlite3", ".mdb", ".parquet", ".arrow", ".npy", ".npz", ".pkl", ".pt", ".onnx", ".safetensors", ".gguf",
		".doc", ".xls", ".ppt", ".odt", ".ods", ".odp", ".pages", ".numbers", ".key", ".one", ".vsd",
		".p12", ".pfx", ".jks", ".der":
		return true
	}
	return false
}
