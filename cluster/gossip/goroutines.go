package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"time"
)

const (
	profileKey = "granary-gossip"
	pollEvery  = 10 * time.Millisecond
)

var errGoroutines = errors.New("gossip: goroutines of memberlist are left")

// goroutines finds those that a library has started and gives no handle on: a
// profiler label is inherited by every goroutine that one with it starts.
type goroutines struct{ label string }

// do runs f with the label.
func (g goroutines) do(ctx context.Context, f func()) {
	pprof.Do(ctx, pprof.Labels(profileKey, g.label), func(context.Context) { f() })
}

// wait returns when none is left, or with an error when timeout has passed.
func (g goroutines) wait(timeout time.Duration) error {
	end := time.Now().Add(timeout)
	for {
		var all bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
			return fmt.Errorf("gossip: goroutine profile: %w", err)
		}
		if !bytes.Contains(all.Bytes(), []byte(g.label)) {
			return nil
		}
		if time.Now().After(end) {
			return errGoroutines
		}
		<-time.After(pollEvery)
	}
}
