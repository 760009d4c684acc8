package search

import (
	"github.com/blevesearch/snowballstem"
	"github.com/blevesearch/snowballstem/danish"
	"github.com/blevesearch/snowballstem/dutch"
	"github.com/blevesearch/snowballstem/english"
	"github.com/blevesearch/snowballstem/finnish"
	"github.com/blevesearch/snowballstem/french"
	"github.com/blevesearch/snowballstem/german"
	"github.com/blevesearch/snowballstem/hungarian"
	"github.com/blevesearch/snowballstem/italian"
	"github.com/blevesearch/snowballstem/norwegian"
	"github.com/blevesearch/snowballstem/portuguese"
	"github.com/blevesearch/snowballstem/romanian"
	"github.com/blevesearch/snowballstem/russian"
	"github.com/blevesearch/snowballstem/spanish"
	"github.com/blevesearch/snowballstem/swedish"
	"github.com/blevesearch/snowballstem/turkish"
)

// stemFunc returns the Snowball stemmer of an ISO 639-1 language, nil when there
// is none: then words are indexed as they stand.
func stemFunc(language string) func(*snowballstem.Env) bool {
	switch language {
	case "da":
		return danish.Stem
	case "de":
		return german.Stem
	case "en":
		return english.Stem
	case "es":
		return spanish.Stem
	case "fi":
		return finnish.Stem
	case "fr":
		return french.Stem
	case "hu":
		return hungarian.Stem
	case "it":
		return italian.Stem
	case "nl":
		return dutch.Stem
	case "no", "nb", "nn":
		return norwegian.Stem
	case "pt":
		return portuguese.Stem
	case "ro":
		return romanian.Stem
	case "ru":
		return russian.Stem
	case "sv":
		return swedish.Stem
	case "tr":
		return turkish.Stem
	}
	return nil
}

// stemmer stems words of one language. It is not safe for concurrent use.
type stemmer struct {
	fn  func(*snowballstem.Env) bool
	env *snowballstem.Env
}

func newStemmer(language string) *stemmer {
	return &stemmer{fn: stemFunc(language), env: snowballstem.NewEnv("")}
}

// stem returns the stem of a lower-case word, or the word.
func (s *stemmer) stem(word string) string {
	if s.fn == nil || len(word) < 3 {
		return word
	}
	s.env.SetCurrent(word)
	s.fn(s.env)
	if stem := s.env.Current(); stem != "" {
		return stem
	}
	return word
}

// isStopWord tells the English words that say nothing about what is asked. They
// are indexed, and dropped from a query that has other words.
func isStopWord(word string) bool {
	switch word {
	case "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at",
		"be", "been", "before", "being", "but", "by", "can", "could", "did", "do", "does", "don't",
		"for", "from", "get", "had", "has", "have", "he", "her", "his", "how", "i", "if", "in", "into",
		"is", "it", "its", "just", "me", "my", "no", "not", "of", "off", "on", "or", "our", "out",
		"over", "she", "should", "so", "some", "than", "that", "the", "their", "them", "then",
		"there", "they", "this", "to", "under", "up", "us", "was", "we", "were", "what", "when",
		"where", "which", "who", "whom", "whose", "why", "will", "with", "would", "you", "your":
		return true
	}
	return false
}
