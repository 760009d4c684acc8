package tokens

import (
	"context"
	"time"
)

const (
	sweepEvery = 250 * time.Millisecond // a part of the tenants each time
	sweepParts = 4
	closers    = 32 // requests at a time that give tokens back at the end
)

// Run gives back tokens nobody uses and forgets idle tenants, until ctx ends.
func (h *Holder) Run(ctx context.Context) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for part := 0; ; part = (part + 1) % sweepParts {
		select {
		case <-t.C:
			h.sweep(part)
		case <-ctx.Done():
			return
		}
	}
}

func (h *Holder) sweep(part int) {
	now := h.now()
	drop := int64(idleDrop)
	if h.count.Load() > mostTenants {
		drop = int64(crowdedDrop)
	}
	for m := range h.meters {
		for i := part; i < shards; i += sweepParts {
			h.sweepShard(&h.meters[m][i], now, drop)
		}
	}
}

func (h *Holder) sweepShard(s *shard, now, drop int64) {
	var idle, gone []*bucket
	s.mu.RLock()
	for _, a := range s.accounts {
		since := now - a.seen.Load()
		switch {
		case since >= drop:
			gone = append(gone, a.rest)
		case since >= int64(idleReturn) && a.left.Load() > 0:
			idle = append(idle, a.rest)
		}
	}
	s.mu.RUnlock()
	for _, b := range idle {
		h.giveBack(b)
	}
	if len(gone) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range gone {
		if h.forget(b, now, drop) {
			delete(s.accounts, b.tenant)
			h.count.Add(-1)
		}
	}
}

// giveBack returns what nobody spends.
func (h *Holder) giveBack(b *bucket) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.flight != nil || b.Ended() || b.away {
		return
	}
	over := h.now() >= b.ends.Load()
	if b.giveBack(); !over { // those of a window that is over are of no use to anybody
		h.fly(b, 0, false)
	}
}

// forget ends a bucket that holds nothing and owes nothing, so that the next one of this
// tenant begins where the tenant believes this one ended.
func (h *Holder) forget(b *bucket, now, drop int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	owes := b.credit > b.charged
	if b.flight != nil || now-b.seen.Load() < drop || owes && now-b.seen.Load() < int64(time.Hour) {
		return false
	}
	if b.left.Load() > 0 && now < b.ends.Load() {
		if !b.away {
			b.giveBack()
			h.fly(b, 0, false)
		}
		return false
	}
	b.left.Store(0)
	b.ends.Store(ended)
	return true
}

// Close gives back what is not spent, as far as ctx allows, and waits for what is under
// way. Nobody may spend any more.
func (h *Holder) Close(ctx context.Context) {
	var list []*bucket
	for m := range h.meters {
		for i := range h.meters[m] {
			s := &h.meters[m][i]
			s.mu.RLock()
			for _, a := range s.accounts {
				if a.left.Load() > 0 || a.rest.asking() {
					list = append(list, a.rest)
				}
			}
			s.mu.RUnlock()
		}
	}
	places := make(chan struct{}, closers)
	for _, b := range list {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			h.wait(ctx)
			return
		}
		h.flying.Add(1)
		go func() {
			defer h.flying.Done()
			h.empty(b)
			<-places
		}()
	}
	h.wait(ctx)
}

// asking reports whether a request to the tenant is under way.
func (b *bucket) asking() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flight != nil
}

// empty gives back what a bucket holds, behind the request under way.
func (h *Holder) empty(b *bucket) {
	for range 2 {
		if !b.asking() {
			h.giveBack(b)
		}
		b.mu.Lock()
		f := b.flight
		b.mu.Unlock()
		if f == nil {
			return
		}
		<-f.done
	}
}

// wait waits for the requests under way; each ends by itself within [askTime].
func (h *Holder) wait(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		h.flying.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
