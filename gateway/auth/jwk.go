package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

const (
	maxSetBytes = 512 << 10
	maxKeys     = 64
	minRSABits  = 2048
	maxRSABits  = 8192 // beyond it one check costs a client's wish too much
)

// ErrKeySet is a set of keys that cannot be used; the text says why.
var ErrKeySet = errors.New("auth: key set")

// methods are the algorithms an issuer may be given: signatures only, so that a key
// anybody can read is never one that signs.
var methods = map[string]jwt.SigningMethod{
	"RS256": jwt.SigningMethodRS256, "RS384": jwt.SigningMethodRS384, "RS512": jwt.SigningMethodRS512,
	"PS256": jwt.SigningMethodPS256, "PS384": jwt.SigningMethodPS384, "PS512": jwt.SigningMethodPS512,
	"ES256": jwt.SigningMethodES256, "ES384": jwt.SigningMethodES384, "ES512": jwt.SigningMethodES512,
	"EdDSA": jwt.SigningMethodEdDSA,
}

// curves are those of the algorithms over them: ES256 with a key on another is none.
var curves = map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}

// publicKey is one key of a set.
type publicKey struct {
	kid, alg string // alg "": any that fits the key
	key      crypto.PublicKey
	text     string // names the key itself, to tell whether a set changed
}

// fits reports whether signatures of an algorithm may be checked with the key.
func (k publicKey) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		return curves[alg] == key.Curve
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// jwk is a key as RFC 7517 and RFC 8037 write it.
type jwk struct {
	Kty    string   `json:"kty"`
	Kid    string   `json:"kid"`
	Use    string   `json:"use"`
	KeyOps []string `json:"key_ops"`
	Alg    string   `json:"alg"`
	Crv    string   `json:"crv"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	D      string   `json:"d"`
}

// parseSet reads a JWK set. Keys that are not for checking signatures, or that this
// server does not trust to be strong, are left out, and why is told in skipped; a
// set without any good key is an error, [ErrKeySet].
func parseSet(text []byte) (keys []publicKey, skipped []error, err error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, nil, fmt.Errorf("%w: it is not JSON", ErrKeySet)
	}
	if len(set.Keys) > maxKeys {
		return nil, nil, fmt.Errorf("%w: it has %d keys, more than %d", ErrKeySet, len(set.Keys), maxKeys)
	}
	for i, raw := range set.Keys {
		var j jwk
		if err := json.Unmarshal(raw, &j); err != nil {
			skipped = append(skipped, fmt.Errorf("key %d: not a JWK", i))
			continue
		}
		k, err := j.public()
		if err != nil {
			skipped = append(skipped, fmt.Errorf("key %d (%.64q): %w", i, j.Kid, err))
			continue
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, skipped, fmt.Errorf("%w: it has no key that is good for checking tokens: %w", ErrKeySet, errors.Join(skipped...))
	}
	return keys, skipped, nil
}

func (j jwk) public() (publicKey, error) {
	switch {
	case j.D != "":
		return publicKey{}, errors.New("it is a private key: whoever reads the set can sign")
	case j.Use != "" && j.Use != "sig":
		return publicKey{}, fmt.Errorf("its use is %.16q", j.Use)
	case j.KeyOps != nil && !slices.Contains(j.KeyOps, "verify"):
		return publicKey{}, errors.New("its key_ops have no verify")
	}
	out := publicKey{kid: j.Kid, alg: j.Alg}
	if out.alg == "Ed25519" { // the fully specified name of RFC 9864
		out.alg = "EdDSA"
	}
	if out.alg != "" && methods[out.alg] == nil {
		return publicKey{}, fmt.Errorf("its algorithm is %.16q", j.Alg)
	}
	var err error
	switch j.Kty {
	case "RSA":
		out.key, err = j.rsa()
	case "EC":
		out.key, err = j.ec()
	case "OKP":
		out.key, err = j.ed25519()
	default:
		err = fmt.Errorf("its type is %.16q", j.Kty)
	}
	if err != nil {
		return publicKey{}, err
	}
	out.text = strings.Join([]string{j.Kid, j.Alg, j.Kty, j.Crv, j.X, j.Y, j.N, j.E}, "|")
	if out.alg != "" && !out.fits(out.alg) {
		return publicKey{}, fmt.Errorf("its type is not that of its algorithm %s", out.alg)
	}
	return out, nil
}

func number(text string) (*big.Int, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	return new(big.Int).SetBytes(raw), err == nil && len(raw) > 0
}

func (j jwk) rsa() (*rsa.PublicKey, error) {
	n, ok := number(j.N)
	e, ok2 := number(j.E)
	if !ok || !ok2 || n.Bit(0) == 0 {
		return nil, errors.New("it is no RSA key")
	}
	if bits := n.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, fmt.Errorf("it has %d bits, not %d to %d", bits, minRSABits, maxRSABits)
	}
	if e.BitLen() > 31 || e.Int64() < 3 || e.Bit(0) == 0 {
		return nil, errors.New("its exponent is not an odd number of 3 to 2^31")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func (j jwk) ec() (*ecdsa.PublicKey, error) {
	var curve elliptic.Curve
	for _, c := range curves {
		if c.Params().Name == j.Crv {
			curve = c
		}
	}
	if curve == nil {
		return nil, fmt.Errorf("its curve is %.16q", j.Crv)
	}
	size := (curve.Params().BitSize + 7) / 8
	x, err := base64.RawURLEncoding.DecodeString(j.X)
	y, err2 := base64.RawURLEncoding.DecodeString(j.Y)
	if err != nil || err2 != nil || len(x) != size || len(y) != size {
		return nil, errors.New("its coordinates have another size")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil, errors.New("it is no point of its curve")
	}
	return key, nil
}

func (j jwk) ed25519() (ed25519.PublicKey, error) {
	x, err := base64.RawURLEncoding.DecodeString(j.X)
	if j.Crv != "Ed25519" || err != nil || len(x) != ed25519.PublicKeySize {
		return nil, errors.New("it is no Ed25519 key")
	}
	if smallOrder(x) {
		return nil, errors.New("it is a point of small order: anybody can sign for it")
	}
	return x, nil
}

// smallPoints are the y of all points of order 1, 2, 4 and 8, also as written by who
// does not reduce them.
var smallPoints = [...]string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func smallOrder(x []byte) bool {
	y := slices.Clone(x)
	y[len(y)-1] &= 0x7f // the sign of the other coordinate
	return slices.Contains(smallPoints[:], hex.EncodeToString(y))
}
