package trail

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// ErrKey is every text that is no key of the audit.
var ErrKey = errors.New("trail: not an Ed25519 key in PEM")

// Signer signs checkpoints. It prints as [redacted].
type Signer struct {
	key    ed25519.PrivateKey
	public PublicKeys
}

const redacted = "[redacted]"

// Format implements fmt.Formatter.
func (*Signer) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue implements slog.LogValuer.
func (*Signer) LogValue() slog.Value { return slog.StringValue(redacted) }

// PublicKeys are keys that checkpoints may be signed with, by their ids.
type PublicKeys map[string]ed25519.PublicKey

func keyID(k ed25519.PublicKey) string {
	sum := sha256.Sum256(k)
	return hex.EncodeToString(sum[:8])
}

// NewKeyPEM makes a signing key.
func NewKeyPEM() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseSigner reads a signing key (PEM, PKCS #8). Public keys in the same text are of
// earlier signing keys: what they signed is still verified.
func ParseSigner(text []byte) (*Signer, error) {
	s := &Signer{public: PublicKeys{}}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			key, ok := k.(ed25519.PrivateKey)
			if err != nil || !ok || s.key != nil {
				return nil, fmt.Errorf("%w: one private key is needed", ErrKey)
			}
			s.key = key
		case "PUBLIC KEY":
			if err := s.public.add(block.Bytes); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("%w: a block %q", ErrKey, block.Type)
		}
	}
	public, ok := s.key.Public().(ed25519.PublicKey)
	if len(s.key) == 0 || !ok {
		return nil, fmt.Errorf("%w: there is no private key", ErrKey)
	}
	s.public[keyID(public)] = public
	return s, nil
}

// ParsePublicKeys reads one or more public keys (PEM).
func ParsePublicKeys(text []byte) (PublicKeys, error) {
	out := PublicKeys{}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("%w: a block %q", ErrKey, block.Type)
		}
		if err := out.add(block.Bytes); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: there is no public key", ErrKey)
	}
	return out, nil
}

func (p PublicKeys) add(der []byte) error {
	k, err := x509.ParsePKIXPublicKey(der)
	key, ok := k.(ed25519.PublicKey)
	if err != nil || !ok {
		return fmt.Errorf("%w: a public key", ErrKey)
	}
	p[keyID(key)] = key
	return nil
}

// PEM gives the keys as text; the order is that of their ids.
func (p PublicKeys) PEM() ([]byte, error) {
	var out []byte
	for _, id := range sortedKeys(p) {
		der, err := x509.MarshalPKIXPublicKey(p[id])
		if err != nil {
			return nil, err
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	return out, nil
}

// Public gives the keys whose signatures are good: the signer's own and earlier ones.
func (s *Signer) Public() PublicKeys { return s.public }

func (s *Signer) id() string { return keyID(s.key.Public().(ed25519.PublicKey)) }

func (s *Signer) sign(b []byte) []byte { return ed25519.Sign(s.key, signed(b)) }
