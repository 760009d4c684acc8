package chunk

import "unicode"

// Sizes are counted in quarters of a word, so that scripts without spaces can
// be weighed by the character.
const (
	costWord     = 4  // one word between white space
	costIdeogram = 2  // Han, kana, Hangul: two characters make a word
	costSyllable = 1  // Thai, Lao, Khmer, Myanmar: four characters make a word
	longWord     = 24 // a word this long in runes costs one more
)

// Words returns the size of text in words, rounded up: the measure of every
// limit in [Options].
func Words(text string) int {
	var m meter
	for _, r := range text {
		m.add(r)
	}
	return (m.cost + costWord - 1) / costWord
}

func cost(text string) int {
	var m meter
	for _, r := range text {
		m.add(r)
	}
	return m.cost
}

// meter weighs runes one after another. The weight of a text is at most the sum
// of the weights of its pieces, wherever it is cut.
type meter struct {
	cost int
	run  int // runes in the current word, 0 between words
}

func (m *meter) add(r rune) {
	switch {
	case unicode.IsSpace(r):
		m.run = 0
	case isIdeogram(r):
		m.cost += costIdeogram
		m.run = 0
	case isSyllable(r):
		m.cost += costSyllable
		m.run = 0
	default:
		if m.run%longWord == 0 {
			m.cost += costWord
		}
		m.run++
	}
}

func isIdeogram(r rune) bool {
	if r < 0x1100 {
		return false
	}
	return unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul)
}

func isSyllable(r rune) bool {
	if r < 0x0E00 || r > 0x17FF {
		return false
	}
	return unicode.In(r, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar)
}
