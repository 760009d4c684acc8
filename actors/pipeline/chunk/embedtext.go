package chunk

import (
	"crypto/sha256"
	"encoding/hex"

	"granary.dev/granary/actors/pipeline"
)

// EmbedText returns the text of c as it is embedded: its own text and nothing
// else. On 72 paraphrased questions with the built-in model a title in front
// lowered nDCG@10 from .847 to .844 by vectors and from .836 to .824 in hybrid
// search, whose keyword part reads titles and headings anyway. It takes the
// document's title so that a chunker version with another answer keeps the shape.
func EmbedText(c pipeline.Chunk, _ string) string { return c.Text }

// Hash identifies what is embedded: the SHA-256, in hex, of the chunk's language
// and its [EmbedText]. Equal hashes may share one embedding of one model.
func Hash(c pipeline.Chunk, docTitle string) string {
	h := sha256.New()
	h.Write([]byte(c.Language))
	h.Write([]byte{0})
	h.Write([]byte(EmbedText(c, docTitle)))
	return hex.EncodeToString(h.Sum(nil))
}
