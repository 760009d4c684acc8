package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strings"
)

// Limits bound what a reader takes.
type Limits struct {
	Documents   int64 // of the archive
	SourceSize  int64 // of one source, in bytes
	SourceBytes int64 // of all
}

// maxPage bounds an entry that is read into memory, in bytes: 500 documents with the
// most metadata allowed each.
const maxPage = 64 << 20

// Sink takes what is read. What it is given is checked in itself; whether the
// archive is good as a whole shows only when [Read] returns.
type Sink interface {
	Header(Header) error
	// Source must read r to its end; the bytes have the hash and the size then, or r fails.
	Source(sha string, size int64, r io.Reader) error
	// Document comes after its source.
	Document(Document) error
}

// Summary is a good archive in numbers.
type Summary struct {
	Manifest
	Hash string // SHA-256 of the manifest: identifies the archive
}

var (
	sourceName = regexp.MustCompile(`^sources/([0-9a-f]{64})$`)
	docName    = regexp.MustCompile(`^documents/[0-9]{6}\.jsonl$`)
)

// Read reads an archive of a knowledge base to its end. Errors of the archive wrap
// [ErrInvalid]; those of r and of the sink come as they are.
func Read(r io.Reader, lim Limits, sink Sink) (Summary, error) {
	in := &source{r: r}
	t := tar.NewReader(in)
	s, err := newReader(t, lim, sink).read(t.Next)
	if err != nil {
		return Summary{}, in.cause(err)
	}
	return s, in.cause(rest(t, in))
}

func newReader(t *tar.Reader, lim Limits, sink Sink) *reader {
	return &reader{tar: t, lim: lim, sink: sink, sources: make(map[string]int64)}
}

// read reads up to the manifest; next gives the header of each entry.
func (r *reader) read(next func() (*tar.Header, error)) (Summary, error) {
	names := sha256.New()
	for {
		h, err := next()
		if errors.Is(err, io.EOF) {
			return Summary{}, invalidf("it is cut off: there is no manifest")
		}
		if err != nil {
			return Summary{}, err
		}
		if err := regular(h); err != nil {
			return Summary{}, err
		}
		if m := sourceName.FindStringSubmatch(h.Name); m != nil {
			names.Write([]byte(m[1]))
		}
		done, err := r.entry(h)
		if err != nil {
			return Summary{}, err
		}
		if !done {
			continue
		}
		if r.manifest.SourceNames != hex.EncodeToString(names.Sum(nil)) {
			return Summary{}, invalidf("its sources are not those of the manifest")
		}
		return Summary{r.manifest, r.hash}, nil
	}
}

// source tells an error of the stream from one of the archive.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func (s *source) cause(err error) error {
	switch {
	case err == nil:
		return nil
	case s.err != nil:
		return s.err
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong), errors.Is(err, tar.ErrInsecurePath),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, tar.ErrWriteTooLong):
		return invalidf("it is no tar file, or cut off")
	}
	return err
}

// regular takes plain files only: no links, devices, folders, and none with holes.
func regular(h *tar.Header) error {
	if h.Typeflag != tar.TypeReg || h.Linkname != "" || h.Size < 0 {
		return invalidf("the entry %.80q is no plain file", h.Name)
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse") {
			return invalidf("the entry %.80q has holes", h.Name)
		}
	}
	return nil
}

// rest wants nothing but zeros behind the archive, of which tar has some.
func rest(t *tar.Reader, in io.Reader) error {
	if _, err := t.Next(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = invalidf("there is something behind the manifest")
		}
		return err
	}
	b := make([]byte, 4096)
	for total := 0; ; {
		n, err := in.Read(b)
		if total += n; total > 1<<20 || len(bytes.Trim(b[:n], "\x00")) > 0 {
			return invalidf("there is something behind its end")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type reader struct {
	tar      *tar.Reader
	lim      Limits
	sink     Sink
	began    bool
	sources  map[string]int64 // sizes
	bytes    int64
	docs     int64
	ids      map[string]bool
	entries  []Entry
	manifest Manifest
	hash     string
	id       string // of the knowledge base, if it must be this one
}

// entry reads one entry; done when it was the manifest.
func (r *reader) entry(h *tar.Header) (done bool, err error) {
	switch {
	case !r.began && h.Name != headerName:
		return false, invalidf("it does not begin with %s", headerName)
	case !r.began:
		r.began = true
		return false, r.header(h)
	case h.Name == manifestName:
		return true, r.end(h)
	case sourceName.MatchString(h.Name):
		return false, r.source(h.Name[len(sourceDir):], h.Size)
	case docName.MatchString(h.Name) && h.Name == pageName(len(r.entries)):
		return false, r.page(h)
	}
	return false, invalidf("the entry %.80q is none of an archive, or out of order", h.Name)
}

// whole reads a small entry into memory and notes it.
func (r *reader) whole(h *tar.Header, limit int64) ([]byte, error) {
	data, e, err := whole(r.tar, h, limit)
	if err == nil {
		r.entries = append(r.entries, e)
	}
	return data, err
}

func whole(t *tar.Reader, h *tar.Header, limit int64) ([]byte, Entry, error) {
	if h.Size > limit {
		return nil, Entry{}, invalidf("the entry %.80q has %d bytes", h.Name, h.Size)
	}
	data, err := io.ReadAll(t)
	if err != nil {
		return nil, Entry{}, err
	}
	sum := sha256.Sum256(data)
	return data, Entry{h.Name, h.Size, hex.EncodeToString(sum[:])}, nil
}

func (r *reader) header(h *tar.Header) error {
	data, err := r.whole(h, 1<<20)
	if err != nil {
		return err
	}
	var out Header
	if err := json.Unmarshal(data, &out); err != nil {
		return invalidf("%s is no JSON of a header", headerName)
	}
	if out.Format != Format || out.Version != Version {
		return invalidf("it is %.40q version %d, this release reads %q version %d", out.Format, out.Version, Format, Version)
	}
	if r.id != "" && out.KnowledgeBase.ID != r.id {
		return invalidf("the folder of %.80q holds %.80q", r.id, out.KnowledgeBase.ID)
	}
	return r.sink.Header(out)
}

func (r *reader) source(sha string, size int64) error {
	if _, twice := r.sources[sha]; twice {
		return invalidf("the source %s is there twice", sha)
	}
	if size > r.lim.SourceSize || size > r.lim.SourceBytes-r.bytes || int64(len(r.sources)) >= r.lim.Documents {
		return invalidf("its sources are larger or more than may be")
	}
	r.sources[sha] = size
	r.bytes += size
	hashed := &checked{r: r.tar, sum: sha256.New(), want: sha}
	if err := r.sink.Source(sha, size, hashed); err != nil {
		return err
	}
	if !hashed.good {
		return invalidf("the source %s was not read", sha)
	}
	return nil
}

func (r *reader) page(h *tar.Header) error {
	data, err := r.whole(h, maxPage)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxPage)
	n := 0
	for lines.Scan() {
		var d Document
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			return invalidf("a line of %s is no document", h.Name)
		}
		if n++; n > PageSize {
			return invalidf("%s has more than %d documents", h.Name, PageSize)
		}
		if err := r.document(d); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (r *reader) document(d Document) error {
	size, there := r.sources[d.SHA256]
	switch {
	case d.SHA256 == "" && d.URL == "":
		return invalidf("the document %.128q has no source", d.ID)
	case d.SHA256 != "" && (!there || size != d.Size):
		return invalidf("the source of the document %.128q is not there before it", d.ID)
	case r.ids[d.ID] || d.ID == "":
		return invalidf("the document %.128q is there twice, or has no id", d.ID)
	}
	if r.docs++; r.docs > r.lim.Documents {
		return invalidf("it has more than %d documents", r.lim.Documents)
	}
	if r.ids == nil {
		r.ids = make(map[string]bool)
	}
	r.ids[d.ID] = true
	return r.sink.Document(d)
}

// end checks what was read against the manifest.
func (r *reader) end(h *tar.Header) error {
	entries := r.entries
	data, err := r.whole(h, maxPage)
	if err != nil {
		return err
	}
	m := &r.manifest
	if err := json.Unmarshal(data, m); err != nil {
		return invalidf("%s is no JSON of a manifest", manifestName)
	}
	good := m.Version == Version && m.Documents == r.docs && m.Sources == int64(len(r.sources)) && m.SourceBytes == r.bytes &&
		len(m.Entries) == len(entries)
	for i := 0; good && i < len(entries); i++ {
		good = m.Entries[i] == entries[i]
	}
	if !good {
		return invalidf("what is in it is not what its manifest says")
	}
	r.hash = r.entries[len(r.entries)-1].SHA256
	return nil
}

// checked fails at the end of bytes that have not the hash they are named by.
type checked struct {
	r   io.Reader
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
	want string
	good bool
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	_, _ = c.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if c.good = hex.EncodeToString(c.sum.Sum(nil)) == c.want; !c.good {
			return n, invalidf("the source %s has other bytes", c.want)
		}
	}
	return n, err
}
