package sealed

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/journal"
)

// ring holds the keys of the tenants that are in use.
//
// A copy counts for [Config.Trust] from the moment at which the store was asked what
// has changed, or was asked for the row itself; after that it is looked at again
// before it is used. So nobody uses keys for longer that were destroyed.
type ring struct {
	store  journal.KeyStore
	master *Master
	cfg    Config
	start  time.Time
	mixed  bool // the store had content before it had keys

	looked atomic.Int64 // when the changes were last asked for; nanoseconds since start
	ticks  atomic.Int64 // of Poll since the start: a clock that costs nothing to read

	mu     sync.Mutex
	byName map[string]*list.Element
	recent list.List        // of *keys, the last used first
	ended  map[string]int64 // tenants whose keys are destroyed, and when that was first seen here
}

// endedMost bounds what is remembered of destroyed tenants; beyond it, it is learned anew.
const endedMost = 10_000

// now is on the ring's own clock, and never 0.
func (r *ring) now() int64 { return int64(time.Since(r.start)) + 1 }

// get finds what is held of a tenant and may still be trusted.
func (r *ring) get(tenant string) (k *keys, trusted bool) {
	r.mu.Lock()
	e, ok := r.byName[tenant]
	if ok {
		r.recent.MoveToFront(e)
		k = e.Value.(*keys)
		k.used = r.ticks.Load()
	}
	r.mu.Unlock()
	if !ok {
		return nil, false
	}
	if r.cfg.Lone {
		return k, true
	}
	return k, r.now()-max(k.seen.Load(), r.looked.Load()) < int64(r.cfg.Trust)
}

// keep holds keys read from the store; later ones of the same tenant win.
func (r *ring) keep(k *keys) *keys {
	r.mu.Lock()
	defer r.mu.Unlock()
	k.used = r.ticks.Load()
	if e, ok := r.byName[k.tenant]; ok {
		old := e.Value.(*keys)
		if old.version >= k.version {
			old.seen.Store(max(old.seen.Load(), k.seen.Load()))
			return old
		}
		e.Value = k
		return k
	}
	r.byName[k.tenant] = r.recent.PushFront(k)
	if r.recent.Len() > r.cfg.Cache {
		last := r.recent.Back()
		r.recent.Remove(last)
		delete(r.byName, last.Value.(*keys).tenant)
	}
	return k
}

// drop forgets keys up to a version. Of destroyed ones, those that are in use
// somewhere end too.
func (r *ring) drop(tenant string, version int64, destroyed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.ended[tenant]; destroyed && !known {
		if len(r.ended) >= endedMost {
			clear(r.ended)
		}
		r.ended[tenant] = r.now()
	}
	e, ok := r.byName[tenant]
	if !ok {
		return
	}
	k := e.Value.(*keys)
	if k.version > version {
		return
	}
	if destroyed {
		k.gone.Store(true)
	}
	r.recent.Remove(e)
	delete(r.byName, tenant)
}

// of gives the tenant's keys: errNoKeys or errDestroyed when there are none.
func (r *ring) of(ctx context.Context, tenant string) (*keys, error) {
	if k, trusted := r.get(tenant); trusted {
		return k, nil
	}
	return r.read(ctx, tenant)
}

// read reads the row, whatever is held.
func (r *ring) read(ctx context.Context, tenant string) (*keys, error) {
	asked := r.now()
	rec, err := r.store.Keys(ctx, tenant)
	switch {
	case errors.Is(err, journal.ErrNotFound):
		return nil, errNoKeys
	case err != nil:
		return nil, err
	case rec.Destroyed():
		r.drop(tenant, rec.Version, true)
		return nil, errDestroyed
	}
	r.born(tenant)
	if k, _ := r.get(tenant); k != nil && k.version == rec.Version {
		k.seen.Store(asked)
		return k, nil
	}
	k, err := r.unwrap(ctx, rec)
	if err != nil {
		return nil, err
	}
	k.seen.Store(asked)
	k.handle = nil // for rotations only, which read the row
	return r.keep(k), nil
}

func wrapPlace(tenant string, version int64) []byte { return place("keys", tenant, number(version)) }

// unwrapData opens a record. A master key that is not there makes the tenant
// unavailable, not corrupt: it may come.
func (r *ring) unwrapData(ctx context.Context, rec journal.KeyRecord) ([]byte, error) {
	data, err := r.master.unwrap(ctx, rec.Master, rec.Wrapped, wrapPlace(rec.Tenant, rec.Version))
	switch {
	case errors.Is(err, errTampered):
		return nil, fmt.Errorf("%w: keys of %s, version %d: %w", journal.ErrCorrupt, rec.Tenant, rec.Version, err)
	case err != nil:
		return nil, fmt.Errorf("%w: keys of %s: %w", journal.ErrUnavailable, rec.Tenant, err)
	}
	return data, nil
}

// unwrap makes keys of a record.
func (r *ring) unwrap(ctx context.Context, rec journal.KeyRecord) (*keys, error) {
	data, err := r.unwrapData(ctx, rec)
	if err != nil {
		return nil, err
	}
	k, err := decodeKeys(rec.Tenant, data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", journal.ErrCorrupt, err)
	}
	k.version = rec.Version
	return k, nil
}

// wrap makes the record of keys at a version.
func (r *ring) wrap(k *keys, version int64, created, rotated time.Time) (journal.KeyRecord, error) {
	rec := journal.KeyRecord{Tenant: k.tenant, Version: version, Primary: k.primary, Created: created, Rotated: rotated}
	data, err := k.encode()
	if err != nil {
		return rec, err
	}
	return r.wrapData(data, rec)
}

// wrapData puts what a record keeps into it.
func (r *ring) wrapData(data []byte, rec journal.KeyRecord) (journal.KeyRecord, error) {
	var err error
	rec.Wrapped, rec.Master, err = r.master.wrap(data, wrapPlace(rec.Tenant, rec.Version))
	return rec, err
}

// ofWriter gives the tenant's keys, and makes them for one that has none. Of several
// nodes that do so at once one succeeds, and the others take what it made.
func (r *ring) ofWriter(ctx context.Context, tenant string) (*keys, error) {
	if strings.HasPrefix(tenant, "#") {
		return nil, fmt.Errorf("sealed: %q is no tenant", tenant)
	}
	for {
		k, err := r.of(ctx, tenant)
		if err == nil || !errors.Is(err, errNoKeys) && !errors.Is(err, errDestroyed) {
			return k, err
		}
		if err = r.make(ctx, tenant); err != nil && !errors.Is(err, journal.ErrKeysChanged) {
			return nil, err
		}
	}
}

func (r *ring) make(ctx context.Context, tenant string) error {
	version, mixed := int64(1), false
	rec, err := r.store.Keys(ctx, tenant)
	switch {
	case errors.Is(err, journal.ErrNotFound):
		if r.mixed {
			if mixed, err = r.store.HasContent(ctx, tenant); err != nil {
				return err
			}
		}
	case err != nil:
		return err
	case rec.Destroyed():
		version = rec.Version + 1
		if err := r.waitOut(ctx, tenant); err != nil {
			return err
		}
	default:
		return nil
	}
	k, err := newKeys(tenant, mixed)
	if err != nil {
		return err
	}
	now := time.Now()
	if rec, err = r.wrap(k, version, now, now); err != nil {
		return err
	}
	err = r.store.PutKeys(ctx, rec)
	if errors.Is(err, journal.ErrInDoubt) { // the row tells
		return journal.ErrKeysChanged
	}
	return err
}

// born forgets that a tenant was destroyed: it has keys again.
func (r *ring) born(tenant string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.ended, tenant)
}

// waitOut waits until no node can still use the keys of a destroyed tenant: what it
// sealed for the next tenant of that name would be lost.
func (r *ring) waitOut(ctx context.Context, tenant string) error {
	if r.cfg.Lone {
		return nil
	}
	r.mu.Lock()
	since, ok := r.ended[tenant]
	if !ok {
		since = r.now()
		r.ended[tenant] = since
	}
	r.mu.Unlock()
	select {
	case <-time.After(time.Duration(since + int64(r.cfg.Trust) - r.now())):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pageOfChanges bounds one look at what has changed.
const pageOfChanges = 1000

// look asks what has changed since a mark and forgets it.
func (r *ring) look(ctx context.Context, mark int64) (int64, error) {
	for {
		asked := r.now()
		changes, last, err := r.store.KeyChanges(ctx, mark, pageOfChanges)
		if err != nil {
			return mark, err
		}
		for _, c := range changes {
			// What it has become is read when it is needed.
			r.drop(c.Tenant, c.Version-1, c.Destroyed)
		}
		if mark = last; len(changes) < pageOfChanges {
			r.looked.Store(asked)
			return mark, nil
		}
	}
}

// watch looks every Poll, unless nobody else is there, until ctx ends.
func (r *ring) watch(ctx context.Context, mark int64, report func(error)) {
	tick := time.NewTicker(r.cfg.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.sweep(r.ticks.Add(1) - int64(r.cfg.Idle/r.cfg.Poll))
		if r.cfg.Lone {
			continue
		}
		next, err := r.look(ctx, mark)
		if err != nil && ctx.Err() == nil {
			report(err)
		}
		mark = next
	}
}

// sweep forgets keys that were not used since a tick.
func (r *ring) sweep(before int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for e := r.recent.Back(); e != nil && e.Value.(*keys).used < before; e = r.recent.Back() {
		delete(r.byName, e.Value.(*keys).tenant)
		r.recent.Remove(e)
	}
}
