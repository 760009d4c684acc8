package sealed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"granary.dev/granary/actors/journal"
)

// ErrUnknownTenant says that the tenant has no keys.
var ErrUnknownTenant = errors.New("sealed: the tenant has no keys")

// Rotate gives a tenant a new key that seals from now on. What was sealed with
// earlier ones stays readable. Other nodes seal with it within [Config.Poll], and
// know it when they meet it. Errors: ErrUnknownTenant.
func (s *Store) Rotate(ctx context.Context, tenant string) (KeyInfo, error) {
	rec, err := s.rewrite(ctx, tenant, func(rec journal.KeyRecord, k *keys) (*keys, time.Time, error) {
		next, err := k.rotated()
		return next, time.Now(), err
	})
	if err != nil {
		return KeyInfo{}, err
	}
	s.log.Info("key of a tenant rotated", "tenant", tenant, "version", rec.Version, "key", rec.Primary)
	return info(rec), nil
}

// rewrite changes a record as change says, which may be asked again.
func (s *Store) rewrite(ctx context.Context, tenant string,
	change func(journal.KeyRecord, *keys) (*keys, time.Time, error)) (journal.KeyRecord, error) {
	for {
		rec, err := s.Keys(ctx, tenant)
		switch {
		case errors.Is(err, journal.ErrNotFound), err == nil && rec.Destroyed():
			return rec, fmt.Errorf("%w: %s", ErrUnknownTenant, tenant)
		case err != nil:
			return rec, err
		}
		k, err := s.ring.unwrap(ctx, rec)
		if err != nil {
			return rec, s.failed(failKeys, tenant, "keys", err)
		}
		next, rotated, err := change(rec, k)
		if err != nil || next == nil {
			return rec, err
		}
		to, err := s.ring.wrap(next, rec.Version+1, rec.Created, rotated)
		if err != nil {
			return rec, s.failed(failKeys, tenant, "keys", err)
		}
		err = s.PutKeys(ctx, to)
		if errors.Is(err, journal.ErrKeysChanged) {
			continue
		}
		if err != nil {
			return rec, err
		}
		s.ring.drop(tenant, rec.Version, false)
		return to, nil
	}
}

// pageOfKeys is how many records a rotation of the master key reads at a time.
const pageOfKeys = 200

// RotateMaster wraps all keys under the first of the master keys, which it reads anew
// before; where a key service keeps the master key, it makes a new one first, unless an
// earlier rotation is unfinished. It may be ended at any time and begun again, by any
// node. It returns how many it wrapped and under which key.
func (s *Store) RotateMaster(ctx context.Context) (wrapped int, master string, err error) {
	if err := s.ring.master.Reload(ctx); err != nil {
		return 0, "", err
	}
	if s.ring.master.add != nil {
		left, err := s.unlike(ctx, s.ring.master.IDs()[0], func(journal.KeyRecord) (bool, error) { return false, nil })
		if err != nil {
			return 0, "", err
		}
		if left == 0 {
			if err := s.ring.master.add(ctx); err != nil {
				return 0, "", err
			}
		}
	}
	master = s.ring.master.IDs()[0]
	done := 0
	_, err = s.unlike(ctx, master, func(r journal.KeyRecord) (bool, error) {
		ours := false
		_, err := s.rewrite(ctx, r.Tenant, func(rec journal.KeyRecord, k *keys) (*keys, time.Time, error) {
			if ours = rec.Master != master; !ours { // somebody else was faster
				return nil, rec.Rotated, nil
			}
			return k, rec.Rotated, nil
		})
		switch {
		case errors.Is(err, ErrUnknownTenant): // destroyed meanwhile
			err = nil
		case err == nil && ours:
			done++
		}
		return true, err
	})
	s.log.Info("keys wrapped under the first master key", "wrapped", done, "master", master, "complete", err == nil)
	return done, master, err
}

// unlike calls do for every record that another master key wraps, until it says to
// stop. It returns how many there were up to then.
func (s *Store) unlike(ctx context.Context, master string, do func(journal.KeyRecord) (more bool, err error)) (n int, err error) {
	for after := ""; ; {
		page, err := s.ListKeys(ctx, after, pageOfKeys)
		if err != nil || len(page) == 0 {
			return n, err
		}
		for _, r := range page {
			if r.Destroyed() || r.Master == master || r.Tenant == journal.MasterKeys {
				continue
			}
			n++
			if more, err := do(r); err != nil || !more {
				return n, err
			}
		}
		after = page[len(page)-1].Tenant
	}
}
