package sealed

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// ErrMasterKey says that the master key that is needed is not among those given.
var ErrMasterKey = errors.New("sealed: the master key is missing")

// masterKeyLen is the length of a master key, in bytes.
const masterKeyLen = 32

// Secret is text that holds master keys; it prints as [redacted].
type Secret []byte

// Format implements fmt.Formatter for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Master holds the master keys: the first wraps, all unwrap. Safe for concurrent use.
type Master struct {
	load func(context.Context) (Secret, error) // nil: they never change
	add  func(context.Context) error           // makes a new first one; nil: the operator does

	mu   sync.RWMutex
	ids  []uint32
	aead tink.AEAD
}

// Format implements fmt.Formatter for every verb.
func (m *Master) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// NewMasterKey makes a master key, as a line of the text OpenMaster reads.
func NewMasterKey() (Secret, error) {
	key := make([]byte, masterKeyLen)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("sealed: new master key: %w", err)
	}
	return Secret(base64.StdEncoding.EncodeToString(key) + "\n"), nil
}

// OpenMaster reads the master keys: one a line, 32 bytes in base64; empty lines and
// those that begin with # say nothing. load is asked again for the text when a key is
// missing, so that keys can be added while the node runs.
func OpenMaster(ctx context.Context, load func(context.Context) (Secret, error)) (*Master, error) {
	m := &Master{load: load}
	return m, m.Reload(ctx)
}

// FixedMaster reads master keys that do not change while the node runs.
func FixedMaster(text Secret) (*Master, error) {
	m := &Master{}
	return m, m.set(text)
}

// Reload reads the keys again.
func (m *Master) Reload(ctx context.Context) error {
	if m.load == nil {
		return nil
	}
	text, err := m.load(ctx)
	if err != nil {
		return err
	}
	return m.set(text)
}

func (m *Master) set(text Secret) error {
	manager, ids := keyset.NewManager(), []uint32(nil)
	line := 0
	for l := range strings.Lines(string(text)) {
		line++
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(l)
		if err != nil || len(raw) != masterKeyLen {
			return fmt.Errorf("%w: line %d is not %d bytes in base64", ErrMasterKey, line, masterKeyLen)
		}
		id, err := addMasterKey(manager, raw, len(ids) == 0)
		if err != nil {
			return fmt.Errorf("%w: line %d: %w", ErrMasterKey, line, err)
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return fmt.Errorf("%w: no key is given", ErrMasterKey)
	}
	h, err := manager.Handle()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMasterKey, err)
	}
	a, err := aead.New(h)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMasterKey, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ids, m.aead = ids, a
	return nil
}

// addMasterKey adds a key under a number that follows from it, so that all nodes
// know it by the same name.
func addMasterKey(manager *keyset.Manager, raw []byte, first bool) (uint32, error) {
	sum := sha256.Sum256(append([]byte("granary master key\x00"), raw...))
	id := cmp.Or(binary.BigEndian.Uint32(sum[:]), 1)
	params, err := aesgcm.NewParameters(aesgcm.ParametersOpts{KeySizeInBytes: masterKeyLen, IVSizeInBytes: 12, TagSizeInBytes: 16,
		Variant: aesgcm.VariantTink})
	if err != nil {
		return 0, err
	}
	key, err := aesgcm.NewKey(secretdata.NewBytesFromData(raw, insecuresecretdataaccess.Token{}), id, params)
	if err != nil {
		return 0, err
	}
	if _, err := manager.AddKey(key); err != nil {
		return 0, errors.New("the same key twice")
	}
	if first {
		err = manager.SetPrimary(id)
	}
	return id, err
}

// IDs names the keys, the one that wraps first.
func (m *Master) IDs() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]string, len(m.ids))
	for i, id := range m.ids {
		out[i] = keyName(id)
	}
	return out
}

// wrap encrypts plain, and names the key it did it with.
func (m *Master) wrap(plain, at []byte) (wrapped []byte, id string, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	wrapped, err = m.aead.Encrypt(plain, at)
	if err != nil {
		return nil, "", fmt.Errorf("sealed: wrap keys: %w", err)
	}
	return wrapped, keyName(m.ids[0]), nil
}

// unwrap reverses wrap. A key that is not there may have been added meanwhile.
func (m *Master) unwrap(ctx context.Context, id string, wrapped, at []byte) ([]byte, error) {
	if !slices.Contains(m.IDs(), id) {
		if err := m.Reload(ctx); err != nil {
			return nil, err
		}
		if known := m.IDs(); !slices.Contains(known, id) {
			return nil, fmt.Errorf("%w: it is %s, given are %s", ErrMasterKey, id, strings.Join(known, ", "))
		}
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	plain, err := m.aead.Decrypt(wrapped, at)
	if err != nil {
		return nil, errTampered
	}
	return plain, nil
}
