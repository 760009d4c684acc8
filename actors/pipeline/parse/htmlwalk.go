package parse

import (
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"granary.dev/granary/actors/pipeline"
)

// htmlWalk turns a tree of elements into blocks. Text of inline elements
// gathers until a block element begins or ends.
type htmlWalk struct {
	b      *builder
	noNav  bool // leave out navigation, headers, footers and asides
	inline strings.Builder
	item   bool // the next flush is the first text of a list item
	quote  int  // depth of quotations
}

// blocks walks the children of n; nesting is bounded by parseDOM.
func (w *htmlWalk) blocks(n *html.Node) error {
	if err := w.children(n); err != nil {
		return err
	}
	return w.flush()
}

func (w *htmlWalk) children(n *html.Node) error {
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		var err error
		switch c.Type {
		case html.TextNode:
			w.inline.WriteString(c.Data)
		case html.ElementNode:
			err = w.element(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// element handles one element by its role.
func (w *htmlWalk) element(n *html.Node) error {
	switch {
	case isDropped(n) || w.noNav && isNavigation(n):
		w.inline.WriteByte(' ')
		return nil
	case n.DataAtom == atom.Br:
		w.inline.WriteString(lineBreak)
		return nil
	case !isBlockElement(n.DataAtom):
		return w.children(n)
	}
	if err := w.flush(); err != nil {
		return err
	}
	switch n.DataAtom {
	case atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6:
		w.item = false
		return w.b.heading(int(n.Data[1]-'0'), textOf(n))
	case atom.Pre, atom.Listing, atom.Xmp, atom.Textarea:
		w.item = false
		return w.b.add(pipeline.BlockCode, 0, textOf(n))
	case atom.Table:
		if rows, header, ok := dataTable(n); ok {
			return w.b.table(header, rows)
		}
	case atom.Blockquote:
		w.quote++
		defer func() { w.quote-- }()
	case atom.Li, atom.Dt:
		w.item = true
	}
	if err := w.children(n); err != nil {
		return err
	}
	err := w.flush()
	if n.DataAtom == atom.Li || n.DataAtom == atom.Dt {
		w.item = false
	}
	return err
}

// lineBreak stands for <br> until white space has been collapsed.
const lineBreak = "\x00"

// flush makes a block of the inline text gathered so far.
func (w *htmlWalk) flush() error {
	if w.inline.Len() == 0 {
		return nil
	}
	text := collapse(w.inline.String())
	w.inline.Reset()
	if strings.Contains(text, lineBreak) {
		parts := strings.Split(text, lineBreak)
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		text = strings.TrimSpace(strings.Join(parts, "\n"))
	}
	if text == "" {
		return nil
	}
	kind := pipeline.BlockParagraph
	switch {
	case w.item:
		kind, w.item = pipeline.BlockListItem, false
	case w.quote > 0:
		kind = pipeline.BlockQuote
	}
	return w.b.add(kind, 0, text)
}

// textOf is all text below n as it stands in the source.
func textOf(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		switch {
		case c.Type == html.TextNode && !isDropped(c.Parent):
			b.WriteString(c.Data)
		case c.DataAtom == atom.Br:
			b.WriteByte('\n')
		case c.Type == html.ElementNode && isBlockElement(c.DataAtom):
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// dataTable reads a table of data. Tables for layout, which hold other tables,
// headings or a single column, are not: their content is walked as any other.
func dataTable(table *html.Node) (rows [][]string, header []string, ok bool) {
	columns := 0
	var last *html.Node
	for n := range table.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.DataAtom {
		case atom.Table, atom.H1, atom.H2, atom.H3, atom.Pre, atom.Ul, atom.Ol:
			return nil, nil, false
		case atom.Tr:
			last = n
			row, heads := tableRow(n)
			if len(rows) == 0 && header == nil && heads == len(row) && heads > 1 {
				header = row
			} else {
				rows = append(rows, row)
			}
			columns = max(columns, len(row))
		}
	}
	if columns < 2 || last == nil {
		return nil, nil, false
	}
	switch {
	case len(rows) == 0:
		rows, header = [][]string{header}, nil
	case header == nil:
		if header = headerOf(rows[0], len(rows) > 1); header != nil {
			rows = rows[1:]
		}
	}
	return rows, header, true
}

// tableRow reads the cells of a row and counts its header cells.
func tableRow(tr *html.Node) (cells []string, heads int) {
	for c := tr.FirstChild; c != nil; c = c.NextSibling {
		switch c.DataAtom {
		case atom.Th:
			heads++
			cells = append(cells, collapse(textOf(c)))
		case atom.Td:
			cells = append(cells, collapse(textOf(c)))
		}
	}
	return cells, heads
}

// isDropped tells elements whose content is not text for readers.
func isDropped(n *html.Node) bool {
	if n == nil || n.Type != html.ElementNode {
		return false
	}
	switch n.DataAtom {
	case atom.Head, atom.Script, atom.Style, atom.Noscript, atom.Template, atom.Svg, atom.Iframe, atom.Object,
		atom.Embed, atom.Canvas, atom.Audio, atom.Video, atom.Select, atom.Button, atom.Noframes:
		return true
	}
	for _, a := range n.Attr {
		switch {
		case a.Key == "hidden",
			a.Key == "style" && strings.Contains(strings.ReplaceAll(strings.ToLower(a.Val), " ", ""), "display:none"):
			return true
		}
	}
	return false
}

// isNavigation tells parts of a page that are the same on every page.
func isNavigation(n *html.Node) bool {
	switch n.DataAtom {
	case atom.Nav, atom.Aside, atom.Footer:
		return true
	case atom.Header:
		return n.Parent != nil && n.Parent.DataAtom == atom.Body
	}
	switch attribute(n, "role") {
	case "navigation", "banner", "contentinfo", "complementary", "search":
		return true
	}
	return false
}

func isBlockElement(a atom.Atom) bool {
	switch a {
	case atom.Address, atom.Article, atom.Aside, atom.Blockquote, atom.Body, atom.Caption, atom.Center, atom.Dd, atom.Details,
		atom.Dialog, atom.Dir, atom.Div, atom.Dl, atom.Dt, atom.Fieldset, atom.Figcaption, atom.Figure, atom.Footer,
		atom.Form, atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6, atom.Header, atom.Hgroup, atom.Hr, atom.Html,
		atom.Legend, atom.Li, atom.Listing, atom.Main, atom.Menu, atom.Nav, atom.Ol, atom.Option, atom.P, atom.Pre,
		atom.Search, atom.Section, atom.Summary, atom.Table, atom.Tbody, atom.Td, atom.Textarea, atom.Tfoot, atom.Th,
		atom.Thead, atom.Tr, atom.Ul, atom.Xmp:
		return true
	}
	return false
}
