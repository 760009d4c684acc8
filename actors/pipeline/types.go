// Package pipeline holds the vocabulary that the processing steps share:
// source validation → fetch → parse → chunk → embed. Each step is a plain
// function (ctx, in) → out in a package of its own below this one; none knows
// of actors, stores or transport. The supervised child that runs them lives in
// package actors.
package pipeline

import (
	"errors"
	"fmt"
)

// BlockKind tells what a [Block] is, so that the chunker can keep structure.
type BlockKind uint8

// The kinds of block a parser emits.
const (
	BlockParagraph BlockKind = iota // running text
	BlockHeading                    // Level 1..6; opens a section
	BlockListItem                   // one item of a list
	BlockTable                      // kept whole when it fits, else split by rows
	BlockCode                       // kept whole when it fits, else split by lines
	BlockQuote                      // quotation, split like a paragraph
)

// Block is one structural piece of [Parsed].Text.
// Blocks are in order, do not overlap, and what lies between them is white space.
type Block struct {
	Kind  BlockKind
	Level int // heading level 1..6, else 0
	Start int // byte offset into Parsed.Text, inclusive
	End   int // byte offset into Parsed.Text, exclusive
	Page  int // 1-based page, slide or sheet; 0 when the format has none
}

// Parsed is what a parser makes of a source.
type Parsed struct {
	MediaType string            // the type that was parsed, e.g. "application/pdf"
	Charset   string            // charset the source was decoded from; "" for binary formats
	Language  string            // ISO 639-1 code, "" when it could not be told
	Title     string            // best title found, "" when none
	Text      string            // extracted text, valid UTF-8, NFC not forced; offsets point into it
	Blocks    []Block           // structure over Text
	Pages     int               // number of pages, slides or sheets; 0 when the format has none
	Metadata  map[string]string // what the file says of itself (author, created …)
	Warnings  []string          // what was skipped and why
}

// Chunk is one piece of a parsed document, ready to be embedded and indexed.
// Text is exactly Parsed.Text[Start:End]; consecutive chunks may overlap by
// whole sentences, and what lies between two chunks is white space only.
type Chunk struct {
	Ordinal  int      // 0-based position in the document
	Text     string   // Parsed.Text[Start:End]
	Start    int      // byte offset into Parsed.Text, inclusive
	End      int      // byte offset into Parsed.Text, exclusive
	Page     int      // page of the first byte, 0 when the format has none
	Headings []string // heading path from the outermost in
	Language string   // ISO 639-1 code of this chunk, "" when unknown
	Kind     BlockKind
}

// Space names a vector space. Vectors of different spaces are never compared.
type Space uint8

// The built-in spaces. Remote models use SpaceModel.
const (
	SpaceModel  Space = 0 // the configured model (built-in: Universal Sentence Encoder Lite)
	SpaceNGrams Space = 1 // hashed character n-grams, for what the model does not speak
)

// Embedding is what an embedder makes of one chunk: one unit-length vector per
// window, all in one space. It is never empty for a chunk with text.
type Embedding struct {
	Space   Space
	Vectors [][]float32 // windows × dims, each L2-normalised
}

// QueryVector is a query embedded in one space.
type QueryVector struct {
	Space  Space
	Vector []float32 // dims, L2-normalised
}

// Error is a failure of a pipeline step with a reason that stays stable across
// releases (UPPER_SNAKE), shown to the document's owner.
type Error struct {
	Stage     string // "fetch", "parse", "chunk", "embed", "index"
	Reason    string // e.g. "ENCRYPTED_PDF", "ARCHIVE_TOO_LARGE", "ADDRESS_NOT_ALLOWED"
	Message   string // for people; never a secret or a driver's text
	Retryable bool   // the same input may succeed later
	Err       error  // cause, for logs only
}

// Error implements error.
func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %s: %v", e.Stage, e.Reason, e.Message, e.Err)
	}
	return fmt.Sprintf("%s: %s: %s", e.Stage, e.Reason, e.Message)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf returns the stable reason of err, or "INTERNAL".
func ReasonOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return "INTERNAL"
}
