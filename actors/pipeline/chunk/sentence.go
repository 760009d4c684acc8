package chunk

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// span is a byte range of the document's text.
type span struct{ start, end int }

// abbreviations that end in a full stop without ending a sentence, lower case.
// Only those common enough to be worth a look-up; a wrong cut costs little.
var abbreviations = map[string]bool{
	"mr": true, "mrs": true, "ms": true, "dr": true, "prof": true, "st": true, "sr": true, "jr": true,
	"vs": true, "etc": true, "e.g": true, "i.e": true, "cf": true, "al": true, "no": true, "fig": true,
	"vol": true, "pp": true, "inc": true, "ltd": true, "co": true, "approx": true, "sec": true,
	"z.b": true, "bzw": true, "usw": true, "ca": true, "nr": true, "vgl": true, "bspw": true, "u.a": true,
	"p.ex": true, "art": true, "m": true, "mme": true, "sra": true, "dra": true,
}

const longestAbbreviation = 8 // bytes looked back before a full stop

// sentences cuts text[at.start:at.end] into sentences without the white space
// around them. A blank line ends a sentence whatever stands before it.
func sentences(text string, at span, out []span) []span {
	start := -1 // of the sentence being read, -1 between sentences
	for i := at.start; i < at.end; {
		r, size := utf8.DecodeRuneInString(text[i:at.end])
		if unicode.IsSpace(r) {
			next, blank := skipSpace(text, span{i, at.end})
			if blank && start >= 0 {
				out = append(out, span{start, i})
				start = -1
			}
			i = next
			continue
		}
		if start < 0 {
			start = i
		}
		i += size
		if !isTerminator(r) {
			continue
		}
		end := skipClosers(text, i, at.end)
		if endsSentence(text, span{start, end}, i-size, at.end, r) {
			out = append(out, span{start, end})
			start = -1
		}
		i = end
	}
	if start >= 0 {
		out = append(out, trim(text, span{start, at.end}))
	}
	return out
}

// skipSpace returns where the white space at at.start ends and whether it holds
// a blank line.
func skipSpace(text string, at span) (next int, blank bool) {
	lines := 0
	for i := at.start; i < at.end; {
		r, size := utf8.DecodeRuneInString(text[i:at.end])
		if !unicode.IsSpace(r) {
			return i, lines > 1
		}
		if r == '\n' || r == '\f' || r == '\u2029' {
			lines++
		}
		i += size
	}
	return at.end, lines > 1
}

func isTerminator(r rune) bool {
	switch r {
	case '.', '!', '?', '…', '؟', '۔', '।', '॥':
		return true
	}
	return isWideTerminator(r)
}

// isWideTerminator tells the marks that end a sentence without white space.
func isWideTerminator(r rune) bool {
	switch r {
	case '。', '！', '？', '｡':
		return true
	}
	return false
}

// skipClosers moves over further terminators and closing marks after a terminator.
func skipClosers(text string, i, end int) int {
	for i < end {
		r, size := utf8.DecodeRuneInString(text[i:end])
		if !isTerminator(r) && !strings.ContainsRune(`"')]}»”’」』）】〉》`, r) {
			return i
		}
		i += size
	}
	return i
}

// endsSentence decides whether the terminator mark at byte dot, with closers up
// to at.end, ends the sentence that began at at.start.
func endsSentence(text string, at span, dot, limit int, mark rune) bool {
	if isWideTerminator(mark) || at.end >= limit {
		return true
	}
	next, size := utf8.DecodeRuneInString(text[at.end:limit])
	if !unicode.IsSpace(next) {
		return isIdeogram(next) && mark != '.'
	}
	after := at.end + size
	for after < limit && (text[after] == ' ' || text[after] == '\n' || text[after] == '(' || text[after] == '"') {
		if text[after] == '\n' && text[after-1] == '\n' {
			return true
		}
		after++ // bounded by the white space, which the caller's scan also passes once
		if after-at.end > 64 {
			return true
		}
	}
	if after >= limit {
		return true
	}
	if follow, _ := utf8.DecodeRuneInString(text[after:limit]); unicode.IsLower(follow) {
		return false // "What?" he said · approx. five
	}
	return mark != '.' || !isAbbreviation(text[at.start:dot])
}

// isAbbreviation tells whether the last word of s is an initial or a known
// abbreviation whose full stop does not end a sentence.
func isAbbreviation(s string) bool {
	tail := s[max(0, len(s)-longestAbbreviation):]
	cut := strings.LastIndexFunc(tail, func(r rune) bool { return unicode.IsSpace(r) || r == '(' || r == '"' })
	if cut < 0 && len(tail) < len(s) {
		return false
	}
	word := tail[cut+1:]
	if first, size := utf8.DecodeRuneInString(word); size == len(word) && unicode.IsUpper(first) {
		return true
	}
	return abbreviations[strings.ToLower(word)]
}

// lines cuts text[at.start:at.end] at line ends, without the white space at the
// end of a line; the indentation of all but the first line is kept out too.
func lines(text string, at span, out []span) []span {
	for at.start < at.end {
		end := at.end
		if n := strings.IndexByte(text[at.start:at.end], '\n'); n >= 0 {
			end = at.start + n
		}
		if line := trim(text, span{at.start, end}); line.start < line.end {
			out = append(out, line)
		}
		at.start = end + 1
	}
	return out
}

// pieces cuts text[at.start:at.end], which is too large, into pieces of at most
// limit quarter words: between words where it can, else between runes.
func pieces(text string, at span, limit int, out []span) []span {
	start, gap := at.start, -1 // gap: where the last white space inside the piece begins
	var m meter
	for i := at.start; i < at.end; {
		r, size := utf8.DecodeRuneInString(text[i:at.end])
		m.add(r)
		if m.cost > limit && i > start {
			cut := i
			if gap > start {
				cut = gap
			}
			out = append(out, trim(text, span{start, cut}))
			rest := trim(text, span{cut, at.end})
			start, gap, m = rest.start, -1, meter{}
			i = rest.start // at most one piece is read again: linear
			continue
		}
		if unicode.IsSpace(r) {
			gap = i
		}
		i += size
	}
	if last := trim(text, span{start, at.end}); last.start < last.end {
		out = append(out, last)
	}
	return out
}

// trim takes the white space off both ends.
func trim(text string, at span) span {
	for at.start < at.end {
		r, size := utf8.DecodeRuneInString(text[at.start:at.end])
		if !unicode.IsSpace(r) {
			break
		}
		at.start += size
	}
	for at.start < at.end {
		r, size := utf8.DecodeLastRuneInString(text[at.start:at.end])
		if !unicode.IsSpace(r) {
			break
		}
		at.end -= size
	}
	return at
}
