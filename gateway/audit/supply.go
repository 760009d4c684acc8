package audit

import (
	"sync"
	"sync/atomic"
	"time"
)

// supply makes the next segment while the one before is written to, so that no call
// waits for it, and a disk that has no more room is known before room is needed.
type supply struct {
	create  func() (*segment, error)
	done    chan struct{} // closed when run has ended
	failing atomic.Bool   // the last try to make one failed

	mu      sync.Mutex
	changed sync.Cond
	made    *segment // waits to be taken
	err     error    // of the last try
	closed  bool
}

func newSupply(create func() (*segment, error)) *supply {
	s := &supply{create: create, done: make(chan struct{})}
	s.changed.L = &s.mu
	return s
}

// run makes segments until quit is closed.
func (s *supply) run(quit <-chan struct{}) {
	defer close(s.done)
	for {
		seg, err := s.create()
		s.failing.Store(err != nil)
		if !s.put(seg, err) {
			return
		}
		if err == nil {
			continue
		}
		select {
		case <-time.After(retryTime):
		case <-quit:
			return
		}
	}
}

// put gives the outcome of a try and waits until a segment is taken; false at the end.
func (s *supply) put(seg *segment, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		if seg != nil {
			seg.end()
		}
		return false
	}
	s.made, s.err = seg, err
	s.changed.Broadcast()
	for s.made != nil && !s.closed {
		s.changed.Wait()
	}
	return !s.closed
}

// take gives the next segment. It waits while one is being made.
func (s *supply) take() (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.made == nil && s.err == nil {
		s.changed.Wait()
	}
	seg := s.made
	s.made = nil
	s.changed.Broadcast()
	if seg == nil {
		return nil, s.err
	}
	return seg, nil
}

// close ends it, and the segment nobody took.
func (s *supply) close() {
	s.mu.Lock()
	seg := s.made
	s.made, s.closed = nil, true
	s.changed.Broadcast()
	s.mu.Unlock()
	<-s.done
	if seg != nil {
		seg.end()
	}
}
