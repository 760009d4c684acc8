package search

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The limits of a filter.
const (
	MaxFilterBytes = 4 << 10 // of its text
	MaxFilterDepth = 32      // nested parentheses and negations
	MaxFilterTerms = 128     // comparisons, and values of IN
)

// The reasons of a [FilterError].
const (
	FilterTooLong      = "FILTER_TOO_LONG"
	FilterTooDeep      = "FILTER_TOO_DEEP"
	FilterTooManyTerms = "FILTER_TOO_MANY_TERMS"
	FilterSyntax       = "FILTER_SYNTAX"
	FilterUnknownField = "FILTER_UNKNOWN_FIELD"
	FilterBadOperator  = "FILTER_BAD_OPERATOR"
	FilterBadValue     = "FILTER_BAD_VALUE"
)

// FilterError says what is wrong with a filter and where.
type FilterError struct {
	Reason   string // stable, one of the constants above
	Position int    // byte offset in the filter
	Message  string // for people
}

// Error implements error.
func (e *FilterError) Error() string {
	return fmt.Sprintf("search: filter: at %d: %s", e.Position, e.Message)
}

// ParseFilter parses a filter; see [Filter] for the language. White space alone
// gives nil, which lets everything through. Errors are [*FilterError].
func ParseFilter(text string) (*Filter, error) {
	if len(text) > MaxFilterBytes {
		return nil, &FilterError{FilterTooLong, MaxFilterBytes, fmt.Sprintf("longer than %d bytes", MaxFilterBytes)}
	}
	p := parser{lexer: lexer{text: text}}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.tok.kind == tokEnd {
		return nil, nil // no filter is not a failure
	}
	root, err := p.expression()
	if err != nil {
		return nil, err
	}
	if p.tok.kind != tokEnd {
		return nil, p.fail(FilterSyntax, "AND, OR or the end expected")
	}
	return &Filter{root: root, paged: p.paged, source: text}, nil
}

type parser struct {
	lexer
	tok   lexeme
	depth int
	terms int
	paged bool
}

func (p *parser) fail(reason, message string) *FilterError {
	return &FilterError{Reason: reason, Position: p.tok.at, Message: message}
}

func (p *parser) advance() error {
	tok, err := p.next()
	if err != nil {
		return err
	}
	p.tok = tok
	return nil
}

// expression = factor {"AND" factor}
func (p *parser) expression() (node, error) {
	return p.chain("AND", p.factor, func(n []node) node { return allOf(n) })
}

// factor = term {"OR" term}
func (p *parser) factor() (node, error) {
	return p.chain("OR", p.term, func(n []node) node { return anyOf(n) })
}

func (p *parser) chain(word string, part func() (node, error), join func([]node) node) (node, error) {
	first, err := part()
	if err != nil {
		return nil, err
	}
	nodes := []node{first}
	for p.tok.kind == tokWord && p.tok.text == word {
		if err := p.advance(); err != nil {
			return nil, err
		}
		n, err := part()
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	if len(nodes) == 1 {
		return first, nil
	}
	return join(nodes), nil
}

// term = ("NOT" | "-") term | "(" expression ")" | comparison
func (p *parser) term() (node, error) {
	negated := p.tok.kind == tokMinus || p.tok.kind == tokWord && p.tok.text == "NOT"
	if !negated && p.tok.kind != tokOpen {
		return p.comparison()
	}
	if p.depth++; p.depth > MaxFilterDepth {
		return nil, p.fail(FilterTooDeep, fmt.Sprintf("nested deeper than %d", MaxFilterDepth))
	}
	defer func() { p.depth-- }()
	if err := p.advance(); err != nil {
		return nil, err
	}
	if negated {
		n, err := p.term()
		return not{n}, err
	}
	n, err := p.expression()
	if err != nil {
		return nil, err
	}
	if p.tok.kind != tokClose {
		return nil, p.fail(FilterSyntax, `")" expected`)
	}
	return n, p.advance()
}

// comparison = field operator value | field "IN" "[" value {"," value} "]"
func (p *parser) comparison() (node, error) {
	name := p.tok
	if name.kind != tokWord || isReserved(name.text) {
		return nil, p.fail(FilterSyntax, "a field name expected")
	}
	f, key, ok := fieldOf(name.text)
	if !ok {
		return nil, p.fail(FilterUnknownField, fmt.Sprintf("no field %q", name.text))
	}
	p.paged = p.paged || f == fieldPage
	if err := p.advance(); err != nil {
		return nil, err
	}
	op := p.tok
	if op.kind != tokOperator && (op.kind != tokWord || op.text != "IN") {
		return nil, p.fail(FilterSyntax, "an operator expected")
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if op.text == "IN" {
		return p.list(f, key, op)
	}
	return p.value(f, key, op)
}

// value reads one value and makes the comparison.
func (p *parser) value(f field, key string, op lexeme) (node, error) {
	if p.terms++; p.terms > MaxFilterTerms {
		return nil, p.fail(FilterTooManyTerms, fmt.Sprintf("more than %d terms", MaxFilterTerms))
	}
	if p.tok.kind != tokString && (p.tok.kind != tokWord || isReserved(p.tok.text)) {
		return nil, p.fail(FilterSyntax, "a value expected")
	}
	n, err := p.compare(f, key, op)
	if err != nil {
		return nil, err
	}
	return n, p.advance()
}

func (p *parser) list(f field, key string, op lexeme) (node, error) {
	op.text = "="
	if p.tok.kind != tokOpenList {
		return nil, p.fail(FilterSyntax, `"[" expected`)
	}
	var nodes anyOf
	for {
		if err := p.advance(); err != nil {
			return nil, err
		}
		n, err := p.value(f, key, op)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
		switch p.tok.kind {
		case tokComma:
		case tokCloseList:
			return nodes, p.advance()
		default:
			return nil, p.fail(FilterSyntax, `"," or "]" expected`)
		}
	}
}

// compare makes the node for field, operator and the current token.
func (p *parser) compare(f field, key string, op lexeme) (node, error) {
	value := p.tok.text
	if f == fieldMetadata && key == "" {
		if op.text != ":" {
			return nil, &FilterError{FilterBadOperator, op.at, `metadata takes only ":"; use metadata.KEY`}
		}
		return hasKey(value), nil
	}
	o, negated := operatorOf(op.text)
	var n node
	switch {
	case f < fieldVersion:
		n = &textIs{field: f, key: key, op: o, value: value, like: newPattern(value)}
	case o == opHas:
		return nil, &FilterError{FilterBadOperator, op.at, `":" is for text`}
	default:
		number, err := p.number(f, value)
		if err != nil {
			return nil, err
		}
		n = &numberIs{field: f, op: o, value: number}
	}
	if negated {
		return not{n}, nil
	}
	return n, nil
}

func (p *parser) number(f field, value string) (int64, error) {
	if f == fieldCreated {
		t, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return 0, p.fail(FilterBadValue, `a time such as "2026-01-31T12:00:00Z" expected`)
		}
		return nanos(t), nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return 0, p.fail(FilterBadValue, "a whole number expected")
	}
	return n, nil
}

func operatorOf(s string) (o operator, negated bool) {
	switch s {
	case "!=":
		return opEqual, true
	case "<":
		return opLess, false
	case "<=":
		return opLessEqual, false
	case ">":
		return opGreater, false
	case ">=":
		return opGreaterEqual, false
	case ":":
		return opHas, false
	}
	return opEqual, false
}

func fieldOf(name string) (f field, key string, ok bool) {
	switch name {
	case "document":
		return fieldDocument, "", true
	case "name":
		return fieldName, "", true
	case "title":
		return fieldTitle, "", true
	case "type":
		return fieldType, "", true
	case "language":
		return fieldLanguage, "", true
	case "version":
		return fieldVersion, "", true
	case "page":
		return fieldPage, "", true
	case "created":
		return fieldCreated, "", true
	case "metadata":
		return fieldMetadata, "", true
	}
	key, ok = strings.CutPrefix(name, "metadata.")
	return fieldMetadata, key, ok && key != ""
}

func isReserved(word string) bool {
	switch word {
	case "AND", "OR", "NOT", "IN":
		return true
	}
	return false
}
