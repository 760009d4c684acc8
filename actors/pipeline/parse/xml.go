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
	b := j.newBuilder()
	var para strings.Builder
	var depth, owner int // depth of the element whose text the paragraph is
	title, inTitle := "", false
	flush := func() error {
		text := collapse(para.String())
		para.Reset()
		owner = 0
		if inTitle && title == "" {
			title = text
		}
		return b.paragraph(text)
	}
	err := j.newXMLWalk(strings.NewReader(t.text)).each(func(tok xml.Token) error {
		switch tok := tok.(type) {
		case xml.StartElement:
			depth++
			if owner == 0 {
				inTitle = tok.Name.Local == "title"
			}
		case xml.EndElement:
			var err error
			if depth <= owner {
				err = flush()
			} else if owner > 0 {
				para.WriteByte(' ')
			}
			depth--
			return err
		case xml.CharData:
			if owner == 0 {
				if strings.TrimSpace(string(tok)) == "" {
					return nil
				}
				owner = depth
			}
			para.Write(tok)
			if para.Len() > j.lim.TextBytes {
				return textTooLarge(j.lim)
			}
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return nil, err
	}
	out := b.done(typeXML)
	out.Charset, out.Warnings, out.Title = t.charset, t.warnings, title
	return out, nil
}
