package sealed

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/internal/codec"
)

// A sealed index is a head (mark, format, a number of its own, the size of what it
// holds) and frames. The number keeps frames of two indexes of a grain apart.
const (
	indexNumber = 16
	indexHead   = headLen + indexNumber + 8
)

func indexThing(id journal.Identity, head []byte) []byte {
	return grainPlace("index", id, string(head))
}

// SaveIndex implements journal.Store. It is sealed as it is written, a frame at a time.
func (s *Store) SaveIndex(ctx context.Context, f journal.Fence, data []byte) error {
	if f.Identity.Tenant == "" {
		return s.Inner.SaveIndex(ctx, f, data)
	}
	if _, err := s.keysOf(ctx, f.Identity.Tenant); err != nil {
		return err
	}
	head := make([]byte, headLen+indexNumber, indexHead)
	head[0], head[1] = codec.SealedMark, formatOne
	if _, err := rand.Read(head[headLen:]); err != nil {
		return fmt.Errorf("sealed: number of an index: %w", err)
	}
	head = binary.LittleEndian.AppendUint64(head, uint64(len(data)))
	r := &indexSealer{s: s, ctx: ctx, tenant: f.Identity.Tenant, thing: indexThing(f.Identity, head), data: data,
		left: frames(int64(len(data))), out: head}
	return s.SaveIndexFrom(ctx, f, r, int64(indexHead)+framedSize(int64(len(data))))
}

// indexSealer reads an index as it is stored.
type indexSealer struct {
	s      *Store
	ctx    context.Context
	tenant string
	thing  []byte
	data   []byte // not sealed yet
	left   int64  // frames
	next   int64
	frame  []byte // for its memory
	out    []byte // sealed, not read yet
}

// Read implements io.Reader.
func (r *indexSealer) Read(p []byte) (int, error) {
	if len(r.out) == 0 {
		if r.left == 0 {
			return 0, io.EOF
		}
		plain := r.data[:min(frameSize, len(r.data))]
		var err error
		if r.frame, err = r.s.sealFrame(r.ctx, r.tenant, r.frame[:0], plain, r.thing, r.next, r.left == 1); err != nil {
			return 0, err
		}
		r.out, r.data = r.frame, r.data[len(plain):]
		r.next++
		r.left--
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// LoadIndex implements journal.Store. What it opens takes the place of what was
// stored, so that the whole is in memory once.
func (s *Store) LoadIndex(ctx context.Context, id journal.Identity) ([]byte, error) {
	b, err := s.Inner.LoadIndex(ctx, id)
	if err != nil {
		return nil, err
	}
	if !codec.Sealed(b) {
		return s.unseal(ctx, id.Tenant, b, grainPlace("index", id))
	}
	if len(b) < indexHead {
		return nil, s.unreadable(id.Tenant, "index", errTampered)
	}
	thing := indexThing(id, b[:indexHead])
	size := int64(binary.LittleEndian.Uint64(b[headLen+indexNumber:]))
	if size < 0 || size > int64(len(b)) || int64(len(b)) != indexHead+framedSize(size) {
		return nil, s.unreadable(id.Tenant, "index", errTampered)
	}
	out, rest := b[:0], b[indexHead:]
	for n, left := int64(0), frames(size); left > 0; n, left = n+1, left-1 {
		if len(rest) < frameHead {
			return nil, s.unreadable(id.Tenant, "index", errTampered)
		}
		length := int64(binary.LittleEndian.Uint32(rest))
		if length > int64(len(rest)-frameHead) {
			return nil, s.unreadable(id.Tenant, "index", errTampered)
		}
		plain, err := s.openFrame(ctx, id.Tenant, rest[frameHead:frameHead+length], thing, n, left == 1)
		if err != nil {
			return nil, fmt.Errorf("search index of %s: %w", id, err)
		}
		rest = rest[frameHead+length:]
		if len(out)+len(plain) > len(b)-len(rest) {
			return nil, s.unreadable(id.Tenant, "index", errTampered)
		}
		out = append(out, plain...)
	}
	if int64(len(out)) != size {
		return nil, s.unreadable(id.Tenant, "index", errTampered)
	}
	return out, nil
}
