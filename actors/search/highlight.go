package search

import (
	"slices"
)

// Range is a range of bytes in a text.
type Range struct{ Start, End int }

// Highlight returns where text has the words of query, merged and in order.
// language is that of text; query words are compared in the form they have in
// that language.
func Highlight(text, query, language string) []Range {
	return NewHighlighter(query).Highlight(text, language)
}

// Highlighter highlights one query in several texts: the query is analysed once
// for each language. It is not safe for concurrent use.
type Highlighter struct {
	query string
	words map[string]map[string]int // by language
}

// NewHighlighter returns a highlighter of query.
func NewHighlighter(query string) *Highlighter {
	return &Highlighter{query: query, words: make(map[string]map[string]int)}
}

// Highlight is as the function Highlight.
func (h *Highlighter) Highlight(text, language string) []Range {
	words, ok := h.words[language]
	if !ok {
		words = queryWords(h.query, language)
		h.words[language] = words
	}
	matches := matchesIn(text, words, language)
	slices.SortFunc(matches, func(a, b match) int {
		if a.Start != b.Start {
			return a.Start - b.Start
		}
		return a.End - b.End
	})
	var out []Range
	for _, m := range matches {
		if n := len(out); n > 0 && m.Start <= out[n-1].End {
			out[n-1].End = max(out[n-1].End, m.End)
			continue
		}
		out = append(out, m.Range)
	}
	return out
}

// match is one occurrence of a query word.
type match struct {
	Range
	word int // index of the query word
}

// matchesOf finds the query's words in the order of the text's tokens.
func matchesOf(text, query, language string) []match {
	return matchesIn(text, queryWords(query, language), language)
}

// queryWords maps the forms that a query's words have in a language to their place.
func queryWords(query, language string) map[string]int {
	words := make(map[string]int)
	for i, q := range analyzeQuery(query, []string{language}) {
		for _, form := range q.forms {
			words[form] = i
		}
	}
	return words
}

func matchesIn(text string, words map[string]int, language string) []match {
	if len(words) == 0 {
		return nil
	}
	var out []match
	st := newStemmer(language)
	forms := make(map[string]int) // words of the text seen before; -1 is no match
	t := tokenizer{emit: func(tok token) {
		table := words
		if tok.stem {
			table = forms
		}
		word, known := table[string(tok.text)]
		if !known && tok.stem {
			if i, ok := words[st.stem(string(tok.text))]; ok {
				word = i
			} else {
				word = -1
			}
			forms[string(tok.text)] = word
			known = true
		}
		if known && word >= 0 {
			out = append(out, match{Range{tok.start, tok.end}, word})
		}
	}}
	t.run(text)
	return out
}

// BestPassage returns the part of text, of at most size bytes, that has the most
// different words of query, then the most words, then stands first; it begins at
// the first of them and is grown to both sides up to white space. Without any
// match it is the beginning of text.
func BestPassage(text, query, language string, size int) Range {
	if size <= 0 || len(text) == 0 {
		return Range{}
	}
	if len(text) <= size {
		return Range{0, len(text)}
	}
	matches := matchesOf(text, query, language)
	counts := make(map[int]int)
	best, bestWords, bestCount := Range{}, 0, 0
	first := 0
	for last := range matches {
		counts[matches[last].word]++
		for matches[last].End-matches[first].Start > size && first < last {
			if word := matches[first].word; counts[word] == 1 {
				delete(counts, word)
			} else {
				counts[word]--
			}
			first++
		}
		if n := last - first + 1; len(counts) > bestWords || len(counts) == bestWords && n > bestCount {
			best, bestWords, bestCount = Range{matches[first].Start, matches[last].End}, len(counts), n
		}
	}
	return grow(text, best, size)
}

// grow widens r to size bytes, half before and half behind, and then narrows the
// edges it moved to white space or at least to a rune boundary.
func grow(text string, r Range, size int) Range {
	room := max(0, size-(r.End-r.Start))
	start := max(0, r.Start-room/2)
	end := min(len(text), start+size)
	start = max(0, min(start, end-size))
	if start > 0 && start < r.Start {
		start = edge(text, start, r.Start)
	}
	if end < len(text) {
		for back := end; back > max(r.End, start); back-- {
			if text[back] == ' ' || text[back] == '\n' {
				return Range{start, back}
			}
		}
		for end > start && !runeStart(text[end]) {
			end--
		}
	}
	return Range{start, end}
}

// edge returns the first byte after white space in [at, limit), else the first
// rune boundary.
func edge(text string, at, limit int) int {
	for i := at; i < limit; i++ {
		if text[i-1] == ' ' || text[i-1] == '\n' {
			return i
		}
	}
	for !runeStart(text[at]) && at < limit {
		at++
	}
	return at
}

func runeStart(c byte) bool { return c&0xC0 != 0x80 }
