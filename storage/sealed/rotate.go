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
	rec, err := s.rewrite(ctx, tenant, func(rec journal.KeyRecord, data []byte) (journal.KeyRecord, []byte, error) {
		k, err := decodeKeys(tenant, data)
		if err != nil {
			return rec, nil, fmt.Errorf("%w: %w", journal.ErrCorrupt, err)
		}
		next, err := k.rotated()
		if err != nil {
			return rec, nil, err
		}
		rec.Primary, rec.Rotated = next.primary, time.Now()
		data, err = next.encode()
		return rec, data, err
	})
	if err != nil {
		return KeyInfo{}, err
	}
	s.log.Info("key of a tenant rotated", "tenant", tenant, "version", rec.Version, "key", rec.Primary)
	return info(rec), nil
}

// rewrite changes what a record keeps as change says, which may be asked again; nothing
// leaves it as it is.
func (s *Store) rewrite(ctx context.Context, tenant string,
	change func(journal.KeyRecord, []byte) (journal.KeyRecord, []byte, error)) (journal.KeyRecord, error) {
	for {
		rec, err := s.Keys(ctx, tenant)
		switch {
		case errors.Is(err, journal.ErrNotFound), err == nil && rec.Destroyed():
			return rec, fmt.Errorf("%w: %s", ErrUnknownTenant, tenant)
		case err != nil:
			return rec, s.failed(failKeys, tenant, "keys", err)
		}
		data, err := s.ring.unwrapData(ctx, rec)
		if err != nil {
			return rec, s.failed(failKeys, tenant, "keys", err)
		}
		to, data, err := change(rec, data)
		if err == nil && data == nil {
			return rec, nil
		}
		if err == nil {
			to.Version++
			to, err = s.ring.wrapData(data, to)
		}
		if err == nil {
			err = s.PutKeys(ctx, to)
		}
		if errors.Is(err, journal.ErrKeysChanged) {
			continue
		}
		if err != nil {
			return rec, s.failed(failKeys, tenant, "keys", err)
		}
		s.ring.drop(tenant, rec.Version, false)
		return to, nil
	}
}

// pageOfKeys is how many records a rotation of the master key reads at a time.
const pageOfKeys = 200

// Rewrap is what a call of RotateMaster has done.
type Rewrap struct {
	Master   string // id of the master key that wraps now
	Wrapped  int    // tenants whose keys this call wrapped; the store counts as one
	Complete bool   // none is left
}

// RotateMaster wraps all keys and secrets under the first of the master keys, which it reads anew
// before; where a key service keeps the master key, it makes a new one first, unless an
// earlier rotation is unfinished. It stops after limit, 0 meaning never, and goes on
// when it is called again, by whichever node.
func (s *Store) RotateMaster(ctx context.Context, limit time.Duration) (Rewrap, error) {
	start := time.Now()
	if err := s.newMaster(ctx); err != nil {
		return Rewrap{}, err
	}
	out := Rewrap{Master: s.ring.master.IDs()[0], Complete: true}
	_, err := s.unlike(ctx, out.Master, func(r journal.KeyRecord) (bool, error) {
		if limit > 0 && time.Since(start) > limit {
			out.Complete = false
			return false, nil
		}
		ours := false
		_, err := s.rewrite(ctx, r.Tenant, func(rec journal.KeyRecord, data []byte) (journal.KeyRecord, []byte, error) {
			if ours = rec.Master != out.Master; !ours { // somebody else was faster
				return rec, nil, nil
			}
			return rec, data, nil
		})
		switch {
		case errors.Is(err, ErrUnknownTenant): // destroyed meanwhile
			err = nil
		case err == nil && ours && !ofNobody(r):
			out.Wrapped++
		}
		return true, err
	})
	if err != nil {
		out.Complete = false
	}
	if out.Wrapped > 0 {
		s.log.Info("keys wrapped under the first master key", "master", out.Master, "wrapped", out.Wrapped, "complete", out.Complete)
	}
	return out, err
}

// newMaster reads the master keys and makes a new one where that is ours to do.
func (s *Store) newMaster(ctx context.Context) error {
	m := s.ring.master
	if err := m.Reload(ctx); err != nil {
		return s.failed(failKeys, "", "master key", err)
	}
	if m.add == nil {
		return nil
	}
	unfinished, err := s.unlike(ctx, m.IDs()[0], func(journal.KeyRecord) (bool, error) { return false, nil })
	if err != nil || unfinished > 0 {
		return err
	}
	if err := m.add(ctx); err != nil {
		return s.failed(failKeys, "", "master key", err)
	}
	return nil
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
