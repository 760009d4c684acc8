package search

import "encoding/binary"

// A posting list is: uvarint(number of postings), then for each posting
// uvarint(gap<<1 | more) and, when more is set, uvarint(frequency-2). gap is the
// distance to the chunk before, starting from -1, less one. Most words occur once
// in a chunk, so most postings take one byte.

// postingWriter writes one list of a known length.
type postingWriter struct {
	out  []byte
	last int64
}

func beginPostings(out []byte, count int) postingWriter {
	return postingWriter{out: binary.AppendUvarint(out, uint64(count)), last: -1}
}

func (w *postingWriter) add(chunk, frequency uint32) {
	gap := uint64(int64(chunk) - w.last - 1)
	w.last = int64(chunk)
	if frequency == 1 {
		w.out = binary.AppendUvarint(w.out, gap<<1)
		return
	}
	w.out = binary.AppendUvarint(w.out, gap<<1|1)
	w.out = binary.AppendUvarint(w.out, uint64(frequency-2))
}

// postingReader reads a list that was written by a postingWriter or checked by
// validPostings.
type postingReader struct {
	data  []byte
	left  int
	chunk int64
	freq  uint32
}

func readPostings(list []byte) postingReader {
	n, size := binary.Uvarint(list)
	return postingReader{data: list[size:], left: int(n), chunk: -1}
}

func postingCount(list []byte) int {
	n, _ := binary.Uvarint(list)
	return int(n)
}

func (r *postingReader) next() bool {
	if r.left == 0 {
		return false
	}
	r.left--
	v, size := binary.Uvarint(r.data)
	r.data = r.data[size:]
	r.chunk += int64(v>>1) + 1
	r.freq = 1
	if v&1 != 0 {
		f, size := binary.Uvarint(r.data)
		r.data = r.data[size:]
		r.freq = uint32(f) + 2
	}
	return true
}

// validPostings tells whether a list read from outside is well-formed, not empty
// and names only chunks below n.
func validPostings(list []byte, n int) bool {
	count, size := binary.Uvarint(list)
	if size <= 0 || count == 0 || count > uint64(n) {
		return false
	}
	list = list[size:]
	chunk := int64(-1)
	for range count {
		v, size := binary.Uvarint(list)
		if size <= 0 || v>>1 >= uint64(n) {
			return false
		}
		list = list[size:]
		chunk += int64(v>>1) + 1
		if chunk >= int64(n) {
			return false
		}
		if v&1 != 0 {
			f, size := binary.Uvarint(list)
			if size <= 0 || f > 1<<30 {
				return false
			}
			list = list[size:]
		}
	}
	return len(list) == 0
}
