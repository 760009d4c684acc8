package e2e

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"strings"
)

// entry is a file of an archive.
type entry struct{ name, data string }

func archive(entries ...entry) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		w, _ := z.Create(e.name)
		_, _ = io.WriteString(w, e.data)
	}
	_ = z.Close()
	return b.Bytes()
}

// contentTypes stands in every office file.
var contentTypes = entry{"[Content_Types].xml", `<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="xml" ContentType="application/xml"/><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/></Types>`}

func relations(list ...string) string {
	return `<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">` + strings.Join(list, "") + `</Relationships>`
}

const officeRelations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"

func relation(id, kind, target string) string {
	return fmt.Sprintf(`<Relationship Id="%s" Type="%s/%s" Target="%s"/>`, id, officeRelations, kind, target)
}

// word is a .docx whose body is raw XML.
func word(body string, more ...entry) []byte {
	return archive(append([]entry{contentTypes, {"_rels/.rels", relations(relation("r1", "officeDocument", "word/document.xml"))},
		{"word/document.xml", `<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>` + body + `</w:body></w:document>`}}, more...)...)
}

func wordText(text string) string { return `<w:p><w:r><w:t>` + text + `</w:t></w:r></w:p>` }

// slides is a .pptx with one slide of raw XML.
func slides(shapes string, more ...entry) []byte {
	return archive(append([]entry{contentTypes, {"_rels/.rels", relations(relation("r1", "officeDocument", "ppt/presentation.xml"))},
		{"ppt/presentation.xml", `<p:presentation xmlns:p="p" xmlns:r="` + officeRelations + `"><p:sldIdLst><p:sldId id="256" r:id="rId1"/></p:sldIdLst></p:presentation>`},
		{"ppt/_rels/presentation.xml.rels", relations(relation("rId1", "slide", "slides/slide1.xml"))},
		{"ppt/slides/slide1.xml", `<p:sld xmlns:p="p" xmlns:a="a"><p:cSld><p:spTree>` + shapes + `</p:spTree></p:cSld></p:sld>`}}, more...)...)
}

func slideText(text string) string {
	return `<p:sp><p:nvSpPr><p:nvPr><p:ph idx="1"/></p:nvPr></p:nvSpPr><p:txBody><a:p><a:r><a:t>` + text + `</a:t></a:r></a:p></p:txBody></p:sp>`
}

// sheet is an .xlsx with one sheet of raw rows.
func sheet(rows string, more ...entry) []byte {
	const main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
	return archive(append([]entry{contentTypes, {"_rels/.rels", relations(relation("r1", "officeDocument", "xl/workbook.xml"))},
		{"xl/workbook.xml", `<workbook xmlns="` + main + `" xmlns:r="` + officeRelations + `"><sheets><sheet name="Stock" sheetId="1" r:id="rId1"/></sheets></workbook>`},
		{"xl/_rels/workbook.xml.rels", relations(relation("rId1", "worksheet", "worksheets/sheet1.xml"))},
		{"xl/worksheets/sheet1.xml", `<worksheet xmlns="` + main + `"><sheetData>` + rows + `</sheetData></worksheet>`}}, more...)...)
}

func sheetText(text string) string {
	return `<row r="1"><c r="A1" t="inlineStr"><is><t>Note</t></is></c></row><row r="2"><c r="A2" t="inlineStr"><is><t>` + text + `</t></is></c></row>`
}

// book is an .epub with one chapter of raw XHTML.
func book(body string, more ...entry) []byte {
	return archive(append([]entry{{"mimetype", "application/epub+zip"},
		{"META-INF/container.xml", `<container><rootfiles><rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>`},
		{"OEBPS/content.opf", `<package xmlns:dc="dc"><metadata><dc:title>The Mill</dc:title></metadata><manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="a"/></spine></package>`},
		{"OEBPS/a.xhtml", `<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body>` + body + `</body></html>`}}, more...)...)
}

// pdf makes a PDF of objects, the first of which is the catalogue, with a
// correct cross-reference table.
func pdf(objects ...string) []byte {
	var b bytes.Buffer
	b.WriteString("%PDF-1.4\n")
	offsets := make([]int, len(objects))
	for i, o := range objects {
		offsets[i] = b.Len()
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", i+1, o)
	}
	xref := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(objects)+1)
	for _, o := range offsets {
		fmt.Fprintf(&b, "%010d 00000 n \n", o)
	}
	fmt.Fprintf(&b, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(objects)+1, xref)
	return b.Bytes()
}

const (
	pdfCatalog = "<< /Type /Catalog /Pages 2 0 R >>"
	pdfFont    = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
	pdfPage    = "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
)

func pdfStream(dict, data string) string {
	return fmt.Sprintf("<< /Length %d %s >>\nstream\n%s\nendstream", len(data), dict, data)
}

func pdfText(text string) []byte {
	return pdf(pdfCatalog, "<< /Type /Pages /Count 1 /Kids [4 0 R] >>", pdfFont, pdfPage,
		pdfStream("", "BT /F1 11 Tf 72 700 Td ("+text+") Tj ET"))
}

// goodFile makes a small good file of a type, with a text in it.
func goodFile(kind, text string) []byte {
	switch kind {
	case "md":
		return []byte("# Stock\n\n" + text + "\n")
	case "html":
		return []byte("<!doctype html><html><body><h1>Stock</h1><p>" + text + "</p></body></html>")
	case "pdf":
		return pdfText(text)
	case "docx":
		return word(wordText(text))
	case "pptx":
		return slides(slideText(text))
	case "xlsx":
		return sheet(sheetText(text))
	case "csv":
		return []byte("id,note\n1," + text + "\n")
	case "json":
		return fmt.Appendf(nil, `{"id":1,"note":%q}`, text)
	case "xml":
		return []byte("<stock><note>" + text + "</note></stock>")
	case "epub":
		return book("<h1>Stock</h1><p>" + text + "</p>")
	case "go":
		return []byte("package stock\n\n// Note: " + text + "\nconst Bins = 7\n")
	}
	return []byte(text + "\n")
}

// kinds are the types of files the server takes.
var kinds = []string{"txt", "md", "html", "pdf", "docx", "pptx", "xlsx", "csv", "json", "xml", "epub", "go"}
