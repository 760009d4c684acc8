package parse

import (
	"encoding/xml"
	"strconv"
	"strings"

	"granary.dev/granary/actors/pipeline"
)

// parseDOCX extracts the body of a Word document, then its foot- and endnotes.
func (j *job) parseDOCX() (*pipeline.Parsed, error) {
	styles, err := j.zip.docxStyles()
	if err != nil {
		return nil, err
	}
	d := &docxWalk{b: j.newBuilder(), styles: styles}
	for _, part := range []string{"word/document.xml", "word/footnotes.xml", "word/endnotes.xml"} {
		if !j.zip.has(part) {
			continue
		}
		d.paras, d.tables = nil, nil
		if err := j.zip.eachToken(part, d.token); err != nil {
			return nil, err
		}
	}
	meta, err := j.zip.coreProperties()
	if err != nil {
		return nil, err
	}
	out := d.b.done(typeDOCX)
	out.Metadata = meta
	out.Title = firstOf(meta["title"], d.title, d.heading)
	return out, nil
}

// docxStyle is what matters of a paragraph style.
type docxStyle struct {
	name    string
	basedOn string
	level   int // heading level, 0 when none
	list    bool
}

// docxStyles reads the paragraph styles by id.
func (a *archive) docxStyles() (map[string]docxStyle, error) {
	styles := map[string]docxStyle{}
	if !a.has("word/styles.xml") {
		return styles, nil
	}
	var id string
	var s docxStyle
	err := a.eachToken("word/styles.xml", func(_ *xmlWalk, t xml.Token) error {
		switch t := t.(type) {
		case xml.StartElement:
			switch t.Name.Local {
			case "style":
				id, s = attr(t, "styleId"), docxStyle{}
			case "name":
				s.name = strings.ToLower(attr(t, "val"))
			case "basedOn":
				s.basedOn = attr(t, "val")
			case "outlineLvl":
				s.level = outlineLevel(attr(t, "val"))
			case "numPr":
				s.list = true
			}
		case xml.EndElement:
			if t.Name.Local == "style" {
				if l := headingName(s.name); l > 0 {
					s.level = l
				}
				styles[id] = s
			}
		}
		return nil
	})
	return styles, err
}

// outlineLevel maps Word's 0..8 to heading levels; 9 is body text.
func outlineLevel(v string) int {
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 || n > 8 {
		return 0
	}
	return min(n+1, 6)
}

// headingName reads the level of a built-in style name; these names are the
// same in the files of every language version.
func headingName(name string) int {
	if name == "title" {
		return 1
	}
	rest, ok := strings.CutPrefix(name, "heading ")
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(rest)
	if err != nil || n < 1 || n > 9 {
		return 0
	}
	return min(n, 6)
}

// docxWalk is the state of a walk over a body. Paragraphs nest (a text box is
// anchored in a paragraph) and so do tables.
type docxWalk struct {
	b       *builder
	styles  map[string]docxStyle
	paras   []*docxPara
	tables  []*docxTable
	inText  bool
	title   string
	heading string
}

type docxPara struct {
	text  strings.Builder
	style string
	level int
	list  bool
}

type docxTable struct {
	rows [][]string
	cell []string // paragraphs of the open cell
	row  []string
}

func (d *docxWalk) token(w *xmlWalk, tok xml.Token) error {
	switch t := tok.(type) {
	case xml.StartElement:
		return d.start(w, t)
	case xml.EndElement:
		return d.end(t.Name.Local)
	case xml.CharData:
		if p := d.para(); p != nil && d.inText {
			p.text.Write(t)
			if p.text.Len() > d.b.job.lim.TextBytes {
				return textTooLarge(d.b.job.lim)
			}
		}
	}
	return nil
}

func (d *docxWalk) para() *docxPara {
	if len(d.paras) == 0 {
		return nil
	}
	return d.paras[len(d.paras)-1]
}

func (d *docxWalk) start(w *xmlWalk, e xml.StartElement) error {
	switch e.Name.Local {
	case "Fallback", "del", "moveFrom", "pPrChange", "rPr", "sectPr":
		return w.skip() // duplicates, deleted text and formatting
	case "p":
		d.paras = append(d.paras, &docxPara{level: -1})
		return nil
	case "tbl":
		d.tables = append(d.tables, &docxTable{})
		return nil
	}
	p := d.para()
	if p == nil {
		return nil
	}
	switch e.Name.Local {
	case "pStyle":
		p.style = attr(e, "val")
	case "outlineLvl":
		p.level = outlineLevel(attr(e, "val"))
	case "numId":
		p.list = attr(e, "val") != "0"
	case "t":
		d.inText = true
	case "tab":
		if !strings.HasSuffix(p.text.String(), "\t") && p.text.Len() > 0 {
			p.text.WriteByte('\t')
		}
	case "br", "cr":
		p.text.WriteByte('\n')
	case "noBreakHyphen":
		p.text.WriteByte('-')
	}
	return nil
}

func (d *docxWalk) end(local string) error {
	switch local {
	case "t":
		d.inText = false
	case "p":
		if p := d.para(); p != nil {
			d.paras = d.paras[:len(d.paras)-1]
			return d.emit(p)
		}
	}
	if len(d.tables) == 0 {
		return nil
	}
	t := d.tables[len(d.tables)-1]
	switch local {
	case "tc":
		t.row = append(t.row, strings.Join(t.cell, " "))
		t.cell = nil
	case "tr":
		t.rows = append(t.rows, t.row)
		t.row = nil
	case "tbl":
		d.tables = d.tables[:len(d.tables)-1]
		return d.emitTable(t)
	}
	return nil
}

// emit makes a block of a paragraph, or a part of the cell it stands in.
func (d *docxWalk) emit(p *docxPara) error {
	text := p.text.String()
	if len(d.tables) > 0 {
		t := d.tables[len(d.tables)-1]
		if text = collapse(text); text != "" {
			t.cell = append(t.cell, text)
		}
		return nil
	}
	level, list, name := d.resolveStyle(p.style)
	if p.level >= 0 {
		level = p.level
	}
	switch {
	case level > 0:
		if name == "title" {
			d.title = firstOf(d.title, collapse(text))
		} else if level == 1 {
			d.heading = firstOf(d.heading, collapse(text))
		}
		return d.b.heading(level, text)
	case p.list || list:
		return d.b.add(pipeline.BlockListItem, 0, text)
	case strings.Contains(name, "quote"):
		return d.b.add(pipeline.BlockQuote, 0, text)
	case strings.Contains(name, "code") || strings.Contains(name, "preformatted"):
		return d.b.add(pipeline.BlockCode, 0, text)
	}
	return d.b.paragraph(text)
}

// resolveStyle follows basedOn; chains are short, and rings end.
func (d *docxWalk) resolveStyle(id string) (level int, list bool, name string) {
	for hop := 0; id != "" && hop < 16; hop++ {
		s := d.styles[id]
		name = firstOf(name, s.name)
		list = list || s.list
		if s.level > 0 {
			return s.level, list, name
		}
		id = s.basedOn
	}
	return 0, list, name
}

// emitTable makes a block of a table; a table inside a cell is its text.
func (d *docxWalk) emitTable(t *docxTable) error {
	if len(d.tables) > 0 {
		outer := d.tables[len(d.tables)-1]
		for _, row := range t.rows {
			if text := collapse(strings.Join(row, " ")); text != "" {
				outer.cell = append(outer.cell, text)
			}
		}
		return nil
	}
	return d.b.tableGuessed(t.rows)
}

// tableGuessed adds a table whose first row may be its header.
func (b *builder) tableGuessed(rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	header := headerOf(rows[0], len(rows) > 1)
	if header != nil {
		rows = rows[1:]
	}
	return b.table(header, rows)
}
