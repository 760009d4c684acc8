// Package chunk cuts a parsed document into the pieces that are embedded,
// indexed and cited.
//
// It follows the document's structure: a heading opens a chunk, paragraphs are
// joined up to the target size and cut between sentences, tables and code stay
// whole when they fit and are cut between rows or lines when they do not. Inside
// a section a chunk begins with the last sentence of the one before it, so that
// an answer that straddles a cut is still found.
//
// Invariants, each held by a property test and a fuzz target:
//
//   - Chunk.Text == Parsed.Text[Chunk.Start:Chunk.End], cut at rune boundaries;
//   - starts and ends rise strictly, ordinals count from 0;
//   - every byte outside all chunks is white space, so no text is lost;
//   - Words(Chunk.Text) ≤ Options.MaxBlockWords, and ≤ MaxWords for anything but
//     a table or code kept whole;
//   - time and memory are linear in the length of the text.
//
// The package is pure: no clock, no store, no state.
package chunk
