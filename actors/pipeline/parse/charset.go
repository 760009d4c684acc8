package parse

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/saintfish/chardet"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/encoding/unicode/utf32"
)

// decoded is the text of a text format: valid UTF-8 without control characters.
type decoded struct {
	text     string
	charset  string // lower case WHATWG name, "utf-8" for ASCII
	warnings []string
}

// Charset names that are treated specially.
const (
	charsetUTF8        = "utf-8"
	charsetWindows1252 = "windows-1252"
)

// decodeText decodes raw. A byte order mark wins, then a declared charset that
// fits, then UTF-8 if it is valid, then statistics. Text that is UTF-8 but for
// a few bytes is UTF-8 with damage, not another charset.
func decodeText(raw []byte, declared string) decoded {
	name := charsetOf(raw, declared)
	raw = trimBOM(raw, name)
	d := decoded{charset: name}
	if name == charsetUTF8 {
		d.text = string(raw)
	} else if out, err := encodingOf(name).NewDecoder().Bytes(raw); err == nil {
		d.text = string(out)
	} else {
		d.charset, d.text = charsetUTF8, string(raw)
	}
	if !utf8.ValidString(d.text) || (name != charsetUTF8 && strings.ContainsRune(d.text, utf8.RuneError)) {
		d.text = strings.ToValidUTF8(d.text, "\uFFFD")
		d.warnings = append(d.warnings, "bytes that are not valid "+d.charset+" were replaced")
	}
	if clean := stripControl(d.text); len(clean) != len(d.text) {
		d.text = clean
		d.warnings = append(d.warnings, "control characters were removed")
	}
	return d
}

// charsetOf decides on the name of the charset.
func charsetOf(raw []byte, declared string) string {
	if name := wideCharset(raw); name != "" {
		return name
	}
	if bytes.HasPrefix(raw, []byte("\xEF\xBB\xBF")) || utf8.Valid(raw) {
		// Many servers and pages declare Latin-1 and send UTF-8; the reverse
		// does not pass for valid UTF-8. Stateful 7-bit charsets do pass, so
		// a declared one is believed.
		if d := canonicalCharset(declared); d == "iso-2022-jp" {
			return d
		}
		return charsetUTF8
	}
	if d := canonicalCharset(declared); d != "" && d != charsetUTF8 {
		return d
	}
	if mostlyUTF8(raw) {
		return charsetUTF8
	}
	return guessCharset(raw)
}

// guessCharset asks the statistics, on a sample.
func guessCharset(raw []byte) string {
	res, err := chardet.NewTextDetector().DetectBest(raw[:min(len(raw), sniffBytes)])
	if err != nil || res.Confidence < 10 {
		return charsetWindows1252
	}
	switch name := strings.ToLower(res.Charset); name {
	case "gb-18030":
		return "gb18030"
	case charsetUTF8:
		return charsetUTF8
	default:
		if c := canonicalCharset(name); c != "" {
			return c
		}
		return charsetWindows1252
	}
}

// canonicalCharset maps a label to the WHATWG name; "" when unknown or when it
// names no encoding of text ("replacement").
func canonicalCharset(label string) string {
	if label == "" {
		return ""
	}
	enc, err := htmlindex.Get(label)
	if err != nil {
		return ""
	}
	name, err := htmlindex.Name(enc)
	if err != nil || name == "replacement" || name == "x-user-defined" {
		return ""
	}
	return name
}

// encodingOf returns the decoder of a canonical name or one of wideCharset.
func encodingOf(name string) encoding.Encoding {
	switch name {
	case "utf-16le":
		return unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM)
	case "utf-16be":
		return unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM)
	case "utf-32le":
		return utf32.UTF32(utf32.LittleEndian, utf32.IgnoreBOM)
	case "utf-32be":
		return utf32.UTF32(utf32.BigEndian, utf32.IgnoreBOM)
	}
	enc, err := htmlindex.Get(name)
	if err != nil {
		return encoding.Nop
	}
	return enc
}

// wideCharset recognises UTF-16 and UTF-32 by their byte order mark, or UTF-16
// by the zero bytes that Latin text leaves in every second place.
func wideCharset(raw []byte) string {
	switch {
	case bytes.HasPrefix(raw, []byte("\xFF\xFE\x00\x00")):
		return "utf-32le"
	case bytes.HasPrefix(raw, []byte("\x00\x00\xFE\xFF")):
		return "utf-32be"
	case bytes.HasPrefix(raw, []byte("\xFF\xFE")):
		return "utf-16le"
	case bytes.HasPrefix(raw, []byte("\xFE\xFF")):
		return "utf-16be"
	}
	sample := raw[:min(len(raw), 1024)]
	if len(sample) < 8 {
		return ""
	}
	var zero [2]int
	for i, c := range sample {
		if c == 0 {
			zero[i&1]++
		}
	}
	half := len(sample) / 2
	switch {
	case zero[1]*10 > half*7 && zero[0]*20 < half:
		return "utf-16le"
	case zero[0]*10 > half*7 && zero[1]*20 < half:
		return "utf-16be"
	}
	return ""
}

func trimBOM(raw []byte, charset string) []byte {
	for _, bom := range map[string][]string{
		charsetUTF8: {"\xEF\xBB\xBF"},
		"utf-16le":  {"\xFF\xFE"},
		"utf-16be":  {"\xFE\xFF"},
		"utf-32le":  {"\xFF\xFE\x00\x00"},
		"utf-32be":  {"\x00\x00\xFE\xFF"},
	}[charset] {
		raw = bytes.TrimPrefix(raw, []byte(bom))
	}
	return raw
}

// mostlyUTF8 tells damaged UTF-8: at least four good multi-byte characters for
// each bad byte.
func mostlyUTF8(raw []byte) bool {
	raw = raw[:min(len(raw), 1<<20)]
	good, bad := 0, 0
	for len(raw) > 0 {
		r, n := utf8.DecodeRune(raw)
		switch {
		case r == utf8.RuneError && n == 1:
			bad++
		case n > 1:
			good++
		}
		raw = raw[n:]
	}
	return good >= 4*bad
}

// isControl tells the characters that Text never holds.
func isControl(r rune) bool {
	return r < 0x20 && r != '\t' && r != '\n' && r != '\r' && r != '\f' || r >= 0x7F && r < 0xA0
}

// stripControl removes control characters; without any it returns s itself.
func stripControl(s string) string {
	if strings.IndexFunc(s, isControl) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if isControl(r) {
			return -1
		}
		return r
	}, s)
}

// declaredCharset is the charset named by the transport or by the text itself
// (<meta charset>, <?xml encoding?>).
func (j *job) declaredCharset(k kind, raw []byte) string {
	if c := j.charsetParam(); c != "" {
		return c
	}
	head := strings.ToLower(string(raw[:min(len(raw), 2048)]))
	switch k {
	case kindHTML:
		return labelAfter(head, "charset=")
	case kindXML:
		if decl, _, ok := strings.Cut(head, "?>"); ok && strings.Contains(decl, "<?xml") {
			return labelAfter(decl, "encoding=")
		}
	}
	return ""
}

// labelAfter reads the charset label that follows key, quoted or not.
func labelAfter(s, key string) string {
	_, rest, ok := strings.Cut(s, key)
	if !ok {
		return ""
	}
	rest = strings.TrimLeft(rest, `"' `)
	if end := strings.IndexAny(rest, "\"' />;\r\n"); end >= 0 {
		rest = rest[:end]
	}
	return rest
}
