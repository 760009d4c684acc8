package parse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// kind is a type of source that has a parser.
type kind uint8

const (
	kindUnknown kind = iota
	kindText
	kindMarkdown
	kindHTML
	kindPDF
	kindDOCX
	kindPPTX
	kindXLSX
	kindCSV
	kindJSON
	kindXML
	kindEPUB
	kindCode
)

// Media types as they are reported in Parsed.MediaType.
const (
	typePlain    = "text/plain"
	typeMarkdown = "text/markdown"
	typeHTML     = "text/html"
	typePDF      = "application/pdf"
	typeDOCX     = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
	typePPTX     = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
	typeXLSX     = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
	typeCSV      = "text/csv"
	typeTSV      = "text/tab-separated-values"
	typeJSON     = "application/json"
	typeJSONL    = "application/x-ndjson"
	typeXML      = "application/xml"
	typeEPUB     = "application/epub+zip"
	typeCode     = "text/x-source"
)

// sniffBytes is how much of the source is looked at to tell what it is.
const sniffBytes = 64 << 10

// detect tells what the source is. The content decides between the binary
// formats and against a declared type that it contradicts; among the text
// formats, which look alike, a specific declared type wins over the extension.
func (j *job) detect() (kind, error) {
	head := make([]byte, min(j.in.Size, sniffBytes))
	n, err := j.in.Data.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return kindUnknown, fmt.Errorf("parse: read source: %w", err)
	}
	head = head[:n]
	j.head = head

	switch {
	case bytes.Contains(head[:min(len(head), 1024)], []byte("%PDF-")):
		return kindPDF, nil
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return j.detectArchive()
	case bytes.HasPrefix(head, []byte("\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1")):
		return kindUnknown, j.refuseCompoundFile()
	case isBinary(head):
		return kindUnknown, failf(ReasonUnsupported, "this kind of file is not supported")
	}
	k := j.declaredKind()
	text := foldHead(head)
	switch {
	case k == kindPDF, k == kindDOCX, k == kindPPTX, k == kindXLSX, k == kindEPUB, k == kindUnknown:
		k = sniffText(text)
	case k == kindJSON && looksLikeHTML(text), k == kindCSV && looksLikeHTML(text):
		k = kindHTML // typically an error page saved under the name of the data
	}
	return k, nil
}

// declaredKind is what the declared type and the name say.
func (j *job) declaredKind() kind {
	if k := kindOfMediaType(j.mediaType()); k != kindUnknown {
		return k
	}
	if k, ok := kindOfExtension(j.extension()); ok {
		return k
	}
	if strings.HasPrefix(j.mediaType(), "text/") {
		return kindText
	}
	return kindUnknown
}

// mediaType is the declared type without parameters.
func (j *job) mediaType() string {
	t, _, _ := strings.Cut(j.in.MediaType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// extension is that of the name, lower case, with its dot.
func (j *job) extension() string {
	return strings.ToLower(path.Ext(strings.ReplaceAll(j.in.Name, `\`, "/")))
}

// charsetParam is the charset the declared type carries.
func (j *job) charsetParam() string {
	_, params, err := mime.ParseMediaType(j.in.MediaType)
	if err != nil {
		return ""
	}
	return params["charset"]
}

// kindOfMediaType maps specific media types; text/plain and octet-stream are
// what servers say when they do not know, so the extension decides then.
func kindOfMediaType(t string) kind {
	switch t {
	case typeMarkdown, "text/x-markdown":
		return kindMarkdown
	case typeHTML, "application/xhtml+xml":
		return kindHTML
	case typePDF, "application/x-pdf":
		return kindPDF
	case typeDOCX:
		return kindDOCX
	case typePPTX:
		return kindPPTX
	case typeXLSX:
		return kindXLSX
	case typeCSV, typeTSV, "application/csv":
		return kindCSV
	case typeJSON, typeJSONL, "application/jsonl", "application/x-jsonlines", "text/json":
		return kindJSON
	case typeXML, "text/xml":
		return kindXML
	case typeEPUB:
		return kindEPUB
	case "application/javascript", "text/javascript", "text/css", "application/sql", typeCode:
		return kindCode
	}
	switch {
	case strings.HasSuffix(t, "+json"):
		return kindJSON
	case strings.HasSuffix(t, "+xml"):
		return kindXML
	}
	return kindUnknown
}

// kindOfExtension maps file extensions.
func kindOfExtension(ext string) (kind, bool) {
	switch ext {
	case ".txt", ".text", ".log", ".rst", ".adoc", ".org", ".tex", ".srt", ".vtt":
		return kindText, true
	case ".md", ".markdown", ".mdown", ".mkd", ".mdx":
		return kindMarkdown, true
	case ".html", ".htm", ".xhtml":
		return kindHTML, true
	case ".pdf":
		return kindPDF, true
	case ".docx", ".docm":
		return kindDOCX, true
	case ".pptx", ".pptm":
		return kindPPTX, true
	case ".xlsx", ".xlsm":
		return kindXLSX, true
	case ".csv", ".tsv":
		return kindCSV, true
	case ".json", ".jsonl", ".ndjson", ".geojson":
		return kindJSON, true
	case ".xml", ".rss", ".atom", ".svg", ".xsd", ".xsl":
		return kindXML, true
	case ".epub":
		return kindEPUB, true
	}
	return kindCode, languageOfExtension(ext) != ""
}

// sniffText tells text formats apart by how they start; only signs that plain
// prose does not show count.
func sniffText(text string) kind {
	switch {
	case looksLikeHTML(text):
		return kindHTML
	case strings.HasPrefix(text, "<?xml"):
		return kindXML
	case looksLikeJSON(text):
		return kindJSON
	}
	return kindText
}

// foldHead is the start of the source in lower case, without byte order mark
// and leading white space, so that signs can be compared.
func foldHead(head []byte) string {
	head = bytes.TrimPrefix(head, []byte("\xEF\xBB\xBF"))
	head = bytes.TrimLeft(head, " \t\r\n\f")
	return strings.ToLower(string(head[:min(len(head), 1024)]))
}

func looksLikeHTML(text string) bool {
	for strings.HasPrefix(text, "<!--") || strings.HasPrefix(text, "<?xml") {
		_, rest, ok := strings.Cut(text, ">")
		if !ok {
			return false
		}
		text = strings.TrimLeft(rest, " \t\r\n\f")
	}
	for _, sign := range []string{"<!doctype html", "<html", "<head>", "<body"} {
		if strings.HasPrefix(text, sign) {
			return true
		}
	}
	return false
}

func looksLikeJSON(text string) bool {
	if len(text) < 2 {
		return false
	}
	next := strings.TrimLeft(text[1:], " \t\r\n")
	switch text[0] {
	case '{':
		return strings.HasPrefix(next, `"`) || strings.HasPrefix(next, "}")
	case '[':
		return next != "" && strings.ContainsRune(`{["`, rune(next[0]))
	}
	return false
}

// isBinary tells whether head is none of the encodings of text: it is not
// UTF-16 or UTF-32 and holds more than 1 % control characters (5 % if it is
// UTF-8 otherwise; random bytes hold 10 %).
func isBinary(head []byte) bool {
	if len(head) == 0 || wideCharset(head) != "" {
		return false
	}
	for _, magic := range []string{"\x89PNG", "GIF8", "\xFF\xD8\xFF", "\x7FELF", "\x1F\x8B", "BZh", "7z\xBC\xAF", "Rar!\x1A", "\xFD7zXZ", "{\\rtf"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	control := 0
	for _, c := range head {
		if c < 0x20 && !isSpaceByte(c) && c != 0x08 && c != 0x1B {
			control++
		}
	}
	const stray = 3 // so few do not condemn a short text
	if utf8.Valid(head) {
		return control > stray && control*20 > len(head)
	}
	return control > stray && control*100 > len(head)
}

func isSpace(r rune) bool { return unicode.IsSpace(r) }

func isSpaceByte(c byte) bool { return c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == ' ' }

// refuseCompoundFile tells a password-protected office file, which is a
// compound file around an encrypted package, from the office formats of before
// 2007.
func (j *job) refuseCompoundFile() error {
	const name = "E\x00n\x00c\x00r\x00y\x00p\x00t\x00e\x00d\x00P\x00a\x00c\x00k\x00a\x00g\x00e\x00"
	raw, err := j.readAll()
	if err != nil {
		return err
	}
	if bytes.Contains(raw, []byte(name)) {
		return failf(ReasonEncrypted, "the document is protected by a password")
	}
	return failf(ReasonUnsupported, "office files of before 2007 are not supported; save it in the current format")
}
