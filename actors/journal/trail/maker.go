package trail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"granary.dev/granary/actors/journal"
)

// Store is what is read of a tenant's audit, and where checkpoints go.
type Store interface {
	journal.AuditStore
	journal.Directory
	Events(ctx context.Context, id journal.Identity, after int64, limit int) ([]journal.Event, error)
	LoadSnapshot(ctx context.Context, id journal.Identity) (journal.Snapshot, error)
	Owner(ctx context.Context, id journal.Identity) (journal.Owner, error)
}

const pageLength = 500

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Maker makes checkpoints. Safe for concurrent use, on any number of nodes: the store
// takes one of each number.
type Maker struct {
	Store  Store
	Signer *Signer
	Now    func() time.Time // nil is time.Now
}

// Make makes the next checkpoint of a tenant if anything changed since the last, and
// gives the last there is then; ok is false when there is none. It does not sign what
// contradicts the last one: journal.ErrChain.
func (m *Maker) Make(ctx context.Context, tenant string) (c journal.Checkpoint, ok bool, err error) {
	for range 5 {
		var last journal.Checkpoint
		last, before, err := m.folded(ctx, tenant)
		if err != nil {
			return c, false, err
		}
		next, changed, err := m.next(ctx, tenant, last, before, retirement{})
		if err != nil || !changed {
			return last, last.Number > 0, err
		}
		if err = m.Store.PutCheckpoint(ctx, next); err == nil {
			return next, true, nil
		}
		if !errors.Is(err, journal.ErrCheckpoint) {
			return c, false, err
		}
	}
	return c, false, fmt.Errorf("%w: tenant %s", journal.ErrCheckpoint, tenant)
}

// state is what all checkpoints up to the last say together.
type state struct {
	heads  heads
	fullAt int64
	time   time.Time
	base   int64
	ended  heads  // streams of which everything is retired, that are remembered yet
	recent []Head // of those, the ones since the last full checkpoint
}

// take adds what the next checkpoint says.
func (s *state) take(b body) {
	for _, h := range b.Ended {
		delete(s.heads, h.Chain)
		s.ended[h.Chain] = h
	}
	for _, h := range b.Heads {
		s.heads[h.Chain] = h
		delete(s.ended, h.Chain)
	}
	if s.base = b.Base; b.Number == b.FullAt {
		s.recent = nil
	} else {
		s.recent = append(s.recent, b.Ended...)
	}
}

// folded reads the last checkpoint and what it stands for.
func (m *Maker) folded(ctx context.Context, tenant string) (last journal.Checkpoint, s state, err error) {
	s.heads, s.ended = heads{}, heads{}
	head, err := m.Store.CheckpointHead(ctx, tenant)
	if err != nil || head.Seq == 0 {
		return last, s, err
	}
	page, err := m.Store.Checkpoints(ctx, tenant, head.Seq-1, 1)
	if err != nil {
		return last, s, err
	}
	if len(page) == 0 || page[0].Number != head.Seq || !bytes.Equal(hashOf(page[0]), head.Hash) {
		return last, s, fmt.Errorf("%w: checkpoint %d of tenant %s is not the one that was made", journal.ErrChain, head.Seq, tenant)
	}
	last = page[0]
	b, err := parseBody(last)
	if err != nil {
		return last, s, err
	}
	s.fullAt, s.time = b.FullAt, b.Time
	for after := b.FullAt - 1; after < last.Number; {
		if page, err = m.Store.Checkpoints(ctx, tenant, after, pageLength); err != nil {
			return last, s, err
		}
		if len(page) == 0 || page[0].Number != after+1 {
			return last, s, fmt.Errorf("%w: checkpoint %d of tenant %s is missing", journal.ErrChain, after+1, tenant)
		}
		for _, c := range page {
			if b, err = parseBody(c); err != nil {
				return last, s, err
			}
			s.take(b)
			if after = c.Number; after == last.Number {
				break
			}
		}
	}
	if !bytes.Equal(s.heads.root(), b.Root) {
		return last, s, fmt.Errorf("%w: the checkpoints of tenant %s do not add up", journal.ErrChain, tenant)
	}
	return last, s, nil
}

// next makes the checkpoint after last; changed is false when there is nothing new.
func (m *Maker) next(ctx context.Context, tenant string, last journal.Checkpoint, before state, r retirement) (c journal.Checkpoint, changed bool, err error) {
	now, err := m.current(ctx, tenant)
	if err != nil {
		return c, false, err
	}
	all := maps.Clone(before.heads) // a chain that is gone stays: its absence is to be noticed
	var news, ended []Head
	for _, chain := range sortedKeys(now) {
		h, was := now[chain], before.heads[chain]
		if over, there := before.ended[chain]; there && h.Seq <= over.Seq {
			continue // it goes soon
		}
		r.carry(&h, was, before.ended[chain])
		if sameHead(h, was) && !r.ends[chain] {
			continue
		}
		if err := m.continues(ctx, tenant, was, h); err != nil {
			return c, false, err
		}
		if r.ends[chain] && h.Seq == h.Erased {
			delete(all, chain)
			ended = append(ended, h)
			continue
		}
		all[chain] = h
		news = append(news, h)
	}
	if len(news)+len(ended) == 0 && r.base <= before.base {
		return c, false, nil
	}
	b := body{Tenant: tenant, Number: last.Number + 1, Time: m.now().Truncate(time.Microsecond), FullAt: before.fullAt,
		Heads: news, Chains: len(all), Root: all.root(), Ended: ended, Base: max(r.base, before.base)}
	if last.Number > 0 {
		b.Prev = hashOf(last)
	}
	if b.Time.Before(before.time) {
		b.Time = before.time // clocks of nodes differ
	}
	if last.Number == 0 || b.Number-b.FullAt >= fullEvery {
		b.FullAt, b.Heads, b.Ended = b.Number, nil, append(slices.DeleteFunc(before.recent, func(h Head) bool {
			_, again := all[h.Chain]
			return again
		}), ended...)
		for _, chain := range sortedKeys(all) {
			b.Heads = append(b.Heads, all[chain])
		}
	}
	c = journal.Checkpoint{Tenant: tenant, Number: b.Number, KeyID: m.Signer.id()}
	if c.Body, err = json.Marshal(b); err != nil {
		return c, false, err
	}
	c.Signature = m.Signer.sign(c.Body)
	c.Hash = hashOf(c)
	return c, true, nil
}

func (m *Maker) now() time.Time {
	if m.Now == nil {
		return time.Now().UTC()
	}
	return m.Now().UTC()
}

// current reads the heads of all chains.
func (m *Maker) current(ctx context.Context, tenant string) (heads, error) {
	out := heads{}
	err := eachOwner(ctx, m.Store, tenant, func(o journal.Owner) error {
		if o.Head > 0 {
			out[journalChain(o.Identity)] = Head{Chain: journalChain(o.Identity), Seq: o.Head, Hash: o.Hash, Erased: o.Erased}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = eachStream(ctx, m.Store, tenant, func(s journal.StreamHead) error {
		out[streamChain(s.Stream)] = Head{Chain: streamChain(s.Stream), Seq: s.Seq, Hash: s.Hash}
		return nil
	})
	return out, err
}

// continues checks that a chain still has the link the last checkpoint has of it.
func (m *Maker) continues(ctx context.Context, tenant string, was, now Head) error {
	if was.Seq == 0 {
		return nil
	}
	broken := fmt.Errorf("%w: %s of tenant %s does not go on from what the last checkpoint has of it", journal.ErrChain, was.Chain, tenant)
	if now.Seq < was.Seq || now.Erased < was.Erased {
		return broken
	}
	if now.Erased >= was.Seq {
		return nil
	}
	hash, err := m.hashAt(ctx, tenant, was)
	if err != nil || bytes.Equal(hash, was.Hash) {
		return err
	}
	if strings.HasPrefix(was.Chain, journalPrefix) { // unless it was erased just now
		if o, err := m.Store.Owner(ctx, identityOf(tenant, was.Chain)); err != nil || o.Erased >= was.Seq {
			return err
		}
	}
	return broken
}

// identityOf is the grain whose journal a chain is.
func identityOf(scope, chain string) journal.Identity {
	tenant, _ := journal.ParseAuditScope(scope)
	kind, id, _ := strings.Cut(strings.TrimPrefix(chain, journalPrefix), "/")
	return journal.Identity{Kind: kind, Tenant: tenant, ID: id}
}

func (m *Maker) hashAt(ctx context.Context, tenant string, h Head) ([]byte, error) {
	if stream, ok := strings.CutPrefix(h.Chain, accessesPrefix); ok {
		page, err := m.Store.StreamAccesses(ctx, tenant, stream, h.Seq-1, 1)
		if err != nil || len(page) == 0 || page[0].Seq != h.Seq {
			return nil, err
		}
		return page[0].Hash, nil
	}
	page, err := m.Store.Events(ctx, identityOf(tenant, h.Chain), h.Seq-1, 1)
	if err != nil || len(page) == 0 || page[0].Seq != h.Seq {
		return nil, err
	}
	return page[0].Hash, nil
}

// eachOwner goes through the grains of a tenant. The tenant "" has none. To the first
// tenant of a name belong the journals of all that follow, since they are one chain with
// its own; to a later one what is beyond its predecessors'.
func eachOwner(ctx context.Context, s journal.Directory, scope string, do func(journal.Owner) error) error {
	if scope == "" {
		return nil
	}
	tenant, since := journal.ParseAuditScope(scope)
	for q := (journal.OwnerQuery{Tenant: tenant, Limit: pageLength}); ; {
		page, err := s.Owners(ctx, q)
		if err != nil {
			return err
		}
		for _, o := range page {
			if !since.IsZero() && o.Head <= o.Former {
				continue
			}
			if err := do(o); err != nil {
				return err
			}
		}
		if len(page) < pageLength {
			return nil
		}
		q.After = page[len(page)-1].Identity
	}
}

func eachStream(ctx context.Context, s journal.AuditStore, tenant string, do func(journal.StreamHead) error) error {
	for after := ""; ; {
		page, err := s.Streams(ctx, tenant, after, pageLength)
		if err != nil {
			return err
		}
		for _, h := range page {
			if err := do(h); err != nil {
				return err
			}
		}
		if len(page) < pageLength {
			return nil
		}
		after = page[len(page)-1].Stream
	}
}

// Last gives the last checkpoint of a tenant; ok is false when there is none.
func Last(ctx context.Context, s journal.AuditStore, tenant string) (c journal.Checkpoint, ok bool, err error) {
	head, err := s.CheckpointHead(ctx, tenant)
	if err != nil || head.Seq == 0 {
		return c, false, err
	}
	page, err := s.Checkpoints(ctx, tenant, head.Seq-1, 1)
	switch {
	case err != nil:
		return c, false, err
	case len(page) == 0:
		return c, false, fmt.Errorf("%w: checkpoint %d of tenant %s is missing", journal.ErrChain, head.Seq, tenant)
	}
	return page[0], true, nil
}

// HashOf is the hash by which the next checkpoint names c.
func HashOf(c journal.Checkpoint) []byte { return hashOf(c) }
