package sealed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"granary.dev/granary/actors/journal"
)

// Large things are sealed in frames, each a length and tink's ciphertext. A frame is
// bound to its number and to whether it is the last, so that none can be left out,
// moved, or cut off the end.
const (
	frameSize = 64 << 10 // of what is sealed
	frameHead = 4
	// frameMore is what a frame is longer than what it holds: length, tink's prefix,
	// nonce and tag.
	frameMore = frameHead + keyIDLen + 12 + 16
)

// frames counts the frames of something of size bytes; nothing at all is one too.
func frames(size int64) int64 { return max(1, (size+frameSize-1)/frameSize) }

// framedSize is how long it is in frames.
func framedSize(size int64) int64 { return size + frames(size)*frameMore }

// framePlace gives the place of a frame of a thing.
func framePlace(thing []byte, n int64, last bool) []byte {
	at := append(make([]byte, 0, len(thing)+10), thing...)
	at = binary.AppendUvarint(at, uint64(n))
	if last {
		return append(at, 1)
	}
	return append(at, 0)
}

// sealFrame appends a frame to b.
func (s *Store) sealFrame(ctx context.Context, tenant string, b, plain, thing []byte, n int64, last bool) ([]byte, error) {
	k, err := s.ring.of(ctx, tenant)
	if err != nil {
		return nil, s.failed(failKeys, tenant, whatOf(thing), err)
	}
	at := framePlace(thing, n, last)
	at[0] = formatOne
	if k.gone.Load() {
		return nil, s.failed(failKeys, tenant, whatOf(thing), errDestroyed)
	}
	body, err := k.aead.Encrypt(plain, at)
	if err != nil {
		return nil, s.failed(failSeal, tenant, whatOf(thing), err)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...), nil
}

// openFrame opens the ciphertext of a frame.
func (s *Store) openFrame(ctx context.Context, tenant string, body, thing []byte, n int64, last bool) ([]byte, error) {
	plain, err := s.tryFrame(ctx, tenant, body, thing, n, last)
	if err != nil {
		return nil, s.unreadable(tenant, whatOf(thing), err)
	}
	return plain, nil
}

// tryFrame is openFrame with the cause as it is.
func (s *Store) tryFrame(ctx context.Context, tenant string, body, thing []byte, n int64, last bool) ([]byte, error) {
	at := framePlace(thing, n, last)
	at[0] = formatOne
	k, err := s.ring.of(ctx, tenant)
	var plain []byte
	if err == nil {
		plain, err = k.openBody(body, at)
	}
	if errors.Is(err, errUnknownKey) {
		if k, err = s.ring.read(ctx, tenant); err == nil {
			plain, err = k.openBody(body, at)
		}
	}
	return plain, err
}

// frameReader reads the frames of a thing whose size is known.
type frameReader struct {
	s      *Store
	ctx    context.Context
	tenant string
	thing  []byte
	src    io.Reader
	left   int64 // frames
	next   int64 // number of the next
	body   []byte
	plain  []byte // what is left of the last one
	err    error
	again  func(ctx context.Context, offset int64) error // reads the thing anew from there; nil: it cannot change
}

// Read implements io.Reader.
func (r *frameReader) Read(p []byte) (int, error) {
	for len(r.plain) == 0 && r.err == nil {
		if r.left == 0 {
			r.err = r.end()
			break
		}
		r.plain, r.err = r.frame()
	}
	if len(r.plain) == 0 {
		return 0, r.err
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// frame reads and opens the next frame. One that does not open may have been written
// anew under another key, half before it was read and half after: it is looked at again.
func (r *frameReader) frame() ([]byte, error) {
	plain, err := r.try()
	if r.again != nil && (errors.Is(err, errTampered) || errors.Is(err, errUnknownKey) || cutOff(err)) {
		if err = r.again(r.ctx, r.next*(frameSize+frameMore)); err == nil {
			plain, err = r.try()
		}
	}
	r.next++
	r.left--
	switch {
	case err == nil:
		return plain, nil
	case cutOff(err):
		return nil, r.s.unreadable(r.tenant, whatOf(r.thing), fmt.Errorf("%w: it is cut off", errTampered))
	case errors.Is(err, errRead):
		return nil, err
	}
	return nil, r.s.unreadable(r.tenant, whatOf(r.thing), err)
}

// try reads the next frame and opens it.
func (r *frameReader) try() ([]byte, error) {
	body, err := r.load()
	if err != nil {
		return nil, err
	}
	return r.s.tryFrame(r.ctx, r.tenant, body, r.thing, r.next, r.left == 1)
}

// errRead says that bytes could not be read, whatever they are.
var errRead = errors.New("sealed: read")

func cutOff(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// load reads the next frame as it is stored.
func (r *frameReader) load() ([]byte, error) {
	var head [frameHead]byte
	if err := r.full(head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > frameSize+frameMore+64 {
		return nil, errTampered
	}
	if cap(r.body) < int(n) {
		r.body = make([]byte, n)
	}
	r.body = r.body[:n]
	return r.body, r.full(r.body)
}

// full fills b.
func (r *frameReader) full(b []byte) error {
	_, err := io.ReadFull(r.src, b)
	if err != nil && !cutOff(err) {
		err = fmt.Errorf("%w: %w", errRead, err)
	}
	return err
}

// end proves that nothing follows.
func (r *frameReader) end() error {
	var one [1]byte
	_, err := io.ReadFull(r.src, one[:])
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case err == nil:
		return r.s.unreadable(r.tenant, whatOf(r.thing), fmt.Errorf("%w: more follows", errTampered))
	}
	return err
}

func isNoKeys(err error) bool { return errors.Is(err, errNoKeys) || errors.Is(err, errDestroyed) }

var _ io.Reader = (*frameReader)(nil)

// errForm says that a value opens and holds what nobody wrote.
var errForm = fmt.Errorf("%w: unknown form", journal.ErrCorrupt)
