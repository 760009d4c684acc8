package transport

import (
	"fmt"
	"sync"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec of Ping and Admin
	"google.golang.org/grpc/mem"
)

// outgoing is an encoded message. Its buffer goes back to the pool when grpc-go
// has written it.
type outgoing struct {
	buf  *[]byte
	pool *bufferPool
}

// incoming takes a message undecoded. Its bytes are valid until free.
type incoming struct {
	buf mem.Buffer
}

func (m *incoming) bytes() []byte { return m.buf.ReadOnlyData() }

func (m *incoming) free() { m.buf.Free() }

// codec passes batches through as bytes: they are encoded entry by entry as
// calls come, so that one bad entry cannot spoil a batch. It leaves all other
// messages to grpc-go's codec, whose name and wire format it has.
type codec struct {
	encoding.CodecV2
}

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*outgoing); ok {
		return mem.BufferSlice{mem.NewBuffer(m.buf, m.pool)}, nil
	}
	out, err := c.CodecV2.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return out, nil
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(*incoming); ok {
		m.buf = data.MaterializeToBuffer(mem.DefaultBufferPool())
		return nil
	}
	if err := c.CodecV2.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}

const (
	// smallBuffer is the least capacity that grpc-go gives back to a pool with
	// room to spare, and holds a batch of a few small calls.
	smallBuffer = 4 << 10
	// keptBuffer is the most that is kept for reuse.
	keptBuffer = 512 << 10
)

// bufferPool reuses the buffers of outgoing messages. It implements
// mem.BufferPool.
type bufferPool struct {
	pool sync.Pool
}

// Get returns an empty buffer when length is 0, as this package asks for it.
func (p *bufferPool) Get(length int) *[]byte {
	if buf, ok := p.pool.Get().(*[]byte); ok && cap(*buf) >= length {
		*buf = (*buf)[:length]
		return buf
	}
	buf := make([]byte, length, max(length, smallBuffer))
	return &buf
}

// Put takes a buffer back.
func (p *bufferPool) Put(buf *[]byte) {
	if cap(*buf) <= keptBuffer {
		p.pool.Put(buf)
	}
}
