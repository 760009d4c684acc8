// Package parse turns a source file into text with structure.
//
// Authority: none. A parse is a pure function of the bytes, the declared names
// and the limits; it opens no file, no socket and runs no program. Sources are
// written by strangers, so every parser counts what it reads, what it unpacks
// and what it emits, and refuses with a [pipeline.Error] of a stable reason.
//
// Invariants, kept for every type (see [Check]):
//   - Parsed.Text is valid UTF-8 without control characters but tab, line feed,
//     carriage return and form feed;
//   - blocks lie inside the text, in order, without overlap, on rune borders,
//     and only white space lies outside of them;
//   - for plain text, Markdown and source code Text is the source itself: when
//     the source is clean UTF-8, offsets into Text are offsets into the source
//     (after a byte order mark, if there is one). In Markdown a block includes
//     its markers ("## ", "- ", "> ", the fences of code).
//
// A goroutine cannot be killed and memory of a goroutine cannot be capped, so
// servers do not call this package: they go through package sandbox, which
// runs it in a child process.
package parse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"granary.dev/granary/actors/pipeline"
)

// Input is one source.
type Input struct {
	Name      string      // file name, used for its extension; may be ""
	MediaType string      // declared media type with parameters; may be ""
	Data      io.ReaderAt // the bytes
	Size      int64       // number of bytes in Data
	Limits    Limits      // zero fields take the values of [DefaultLimits]
}

// FromBytes makes an Input of bytes in memory with the default limits.
func FromBytes(name, mediaType string, data []byte) Input {
	return Input{Name: name, MediaType: mediaType, Data: bytes.NewReader(data), Size: int64(len(data))}
}

// Options configures a [Parser].
type Options struct {
	// CacheDir keeps the compiled PDF module between processes (about 40 MB).
	// Empty: the module is compiled anew by the first PDF of every Parser.
	CacheDir string
}

// Parser parses sources one at a time or in parallel. It holds the compiled PDF
// module, made by the first PDF, and must be closed.
type Parser struct {
	pdf pdfEngine
}

// New makes a Parser. It does no work: a process that never sees a PDF never
// pays for one.
func New(o Options) *Parser {
	return &Parser{pdf: pdfEngine{cacheDir: o.CacheDir}}
}

// Close releases the PDF module. No parse may be running.
func (p *Parser) Close() error { return p.pdf.close() }

// Parse is [Parser.Parse] of a Parser made for this one source.
func Parse(ctx context.Context, in Input) (*pipeline.Parsed, error) {
	p := New(Options{})
	out, err := p.Parse(ctx, in)
	return out, errors.Join(err, p.Close())
}

// Parse finds out what the source is and extracts its text and structure.
//
// Failures are *pipeline.Error with Stage "parse" and one of the Reason
// constants, or wrap ctx.Err() when the caller gave up. A bug in a parser
// library that panics is reported as CRASHED, not passed on.
func (p *Parser) Parse(ctx context.Context, in Input) (out *pipeline.Parsed, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, fail(ReasonCrashed, "the parser failed on this file", fmt.Errorf("panic: %v", r))
		}
	}()
	in.Limits = in.Limits.OrDefaults()
	if in.Size > in.Limits.SourceBytes {
		return nil, failf(ReasonTooLarge, "the file has %d bytes, at most %d are read", in.Size, in.Limits.SourceBytes)
	}
	j := &job{ctx: ctx, in: in, lim: in.Limits, pdf: &p.pdf}
	if err := j.alive(); err != nil {
		return nil, err
	}
	k, err := j.detect()
	if err != nil {
		return nil, err
	}
	out, err = j.run(k)
	if err != nil {
		// A parser that was cut short by the context tells of its symptom.
		if alive := j.alive(); alive != nil {
			return nil, alive
		}
		return nil, err
	}
	if len(out.Blocks) == 0 && len(out.Warnings) == 0 {
		out.Warnings = append(out.Warnings, "the file has no text")
	}
	return out, nil
}

// job is one call of Parse.
type job struct {
	ctx  context.Context
	in   Input
	lim  Limits
	pdf  *pdfEngine
	zip  *archive // set by detect for archives
	head []byte   // first bytes of the source
}

// alive returns the error of a finished context.
func (j *job) alive() error {
	switch err := j.ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return fail(ReasonTimeout, "parsing took too long", err)
	default:
		return fmt.Errorf("parse: %w", err)
	}
}

// readAll reads the whole source, which detect has found within SourceBytes.
func (j *job) readAll() ([]byte, error) {
	data := make([]byte, j.in.Size)
	n, err := io.ReadFull(io.NewSectionReader(j.in.Data, 0, j.in.Size), data)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("parse: read source: %w", err)
	}
	return data[:n], nil
}

// run dispatches to the parser of kind k.
func (j *job) run(k kind) (*pipeline.Parsed, error) {
	switch k {
	case kindPDF:
		return j.parsePDF()
	case kindDOCX:
		return j.parseDOCX()
	case kindPPTX:
		return j.parsePPTX()
	case kindXLSX:
		return j.parseXLSX()
	case kindEPUB:
		return j.parseEPUB()
	}
	raw, err := j.readAll()
	if err != nil {
		return nil, err
	}
	t := decodeText(raw, j.declaredCharset(k, raw))
	if len(t.text) > j.lim.TextBytes && k != kindHTML && k != kindXML {
		return nil, textTooLarge(j.lim)
	}
	switch k {
	case kindMarkdown:
		return j.parseMarkdown(t)
	case kindHTML:
		return j.parseHTML(t)
	case kindCSV:
		return j.parseCSV(t)
	case kindJSON:
		return j.parseJSON(t)
	case kindXML:
		return j.parseXML(t)
	case kindCode:
		return j.parseCode(t)
	default:
		return j.parsePlain(t)
	}
}
