package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// Entries of a tenant's archive, in their order; then come the knowledge bases, and the
// manifest.
const (
	tenantName     = "tenant.json"
	workspacesName = "workspaces.jsonl"
	bindingsName   = "role_bindings.jsonl"
	keysName       = "api_keys.jsonl"
	partDir        = "knowledge_bases/"
)

// TenantHeader says whose archive it is. Tenant is protobuf JSON.
type TenantHeader struct {
	Format  string          `json:"format,omitempty"`  // "" in archives of version 1
	Version int             `json:"version,omitempty"` // the same
	Created time.Time       `json:"created,omitzero"`
	Tenant  json.RawMessage `json:"tenant"`
}

// Workspace is one line of workspaces.jsonl.
type Workspace struct {
	ID          string    `json:"id"`
	DisplayName string    `json:"display_name,omitempty"`
	CreateTime  time.Time `json:"create_time,omitzero"` // for people: not read back
}

// Grant is a role and where it holds: both empty is the whole tenant.
type Grant struct {
	Role          string `json:"role"`
	Workspace     string `json:"workspace,omitempty"`
	KnowledgeBase string `json:"knowledge_base,omitempty"`
}

// Binding is one line of role_bindings.jsonl.
type Binding struct {
	Subject string `json:"subject"`
	Grant
}

// Key is one line of api_keys.jsonl: that there was a key. It cannot be made again.
type Key struct {
	ID          string    `json:"id"`
	DisplayName string    `json:"display_name,omitempty"`
	Grants      []Grant   `json:"grants"`
	CreateTime  time.Time `json:"create_time,omitzero"`
	CreatedBy   string    `json:"created_by,omitempty"`
	ExpireTime  time.Time `json:"expire_time,omitzero"`
}

// TenantLimits bound what a reader of a tenant's archive takes.
type TenantLimits struct {
	KnowledgeBases, Workspaces, Bindings, Keys int
	Part                                       Limits // of each knowledge base; SourceBytes is of all together
}

// maxAccess bounds an entry of workspaces, bindings or keys, in bytes.
const maxAccess = 32 << 20

// TenantSink takes what is read, in order. What it is given is checked in itself;
// whether the archive is good as a whole shows only when [ReadTenant] returns.
type TenantSink interface {
	Tenant(TenantHeader) error
	Workspace(Workspace) error
	Binding(Binding) error
	Key(Key) error
	// KnowledgeBase begins one and gives what takes it; Part comes when it proved whole.
	KnowledgeBase(id string) (Sink, error)
	Part(id string, s Summary) error
}

// ReadTenant reads an archive of a tenant to its end, as [Read] does one of a knowledge base.
func ReadTenant(r io.Reader, lim TenantLimits, sink TenantSink) (Summary, error) {
	in := &source{r: r}
	rd := &tenantReader{tar: tar.NewReader(in), lim: lim, sink: sink, workspaces: make(map[string]bool), bindings: make(map[Binding]bool),
		keys: make(map[string]bool), parts: make(map[string]bool)}
	s, err := rd.read()
	if err != nil {
		return Summary{}, in.cause(err)
	}
	return s, in.cause(rest(rd.tar, in))
}

type tenantReader struct {
	tar  *tar.Reader
	lim  TenantLimits
	sink TenantSink

	version    int
	workspaces map[string]bool
	bindings   map[Binding]bool // without their roles
	keys       map[string]bool
	parts      map[string]bool
	sum        Manifest // of what was read
}

func (r *tenantReader) next() (*tar.Header, error) {
	h, err := r.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, invalidf("it is cut off: there is no manifest")
	}
	if err == nil {
		err = regular(h)
	}
	return h, err
}

func (r *tenantReader) read() (Summary, error) {
	if err := r.own(tenantName, 1<<20, r.tenant); err != nil {
		return Summary{}, err
	}
	if r.version > 1 {
		if err := r.access(); err != nil {
			return Summary{}, err
		}
	}
	for {
		h, err := r.next()
		if err != nil {
			return Summary{}, err
		}
		if h.Name == manifestName {
			return r.end(h)
		}
		if err := r.part(h); err != nil {
			return Summary{}, err
		}
	}
}

// own reads the next entry, which must be the one of that name.
func (r *tenantReader) own(name string, limit int64, take func([]byte) error) error {
	h, err := r.next()
	if err != nil {
		return err
	}
	if h.Name != name {
		return invalidf("the entry %.80q is where %s should be", h.Name, name)
	}
	data, e, err := whole(r.tar, h, limit)
	if err != nil {
		return err
	}
	r.sum.Entries = append(r.sum.Entries, e)
	return take(data)
}

func (r *tenantReader) tenant(data []byte) error {
	var h TenantHeader
	if err := json.Unmarshal(data, &h); err != nil || len(h.Tenant) == 0 {
		return invalidf("%s is no JSON of a tenant", tenantName)
	}
	if r.version = h.Version; h.Version == 0 && h.Format == "" {
		r.version = 1
	} else if h.Format != Format || h.Version != TenantVersion {
		return invalidf("it is %.40q version %d, this release reads %q up to version %d of tenants", h.Format, h.Version, Format, TenantVersion)
	}
	return r.sink.Tenant(h)
}

// access reads who may do what.
func (r *tenantReader) access() error {
	if err := r.own(workspacesName, maxAccess, func(data []byte) error {
		return lines(workspacesName, data, r.lim.Workspaces, r.workspace)
	}); err != nil {
		return err
	}
	if err := r.own(bindingsName, maxAccess, func(data []byte) error {
		return lines(bindingsName, data, r.lim.Bindings, r.binding)
	}); err != nil {
		return err
	}
	return r.own(keysName, maxAccess, func(data []byte) error {
		return lines(keysName, data, r.lim.Keys, r.key)
	})
}

// lines reads JSON objects, one a line.
func lines[T any](name string, data []byte, most int, take func(T) error) error {
	for n := 0; len(data) > 0; n++ {
		line, after, whole := bytes.Cut(data, []byte("\n"))
		var v T
		if err := json.Unmarshal(line, &v); err != nil || !whole {
			return invalidf("a line of %s cannot be read", name)
		}
		if n >= most {
			return invalidf("%s has more than %d lines", name, most)
		}
		if err := take(v); err != nil {
			return err
		}
		data = after
	}
	return nil
}

// resourceID is what workspaces and knowledge bases may be called.
var resourceID = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// defaultWorkspace is in every tenant.
const defaultWorkspace = "default"

const maxDisplayName = 800 // bytes; the server takes 200 characters

func (r *tenantReader) workspace(w Workspace) error {
	if !resourceID.MatchString(w.ID) || len(w.DisplayName) > maxDisplayName || r.workspaces[w.ID] {
		return invalidf("the workspace %.80q cannot be, or is there twice", w.ID)
	}
	r.workspaces[w.ID] = true
	return r.sink.Workspace(w)
}

func (r *tenantReader) grant(g Grant) error {
	switch {
	case g.Role != "viewer" && g.Role != "editor" && g.Role != "admin":
		return invalidf("%.80q is no role", g.Role)
	case g.KnowledgeBase != "" && !resourceID.MatchString(g.KnowledgeBase):
		return invalidf("%.80q is no knowledge base", g.KnowledgeBase)
	case g.Workspace != "" && g.Workspace != defaultWorkspace && !r.workspaces[g.Workspace]:
		return invalidf("the workspace %.80q of a role is not in it", g.Workspace)
	}
	return nil
}

func (r *tenantReader) binding(b Binding) error {
	if err := r.grant(b.Grant); err != nil {
		return err
	}
	place := b
	place.Role = ""
	if b.Subject == "" || len(b.Subject) > 256 || r.bindings[place] {
		return invalidf("the role of %.80q is there twice, or nobody's", b.Subject)
	}
	r.bindings[place] = true
	return r.sink.Binding(b)
}

func (r *tenantReader) key(k Key) error {
	if k.ID == "" || len(k.ID) > 64 || len(k.DisplayName) > maxDisplayName || r.keys[k.ID] {
		return invalidf("the API key %.80q is there twice, or has no id", k.ID)
	}
	r.keys[k.ID] = true
	return r.sink.Key(k)
}

// part reads a knowledge base, which begins with h.
func (r *tenantReader) part(h *tar.Header) error {
	name, ok := strings.CutPrefix(h.Name, partDir)
	id, _, inside := strings.Cut(name, "/")
	if !ok || !inside || !resourceID.MatchString(id) || r.parts[id] {
		return invalidf("the entry %.80q is none of an archive, or out of order", h.Name)
	}
	if r.parts[id] = true; len(r.parts) > r.lim.KnowledgeBases {
		return invalidf("it has more than %d knowledge bases", r.lim.KnowledgeBases)
	}
	sink, err := r.sink.KnowledgeBase(id)
	if err != nil {
		return err
	}
	lim := r.lim.Part
	lim.SourceBytes -= r.sum.SourceBytes
	rd := newReader(r.tar, lim, sink)
	rd.id = id
	s, err := rd.read(func() (*tar.Header, error) {
		at := h
		if h = nil; at == nil {
			var err error
			if at, err = r.tar.Next(); err != nil {
				return nil, err
			}
		}
		name, ok := strings.CutPrefix(at.Name, partDir+id+"/")
		if !ok {
			return nil, invalidf("the part of %s is cut off: there is no manifest", id)
		}
		own := *at
		own.Name = name
		return &own, nil
	})
	if err != nil {
		return err
	}
	last := rd.entries[len(rd.entries)-1]
	last.Name = partDir + id + "/" + last.Name
	r.sum.add(s.Manifest, last)
	return r.sink.Part(id, s)
}

func (m *Manifest) add(part Manifest, last Entry) {
	m.Entries = append(m.Entries, last)
	m.Documents += part.Documents
	m.Sources += part.Sources
	m.SourceBytes += part.SourceBytes
	m.Erased += part.Erased
}

// end checks what was read against the manifest.
func (r *tenantReader) end(h *tar.Header) (Summary, error) {
	data, e, err := whole(r.tar, h, maxPage)
	if err != nil {
		return Summary{}, err
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Summary{}, invalidf("%s is no JSON of a manifest", manifestName)
	}
	good := m.Version == r.version && m.Documents == r.sum.Documents && m.Sources == r.sum.Sources && m.SourceBytes == r.sum.SourceBytes &&
		m.Erased == r.sum.Erased && len(m.Entries) == len(r.sum.Entries)
	for i := 0; good && i < len(m.Entries); i++ {
		good = m.Entries[i] == r.sum.Entries[i]
	}
	if !good {
		return Summary{}, invalidf("what is in it is not what its manifest says")
	}
	return Summary{m, e.SHA256}, nil
}

// TenantWriter writes the archive of a tenant. It is not safe for concurrent use.
type TenantWriter struct {
	tar *tar.Writer
	own *Writer
}

// Access is who may do what in a tenant.
type Access struct {
	Workspaces []Workspace
	Bindings   []Binding
	Keys       []Key
}

// NewTenantWriter begins one; tenant is protobuf JSON.
func NewTenantWriter(w io.Writer, created time.Time, tenant json.RawMessage, a Access) (*TenantWriter, error) {
	t := tar.NewWriter(w)
	own := &Writer{tar: t, at: created, names: sha256.New(), manifest: Manifest{Version: TenantVersion}}
	out := &TenantWriter{t, own}
	if err := own.json(tenantName, TenantHeader{Format, TenantVersion, created, tenant}); err != nil {
		return nil, err
	}
	if err := writeLines(own, workspacesName, a.Workspaces); err != nil {
		return nil, err
	}
	if err := writeLines(own, bindingsName, a.Bindings); err != nil {
		return nil, err
	}
	return out, writeLines(own, keysName, a.Keys)
}

func writeLines[T any](w *Writer, name string, all []T) error {
	var b bytes.Buffer
	for _, v := range all {
		line, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("archive: encode %s: %w", name, err)
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	return w.entry(name, b.Bytes())
}

// KnowledgeBase begins the part of one; end it with [TenantWriter.End].
func (w *TenantWriter) KnowledgeBase(h Header) (*Writer, error) {
	return newWriter(w.tar, partDir+h.KnowledgeBase.ID+"/", h)
}

// End ends a part.
func (w *TenantWriter) End(part *Writer, erased int64) error {
	if err := part.finish(erased); err != nil {
		return err
	}
	last := part.manifest.Entries[len(part.manifest.Entries)-1]
	last.Name = part.prefix + last.Name
	w.own.manifest.add(part.manifest, last)
	return nil
}

// Close ends the archive with a manifest over its own entries and the manifests of its parts.
func (w *TenantWriter) Close() error { return w.own.Close(w.own.manifest.Erased) }
