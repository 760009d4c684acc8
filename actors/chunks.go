package actors

import (
	"context"
	"strings"
	"unicode/utf8"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/search"
)

// readChunks reads all chunks of an attempt.
func readChunks(ctx context.Context, store journal.ChunkStore, scope journal.Scope, attempt string) ([]journal.Chunk, error) {
	var all []journal.Chunk
	for after := -1; ; {
		page, err := store.Chunks(ctx, scope, attempt, after, 1000)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < 1000 {
			return all, nil
		}
		after = page[len(page)-1].Ordinal
	}
}

// segmentDoc is one version of a document as the index wants it.
func segmentDoc(d *kb.Document, version int64, attempt string, c kb.Content, chunks []pipeline.Chunk, e []pipeline.Embedding) search.SegmentDoc {
	return search.SegmentDoc{ID: d.ID, Version: version, Attempt: attempt, Name: d.Name, Title: c.Title,
		MediaType: c.MediaType, Language: c.Language, Created: d.Created, Metadata: d.Metadata, Chunks: chunks, Embeddings: e}
}

func pipelineChunk(c journal.Chunk) pipeline.Chunk {
	return pipeline.Chunk{Ordinal: c.Ordinal, Text: c.Text, Start: c.Start, End: c.End, Page: c.Page,
		Headings: c.Headings, Language: c.Language, Kind: pipeline.BlockKind(c.Kind)}
}

func pipelineChunks(rows []journal.Chunk) []pipeline.Chunk {
	out := make([]pipeline.Chunk, len(rows))
	for i, r := range rows {
		out[i] = pipelineChunk(r)
	}
	return out
}

// assemble rebuilds the extracted text between two byte offsets from its
// chunks. What lies between chunks is white space, given back as such.
func assemble(rows []journal.Chunk, offset, limit int) string {
	var b strings.Builder
	at := offset
	for _, c := range rows {
		if c.End <= at {
			continue
		}
		if b.Len() >= limit {
			break
		}
		for ; at < c.Start && b.Len() < limit; at++ {
			b.WriteByte(gapByte(c.Start - at))
		}
		if at >= c.Start {
			b.WriteString(c.Text[at-c.Start:])
			at = c.End
		}
	}
	text := b.String()
	if len(text) > limit {
		text = text[:limit]
	}
	// Never end inside a rune.
	for len(text) > 0 && !utf8.ValidString(text[max(0, len(text)-utf8.UTFMax):]) && !utf8.RuneStart(text[len(text)-1]) {
		text = text[:len(text)-1]
	}
	if r, size := utf8.DecodeLastRuneInString(text); r == utf8.RuneError && size == 1 {
		text = text[:len(text)-1]
	}
	return text
}

// gapByte shows a gap as an empty line before the next chunk.
func gapByte(left int) byte {
	if left <= 2 {
		return '\n'
	}
	return ' '
}

// clip cuts a text a file says of itself to a bound, at a rune.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

func clipAll(in []string) []string {
	if len(in) > 20 {
		in = in[:20]
	}
	for i := range in {
		in[i] = clip(in[i], 300)
	}
	return in
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
