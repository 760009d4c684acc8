package parse

import (
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"granary.dev/granary/actors/pipeline"
)

func runeCount(s string) int { return utf8.RuneCountInString(s) }

// What the layout of a PDF is judged by. The factors are those of common
// typography: body lines are set 1.1–1.3 apart, headings at least 1.15 larger.
const (
	headingFactor = 1.15
	gapFactor     = 1.4
	maxHeading    = 200 // bytes; longer large text is a poster, not a heading
)

// layoutPages makes blocks of the lines of all pages.
func layoutPages(b *builder, pages [][]pdfLine) error {
	sizes := sizeClasses(pages)
	for i, lines := range pages {
		b.page = i + 1
		if err := layoutPage(b, lines, sizes); err != nil {
			return err
		}
	}
	return nil
}

// pdfSizes are the sizes of text of a document.
type pdfSizes struct {
	body     float32
	headings []float32 // descending, larger than body
}

// sizeClasses takes the size of most characters as that of the body, and ranks
// the larger ones.
func sizeClasses(pages [][]pdfLine) pdfSizes {
	weight := map[float32]int{}
	for _, lines := range pages {
		for _, l := range lines {
			weight[roundSize(l.size())] += len(l.text)
		}
	}
	var s pdfSizes
	for size, w := range weight {
		if w > weight[s.body] || w == weight[s.body] && size < s.body {
			s.body = size
		}
	}
	for size := range weight {
		if s.body > 0 && size >= s.body*headingFactor {
			s.headings = append(s.headings, size)
		}
	}
	slices.Sort(s.headings)
	slices.Reverse(s.headings)
	return s
}

func roundSize(v float32) float32 { return float32(math.Round(float64(v)*2) / 2) }

// level is the heading level of a line, 0 for the body.
func (s pdfSizes) level(l pdfLine) int {
	if len(l.text) > maxHeading {
		return 0
	}
	if i := slices.Index(s.headings, roundSize(l.size())); i >= 0 {
		return min(i+1, 6)
	}
	return 0
}

// layoutPage puts the lines of one page together.
func layoutPage(b *builder, lines []pdfLine, sizes pdfSizes) error {
	pitch := typicalPitch(lines)
	for i := 0; i < len(lines); {
		end := i + 1
		level := sizes.level(lines[i])
		for end < len(lines) && joins(lines[end-1], lines[end], level, sizes, pitch) {
			end++
		}
		text := joinLines(lines[i:end])
		var err error
		switch {
		case level > 0 && hasLetter(text):
			err = b.heading(level, text)
		case isBullet(text):
			err = b.add(pipeline.BlockListItem, 0, text)
		default:
			err = b.paragraph(text)
		}
		if err != nil {
			return err
		}
		i = end
	}
	return nil
}

// typicalPitch is the median distance of consecutive lines.
func typicalPitch(lines []pdfLine) float32 {
	var d []float32
	for i := 1; i < len(lines); i++ {
		if p := lines[i-1].top - lines[i].top; p > 0.1 {
			d = append(d, p)
		}
	}
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// joins tells whether line b goes on with the paragraph of line a.
func joins(a, b pdfLine, level int, sizes pdfSizes, pitch float32) bool {
	if sizes.level(b) != level || isBullet(b.text) {
		return false
	}
	gap := a.top - b.top
	switch {
	case a.size() <= 0 || b.size() <= 0:
		return !endsSentence(a.text)
	case level > 0:
		return gap > 0 && gap <= gapFactor*b.size()
	case gap <= 0: // the next column, or a line set beside
		return !endsSentence(a.text)
	case gap > gapFactor*max(pitch, b.size()*0.9) || gap > 2.5*b.size():
		return false
	}
	// An indented first line opens a paragraph if the one before could end.
	return !(endsSentence(a.text) && b.left > a.left+b.size()*0.8)
}

// joinLines joins the lines of a paragraph, putting divided words together.
// pdfium marks a hyphen at a line's end that it takes for a division.
func joinLines(lines []pdfLine) string {
	var b strings.Builder
	for i, l := range lines {
		text := l.text
		divided := false
		for _, mark := range []string{"\x02", "\uFFFE", "\u00AD"} {
			if cut, ok := strings.CutSuffix(text, mark); ok {
				text, divided = cut, true
			}
		}
		b.WriteString(text)
		if !divided && i < len(lines)-1 {
			b.WriteByte(' ')
		}
	}
	return collapse(strings.NewReplacer("\x02", "-", "\uFFFE", "-", "\u00AD", "").Replace(b.String()))
}

func endsSentence(s string) bool {
	r, _ := utf8.DecodeLastRuneInString(strings.TrimRight(s, `"'”’)]`))
	return strings.ContainsRune(".!?:。！？", r)
}

func hasLetter(s string) bool { return strings.ContainsFunc(s, unicode.IsLetter) }

// isBullet tells a line that opens an item of a list.
func isBullet(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	switch r {
	case '•', '▪', '●', '◦', '‣', '–', '-', '*', '·', '\uF0B7':
		return n < len(s) && s[n] == ' '
	}
	num := strings.TrimLeft(s, "0123456789")
	return len(num) < len(s) && len(s)-len(num) <= 3 && (strings.HasPrefix(num, ". ") || strings.HasPrefix(num, ") "))
}
