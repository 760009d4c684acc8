package sealed

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"

	"granary.dev/granary/actors/journal"
)

// secretKey stands for the id of the key that seals in records of secrets, which have none.
const secretKey = "secret"

// Former is where a secret lay in plain before it was sealed.
type Former interface {
	// Take gives it, nothing when it is not there, and sees to it that nobody puts
	// another one there.
	Take(ctx context.Context) ([]byte, error)
	// Wipe removes it. It does nothing if something else is there than old.
	Wipe(ctx context.Context, old []byte) error
}

// Secret gives a value that servers made for themselves, wrapped under the master key
// in a row beside those of tenants' keys and bound to its name. Where there is none, it
// is what lies at its former place, else what made makes; of several nodes that do so
// at once, all get the same. What lay in plain is removed once it is sealed.
func (s *Store) Secret(ctx context.Context, name string, former Former, made func() ([]byte, error)) (Secret, error) {
	if name == "" {
		return nil, errors.New("sealed: a secret without a name")
	}
	old, err := former.Take(ctx)
	if err != nil {
		return nil, err
	}
	value, err := s.findSecret(ctx, name)
	for errors.Is(err, journal.ErrNotFound) {
		if err = s.putSecret(ctx, name, old, made); err != nil {
			return nil, err
		}
		value, err = s.findSecret(ctx, name)
	}
	if err != nil || len(old) == 0 {
		return value, err
	}
	if subtle.ConstantTimeCompare(value, old) != 1 {
		s.log.Warn("a secret lies where it is not read any more: the one in use is sealed, and another", "secret", name)
		return value, nil
	}
	if err := former.Wipe(ctx, old); err != nil {
		return nil, err
	}
	s.log.Info("a secret that lay in plain is sealed", "secret", name)
	return value, nil
}

func (s *Store) findSecret(ctx context.Context, name string) (Secret, error) {
	rec, err := s.Keys(ctx, journal.SecretKeys+name)
	if err != nil {
		return nil, err
	}
	value, err := s.ring.unwrapData(ctx, rec)
	if err != nil {
		return nil, s.failed(failKeys, rec.Tenant, "secret", err)
	}
	return value, nil
}

// putSecret seals what is there or a new one. When another node was faster, or may
// have been, that is no error: the row tells.
func (s *Store) putSecret(ctx context.Context, name string, value []byte, made func() ([]byte, error)) (err error) {
	if len(value) == 0 {
		if value, err = made(); err != nil {
			return fmt.Errorf("sealed: make secret %s: %w", name, err)
		}
	}
	now := time.Now()
	rec, err := s.ring.wrapData(value, journal.KeyRecord{Tenant: journal.SecretKeys + name, Version: 1, Primary: secretKey, Created: now, Rotated: now})
	if err != nil {
		return s.failed(failKeys, rec.Tenant, "secret", err)
	}
	err = s.PutKeys(ctx, rec)
	if err == nil || errors.Is(err, journal.ErrKeysChanged) || errors.Is(err, journal.ErrInDoubt) {
		return nil
	}
	return s.failed(failKeys, rec.Tenant, "secret", err)
}

// ofNobody tells records that are no tenant's and not the store's own keys.
func ofNobody(r journal.KeyRecord) bool {
	return r.Tenant == journal.MasterKeys || strings.HasPrefix(r.Tenant, journal.SecretKeys)
}
