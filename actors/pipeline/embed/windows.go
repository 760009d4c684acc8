package embed

import (
	"context"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/embed/uselite"
)

const (
	// WindowTokens is the length of a passage's windows, and windowStride the
	// distance of their beginnings. On paraphrased questions about passages of
	// some 150 words nDCG@10 was 0.69 without windows, 0.76 with windows of 64
	// side by side, 0.80 with this overlap and 0.82 with 48/32, which costs 45 %
	// more vectors. Beginning windows at words made no difference.
	WindowTokens = 64
	windowStride = 48
	// maxWindows bounds the vectors of one passage. A chunk of 150 words has about
	// four windows; text made of one-byte tokens had 75, and 21 bytes of vectors
	// per byte of text. Above the bound the windows are spread over the passage.
	maxWindows = 16
)

// windows cuts ids into windows of [WindowTokens]; the last ends with the text.
func windows(ids []int) [][]int {
	if len(ids) > WindowTokens+(maxWindows-1)*windowStride {
		return spread(ids)
	}
	var out [][]int
	start := 0
	for ; start+WindowTokens < len(ids); start += windowStride {
		out = append(out, ids[start:start+WindowTokens])
	}
	return append(out, ids[max(0, len(ids)-WindowTokens):])
}

// spread cuts ids into [maxWindows] windows at even distances.
func spread(ids []int) [][]int {
	out := make([][]int, maxWindows)
	for i := range out {
		start := i * (len(ids) - WindowTokens) / (maxWindows - 1)
		out[i] = ids[start : start+WindowTokens]
	}
	return out
}

// batcher packs windows of many inputs into batches for the model.
type batcher struct {
	embed  func(context.Context, [][]int) ([][]float32, error)
	out    []pipeline.Embedding
	owners []int // of each window in batch, as index into out
	batch  [][]int
	tokens int
}

func (b *batcher) add(ctx context.Context, owner int, window []int) error {
	if b.tokens+len(window) > uselite.BatchTokens {
		if err := b.flush(ctx); err != nil {
			return err
		}
		if err := giveTurn(ctx); err != nil {
			return err
		}
	}
	b.owners = append(b.owners, owner)
	b.batch = append(b.batch, window)
	b.tokens += len(window)
	return nil
}

func (b *batcher) flush(ctx context.Context) error {
	if len(b.batch) == 0 {
		return nil
	}
	vectors, err := b.embed(ctx, b.batch)
	if err != nil {
		return err
	}
	for i, owner := range b.owners {
		b.out[owner].Vectors = append(b.out[owner].Vectors, vectors[i])
	}
	b.owners, b.batch, b.tokens = b.owners[:0], b.batch[:0], 0
	return nil
}
