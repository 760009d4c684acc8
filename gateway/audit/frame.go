package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"granary.dev/granary/actors/journal"
)

// A segment is the mark and then frames: length of the record, checksum, record, hash.
// Behind the last frame is nothing, or zeros: the room that was made for more.
const (
	segmentMark  = "granaud1"
	frameHead    = 8
	maxFrame     = 64 << 10
	segmentBytes = 8 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn: a segment ends in a frame that was not written to its end, or is damaged.
var errTorn = errors.New("audit: the segment does not go on with a whole record")

func appendFrame(b []byte, a journal.Access) []byte {
	start := len(b)
	b = append(b, make([]byte, frameHead)...)
	b = journal.AppendAccess(b, a)
	b = append(b, a.Hash...)
	body := b[start+frameHead:]
	binary.BigEndian.PutUint32(b[start:], uint32(len(body)))
	binary.BigEndian.PutUint32(b[start+4:], crc32.Checksum(body, castagnoli))
	return b
}

// readFrame reads the next record and tells its size in the segment. io.EOF at the
// end, errTorn where no record begins.
func readFrame(r io.Reader) (a journal.Access, size int64, err error) {
	var head [frameHead]byte
	switch n, err := io.ReadFull(r, head[:]); {
	case errors.Is(err, io.EOF):
		return a, 0, io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF) && isZero(head[:n]):
		return a, 0, io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return a, 0, errTorn
	case err != nil:
		return a, 0, err
	}
	if isZero(head[:]) {
		return a, 0, onlyZeros(r)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < journal.HashSize || n > maxFrame {
		return a, 0, fmt.Errorf("%w: a record of %d bytes", errTorn, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errTorn
		}
		return a, 0, err
	}
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		return a, 0, fmt.Errorf("%w: checksum", errTorn)
	}
	at := len(body) - journal.HashSize
	if a, err = journal.ParseAccess(body[:at]); err != nil {
		return a, 0, fmt.Errorf("%w: %w", errTorn, err)
	}
	a.Hash = body[at:]
	return a, frameHead + int64(n), nil
}

// onlyZeros is io.EOF when nothing but zeros is left to read.
func onlyZeros(r io.Reader) error {
	var b [4096]byte
	for {
		n, err := r.Read(b[:])
		if !isZero(b[:n]) {
			return fmt.Errorf("%w: something stands behind zeros", errTorn)
		}
		if err != nil {
			return err
		}
	}
}

var zeros [1 << 20]byte

func isZero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// readMark reads the head of a segment: io.EOF when nothing was ever written to it.
func readMark(r io.Reader) error {
	var mark [len(segmentMark)]byte
	switch _, err := io.ReadFull(r, mark[:]); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.EOF
	case err != nil:
		return err
	case string(mark[:]) != segmentMark:
		return fmt.Errorf("%w: not a segment of the audit", errTorn)
	}
	return nil
}
