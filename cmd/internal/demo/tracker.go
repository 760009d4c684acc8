package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// tracker knows which documents were added and which of them rest.
type tracker struct {
	total    int
	terminal bool // standard output is one
	mu       sync.Mutex
	start    time.Time
	printed  time.Time
	names    map[string]string   // of added documents, by resource name
	ended    map[string]*outcome // by resource name, also of documents not known to be added yet
	resting  int                 // documents in both
}

// outcome is how a document's processing ended.
type outcome struct {
	state  granaryv1.DocumentState
	chunks int
	err    *granaryv1.DocumentError
}

func newTracker(total int) *tracker {
	t := &tracker{total: total, start: time.Now(), names: make(map[string]string), ended: make(map[string]*outcome)}
	if info, err := os.Stdout.Stat(); err == nil {
		t.terminal = info.Mode()&os.ModeCharDevice != 0
	}
	return t
}

// expect notes a document that was added.
func (t *tracker) expect(name string, d *granaryv1.Document) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := d.GetName()
	if _, twice := t.names[id]; twice {
		t.total-- // the server found it to be a duplicate of another file
		return
	}
	t.names[id] = name
	if t.ended[id] == nil && rests(d.GetState()) {
		t.ended[id] = &outcome{state: d.GetState(), chunks: int(d.GetChunkCount()), err: d.GetError()}
	}
	if t.ended[id] != nil {
		t.resting++
	}
}

func rests(s granaryv1.DocumentState) bool {
	return s >= granaryv1.DocumentState_DOCUMENT_STATE_READY && s <= granaryv1.DocumentState_DOCUMENT_STATE_CANCELLED
}

// seen takes an event, or nil for none, and reports whether all documents rest.
func (t *tracker) seen(e *granaryv1.Event) (all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.GetDocument() != "" && rests(e.GetState()) {
		id := e.GetDocument()
		chunks, _ := strconv.Atoi(e.GetDetails()["chunks"])
		_, known := t.names[id]
		if known && t.ended[id] == nil {
			t.resting++
		}
		t.ended[id] = &outcome{state: e.GetState(), chunks: chunks, err: e.GetError()}
	}
	all = len(t.names) == t.total && t.resting == t.total
	t.progress(all)
	return all
}

// progress writes the line of progress, seldom; t.mu is held.
func (t *tracker) progress(last bool) {
	every, end := 10*time.Second, "\n"
	if t.terminal {
		every, end = 100*time.Millisecond, "\r"
	}
	if now := time.Now(); last || now.Sub(t.printed) >= every {
		t.printed = now
		if last {
			end = "\n"
		}
		fmt.Printf("  %4d of %d added, %4d processed, %5.1f s%s", len(t.names), t.total, t.resting, now.Sub(t.start).Seconds(), end)
	}
}

// summary says what was achieved, and what was not and why.
func (t *tracker) summary(took time.Duration, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var chunks, ready, empty int
	var failed []string
	for id, name := range t.names {
		switch o := t.ended[id]; o.state {
		case granaryv1.DocumentState_DOCUMENT_STATE_READY:
			ready++
			chunks += o.chunks
		case granaryv1.DocumentState_DOCUMENT_STATE_READY_EMPTY:
			empty++
		default:
			failed = append(failed, fmt.Sprintf("  %s: %s: %s", name, o.err.GetReason(), o.err.GetMessage()))
		}
	}
	s := took.Seconds()
	fmt.Printf("\n%d documents ready, %d without text, %d failed, %d chunks in %.1f s: %.1f documents/s, %.0f chunks/s, %.2f MB/s\n",
		ready, empty, len(failed), chunks, s, float64(len(t.names))/s, float64(chunks)/s, float64(bytes)/1e6/s)
	slices.Sort(failed)
	for _, f := range failed {
		fmt.Println(f)
	}
}
