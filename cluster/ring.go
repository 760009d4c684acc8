package cluster

// ring is a first-in-first-out queue that is a nil pointer until it is used. Its
// capacity is a power of two and doubles; the owner bounds its length.
type ring[T any] struct{ *queue[T] }

type queue[T any] struct {
	slots []T
	head  uint32
	count uint32
}

// smallRing is the capacity that a ring starts with and shrinks back to.
const smallRing = 4

func (r *ring[T]) len() int {
	if r.queue == nil {
		return 0
	}
	return int(r.count)
}

func (r *ring[T]) push(v T) {
	if r.queue == nil {
		r.queue = &queue[T]{}
	}
	if int(r.count) == len(r.slots) {
		r.resize(max(smallRing, 2*len(r.slots)))
	}
	r.slots[(r.head+r.count)&uint32(len(r.slots)-1)] = v
	r.count++
}

func (r *ring[T]) pop() (v T, ok bool) {
	if r.len() == 0 {
		return v, false
	}
	var zero T
	v = r.slots[r.head]
	r.slots[r.head] = zero
	r.head = (r.head + 1) & uint32(len(r.slots)-1)
	r.count--
	return v, true
}

// retain drops every element that keep refuses and keeps the order.
func (r *ring[T]) retain(keep func(T) bool) {
	for range r.len() {
		if v, _ := r.pop(); keep(v) {
			r.push(v)
		}
	}
}

// release gives the memory of an empty ring back.
func (r *ring[T]) release() {
	if r.len() == 0 {
		r.queue = nil
	}
}

func (r *ring[T]) resize(n int) {
	slots := make([]T, n)
	for i := range r.count {
		slots[i] = r.slots[(r.head+i)&uint32(len(r.slots)-1)]
	}
	r.slots, r.head = slots, 0
}
