package parse

import (
	"archive/zip"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/xuri/excelize/v2"
)

// entry is a file of a test archive.
type entry struct{ name, data string }

func makeZip(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, e := range entries {
		f, err := w.Create(e.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

const coreXML = `<?xml version="1.0" encoding="UTF-8"?><cp:coreProperties xmlns:cp="x" xmlns:dc="y" xmlns:dcterms="z">
<dc:title>Annual report</dc:title><dc:creator>Ada</dc:creator><dcterms:created>2024-05-01T00:00:00Z</dcterms:created></cp:coreProperties>`

func makeDOCX(t testing.TB, body string) []byte {
	return makeZip(t,
		entry{"[Content_Types].xml", `<Types/>`},
		entry{"docProps/core.xml", coreXML},
		entry{"word/styles.xml", `<w:styles xmlns:w="w">
			<w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
			<w:style w:styleId="Sub"><w:name w:val="My Sub"/><w:basedOn w:val="H2"/></w:style>
			<w:style w:styleId="H2"><w:name w:val="heading 2"/></w:style>
			<w:style w:styleId="Loop"><w:name w:val="loop"/><w:basedOn w:val="Loop"/></w:style></w:styles>`},
		entry{"word/document.xml", `<?xml version="1.0"?><w:document xmlns:w="w" xmlns:mc="mc"><w:body>` + body + `</w:body></w:document>`},
		entry{"word/footnotes.xml", `<w:footnotes xmlns:w="w"><w:footnote><w:p><w:r><w:t>See the appendix.</w:t></w:r></w:p></w:footnote></w:footnotes>`},
	)
}

// para is a Word paragraph.
func para(style, text string) string {
	p := ""
	if style != "" {
		p = `<w:pPr><w:pStyle w:val="` + style + `"/></w:pPr>`
	}
	return `<w:p>` + p + `<w:r><w:t>` + text + `</w:t></w:r></w:p>`
}

const docxBody = `<w:p><w:pPr><w:pStyle w:val="berschrift1"/></w:pPr><w:r><w:t>Intro</w:t></w:r></w:p>` +
	`<w:p><w:r><w:t xml:space="preserve">Grain is </w:t></w:r><w:r><w:t>stored dry.</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>` +
	`<w:p><w:pPr><w:pStyle w:val="Sub"/></w:pPr><w:r><w:t>Kinds</w:t></w:r></w:p>` +
	`<w:p><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr><w:r><w:t>wheat</w:t></w:r></w:p>` +
	`<w:p><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr><w:r><w:t>rye</w:t></w:r></w:p>` +
	`<w:tbl><w:tr><w:tc><w:p><w:r><w:t>Name</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>Tons</w:t></w:r></w:p></w:tc></w:tr>` +
	`<w:tr><w:tc><w:p><w:r><w:t>wheat</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>12</w:t></w:r></w:p></w:tc></w:tr></w:tbl>` +
	`<mc:AlternateContent><mc:Choice><w:p><w:r><w:t>boxed</w:t></w:r></w:p></mc:Choice><mc:Fallback><w:p><w:r><w:t>boxed</w:t></w:r></w:p></mc:Fallback></mc:AlternateContent>`

func makePPTX(t testing.TB) []byte {
	slide := func(title, item string) string {
		return `<p:sld xmlns:p="p" xmlns:a="a"><p:cSld><p:spTree>` +
			`<p:sp><p:nvSpPr><p:nvPr><p:ph type="title"/></p:nvPr></p:nvSpPr><p:txBody><a:p><a:r><a:t>` + title + `</a:t></a:r></a:p></p:txBody></p:sp>` +
			`<p:sp><p:nvSpPr><p:nvPr><p:ph idx="1"/></p:nvPr></p:nvSpPr><p:txBody><a:p><a:r><a:t>` + item + `</a:t></a:r></a:p></p:txBody></p:sp>` +
			`<p:sp><p:nvSpPr><p:nvPr><p:ph type="sldNum"/></p:nvPr></p:nvSpPr><p:txBody><a:p><a:fld><a:t>7</a:t></a:fld></a:p></p:txBody></p:sp>` +
			`<p:graphicFrame><a:tbl><a:tr><a:tc><a:txBody><a:p><a:r><a:t>Year</a:t></a:r></a:p></a:txBody></a:tc><a:tc><a:txBody><a:p><a:r><a:t>Yield</a:t></a:r></a:p></a:txBody></a:tc></a:tr>` +
			`<a:tr><a:tc><a:txBody><a:p><a:r><a:t>2024</a:t></a:r></a:p></a:txBody></a:tc><a:tc><a:txBody><a:p><a:r><a:t>9</a:t></a:r></a:p></a:txBody></a:tc></a:tr></a:tbl></p:graphicFrame>` +
			`</p:spTree></p:cSld></p:sld>`
	}
	return makeZip(t,
		entry{"[Content_Types].xml", `<Types/>`},
		entry{"ppt/presentation.xml", `<p:presentation xmlns:p="p" xmlns:r="r"><p:sldIdLst><p:sldId id="256" r:id="rId2"/><p:sldId id="257" r:id="rId1"/></p:sldIdLst></p:presentation>`},
		entry{"ppt/_rels/presentation.xml.rels", `<Relationships><Relationship Id="rId1" Type="x/slide" Target="slides/slide1.xml"/><Relationship Id="rId2" Type="x/slide" Target="/ppt/slides/slide2.xml"/></Relationships>`},
		entry{"ppt/slides/slide1.xml", slide("Second", "rye")},
		entry{"ppt/slides/slide2.xml", slide("First", "wheat")},
		entry{"ppt/slides/_rels/slide2.xml.rels", `<Relationships><Relationship Id="rId1" Type="x/notesSlide" Target="../notesSlides/n1.xml"/></Relationships>`},
		entry{"ppt/notesSlides/n1.xml", `<p:notes xmlns:p="p" xmlns:a="a"><p:sp><p:nvSpPr><p:nvPr><p:ph type="body"/></p:nvPr></p:nvSpPr><p:txBody><a:p><a:r><a:t>Say hello.</a:t></a:r></a:p></p:txBody></p:sp></p:notes>`},
	)
}

func makeXLSX(t testing.TB) []byte {
	f := excelize.NewFile()
	for cell, v := range map[string]any{
		"A1": "Product", "B1": "Price", "A2": "Wheat", "B2": 12.5, "A4": "Rye", "B4": 9,
	} {
		if err := f.SetCellValue("Sheet1", cell, v); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.NewSheet("Other"); err != nil {
		t.Fatal(err)
	}
	if err := f.SetCellValue("Other", "C3", "alone"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.NewSheet("Secret"); err != nil {
		t.Fatal(err)
	}
	if err := f.SetSheetVisible("Secret", false); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := f.Write(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func makeEPUB(t testing.TB, extra ...entry) []byte {
	chapter := func(title, text string) string {
		return `<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body><h1>` + title + `</h1><p>` + text + `</p></body></html>`
	}
	return makeZip(t, append([]entry{
		{"mimetype", "application/epub+zip"},
		{"META-INF/container.xml", `<container><rootfiles><rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>`},
		{"OEBPS/content.opf", `<package xmlns:dc="dc"><metadata><dc:title>The Mill</dc:title><dc:language>en-GB</dc:language><dc:creator>Bo</dc:creator></metadata>
			<manifest><item id="b" href="b%20two.xhtml" media-type="application/xhtml+xml"/><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/><item id="gone" href="gone.xhtml" media-type="application/xhtml+xml"/></manifest>
			<spine><itemref idref="a"/><itemref idref="b"/><itemref idref="gone"/></spine></package>`},
		{"OEBPS/a.xhtml", chapter("One", "The wheel turns.")},
		{"OEBPS/b two.xhtml", chapter("Two", "The stone grinds.")},
	}, extra...)...)
}

// pdfBuilder writes a PDF by hand, with its cross-reference table.
type pdfBuilder struct {
	bytes.Buffer
	offsets []int
}

func (p *pdfBuilder) object(body string) {
	p.offsets = append(p.offsets, p.Len())
	fmt.Fprintf(p, "%d 0 obj\n%s\nendobj\n", len(p.offsets), body)
}

func (p *pdfBuilder) stream(data string) {
	p.object(fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", len(data), data))
}

func (p *pdfBuilder) finish(trailer string) []byte {
	xref := p.Len()
	fmt.Fprintf(p, "xref\n0 %d\n0000000000 65535 f \n", len(p.offsets)+1)
	for _, o := range p.offsets {
		fmt.Fprintf(p, "%010d 00000 n \n", o)
	}
	fmt.Fprintf(p, "trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n", len(p.offsets)+1, trailer, xref)
	return p.Bytes()
}

// makePDF makes a page of every content stream.
func makePDF(trailer string, extra []string, contents ...string) []byte {
	p := &pdfBuilder{}
	p.WriteString("%PDF-1.4\n")
	p.object("<< /Type /Catalog /Pages 2 0 R >>")
	kids := make([]string, len(contents))
	for i := range contents {
		kids[i] = fmt.Sprintf("%d 0 R", 4+2*i)
	}
	p.object(fmt.Sprintf("<< /Type /Pages /Count %d /Kids [%s] >>", len(contents), strings.Join(kids, " ")))
	p.object("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
	for i, c := range contents {
		p.object(fmt.Sprintf("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources << /Font << /F1 3 0 R >> >> >>", 5+2*i))
		p.stream(c)
	}
	for _, e := range extra {
		p.object(e)
	}
	return p.finish(trailer)
}

// pdfText sets lines of a size from a height downwards, 1.2 apart.
func pdfText(size, y float64, lines ...string) string {
	var b strings.Builder
	for i, l := range lines {
		fmt.Fprintf(&b, "BT /F1 %g Tf 72 %g Td (%s) Tj ET\n", size, y-float64(i)*size*1.2, l)
	}
	return b.String()
}

func samplePDF() []byte {
	return makePDF("/Info 8 0 R", []string{"<< /Title (Mill handbook) /Author (Bo) >>"},
		pdfText(24, 720, "Grinding")+
			pdfText(11, 680, "The upper stone turns on the lower one", "and the grain is cut between them.")+
			pdfText(11, 630, "A second paragraph follows here", "after a wider gap."),
		pdfText(11, 700, "Text of the second page."),
	)
}

// encryptedPDF names a key that no empty password opens.
func encryptedPDF() []byte {
	key := strings.Repeat("ab", 32)
	return makePDF("/Encrypt 6 0 R /ID [<00><00>]",
		[]string{"<< /Filter /Standard /V 1 /R 2 /P -4 /O <" + key + "> /U <" + key + "> >>"}, pdfText(11, 700, "secret"))
}

const sampleMarkdown = "---\ntitle: Mill guide\nlang: en\n---\n\n# The *Mill*\n\nIntro text\nin two lines.\n\nSetext\n------\n\n- one\n- two\n  - nested\n\n    more of nested\n\n1. first\n\n> quoted\n> again\n\n```go\nfunc main() {\n\n}\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n***\n\n    indented code\n\n<div>\nraw\n</div>\n\nEnd ##\n"

const sampleHTML = `<!DOCTYPE html><html lang="de-AT"><head><meta charset="utf-8"><title>Die M&uuml;hle</title><meta name="author" content="Bo"><style>.x{}</style></head>
<body><nav><a href="/">Start</a> <a href="/b">Shop</a></nav><main><h1>Die Mühle</h1><p>Das Korn wird <b>zwischen</b> den<br>Steinen <a href="x">gemahlen</a>.</p>
<script>alert("no")</script><ul><li>Weizen</li><li>Roggen<ul><li>Waldstaude</li></ul></li></ul>
<table><tr><th>Sorte</th><th>Preis</th></tr><tr><td>Weizen</td><td>12</td></tr></table>
<pre>a
  b</pre><blockquote><p>Gut Ding.</p></blockquote><p hidden>versteckt</p></main><footer>Impressum</footer></body></html>`
