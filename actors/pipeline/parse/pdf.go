package parse

import (
	"errors"
	"fmt"
	"strings"

	"github.com/klippa-app/go-pdfium"
	pdfiumerrors "github.com/klippa-app/go-pdfium/errors"
	"github.com/klippa-app/go-pdfium/references"
	"github.com/klippa-app/go-pdfium/requests"

	"granary.dev/granary/actors/pipeline"
)

// maxBadPages is how many pages in a row may fail before the rest is given up:
// a module that has trapped fails on every page.
const maxBadPages = 10

// parsePDF extracts the text of every page. Lines are put together to
// paragraphs, and told from headings, by their place and size.
func (j *job) parsePDF() (*pipeline.Parsed, error) {
	raw, err := j.readAll()
	if err != nil {
		return nil, err
	}
	inst, err := j.pdf.instance(j.ctx, j.lim.PDFMemoryPages)
	if err != nil {
		return nil, fmt.Errorf("parse: start PDF module: %w", err)
	}
	// Close reports what a trapped module has left open, which is all thrown
	// away with it.
	defer func() { _ = inst.Close() }()
	doc, err := inst.OpenDocument(&requests.OpenDocument{File: &raw})
	if err != nil {
		return nil, pdfOpenError(err)
	}
	d := &pdfDoc{job: j, inst: inst, ref: doc.Document}
	if err := d.readPages(); err != nil {
		return nil, err
	}
	b := j.newBuilder()
	if err := layoutPages(b, d.pages); err != nil {
		return nil, err
	}
	b.page = len(d.pages)
	out := b.done(typePDF)
	out.Metadata = d.metadata()
	out.Title = out.Metadata["title"]
	out.Warnings = d.warnings
	if len(out.Blocks) == 0 {
		out.Warnings = append(out.Warnings, "no text layer: the pages hold pictures only, and character recognition is not built in")
	}
	return out, nil
}

// pdfOpenError maps the error codes of pdfium.
func pdfOpenError(err error) error {
	if errors.Is(err, pdfiumerrors.ErrPassword) || errors.Is(err, pdfiumerrors.ErrSecurity) {
		return fail(ReasonEncryptedPDF, "the PDF is protected by a password", err)
	}
	return fail(ReasonMalformed, "the PDF is damaged", err)
}

// pdfDoc is an open document.
type pdfDoc struct {
	job      *job
	inst     pdfium.Pdfium
	ref      references.FPDF_DOCUMENT
	pages    [][]pdfLine
	warnings []string
}

// pdfLine is one line of text of a page.
type pdfLine struct {
	text        string
	left        float32
	top, bottom float32 // PDF space: upwards; both 0 when unknown
}

func (l pdfLine) size() float32 { return l.top - l.bottom }

// readPages reads the lines of all pages.
func (d *pdfDoc) readPages() error {
	count, err := d.inst.FPDF_GetPageCount(&requests.FPDF_GetPageCount{Document: d.ref})
	if err != nil {
		return fail(ReasonMalformed, "the PDF is damaged", err)
	}
	if count.PageCount > d.job.lim.Pages {
		return tooManyPages(d.job.lim)
	}
	total, bad, row := 0, 0, 0
	for i := range count.PageCount {
		if err := d.job.alive(); err != nil {
			return err
		}
		lines, err := d.page(i)
		if _, ok := errors.AsType[*pipeline.Error](err); ok {
			return err
		}
		if err != nil {
			bad++
			row++
			if row == maxBadPages {
				break
			}
			lines = nil
		} else {
			row = 0
		}
		for _, l := range lines {
			total += len(l.text)
		}
		if total > d.job.lim.TextBytes {
			return textTooLarge(d.job.lim)
		}
		d.pages = append(d.pages, lines)
	}
	if bad > 0 && total == 0 {
		return failf(ReasonMalformed, "none of the pages could be read")
	}
	if row == maxBadPages {
		return failf(ReasonMalformed, "the PDF is damaged from page %d on", len(d.pages)+1-(maxBadPages-1))
	}
	if bad > 0 {
		d.warnings = append(d.warnings, fmt.Sprintf("%d pages could not be read", bad))
	}
	return nil
}

// page reads the lines of page i, counted from 0.
func (d *pdfDoc) page(i int) (lines []pdfLine, err error) {
	p, err := d.inst.FPDF_LoadPage(&requests.FPDF_LoadPage{Document: d.ref, Index: i})
	if err != nil {
		return nil, err
	}
	defer func() {
		_, cerr := d.inst.FPDF_ClosePage(&requests.FPDF_ClosePage{Page: p.Page})
		err = errors.Join(err, cerr)
	}()
	t, err := d.inst.FPDFText_LoadPage(&requests.FPDFText_LoadPage{Page: requests.Page{ByReference: &p.Page}})
	if err != nil {
		return nil, err
	}
	defer func() {
		_, cerr := d.inst.FPDFText_ClosePage(&requests.FPDFText_ClosePage{TextPage: t.TextPage})
		err = errors.Join(err, cerr)
	}()
	n, err := d.inst.FPDFText_CountChars(&requests.FPDFText_CountChars{TextPage: t.TextPage})
	if err != nil || n.Count <= 0 {
		return nil, err
	}
	if n.Count > d.job.lim.TextBytes {
		return nil, textTooLarge(d.job.lim)
	}
	text, err := d.inst.FPDFText_GetText(&requests.FPDFText_GetText{TextPage: t.TextPage, Count: n.Count})
	if err != nil {
		return nil, err
	}
	return d.lines(t.TextPage, text.Text), nil
}

// lines splits the text of a page and asks where the first character of every
// line stands. The loose box of a character depends on its font alone, so its
// height compares sizes, also where they come from a matrix.
func (d *pdfDoc) lines(page references.FPDF_TEXTPAGE, text string) []pdfLine {
	var out []pdfLine
	index := 0 // of characters
	for line := range strings.SplitAfterSeq(text, "\n") {
		trimmed := strings.TrimLeft(line, " \t\r\n\x00")
		first := index + runeCount(line[:len(line)-len(trimmed)])
		index += runeCount(line)
		trimmed = strings.TrimRight(trimmed, " \t\r\n\x00")
		if trimmed == "" {
			continue
		}
		l := pdfLine{text: trimmed}
		if box, err := d.inst.FPDFText_GetLooseCharBox(&requests.FPDFText_GetLooseCharBox{TextPage: page, Index: first}); err == nil {
			l.left, l.top, l.bottom = box.Rect.Left, box.Rect.Top, box.Rect.Bottom
		}
		out = append(out, l)
	}
	return out
}

// metadata reads the information dictionary. pdfium reports a missing entry as
// an error, which it is not.
func (d *pdfDoc) metadata() map[string]string {
	meta := map[string]string{}
	for tag, key := range map[string]string{
		"Title": "title", "Author": "author", "Subject": "subject", "Keywords": "keywords",
		"CreationDate": "created", "ModDate": "modified",
	} {
		res, err := d.inst.GetMetaData(&requests.GetMetaData{Document: d.ref, Tags: &[]string{tag}})
		if err != nil {
			continue
		}
		for _, t := range res.Tags {
			setMeta(meta, key, t.Value)
		}
	}
	return meta
}
