package parse

import (
	"encoding/xml"
	"errors"
	"io"

	"granary.dev/granary/actors/pipeline"
)

// xmlWalk reads XML tokens with a cap on nesting and an eye on the context.
// encoding/xml expands no entities of the document's own, so there is nothing
// to blow up; the named entities of HTML are known.
type xmlWalk struct {
	job   *job
	dec   *xml.Decoder
	depth int
	count int
}

func (j *job) newXMLWalk(r io.Reader) *xmlWalk {
	dec := xml.NewDecoder(r)
	dec.Entity = xml.HTMLEntity
	dec.CharsetReader = func(label string, in io.Reader) (io.Reader, error) {
		name := canonicalCharset(label)
		if name == "" || name == charsetUTF8 || len(name) > 6 && name[:6] == "utf-16" {
			return in, nil // decoded already, or mislabelled
		}
		return encodingOf(name).NewDecoder().Reader(in), nil
	}
	return &xmlWalk{job: j, dec: dec}
}

// next returns the next token, or io.EOF.
func (w *xmlWalk) next() (xml.Token, error) {
	if w.count++; w.count%4096 == 0 {
		if err := w.job.alive(); err != nil {
			return nil, err
		}
	}
	tok, err := w.dec.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		if _, ok := errors.AsType[*pipeline.Error](err); ok {
			return nil, err // of the reader below
		}
		return nil, fail(ReasonMalformed, "the XML is not well-formed", err)
	}
	switch tok.(type) {
	case xml.StartElement:
		if w.depth++; w.depth > w.job.lim.Depth {
			return nil, tooDeep(w.job.lim)
		}
	case xml.EndElement:
		w.depth--
	}
	return tok, nil
}

// skip passes over the rest of the element that was just started.
func (w *xmlWalk) skip() error {
	for level := w.depth - 1; w.depth > level; {
		if _, err := w.next(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
	return nil
}

// each calls f for every token until the end of the document.
func (w *xmlWalk) each(f func(xml.Token) error) error {
	for {
		tok, err := w.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(tok); err != nil {
			return err
		}
	}
}

// eachToken walks one entry of an archive.
func (a *archive) eachToken(name string, f func(*xmlWalk, xml.Token) error) error {
	rc, err := a.open(name)
	if err != nil {
		return err
	}
	w := a.job.newXMLWalk(rc)
	err = w.each(func(t xml.Token) error { return f(w, t) })
	return errors.Join(err, rc.Close())
}

// attr returns the attribute of that local name, whatever its namespace.
func attr(e xml.StartElement, local string) string {
	for _, a := range e.Attr {
		if a.Name.Local == local {
			return a.Value
		}
	}
	return ""
}

// relation is one line of an OPC relations part.
type relation struct{ kind, target string }

// relations reads the relations of a part, by id. A part without any has none.
func (a *archive) relations(part string) (map[string]relation, error) {
	dir, file := splitPart(part)
	name := dir + "_rels/" + file + ".rels"
	rels := map[string]relation{}
	if !a.has(name) {
		return rels, nil
	}
	err := a.eachToken(name, func(_ *xmlWalk, t xml.Token) error {
		if e, ok := t.(xml.StartElement); ok && e.Name.Local == "Relationship" && attr(e, "TargetMode") != "External" {
			rels[attr(e, "Id")] = relation{kind: attr(e, "Type"), target: resolve(part, attr(e, "Target"))}
		}
		return nil
	})
	return rels, err
}

func splitPart(part string) (dir, file string) {
	for i := len(part) - 1; i >= 0; i-- {
		if part[i] == '/' {
			return part[:i+1], part[i+1:]
		}
	}
	return "", part
}

// coreProperties reads what an office file says of itself.
func (a *archive) coreProperties() (map[string]string, error) {
	meta := map[string]string{}
	if !a.has("docProps/core.xml") {
		return meta, nil
	}
	key := ""
	err := a.eachToken("docProps/core.xml", func(_ *xmlWalk, t xml.Token) error {
		switch t := t.(type) {
		case xml.StartElement:
			key = coreKey(t.Name.Local)
		case xml.EndElement:
			key = ""
		case xml.CharData:
			if key != "" {
				setMeta(meta, key, string(t))
			}
		}
		return nil
	})
	return meta, err
}

func coreKey(local string) string {
	switch local {
	case "title", "subject", "keywords", "description", "language", "created", "modified", "category":
		return local
	case "creator":
		return "author"
	}
	return ""
}
