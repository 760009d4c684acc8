package embed

import (
	"strings"
	"unicode"
)

// English is the ISO 639-1 code of the language the built-in model speaks.
const English = "en"

// englishShare of the letters must be ASCII for a text of unknown language to
// be taken for English. Other Latin scripts pass too: the model is the better
// guess for them than for Cyrillic or Chinese, which it cannot read at all.
const englishShare = 0.9

// speaksEnglish tells whether the built-in model is fit for in.
func speaksEnglish(in Input) bool {
	if in.Language != "" {
		return strings.EqualFold(in.Language, English)
	}
	letters, ascii := 0, 0
	for _, r := range in.Text {
		if !unicode.IsLetter(r) {
			continue
		}
		letters++
		if r < unicode.MaxASCII {
			ascii++
		}
	}
	return float64(ascii) >= englishShare*float64(letters)
}
