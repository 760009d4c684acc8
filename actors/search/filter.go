package search

import (
	"cmp"
	"strconv"
	"strings"
)

// Filter is a parsed condition on documents and chunks, after AIP-160:
//
//	type = "application/pdf" AND (language = "en" OR NOT metadata.team : "ops*")
//	created >= "2026-01-01T00:00:00Z" AND page < 10 AND document IN ["a", "b"]
//
// Operators: = != < <= > >= : IN, joined by AND, OR and NOT (or -) with
// parentheses. As in AIP-160, OR binds closer than AND: `a AND b OR c` is
// `a AND (b OR c)`. Words in capitals are reserved.
//
// Fields, which are part of the public API:
//
//	document       id of the document         = != : IN and order by bytes
//	name           display or file name       the same
//	title          title                      the same
//	type           media type                 the same
//	language       ISO 639-1 of the document  the same
//	version        number of the version      = != < <= > >= IN
//	page           page of the chunk, from 1  the same; 0 when there are no pages
//	created        RFC 3339 time              the same; unknown times match only !=
//	metadata.KEY   a value of the document    all; order by number when both sides are numbers
//
// The value of : may have * at either end and ignores case: "foo*" begins with,
// "*foo" ends with, "foo" and "*foo*" contain, "*" is present and not empty.
// metadata : "key" asks whether the key is there. != is the opposite of =, so it
// also matches documents that lack the field.
type Filter struct {
	root   node
	paged  bool // looks at chunks, not only at documents
	source string
}

// String returns the text the filter was parsed from.
func (f *Filter) String() string { return f.source }

// node is a condition on one chunk of a document.
type node interface {
	match(d *docMeta, page uint32) bool
}

type allOf []node

func (a allOf) match(d *docMeta, page uint32) bool {
	for _, n := range a {
		if !n.match(d, page) {
			return false
		}
	}
	return true
}

type anyOf []node

func (a anyOf) match(d *docMeta, page uint32) bool {
	for _, n := range a {
		if n.match(d, page) {
			return true
		}
	}
	return false
}

type not struct{ node }

func (n not) match(d *docMeta, page uint32) bool { return !n.node.match(d, page) }

// operator of a comparison. != is stored as not =.
type operator uint8

const (
	opEqual operator = iota
	opLess
	opLessEqual
	opGreater
	opGreaterEqual
	opHas
)

// holds tells whether an order (-1, 0, +1) satisfies the operator.
func (o operator) holds(order int) bool {
	switch o {
	case opEqual:
		return order == 0
	case opLess:
		return order < 0
	case opLessEqual:
		return order <= 0
	case opGreater:
		return order > 0
	case opGreaterEqual:
		return order >= 0
	}
	return false
}

// field names what a comparison looks at.
type field uint8

const (
	fieldDocument field = iota
	fieldName
	fieldTitle
	fieldType
	fieldLanguage
	fieldMetadata
	fieldVersion
	fieldPage
	fieldCreated
)

// textIs compares a text field.
type textIs struct {
	field field
	key   string // of metadata
	op    operator
	value string
	like  pattern // for opHas
}

func (t *textIs) get(d *docMeta) (string, bool) {
	switch t.field {
	case fieldDocument:
		return d.id, true
	case fieldName:
		return d.name, true
	case fieldTitle:
		return d.title, true
	case fieldType:
		return d.mediaType, true
	case fieldLanguage:
		return d.language, true
	}
	return d.lookup(t.key)
}

func (t *textIs) match(d *docMeta, _ uint32) bool {
	value, ok := t.get(d)
	switch {
	case !ok:
		return false
	case t.op == opHas:
		return t.like.match(value)
	case t.op != opEqual && t.field == fieldMetadata:
		if x, err := strconv.ParseFloat(value, 64); err == nil {
			if y, err := strconv.ParseFloat(t.value, 64); err == nil {
				return t.op.holds(cmp.Compare(x, y))
			}
		}
	}
	return t.op.holds(strings.Compare(value, t.value))
}

// hasKey asks whether a metadata key is there.
type hasKey string

func (k hasKey) match(d *docMeta, _ uint32) bool {
	_, ok := d.lookup(string(k))
	return ok
}

// numberIs compares a number or a time.
type numberIs struct {
	field field
	op    operator
	value int64
}

func (n *numberIs) match(d *docMeta, page uint32) bool {
	switch n.field {
	case fieldVersion:
		return n.op.holds(cmp.Compare(d.version, n.value))
	case fieldPage:
		return n.op.holds(cmp.Compare(int64(page), n.value))
	}
	return d.created != 0 && n.op.holds(cmp.Compare(d.created, n.value))
}

// pattern is the value of the operator ":", in lower case without its stars.
type pattern struct {
	text        string
	front, back bool // anything may stand before, after
}

func newPattern(s string) pattern {
	p := pattern{text: strings.ToLower(s)}
	p.text, p.front = strings.CutPrefix(p.text, "*")
	p.text, p.back = strings.CutSuffix(p.text, "*")
	if !p.front && !p.back {
		p.front, p.back = true, true
	}
	return p
}

func (p pattern) match(s string) bool {
	if p.text == "" {
		return s != ""
	}
	s = strings.ToLower(s)
	switch {
	case p.front && p.back:
		return strings.Contains(s, p.text)
	case p.front:
		return strings.HasSuffix(s, p.text)
	}
	return strings.HasPrefix(s, p.text)
}

// chunks evaluates the filter over the live documents of a segment. It looks at
// chunks only when a condition is about pages.
func (f *Filter) chunks(s *segView) bitmap {
	out := newBitmap(s.seg.Chunks())
	for i := range s.seg.docs {
		if s.deadDocs.has(uint32(i)) {
			continue
		}
		d := &s.seg.docs[i]
		from, to := s.seg.docStart[i], s.seg.docStart[i+1]
		if !f.paged {
			if f.root.match(d, 0) {
				out.setRange(from, to)
			}
			continue
		}
		for c := from; c < to; c++ {
			if f.root.match(d, s.seg.page(c)) {
				out.set(c)
			}
		}
	}
	return out
}
