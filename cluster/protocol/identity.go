package protocol

import (
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// Longest parts of an [Identity], in bytes.
const (
	MaxKindLength   = 32
	MaxTenantLength = 128
	MaxIDLength     = 128
)

// ErrInvalidIdentity is wrapped by every error of [Identity.Validate].
var ErrInvalidIdentity = errors.New("identity is not valid")

// Identity names one grain of the whole cluster. It is comparable. The tenant
// comes from the caller's credential only, never from a message.
type Identity struct {
	Kind   string // what the grain is, e.g. "kb"; lower-case letters, digits and '-'
	Tenant string // whose it is
	ID     string // which one of the tenant's; a grain there is one of per tenant uses the tenant's id again
}

// String gives "kind/tenant/id". Since no part may hold a '/', two valid
// identities never share a text.
func (id Identity) String() string {
	return id.Kind + "/" + id.Tenant + "/" + id.ID
}

// Validate reports whether the identity may be used as an address: Kind is
// [a-z][a-z0-9-]*, Tenant and ID hold visible ASCII without '/', and no part is
// empty or too long. Errors wrap [ErrInvalidIdentity] and never repeat the value.
func (id Identity) Validate() error {
	if !validKind(id.Kind) {
		return fmt.Errorf("%w: kind must be 1 to %d of a-z, 0-9 and '-', starting with a letter", ErrInvalidIdentity, MaxKindLength)
	}
	if !validPart(id.Tenant, MaxTenantLength) {
		return fmt.Errorf("%w: tenant must be 1 to %d visible ASCII characters without '/'", ErrInvalidIdentity, MaxTenantLength)
	}
	if !validPart(id.ID, MaxIDLength) {
		return fmt.Errorf("%w: id must be 1 to %d visible ASCII characters without '/'", ErrInvalidIdentity, MaxIDLength)
	}
	return nil
}

// ValidKind reports whether name may be the kind of an [Identity].
func ValidKind(name string) bool { return validKind(name) }

// Hash is XXH64 with seed 0 over [Identity.String]. It is part of the cluster's
// contract: the partition of an identity follows from it. It does not allocate
// for identities of up to 160 bytes.
func (id Identity) Hash() uint64 {
	var buf [160]byte
	b := append(buf[:0], id.Kind...)
	b = append(b, '/')
	b = append(b, id.Tenant...)
	b = append(b, '/')
	b = append(b, id.ID...)
	return xxhash.Sum64(b)
}

func validKind(s string) bool {
	if s == "" || len(s) > MaxKindLength || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := 1; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func validPart(s string, longest int) bool {
	if s == "" || len(s) > longest {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '/' {
			return false
		}
	}
	return true
}
