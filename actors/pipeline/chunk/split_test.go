package chunk_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/chunk"
)

// build makes a parsed document of blocks whose Start and End it fills in.
func build(blocks ...block) *pipeline.Parsed {
	var b strings.Builder
	doc := &pipeline.Parsed{Language: "en"}
	for i, x := range blocks {
		if i > 0 {
			b.WriteString("\n\n")
		}
		start := b.Len()
		b.WriteString(x.text)
		doc.Blocks = append(doc.Blocks, pipeline.Block{Kind: x.kind, Level: x.level, Start: start, End: b.Len(), Page: x.page})
	}
	doc.Text = b.String()
	return doc
}

type block struct {
	kind  pipeline.BlockKind
	level int
	page  int
	text  string
}

func heading(level int, text string) block {
	return block{kind: pipeline.BlockHeading, level: level, text: text}
}
func para(text string) block  { return block{text: text} }
func table(text string) block { return block{kind: pipeline.BlockTable, text: text} }
func code(text string) block  { return block{kind: pipeline.BlockCode, text: text} }

// prose returns n sentences of ten words each.
func prose(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "Sentence number %d talks about barley, wheat, rye and oats. ", i)
	}
	return strings.TrimSpace(b.String())
}

func split(t *testing.T, doc *pipeline.Parsed, opt chunk.Options) []pipeline.Chunk {
	t.Helper()
	chunks, err := chunk.Split(doc, opt)
	if err != nil {
		t.Fatal(err)
	}
	return chunks
}

func TestC4_ProseIsCutBetweenSentencesNearTheTargetWithOneSentenceOfOverlap(t *testing.T) {
	doc := build(heading(1, "Grain"), para(prose(60)))
	chunks := split(t, doc, chunk.DefaultOptions())
	if len(chunks) < 4 {
		t.Fatalf("600 words gave %d chunks", len(chunks))
	}
	for i, c := range chunks {
		words := len(strings.Fields(c.Text))
		if i < len(chunks)-1 && (words < 100 || words > 150) {
			t.Errorf("chunk %d has %d words, want 100..150", i, words)
		}
		if !strings.HasSuffix(c.Text, "oats.") {
			t.Errorf("chunk %d ends inside a sentence: …%q", i, c.Text[len(c.Text)-20:])
		}
		if i == 0 {
			continue
		}
		if c.Start >= chunks[i-1].End {
			t.Errorf("chunk %d does not overlap the one before", i)
			continue
		}
		if n := strings.Count(doc.Text[c.Start:chunks[i-1].End], "Sentence"); n != 1 {
			t.Errorf("chunk %d repeats %d sentences, want 1", i, n)
		}
	}
}

func TestC4_HeadingPathIsKeptAndAHeadingStaysWithWhatItAnnounces(t *testing.T) {
	doc := build(
		heading(1, "Guide"), para(prose(12)),
		heading(2, "Storage"), heading(3, "Silo"), para(prose(11)),
		heading(2, "Transport"), para(prose(11)),
	)
	chunks := split(t, doc, chunk.DefaultOptions())
	want := [][]string{{"Guide"}, {"Guide", "Storage", "Silo"}, {"Guide", "Transport"}}
	if len(chunks) != len(want) {
		t.Fatalf("got %d chunks, want %d", len(chunks), len(want))
	}
	for i, c := range chunks {
		if !slices.Equal(c.Headings, want[i]) {
			t.Errorf("chunk %d: headings %v, want %v", i, c.Headings, want[i])
		}
		if last := c.Headings[len(c.Headings)-1]; !strings.Contains(c.Text, last) {
			t.Errorf("chunk %d lost its heading %q", i, last)
		}
	}
}

func TestC4_SmallSectionsShareAChunkUnderTheirCommonHeading(t *testing.T) {
	doc := build(heading(1, "FAQ"), para("Preface words here."),
		heading(2, "One"), para("A short answer."), heading(2, "Two"), para("Another short answer."))
	chunks := split(t, doc, chunk.DefaultOptions())
	if len(chunks) != 1 || !slices.Equal(chunks[0].Headings, []string{"FAQ"}) {
		t.Fatalf("got %d chunks, headings %v", len(chunks), chunks[0].Headings)
	}
}

func TestC4_TablesAndCodeStayWholeWhenTheyFitElseAreCutByRowsOrLines(t *testing.T) {
	row := "| wheat | 12 | 17 | 3 |"
	small := strings.TrimSpace(strings.Repeat(row+"\n", 25)) // 225 words: above MaxWords
	large := strings.TrimSpace(strings.Repeat(row+"\n", 200))
	for _, of := range []func(string) block{table, code} {
		chunks := split(t, build(para(prose(3)), heading(2, "Yield"), of(small), para(prose(3))), chunk.DefaultOptions())
		whole := slices.ContainsFunc(chunks, func(c pipeline.Chunk) bool {
			return strings.Contains(c.Text, small) && strings.HasPrefix(c.Text, "Yield") && c.Kind == of("").kind
		})
		if !whole {
			t.Error("a block that fits was cut or lost its heading")
		}
		chunks = split(t, build(of(large)), chunk.DefaultOptions())
		if len(chunks) < 10 {
			t.Errorf("a large block gave %d chunks", len(chunks))
		}
		for _, c := range chunks {
			if !strings.HasPrefix(c.Text, "| wheat") || !strings.HasSuffix(c.Text, "3 |") {
				t.Errorf("cut inside a row: %q", c.Text)
			}
		}
	}
}

func TestC4_CJKIsCountedByCharactersAndCutAtItsOwnMarks(t *testing.T) {
	doc := &pipeline.Parsed{Language: "zh", Text: strings.Repeat("粮仓保存小麦和大麦。", 120)}
	chunks := split(t, doc, chunk.DefaultOptions())
	if len(chunks) < 4 {
		t.Fatalf("1200 characters gave %d chunks", len(chunks))
	}
	for i, c := range chunks {
		if !strings.HasSuffix(c.Text, "。") {
			t.Errorf("chunk %d is cut inside a sentence", i)
		}
		if w := chunk.Words(c.Text); w > 150 {
			t.Errorf("chunk %d has %d words", i, w)
		}
	}
}

func TestC4_AHugeWordIsCutBetweenRunes(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", 100_000), strings.Repeat("ä", 100_000), strings.Repeat("粮", 10_000)} {
		for _, c := range split(t, &pipeline.Parsed{Text: text}, chunk.DefaultOptions()) {
			if w := chunk.Words(c.Text); w > 150 {
				t.Fatalf("a piece of %d words", w)
			}
		}
	}
}

func TestC4_AbbreviationsInitialsAndDecimalsDoNotEndASentence(t *testing.T) {
	text := `Dr. J. Miller paid approx. 3.50 for rye, e.g. Danish rye. "Why?" he asked. Next day it rained! End`
	opt := chunk.Options{TargetWords: 10, MaxWords: 12}
	var got []string
	for _, c := range split(t, &pipeline.Parsed{Text: text}, opt) {
		got = append(got, c.Text)
	}
	want := []string{
		`Dr. J. Miller paid approx. 3.50 for rye, e.g. Danish rye.`,
		`"Why?" he asked. Next day it rained! End`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestC4_PageIsThatOfTheFirstByteAndLanguageIsDetectedPerChunk(t *testing.T) {
	a, b := para(prose(12)), para(prose(13))
	a.page, b.page = 3, 4
	opt := chunk.DefaultOptions()
	opt.DetectLanguage = func(s string) string {
		if strings.Contains(s, "number 11") {
			return "de"
		}
		return ""
	}
	chunks := split(t, build(a, b), opt)
	if len(chunks) != 2 || chunks[0].Page != 3 || chunks[0].Language != "de" {
		t.Fatalf("got %d chunks, first on page %d in %q", len(chunks), chunks[0].Page, chunks[0].Language)
	}
}

func TestC4_EmptyDocumentsGiveNoChunks(t *testing.T) {
	for _, doc := range []*pipeline.Parsed{nil, {}, {Text: " \n\t\u00a0 "}, build(para(""), heading(1, " "))} {
		if chunks := split(t, doc, chunk.Options{}); len(chunks) != 0 {
			t.Errorf("got %d chunks", len(chunks))
		}
	}
}

func TestC7_WrongOptionsAndBrokenDocumentsAreRefusedWithAReason(t *testing.T) {
	for _, opt := range []chunk.Options{
		{TargetWords: 5}, {TargetWords: -1}, {TargetWords: 200, MaxWords: 100}, {MaxWords: 100_000},
		{MaxBlockWords: 10}, {OverlapSentences: -1}, {OverlapSentences: 6},
	} {
		if err := opt.Validate(); !errors.Is(err, chunk.ErrInvalidOptions) {
			t.Errorf("%+v: %v", opt, err)
		}
		if _, err := chunk.Split(&pipeline.Parsed{Text: "x"}, opt); pipeline.ReasonOf(err) != chunk.ReasonInvalidOptions {
			t.Errorf("%+v: %v", opt, err)
		}
	}
	for reason, doc := range map[string]*pipeline.Parsed{
		chunk.ReasonInvalidText:   {Text: "\xff"},
		chunk.ReasonInvalidBlocks: {Text: "äb", Blocks: []pipeline.Block{{Start: 1, End: 2}}},
	} {
		if _, err := chunk.Split(doc, chunk.Options{}); pipeline.ReasonOf(err) != reason {
			t.Errorf("want %s, got %v", reason, err)
		}
	}
	for _, blocks := range [][]pipeline.Block{{{Start: -1, End: 1}}, {{Start: 0, End: 9}}, {{Start: 2, End: 1}}, {{Start: 0, End: 3}, {Start: 2, End: 4}}} {
		if _, err := chunk.Split(&pipeline.Parsed{Text: "abcd", Blocks: blocks}, chunk.Options{}); pipeline.ReasonOf(err) != chunk.ReasonInvalidBlocks {
			t.Errorf("%v: %v", blocks, err)
		}
	}
}

func TestC4_AHashNamesWhatIsEmbeddedAndNothingElse(t *testing.T) {
	c := pipeline.Chunk{Text: "Keep it dry.", Headings: []string{"Silo"}, Language: "en"}
	moved := c
	moved.Ordinal, moved.Start, moved.Headings = 7, 99, nil
	if chunk.EmbedText(c, "Title") != c.Text || chunk.Hash(c, "Title") != chunk.Hash(moved, "New title") {
		t.Error("a moved chunk of a renamed document must keep its embedding")
	}
	other, edited := c, c
	other.Language, edited.Text = "de", "Keep it wet."
	if chunk.Hash(c, "") == chunk.Hash(other, "") || chunk.Hash(c, "") == chunk.Hash(edited, "") {
		t.Error("what is embedded differently must not share a hash")
	}
}

// Hostile texts must cost no more per byte than plain ones; a quadratic step
// would need minutes here.
func TestC4_SplitIsLinear(t *testing.T) {
	const n = 1 << 19
	for name, text := range map[string]string{
		"dots":       strings.Repeat(".", n),
		"dot space":  strings.Repeat(". ", n/2),
		"initials":   strings.Repeat("A. ", n/3),
		"spaces":     "x." + strings.Repeat(" ", n) + "y",
		"newlines":   strings.Repeat("x\n\n", n/3),
		"lower":      strings.Repeat("word. ", n/6),
		"one word":   strings.Repeat("x", n),
		"wide space": "x" + strings.Repeat("\u3000", n/3) + "x",
	} {
		start := time.Now()
		for _, kind := range []pipeline.BlockKind{pipeline.BlockParagraph, pipeline.BlockTable, pipeline.BlockHeading} {
			split(t, &pipeline.Parsed{Text: text, Blocks: []pipeline.Block{{Kind: kind, Level: 1, End: len(text)}}}, chunk.Options{})
		}
		split(t, &pipeline.Parsed{Text: text}, chunk.Options{})
		t.Logf("%s: %v", name, time.Since(start).Round(time.Millisecond))
	}
}
