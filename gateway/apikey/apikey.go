// Package apikey makes and reads the text of API keys.
//
// A key reads grnk_TENANT_ID_SECRETCHECK: a prefix that secret scanners know it by,
// the tenant it is good in, 16 characters that name it, 256 random bits, and a
// checksum over all of it, so that a mistyped key is told from a revoked one without
// asking anybody. Only a MAC under a key of the servers is kept ([Key.MAC]).
//
// A third of the id is a MAC too ([Key.Issued]): no server asks anybody about an id
// that none of them made, so that made-up keys cost nothing and wake nobody.
package apikey

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"regexp"
	"strings"
)

// Prefix begins every key, and no token.
const Prefix = "grnk_"

const (
	idBytes     = 10 // 16 characters
	tagBytes    = 4  // of them: a guess is good once in 2^32
	secretBytes = 32
	sumBytes    = 4
)

// encoding is base32 in lower case: no character of it needs care in a header, a
// shell or a file name, and none reads like another by case.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

var (
	idLength   = encoding.EncodedLen(idBytes)
	restLength = encoding.EncodedLen(secretBytes + sumBytes)
	tenants    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// ErrShape is every text that cannot be a key: it was mistyped, cut or made up.
var ErrShape = errors.New("apikey: not a key")

// Key is a key's text. It prints as [redacted]; [Key.Reveal] gives the text.
type Key struct {
	Tenant string
	ID     string
	text   string
}

// New makes a key of a tenant, whose id the pepper's holders know for theirs.
func New(tenant string, pepper []byte) (Key, error) {
	if !tenants.MatchString(tenant) {
		return Key{}, fmt.Errorf("apikey: %q is no tenant", tenant)
	}
	random := make([]byte, idBytes+secretBytes)
	if _, err := rand.Read(random); err != nil {
		return Key{}, fmt.Errorf("apikey: %w", err)
	}
	copy(random[idBytes-tagBytes:idBytes], tag(tenant, random[:idBytes-tagBytes], pepper))
	id := encoding.EncodeToString(random[:idBytes])
	head := Prefix + tenant + "_" + id + "_"
	return Key{Tenant: tenant, ID: id, text: head + encoding.EncodeToString(sealed(head, random[idBytes:]))}, nil
}

// tag proves that a holder of the pepper chose an id's first part.
func tag(tenant string, chosen, pepper []byte) []byte {
	mac := hmac.New(sha256.New, pepper)
	_, _ = io.WriteString(mac, "granary api key id 1\x00"+tenant+"\x00")
	_, _ = mac.Write(chosen)
	return mac.Sum(nil)[:tagBytes]
}

// Issued reports whether a holder of the pepper made the key's id: it exists, or
// did once. Whether the key is good, its tenant knows.
func (k Key) Issued(pepper []byte) bool {
	name, err := encoding.DecodeString(k.ID)
	return err == nil && len(name) == idBytes && hmac.Equal(name[idBytes-tagBytes:], tag(k.Tenant, name[:idBytes-tagBytes], pepper))
}

// sealed is a secret and the checksum over the whole key.
func sealed(head string, secret []byte) []byte {
	sum := crc32.NewIEEE()
	_, _ = io.WriteString(sum, head)
	_, _ = sum.Write(secret)
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, secretBytes+sumBytes), secret...), sum.Sum32())
}

// Parse reads a key. Errors are [ErrShape].
func Parse(text string) (Key, error) {
	tenant, rest, ok := strings.Cut(strings.TrimPrefix(text, Prefix), "_")
	id, rest, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || !strings.HasPrefix(text, Prefix) || len(id) != idLength || len(rest) != restLength || !tenants.MatchString(tenant) {
		return Key{}, ErrShape
	}
	data, err := encoding.DecodeString(rest)
	if err != nil || len(data) != secretBytes+sumBytes {
		return Key{}, ErrShape
	}
	if name, err := encoding.DecodeString(id); err != nil || encoding.EncodeToString(name) != id {
		return Key{}, ErrShape
	}
	head := text[:len(text)-restLength]
	// Encoded again, so that no second text is good for the same key.
	if encoding.EncodeToString(sealed(head, data[:secretBytes])) != rest {
		return Key{}, ErrShape
	}
	return Key{Tenant: tenant, ID: id, text: text}, nil
}

// MAC is what is kept of the key: 32 bytes, of no use without the servers' pepper.
func (k Key) MAC(pepper []byte) []byte {
	mac := hmac.New(sha256.New, pepper)
	_, _ = io.WriteString(mac, k.text)
	return mac.Sum(nil)
}

// Matches reports, in constant time, whether mac is the key's.
func (k Key) Matches(mac, pepper []byte) bool { return hmac.Equal(mac, k.MAC(pepper)) }

const redacted = "[redacted]"

// Reveal gives the key's text, to hand it to its owner.
func (k Key) Reveal() string { return k.text }

// Format implements fmt.Formatter: unlike a Stringer's, its word holds for every verb.
func (Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// String implements fmt.Stringer.
func (Key) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, which JSON uses.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }
