package search

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

type lexemeKind uint8

const (
	tokEnd lexemeKind = iota
	tokWord
	tokString
	tokOperator
	tokOpen
	tokClose
	tokOpenList
	tokCloseList
	tokComma
	tokMinus
)

// lexeme is one piece of a filter.
type lexeme struct {
	kind lexemeKind
	text string // of a string without quotes and escapes
	at   int    // byte offset
}

// lexer cuts a filter into lexemes.
type lexer struct {
	text  string
	pos   int
	value bool // the last lexeme was an operator: a minus belongs to a number
}

func (l *lexer) next() (lexeme, error) {
	for l.pos < len(l.text) {
		r, size := utf8.DecodeRuneInString(l.text[l.pos:])
		if !unicode.IsSpace(r) {
			break
		}
		l.pos += size
	}
	tok := lexeme{at: l.pos}
	if l.pos == len(l.text) {
		return tok, nil
	}
	value := l.value
	l.value = false
	switch c := l.text[l.pos]; {
	case c == '"' || c == '\'':
		return l.quoted(c)
	case strings.IndexByte("<>=!:", c) >= 0:
		return l.operator()
	case strings.IndexByte("()[],", c) >= 0:
		tok.kind = map[byte]lexemeKind{'(': tokOpen, ')': tokClose, '[': tokOpenList, ']': tokCloseList, ',': tokComma}[c]
		l.value = c == '[' || c == ','
		l.pos++
		return tok, nil
	case c == '-' && !value:
		tok.kind = tokMinus
		l.pos++
		return tok, nil
	}
	for l.pos < len(l.text) {
		r, size := utf8.DecodeRuneInString(l.text[l.pos:])
		if !isWordRune(r, value) || r == utf8.RuneError && size == 1 {
			break
		}
		l.pos += size
	}
	if l.pos == tok.at {
		return tok, &FilterError{FilterSyntax, tok.at, "an unexpected character"}
	}
	tok.kind, tok.text = tokWord, l.text[tok.at:l.pos]
	return tok, nil
}

// isWordRune tells what an unquoted word consists of; a value may also hold the
// marks of media types, times and patterns.
func isWordRune(r rune, value bool) bool {
	if r == '_' || r == '.' || r == '-' || unicode.IsLetter(r) || unicode.IsDigit(r) {
		return true
	}
	return value && (r == '/' || r == '+' || r == ':' || r == '*' || r == '@')
}

func (l *lexer) operator() (lexeme, error) {
	tok := lexeme{kind: tokOperator, at: l.pos}
	n := 1
	if l.pos+1 < len(l.text) && l.text[l.pos+1] == '=' && strings.IndexByte("<>!", l.text[l.pos]) >= 0 {
		n = 2
	}
	tok.text = l.text[l.pos : l.pos+n]
	if tok.text == "!" {
		return tok, &FilterError{FilterSyntax, tok.at, `"!=" expected`}
	}
	l.pos += n
	l.value = true
	return tok, nil
}

// quoted reads a string; a backslash takes the next character as it is.
func (l *lexer) quoted(quote byte) (lexeme, error) {
	tok := lexeme{kind: tokString, at: l.pos}
	var b strings.Builder
	for i := l.pos + 1; i < len(l.text); i++ {
		switch c := l.text[i]; c {
		case quote:
			tok.text = b.String()
			l.pos = i + 1
			if !utf8.ValidString(tok.text) {
				return tok, &FilterError{FilterSyntax, tok.at, "not valid UTF-8"}
			}
			return tok, nil
		case '\\':
			if i++; i < len(l.text) {
				b.WriteByte(l.text[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return tok, &FilterError{FilterSyntax, tok.at, "a quote is not closed"}
}
