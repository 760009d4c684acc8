package gossip

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	// At most warnBurst lines of memberlist per warnEvery come as warnings, the
	// rest as Debug: whoever can send us junk could fill the log.
	warnBurst = 5
	warnEvery = 10 * time.Second
	maxLine   = 300
)

// libraryLog turns memberlist's lines into records. What it calls information is
// Debug: this package tells of members itself.
type libraryLog struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	since time.Time
	warns int
	ended bool
}

// quiet ends the warnings: at the end everything fails.
func (l *libraryLog) quiet() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// Write takes one line.
func (l *libraryLog) Write(p []byte) (int, error) {
	level, text := slog.LevelDebug, strings.TrimSpace(string(bytes.TrimSpace(p)))
	if tag, rest, ok := strings.Cut(text, "] "); ok && strings.HasPrefix(tag, "[") {
		text = rest
		if (tag == "[ERR" || tag == "[ERROR" || tag == "[WARN") && l.mayWarn() {
			level = slog.LevelWarn
		}
	}
	l.log.LogAttrs(context.Background(), level, "gossip: memberlist says", slog.String("text", harmless(text)))
	return len(p), nil
}

// harmless cuts what a line repeats of a message.
func harmless(text string) string {
	text = strings.TrimPrefix(text, "memberlist: ")
	for _, before := range []string{" meta:(", " unacceptable label "} {
		text, _, _ = strings.Cut(text, before)
	}
	if len(text) > maxLine {
		text = strings.ToValidUTF8(text[:maxLine], "") + "…"
	}
	return text
}

func (l *libraryLog) mayWarn() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.since) >= warnEvery {
		l.since, l.warns = now, 0
	}
	l.warns++
	return l.warns <= warnBurst && !l.ended
}
