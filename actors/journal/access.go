package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

const (
	accessTag = "granary audit access 1\x00"
	// maxAccessField bounds what a record that is read may claim of a field.
	maxAccessField = 1 << 12
)

// texts are the fields that are text, in the order they are encoded.
func (a *Access) texts() [12]*string {
	return [...]*string{&a.Tenant, &a.Stream, &a.Phase, &a.Principal, &a.Credential, &a.KeyID, &a.Method, &a.Resource,
		&a.Remote, &a.RequestID, &a.Code, &a.Reason}
}

// AppendAccess appends all of a but its hash: one encoding for each record, which is
// what is hashed and what lies in a node's log.
func AppendAccess(b []byte, a Access) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(a.Seq))
	b = binary.BigEndian.AppendUint64(b, uint64(a.Time.UnixMicro()))
	b = binary.BigEndian.AppendUint64(b, uint64(a.Duration.Microseconds()))
	b = binary.BigEndian.AppendUint64(b, uint64(a.Count))
	for _, f := range a.texts() {
		b = AppendField(b, *f)
	}
	return b
}

// ParseAccess reads what AppendAccess wrote, and nothing else. Errors are ErrCorrupt.
func ParseAccess(b []byte) (Access, error) {
	var a Access
	number := func() int64 {
		n := int64(binary.BigEndian.Uint64(b))
		b = b[8:]
		return n
	}
	if len(b) < 4*8 {
		return Access{}, fmt.Errorf("%w: access of %d bytes", ErrCorrupt, len(b))
	}
	a.Seq, a.Time = number(), time.UnixMicro(number()).UTC()
	us := number()
	a.Duration, a.Count = time.Duration(us)*time.Microsecond, number()
	if a.Duration.Microseconds() != us {
		return Access{}, fmt.Errorf("%w: access with a duration beyond all bounds", ErrCorrupt)
	}
	for _, f := range a.texts() {
		if len(b) < 4 {
			return Access{}, fmt.Errorf("%w: access ends early", ErrCorrupt)
		}
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; n > maxAccessField || int(n) > len(b) {
			return Access{}, fmt.Errorf("%w: access with a field of %d bytes", ErrCorrupt, n)
		}
		*f, b = string(b[:n]), b[n:]
	}
	if len(b) > 0 {
		return Access{}, fmt.Errorf("%w: %d bytes behind an access", ErrCorrupt, len(b))
	}
	return a, nil
}

// LinkAccess gives the hash of a after the record whose hash is prev; an empty prev
// begins a chain.
func LinkAccess(prev []byte, a Access) []byte {
	b := make([]byte, 0, 512)
	b = append(b, accessTag...)
	b = AppendField(b, prev)
	sum := sha256.Sum256(AppendAccess(b, a))
	return sum[:]
}

// FollowAccess checks the next record of a stream, as [Chain.Follow] does an event.
func (c *Chain) FollowAccess(a Access) error {
	if a.Seq != c.Seq+1 {
		return fmt.Errorf("%w: access %d of stream %s follows access %d", ErrChain, a.Seq, a.Stream, c.Seq)
	}
	if !bytes.Equal(LinkAccess(c.Hash, a), a.Hash) {
		return fmt.Errorf("%w: access %d of stream %s", ErrChain, a.Seq, a.Stream)
	}
	c.Seq, c.Hash = a.Seq, a.Hash
	return nil
}
