package search

import (
	"slices"
)

// The limits of a query's text.
const (
	MaxQueryBytes = 8 << 10 // longer texts are cut
	maxQueryTerms = 64      // distinct words; the rest is ignored
)

// queryTerm is one word of a query with its form in each language of the index.
type queryTerm struct {
	word  string   // lower case
	forms []string // distinct index terms
}

// analyzeQuery returns the distinct words of text, without stop words unless
// there is nothing else. languages are those of the index and of the query.
func analyzeQuery(text string, languages []string) []queryTerm {
	text = cutText(text, MaxQueryBytes)
	stemmers := make([]*stemmer, 0, len(languages))
	for _, l := range languages {
		if stemFunc(l) != nil {
			stemmers = append(stemmers, newStemmer(l))
		}
	}
	plain := len(stemmers) < len(languages) || len(languages) == 0
	var words, stops []queryTerm
	seen := make(map[string]bool)
	t := tokenizer{emit: func(tok token) {
		if len(words) >= maxQueryTerms || seen[string(tok.text)] {
			return
		}
		q := queryTerm{word: string(tok.text)}
		seen[q.word] = true
		if !tok.stem || plain {
			q.forms = append(q.forms, q.word)
		}
		if tok.stem {
			for _, s := range stemmers {
				if f := s.stem(q.word); !slices.Contains(q.forms, f) {
					q.forms = append(q.forms, f)
				}
			}
		}
		if isStopWord(q.word) {
			if len(stops) < maxQueryTerms {
				stops = append(stops, q)
			}
			return
		}
		words = append(words, q)
	}}
	t.run(text)
	if len(words) == 0 {
		return stops
	}
	return words
}

// cutText cuts s to at most n bytes at a rune boundary.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !runeStart(s[n]) {
		n--
	}
	return s[:n]
}
