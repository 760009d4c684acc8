package search

import "math/bits"

// bitmap is a set of small integers; nil is the empty set.
type bitmap []uint64

func newBitmap(n int) bitmap { return make(bitmap, (n+63)/64) }

func (b bitmap) has(i uint32) bool { return b != nil && b[i>>6]&(1<<(i&63)) != 0 }

func (b bitmap) set(i uint32) { b[i>>6] |= 1 << (i & 63) }

// setRange adds [from, to).
func (b bitmap) setRange(from, to uint32) {
	for from < to && from&63 != 0 {
		b.set(from)
		from++
	}
	for ; from+64 <= to; from += 64 {
		b[from>>6] = ^uint64(0)
	}
	for ; from < to; from++ {
		b.set(from)
	}
}

func (b bitmap) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// next returns the first member ≥ i, and false when there is none.
func (b bitmap) next(i uint32) (uint32, bool) {
	w := int(i >> 6)
	if w >= len(b) {
		return 0, false
	}
	word := b[w] >> (i & 63) << (i & 63)
	for word == 0 {
		w++
		if w >= len(b) {
			return 0, false
		}
		word = b[w]
	}
	return uint32(w<<6 + bits.TrailingZeros64(word)), true
}

// without returns a new set of the members of the full set of n that are not in b.
func (b bitmap) without(n int) bitmap {
	out := newBitmap(n)
	out.setRange(0, uint32(n))
	for i := range b {
		out[i] &^= b[i]
	}
	return out
}
