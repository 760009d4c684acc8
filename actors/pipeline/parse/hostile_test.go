package parse

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/actors/pipeline"
)

// wantReason parses data and wants it refused for reason.
func wantReason(t *testing.T, in Input, reason string) {
	t.Helper()
	out, err := testParser.Parse(t.Context(), in)
	if err == nil {
		t.Fatalf("%s was parsed to %d bytes of text, want %s", in.Name, len(out.Text), reason)
	}
	e, ok := errors.AsType[*pipeline.Error](err)
	if !ok || e.Stage != "parse" || e.Reason != reason || e.Message == "" {
		t.Fatalf("%s: got %v, want %s", in.Name, err, reason)
	}
}

func TestHostileFilesAreRefusedByName(t *testing.T) {
	deepHTML := strings.Repeat("<div>", 400) + "x"
	ole := append([]byte("\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"), make([]byte, 600)...)
	for _, c := range []struct {
		name   string
		data   []byte
		reason string
	}{
		{"a.png", []byte("\x89PNG\r\n\x1a\n0000"), ReasonUnsupported},
		{"a.txt", randomBytes(1, 5000), ReasonUnsupported},
		{"a.zip", makeZip(t, entry{"x.txt", "x"}), ReasonUnsupported},
		{"a.doc", ole, ReasonUnsupported},
		{"a.docx", append(ole, []byte("E\x00n\x00c\x00r\x00y\x00p\x00t\x00e\x00d\x00P\x00a\x00c\x00k\x00a\x00g\x00e\x00")...), ReasonEncrypted},
		{"a.docx", encryptedZip(t), ReasonEncrypted},
		{"a.epub", makeEPUB(t, entry{"META-INF/encryption.xml", `<encryption><EncryptedData><CipherData><CipherReference URI="OEBPS/a.xhtml"/></CipherData></EncryptedData></encryption>`}), ReasonEncrypted},
		{"a.pdf", encryptedPDF(), ReasonEncryptedPDF},
		{"a.pdf", []byte("%PDF-1.7\nnothing else"), ReasonMalformed},
		{"a.docx", []byte("PK\x03\x04 but not really"), ReasonMalformed},
		{"a.docx", makeDOCX(t, "<w:p><w:r>"), ReasonMalformed},
		{"a.docx", makeDOCX(t, strings.Repeat("<w:tbl><w:tr><w:tc>", 100)), ReasonTooDeep},
		{"a.pptx", makeZip(t, entry{"ppt/presentation.xml", "<"}), ReasonMalformed},
		{"a.xlsx", makeZip(t, entry{"xl/workbook.xml", "<"}), ReasonMalformed},
		{"a.epub", makeZip(t, entry{"META-INF/container.xml", "<container/>"}), ReasonMalformed},
		{"a.json", []byte(`{"a":[1,2`), ReasonMalformed},
		{"a.json", []byte(strings.Repeat("[", 100_000)), ReasonTooDeep},
		{"a.json", []byte(strings.Repeat(`{"a":`, 100_000)), ReasonTooDeep},
		{"a.xml", []byte("<a><b></a>"), ReasonMalformed},
		{"a.xml", []byte(strings.Repeat("<a>", 100_000)), ReasonTooDeep},
		{"a.html", []byte(deepHTML), ReasonTooDeep},
		{"a.html", []byte(strings.Repeat("<div>", 100_000)), ReasonTooDeep},
		{"a.md", []byte(strings.Repeat(">", 10_000) + "x"), ReasonTooDeep},
		{"a.md", []byte(strings.Repeat("- ", 10_000) + "x"), ReasonTooDeep},
	} {
		t.Run(c.name+" "+c.reason, func(t *testing.T) { wantReason(t, FromBytes(c.name, "", c.data), c.reason) })
	}
}

func TestWideRulesAndTablesAreNotNesting(t *testing.T) {
	for _, line := range []string{strings.Repeat("-", 5000), "+" + strings.Repeat("-", 500) + "+" + strings.Repeat("-", 500) + "+", strings.Repeat(" ", 5000), strings.Repeat(" ", 900) + "x"} {
		mustParse(t, "a.md", "", []byte("text\n\n"+line+"\n"))
	}
}

func TestEveryLimitHasItsReason(t *testing.T) {
	var csv strings.Builder
	for i := range 300 {
		fmt.Fprintf(&csv, "a%d,b\n", i)
	}
	for _, c := range []struct {
		name   string
		data   []byte
		limits Limits
		reason string
	}{
		{"a.txt", []byte("12345"), Limits{SourceBytes: 4}, ReasonTooLarge},
		{"a.txt", []byte("12345"), Limits{TextBytes: 4}, ReasonTextTooLarge},
		{"a.txt", []byte("a\n\nb\n\nc\n\nd"), Limits{Blocks: 2}, ReasonTextTooLarge},
		{"a.go", []byte("a\n\nb\n\nc\n\nd"), Limits{Blocks: 2}, ReasonTextTooLarge},
		{"a.md", []byte("a\n\nb\n\nc"), Limits{Blocks: 2}, ReasonTextTooLarge},
		{"a.html", []byte(sampleHTML), Limits{TextBytes: 40}, ReasonTextTooLarge},
		{"a.csv", []byte(csv.String()), Limits{TextBytes: len(csv.String())}, ReasonTextTooLarge},
		{"a.docx", makeDOCX(t, docxBody), Limits{Blocks: 3}, ReasonTextTooLarge},
		{"a.pdf", samplePDF(), Limits{TextBytes: 20}, ReasonTextTooLarge},
		{"a.pdf", samplePDF(), Limits{Pages: 1}, ReasonTooManyPages},
		{"a.pptx", makePPTX(t), Limits{Pages: 1}, ReasonTooManyPages},
		{"a.xlsx", makeXLSX(t), Limits{Pages: 1}, ReasonTooManyPages},
		{"a.epub", makeEPUB(t), Limits{Pages: 1}, ReasonTooManyPages},
		{"a.docx", makeDOCX(t, docxBody), Limits{ArchiveEntries: 2}, ReasonArchiveTooLarge},
		{"a.docx", makeDOCX(t, docxBody), Limits{ArchiveEntryBytes: 100}, ReasonArchiveTooLarge},
		{"a.docx", makeDOCX(t, docxBody), Limits{ArchiveTotalBytes: 500}, ReasonArchiveTooLarge},
		{"a.xlsx", makeXLSX(t), Limits{ArchiveTotalBytes: 2000}, ReasonArchiveTooLarge},
		{"a.xml", []byte("<a><b><c>x</c></b></a>"), Limits{Depth: 2}, ReasonTooDeep},
	} {
		t.Run(c.name+" "+c.reason, func(t *testing.T) {
			in := FromBytes(c.name, "", c.data)
			in.Limits = c.limits
			wantReason(t, in, c.reason)
		})
	}
}

func TestZipBombsAreRefused(t *testing.T) {
	spaces := strings.Repeat(" ", 40<<20)
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"ratio.docx", makeDOCX(t, spaces)},
		{"ratio.xlsx", makeZip(t, entry{"xl/workbook.xml", "<workbook/>"}, entry{"xl/worksheets/sheet1.xml", spaces})},
		{"ratio.epub", makeEPUB(t, entry{"OEBPS/gone.xhtml", spaces})},
		{"lying.xlsx", shrinkClaims(makeZip(t, entry{"xl/workbook.xml", "<workbook/>"}, entry{"xl/sharedStrings.xml", spaces}))},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := Parse(t.Context(), FromBytes(c.name, "", c.data))
			if err == nil {
				t.Fatalf("parsed to %d bytes", len(out.Text))
			}
			if r := pipeline.ReasonOf(err); r != ReasonArchiveTooLarge && r != ReasonMalformed {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// shrinkClaims makes every entry of an archive claim that it unpacks to 100
// bytes.
func shrinkClaims(data []byte) []byte {
	data = bytes.Clone(data)
	for i := 0; ; {
		n := bytes.Index(data[i:], []byte("PK\x01\x02"))
		if n < 0 {
			return data
		}
		i += n
		binary.LittleEndian.PutUint32(data[i+24:], 100)
		i += 4
	}
}

// encryptedZip flags its entries as encrypted.
func encryptedZip(t *testing.T) []byte {
	data := bytes.Clone(makeDOCX(t, para("", "x")))
	for _, m := range []struct {
		sign string
		at   int
	}{{"PK\x03\x04", 6}, {"PK\x01\x02", 8}} {
		for i := bytes.Index(data, []byte(m.sign)); i >= 0; {
			data[i+m.at] |= 1
			n := bytes.Index(data[i+4:], []byte(m.sign))
			if n < 0 {
				break
			}
			i += 4 + n
		}
	}
	return data
}

func randomBytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// samples is one good file of every type.
func samples(t testing.TB) map[string][]byte {
	return map[string][]byte{
		"a.txt": []byte("One.\n\nTwo."), "a.md": []byte(sampleMarkdown), "a.html": []byte(sampleHTML), "a.pdf": samplePDF(),
		"a.docx": makeDOCX(t, docxBody), "a.pptx": makePPTX(t), "a.xlsx": makeXLSX(t), "a.epub": makeEPUB(t),
		"a.csv": []byte("a,b\n1,2\n"), "a.json": []byte(`{"a":[1,{"b":"c"}]}`), "a.xml": []byte("<a><b>x</b></a>"), "a.go": []byte("package a\n\nvar x = 1\n"),
	}
}

// TestDamagedFilesFailClearly cuts every type short and overwrites bytes of it:
// the answer is a good result or a pipeline.Error, and never a crash.
func TestDamagedFilesFailClearly(t *testing.T) {
	for name, good := range samples(t) {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, 7))
			cases := [][]byte{nil, randomBytes(3, 3000), append(bytes.Clone(good[:min(len(good), 12)]), randomBytes(4, 3000)...)}
			for i := range 12 {
				cases = append(cases, good[:len(good)*i/12])
				bad := bytes.Clone(good)
				for range 1 + len(bad)/100 {
					bad[r.IntN(len(bad))] = byte(r.Uint32())
				}
				cases = append(cases, bad)
			}
			for _, data := range cases {
				checkAnyAnswer(t, name, data)
			}
		})
	}
}

// checkAnyAnswer wants a good result or a clear error.
func checkAnyAnswer(t *testing.T, name string, data []byte) {
	t.Helper()
	out, err := testParser.Parse(t.Context(), FromBytes(name, "", data))
	if err != nil {
		e, ok := errors.AsType[*pipeline.Error](err)
		if !ok || e.Reason == "" || e.Message == "" {
			t.Errorf("%s: unclear error %v for %q", name, err, data)
		}
		if ok && e.Reason == ReasonCrashed {
			t.Errorf("%s: %v for %q", name, err, data)
		}
		return
	}
	if err := Check(out); err != nil {
		t.Errorf("%s: %v for %q", name, err, data)
	}
}

// TestHostileTextCostsLinearTime doubles inputs that cost quadratic time in
// common parsers. The deadline is a hundred times what they take.
func TestHostileTextCostsLinearTime(t *testing.T) {
	const n = 300_000
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, piece := range map[string]string{
		"brackets.md": "[", "emphasis.md": "*a_", "backticks.md": "`a", "links.md": "[a](", "quotes.md": "> > > a\n", "refs.md": "[a]: <\n",
		"pipes.md": "|", "list.md": "- a\n", "html.md": "<a ", "deeplist.md": "- - - - a\n", "spaces.md": " ", "table.md": "|a|b\n|-|-\n",
		"tags.html": "<b>", "formatting.html": "<b><p>", "rows.html": "<table><tr>", "attrs.html": "<a b=c ", "select.html": "<select><option>",
		"quotes.csv": `"a,`, "commas.csv": ",", "strings.json": `"a" `, "brackets.json": "[] ", "entities.xml": "&amp;", "lines.txt": "a\n\n", "lines.go": "a\n\n",
	} {
		data := []byte(strings.Repeat(piece, n/len(piece)))
		start := time.Now()
		_, err := Parse(ctx, FromBytes(name, "", data))
		if ctx.Err() != nil {
			t.Fatalf("%s did not end: %v", name, err)
		}
		t.Logf("%s: %v, %v", name, time.Since(start).Round(time.Millisecond), err)
	}
}

func TestExpiredDeadlineIsTIMEOUTAndCancelIsNoPipelineError(t *testing.T) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	if _, err := Parse(ctx, FromBytes("a.txt", "", []byte("x"))); pipeline.ReasonOf(err) != ReasonTimeout {
		t.Errorf("got %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := Parse(ctx, FromBytes("a.txt", "", []byte("x"))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// readerThatPanics stands for a bug in a library.
type readerThatPanics struct{}

func (readerThatPanics) ReadAt([]byte, int64) (int, error) { panic("bug") }

func TestPanicOfAParserIsCRASHED(t *testing.T) {
	wantReason(t, Input{Name: "a.txt", Data: readerThatPanics{}, Size: 10}, ReasonCrashed)
}

func isPipelineError(err error) bool {
	_, ok := errors.AsType[*pipeline.Error](err)
	return ok
}
