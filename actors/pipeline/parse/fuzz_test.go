package parse

import (
	"strings"
	"testing"
)

// fuzzKind fuzzes the parser of one type from its sample and further seeds.
// Every answer must keep the invariants, or be a clear error.
func fuzzKind(f *testing.F, name string, seeds ...string) {
	f.Add(samples(f)[name])
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			t.Skip("larger inputs find nothing that smaller ones do not")
		}
		checkAnyAnswer(t, name, data)
	})
}

func FuzzText(f *testing.F) {
	fuzzKind(f, "a.txt", "\xFF\xFEa\x00b\x00", "\xEF\xBB\xBFx\r\n\r\ny", "a\x00b\x85\xA0c", "\x00\x00\xFE\xFF\x00\x00\x00a")
}

func FuzzMarkdown(f *testing.F) {
	fuzzKind(f, "a.md", "- a\n\n      b\n  > c\n", "a\n===\n\t- x\n", "|a|\n|-|\n", "```\n", "> ```\n> x\n", "1. - * > x", "- \n\n- ", "+++\na = 1\n+++\n", "\x0ca\r\n---\r")
}

func FuzzHTML(f *testing.F) {
	fuzzKind(f, "a.html", "<table><td>a<table><td>b", "<pre>\n a<br>b</pre>", "<svg><title>x</title><p>y", "<ul><li><p>a<li>b<blockquote><li>c", "<math><mi></math><frameset>")
}

func FuzzPDF(f *testing.F) {
	fuzzKind(f, "a.pdf", string(encryptedPDF()), "%PDF-1.4 trailer<</Root 1 0 R>>")
}
func FuzzDOCX(f *testing.F) { fuzzKind(f, "a.docx") }
func FuzzPPTX(f *testing.F) { fuzzKind(f, "a.pptx") }
func FuzzXLSX(f *testing.F) { fuzzKind(f, "a.xlsx") }
func FuzzEPUB(f *testing.F) { fuzzKind(f, "a.epub") }

// FuzzDOCXBody fuzzes the XML inside, which flipped bits of a
// compressed file seldom reach.
func FuzzDOCXBody(f *testing.F) {
	f.Add(docxBody)
	f.Add("<w:tc><w:tr></w:tbl><w:p><w:p><w:tbl></w:p>")
	f.Fuzz(func(t *testing.T, body string) { checkAnyAnswer(t, "a.docx", makeDOCX(t, body)) })
}

func FuzzCSV(f *testing.F) {
	fuzzKind(f, "a.csv", "a;b\n\"x\ny\";2", "\"", "\"a\"b,c\n\n,,\n", strings.Repeat("a|b\n", 20))
}

func FuzzJSON(f *testing.F) {
	fuzzKind(f, "a.json", `[1,"a",null,{}]`, `{"a":{"b":[[],{}]}} 5`, `{"\ud800":"\u0000"}`, "[")
}

func FuzzXML(f *testing.F) {
	fuzzKind(f, "a.xml", "<a>x<b>y</b>z</a>", "<?xml version='1.0' encoding='koi8-r'?><a>\xC1</a>", "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>")
}

func FuzzCode(f *testing.F) {
	fuzzKind(f, "a.go", "\n\n\tx\n\n}\n", "a\r\n\r\nb", "\f\n\na")
}

// FuzzDetect varies what a source claims to be.
func FuzzDetect(f *testing.F) {
	f.Add("a.md", "text/html; charset=utf-16", []byte("x"))
	f.Add("a.docx", "application/pdf", []byte("PK\x03\x04"))
	f.Fuzz(func(t *testing.T, name, mediaType string, data []byte) {
		out, err := testParser.Parse(t.Context(), FromBytes(name, mediaType, data))
		if err == nil {
			err = Check(out)
		}
		if err != nil && !isPipelineError(err) {
			t.Errorf("%v", err)
		}
	})
}
