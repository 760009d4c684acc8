package search

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// token is one piece of analysed text. text is lower-case NFKC and valid only
// until the next token is read.
type token struct {
	text       []byte
	start, end int  // byte range in the analysed text
	stem       bool // a plain word, to be stemmed
	counted    bool // counts towards the text's length; wholes beside their parts do not
}

const (
	maxTokenRunes = 64 // longer words are cut here
	maxParts      = 16 // of one identifier
)

// tokenizer cuts text into tokens: words; identifiers whole and in parts
// (snake_case, camelCase, dotted.names); bigrams for scripts without spaces.
// The rules do not depend on the language. It keeps its buffers between calls.
type tokenizer struct {
	buf  []byte
	emit func(token)
}

type runeClass uint8

const (
	classBreak runeClass = iota
	classWord            // letters, marks
	classDigit
	classDense // scripts without spaces between words
)

var asciiClass = func() (t [utf8.RuneSelf]runeClass) {
	for c := range t {
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			t[c] = classWord
		case c >= '0' && c <= '9':
			t[c] = classDigit
		}
	}
	return t
}()

// denseScripts are written without spaces between words.
var denseScripts = []*unicode.RangeTable{
	unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul,
	unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar,
}

func classOf(r rune) runeClass {
	switch {
	case r < utf8.RuneSelf:
		return asciiClass[r]
	case r >= 0x0E00 && unicode.IsOneOf(denseScripts, r):
		return classDense
	case unicode.IsLetter(r) || unicode.IsMark(r):
		return classWord
	case unicode.IsNumber(r):
		return classDigit
	}
	return classBreak
}

// run reads all of text.
func (t *tokenizer) run(text string) {
	for i := 0; i < len(text); {
		r, size := decode(text, i)
		switch classOf(r) {
		case classBreak:
			i += size
		case classDense:
			i = t.dense(text, i)
		default:
			i = t.word(text, i)
		}
	}
}

func decode(text string, i int) (rune, int) {
	if c := text[i]; c < utf8.RuneSelf {
		return rune(c), 1
	}
	return utf8.DecodeRuneInString(text[i:])
}

// dense emits the overlapping bigrams of a run of dense script, or its only
// character, and returns where the run ends.
func (t *tokenizer) dense(text string, start int) int {
	before, at := -1, start
	for at < len(text) {
		r, size := decode(text, at)
		if classOf(r) != classDense && !unicode.IsMark(r) {
			break
		}
		if before >= 0 {
			t.emitSpan(text, before, at+size, false, true)
		}
		before, at = at, at+size
	}
	if before == start {
		t.emitSpan(text, start, at, false, true)
	}
	return at
}

// word emits the word or identifier at start and returns where it ends.
func (t *tokenizer) word(text string, start int) int {
	var (
		end      = start
		runes    int
		digits   bool
		compound bool
		last     rune
	)
	for end < len(text) && runes < maxTokenRunes {
		r, size := decode(text, end)
		class := classOf(r)
		if class == classBreak {
			joined, apostrophe := joins(text, end, size, r)
			if !joined {
				break
			}
			compound = compound || !apostrophe
		} else if class == classDense {
			break
		}
		digits = digits || class == classDigit
		compound = compound || runes > 0 && unicode.IsUpper(r) && unicode.IsLower(last)
		last = r
		runes++
		end += size
	}
	if compound {
		t.identifier(text, start, end)
		return end
	}
	t.emitSpan(text, start, end, !digits, true)
	return end
}

// joins tells whether the mark r at i holds two halves of a word together:
// _ and . inside an identifier, an apostrophe before an English ending.
func joins(text string, i, size int, r rune) (joined, apostrophe bool) {
	next := i + size
	if next >= len(text) {
		return false, false
	}
	follow, n := decode(text, next)
	class := classOf(follow)
	switch r {
	case '_':
		return class == classWord || class == classDigit || follow == '_', false
	case '.':
		return class == classWord || class == classDigit, false
	case '\'', '’':
		rest := next + n
		ends := rest >= len(text)
		if !ends {
			after, _ := decode(text, rest)
			ends = classOf(after) == classBreak
		}
		return ends && (follow == 't' || follow == 's' || follow == 'd' || follow == 'm'), true
	}
	return false, false
}

// identifier emits a compound word whole and then its parts.
func (t *tokenizer) identifier(text string, start, end int) {
	t.emitSpan(text, start, end, false, false)
	parts := 0
	from := start
	flush := func(to int, digits bool) {
		if to > from && parts < maxParts {
			parts++
			t.emitSpan(text, from, to, !digits, true)
		}
	}
	digits := false
	var last rune
	for i := start; i < end; {
		r, size := decode(text, i)
		switch {
		case classOf(r) == classBreak:
			flush(i, digits)
			from, digits = i+size, false
		case i > from && humps(text, i, size, end, last, r):
			flush(i, digits)
			from, digits = i, false
		}
		digits = digits || classOf(r) == classDigit
		last = r
		i += size
	}
	flush(end, digits)
}

// humps tells whether r begins a new part of a camelCase word: fooBar, HTTPServer.
func humps(text string, i, size, end int, last, r rune) bool {
	if !unicode.IsUpper(r) {
		return false
	}
	if unicode.IsLower(last) {
		return true
	}
	if !unicode.IsUpper(last) || i+size >= end {
		return false
	}
	next, _ := decode(text, i+size)
	return unicode.IsLower(next)
}

// emitSpan normalises text[start:end] and hands it on.
func (t *tokenizer) emitSpan(text string, start, end int, stem, counted bool) {
	t.buf = normalize(t.buf[:0], text[start:end])
	if n := len(t.buf); n > 2 && t.buf[n-1] == 's' && t.buf[n-2] == '\'' {
		t.buf = t.buf[:n-2]
	}
	if len(t.buf) > 0 {
		t.emit(token{text: t.buf, start: start, end: end, stem: stem, counted: counted})
	}
}

// normalize appends s in lower case and NFKC, with one kind of apostrophe.
func normalize(dst []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c >= utf8.RuneSelf {
			return normalizeWide(dst[:0], s)
		}
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

func normalizeWide(dst []byte, s string) []byte {
	for _, r := range norm.NFKC.String(s) {
		if r == '’' {
			r = '\''
		}
		dst = utf8.AppendRune(dst, unicode.ToLower(r))
	}
	return dst
}
