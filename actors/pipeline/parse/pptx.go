package parse

import (
	"encoding/xml"
	"strings"

	"granary.dev/granary/actors/pipeline"
)

// parsePPTX extracts the slides in the order of the show, each followed by its
// notes. A slide is a page.
func (j *job) parsePPTX() (*pipeline.Parsed, error) {
	slides, err := j.zip.slides()
	if err != nil {
		return nil, err
	}
	b := j.newBuilder()
	title := ""
	for _, part := range slides {
		if err := b.nextPage(); err != nil {
			return nil, err
		}
		s := &slideWalk{b: b}
		if err := j.zip.eachToken(part, s.token); err != nil {
			return nil, err
		}
		title = firstOf(title, s.title)
		if err := j.notes(b, part); err != nil {
			return nil, err
		}
	}
	meta, err := j.zip.coreProperties()
	if err != nil {
		return nil, err
	}
	out := b.done(typePPTX)
	out.Metadata = meta
	// "PowerPoint Presentation" is what the program writes when nobody did.
	if t := meta["title"]; t != "" && !strings.HasPrefix(t, "PowerPoint") {
		title = t
	}
	out.Title = title
	return out, nil
}

// slides lists the slide parts in order.
func (a *archive) slides() ([]string, error) {
	const show = "ppt/presentation.xml"
	rels, err := a.relations(show)
	if err != nil {
		return nil, err
	}
	var parts []string
	err = a.eachToken(show, func(_ *xmlWalk, t xml.Token) error {
		e, ok := t.(xml.StartElement)
		if !ok || e.Name.Local != "sldId" {
			return nil
		}
		for _, at := range e.Attr { // r:id, not the plain id beside it
			if r, ok := rels[at.Value]; ok && at.Name.Local == "id" && a.has(r.target) {
				parts = append(parts, r.target)
			}
		}
		if len(parts) > a.job.lim.Pages {
			return tooManyPages(a.job.lim)
		}
		return nil
	})
	return parts, err
}

// notes adds the speaker's notes of a slide.
func (j *job) notes(b *builder, slide string) error {
	rels, err := j.zip.relations(slide)
	if err != nil {
		return err
	}
	for _, r := range rels {
		if strings.HasSuffix(r.kind, "/notesSlide") && j.zip.has(r.target) {
			s := &slideWalk{b: b, notes: true}
			return j.zip.eachToken(r.target, s.token)
		}
	}
	return nil
}

// slideWalk is the state of a walk over one slide.
type slideWalk struct {
	b      *builder
	notes  bool
	title  string
	holder string // type of the placeholder, "-" when the shape is none
	para   strings.Builder
	inText bool
	rows   [][]string
	row    []string
	cell   []string
	table  bool
}

func (s *slideWalk) token(w *xmlWalk, tok xml.Token) error {
	switch t := tok.(type) {
	case xml.StartElement:
		return s.start(w, t)
	case xml.EndElement:
		return s.end(t.Name.Local)
	case xml.CharData:
		if s.inText {
			s.para.Write(t)
			if s.para.Len() > s.b.job.lim.TextBytes {
				return textTooLarge(s.b.job.lim)
			}
		}
	}
	return nil
}

func (s *slideWalk) start(w *xmlWalk, e xml.StartElement) error {
	switch e.Name.Local {
	case "Fallback":
		return w.skip()
	case "sp":
		s.holder = "-"
	case "ph":
		s.holder = attr(e, "type")
	case "txBody":
		if s.skipShape() {
			return w.skip()
		}
	case "tbl":
		s.table, s.rows = true, nil
	case "p":
		s.para.Reset()
	case "t":
		s.inText = true
	case "br":
		s.para.WriteByte('\n')
	}
	return nil
}

// skipShape leaves out what repeats on every slide, and of a notes page all
// but the notes.
func (s *slideWalk) skipShape() bool {
	switch s.holder {
	case "sldNum", "dt", "ftr", "hdr", "sldImg":
		return true
	}
	return s.notes && s.holder != "body" && !s.table
}

func (s *slideWalk) end(local string) error {
	switch local {
	case "t":
		s.inText = false
	case "p":
		text := s.para.String()
		s.para.Reset()
		if s.table {
			if text = collapse(text); text != "" {
				s.cell = append(s.cell, text)
			}
			return nil
		}
		return s.emit(text)
	case "sp":
		s.holder = "-"
	case "tc":
		s.row, s.cell = append(s.row, strings.Join(s.cell, " ")), nil
	case "tr":
		s.rows, s.row = append(s.rows, s.row), nil
	case "tbl":
		s.table = false
		return s.b.tableGuessed(s.rows)
	}
	return nil
}

func (s *slideWalk) emit(text string) error {
	switch {
	case s.notes:
		return s.b.paragraph(text)
	case s.holder == "title", s.holder == "ctrTitle":
		s.title = firstOf(s.title, collapse(text))
		return s.b.heading(1, text)
	case s.holder == "subTitle":
		return s.b.heading(2, text)
	case s.holder != "-":
		return s.b.add(pipeline.BlockListItem, 0, text)
	}
	return s.b.paragraph(text)
}
