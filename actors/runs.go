package actors

import (
	"context"
	"slices"
	"sync"

	"granary.dev/granary/actors/journal"
)

// runs knows which pipeline runs of this node have not ended. A run that was
// stopped ends by itself soon after, and what it still writes until then would
// outlive its attempt: whoever erases an attempt waits for its runs first.
type runs struct {
	mu      sync.Mutex
	live    map[*liveRun]struct{}
	outages map[string]struct{} // attempts whose runs ended with their activation, not with the process
}

type liveRun struct {
	scope   journal.Scope
	attempt string
	ended   chan struct{}
}

func newRuns() *runs {
	return &runs{live: make(map[*liveRun]struct{}), outages: make(map[string]struct{})}
}

// begin notes something that may write for an attempt; the returned function
// says that it does so no more.
func (r *runs) begin(s journal.Scope, attempt string) (end func()) {
	l := &liveRun{scope: s, attempt: attempt, ended: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live[l] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, ok := r.live[l]; ok {
			delete(r.live, l)
			close(l.ended)
		}
	}
}

// wait returns when all that match have ended (nil: all there are), or with ctx's error.
func (r *runs) wait(ctx context.Context, match func(*liveRun) bool) error {
	for _, l := range r.matching(match) {
		select {
		case <-l.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (r *runs) matching(match func(*liveRun) bool) []*liveRun {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*liveRun
	for l := range r.live {
		if match == nil || match(l) {
			out = append(out, l)
		}
	}
	return out
}

// ofAttempts matches the runs of these attempts; ofScope those of a whole incarnation.
func ofAttempts(s journal.Scope, attempts []string) func(*liveRun) bool {
	return func(l *liveRun) bool { return l.scope == s && slices.Contains(attempts, l.attempt) }
}

func ofScope(s journal.Scope) func(*liveRun) bool {
	return func(l *liveRun) bool { return l.scope == s }
}

// maxOutages bounds what is remembered of activations that broke and never came back here.
const maxOutages = 10_000

// outage notes that an attempt's run ended because its activation did.
func (r *runs) outage(attempt string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.outages) < maxOutages {
		r.outages[attempt] = struct{}{}
	}
}

// survived reports, once, whether an attempt's run ended in an outage.
func (r *runs) survived(attempt string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.outages[attempt]
	delete(r.outages, attempt)
	return ok
}
