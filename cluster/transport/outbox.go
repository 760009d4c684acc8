package transport

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Field numbers that CallBatch and ReplyBatch share, and those they do not.
const (
	fieldEntry     = protowire.Number(1) // calls, replies
	fieldCancelled = protowire.Number(2) // of CallBatch
	fieldView      = protowire.Number(2) // of ReplyBatch
	fieldPart      = protowire.Number(3)

	partID   = protowire.Number(1)
	partData = protowire.Number(2)
	partRest = protowire.Number(3)
)

var errEntryTooLarge = errors.New("call or reply is too large")

// outbox is what one side of a stream has still to send, as encoded messages in
// the order in which they go out. The lock of its owner guards it.
//
// One goroutine at a time sends what take gives. It parks when take gives
// nothing, and the next thing to send wakes it.
type outbox struct {
	pool    *bufferPool
	filling *[]byte   // the message that entries are added to; nil: none begun
	full    []*[]byte // messages that take nothing more
	large   []*large  // they travel in turn, a part each
	held    int64     // bytes that wait, those of large included
	filled  uint64    // messages begun
	taken   uint64    // messages given by take
	answer  bool      // send a message even if there is nothing to say
	parked  bool      // nobody sends: wake
	wake    chan struct{}
}

// large is a call or reply that travels in parts.
type large struct {
	id      uint64
	head    []byte // the entry without its bytes; nil: taken
	body    []byte // what is still to be sent
	message uint64 // the message that had the last part; 0: not yet
}

func newOutbox(pool *bufferPool) outbox {
	return outbox{pool: pool, wake: make(chan struct{}, 1)}
}

// add queues an entry and gives the number of the message it will be in. An
// entry that cannot be encoded changes nothing.
func (o *outbox) add(entry proto.Message) (message uint64, err error) {
	size := proto.Size(entry)
	if size > entryBytes+partBytes {
		return 0, errEntryTooLarge
	}
	o.begin()
	before := len(*o.filling)
	buf := protowire.AppendTag(*o.filling, fieldEntry, protowire.BytesType)
	buf = protowire.AppendVarint(buf, uint64(size))
	buf, err = proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(buf, entry)
	if err != nil {
		*o.filling = (*o.filling)[:before]
		return 0, err
	}
	return o.grown(buf, before), nil
}

// addLarge queues an entry whose bytes, body, travel in parts.
func (o *outbox) addLarge(id uint64, entry proto.Message, body []byte) (*large, error) {
	if proto.Size(entry) > entryBytes {
		return nil, errEntryTooLarge
	}
	head, err := proto.Marshal(entry)
	if err != nil {
		return nil, err
	}
	l := &large{id: id, head: head, body: body}
	o.large = append(o.large, l)
	o.held += int64(len(body))
	o.rouse()
	return l, nil
}

// addCancel queues the id of a call whose caller gave up.
func (o *outbox) addCancel(id uint64) {
	o.begin()
	before := len(*o.filling)
	buf := protowire.AppendTag(*o.filling, fieldCancelled, protowire.VarintType)
	o.grown(protowire.AppendVarint(buf, id), before)
}

// addAnswer makes a message go out even if it is empty.
func (o *outbox) addAnswer() {
	o.answer = true
	o.rouse()
}

// drop forgets what was not yet sent of a large entry.
func (o *outbox) drop(l *large) {
	for i, other := range o.large {
		if other == l {
			o.large = append(o.large[:i], o.large[i+1:]...)
			o.held -= int64(len(l.body))
			return
		}
	}
}

func (o *outbox) begin() {
	if o.filling == nil {
		o.filling = o.pool.Get(0)
		o.filled++
	}
}

// grown takes the longer buffer over and closes the message if it is full.
func (o *outbox) grown(buf []byte, before int) (message uint64) {
	*o.filling = buf
	o.held += int64(len(buf) - before)
	if len(buf) >= batchBytes {
		o.full = append(o.full, o.filling)
		o.filling = nil
	}
	o.rouse()
	return o.filled
}

func (o *outbox) rouse() {
	if o.parked {
		o.parked = false
		o.wake <- struct{}{} // never blocks: one is parked, once
	}
}

// take gives the next message to send, or nil when nothing waits; then its
// caller has parked and must wait on wake.
func (o *outbox) take() *[]byte {
	var buf *[]byte
	switch {
	case len(o.full) > 0:
		buf = o.full[0]
		o.full[0] = nil
		o.full = o.full[1:]
	case o.filling != nil || len(o.large) > 0 || o.answer:
		o.begin()
		buf, o.filling = o.filling, nil
	default:
		o.full, o.parked = nil, true
		return nil
	}
	o.answer = false
	o.taken++
	o.held -= int64(len(*buf))
	// A full message takes one part nevertheless: large entries must get on
	// however many small ones there are.
	for once := true; len(o.large) > 0 && (once || len(*buf) < batchBytes); once = false {
		*buf = o.appendPart(*buf)
	}
	return buf
}

// appendPart appends the next part of the large entry whose turn it is.
func (o *outbox) appendPart(buf []byte) []byte {
	l := o.large[0]
	if l.head != nil {
		buf = protowire.AppendTag(buf, fieldEntry, protowire.BytesType)
		buf = protowire.AppendBytes(buf, l.head)
		l.head = nil
	}
	n := min(partBytes, len(l.body))
	data, rest := l.body[:n], l.body[n:]
	size := protowire.SizeTag(partID) + protowire.SizeVarint(l.id) +
		protowire.SizeTag(partData) + protowire.SizeBytes(n)
	if len(rest) > 0 {
		size += protowire.SizeTag(partRest) + protowire.SizeVarint(uint64(len(rest)))
	}
	buf = protowire.AppendTag(buf, fieldPart, protowire.BytesType)
	buf = protowire.AppendVarint(buf, uint64(size))
	buf = protowire.AppendTag(buf, partID, protowire.VarintType)
	buf = protowire.AppendVarint(buf, l.id)
	buf = protowire.AppendTag(buf, partData, protowire.BytesType)
	buf = protowire.AppendBytes(buf, data)
	if len(rest) > 0 {
		buf = protowire.AppendTag(buf, partRest, protowire.VarintType)
		buf = protowire.AppendVarint(buf, uint64(len(rest)))
	}
	o.held -= int64(n)
	l.body = rest
	copy(o.large, o.large[1:])
	last := len(o.large) - 1
	if len(rest) > 0 {
		o.large[last] = l
	} else {
		l.message = o.taken
		o.large[last] = nil
		o.large = o.large[:last]
	}
	return buf
}
