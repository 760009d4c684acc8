package chunk_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/chunk"
)

// check holds every invariant of the package documentation.
func check(fail func(string, ...any), doc *pipeline.Parsed, opt chunk.Options) {
	chunks, err := chunk.Split(doc, opt)
	if err != nil {
		fail("split: %v", err)
		return
	}
	covered, lastStart := 0, -1
	for i, c := range chunks {
		switch {
		case c.Ordinal != i:
			fail("chunk %d has ordinal %d", i, c.Ordinal)
		case c.Start >= c.End || c.Text != doc.Text[c.Start:c.End]:
			fail("chunk %d: text is not [%d:%d]", i, c.Start, c.End)
		case !utf8.ValidString(c.Text):
			fail("chunk %d is cut inside a rune", i)
		case c.Start <= lastStart || i > 0 && c.End <= chunks[i-1].End:
			fail("chunk %d does not advance", i)
		case c.Start > covered && blank(doc.Text[covered:c.Start]) != "":
			fail("text lost before chunk %d: %q", i, doc.Text[covered:c.Start])
		case strings.TrimSpace(c.Text) != c.Text:
			fail("chunk %d has white space around it", i)
		}
		words, limit := chunk.Words(c.Text), opt.MaxWords
		if c.Kind == pipeline.BlockTable || c.Kind == pipeline.BlockCode {
			limit = opt.MaxBlockWords
		}
		if words > limit {
			fail("chunk %d has %d words, limit %d", i, words, limit)
		}
		covered, lastStart = c.End, c.Start
	}
	if rest := blank(doc.Text[covered:]); rest != "" {
		fail("text lost at the end: %q", rest)
	}
}

// blank returns s without white space.
func blank(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
}

func TestC4_InvariantsHoldForAnyDocument(t *testing.T) {
	word := rapid.OneOf(
		rapid.StringMatching(`[A-Za-zäß]{1,9}[.,!?]?`),
		rapid.SampledFrom([]string{"e.g.", "粮仓。", "小麦", "ข้าวสาลี", "…", "a_b.c", "\n\n", "\n", "|", "\u2029", "\u200b", "”", "."}),
		rapid.StringN(0, 12, -1),
		rapid.Map(rapid.IntRange(1, 400), func(n int) string { return strings.Repeat("z", n) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		doc := &pipeline.Parsed{}
		var b strings.Builder
		for range rapid.IntRange(0, 12).Draw(t, "blocks") {
			text := strings.ToValidUTF8(strings.Join(rapid.SliceOfN(word, 0, 60).Draw(t, "words"), " "), "?")
			start := b.Len()
			b.WriteString(text)
			if rapid.IntRange(0, 3).Draw(t, "covered") > 0 {
				doc.Blocks = append(doc.Blocks, pipeline.Block{
					Kind:  pipeline.BlockKind(rapid.IntRange(0, 5).Draw(t, "kind")),
					Level: rapid.IntRange(0, 7).Draw(t, "level"), Start: start, End: b.Len(),
				})
			}
			b.WriteString(rapid.SampledFrom([]string{"", " ", "\n", "\n\n"}).Draw(t, "gap"))
		}
		doc.Text = b.String()
		target := rapid.IntRange(chunk.MinTargetWords, 60).Draw(t, "target")
		most := target + rapid.IntRange(0, 40).Draw(t, "max")
		opt := chunk.Options{
			TargetWords: target, MaxWords: most, MaxBlockWords: most + rapid.IntRange(0, 60).Draw(t, "block"),
			OverlapSentences: rapid.IntRange(0, 3).Draw(t, "overlap"),
		}
		check(t.Fatalf, doc, opt)
	})
}

func FuzzSplit(f *testing.F) {
	f.Add("Title\n\nSome text. More text! 粮仓。", uint8(0), uint16(5), uint16(9))
	f.Add(strings.Repeat("Dr. J. said e.g. this. ", 40), uint8(3), uint16(0), uint16(200))
	f.Fuzz(func(t *testing.T, text string, kind uint8, a, b uint16) {
		text = strings.ToValidUTF8(text, "?")
		doc := &pipeline.Parsed{Text: text}
		start, end := min(int(a), len(text)), min(int(b), len(text))
		if start <= end && onRune(text, start) && onRune(text, end) {
			doc.Blocks = []pipeline.Block{{Kind: pipeline.BlockKind(kind % 6), Level: int(kind % 9), Start: start, End: end}}
		}
		check(t.Fatalf, doc, chunk.Options{TargetWords: 12, MaxWords: 18, MaxBlockWords: 25, OverlapSentences: int(kind % 4)})
	})
}

func onRune(s string, i int) bool { return i == len(s) || utf8.RuneStart(s[i]) }

func BenchmarkSplit(b *testing.B) {
	doc := build(heading(1, "Grain"), para(prose(700)))
	b.SetBytes(int64(len(doc.Text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := chunk.Split(doc, chunk.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
