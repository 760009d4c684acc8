package sealed

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"granary.dev/granary/actors/journal"
)

func grainPlace(what string, id journal.Identity, more ...string) []byte {
	return place(what, append([]string{id.Tenant, id.Kind, id.ID}, more...)...)
}

func eventPlace(id journal.Identity, e *journal.Event) []byte {
	return grainPlace("event", id, number(e.Seq), e.Type)
}

// Append implements journal.Store.
func (s *Store) Append(ctx context.Context, f journal.Fence, b journal.Batch) error {
	if len(b.Events)+len(b.Idempotency)+len(b.SetDeadLetters) > 0 && f.Identity.Tenant != "" {
		k, err := s.keysOf(ctx, f.Identity.Tenant)
		if err != nil {
			return err
		}
		if b, err = s.sealBatch(k, f.Identity, b); err != nil {
			return err
		}
	}
	return s.Inner.Append(ctx, f, b)
}

// sealBatch seals copies: the caller's stay as they are.
func (s *Store) sealBatch(k *keys, id journal.Identity, b journal.Batch) (journal.Batch, error) {
	var err error
	b.Events = slices.Clone(b.Events)
	for i := range b.Events {
		e := &b.Events[i]
		e.Hash = s.sealLink(id, e.Seq, e.Hash)
		if e.Data, err = s.seal(k, e.Data, true, eventPlace(id, e)); err != nil {
			return b, err
		}
	}
	b.Idempotency = slices.Clone(b.Idempotency)
	for i := range b.Idempotency {
		r := &b.Idempotency[i]
		r.Key = k.hash("request key", r.Principal, r.Method, r.Key)
		plain := append(appendText(nil, r.RequestHash), r.Response...)
		if r.Response, err = s.sealAs(k, plain, true, keyPlace(id, r.IdempotencyKey), flagRow); err != nil {
			return b, err
		}
		r.RequestHash = ""
	}
	b.SetDeadLetters = slices.Clone(b.SetDeadLetters)
	for i := range b.SetDeadLetters {
		d := &b.SetDeadLetters[i]
		name, err := s.seal(k, []byte(d.Name), false, grainPlace("dead letter", id, d.Key))
		if err != nil {
			return b, err
		}
		d.Name = sealedText + base64.RawStdEncoding.EncodeToString(name)
	}
	return b, nil
}

// sealedText begins sealed values in columns of text.
const sealedText = "sealed:1:"

// Events implements journal.Store.
func (s *Store) Events(ctx context.Context, id journal.Identity, after int64, limit int) ([]journal.Event, error) {
	list, err := s.Inner.Events(ctx, id, after, limit)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if err := s.UnsealEvent(ctx, id, &list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// UnsealEvent opens an event that was read from the tables as it is stored.
func (s *Store) UnsealEvent(ctx context.Context, id journal.Identity, e *journal.Event) (err error) {
	if e.Data, err = s.unseal(ctx, id.Tenant, e.Data, eventPlace(id, e)); err != nil {
		return fmt.Errorf("event %d of %s: %w", e.Seq, id, err)
	}
	e.Hash = s.openLink(id, e.Seq, e.Hash)
	return nil
}

func keyPlace(id journal.Identity, key journal.IdempotencyKey) []byte {
	return grainPlace("response", id, key.Principal, key.Method, key.Key)
}

// FindIdempotency implements journal.Store.
func (s *Store) FindIdempotency(ctx context.Context, f journal.Fence, key journal.IdempotencyKey,
) (journal.Idempotency, bool, error) {
	tenant := f.Identity.Tenant
	if tenant == "" {
		return s.Inner.FindIdempotency(ctx, f, key)
	}
	k, err := s.ring.of(ctx, tenant)
	switch {
	case errors.Is(err, errNoKeys), errors.Is(err, errDestroyed): // nothing can have been recorded under keys
		return s.findKey(ctx, f, key, key)
	case err != nil:
		return journal.Idempotency{}, false, s.failed(failKeys, tenant, "keys", err)
	}
	hashed := key
	hashed.Key = k.hash("request key", key.Principal, key.Method, key.Key)
	rec, ok, err := s.findKey(ctx, f, hashed, key)
	if err == nil && !ok && k.mixed {
		return s.findKey(ctx, f, key, key)
	}
	return rec, ok, err
}

// findKey looks up what is stored under one key as the record of another.
func (s *Store) findKey(ctx context.Context, f journal.Fence, stored, asked journal.IdempotencyKey,
) (journal.Idempotency, bool, error) {
	rec, ok, err := s.Inner.FindIdempotency(ctx, f, stored)
	if err != nil || !ok {
		return rec, ok, err
	}
	rec.IdempotencyKey = asked
	bound := asked // before this, to what the client called it
	if len(rec.Response) > 1 && rec.Response[1]&flagRow != 0 {
		bound = stored
	}
	if stored == asked { // of before there were keys
		_, err = s.unseal(ctx, f.Identity.Tenant, rec.Response, keyPlace(f.Identity, asked))
		return rec, err == nil, err
	}
	plain, err := s.unseal(ctx, f.Identity.Tenant, rec.Response, keyPlace(f.Identity, bound))
	if err != nil {
		return journal.Idempotency{}, false, fmt.Errorf("recorded response of %s: %w", f.Identity, err)
	}
	hash, response, ok := cutText(plain)
	if !ok {
		return journal.Idempotency{}, false, s.unreadable(f.Identity.Tenant, "response", errForm)
	}
	rec.RequestHash, rec.Response = string(hash), response
	return rec, true, nil
}

func snapshotPlace(id journal.Identity, seq int64) []byte {
	return grainPlace("snapshot", id, number(seq))
}

// SaveSnapshot implements journal.Store.
func (s *Store) SaveSnapshot(ctx context.Context, f journal.Fence, snap journal.Snapshot) error {
	if f.Identity.Tenant == "" {
		return s.Inner.SaveSnapshot(ctx, f, snap)
	}
	k := s.own
	if !snap.Blank {
		var err error
		if k, err = s.keysOf(ctx, f.Identity.Tenant); err != nil {
			return err
		}
	}
	var err error
	if snap.State, err = s.seal(k, snap.State, true, snapshotPlace(f.Identity, snap.Seq)); err != nil {
		return err
	}
	snap.Hash = s.sealLink(f.Identity, snap.Seq, snap.Hash)
	return s.Inner.SaveSnapshot(ctx, f, snap)
}

// LoadSnapshot implements journal.Store.
func (s *Store) LoadSnapshot(ctx context.Context, id journal.Identity) (journal.Snapshot, error) {
	snap, err := s.Inner.LoadSnapshot(ctx, id)
	if err != nil {
		return snap, err
	}
	if snap.State, err = s.unseal(ctx, id.Tenant, snap.State, snapshotPlace(id, snap.Seq)); err != nil {
		return journal.Snapshot{}, fmt.Errorf("state of %s at %d: %w", id, snap.Seq, err)
	}
	snap.Hash = s.openLink(id, snap.Seq, snap.Hash)
	return snap, nil
}

// unreadableName stands for the name of a dead letter that does not open: the list
// goes on without it.
const unreadableName = "(unreadable)"

// DeadLetters implements journal.Store.
func (s *Store) DeadLetters(ctx context.Context, after journal.DeadLetterRow, limit int) ([]journal.DeadLetterRow, error) {
	list, err := s.Inner.DeadLetters(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	for i := range list {
		d := &list[i]
		stored := []byte(d.Name)
		if text, ok := strings.CutPrefix(d.Name, sealedText); ok {
			if stored, err = base64.RawStdEncoding.DecodeString(text); err != nil {
				stored = nil
			}
		}
		name, err := s.unseal(ctx, d.Identity.Tenant, stored, grainPlace("dead letter", d.Identity, d.Key))
		switch {
		case err == nil:
			d.Name = string(name)
		case errors.Is(err, journal.ErrCorrupt):
			d.Name = unreadableName
		default:
			return nil, err
		}
	}
	return list, nil
}
