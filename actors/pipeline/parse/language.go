package parse

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/abadojack/whatlanggo"
)

// Detection needs some text: below these many letters it is a guess. Scripts
// that belong to few languages need less. From sureLanguageLetters on, about 30
// words, the best guess is taken even when the detector calls it unsure: of 82
// pieces of an English design document it was right in 80.
const (
	minLanguageLetters  = 24
	minLanguageIdeo     = 8
	sureLanguageLetters = 150
	languageSample      = 1 << 10
)

// languageOf tells the ISO 639-1 code of the language of text, "" when it is
// too short or the detector is not sure.
func languageOf(text string) string {
	sample := languageSampleOf(text)
	letters, ideo := 0, 0
	for _, r := range sample {
		switch {
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul):
			ideo++
		case unicode.IsLetter(r):
			letters++
		}
	}
	if letters < minLanguageLetters && ideo < minLanguageIdeo {
		return ""
	}
	info := whatlanggo.Detect(sample)
	if !info.IsReliable() && letters < sureLanguageLetters {
		return ""
	}
	return info.Lang.Iso6391()
}

// languageSampleOf takes the start and the middle of a long text, since fronts
// of documents are often titles and names.
func languageSampleOf(text string) string {
	if len(text) <= 2*languageSample {
		return text
	}
	mid := len(text) / 2
	return strings.ToValidUTF8(text[:languageSample], "") + " " + strings.ToValidUTF8(text[mid:mid+languageSample], "")
}

// languageTag shortens a declared tag such as "de-AT" to its ISO 639-1 code.
func languageTag(tag string) string {
	tag, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(tag)), "-")
	tag, _, _ = strings.Cut(tag, "_")
	if len(tag) != 2 || !utf8.ValidString(tag) || tag[0] < 'a' || tag[0] > 'z' || tag[1] < 'a' || tag[1] > 'z' {
		return ""
	}
	return tag
}
