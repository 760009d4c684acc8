package journal

import "context"

// Counter is a number a grain keeps beside its events: durable, fenced, and of no
// interest once it has changed. A quota's use belongs here; what a person did
// belongs into an event.
type Counter struct {
	Name  string // unique inside the grain, e.g. "calls" or "storage/handbook"
	Epoch int64  // of the counter's own time: a window's number, a version; opaque here
	Value int64
}

// CounterStore reads what batches set.
type CounterStore interface {
	// Counters reads all counters of a grain, by name. They are erased with it.
	Counters(ctx context.Context, id Identity) ([]Counter, error)
}
