package trail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"granary.dev/granary/actors/journal"
)

// How records come to their end. A signed checkpoint first says up to where each stream
// is retired and with which hash it goes on, and from which checkpoint on checkpoints
// are kept. An hour later, when exports that did not know of it are over, the rows go, in
// bounded steps. Each step may be done twice, by several nodes too: what is removed is
// only what a signed checkpoint says.
//
// Nothing is retired that does not follow from what is retired before it up to what the
// last checkpoint has: a trail that was changed stays as it is.

const (
	retireGrace = time.Hour
	retireRows  = 2000 // of one removal
	retirePages = 40   // of records of one stream, and of checkpoints, that are looked at for one checkpoint
)

// retirement is what a checkpoint is to say of what is retired.
type retirement struct {
	to   heads // per stream, how far, and the hash there
	ends map[string]bool
	base int64
}

// carry tells a stream's head from where it goes on.
func (r retirement) carry(h *Head, was, over Head) {
	if !strings.HasPrefix(h.Chain, accessesPrefix) {
		return
	}
	h.Erased, h.Anchor = was.Erased, was.Anchor
	if over.Seq > h.Erased { // it had ended, and goes on
		h.Erased, h.Anchor = over.Seq, over.Hash
	}
	if to, there := r.to[h.Chain]; there && to.Seq > h.Erased {
		h.Erased, h.Anchor = to.Seq, to.Hash
	}
}

// Retire retires what is older than a moment. more tells that there is more to do at
// once. It does not retire what does not verify: journal.ErrChain.
func (m *Maker) Retire(ctx context.Context, tenant string, before time.Time) (more bool, err error) {
	last, s, err := m.folded(ctx, tenant)
	if err != nil || last.Number == 0 {
		return false, err
	}
	settled, err := m.settled(ctx, tenant, s.fullAt, last.Number)
	if err != nil {
		return false, err
	}
	if err := m.remove(ctx, tenant, settled); err != nil {
		return false, err
	}
	r, more, err := m.due(ctx, tenant, s, before)
	if err != nil || len(r.to)+len(r.ends) == 0 && r.base <= s.base {
		return false, err
	}
	c, changed, err := m.next(ctx, tenant, last, s, r)
	if err != nil || !changed {
		return false, err
	}
	err = m.Store.PutCheckpoint(ctx, c)
	if errors.Is(err, journal.ErrCheckpoint) { // another was faster: the next round goes on
		return false, nil
	}
	return more, err
}

// settled is what checkpoints say that every export under way knows of.
func (m *Maker) settled(ctx context.Context, tenant string, from, to int64) (state, error) {
	s, until := state{heads: heads{}, ended: heads{}}, m.now().Add(-retireGrace)
	for after := from - 1; after < to; {
		page, err := m.Store.Checkpoints(ctx, tenant, after, pageLength)
		if err != nil || len(page) == 0 {
			return s, err
		}
		for _, c := range page {
			b, err := parseBody(c)
			if err != nil || b.Time.After(until) {
				return s, err
			}
			s.take(b)
			after = c.Number
		}
	}
	return s, nil
}

// remove removes rows.
func (m *Maker) remove(ctx context.Context, tenant string, s state) error {
	for _, chain := range sortedKeys(s.heads) {
		if h := s.heads[chain]; h.Erased > 0 && strings.HasPrefix(chain, accessesPrefix) {
			if err := m.removeRecords(ctx, tenant, strings.TrimPrefix(chain, accessesPrefix), h.Erased); err != nil {
				return err
			}
		}
	}
	for _, chain := range sortedKeys(s.ended) {
		stream, h := strings.TrimPrefix(chain, accessesPrefix), s.ended[chain]
		if err := m.removeRecords(ctx, tenant, stream, h.Seq); err != nil {
			return err
		}
		if err := m.Store.DropStream(ctx, tenant, stream, h.Seq); err != nil {
			return err
		}
	}
	if s.base == 0 {
		return nil
	}
	return repeat(ctx, func() (bool, error) { return m.Store.RetireCheckpoints(ctx, tenant, s.base, retireRows) })
}

func (m *Maker) removeRecords(ctx context.Context, tenant, stream string, upTo int64) error {
	first, err := m.Store.StreamAccesses(ctx, tenant, stream, 0, 1)
	if err != nil || len(first) == 0 || first[0].Seq > upTo {
		return err
	}
	return repeat(ctx, func() (bool, error) { return m.Store.RetireAccesses(ctx, tenant, stream, upTo, retireRows) })
}

func repeat(ctx context.Context, step func() (left bool, err error)) error {
	for {
		left, err := step()
		if err != nil || !left {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// due looks what is older than before. more: it did not look to the end.
func (m *Maker) due(ctx context.Context, tenant string, s state, before time.Time) (r retirement, more bool, err error) {
	r = retirement{to: heads{}, ends: map[string]bool{}, base: s.base}
	err = eachStream(ctx, m.Store, tenant, func(stored journal.StreamHead) error {
		h, there := s.heads[streamChain(stored.Stream)]
		if !there {
			return nil
		}
		to, left, err := m.dueOf(ctx, tenant, stored.Stream, h, before)
		if err != nil {
			return err
		}
		more = more || left
		if to.Seq > h.Erased {
			r.to[h.Chain] = to
		}
		if to.Seq == h.Seq && stored.Seq == h.Seq {
			r.ends[h.Chain] = true
		}
		return nil
	})
	if err != nil {
		return r, false, err
	}
	base, left, err := m.dueCheckpoints(ctx, tenant, s.base, before)
	r.base = max(base, r.base)
	return r, more || left, err
}

// dueOf follows a stream from what is retired to the first record that is not old, and
// no further than a checkpoint has it.
func (m *Maker) dueOf(ctx context.Context, tenant, stream string, h Head, before time.Time) (to Head, left bool, err error) {
	chain := journal.Chain{Seq: h.Erased, Hash: h.Anchor}
	end := func() Head { return Head{Chain: h.Chain, Seq: chain.Seq, Hash: chain.Hash} }
	for range retirePages {
		page, err := m.Store.StreamAccesses(ctx, tenant, stream, chain.Seq, pageLength)
		if err != nil {
			return to, false, err
		}
		for _, a := range page {
			if !a.Time.Before(before) || a.Seq > h.Seq {
				return end(), false, nil
			}
			if err := chain.FollowAccess(a); err != nil {
				return to, false, err
			}
			if a.Seq == h.Seq && !bytes.Equal(a.Hash, h.Hash) {
				return to, false, fmt.Errorf("%w: %s of tenant %s is not what the last checkpoint has of it", journal.ErrChain, h.Chain, tenant)
			}
		}
		if len(page) < pageLength {
			return end(), false, nil
		}
	}
	return end(), true, nil
}

// dueCheckpoints gives the last full checkpoint that is old, if all up to it are there.
func (m *Maker) dueCheckpoints(ctx context.Context, tenant string, base int64, before time.Time) (full int64, left bool, err error) {
	after, prev := max(base-1, 0), []byte(nil)
	for range retirePages {
		page, err := m.Store.Checkpoints(ctx, tenant, after, pageLength)
		if err != nil {
			return 0, false, err
		}
		for _, c := range page {
			b, err := parseBody(c)
			switch {
			case err != nil:
				return 0, false, err
			case c.Number != after+1, prev != nil && !bytes.Equal(b.Prev, prev):
				return 0, false, fmt.Errorf("%w: checkpoint %d of tenant %s is missing, or another", journal.ErrChain, after+1, tenant)
			case !b.Time.Before(before):
				return full, false, nil
			}
			full, after, prev = b.FullAt, c.Number, hashOf(c)
		}
		if len(page) < pageLength {
			return full, false, nil
		}
	}
	return full, true, nil
}
