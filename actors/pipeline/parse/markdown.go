package parse

import (
	"bytes"
	"strings"

	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	extast "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"

	"granary.dev/granary/actors/pipeline"
)

// parseMarkdown finds the blocks of Markdown in their source.
//
// Only goldmark's block parsers run: inline markup stays in the text, so that
// offsets hold, and the inline parsers are where hostile input costs quadratic
// time (unclosed brackets, runs of emphasis). Nesting of quotations and lists,
// which costs lines × depth, is capped before the parser sees it.
func (j *job) parseMarkdown(t decoded) (*pipeline.Parsed, error) {
	src := []byte(t.text)
	if markdownDepth(t.text, j.lim.Depth) {
		return nil, tooDeep(j.lim)
	}
	front := frontMatterEnd(t.text)
	// The front matter is blanked, not cut, so that offsets stay.
	body := bytes.Clone(src)
	for i := range body[:front] {
		if body[i] != '\n' {
			body[i] = ' '
		}
	}
	doc := markdownParser().Parse(text.NewReader(body))
	m := markdown{src: t.text}
	if front > 0 {
		m.add(pipeline.BlockCode, 0, 0, front)
	}
	if err := ast.Walk(doc, m.visit); err != nil {
		return nil, fail(ReasonMalformed, "the Markdown could not be read", err)
	}
	m.leftover(len(t.text))
	out, err := j.sourceResult(t, typeMarkdown, m.blocks)
	if err != nil {
		return nil, err
	}
	out.Metadata = frontMatter(t.text[:front])
	out.Title = firstOf(out.Metadata["title"], m.title)
	out.Language = firstOf(languageTag(out.Metadata["lang"]), languageTag(out.Metadata["language"]), out.Language)
	return out, nil
}

// markdownParser makes a parser of blocks and tables.
func markdownParser() parser.Parser {
	return parser.NewParser(
		parser.WithBlockParsers(parser.DefaultBlockParsers()...),
		parser.WithParagraphTransformers(util.Prioritized(extension.NewTableParagraphTransformer(), 200)),
	)
}

// markdown collects the blocks while the tree is walked in source order.
type markdown struct {
	src    string
	blocks []pipeline.Block
	end    int // end of the last block
	title  string
}

// visit handles the nodes that hold lines of text; containers only pass on.
func (m *markdown) visit(n ast.Node, entering bool) (ast.WalkStatus, error) {
	if !entering || n.Type() == ast.TypeInline {
		return ast.WalkContinue, nil
	}
	switch n := n.(type) {
	case *ast.Heading:
		start, end := m.span(n)
		if n.Parent().Kind() != ast.KindDocument {
			m.add(leafKind(n), 0, start, end) // opens no section of the document
			break
		}
		if after := nextLine(m.src, end); isSetextLine(after) && !strings.HasPrefix(strings.TrimLeft(m.src[m.lineStart(start):end], " >\t"), "#") {
			end += 1 + len(after)
		}
		m.add(pipeline.BlockHeading, n.Level, start, end)
		if m.title == "" || n.Level == 1 && !m.hasTitle() {
			m.title = plainMarkdown(linesText(n, m.src))
		}
	case *ast.FencedCodeBlock:
		start, end := m.span(n)
		if after := nextLine(m.src, end); isFence(after) && n.Lines().Len() > 0 {
			end += 1 + len(after)
		}
		m.add(pipeline.BlockCode, 0, start, end)
	case *ast.CodeBlock:
		start, end := m.span(n)
		m.add(pipeline.BlockCode, 0, start, end)
	case *extast.Table:
		start, end := m.span(n)
		if after := nextLine(m.src, end); isDelimiterRow(after) {
			end += 1 + len(after) // a table of nothing but its header
		}
		m.add(pipeline.BlockTable, 0, start, end)
		return ast.WalkSkipChildren, nil
	case *ast.Paragraph, *ast.TextBlock, *ast.HTMLBlock:
		start, end := m.span(n)
		m.add(leafKind(n), 0, start, end)
	}
	return ast.WalkContinue, nil
}

// hasTitle tells whether a heading of level 1 has given the title.
func (m *markdown) hasTitle() bool {
	for _, b := range m.blocks[:len(m.blocks)-1] {
		if b.Kind == pipeline.BlockHeading && b.Level == 1 {
			return true
		}
	}
	return false
}

// leafKind is the kind of a run of text by what contains it.
func leafKind(n ast.Node) pipeline.BlockKind {
	switch p := n.Parent(); {
	case p.Kind() == ast.KindListItem && n.PreviousSibling() == nil:
		return pipeline.BlockListItem
	case p.Kind() == ast.KindBlockquote:
		return pipeline.BlockQuote
	}
	return pipeline.BlockParagraph
}

// span is the range of the lines of n and of what is below it.
func (m *markdown) span(n ast.Node) (start, end int) {
	start, end = len(m.src), 0
	if p := n.Pos(); p >= 0 {
		start, end = min(p, len(m.src)), min(p, len(m.src))
	}
	grow := func(n ast.Node) {
		for i := range n.Lines().Len() {
			seg := n.Lines().At(i)
			start, end = min(start, seg.Start), max(end, seg.Stop)
		}
	}
	grow(n)
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		if c.Type() != ast.TypeBlock {
			continue
		}
		grow(c)
		for cc := c.FirstChild(); cc != nil; cc = cc.NextSibling() {
			if cc.Type() == ast.TypeBlock {
				grow(cc)
			}
		}
	}
	if end > start && end <= len(m.src) && m.src[end-1] == '\n' {
		end--
	}
	return start, max(start, end)
}

// add appends a block grown to whole lines, so that it includes its markers.
// What stands between it and the block before becomes a paragraph of its own:
// nothing of the source lies outside of blocks.
func (m *markdown) add(kind pipeline.BlockKind, level, start, end int) {
	start = max(m.lineStart(start), m.end)
	if i := strings.IndexByte(m.src[min(end, len(m.src)):], '\n'); i >= 0 {
		end += i
	} else {
		end = len(m.src)
	}
	m.leftover(start)
	if end <= m.end {
		return // on the line of the block before, which has taken it
	}
	before := len(m.blocks)
	m.blocks = appendBlock(m.blocks, kind, m.src, start, end)
	if len(m.blocks) > before {
		m.blocks[before].Level = level
	}
	m.end = end
}

// leftover covers what no node covers: thematic breaks, empty list items.
func (m *markdown) leftover(upTo int) {
	if upTo > m.end {
		m.blocks = appendBlock(m.blocks, pipeline.BlockParagraph, m.src, m.end, upTo)
		m.end = upTo
	}
}

func (m *markdown) lineStart(pos int) int { return strings.LastIndexByte(m.src[:pos], '\n') + 1 }

// nextLine is the line after the one that ends at pos, "" at the end of text.
func nextLine(src string, pos int) string {
	if pos >= len(src) || src[pos] != '\n' {
		return ""
	}
	line, _, _ := strings.Cut(src[pos+1:], "\n")
	return line
}

func isSetextLine(line string) bool {
	line = strings.Trim(line, " >\t\r")
	return line != "" && (strings.Trim(line, "=") == "" || strings.Trim(line, "-") == "")
}

func isFence(line string) bool {
	line = strings.Trim(line, " >\t\r")
	return len(line) >= 3 && (strings.Trim(line, "`") == "" || strings.Trim(line, "~") == "")
}

func isDelimiterRow(line string) bool {
	return strings.Contains(line, "-") && strings.Trim(line, " >\t\r|:-") == ""
}

// linesText joins the lines of a node.
func linesText(n ast.Node, src string) string {
	var b strings.Builder
	for i := range n.Lines().Len() {
		seg := n.Lines().At(i)
		b.WriteString(src[seg.Start:seg.Stop])
	}
	return b.String()
}

// plainMarkdown drops the commonest inline markup from a heading.
func plainMarkdown(s string) string {
	s = strings.NewReplacer("**", "", "__", "", "`", "", "*", "").Replace(s)
	if open, rest, ok := strings.Cut(s, "["); ok {
		if label, after, ok := strings.Cut(rest, "]("); ok {
			if _, tail, ok := strings.Cut(after, ")"); ok {
				s = open + label + tail
			}
		}
	}
	return collapse(s)
}

// markdownDepth tells whether a line opens more containers than limit: each
// ">" and list marker is one, and so are each two columns of indentation
// before a marker, which nested lists need.
func markdownDepth(src string, limit int) bool {
	for _, line := range lines(src) {
		depth, indent := 0, 0
		for i := 0; i < len(line); {
			switch n := markerLen(line[i:]); {
			case line[i] == ' ':
				indent++
				i++
			case line[i] == '\t':
				indent += 4
				i++
			case n > 0:
				if depth++; depth+indent/2 > limit {
					return true
				}
				i += n
			default:
				i = len(line)
			}
		}
	}
	return false
}

// markerLen is the length of the container marker s starts with, 0 if none.
func markerLen(s string) int {
	n := 1
	switch c := s[0]; {
	case c == '>':
		return 1
	case c == '-' || c == '*' || c == '+':
	case c >= '0' && c <= '9':
		n = len(s) - len(strings.TrimLeft(s, "0123456789"))
		if n > 9 || n == len(s) || s[n] != '.' && s[n] != ')' {
			return 0
		}
		n++
	default:
		return 0
	}
	if n == len(s) || s[n] == ' ' || s[n] == '\t' {
		return n
	}
	return 0
}

// frontMatterEnd is the end of a leading block between "---" lines, 0 if none.
func frontMatterEnd(src string) int {
	first := strings.TrimRight(strings.SplitN(src, "\n", 2)[0], " \t\r")
	if first != "---" && first != "+++" {
		return 0
	}
	for pos, line := range lines(src) {
		switch line = strings.TrimRight(line, " \t\r"); {
		case pos == 0:
		case line == first || first == "---" && line == "...":
			return pos + len(line)
		case pos > 64<<10:
			return 0
		}
	}
	return 0
}

// frontMatter reads the flat "key: value" and "key = value" lines.
func frontMatter(src string) map[string]string {
	meta := map[string]string{}
	for _, line := range lines(src) {
		i := strings.IndexAny(line, ":=")
		if i <= 0 || isSpaceByte(line[0]) || line[0] == '-' || line[0] == '#' || len(meta) >= maxMetadata {
			continue
		}
		setMeta(meta, strings.ToLower(strings.TrimSpace(line[:i])), strings.Trim(strings.TrimSpace(line[i+1:]), `"'`))
	}
	return meta
}

// Metadata is kept small: it is stored and shown, not searched.
const (
	maxMetadata      = 64
	maxMetadataValue = 1024
)

// setMeta stores a value that says something.
func setMeta(meta map[string]string, key, value string) {
	value = collapse(stripControl(strings.ToValidUTF8(value, "\uFFFD")))
	if value == "" || len(key) > 64 {
		return
	}
	if len(value) > maxMetadataValue {
		value = strings.ToValidUTF8(value[:maxMetadataValue], "")
	}
	meta[key] = value
}

// firstOf is the first string that is not empty.
func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
