// Package uselite runs the Universal Sentence Encoder Lite in Go: text in,
// 512 floats of unit length out, with no download, key or service.
//
// The model is English only and reads at most [MaxTokens] tokens. It is the
// starter model of an installation; a better one is a matter of configuration.
//
// # Computation
//
//	text → NFKC, ▁ for spaces → unigram Viterbi over 8,000 pieces → token ids
//	ids  → embedding × 2 + timing signal                            (width 256)
//	     → layer 0: 4 heads of 64, attention and residual resized to 512
//	     → layer 1: 4 heads of 128
//	     → mean over tokens → dense → tanh → L2 norm                (width 512)
//
// Each layer is pre-norm: layer norm → fused q, k, v → softmax(q·k/√d)·v → out,
// then layer norm → 1,536 with ReLU → 512, both added to the residual.
//
// # Weights
//
// weights.bin (see NOTICE) holds 8-bit weights with a scale per output channel.
// They are expanded to float32 panels when a [Model] is made, so the arithmetic
// is float32 throughout and only the rounding of the weights is lossy: cosine
// to the float32 model stays above 0.999 (tested).
//
// # Speed
//
// All matrix products, attention included, go through one 6×16 micro-kernel.
// On amd64 with AVX2 and FMA it is assembly, found at run time; everywhere else,
// and with the build tag noasm, it is plain Go with the same packing. The tokens
// of many texts are packed into one batch of rows, because a product of 8 rows
// costs nearly as much memory traffic as one of 192.
//
// # Invariants
//
// A Model is immutable and safe for concurrent use; all mutable state is in a
// [Workspace], which belongs to one call at a time. The vector of a text does
// not depend, beyond float32 rounding, on what else is in its batch.
package uselite
