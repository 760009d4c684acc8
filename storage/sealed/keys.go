package sealed

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// redacted is how secrets print.
const redacted = "[redacted]"

// keys are a tenant's, ready for use. They print as [redacted].
type keys struct {
	tenant  string
	version int64
	primary string // id of the key that seals
	ids     []uint32
	handle  *keyset.Handle
	aead    tink.AEAD
	hashKey []byte
	mixed   bool // values from before the keys may be there

	used int64        // the ring's tick when they were last asked for; under its lock
	gone atomic.Bool  // destroyed: whoever still holds them can do nothing
	seen atomic.Int64 // when the row last had this version, on the ring's clock
}

// Format implements fmt.Formatter for every verb.
func (k *keys) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (k *keys) LogValue() slog.Value { return slog.StringValue(redacted) }

// bundle is what the master key wraps.
type bundle struct {
	Keyset []byte `json:"keyset"`          // tink's, binary
	Hash   []byte `json:"hash"`            // the key of hashes
	Mixed  bool   `json:"mixed,omitempty"` // there was content before the keys
}

// keyBits is the length of the key of hashes, in bytes.
const hashKeyLen = 32

// newKeys makes the keys of a tenant that has none.
func newKeys(tenant string, mixed bool) (*keys, error) {
	h, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("sealed: new keyset: %w", err)
	}
	hash := make([]byte, hashKeyLen)
	if _, err := rand.Read(hash); err != nil {
		return nil, fmt.Errorf("sealed: new key of hashes: %w", err)
	}
	return useKeys(tenant, h, hash, mixed)
}

func useKeys(tenant string, h *keyset.Handle, hash []byte, mixed bool) (*keys, error) {
	a, err := aead.New(h)
	if err != nil {
		return nil, fmt.Errorf("sealed: keyset: %w", err)
	}
	k := &keys{tenant: tenant, handle: h, aead: a, hashKey: hash, mixed: mixed}
	for i := range h.Len() {
		e, err := h.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("sealed: keyset: %w", err)
		}
		k.ids = append(k.ids, e.KeyID())
		if e.IsPrimary() {
			k.primary = keyName(e.KeyID())
		}
	}
	return k, nil
}

func keyName(id uint32) string { return fmt.Sprintf("%08x", id) }

// rotated gives the same keys with a new one that seals.
func (k *keys) rotated() (*keys, error) {
	m := keyset.NewManagerFromHandle(k.handle)
	id, err := m.Add(aead.AES256GCMKeyTemplate())
	if err == nil {
		err = m.SetPrimary(id)
	}
	if err != nil {
		return nil, fmt.Errorf("sealed: add a key: %w", err)
	}
	h, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("sealed: add a key: %w", err)
	}
	return useKeys(k.tenant, h, k.hashKey, k.mixed)
}

// encode gives what is to be wrapped.
func (k *keys) encode() ([]byte, error) {
	var set bytes.Buffer
	if err := insecurecleartextkeyset.Write(k.handle, keyset.NewBinaryWriter(&set)); err != nil {
		return nil, fmt.Errorf("sealed: encode keyset: %w", err)
	}
	return json.Marshal(bundle{Keyset: set.Bytes(), Hash: k.hashKey, Mixed: k.mixed})
}

func decodeKeys(tenant string, data []byte) (*keys, error) {
	var b bundle
	if err := json.Unmarshal(data, &b); err != nil || len(b.Hash) != hashKeyLen {
		return nil, fmt.Errorf("sealed: keys of %s have an unknown form", tenant) // never the data
	}
	h, err := insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(b.Keyset)))
	if err != nil {
		return nil, fmt.Errorf("sealed: keyset of %s has an unknown form", tenant)
	}
	return useKeys(tenant, h, b.Hash, b.Mixed)
}

// hash is a hash that only who has the keys can compute, in hex.
func (k *keys) hash(what string, parts ...string) string {
	h := hmac.New(sha256.New, k.hashKey)
	h.Write(place(what, parts...)) // never fails
	return hex.EncodeToString(h.Sum(nil))
}
