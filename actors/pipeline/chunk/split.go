package chunk

import (
	"strings"
	"unicode/utf8"

	"granary.dev/granary/actors/pipeline"
)

// Split cuts doc into chunks. A document without text gives none and no error.
// Errors are [*pipeline.Error] of stage "chunk" and never retryable.
func Split(doc *pipeline.Parsed, opt Options) ([]pipeline.Chunk, error) {
	if err := opt.Validate(); err != nil {
		return nil, failure(ReasonInvalidOptions, "the chunking configuration is not valid", err)
	}
	if doc == nil {
		return nil, nil
	}
	if !utf8.ValidString(doc.Text) {
		return nil, failure(ReasonInvalidText, "the extracted text is not valid UTF-8", nil)
	}
	blocks, err := normalise(doc)
	if err != nil {
		return nil, err
	}
	p := newPacker(doc, opt.withDefaults())
	for _, b := range blocks {
		p.addBlock(b)
	}
	p.pack()
	return p.chunks, nil
}

// normalise checks the parser's blocks and turns text that none of them covers
// into paragraphs, so that no text is lost whatever the parser missed.
func normalise(doc *pipeline.Parsed) ([]pipeline.Block, error) {
	blocks := make([]pipeline.Block, 0, len(doc.Blocks)+1)
	at, page := 0, 0
	for _, b := range doc.Blocks {
		if b.Start < at || b.End < b.Start || b.End > len(doc.Text) || !atRune(doc.Text, b.Start) || !atRune(doc.Text, b.End) {
			return nil, failure(ReasonInvalidBlocks, "the blocks of the parsed document do not fit its text", nil)
		}
		blocks = paragraphs(doc.Text, span{at, b.Start}, page, blocks)
		if s := trim(doc.Text, span{b.Start, b.End}); s.start < s.end {
			b.Start, b.End = s.start, s.end
			blocks = append(blocks, b)
		}
		at, page = b.End, b.Page
	}
	return paragraphs(doc.Text, span{at, len(doc.Text)}, page, blocks), nil
}

func atRune(text string, i int) bool {
	return i == len(text) || utf8.RuneStart(text[i])
}

// paragraphs appends the paragraphs of text outside any block, cut at blank lines.
func paragraphs(text string, at span, page int, blocks []pipeline.Block) []pipeline.Block {
	at = trim(text, at)
	for at.start < at.end {
		end, next := at.end, at.end
		for i := at.start; i < at.end; {
			n := strings.IndexByte(text[i:at.end], '\n')
			if n < 0 {
				break
			}
			after, blank := skipSpace(text, span{i + n, at.end})
			if blank {
				end, next = i+n, after
				break
			}
			i = after
		}
		s := trim(text, span{at.start, end})
		blocks = append(blocks, pipeline.Block{Kind: pipeline.BlockParagraph, Start: s.start, End: s.end, Page: page})
		at.start = next
	}
	return blocks
}

// unit is the smallest thing the packer moves: a sentence, a row, a line, a
// heading, a table that fits, or a piece of what is too large.
type unit struct {
	span
	cost    int // quarter words
	rest    int // cost from here to the end of the section
	section int // index into packer.paths
	page    int
	kind    pipeline.BlockKind
	first   bool // begins a block
	prose   bool // a whole sentence: may be repeated as overlap
}

func (p *packer) addBlock(b pipeline.Block) {
	whole := span{b.Start, b.End}
	size := cost(p.doc.Text[b.Start:b.End])
	if b.Kind == pipeline.BlockHeading {
		p.openSection(b)
	}
	switch b.Kind {
	case pipeline.BlockTable, pipeline.BlockCode:
		if size <= p.maxBlock {
			p.addUnit(b, whole, size, false)
			return
		}
		p.addSpans(b, lines(p.doc.Text, whole, nil), false)
	case pipeline.BlockHeading:
		p.addSpans(b, []span{whole}, false)
	case pipeline.BlockListItem:
		if size <= p.target {
			p.addUnit(b, whole, size, true)
			return
		}
		p.addSpans(b, sentences(p.doc.Text, whole, nil), true)
	default:
		p.addSpans(b, sentences(p.doc.Text, whole, nil), true)
	}
}

// addSpans adds the parts of one block, cutting those that are too large.
func (p *packer) addSpans(b pipeline.Block, parts []span, prose bool) {
	for _, s := range parts {
		if size := cost(p.doc.Text[s.start:s.end]); size <= p.maxPlain {
			p.addUnit(b, s, size, prose)
			continue
		}
		for _, piece := range pieces(p.doc.Text, s, p.maxPlain, nil) {
			p.addUnit(b, piece, cost(p.doc.Text[piece.start:piece.end]), false)
		}
	}
}

func (p *packer) addUnit(b pipeline.Block, s span, size int, prose bool) {
	p.units = append(p.units, unit{
		span: s, cost: size, section: len(p.paths) - 1, page: b.Page, kind: b.Kind,
		first: b.Start == s.start, prose: prose,
	})
}

// openSection makes the heading path of what follows the heading b.
func (p *packer) openSection(b pipeline.Block) {
	level := min(max(b.Level, 1), 6)
	keep := len(p.levels)
	for keep > 0 && p.levels[keep-1] >= level {
		keep--
	}
	p.levels = append(p.levels[:keep], level)
	before := p.paths[len(p.paths)-1]
	path := make([]string, 0, keep+1)
	path = append(path, before[:keep]...)
	p.paths = append(p.paths, append(path, headingText(p.doc.Text[b.Start:b.End])))
}

// withoutMarks removes what makes a line a heading in Markdown, where the text
// is the source itself: leading and closing #, or an underline of = or -.
func withoutMarks(s string) string {
	s = strings.TrimSpace(s)
	if text, under, ok := strings.Cut(s, "\n"); ok && strings.Trim(strings.TrimSpace(under), "=-") == "" {
		s = text
	}
	if marks := len(s) - len(strings.TrimLeft(s, "#")); marks >= 1 && marks <= 6 && len(s) > marks && (s[marks] == ' ' || s[marks] == '\t') {
		s = strings.TrimSpace(s[marks:])
		if closed := strings.TrimRight(s, "#"); closed == "" || strings.HasSuffix(closed, " ") {
			s = closed
		}
	}
	return s
}

// headingText is a heading on one line, cut at maxHeadingBytes.
func headingText(s string) string {
	if len(s) > 4*maxHeadingBytes {
		s = s[:4*maxHeadingBytes]
	}
	s = strings.Join(strings.Fields(withoutMarks(strings.ToValidUTF8(s, ""))), " ")
	if len(s) <= maxHeadingBytes {
		return s
	}
	cut := maxHeadingBytes
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}
