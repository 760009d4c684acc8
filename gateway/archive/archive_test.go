package archive_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/gateway/archive"
)

// taken is what a sink was given.
type taken struct {
	Header  archive.Header
	Sources map[string]string
	Docs    []archive.Document
	lazy    bool // reads no source
}

func (s *taken) open(h archive.Header) { s.Header, s.Sources = h, make(map[string]string) }

type sink struct{ *taken }

func (s sink) Header(h archive.Header) error { s.open(h); return nil }

func (s sink) Source(sha string, size int64, r io.Reader) error {
	if s.lazy {
		return nil
	}
	data, err := io.ReadAll(r)
	if err == nil && int64(len(data)) != size {
		return fmt.Errorf("%d bytes of %d", len(data), size)
	}
	s.Sources[sha] = string(data)
	return err
}

func (s sink) Document(d archive.Document) error { s.Docs = append(s.Docs, d); return nil }

var generous = archive.Limits{Documents: 1000, SourceSize: 1 << 20, SourceBytes: 1 << 24}

func read(data []byte, lim archive.Limits) (*taken, archive.Summary, error) {
	t := &taken{}
	sum, err := archive.Read(bytes.NewReader(data), lim, sink{t})
	return t, sum, err
}

func sha(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

var at = time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)

// sample writes an archive of n documents over two pages.
func sample(t testing.TB, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, archive.Header{Created: at, Revision: 7, KnowledgeBase: archive.KnowledgeBase{ID: "notes", DisplayName: "Notes"}})
	if err != nil {
		t.Fatal(err)
	}
	var page []archive.Document
	for i := range n {
		text := fmt.Sprintf("text %d", i)
		if err := w.Source(sha(text), int64(len(text)), strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		page = append(page, archive.Document{ID: fmt.Sprintf("d%d", i), SHA256: sha(text), Size: int64(len(text)), Metadata: map[string]string{"k": "v"}, ExpireTime: at})
		if len(page) == 2 || i == n-1 {
			if err := w.Documents(page); err != nil {
				t.Fatal(err)
			}
			page = nil
		}
	}
	if err := w.Close(0); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// I3: what is written is read.
func TestRoundTrip_I3(t *testing.T) {
	got, sum, err := read(sample(t, 3), generous)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Docs) != 3 || len(got.Sources) != 3 || sum.Documents != 3 || sum.SourceBytes != 18 || got.Header.KnowledgeBase.ID != "notes" || len(sum.Hash) != 64 {
		t.Errorf("read %+v, %+v", got, sum)
	}
	if d := got.Docs[2]; d.ID != "d2" || got.Sources[d.SHA256] != "text 2" || !reflect.DeepEqual(d.Metadata, map[string]string{"k": "v"}) || !d.ExpireTime.Equal(at) {
		t.Errorf("document %+v", d)
	}
	empty, _, err := read(sample(t, 0), generous)
	if err != nil || len(empty.Docs) != 0 {
		t.Errorf("an empty one: %+v, %v", empty, err)
	}
}

// entry is a tar entry of a hostile archive.
type entry struct {
	tar.Header
	data string
}

// entries takes an archive apart.
func entries(t testing.TB, data []byte) []entry {
	t.Helper()
	var out []entry
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, entry{*h, string(b)})
	}
}

// pack writes entries as they are; sizes follow the data of plain files.
func pack(t testing.TB, list []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range list {
		h := e.Header
		h.Format = tar.FormatUnknown
		if h.Size = int64(len(e.data)); h.Typeflag != tar.TypeReg {
			h.Size = 0
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, e.data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// I3: a hostile archive is refused, whatever is wrong with it.
func TestHostileArchivesAreRefused_I3(t *testing.T) {
	good := sample(t, 3)
	if _, _, err := read(pack(t, entries(t, good)), generous); err != nil {
		t.Fatalf("the good one, packed anew: %v", err)
	}
	edit := func(f func([]entry) []entry) []byte { return pack(t, f(entries(t, good))) }
	rename := func(i int, name string) []byte {
		return edit(func(e []entry) []entry { e[i].Name = name; return e })
	}
	typed := func(typ byte, link string) []byte {
		return edit(func(e []entry) []entry { e[1].Typeflag, e[1].Linkname = typ, link; return e })
	}
	text := func(i int, from, to string) []byte {
		return edit(func(e []entry) []entry { e[i].data = strings.Replace(e[i].data, from, to, 1); return e })
	}
	last := len(entries(t, good)) - 1
	for name, data := range map[string][]byte{
		"nothing":                  nil,
		"no tar":                   []byte(strings.Repeat("granary ", 500)),
		"path out of it":           rename(1, "../../etc/passwd"),
		"absolute path":            rename(1, "/sources/"+sha("text 0")),
		"path with dots":           rename(1, "sources/../sources/"+sha("text 0")),
		"unknown name":             rename(1, "notes.txt"),
		"hash in capitals":         rename(1, "sources/"+strings.ToUpper(sha("text 0"))),
		"wrong hash in the name":   rename(1, "sources/"+sha("other")),
		"page out of order":        rename(3, "documents/000009.jsonl"),
		"symbolic link":            typed(tar.TypeSymlink, "/etc/passwd"),
		"hard link":                typed(tar.TypeLink, "granary.json"),
		"folder":                   typed(tar.TypeDir, ""),
		"device":                   typed(tar.TypeChar, ""),
		"fifo":                     typed(tar.TypeFifo, ""),
		"other bytes of a source":  text(1, "text 0", "text 9"),
		"source longer":            text(1, "text 0", "text 00"),
		"another document":         text(3, `"id":"d0"`, `"id":"dX"`),
		"document twice":           text(3, `"id":"d1"`, `"id":"d0"`),
		"document without source":  text(3, sha("text 0"), sha("nothing")),
		"document without id":      text(3, `"id":"d0"`, `"id":""`),
		"other size":               text(3, `"size":6`, `"size":7`),
		"huge number":              text(3, `"size":6`, `"size":99999999999999999999999999`),
		"negative size":            text(3, `"size":6`, `"size":-6`),
		"no JSON":                  text(3, "{", "["),
		"other version":            text(0, `"version": 1`, `"version": 2`),
		"other format":             text(0, "granary-archive", "zip"),
		"header changed":           text(0, `"Notes"`, `"Other"`),
		"manifest counts":          text(last, `"documents": 3`, `"documents": 2`),
		"manifest of huge numbers": text(last, `"documents": 3`, `"documents": 9223372036854775808`),
		"manifest of sources":      text(last, `"source_names_sha256": "`, `"source_names_sha256": "0`),
		"no manifest":              edit(func(e []entry) []entry { return e[:last] }),
		"no header":                edit(func(e []entry) []entry { return e[1:] }),
		"header twice":             edit(func(e []entry) []entry { return append([]entry{e[0]}, e...) }),
		"source twice":             edit(func(e []entry) []entry { return append(e[:2:2], e[1:]...) }),
		"source after its page":    edit(func(e []entry) []entry { e[2], e[3] = e[3], e[2]; return e }),
		"source left out":          edit(func(e []entry) []entry { return append(e[:1:1], e[2:]...) }),
		"page left out":            edit(func(e []entry) []entry { return append(e[:3:3], e[4:]...) }),
		"more behind the manifest": edit(func(e []entry) []entry { return append(e, e[1]) }),
		"bytes behind the end":     append(bytes.Clone(good), "more"...),
	} {
		if _, _, err := read(data, generous); !errors.Is(err, archive.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range good {
		if n%97 == 0 && n < len(good)-1536 {
			if _, _, err := read(good[:n], generous); !errors.Is(err, archive.ErrInvalid) {
				t.Fatalf("cut off at %d: %v", n, err)
			}
		}
	}
	for name, lim := range map[string]archive.Limits{
		"documents": {Documents: 2, SourceSize: 1 << 20, SourceBytes: 1 << 20}, "one source": {Documents: 9, SourceSize: 5, SourceBytes: 1 << 20},
		"all sources": {Documents: 9, SourceSize: 6, SourceBytes: 17},
	} {
		if _, _, err := read(good, lim); !errors.Is(err, archive.ErrInvalid) {
			t.Errorf("more than may be of %s: %v", name, err)
		}
	}
	if _, err := archive.Read(bytes.NewReader(good), generous, sink{&taken{lazy: true}}); !errors.Is(err, archive.ErrInvalid) {
		t.Errorf("a source that is not read is taken for good: %v", err)
	}
}

// I3: errors of the way and of the sink are not blamed on the archive.
func TestOthersErrorsStayTheirs_I3(t *testing.T) {
	lost := errors.New("the connection is lost")
	r := io.MultiReader(bytes.NewReader(sample(t, 3)[:2000]), failing{lost})
	if _, err := archive.Read(r, generous, sink{&taken{}}); !errors.Is(err, lost) || errors.Is(err, archive.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func FuzzArchive(f *testing.F) {
	f.Add(sample(f, 3))
	f.Add(sample(f, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, sum, err := read(data, archive.Limits{Documents: 50, SourceSize: 1 << 16, SourceBytes: 1 << 18})
		if err != nil {
			return
		}
		// What is taken is whole: each document has its source, and the numbers agree.
		if int64(len(got.Docs)) != sum.Documents || int64(len(got.Sources)) != sum.Sources {
			t.Fatalf("%d documents and %d sources, %+v", len(got.Docs), len(got.Sources), sum)
		}
		for _, d := range got.Docs {
			if text, ok := got.Sources[d.SHA256]; d.SHA256 != "" && (!ok || sha(text) != d.SHA256) {
				t.Fatalf("document %s without its source", d.ID)
			}
		}
	})
}
