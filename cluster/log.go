package cluster

import (
	"context"
	"fmt"
	"log/slog"
)

// actorLogger makes the logger that protoactor gets: its Info, which tells of
// every dead letter, comes as Debug, and the attribute "message" loses its
// content, which is a tenant's.
func actorLogger(log *slog.Logger) *slog.Logger {
	return slog.New(quietHandler{log.With(slog.String("lib", "protoactor")).Handler()})
}

type quietHandler struct{ next slog.Handler }

// Enabled lowers Info to Debug.
func (h quietHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, quietLevel(level))
}

// Handle passes the record on with its content removed.
func (h quietHandler) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, quietLevel(r.Level), r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(redact(a))
		return true
	})
	return h.next.Handle(ctx, out)
}

// WithAttrs is slog's.
func (h quietHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	kept := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		kept[i] = redact(a)
	}
	return quietHandler{h.next.WithAttrs(kept)}
}

// WithGroup is slog's.
func (h quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{h.next.WithGroup(name)}
}

func quietLevel(l slog.Level) slog.Level {
	if l == slog.LevelInfo {
		return slog.LevelDebug
	}
	return l
}

func redact(a slog.Attr) slog.Attr {
	if a.Key != "message" {
		return a
	}
	return slog.String(a.Key, fmt.Sprintf("%T", a.Value.Any()))
}
