package parse

import (
	"encoding/xml"
	"strings"

	"granary.dev/granary/actors/pipeline"
)

// parseXML takes the character data of XML of no known vocabulary: every
// element that holds text of its own becomes a paragraph together with the
// elements inside of that text.
func (j *job) parseXML(t decoded) (*pipeline.Parsed, error) {
	if looksLikeHTML(foldHead([]byte(t.text[:min(len(t.text), sniffBytes)]))) {
		return j.parseHTML(t)
	}
	w := &xmlText{b: j.newBuilder()}
	err := j.newXMLWalk(strings.NewReader(t.text)).each(w.token)
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return nil, err
	}
	out := w.b.done(typeXML)
	out.Charset, out.Warnings, out.Title = t.charset, t.warnings, w.title
	return out, nil
}

// xmlText gathers the paragraphs of a document.
type xmlText struct {
	b       *builder
	para    strings.Builder
	depth   int
	owner   int // depth of the element whose text the paragraph is, 0 between paragraphs
	inTitle bool
	title   string
}

func (w *xmlText) token(tok xml.Token) error {
	switch tok := tok.(type) {
	case xml.StartElement:
		w.depth++
		if w.owner == 0 {
			w.inTitle = tok.Name.Local == "title"
		}
	case xml.EndElement:
		w.depth--
		if w.depth < w.owner {
			return w.flush()
		}
		if w.owner > 0 {
			w.para.WriteByte(' ')
		}
	case xml.CharData:
		if w.owner == 0 {
			if strings.TrimSpace(string(tok)) == "" {
				return nil
			}
			w.owner = w.depth
		}
		w.para.Write(tok)
		if w.para.Len() > w.b.job.lim.TextBytes {
			return textTooLarge(w.b.job.lim)
		}
	}
	return nil
}

func (w *xmlText) flush() error {
	text := collapse(w.para.String())
	w.para.Reset()
	w.owner = 0
	if w.inTitle && w.title == "" {
		w.title = text
	}
	return w.b.paragraph(text)
}
