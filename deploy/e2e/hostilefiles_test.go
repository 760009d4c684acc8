package e2e

import (
	"archive/zip"
	"bytes"
	"compress/zlib"
	le "encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Outcomes of hostile files. A reason is one of the parser's stable ones.
const (
	ready        = "READY"
	readyEmpty   = "READY_EMPTY"
	malformed    = "MALFORMED"
	unsupported  = "UNSUPPORTED_TYPE"
	tooDeep      = "TOO_DEEP"
	archiveLarge = "ARCHIVE_TOO_LARGE"
	textLarge    = "TEXT_TOO_LARGE"
	manyPages    = "TOO_MANY_PAGES"
	encrypted    = "ENCRYPTED"
	encryptedPDF = "ENCRYPTED_PDF"
	starved      = "OUT_OF_MEMORY"
	timeout      = "TIMEOUT"
)

// hostile is a file and the ways it may end.
type hostile struct {
	name string
	data []byte
	want []string
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// damaged is every type cut short, overwritten and replaced by noise: good,
// empty or refused, but never a crash of the parser and never a time-out.
func damaged(r *rand.Rand, cuts int) (out []hostile) {
	any := []string{ready, readyEmpty, malformed, unsupported, encrypted, encryptedPDF, tooDeep}
	for _, kind := range kinds {
		good := goodFile(kind, "Barley lies in the "+kind+" bin that was damaged on its way.")
		for i := range cuts {
			cut := good[:len(good)*(2*i+1)/(2*cuts)]
			out = append(out, hostile{fmt.Sprintf("cut%d.%s", i, kind), cut, any})
			bad := bytes.Clone(good)
			for range 1 + len(bad)/50 {
				bad[r.IntN(len(bad))] = byte(r.Uint32())
			}
			out = append(out, hostile{fmt.Sprintf("flipped%d.%s", i, kind), bad, any})
		}
		out = append(out,
			hostile{"noise." + kind, noise(r, 20_000), []string{unsupported}},
			hostile{"head." + kind, append(bytes.Clone(good[:min(len(good), 16)]), noise(r, 20_000)...), any},
			hostile{"null." + kind, append([]byte(kind), make([]byte, 10_000)...), []string{unsupported}},
			hostile{"latin." + kind, append([]byte("\xff\xfe\xfd not UTF-8 \xc3( \xf0\x9f\x92 "+kind+" "), bytes.Repeat([]byte("\x80\xe9 text "), 50)...), any},
		)
	}
	return out
}

// bombs unpack to far more than they are.
func bombs() []hostile {
	spaces := strings.Repeat(" ", 20<<20)
	rows := strings.Repeat(`<row><c t="inlineStr"><is><t>x</t></is></c></row>`, 1<<20)
	many := make([]entry, 20_000)
	for i := range many {
		many[i] = entry{fmt.Sprintf("junk/%d.xml", i), ""}
	}
	nested := []byte("x")
	for i := range 30 {
		nested = archive(entry{fmt.Sprintf("level%d.zip", i), string(nested)}, entry{fmt.Sprintf("pad%d", i), spaces[:1<<20]})
	}
	large := []string{archiveLarge}
	return []hostile{
		{"bomb.docx", word(wordText(spaces)), large},
		{"bomb.pptx", slides(slideText(spaces)), large},
		{"bomb.xlsx", sheet(rows), []string{archiveLarge, textLarge}},
		{"strings.xlsx", sheet(sheetText("x"), entry{"xl/sharedStrings.xml", "<sst>" + spaces + "</sst>"}), large},
		{"unused.xlsx", sheet(sheetText("y"), entry{"xl/media/a.bin", spaces}), []string{archiveLarge, ready}},
		{"bomb.epub", book("<p>" + spaces + "</p>"), large},
		{"entries.docx", word(wordText("x"), many...), large},
		{"entries.epub", book("x", many...), large},
		{"nested.zip", nested, []string{unsupported}},
		{"nested.docx", word(wordText("the archive inside is not opened"), entry{"word/embeddings/a.zip", string(nested)}), []string{ready}},
		{"lying.docx", lying(word(wordText(spaces))), []string{archiveLarge, malformed}},
		{"lying.epub", lying(book("<p>" + spaces + "</p>")), []string{archiveLarge, malformed}},
		{"overlap.docx", overlapping(), []string{archiveLarge, malformed}},
		{"entity.xml", laughs(), []string{ready, malformed}},
		{"entity.docx", archive(contentTypes, entry{"word/document.xml", string(laughs())}), []string{ready, readyEmpty, malformed}},
		{"external.xml", []byte(`<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><a>&f; external</a>`), []string{ready, malformed}},
		// Where it meets the page limit of the PDF module first, the page cannot be read.
		{"flate.pdf", flateBomb(), []string{readyEmpty, malformed, starved, timeout}},
	}
}

// lying claims in both headers that every entry unpacks to one byte.
func lying(data []byte) []byte {
	data = bytes.Clone(data)
	for sign, at := range map[string]int{"PK\x01\x02": 24, "PK\x07\x08": 12} {
		for i := 0; ; i += 4 {
			n := bytes.Index(data[i:], []byte(sign))
			if n < 0 {
				break
			}
			i += n
			le.LittleEndian.PutUint32(data[i+at:], 1)
		}
	}
	return data
}

// overlapping is an archive whose directory names one large entry 9,000 times.
func overlapping() []byte {
	body := word(wordText(strings.Repeat("overlap ", 100_000)))
	r, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		panic(err)
	}
	var at int64
	var size uint64
	for _, f := range r.File {
		if f.Name == "word/document.xml" {
			at, _ = f.DataOffset()
			size = f.CompressedSize64
		}
	}
	packed := body[at : at+int64(size)]
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range []string{"word/document.xml"} {
		w, _ := z.CreateRaw(&zip.FileHeader{Name: name, Method: zip.Deflate, CompressedSize64: size, UncompressedSize64: 800_100})
		_, _ = w.Write(packed)
	}
	_ = z.Close()
	whole := b.Bytes()
	dir := bytes.Index(whole, []byte("PK\x01\x02"))
	end := bytes.Index(whole, []byte("PK\x05\x06"))
	record := whole[dir:end]
	out := bytes.Clone(whole[:dir])
	const count = 20_000
	for range count {
		out = append(out, record...)
	}
	tail := bytes.Clone(whole[end:])
	le.LittleEndian.PutUint16(tail[8:], count)
	le.LittleEndian.PutUint16(tail[10:], count)
	le.LittleEndian.PutUint32(tail[12:], uint32(len(record)*count))
	return append(out, tail...)
}

// laughs is the billion laughs.
func laughs() []byte {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0"?><!DOCTYPE w [<!ENTITY l0 "ha">`)
	for i := range 30 {
		fmt.Fprintf(&b, `<!ENTITY l%d "%s">`, i+1, strings.Repeat(fmt.Sprintf("&l%d;", i), 10))
	}
	b.WriteString(`]><w>&l30;</w>`)
	return []byte(b.String())
}

// flateBomb is a page whose content stream unpacks to 200 MB.
func flateBomb() []byte {
	var packed bytes.Buffer
	z := zlib.NewWriter(&packed)
	block := bytes.Repeat([]byte(" q Q "), 1<<18)
	for range 160 {
		_, _ = z.Write(block)
	}
	_ = z.Close()
	return pdf(pdfCatalog, "<< /Type /Pages /Count 1 /Kids [4 0 R] >>", pdfFont, pdfPage, pdfStream("/Filter /FlateDecode", packed.String()))
}

const levels = 100_000

// deep nests, in every way a format allows.
func deep() []hostile {
	nest := func(open, middle, shut string) []byte {
		return []byte(strings.Repeat(open, levels) + middle + strings.Repeat(shut, levels))
	}
	deepOnly := []string{tooDeep}
	return []hostile{
		{"deep.html", nest("<div>", "x", "</div>"), deepOnly},
		{"deepspan.html", nest("<b><i>", "x", "</i></b>"), deepOnly},
		{"deeptable.html", nest("<table><tr><td>", "x", ""), deepOnly},
		{"deep.md", nest(">", "x", ""), deepOnly},
		{"deeplist.md", nest("- ", "x", ""), deepOnly},
		{"deepbrackets.md", nest("[", "x", "](y)"), []string{ready, tooDeep}},
		{"deep.json", nest("[", "1", "]"), deepOnly},
		{"deepobject.json", nest(`{"a":`, "1", "}"), deepOnly},
		{"deep.xml", nest("<a>", "x", "</a>"), deepOnly},
		{"deep.docx", word(strings.Repeat("<w:tbl><w:tr><w:tc>", levels)), []string{tooDeep, archiveLarge}},
		{"deep.pptx", slides(strings.Repeat("<p:grpSp>", levels)), []string{tooDeep, archiveLarge, malformed}},
		{"deep.epub", book(strings.Repeat("<div>", levels)), []string{tooDeep, archiveLarge}},
		{"deep.pdf", pdf("<< /Type /Catalog /Pages 2 0 R /X " + strings.Repeat("[", levels) + " >>"), []string{malformed, readyEmpty}},
		{"deep.svg", nest("<g>", "x", "</g>"), deepOnly},
	}
}

// baits cost quadratic time, or worse, in parsers that are not careful.
func baits(size int) (out []hostile) {
	fine := []string{ready, readyEmpty, malformed, tooDeep, textLarge}
	for name, piece := range map[string]string{
		"brackets.md": "[", "emphasis.md": "*a_", "backticks.md": "`a", "links.md": "[a](", "quotes.md": "> > > a\n", "refs.md": "[a]: <\n",
		"pipes.md": "|", "entities.md": "&", "html.md": "<a ", "comments.md": "<!--", "autolinks.md": "<http:", "table.md": "|a|b\n|-|-\n",
		"tags.html": "<b>", "formatting.html": "<b><p>", "attrs.html": "<a b=c ", "select.html": "<select><option>", "script.html": "<script>",
		"comment.html": "<!-- -", "entity.html": "&amp", "quotes.csv": `"a,`, "commas.csv": ",", "strings.json": `"a" `, "escapes.json": `\u`,
		"cdata.xml": "<![CDATA[", "blank.txt": "\n", "tabs.txt": "\t", "regex.txt": "aaaaaaaaaaaaaaaaaaaaaaaa!", "dots.txt": ". ", "lines.go": "{\n", "comment.go": "/*",
	} {
		out = append(out, hostile{"bait-" + name, []byte(strings.Repeat(piece, size/len(piece))), fine})
	}
	return out
}

// lines of a megabyte without a break, and a table of one row.
func longLines() (out []hostile) {
	for _, kind := range []string{"txt", "md", "html", "json", "xml"} {
		text := strings.Repeat(kind, (1<<20)/len(kind))
		out = append(out, hostile{"line." + kind, goodFile(kind, text), []string{ready, malformed, textLarge}})
	}
	return append(out,
		hostile{"marks.txt", []byte("e" + strings.Repeat("\u0301", 1<<18)), []string{ready}},
		hostile{"joiners.txt", []byte(strings.Repeat("👩\u200d", 1<<16)), []string{ready, readyEmpty}},
		hostile{"turns.txt", []byte(strings.Repeat("\u202e\u2066\ufeff", 1<<16) + "text"), []string{ready}},
		hostile{"many.txt", []byte(strings.Repeat("a\n\n", 1<<20)), []string{textLarge}},
		hostile{"large.txt", []byte(strings.Repeat("a line of a large file\n", 90_000)), []string{ready}},
	)
}

// wrongTypes are files that are not what they are called.
func wrongTypes() []hostile {
	png := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00"), bytes.Repeat([]byte{8, 6, 0, 0, 0x5c}, 400)...)
	jpeg := append([]byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00"), bytes.Repeat([]byte{1, 0xfe, 0x7f}, 400)...)
	return []hostile{
		{"picture.pdf", png, []string{unsupported}},
		{"photo.docx", jpeg, []string{unsupported}},
		{"program.txt", append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 4000)...), []string{unsupported}},
		{"page.pdf", []byte("<!doctype html><html><body><p>An error page called a PDF.</p></body></html>"), []string{ready}},
		{"text.docx", []byte("Plain text that is called a Word file."), []string{ready}},
		{"book.xlsx", book("<p>a book called a sheet</p>"), []string{ready}},
		{"empty.txt", nil, []string{readyEmpty}},
		{"../../../etc/passwd", []byte("a name that climbs"), []string{ready}},
		{"C:\\windows\\..\\x.txt", []byte("a name with a drive"), []string{ready}},
		{"a\r\nb\x00\u202e.txt", []byte("a name that forges lines"), []string{ready}},
	}
}

// evilPDFs have cross-references and objects that lead nowhere, or round in a circle.
func evilPDFs() []hostile {
	good := string(pdfText("Barley in a PDF with a hostile table."))
	fine := []string{ready, readyEmpty, malformed, manyPages}
	at := strings.LastIndex(good, "startxref")
	return []hostile{
		{"xref-far.pdf", []byte(good[:at] + "startxref\n999999999999\n%%EOF\n"), fine},
		{"xref-minus.pdf", []byte(good[:at] + "startxref\n-1\n%%EOF\n"), fine},
		{"xref-self.pdf", []byte(strings.Replace(good, "/Root 1 0 R", fmt.Sprintf("/Root 1 0 R /Prev %d", strings.LastIndex(good, "xref\n0")), 1)), fine},
		{"xref-huge.pdf", []byte(strings.Replace(good, "xref\n0 6", "xref\n0 2147483647", 1)), fine},
		{"size-huge.pdf", []byte(strings.Replace(good, "/Size 6", "/Size 2147483647", 1)), fine},
		{"kids-self.pdf", pdf(pdfCatalog, "<< /Type /Pages /Count 1000000 /Kids [2 0 R 2 0 R 2 0 R] >>"), fine},
		{"count-huge.pdf", pdf(pdfCatalog, "<< /Type /Pages /Count 2147483647 /Kids [4 0 R] >>", pdfFont, pdfPage, pdfStream("", "BT ET")), fine},
		{"length-lies.pdf", []byte(strings.Replace(good, "/Length", "/Length 2147483647 /L", 1)), fine},
		{"form-self.pdf", pdf(pdfCatalog, "<< /Type /Pages /Count 1 /Kids [4 0 R] >>", pdfFont,
			"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R /Resources << /XObject << /X 6 0 R >> >> >>",
			pdfStream("", "/X Do"), pdfStream("/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 6 0 R >> >>", strings.Repeat("/X Do ", 50))), []string{readyEmpty, malformed, starved, timeout}},
		{"box-huge.pdf", []byte(strings.Replace(good, "612 792", "1e30 1e30", 1)), fine},
		{"script.pdf", pdf("<< /Type /Catalog /Pages 2 0 R /OpenAction << /S /JavaScript /JS (while\\(1\\){}) >> >>",
			"<< /Type /Pages /Count 1 /Kids [4 0 R] >>", pdfFont, pdfPage, pdfStream("", "BT /F1 9 Tf 9 9 Td (scripted) Tj ET")), []string{ready}},
		{"filters.pdf", pdf(pdfCatalog, "<< /Type /Pages /Count 1 /Kids [4 0 R] >>", pdfFont, pdfPage,
			pdfStream("/Filter ["+strings.Repeat("/ASCIIHexDecode /LZWDecode ", 500)+"]", "zz")), fine},
	}
}
