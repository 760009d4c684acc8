//go:build unix

package pgtest

import (
	"bytes"
	"sync"
)

// tailBytes is how much of the server's log is kept for an error message.
const tailBytes = 8 << 10

var readyLine = []byte("database system is ready to accept connections")

// serverLog reads what the server says: when it is ready, and why it failed.
type serverLog struct {
	ready chan struct{}   // closed at the ready line
	ended <-chan struct{} // closed when the process was waited for

	mu    sync.Mutex
	kept  []byte
	began bool
}

func newServerLog() *serverLog { return &serverLog{ready: make(chan struct{})} }

// Write implements io.Writer.
func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, p...)
	if !l.began && bytes.Contains(l.kept, readyLine) {
		l.began = true
		close(l.ready)
	}
	if over := len(l.kept) - tailBytes; over > 0 {
		l.kept = append(l.kept[:0], l.kept[over:]...)
	}
	return len(p), nil
}

func (l *serverLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.kept)
}
