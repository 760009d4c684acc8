package cli

import (
	"fmt"
	"strings"
	"sync"
	"time"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	barColumns  = 24
	redrawEvery = 100 * time.Millisecond
)

// display prints what becomes of sources, from several goroutines, above a
// progress bar if standard error is a terminal. Errors of writing are dropped:
// the sources go on whether somebody reads or not.
type display struct {
	out *output

	mu       sync.Mutex
	bar      bool // there is a bar to draw
	drawn    bool // it is on the screen
	last     time.Time
	all      int
	sent     int // sources the server accepted or refused
	done     int // documents that need nothing more
	bad      int
	current  string // what happens now
	awaiting bool   // documents count as done when processed, not when sent
}

func newDisplay(out *output) *display { return &display{out: out, bar: out.errTTY} }

// total says how many sources there are, and whether they are waited for.
func (d *display) total(n int, wait bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all, d.awaiting = n, wait
	d.draw(true)
}

// accepted reports a source the server has taken.
func (d *display) accepted(verb, name string, added addition) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.erase()
	d.sent++
	if !d.awaiting {
		d.done++
	}
	doc := added.document
	if d.out.json {
		_ = d.out.message(added.response)
	} else {
		_ = d.out.printf("%s  %s  v%d  %s  %s\n", d.out.paint(verbStyle(verb), fmt.Sprintf("%-11s", verb)), oneLine(name),
			doc.GetVersion(), d.out.paint(stateStyle(doc.GetState()), stateText(doc.GetState())), shortDoc(doc.GetName()))
	}
	d.draw(true)
}

func verbStyle(verb string) style {
	if verb == "unchanged" {
		return dim
	}
	return cyan
}

// failed reports a source that was not added, or a document that was not processed.
func (d *display) failed(name string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.erase()
	d.sent++
	d.done++
	d.bad++
	printFailure(d.out.err, "failed       "+oneLine(name)+": ", err)
	d.draw(true)
}

// ended reports a document that reached its last state.
func (d *display) ended(name string, msg *granaryv1.WatchEventsResponse, state granaryv1.DocumentState, err *granaryv1.DocumentError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.erase()
	d.done++
	if !succeeded(state) {
		d.bad++
		text := errorText(err)
		if text == "" {
			text = "it ended as " + stateText(state)
		}
		_, _ = fmt.Fprintf(d.out.err, "failed       %s: %s\n", oneLine(name), oneLine(text))
	}
	switch {
	case d.out.json && msg != nil:
		_ = d.out.message(msg)
	case !d.out.json && succeeded(state):
		_ = d.out.printf("%s  %s\n", d.out.paint(green, fmt.Sprintf("%-11s", strings.ToLower(stateText(state)))), oneLine(name))
	}
	d.draw(true)
}

// progress says what is being worked on.
func (d *display) progress(p *granaryv1.Progress) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := firstOf(p.GetDisplayName(), shortDoc(p.GetDocument()))
	d.current = strings.ToLower(stateText(p.GetState())) + " " + oneLine(name)
	if p.GetFraction() > 0 {
		d.current += fmt.Sprintf(" %.0f%%", p.GetFraction()*100)
	}
	if w := p.GetWaitReason(); w != "" {
		d.current += ", waits: " + oneLine(w)
	}
	d.draw(false)
}

// note prints a remark above the bar.
func (d *display) note(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.erase()
	d.out.notef("%s", text)
	d.draw(true)
}

// close takes the bar off the screen.
func (d *display) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.erase()
	d.bar = false
}

func (d *display) erase() {
	if d.drawn {
		_, _ = fmt.Fprint(d.out.err, "\r\x1b[K")
		d.drawn = false
	}
}

// draw puts the bar on the screen, at most every redrawEvery unless forced.
func (d *display) draw(force bool) {
	now := time.Now()
	if !d.bar || d.all == 0 || !force && now.Sub(d.last) < redrawEvery {
		return
	}
	d.last = now
	full := barColumns * min(d.done, d.all) / d.all
	line := fmt.Sprintf("[%s%s] %d/%d", strings.Repeat("█", full), strings.Repeat("░", barColumns-full), d.done, d.all)
	if d.bad > 0 {
		line += fmt.Sprintf("  %d failed", d.bad)
	}
	if d.awaiting && d.sent < d.all {
		line += fmt.Sprintf("  %d sent", d.sent)
	}
	if d.current != "" {
		line += "  " + d.current
	}
	if d.out.width > 1 {
		line = cut(line, d.out.width-1)
	}
	_, _ = fmt.Fprintf(d.out.err, "\r\x1b[K%s", line)
	d.drawn = true
}
