package parse

import (
	"errors"
	"fmt"
	"io"

	"github.com/xuri/excelize/v2"

	"granary.dev/granary/actors/pipeline"
)

// parseXLSX writes every visible sheet as a heading and a table. A sheet is a
// page, and cells are shown as the spreadsheet shows them.
func (j *job) parseXLSX() (*pipeline.Parsed, error) {
	// excelize believes the sizes an archive claims, so they are checked first.
	if err := j.zip.verify(); err != nil {
		return nil, err
	}
	f, err := excelize.OpenReader(io.NewSectionReader(j.in.Data, 0, j.in.Size), excelize.Options{
		UnzipSizeLimit: j.lim.ArchiveTotalBytes,
		// No larger part is spooled to a temporary file: the worker has no
		// directory to write to.
		UnzipXMLSizeLimit: j.lim.ArchiveTotalBytes,
	})
	if err != nil {
		return nil, xlsxError(err)
	}
	b := j.newBuilder()
	err = j.sheets(f, b)
	props, propsErr := f.GetDocProps()
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	out := b.done(typeXLSX)
	if propsErr == nil && props != nil {
		setMeta(out.Metadata, "title", props.Title)
		setMeta(out.Metadata, "author", props.Creator)
		setMeta(out.Metadata, "created", props.Created)
		setMeta(out.Metadata, "modified", props.Modified)
		setMeta(out.Metadata, "subject", props.Subject)
	}
	out.Title = out.Metadata["title"]
	return out, nil
}

func xlsxError(err error) error {
	switch {
	case errors.Is(err, excelize.ErrWorkbookPassword):
		return fail(ReasonEncrypted, "the workbook is protected by a password", err)
	case errors.Is(err, excelize.ErrWorkbookFileFormat):
		return fail(ReasonUnsupported, "this kind of workbook is not supported", err)
	}
	return fail(ReasonMalformed, "the workbook is damaged", err)
}

// sheets adds every visible sheet.
func (j *job) sheets(f *excelize.File, b *builder) error {
	for _, name := range f.GetSheetList() {
		if visible, err := f.GetSheetVisible(name); err == nil && !visible {
			continue
		}
		if err := b.nextPage(); err != nil {
			return err
		}
		if err := b.heading(1, name); err != nil {
			return err
		}
		if err := j.sheet(f, b, name); err != nil {
			return err
		}
	}
	return nil
}

// sheet streams the rows of one sheet into a table.
func (j *job) sheet(f *excelize.File, b *builder, name string) (err error) {
	rows, err := f.Rows(name)
	if err != nil {
		if sheetErr, ok := errors.AsType[excelize.ErrSheetNotExist](err); ok {
			return fail(ReasonMalformed, "the workbook is damaged", sheetErr)
		}
		return nil // a chart sheet has no rows
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var t tableText
	var first []string
	for n := 0; rows.Next(); n++ {
		if n%aliveEvery == 0 {
			if err := j.alive(); err != nil {
				return err
			}
		}
		cells, err := rows.Columns()
		if err != nil {
			return fail(ReasonMalformed, fmt.Sprintf("row %d of a sheet is damaged", n+1), err)
		}
		if t.rows == 0 && first == nil {
			// The first row with cells is held back until a second one shows
			// whether it may be a header.
			if !emptyRow(cells) {
				first = cells
			}
			continue
		}
		if err := t.withFirst(j.lim, &first, cells); err != nil {
			return err
		}
	}
	if err := rows.Error(); err != nil {
		return fail(ReasonMalformed, "a sheet is damaged", err)
	}
	if first != nil {
		if err := t.row(j.lim, first); err != nil {
			return err
		}
	}
	return b.add(pipeline.BlockTable, 0, t.String())
}

// withFirst writes a row, and before it the row held back, as header or row.
func (t *tableText) withFirst(lim Limits, first *[]string, cells []string) error {
	if *first != nil {
		if emptyRow(cells) {
			return nil
		}
		if t.header = headerOf(*first, true); t.header == nil {
			if err := t.row(lim, *first); err != nil {
				return err
			}
		}
		*first = nil
	}
	return t.row(lim, cells)
}

func emptyRow(cells []string) bool {
	for _, c := range cells {
		if collapse(c) != "" {
			return false
		}
	}
	return true
}
