package nodetest

import (
	"bytes"
	"strings"
	"sync"
	"testing"
)

// logbook sends a node's log to the test's, and keeps it.
type logbook struct {
	t testing.TB

	mu    sync.Mutex
	lines []string
}

// Write implements io.Writer; a log handler writes a line at a time.
func (w *logbook) Write(p []byte) (int, error) {
	line := string(bytes.TrimRight(p, "\n"))
	w.mu.Lock()
	w.lines = append(w.lines, line)
	w.mu.Unlock()
	w.t.Log(line)
	return len(p), nil
}

// has tells whether a line contains all of texts.
func (w *logbook) has(texts []string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
next:
	for _, line := range w.lines {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		return true
	}
	return false
}

// logDiscard drops the welcome.
type logDiscard struct{}

// Write implements io.Writer.
func (logDiscard) Write(p []byte) (int, error) { return len(p), nil }
