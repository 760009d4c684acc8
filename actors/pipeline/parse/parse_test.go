package parse

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"granary.dev/granary/actors/pipeline"
)

// testParser compiles the PDF module once for all tests.
var testParser *Parser

func TestMain(m *testing.M) {
	testParser = New(Options{})
	code := m.Run()
	if err := testParser.Close(); err != nil {
		panic(err)
	}
	os.Exit(code)
}

// mustParse parses and checks the invariants.
func mustParse(t *testing.T, name, mediaType string, data []byte) *pipeline.Parsed {
	t.Helper()
	out, err := testParser.Parse(t.Context(), FromBytes(name, mediaType, data))
	if err != nil {
		t.Fatalf("parse %s: %v", name, err)
	}
	if err := Check(out); err != nil {
		t.Fatalf("parse %s: %v\n%q %v", name, err, out.Text, out.Blocks)
	}
	return out
}

var kindNames = map[pipeline.BlockKind]string{
	pipeline.BlockParagraph: "p", pipeline.BlockHeading: "h", pipeline.BlockListItem: "li",
	pipeline.BlockTable: "table", pipeline.BlockCode: "code", pipeline.BlockQuote: "quote",
}

// outline shows the blocks one per line, as "kind[level][@page] text".
func outline(p *pipeline.Parsed) string {
	var b strings.Builder
	for _, bl := range p.Blocks {
		b.WriteString(kindNames[bl.Kind])
		if bl.Level > 0 {
			fmt.Fprint(&b, bl.Level)
		}
		if bl.Page > 0 {
			fmt.Fprintf(&b, "@%d", bl.Page)
		}
		fmt.Fprintf(&b, " %s\n", strings.ReplaceAll(p.Text[bl.Start:bl.End], "\n", "⏎"))
	}
	return b.String()
}

func wantOutline(t *testing.T, p *pipeline.Parsed, want string) {
	t.Helper()
	if got := outline(p); strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("blocks are\n%s\nwant\n%s", got, want)
	}
}

func TestPlainTextKeepsOffsetsOfTheSource_C5(t *testing.T) {
	src := "First  line\r\nsecond line\r\n\r\n \t\r\nÜber alles.\n\n\n"
	p := mustParse(t, "a.txt", "", []byte("\xEF\xBB\xBF"+src))
	if p.Text != src || p.Charset != "utf-8" || p.MediaType != "text/plain" {
		t.Errorf("got %q %s %s", p.Text, p.Charset, p.MediaType)
	}
	wantOutline(t, p, "p First  line\r⏎second line\np Über alles.")
}

func TestMarkdownBlocksStandInTheSource_C5(t *testing.T) {
	p := mustParse(t, "guide.md", "text/plain", []byte(sampleMarkdown))
	if p.Text != sampleMarkdown {
		t.Error("the text is not the source")
	}
	wantOutline(t, p, `
code ---⏎title: Mill guide⏎lang: en⏎---
h1 # The *Mill*
p Intro text⏎in two lines.
h2 Setext⏎------
li - one
li - two
li - nested
p more of nested
li 1. first
quote > quoted⏎> again
code `+"```go⏎func main() {⏎⏎}⏎```"+`
table | a | b |⏎|---|---|⏎| 1 | 2 |
p ***
code     indented code
p <div>⏎raw⏎</div>
p End ##`)
	if p.Title != "Mill guide" || p.Language != "en" || p.Metadata["title"] != "Mill guide" {
		t.Errorf("title %q, language %q, metadata %v", p.Title, p.Language, p.Metadata)
	}
}

func TestMarkdownHeadingInsideAContainerOpensNoSection(t *testing.T) {
	p := mustParse(t, "a.md", "", []byte("> # quoted\n> text\n\n- ## item\n"))
	wantOutline(t, p, "quote > # quoted\nquote > text\nli - ## item")
}

func TestMarkdownWithoutFrontMatterTakesItsFirstHeadingAsTitle(t *testing.T) {
	p := mustParse(t, "a.md", "", []byte("## Minor\n\n# Big `x` [link](http://a)\n\ntext\n"))
	if p.Title != "Big x link" {
		t.Errorf("title %q", p.Title)
	}
}

func TestHTMLKeepsStructureAndDropsNavigation_C3(t *testing.T) {
	p := mustParse(t, "", "text/html; charset=utf-8", []byte(sampleHTML))
	wantOutline(t, p, `
h1 Die Mühle
p Das Korn wird zwischen den⏎Steinen gemahlen.
li Weizen
li Roggen
li Waldstaude
table Sorte: Weizen; Preis: 12
code a⏎  b
quote Gut Ding.`)
	if p.Title != "Die Mühle" || p.Language != "de" || p.Metadata["author"] != "Bo" {
		t.Errorf("title %q, language %q, %v", p.Title, p.Language, p.Metadata)
	}
}

func TestHTMLArticleIsFoundAmongClutter(t *testing.T) {
	para := "<p>" + strings.Repeat("The grain is cut between the stones, and then it is sifted, by hand. ", 6) + "</p>"
	page := `<html><head><title>Milling | Site</title></head><body><div class="sidebar menu">` + strings.Repeat(`<a href="#">Buy now</a> `, 40) +
		`</div><div class="content"><h1>Milling</h1>` + strings.Repeat(para, 8) + `</div><div class="comments footer">All rights reserved</div></body></html>`
	p := mustParse(t, "x.html", "", []byte(page))
	if strings.Contains(p.Text, "Buy now") || !strings.Contains(p.Text, "cut between the stones") || !strings.HasPrefix(p.Text, "Milling") {
		t.Errorf("text %.200q", p.Text)
	}
}

func TestPDFHasPagesHeadingsAndParagraphs_C3(t *testing.T) {
	p := mustParse(t, "mill.pdf", "", samplePDF())
	wantOutline(t, p, `
h1@1 Grinding
p@1 The upper stone turns on the lower one and the grain is cut between them.
p@1 A second paragraph follows here after a wider gap.
p@2 Text of the second page.`)
	if p.Pages != 2 || p.Title != "Mill handbook" || p.Metadata["author"] != "Bo" {
		t.Errorf("pages %d title %q %v", p.Pages, p.Title, p.Metadata)
	}
}

func TestPDFModuleIsKeptInTheCacheDirectory(t *testing.T) {
	dir := t.TempDir()
	p := New(Options{CacheDir: dir})
	if _, err := p.Parse(t.Context(), FromBytes("a.pdf", "", samplePDF())); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) == 0 {
		t.Errorf("cache holds %v, %v", files, err)
	}
	if _, err := p.Parse(t.Context(), FromBytes("a.pdf", "", samplePDF())); err == nil {
		t.Error("a closed parser parses")
	}
}

func TestPDFWithoutTextLayerSaysSo(t *testing.T) {
	p := mustParse(t, "scan.pdf", "", makePDF("", nil, "0 0 m 10 10 l S"))
	if p.Text != "" || p.Pages != 1 || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "no text layer") {
		t.Errorf("%+v", p)
	}
}

func TestDOCXKeepsHeadingsListsAndTables_C3(t *testing.T) {
	p := mustParse(t, "a.docx", "", makeDOCX(t, docxBody))
	wantOutline(t, p, `
h1 Intro
p Grain is stored dry.
h2 Kinds
li wheat
li rye
table Name: wheat; Tons: 12
p boxed
p See the appendix.`)
	if p.Title != "Annual report" || p.Metadata["author"] != "Ada" || p.Metadata["created"] != "2024-05-01T00:00:00Z" {
		t.Errorf("title %q %v", p.Title, p.Metadata)
	}
}

func TestDOCXStyleRingEnds(t *testing.T) {
	p := mustParse(t, "a.docx", "", makeDOCX(t, para("Loop", "text")))
	wantOutline(t, p, "p text\np See the appendix.")
}

func TestPPTXSlidesArePagesInOrderOfTheShow(t *testing.T) {
	p := mustParse(t, "a.pptx", "", makePPTX(t))
	wantOutline(t, p, `
h1@1 First
li@1 wheat
table@1 Year: 2024; Yield: 9
p@1 Say hello.
h1@2 Second
li@2 rye
table@2 Year: 2024; Yield: 9`)
	if p.Pages != 2 || p.Title != "First" {
		t.Errorf("pages %d title %q", p.Pages, p.Title)
	}
}

func TestXLSXSheetsArePagesAndRowsNameTheirColumns(t *testing.T) {
	p := mustParse(t, "a.xlsx", "", makeXLSX(t))
	wantOutline(t, p, `
h1@1 Sheet1
table@1 Product: Wheat; Price: 12.5⏎Product: Rye; Price: 9
h1@2 Other
table@2 alone`)
}

func TestEPUBChaptersFollowTheSpine(t *testing.T) {
	p := mustParse(t, "a.epub", "", makeEPUB(t))
	wantOutline(t, p, "h1 One\np The wheel turns.\nh1 Two\np The stone grinds.")
	if p.Title != "The Mill" || p.Language != "en" || p.Metadata["author"] != "Bo" || len(p.Warnings) != 1 {
		t.Errorf("%q %q %v %v", p.Title, p.Language, p.Metadata, p.Warnings)
	}
}

func TestCSVRowsNameTheirColumns(t *testing.T) {
	for name, src := range map[string]string{
		"comma.csv":     "name,tons\nwheat,12\n\"rye, old\",9\n",
		"semicolon.csv": "name;tons\nwheat;12\n\"rye, old\";9\n",
		"tab.tsv":       "name\ttons\nwheat\t12\nrye, old\t9\n",
	} {
		p := mustParse(t, name, "", []byte(src))
		wantOutline(t, p, "table name: wheat; tons: 12⏎name: rye, old; tons: 9")
	}
	p := mustParse(t, "numbers.csv", "", []byte("1,2\n3,4\n"))
	wantOutline(t, p, "table 1 | 2⏎3 | 4")
}

func TestJSONRecordsAreParagraphs(t *testing.T) {
	p := mustParse(t, "a.json", "", []byte(`{"title":"T","n":1.50,"deep":{"list":[true,null,{"x":"a\nb"}]},"after":"z"}`))
	wantOutline(t, p, "p title: T⏎n: 1.50\np deep.list[0]: true⏎deep.list[2].x: a b\np after: z")
	if p.Title != "T" || p.MediaType != "application/json" {
		t.Errorf("%q %s", p.Title, p.MediaType)
	}
	p = mustParse(t, "a.json", "", []byte(`[{"a":1},{"a":2}]`))
	wantOutline(t, p, "p a: 1\np a: 2")
	p = mustParse(t, "a.jsonl", "", []byte("{\"a\":1}\n{\"a\":2}\n"))
	wantOutline(t, p, "p a: 1\np a: 2")
	if p.MediaType != "application/x-ndjson" {
		t.Errorf("media type %s", p.MediaType)
	}
}

func TestXMLTextIsSplitByElements(t *testing.T) {
	p := mustParse(t, "a.xml", "", []byte(`<?xml version="1.0"?><doc><title>Mill</title><p>Text <b>bold</b> on.</p><p>Next&nbsp;one.</p></doc>`))
	wantOutline(t, p, "p Mill\np Text bold on.\np Next one.")
	if p.Title != "Mill" {
		t.Errorf("title %q", p.Title)
	}
}

func TestCodeIsSplitIntoTopLevelPieces(t *testing.T) {
	src := "package a\n\nimport \"x\"\n\nfunc A() {\n\tif x {\n\n\t\ty()\n\t}\n\n}\n\nfunc B() {}\n"
	p := mustParse(t, "a.go", "text/plain", []byte(src))
	if p.Text != src || p.Metadata["programming_language"] != "go" {
		t.Errorf("%q %v", p.Text, p.Metadata)
	}
	wantOutline(t, p, "code package a\ncode import \"x\"\ncode func A() {⏎\tif x {⏎⏎\t\ty()⏎\t}⏎⏎}\ncode func B() {}")
}

func TestContentDecidesWhatTheFileIs(t *testing.T) {
	docx := makeDOCX(t, para("", "x"))
	for _, c := range []struct {
		name, declared string
		data           []byte
		want           string
	}{
		{"a.txt", "text/plain", samplePDF(), typePDF},
		{"a.pdf", "application/pdf", []byte("just text"), typePlain},
		{"a.pdf", "application/pdf", []byte("<!doctype html><p>Not found"), typeHTML},
		{"a.bin", "application/octet-stream", docx, typeDOCX},
		{"a.pptx", typePPTX, docx, typeDOCX},
		{"data.json", "", []byte("<html><body>502</body></html>"), typeHTML},
		{"README.md", "text/html", []byte("<p>rendered"), typeHTML},
		{"README.md", "text/plain", []byte("# x"), typeMarkdown},
		{"noext", "", []byte(`{"a": 1}`), typeJSON},
		{"noext", "", []byte("<?xml version='1.0'?><a>x</a>"), typeXML},
		{"noext", "application/vnd.api+json", []byte("[1]"), typeJSON},
		{`C:\dir\x.PY`, "", []byte("print(1)"), typeCode},
		{"", "", []byte("plain"), typePlain},
		{"", "", nil, typePlain},
	} {
		if p := mustParse(t, c.name, c.declared, c.data); p.MediaType != c.want {
			t.Errorf("%s declared %q: got %s, want %s", c.name, c.declared, p.MediaType, c.want)
		}
	}
}

func TestCharsetsAreRecognised(t *testing.T) {
	german := strings.Repeat("Der Müller trägt schöne Säcke über die Brücke. ", 5)
	for _, c := range []struct {
		charset, declared string
		want              string
	}{
		{"windows-1252", "", german},
		{"windows-1252", "text/plain; charset=iso-8859-1", german},
		{"utf-16le", "", german},
		{"utf-16be", "", german},
		{"windows-1251", "", strings.Repeat("Мельник несёт мешки через мост и поёт песню. ", 5)},
		{"shift_jis", "", strings.Repeat("粉屋は橋を渡って袋を運びます。", 8)},
		{"gb18030", "", strings.Repeat("这是我们的国家,人民的生活在不断地改善,他们说中国的经济发展得很快。", 8)},
	} {
		raw, err := encodingOf(c.charset).NewEncoder().String(c.want)
		if err != nil {
			t.Fatal(err)
		}
		p := mustParse(t, "a.txt", c.declared, []byte(raw))
		if p.Text != c.want {
			t.Errorf("%s: read as %s: %.60q", c.charset, p.Charset, p.Text)
		}
	}
}

func TestDamagedTextIsRepairedWithAWarning(t *testing.T) {
	p := mustParse(t, "a.txt", "", []byte("Größe über Maß \xff und\x00 süß\x1b[0m"))
	if p.Text != "Größe über Maß \uFFFD und süß[0m" || len(p.Warnings) != 2 || p.Charset != "utf-8" {
		t.Errorf("%q %v %s", p.Text, p.Warnings, p.Charset)
	}
}

func TestLanguageIsDetected(t *testing.T) {
	for want, text := range map[string]string{
		"en": "The miller carries the sacks over the bridge and sings a song about the old river. When he comes home in the evening, his wife has set the table, and they eat bread from their own flour.",
		"de": "Der Müller trägt die Säcke über die Brücke und singt dabei ein Lied vom alten Fluss.",
		"fr": "Le meunier porte les sacs sur le pont et chante une chanson sur la vieille rivière.",
		"zh": "磨坊主扛着麻袋走过桥唱着关于老河的歌",
		"":   "ok 42",
	} {
		if got := languageOf(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
