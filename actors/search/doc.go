// Package search is the index of one knowledge base, held in the memory of the
// grain that owns it: BM25 over words, exact int8 vectors, filters, fusion and an
// account of how an answer came about.
//
// Authority: none. The journal and the store are the truth; this index is built
// from the chunks they hold, or loaded from a snapshot, and carries the revision
// that its owner gave it. It keeps no text: a hit is a reference (document,
// version, attempt, ordinal) for which the owner reads the text.
//
//	BuildSegment ──► Segment (immutable) ──► Index.Apply(Batch) ──► View (immutable)
//	 any goroutine      WithVectors               owner               any goroutine
//	                                                │                      │
//	                                       merges in background       View.Search
//
// Invariants:
//
//   - A document id is live in at most one version and attempt of a View; Apply
//     replaces, attaches and removes all of a Batch at once or not at all.
//   - A View never changes. A search is not blocked by Apply or by a merge, and
//     sees one Revision from beginning to end.
//   - Apply costs the number of segments plus what changed, never the index.
//   - Vectors are compared only within one space and one number of dimensions.
//   - Every candidate of a search has both its exact scores before fusion.
//   - No goroutine runs while there is nothing to merge, and none after Close.
//   - Load of any bytes gives an index or a typed error, never a panic.
package search
