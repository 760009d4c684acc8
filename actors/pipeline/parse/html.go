package parse

import (
	"net/url"
	"strings"

	readability "codeberg.org/readeck/go-readability/v2"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"granary.dev/granary/actors/pipeline"
)

// Readability scores every element against its neighbours, several times over;
// pages beyond these sizes are lists and dumps rather than articles.
const (
	readabilityMaxBytes    = 2 << 20
	readabilityMaxElements = 20_000
	readabilityMinText     = 250 // bytes; less is not an article
)

// parseHTML extracts the article of a page if it finds one that holds most of
// the page's text, else all of the page but its navigation, else all of it.
func (j *job) parseHTML(t decoded) (*pipeline.Parsed, error) {
	doc, err := j.parseDOM(t.text)
	if err != nil {
		return nil, err
	}
	b, err := j.pageBody(doc, t)
	if err != nil {
		return nil, err
	}
	out := b.done(typeHTML)
	out.Charset, out.Warnings = t.charset, t.warnings
	head := readHead(doc)
	out.Metadata = head.meta
	out.Title = firstOf(head.title, head.meta["title"])
	out.Language = firstOf(languageTag(head.lang), out.Language)
	return out, nil
}

// parseDOM parses HTML and checks its nesting.
func (j *job) parseDOM(src string) (*html.Node, error) {
	doc, err := html.ParseWithOptions(strings.NewReader(src), html.ParseOptionEnableScripting(false))
	if err != nil {
		// Reading from memory, the parser fails on its own cap of nesting only.
		return nil, fail(ReasonTooDeep, "the page is nested too deep", err)
	}
	depth := 0
	for n := doc; n != nil; {
		switch {
		case n.FirstChild != nil:
			n, depth = n.FirstChild, depth+1
			if depth > j.lim.Depth+2 { // the document and <html> are not the author's
				return nil, tooDeep(j.lim)
			}
			continue
		case n.NextSibling != nil:
			n = n.NextSibling
			continue
		}
		for n = n.Parent; n != nil && n.NextSibling == nil; n = n.Parent {
			depth--
		}
		if n != nil {
			n, depth = n.NextSibling, depth-1
		}
	}
	return doc, j.alive()
}

// pageBody picks the part of the page worth keeping.
func (j *job) pageBody(doc *html.Node, t decoded) (*builder, error) {
	main, err := j.blocksOf(doc, true)
	if err != nil {
		return nil, err
	}
	if article := j.article(doc, t); article != nil {
		b, err := j.blocksOf(article, false)
		if err != nil {
			return nil, err
		}
		if b.text.Len() >= readabilityMinText && b.text.Len()*2 >= main.text.Len() {
			return b, nil
		}
	}
	if main.text.Len() > 0 {
		return main, nil
	}
	return j.blocksOf(doc, false)
}

// article runs readability; nil when it is not worth trying or finds nothing.
func (j *job) article(doc *html.Node, t decoded) *html.Node {
	if len(t.text) > readabilityMaxBytes {
		return nil
	}
	p := readability.NewParser()
	p.MaxElemsToParse = readabilityMaxElements
	a, err := p.ParseDocument(doc, &url.URL{})
	if err != nil || a.Node == nil {
		return nil
	}
	// The article's own title is taken out of its body; it belongs to the text.
	if title := collapse(a.Title()); title != "" && !startsWithHeading(a.Node) {
		h := &html.Node{Type: html.ElementNode, Data: "h1", DataAtom: atom.H1}
		h.AppendChild(&html.Node{Type: html.TextNode, Data: title})
		a.Node.InsertBefore(h, a.Node.FirstChild)
	}
	return a.Node
}

// startsWithHeading tells whether the first element with text is a <h1>.
func startsWithHeading(root *html.Node) bool {
	for n := range root.Descendants() {
		if n.DataAtom == atom.H1 {
			return true
		}
		if n.Type == html.TextNode && strings.TrimSpace(n.Data) != "" {
			return false
		}
	}
	return false
}

// blocksOf extracts the blocks below root.
func (j *job) blocksOf(root *html.Node, withoutNavigation bool) (*builder, error) {
	w := &htmlWalk{b: j.newBuilder(), noNav: withoutNavigation}
	err := w.blocks(root)
	return w.b, err
}

// htmlHead is what the page says of itself.
type htmlHead struct {
	title, lang string
	meta        map[string]string
}

// readHead reads <title>, <meta> and the language of the page.
func readHead(doc *html.Node) htmlHead {
	h := htmlHead{meta: map[string]string{}}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.DataAtom {
		case atom.Html:
			h.lang = firstOf(attribute(n, "lang"), attribute(n, "xml:lang"))
		case atom.Title:
			if h.title == "" && n.Namespace == "" && n.FirstChild != nil {
				h.title = collapse(stripControl(n.FirstChild.Data))
			}
		case atom.Meta:
			name := strings.ToLower(firstOf(attribute(n, "name"), attribute(n, "property")))
			if key := metaKey(name); key != "" {
				setMeta(h.meta, key, attribute(n, "content"))
			}
		case atom.Body:
			return h
		}
	}
	return h
}

func metaKey(name string) string {
	switch name {
	case "author", "description", "keywords":
		return name
	case "og:title":
		return "title"
	case "article:published_time", "date", "dc.date":
		return "created"
	case "article:modified_time":
		return "modified"
	}
	return ""
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}
