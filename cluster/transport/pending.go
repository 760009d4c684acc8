package transport

import (
	"sync"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// pending is a call that waits for its result. Its fields are guarded by the
// link's lock until the call has been taken out of link.waiting.
type pending struct {
	id      uint64
	message uint64 // the message it is in
	large   *large // set if it travels in parts
	held    int64
	reply   *nodev1.Reply
	coming  *assembly // of a reply in parts
	err     error
	ready   chan struct{} // gets one element when reply or err is set
}

// pendings reuses calls that got their result. A call that was abandoned is not
// reused: the reader may still know it.
type pendings struct {
	pool sync.Pool
}

func (s *pendings) get() *pending {
	if p, ok := s.pool.Get().(*pending); ok {
		return p
	}
	return &pending{ready: make(chan struct{}, 1)}
}

// put takes back a call whose ready channel is empty again.
func (s *pendings) put(p *pending) {
	*p = pending{ready: p.ready}
	s.pool.Put(p)
}
