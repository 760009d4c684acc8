package cluster

import "sync"

// workers are the goroutines that run grains. Starting a goroutine per burst of
// messages would be simpler, but its new stack is too small for a Receive, and
// to grow it costs more than all the rest of a call (1.4 of 2.5 µs measured); a
// worker keeps the stack that it has grown. A grain that blocks keeps its worker
// and others are started, so none waits for another.
type workers struct {
	stripes [workerStripes]workerStripe
}

const (
	workerStripes = 8  // spreads the lock; a power of two
	maxIdle       = 32 // workers that wait per stripe; more end
)

type workerStripe struct {
	mu     sync.Mutex
	idle   []*worker // the last one that stopped runs first: its stack is warm
	closed bool
	_      [64]byte // keeps the stripes' locks in different cache lines
}

type worker struct {
	next chan *activation // one place; closed to end the worker
}

// run has a run by a worker, a new one if none is idle.
func (ws *workers) run(a *activation) {
	s := &ws.stripes[a.hash&(workerStripes-1)]
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		w := s.idle[n-1]
		s.idle[n-1] = nil
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		w.next <- a
		return
	}
	s.mu.Unlock()
	w := &worker{next: make(chan *activation, 1)}
	w.next <- a
	go s.work(w)
}

func (s *workerStripe) work(w *worker) {
	for a := range w.next {
		a.run()
		if !s.rest(w) {
			return
		}
	}
}

// rest puts a worker among the idle ones, and reports false if it is to end.
func (s *workerStripe) rest(w *worker) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.idle) == maxIdle {
		return false
	}
	s.idle = append(s.idle, w)
	return true
}

// trim ends half of the idle workers, rounded down.
func (ws *workers) trim() {
	for i := range ws.stripes {
		s := &ws.stripes[i]
		s.mu.Lock()
		s.end(len(s.idle) / 2)
		s.mu.Unlock()
	}
}

// close ends the idle workers, and the others when they have nothing to do.
// run may still be called.
func (ws *workers) close() {
	for i := range ws.stripes {
		s := &ws.stripes[i]
		s.mu.Lock()
		s.closed = true
		s.end(len(s.idle))
		s.mu.Unlock()
	}
}

// end ends the n workers that have been idle for longest; s.mu is held.
func (s *workerStripe) end(n int) {
	for _, w := range s.idle[:n] {
		close(w.next)
	}
	rest := copy(s.idle, s.idle[n:])
	clear(s.idle[rest:])
	s.idle = s.idle[:rest]
}
