package gossip

import (
	"context"
	"math"
	"reflect"
	"sync"
	"time"
)

const (
	// A load that moved by less than loadStep is told with the next change, or
	// after loadEvery.
	loadStep  = 0.05
	loadEvery = 5 * time.Second
)

// announcer holds what this node says of itself. It is memberlist's Delegate.
type announcer struct {
	every  time.Duration
	update func() // makes memberlist ask for NodeMeta and tell it
	dirty  chan struct{}

	mu      sync.Mutex
	now     announcement
	encoded []byte
	told    announcement
	toldAt  time.Time
}

// newAnnouncer's first word must fit, which Config.complete has checked.
func newAnnouncer(first announcement, every time.Duration) (*announcer, error) {
	b, err := first.encode()
	return &announcer{every: every, dirty: make(chan struct{}, 1), now: first, encoded: b, told: first, toldAt: time.Now()}, err
}

// set takes the next word. What does not fit is refused, and the last one stays.
func (a *announcer) set(change func(*announcement)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.now
	change(&next)
	b, err := next.encode()
	if err != nil {
		return err
	}
	a.now, a.encoded = next, b
	poke(a.dirty)
	return nil
}

// run tells changes until ctx ends.
func (a *announcer) run(ctx context.Context) {
	for {
		wait, changed := a.due(time.Now())
		var later <-chan time.Time
		if changed {
			if wait <= 0 {
				a.tell()
				continue
			}
			later = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.dirty:
		case <-later:
		}
	}
}

// due says how long the news may wait, and whether there are any.
func (a *announcer) due(now time.Time) (time.Duration, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if reflect.DeepEqual(a.now, a.told) {
		return 0, false
	}
	every, same := a.every, a.told
	same.Load = a.now.Load
	if reflect.DeepEqual(a.now, same) && math.Abs(a.now.Load-a.told.Load) < loadStep {
		every = max(every, loadEvery)
	}
	return a.toldAt.Add(every).Sub(now), true
}

func (a *announcer) tell() {
	a.mu.Lock()
	a.told, a.toldAt = a.now, time.Now()
	a.mu.Unlock()
	a.update()
}

// NodeMeta gives memberlist the encoded word.
func (a *announcer) NodeMeta(int) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.encoded
}

// NotifyMsg is for messages of users; there are none.
func (*announcer) NotifyMsg([]byte) {}

// GetBroadcasts is for messages of users; there are none.
func (*announcer) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState is for state of users; there is none.
func (*announcer) LocalState(bool) []byte { return nil }

// MergeRemoteState is for state of users; there is none.
func (*announcer) MergeRemoteState([]byte, bool) {}
