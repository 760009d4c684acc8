package sealed

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/internal/codec"
)

// Inner is the store below. What a node's store must do besides, and what holds
// nothing to be sealed, is named here too, and passes through.
type Inner interface {
	journal.Store
	journal.BlobStore
	journal.ChunkStore
	journal.KeyStore
	journal.SealedStore
	journal.ResealStore
	journal.CounterStore
	journal.ReceiptStore
	journal.AuditStore
	journal.Directory
	Close() error
}

// Config says how keys are kept.
type Config struct {
	Master *Master
	Logger *slog.Logger // nil discards
	// Lone: no other process uses the store, so that nothing changes behind our back.
	Lone bool
	// Poll is how often other nodes' changes of keys are asked for. Default 1s.
	Poll time.Duration
	// Trust is how long keys are used after the store was last asked about them.
	// Default 4s.
	Trust time.Duration
	// Cache is of how many tenants keys are held at most. Default 16384.
	Cache int
	// Idle is how long keys nobody asks for are held. Default 5m.
	Idle time.Duration
	// Settle is how long after a rotation something may still come to be stored under the
	// key of before: uploads that take half of it at most. Default 10m.
	Settle time.Duration
}

// Store encrypts what Inner keeps. Safe for concurrent use.
type Store struct {
	Inner
	ring  *ring
	own   *keys // the store's own
	codec *codec.Codec
	failures
	stop func()
	once sync.Once
	err  error
}

var (
	_ journal.Store      = (*Store)(nil)
	_ journal.BlobStore  = (*Store)(nil)
	_ journal.ChunkStore = (*Store)(nil)
)

// Open proves that the master key is the store's, or makes the store's own keys if it
// has none yet, and looks after the keys until Close. It changes nothing when the
// master key is the wrong one: ErrMasterKey. Close closes inner too; an error of Open
// leaves it open.
func Open(ctx context.Context, inner Inner, cfg Config) (*Store, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	defaults(&cfg.Poll, time.Second)
	defaults(&cfg.Trust, 4*time.Second)
	defaults(&cfg.Cache, 16384)
	defaults(&cfg.Idle, 5*time.Minute)
	defaults(&cfg.Settle, 10*time.Minute)
	s := &Store{Inner: inner, failures: failures{log: cfg.Logger},
		ring: &ring{store: inner, master: cfg.Master, cfg: cfg, start: time.Now(), byName: make(map[string]*list.Element), ended: make(map[string]int64)}}
	var err error
	if s.own, err = s.ring.own(ctx); err != nil {
		return nil, err
	}
	s.ring.mixed = s.own.mixed
	if s.codec, err = codec.New(); err != nil {
		return nil, err
	}
	var mark int64
	if !cfg.Lone {
		if _, mark, err = inner.KeyChanges(ctx, -1, 0); err != nil {
			s.codec.Close()
			return nil, err
		}
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var watcher sync.WaitGroup
	watcher.Go(func() {
		s.ring.watch(watching, mark, func(err error) { s.count(failKeys, "", "changes of keys", err) })
	})
	s.stop = func() {
		cancel()
		watcher.Wait()
		s.codec.Close()
	}
	return s, nil
}

func defaults[T int | time.Duration](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

// Close ends the watch and closes the store below. Idempotent.
func (s *Store) Close() error {
	s.once.Do(func() {
		s.stop()
		s.err = s.Inner.Close()
	})
	return s.err
}

// own reads the store's own keys, which prove the master key, or makes them.
func (r *ring) own(ctx context.Context) (*keys, error) {
	for {
		rec, err := r.store.Keys(ctx, journal.StoreKeys)
		if err == nil {
			k, err := r.unwrapOwn(ctx, rec)
			return k, err
		}
		if !errors.Is(err, journal.ErrNotFound) {
			return nil, err
		}
		mixed, err := r.store.HasContent(ctx, "")
		if err != nil {
			return nil, err
		}
		k, err := newKeys(journal.StoreKeys, mixed)
		if err != nil {
			return nil, err
		}
		now := time.Now()
		if rec, err = r.wrap(k, 1, now, now); err != nil {
			return nil, err
		}
		if err := r.store.PutKeys(ctx, rec); err != nil && !errors.Is(err, journal.ErrKeysChanged) {
			return nil, err
		}
	}
}

// unwrapOwn says plainly what is wrong with a master key that is not the store's.
func (r *ring) unwrapOwn(ctx context.Context, rec journal.KeyRecord) (*keys, error) {
	data, err := r.master.unwrap(ctx, rec.Master, rec.Wrapped, wrapPlace(rec.Tenant, rec.Version))
	switch {
	case errors.Is(err, ErrMasterKey):
		return nil, fmt.Errorf("the store was encrypted under another master key than the one given: %w", err)
	case errors.Is(err, errTampered):
		return nil, fmt.Errorf("%w: the store's own keys do not open under master key %s: %w", journal.ErrCorrupt, rec.Master, err)
	case err != nil:
		return nil, err
	}
	k, err := decodeKeys(rec.Tenant, data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", journal.ErrCorrupt, err)
	}
	k.version = rec.Version
	return k, nil
}

// Exists tells whether a store has keys already, and so needs the master key they
// were made under.
func Exists(ctx context.Context, store journal.KeyStore) (bool, error) {
	_, err := store.Keys(ctx, journal.StoreKeys)
	if errors.Is(err, journal.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// seal encrypts one value of a tenant, packed where that pays.
func (s *Store) seal(k *keys, plain []byte, pack bool, at []byte) ([]byte, error) {
	return s.sealAs(k, plain, pack, at, 0)
}

// sealAs is seal with flags of one's own.
func (s *Store) sealAs(k *keys, plain []byte, pack bool, at []byte, flags byte) ([]byte, error) {
	if k == s.own {
		flags |= flagStore
	}
	if pack {
		if z, packed := s.codec.Pack(plain); packed {
			plain, flags = z, flags|flagPacked
		}
	}
	out, err := k.seal(plain, at, flags)
	if err != nil {
		return nil, s.failed(failSeal, k.tenant, whatOf(at), err)
	}
	return out, nil
}

// keysOf gives the keys that seal what a tenant writes.
func (s *Store) keysOf(ctx context.Context, tenant string) (*keys, error) {
	k, err := s.ring.ofWriter(ctx, tenant)
	if err != nil {
		return nil, s.failed(failKeys, tenant, "keys", err)
	}
	return k, nil
}

// unseal gives the value that was stored at a place. What is not sealed is given as it
// is where that may be.
func (s *Store) unseal(ctx context.Context, tenant string, b, at []byte) ([]byte, error) {
	k, err := s.opener(ctx, tenant, b)
	var plain []byte
	if err == nil {
		if k == nil {
			return b, nil
		}
		plain, err = k.open(b, at)
	}
	if errors.Is(err, errUnknownKey) && k != s.own { // rotated elsewhere?
		if k, err = s.ring.read(ctx, tenant); err == nil {
			plain, err = k.open(b, at)
		}
	}
	if err != nil {
		return nil, s.unreadable(tenant, whatOf(at), err)
	}
	if b[1]&flagPacked != 0 {
		if plain, err = s.codec.Inflate(plain); err != nil {
			return nil, s.unreadable(tenant, whatOf(at), err)
		}
	}
	return plain, nil
}

// opener gives the keys for a value, nil for one that is rightly not sealed.
func (s *Store) opener(ctx context.Context, tenant string, b []byte) (*keys, error) {
	if len(b) > headLen && codec.Sealed(b) && b[1]&flagStore != 0 {
		return s.own, nil
	}
	k, err := s.ring.of(ctx, tenant)
	switch {
	case codec.Sealed(b):
		return k, err
	case errors.Is(err, errNoKeys) && s.ring.mixed:
		return nil, nil
	case err != nil && !errors.Is(err, errNoKeys):
		return nil, err
	case err == nil && k.mixed:
		return nil, nil
	}
	return nil, errUnsealed
}

// whatOf reads the first part of a place, for messages.
func whatOf(at []byte) string {
	what, _, _ := cutText(at[1:])
	return string(what)
}

// Destroy makes everything of a tenant unreadable, on every node and in every copy of
// the store, by destroying its keys. It returns when no node can use them any more. A
// tenant that writes again gets new keys. Unknown tenants are no error.
//
// What the tenant needs to go on erasing itself must be in a snapshot marked Blank at
// the head of its journal before.
func (s *Store) Destroy(ctx context.Context, tenant string) error {
	if strings.HasPrefix(tenant, "#") || tenant == "" {
		return fmt.Errorf("sealed: %q is no tenant", tenant)
	}
	if err := s.DestroyKeys(ctx, tenant); err != nil {
		return s.failed(failKeys, tenant, "keys", err)
	}
	switch _, err := s.ring.read(ctx, tenant); {
	case errors.Is(err, errNoKeys):
		return nil
	case errors.Is(err, errDestroyed):
	case err == nil:
		return nil // it has new ones already
	default:
		return err
	}
	s.log.Info("keys of a tenant destroyed", "tenant", tenant)
	return s.ring.waitOut(ctx, tenant)
}

// KeyInfo tells of a tenant's keys what anybody may know.
type KeyInfo struct {
	Tenant    string // journal.StoreKeys for the store's own
	Version   int64
	Master    string // id of the master key
	Primary   string // id of the key that seals
	Created   time.Time
	Rotated   time.Time
	Destroyed bool
}

func info(r journal.KeyRecord) KeyInfo {
	return KeyInfo{Tenant: r.Tenant, Version: r.Version, Master: r.Master, Primary: r.Primary, Created: r.Created, Rotated: r.Rotated,
		Destroyed: r.Destroyed()}
}

// List lists up to limit tenants' keys after one, by name.
func (s *Store) List(ctx context.Context, after string, limit int) ([]KeyInfo, error) {
	for {
		list, err := s.ListKeys(ctx, after, limit)
		if err != nil || len(list) == 0 {
			return nil, err
		}
		after = list[len(list)-1].Tenant
		list = slices.DeleteFunc(list, ofNobody)
		if len(list) == 0 {
			continue
		}
		out := make([]KeyInfo, len(list))
		for i, r := range list {
			out[i] = info(r)
		}
		return out, nil
	}
}
