package search

import (
	"testing"

	"granary.dev/granary/actors/pipeline"
)

// The planes of a large document are made once, of their final size: what they
// would be copied to while growing, and the room left over, is memory too.
func TestWithVectorsTakesNoMoreRoomThanItsVectors(t *testing.T) {
	const chunks, dims = 1000, 64
	texts := make([]pipeline.Chunk, chunks)
	embeddings := make([]pipeline.Embedding, chunks)
	for i := range texts {
		texts[i] = pipeline.Chunk{Ordinal: i, Text: "barley"}
		x := make([]float32, dims)
		x[i%dims] = 1
		embeddings[i] = pipeline.Embedding{Space: pipeline.Space(i % 2), Vectors: [][]float32{x}}
	}
	words, err := BuildSegment([]SegmentDoc{{ID: "d", Attempt: "a", Chunks: texts}})
	if err != nil {
		t.Fatal(err)
	}
	var whole *Segment
	bytes := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			whole, err = words.WithVectors(embeddings)
		}
	}).AllocedBytesPerOp()
	if err != nil || len(whole.vectors) != 2 {
		t.Fatalf("%d spaces, %v", len(whole.vectors), err)
	}
	// Growing by appending allocates almost five times as much. The race detector
	// has a row made before it is appended, which makes it twice as much.
	if need := int64(chunks * (2*dims + 8)); bytes > need*5/2 {
		t.Errorf("%d bytes were allocated for %d of vectors", bytes, need)
	}
}
