package transport

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// decodeBatch reads a CallBatch or ReplyBatch entry by entry, in the order in
// which it was written, and calls entry, part and number (cancelled ids, or the
// view) for each. Fields of later versions are skipped. What entry and part get
// is valid only until they return. Errors wrap errMalformed, or are theirs.
func decodeBatch(b []byte, entry, part func([]byte) error, number func(uint64)) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		var value []byte
		var one uint64
		switch kind {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			one, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		var err error
		switch {
		case field == fieldEntry && kind == protowire.BytesType:
			err = entry(value)
		case field == fieldPart && kind == protowire.BytesType:
			err = part(value)
		case field == fieldCancelled && kind == protowire.VarintType:
			number(one)
		case field == fieldCancelled && kind == protowire.BytesType:
			err = packed(value, number)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func packed(b []byte, number func(uint64)) error {
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		number(v)
		b = b[n:]
	}
	return nil
}

// decode reads one entry.
func decode(b []byte, m proto.Message) error {
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	return nil
}

// part is a Part whose data is not copied.
type part struct {
	id   uint64
	data []byte
	rest int64
}

func decodePart(b []byte) (p part, err error) {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return part{}, fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		var v uint64
		switch {
		case field == partID && kind == protowire.VarintType:
			p.id, n = protowire.ConsumeVarint(b)
		case field == partData && kind == protowire.BytesType:
			p.data, n = protowire.ConsumeBytes(b)
		case field == partRest && kind == protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
			p.rest = int64(v)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return part{}, fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		b = b[n:]
	}
	return p, nil
}

// assembly puts a request or reply together that comes in parts.
type assembly struct {
	chunks [][]byte
	size   int
	rest   int64 // bytes still to come
}

func newAssembly(first []byte, rest int64) *assembly {
	a := &assembly{rest: rest}
	a.append(first)
	return a
}

// add copies a part and tells whether it was the last one.
func (a *assembly) add(p part) (whole bool, err error) {
	if len(p.data) == 0 || p.rest < 0 || p.rest != a.rest-int64(len(p.data)) {
		return false, fmt.Errorf("%w: part does not fit", errMalformed)
	}
	a.append(p.data)
	a.rest = p.rest
	return a.rest == 0, nil
}

// append fills chunks of partBytes, so that memory is in proportion to what
// came even if it came byte by byte, and nothing large is ever copied at once.
func (a *assembly) append(b []byte) {
	a.size += len(b)
	for len(b) > 0 {
		last := len(a.chunks) - 1
		if last < 0 || len(a.chunks[last]) == cap(a.chunks[last]) {
			a.chunks = append(a.chunks, make([]byte, 0, min(partBytes, int64(len(b))+a.rest)))
			last++
		}
		n := min(len(b), cap(a.chunks[last])-len(a.chunks[last]))
		a.chunks[last] = append(a.chunks[last], b[:n]...)
		b = b[n:]
	}
}

// join gives the whole.
func (a *assembly) join() []byte {
	whole := make([]byte, 0, a.size)
	for _, c := range a.chunks {
		whole = append(whole, c...)
	}
	return whole
}

// sizeOf gives the size of a request or reply of which have bytes are here;
// ok is false if what is said of the rest makes no sense or is above limit.
func sizeOf(have int, rest int64, limit int) (size int64, ok bool) {
	if rest < 0 || rest > math.MaxInt64-int64(have) {
		return 0, false
	}
	size = int64(have) + rest
	return size, size <= int64(limit)
}
