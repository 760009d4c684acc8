package parse

import (
	"strings"

	"granary.dev/granary/actors/pipeline"
)

// aliveEvery is how many blocks pass between two looks at the context.
const aliveEvery = 256

// builder collects the text of formats whose text is not the source itself.
type builder struct {
	job    *job
	text   strings.Builder
	blocks []pipeline.Block
	page   int // page given to new blocks
}

func (j *job) newBuilder() *builder { return &builder{job: j} }

// add appends one block. Empty text adds nothing. Items of one list and lines
// of one listing stand on consecutive lines, all else is set apart.
func (b *builder) add(kind pipeline.BlockKind, level int, text string) error {
	text = stripControl(strings.ToValidUTF8(text, "\uFFFD"))
	if kind == pipeline.BlockCode {
		text = strings.TrimRight(strings.TrimLeft(text, "\r\n"), " \t\r\n\f")
		if strings.TrimSpace(text) == "" {
			return nil
		}
	} else if text = strings.TrimSpace(text); text == "" {
		return nil
	}
	lim := b.job.lim
	if len(b.blocks) >= lim.Blocks || b.text.Len()+len(text)+2 > lim.TextBytes {
		return textTooLarge(lim)
	}
	if len(b.blocks)%aliveEvery == 0 {
		if err := b.job.alive(); err != nil {
			return err
		}
	}
	if n := len(b.blocks); n > 0 {
		b.text.WriteByte('\n')
		if kind != pipeline.BlockListItem || b.blocks[n-1].Kind != pipeline.BlockListItem {
			b.text.WriteByte('\n')
		}
	}
	start := b.text.Len()
	b.text.WriteString(text)
	b.blocks = append(b.blocks, pipeline.Block{Kind: kind, Level: level, Start: start, End: b.text.Len(), Page: b.page})
	return nil
}

func (b *builder) paragraph(text string) error { return b.add(pipeline.BlockParagraph, 0, text) }

func (b *builder) heading(level int, text string) error {
	return b.add(pipeline.BlockHeading, min(max(level, 1), 6), collapse(text))
}

// nextPage starts a page, slide, sheet or chapter.
func (b *builder) nextPage() error {
	b.page++
	if b.page > b.job.lim.Pages {
		return tooManyPages(b.job.lim)
	}
	return b.job.alive()
}

// done makes the result. Language is detected unless declared.
func (b *builder) done(mediaType string) *pipeline.Parsed {
	text := b.text.String()
	return &pipeline.Parsed{
		MediaType: mediaType,
		Text:      text,
		Blocks:    b.blocks,
		Pages:     b.page,
		Language:  languageOf(text),
		Metadata:  map[string]string{},
	}
}

func tooManyPages(l Limits) error {
	return failf(ReasonTooManyPages, "the file has more than %d pages, slides or sheets", l.Pages)
}

// collapse makes every run of white space one space.
func collapse(s string) string { return strings.Join(strings.Fields(s), " ") }

// table adds rows as one block, a line each. With a header every cell is named
// by its column ("Price: 3; Colour: red"), so that a line makes sense alone
// when a chunk holds only some of the rows; without one, cells are separated
// by bars.
func (b *builder) table(header []string, rows [][]string) error {
	t := tableText{header: header}
	for _, row := range rows {
		if err := t.row(b.job.lim, row); err != nil {
			return err
		}
	}
	return b.add(pipeline.BlockTable, 0, t.String())
}

// tableText writes the lines of a table.
type tableText struct {
	strings.Builder
	header []string
	rows   int
}

// row writes one line; a row of empty cells writes none.
func (t *tableText) row(lim Limits, cells []string) error {
	start, wrote := t.Len(), false
	for i, cell := range cells {
		cell = collapse(cell)
		if cell == "" {
			continue
		}
		switch {
		case !wrote && start > 0:
			t.WriteByte('\n')
		case wrote && t.header != nil:
			t.WriteString("; ")
		case wrote:
			t.WriteString(" | ")
		}
		wrote = true
		if i < len(t.header) && t.header[i] != "" {
			t.WriteString(t.header[i])
			t.WriteString(": ")
		}
		t.WriteString(cell)
		if t.Len() > lim.TextBytes {
			return textTooLarge(lim)
		}
	}
	if wrote {
		t.rows++
	}
	return nil
}

// headerOf returns the first row as header if it looks like one: at least two
// columns, every cell filled, short, different and not a number, and rows below.
func headerOf(first []string, more bool) []string {
	if !more || len(first) < 2 {
		return nil
	}
	seen := make(map[string]bool, len(first))
	header := make([]string, len(first))
	for i, cell := range first {
		cell = collapse(cell)
		if cell == "" || len(cell) > 100 || seen[cell] || startsLikeNumber(cell) {
			return nil
		}
		seen[cell], header[i] = true, cell
	}
	return header
}

func startsLikeNumber(s string) bool {
	s = strings.TrimLeft(s, "+-$€£.,( ")
	return s != "" && s[0] >= '0' && s[0] <= '9'
}
