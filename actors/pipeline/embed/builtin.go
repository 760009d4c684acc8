package embed

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/embed/uselite"
)

// BuiltinModel is the stable id of the built-in embedder. It changes whenever
// the vectors of either space do, because vectors of two ids are never mixed.
const BuiltinModel = "use-lite-int8/1"

const stage = "embed"

// ReasonEmptyText is the reason of a [pipeline.Error] for a query without text.
const ReasonEmptyText = "EMPTY_TEXT"

// Input is a text to embed.
type Input struct {
	Text     string
	Language string // ISO 639-1; "" when unknown: English if it is mostly ASCII letters
}

// Builtin is the embedder inside the binary. The model is unpacked at its first
// use, which takes some 40 ms and 21 MB; a forward pass needs 3.5 MB more. It
// starts no goroutine and needs no Close.
type Builtin struct {
	tokenizer *uselite.Tokenizer
	model     func() (*uselite.Model, error)
	bulk      workspaces
	queries   workspaces // of their own, so that a query never waits for bulk work
}

// NewBuiltin returns the built-in embedder. parallel bounds how many forward
// passes of passages, and as many of queries, run at a time; below 1 it is the
// number of processors the program may use.
func NewBuiltin(parallel int) (*Builtin, error) {
	pieces, err := uselite.BuiltinVocabulary()
	if err != nil {
		return nil, err
	}
	tokenizer, err := uselite.NewTokenizer(pieces)
	if err != nil {
		return nil, err
	}
	if parallel < 1 {
		parallel = runtime.GOMAXPROCS(0)
	}
	return &Builtin{
		tokenizer: tokenizer,
		model:     sync.OnceValues(loadModel),
		bulk:      newWorkspaces(parallel, uselite.BatchTokens),
		queries:   newWorkspaces(parallel, uselite.MaxTokens),
	}, nil
}

func loadModel() (*uselite.Model, error) {
	weights, err := uselite.Builtin()
	if err != nil {
		return nil, err
	}
	return uselite.NewModel(weights)
}

// Model returns [BuiltinModel].
func (b *Builtin) Model() string { return BuiltinModel }

// Dims returns 512, in both spaces.
func (b *Builtin) Dims() int { return uselite.Dims }

// Tokens returns the ids of the model's tokens of text.
func (b *Builtin) Tokens(text string) []int { return b.tokenizer.Encode(text) }

// Passages embeds passages, each in one space: the model's if it is English,
// else the n-grams'. Between batches of [uselite.BatchTokens] tokens it looks
// whether ctx is done.
func (b *Builtin) Passages(ctx context.Context, in []Input) ([]pipeline.Embedding, error) {
	out := make([]pipeline.Embedding, len(in))
	run := batcher{embed: b.forward, out: out}
	for i, input := range in {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		switch {
		case isBlank(input.Text):
			out[i] = pipeline.Embedding{Space: pipeline.SpaceModel}
		case speaksEnglish(input):
			out[i] = pipeline.Embedding{Space: pipeline.SpaceModel}
			for _, w := range windows(b.Tokens(input.Text)) {
				if err := run.add(ctx, i, w); err != nil {
					return nil, err
				}
			}
		default:
			out[i] = pipeline.Embedding{Space: pipeline.SpaceNGrams, Vectors: ngramWindows(input.Text)}
		}
	}
	if err := run.flush(ctx); err != nil {
		return nil, err
	}
	return out, nil
}

// Query embeds a question: always as n-grams, and by the model if it is English
// or, its language being unknown, looks like it. Only the first
// [uselite.MaxTokens] tokens are read. A blank query is a *[pipeline.Error].
func (b *Builtin) Query(ctx context.Context, in Input) ([]pipeline.QueryVector, error) {
	if isBlank(in.Text) {
		return nil, emptyQuery()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out []pipeline.QueryVector
	if speaksEnglish(in) {
		ids := b.Tokens(in.Text)
		vectors, err := b.run(ctx, b.queries, [][]int{ids[:min(len(ids), uselite.MaxTokens)]})
		if err != nil {
			return nil, err
		}
		out = append(out, pipeline.QueryVector{Space: pipeline.SpaceModel, Vector: vectors[0]})
	}
	return append(out, pipeline.QueryVector{Space: pipeline.SpaceNGrams, Vector: ngramVector(in.Text)}), nil
}

func (b *Builtin) forward(ctx context.Context, batch [][]int) ([][]float32, error) {
	return b.run(ctx, b.bulk, batch)
}

func (b *Builtin) run(ctx context.Context, from workspaces, batch [][]int) ([][]float32, error) {
	model, err := b.model()
	if err != nil {
		return nil, fmt.Errorf("load built-in model: %w", err)
	}
	ws, err := from.take(ctx)
	if err != nil {
		return nil, err
	}
	defer from.give(ws)
	return model.Forward(ws, batch)
}

func emptyQuery() error {
	return &pipeline.Error{Stage: stage, Reason: ReasonEmptyText, Message: "The query has no text."}
}

func isBlank(text string) bool { return strings.TrimSpace(text) == "" }

// workspaces hands out a bounded number of workspaces. They are made when first
// needed and then kept.
type workspaces struct {
	free   chan *uselite.Workspace // nil stands for one not made yet
	tokens int
}

func newWorkspaces(n, tokens int) workspaces {
	w := workspaces{free: make(chan *uselite.Workspace, n), tokens: tokens}
	for range n {
		w.free <- nil
	}
	return w
}

func (w workspaces) take(ctx context.Context) (*uselite.Workspace, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case ws := <-w.free:
		if ws == nil {
			ws = uselite.NewWorkspace(w.tokens)
		}
		return ws, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w workspaces) give(ws *uselite.Workspace) { w.free <- ws }
