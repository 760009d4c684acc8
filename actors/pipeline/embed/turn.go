package embed

import "context"

// TurnBytes is about how much text is embedded between two turns: a batch of
// [uselite.BatchTokens] tokens of windows, of which a quarter overlaps, at four
// bytes to a token.
const TurnBytes = 600

type turnKey struct{}

// WithTurns has an embedder that works on the node's own processors call turn
// between two batches, so that others may go first. An error ends the work.
func WithTurns(ctx context.Context, turn func(context.Context) error) context.Context {
	return context.WithValue(ctx, turnKey{}, turn)
}

func giveTurn(ctx context.Context) error {
	if turn, ok := ctx.Value(turnKey{}).(func(context.Context) error); ok {
		return turn(ctx)
	}
	return nil
}
