package archive_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/gateway/archive"
)

// takenTenant is what the sink of a tenant's archive was given.
type takenTenant struct {
	header     archive.TenantHeader
	access     archive.Access
	parts      map[string]*taken
	whole      []string
	refusePart error
}

func (s *takenTenant) Tenant(h archive.TenantHeader) error { s.header = h; return nil }

func (s *takenTenant) Workspace(w archive.Workspace) error {
	s.access.Workspaces = append(s.access.Workspaces, w)
	return nil
}

func (s *takenTenant) Binding(b archive.Binding) error {
	s.access.Bindings = append(s.access.Bindings, b)
	return nil
}

func (s *takenTenant) Key(k archive.Key) error { s.access.Keys = append(s.access.Keys, k); return nil }

func (s *takenTenant) KnowledgeBase(id string) (archive.Sink, error) {
	if s.parts == nil {
		s.parts = make(map[string]*taken)
	}
	s.parts[id] = &taken{}
	return sink{s.parts[id]}, s.refusePart
}

func (s *takenTenant) Part(id string, _ archive.Summary) error {
	s.whole = append(s.whole, id)
	return nil
}

var generousTenant = archive.TenantLimits{KnowledgeBases: 10, Workspaces: 10, Bindings: 10, Keys: 10, Part: generous}

func readTenant(data []byte, lim archive.TenantLimits) (*takenTenant, archive.Summary, error) {
	t := &takenTenant{}
	sum, err := archive.ReadTenant(bytes.NewReader(data), lim, t)
	return t, sum, err
}

var sampleAccess = archive.Access{
	Workspaces: []archive.Workspace{{ID: "default"}, {ID: "legal", DisplayName: "Legal", CreateTime: at}},
	Bindings: []archive.Binding{{Subject: "ada", Grant: archive.Grant{Role: "admin"}}, {Subject: "ada", Grant: archive.Grant{Role: "viewer", Workspace: "legal"}},
		{Subject: "bob", Grant: archive.Grant{Role: "editor", KnowledgeBase: "notes"}}},
	Keys: []archive.Key{{ID: "k1", DisplayName: "ci", Grants: []archive.Grant{{Role: "viewer", Workspace: "gone"}}, CreateTime: at, CreatedBy: "ada", ExpireTime: at.Add(time.Hour)}},
}

// sampleTenant writes an archive of a tenant with these knowledge bases of two documents each.
func sampleTenant(t testing.TB, a archive.Access, ids ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewTenantWriter(&b, at, json.RawMessage(`{"name":"tenants/acme"}`), a)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		part, err := w.KnowledgeBase(archive.Header{Created: at, Revision: 3, KnowledgeBase: archive.KnowledgeBase{ID: id, Workspace: "legal"}})
		if err != nil {
			t.Fatal(err)
		}
		var page []archive.Document
		for i := range 2 {
			text := fmt.Sprintf("text %d of %s", i, id)
			if err := part.Source(sha(text), int64(len(text)), strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
			page = append(page, archive.Document{ID: fmt.Sprintf("d%d", i), SHA256: sha(text), Size: int64(len(text))})
		}
		if err := errors.Join(part.Documents(page), w.End(part, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// I3: what is written of a tenant is read, field by field.
func TestTenantRoundTrip_I3(t *testing.T) {
	got, sum, err := readTenant(sampleTenant(t, sampleAccess, "letters", "notes"), generousTenant)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.access, sampleAccess) || len(got.whole) != 2 || sum.Documents != 4 || sum.Erased != 2 || len(sum.Hash) != 64 {
		t.Errorf("read %+v, %+v", got, sum)
	}
	var tenant map[string]string
	if err := json.Unmarshal(got.header.Tenant, &tenant); err != nil || tenant["name"] != "tenants/acme" || !got.header.Created.Equal(at) {
		t.Errorf("header %+v", got.header)
	}
	if p := got.parts["notes"]; len(p.Docs) != 2 || p.Sources[p.Docs[1].SHA256] != "text 1 of notes" || p.Header.KnowledgeBase.Workspace != "legal" {
		t.Errorf("part %+v", p)
	}
	empty, _, err := readTenant(sampleTenant(t, archive.Access{}), generousTenant)
	if err != nil || len(empty.parts) != 0 {
		t.Errorf("an empty one: %v", err)
	}
}

// oldTenant makes of an archive one of version 1: without what came later.
func oldTenant(t testing.TB, data []byte) []byte {
	t.Helper()
	list := entries(t, data)
	list[0].data = `{"tenant":{"name":"tenants/acme"}}`
	var m archive.Manifest
	last := &list[len(list)-1]
	if err := json.Unmarshal([]byte(last.data), &m); err != nil {
		t.Fatal(err)
	}
	m.Version = 1
	m.Entries[0].Size, m.Entries[0].SHA256 = int64(len(list[0].data)), sha(list[0].data)
	m.Entries = append(m.Entries[:1:1], m.Entries[4:]...)
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	last.data = string(text)
	return pack(t, append(list[:1:1], list[4:]...))
}

// I3: archives of the version before are read.
func TestOldTenantArchivesAreRead_I3(t *testing.T) {
	got, _, err := readTenant(oldTenant(t, sampleTenant(t, sampleAccess, "notes")), generousTenant)
	if err != nil || len(got.parts) != 1 || len(got.access.Workspaces)+len(got.access.Bindings)+len(got.access.Keys) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// resealed changes an entry and lets the manifest agree with it: only what the entry
// says is wrong then.
func resealed(t testing.TB, data []byte, name, from, to string) []byte {
	t.Helper()
	list := entries(t, data)
	last := &list[len(list)-1]
	for i := range list {
		if list[i].Name == name {
			before := list[i].data
			list[i].data = strings.Replace(before, from, to, 1)
			if list[i].data == before {
				t.Fatalf("%s has no %q", name, from)
			}
			last.data = strings.Replace(last.data, sha(before), sha(list[i].data), 1)
			last.data = strings.Replace(last.data, fmt.Sprintf("%q,\n      \"size\": %d", name, len(before)), fmt.Sprintf("%q,\n      \"size\": %d", name, len(list[i].data)), 1)
		}
	}
	return pack(t, list)
}

// hostileTenants are archives of tenants that must be refused, by what is wrong.
func hostileTenants(t testing.TB) map[string][]byte {
	good := sampleTenant(t, sampleAccess, "letters", "notes")
	edit := func(f func([]entry) []entry) []byte { return pack(t, f(entries(t, good))) }
	rename := func(i int, name string) []byte {
		return edit(func(e []entry) []entry { e[i].Name = name; return e })
	}
	const workspaces, bindings, keys = "workspaces.jsonl", "role_bindings.jsonl", "api_keys.jsonl"
	last, part := len(entries(t, good))-1, 4 // letters begins
	out := map[string][]byte{
		"nothing": nil, "no tar": bytes.Repeat([]byte("granary "), 500), "a knowledge base's": sample(t, 2),
		"a later version":               resealed(t, good, "tenant.json", `"version": 2`, `"version": 3`),
		"another format":                resealed(t, good, "tenant.json", `granary-archive`, `zip`),
		"no tenant":                     resealed(t, good, "tenant.json", `"tenant"`, `"other"`),
		"no JSON of a tenant":           resealed(t, good, "tenant.json", `{`, `[`),
		"no JSON of a role":             resealed(t, good, bindings, `{`, `[`),
		"a line that is cut off":        resealed(t, good, keys, "\n", ""),
		"an empty line":                 resealed(t, good, keys, "\n", "\n\n"),
		"an unknown role":               resealed(t, good, bindings, `"admin"`, `"owner"`),
		"an operator's role":            resealed(t, good, bindings, `"admin"`, `"operator"`),
		"no role":                       resealed(t, good, bindings, `"admin"`, `""`),
		"nobody's role":                 resealed(t, good, bindings, `"bob"`, `""`),
		"a long subject":                resealed(t, good, bindings, `"bob"`, `"`+strings.Repeat("b", 257)+`"`),
		"a role twice":                  resealed(t, good, bindings, `"role":"viewer","workspace":"legal"`, `"role":"viewer"`),
		"a role in no workspace of it":  resealed(t, good, bindings, `"legal"`, `"sales"`),
		"a role in a path":              resealed(t, good, bindings, `"notes"`, `"../notes"`),
		"a workspace twice":             resealed(t, good, workspaces, `"default"`, `"legal"`),
		"a workspace of a hostile name": resealed(t, good, workspaces, `"legal"`, `"../legal"`),
		"a workspace of a long name":    resealed(t, good, workspaces, `"legal"`, `"`+strings.Repeat("l", 64)+`"`),
		"a huge display name":           resealed(t, good, workspaces, `"Legal"`, `"`+strings.Repeat("L", 801)+`"`),
		"a key without an id":           resealed(t, good, keys, `"k1"`, `""`),
		"roles changed":                 edit(func(e []entry) []entry { e[2].data = strings.Replace(e[2].data, `"viewer"`, `"editor"`, 1); return e }),
		"roles left out":                edit(func(e []entry) []entry { return append(e[:2:2], e[3:]...) }),
		"roles before workspaces":       edit(func(e []entry) []entry { e[1], e[2] = e[2], e[1]; return e }),
		"roles twice":                   edit(func(e []entry) []entry { return append(e[:3:3], e[2:]...) }),
		"roles behind knowledge bases":  edit(func(e []entry) []entry { return append(e[:last:last], e[2], e[last]) }),
		"no manifest":                   edit(func(e []entry) []entry { return e[:last] }),
		"a part without its manifest":   edit(func(e []entry) []entry { return append(e[:part+4:part+4], e[part+5:]...) }),
		"a part left out":               edit(func(e []entry) []entry { return append(e[:part:part], e[part+5:]...) }),
		"a part twice":                  edit(func(e []entry) []entry { return append(e[:part+5:part+5], e[part:]...) }),
		"another part's folder":         rename(part, "knowledge_bases/other/granary.json"),
		"a part outside":                rename(part, "../letters/granary.json"),
		"a part without an id":          rename(part, "knowledge_bases//granary.json"),
		"a part of a hostile name":      rename(part, "knowledge_bases/.hidden/granary.json"),
		"more behind the manifest":      edit(func(e []entry) []entry { return append(e, e[1]) }),
		"bytes behind the end":          append(bytes.Clone(good), "more"...),
		"roles that are a link": edit(func(e []entry) []entry {
			e[2].Typeflag, e[2].Linkname = tar.TypeSymlink, "/etc/passwd"
			return e
		}),
		"the manifest's sums": edit(func(e []entry) []entry {
			e[last].data = strings.Replace(e[last].data, `"documents": 4`, `"documents": 5`, 1)
			return e
		}),
		"an old one with roles": edit(func(e []entry) []entry { e[0].data = `{"tenant":{}}`; return e }),
	}
	for n := 0; n < len(good)-1536; n += 977 {
		out[fmt.Sprintf("cut off at %d", n)] = good[:n]
	}
	return out
}

// I3: a hostile archive of a tenant is refused, whatever is wrong with it.
func TestHostileTenantArchivesAreRefused_I3(t *testing.T) {
	good := sampleTenant(t, sampleAccess, "letters", "notes")
	if _, _, err := readTenant(pack(t, entries(t, good)), generousTenant); err != nil {
		t.Fatalf("the good one, packed anew: %v", err)
	}
	for name, data := range hostileTenants(t) {
		if _, _, err := readTenant(data, generousTenant); !errors.Is(err, archive.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, lower := range map[string]func(*archive.TenantLimits){
		"knowledge bases": func(l *archive.TenantLimits) { l.KnowledgeBases = 1 }, "workspaces": func(l *archive.TenantLimits) { l.Workspaces = 1 },
		"roles": func(l *archive.TenantLimits) { l.Bindings = 2 }, "keys": func(l *archive.TenantLimits) { l.Keys = 0 },
		"documents of one": func(l *archive.TenantLimits) { l.Part.Documents = 1 }, "sources of all": func(l *archive.TenantLimits) { l.Part.SourceBytes = 50 },
	} {
		lim := generousTenant
		lower(&lim)
		if _, _, err := readTenant(good, lim); !errors.Is(err, archive.ErrInvalid) {
			t.Errorf("more than may be of %s: %v", name, err)
		}
	}
	broken := errors.New("the server refuses")
	if _, err := archive.ReadTenant(bytes.NewReader(good), generousTenant, &takenTenant{refusePart: broken}); !errors.Is(err, broken) {
		t.Errorf("a refused part: %v", err)
	}
}

func FuzzTenantArchive(f *testing.F) {
	f.Add(sampleTenant(f, sampleAccess, "letters", "notes"))
	f.Add(sampleTenant(f, archive.Access{}))
	f.Add(oldTenant(f, sampleTenant(f, sampleAccess, "notes")))
	for _, data := range hostileTenants(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, sum, err := readTenant(data, archive.TenantLimits{KnowledgeBases: 5, Workspaces: 5, Bindings: 5, Keys: 5,
			Part: archive.Limits{Documents: 50, SourceSize: 1 << 16, SourceBytes: 1 << 18}})
		if err != nil {
			if !errors.Is(err, archive.ErrInvalid) {
				t.Fatalf("not blamed on the archive: %v", err)
			}
			return
		}
		// What is taken is whole: the parts are those that ended, and no role is in a workspace that is not there.
		var docs int64
		for id, p := range got.parts {
			if docs += int64(len(p.Docs)); p.Header.KnowledgeBase.ID != id {
				t.Fatalf("%s holds %s", id, p.Header.KnowledgeBase.ID)
			}
		}
		if len(got.whole) != len(got.parts) || docs != sum.Documents {
			t.Fatalf("%d parts of %d, %d documents of %d", len(got.whole), len(got.parts), docs, sum.Documents)
		}
		there := map[string]bool{"": true, "default": true}
		for _, w := range got.access.Workspaces {
			there[w.ID] = true
		}
		for _, b := range got.access.Bindings {
			if !there[b.Workspace] || b.Subject == "" {
				t.Fatalf("taken %+v", b)
			}
		}
	})
}
