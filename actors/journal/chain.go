package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// A journal is a hash chain: each event's hash covers the hash of the event before
// it and all that the event says. Who changes, removes, inserts or reorders events
// must compute all hashes anew up to the head, and then differs from every
// checkpoint that was signed meanwhile.
//
// The chain begins with the first event that has a hash: journals written before
// there were any go on from there. After an erasure it goes on too: the hash of the
// last erased event stays in the owner row ([Owner.Anchor]).

// ErrChain is a link of a chain that does not hold. It is an [ErrCorrupt].
var ErrChain = fmt.Errorf("%w: the hash chain is broken", ErrCorrupt)

// HashSize is the length of a link in bytes.
const HashSize = sha256.Size

const eventTag = "granary journal event 1\x00"

// Link gives the hash of e in the journal of id after the event whose hash is prev;
// an empty prev begins a chain. Data enters as its own hash, so that a chain can be
// checked by who may not read the data, and after the data is gone.
func Link(prev []byte, id Identity, e Event) []byte {
	return LinkData(prev, id, e, DataHash(e.Data))
}

// DataHash is by what an event's data enters its link.
func DataHash(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:]
}

// LinkData is [Link] of an event of which only the SHA-256 of its data is known.
func LinkData(prev []byte, id Identity, e Event, data []byte) []byte {
	b := make([]byte, 0, 512)
	b = append(b, eventTag...)
	b = AppendField(b, prev)
	b = AppendField(b, id.Kind)
	b = AppendField(b, id.Tenant)
	b = AppendField(b, id.ID)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Seq))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Time.UnixMicro()))
	b = AppendField(b, e.Type)
	b = AppendField(b, e.Principal)
	b = AppendField(b, e.Remote)
	b = AppendField(b, e.RequestID)
	b = AppendField(b, data)
	sum := sha256.Sum256(b)
	return sum[:]
}

// AppendField appends a field with its length before it, so that no two lists of
// fields have the same bytes.
func AppendField[T ~string | ~[]byte](b []byte, field T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(field)))
	return append(b, field...)
}

// Chain follows a journal as it is read. The zero value stands before its first event.
type Chain struct {
	Seq  int64
	Hash []byte // of the event at Seq; empty: the chain has not begun
}

// Follow checks the next event. An event without a hash is taken as one of before
// there were chains; so is one written by an older version beside this one, after
// which the chain begins again: an audit tells of it, a grain serves all the same.
func (c *Chain) Follow(id Identity, e Event) error {
	if c.Seq > 0 && e.Seq != c.Seq+1 {
		return fmt.Errorf("%w: event %d of %s follows event %d", ErrChain, e.Seq, id, c.Seq)
	}
	if len(e.Hash) > 0 && !bytes.Equal(Link(c.Hash, id, e), e.Hash) {
		return fmt.Errorf("%w: event %d of %s", ErrChain, e.Seq, id)
	}
	c.Seq, c.Hash = e.Seq, e.Hash
	return nil
}
