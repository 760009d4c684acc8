package sealed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"granary.dev/granary/storage/internal/codec"
)

// Flags of a sealed value, in its second byte beside the version of the format.
const (
	formatOne  = 0x10
	formatMask = 0xf0
	flagPacked = 1 // zstd inside
	flagStore  = 2 // sealed with the store's own key, not the tenant's
	flagRow    = 4 // bound to the names its row has, where a client's own are not stored

	headLen = 2
	// keyIDLen is the length of tink's prefix: 1, and the key's number.
	keyIDLen = 5
)

// Why a value does not open.
var (
	errUnknownKey = errors.New("sealed with a key that is not among the tenant's")
	errTampered   = errors.New("it was changed, or belongs elsewhere")
	errUnsealed   = errors.New("it is not sealed")
	errDestroyed  = errors.New("the tenant's keys are destroyed")
	errNoKeys     = errors.New("the tenant has no keys")
)

// place is what a value is and where it belongs: each part after its length, so
// that no two places read alike.
func place(what string, parts ...string) []byte {
	n := 1 + len(what)
	for _, p := range parts {
		n += 2 + len(p)
	}
	b := make([]byte, 1, n+4) // room for the flags
	b = appendText(b, what)
	for _, p := range parts {
		b = appendText(b, p)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// cutText reverses appendText.
func cutText(b []byte) (s, rest []byte, ok bool) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)-used) {
		return nil, nil, false
	}
	return b[used : used+int(n)], b[used+int(n):], true
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// seal encrypts plain for its place, which the call may write to.
func (k *keys) seal(plain, at []byte, flags byte) ([]byte, error) {
	if k.gone.Load() {
		return nil, errDestroyed
	}
	at[0] = formatOne | flags
	body, err := k.aead.Encrypt(plain, at)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	out := make([]byte, headLen, headLen+len(body))
	out[0], out[1] = codec.SealedMark, at[0]
	return append(out, body...), nil
}

// open reverses seal.
func (k *keys) open(b, at []byte) ([]byte, error) {
	if len(b) < headLen || b[0] != codec.SealedMark || b[1]&formatMask != formatOne {
		return nil, errUnsealed
	}
	at[0] = b[1]
	return k.openBody(b[headLen:], at)
}

// openBody opens what follows the head.
func (k *keys) openBody(body, at []byte) ([]byte, error) {
	switch {
	case k.gone.Load():
		return nil, errDestroyed
	case !k.has(body):
		return nil, errUnknownKey
	}
	plain, err := k.aead.Decrypt(body, at)
	if err != nil {
		return nil, errTampered // tink says no more
	}
	return plain, nil
}

// has tells whether the key a ciphertext names is there.
func (k *keys) has(body []byte) bool {
	if len(body) < keyIDLen || body[0] != 1 {
		return false
	}
	id := binary.BigEndian.Uint32(body[1:])
	for _, known := range k.ids {
		if known == id {
			return true
		}
	}
	return false
}
