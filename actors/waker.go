package actors

import (
	"context"
	"slices"
	"sync"
	"time"

	"granary.dev/granary/actors/journal"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

const (
	wakeScan   = time.Second      // between two looks at the due wake-ups
	wakeAgain  = 10 * time.Second // a grain that was woken is left alone this long
	wakeLimit  = 500              // grains woken in one look
	wakeAtOnce = 16               // asked at a time: one that does not answer holds up no other
	wakeFuture = 24 * time.Hour   // the first look takes rows up to this far ahead
)

// Waker makes unfinished work go on without a client's call: it looks for due
// wake-ups and sends them to their grains, which activates them. The first
// look, when the node starts, takes every row, since whoever wrote them may be
// the process that died.
type Waker struct {
	deps  *Deps
	woken map[journal.Identity]time.Time // of the rows that were there at the last look
}

// Waker makes the node's waker.
func (g *Grains) Waker() *Waker {
	return &Waker{deps: g.deps, woken: make(map[journal.Identity]time.Time)}
}

// Run scans until ctx ends.
func (w *Waker) Run(ctx context.Context) {
	w.scan(ctx, w.deps.Now().Add(wakeFuture))
	t := time.NewTicker(wakeScan)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			w.scan(ctx, w.deps.Now())
		}
	}
}

// scan wakes what is due at a time.
func (w *Waker) scan(ctx context.Context, due time.Time) {
	// Rows stay while their work does: room for those that are known, so that
	// waiting work of many never hides that of others.
	rows, err := w.deps.Store.DueWakeups(ctx, due, wakeLimit+len(w.woken))
	if err != nil {
		if ctx.Err() == nil {
			w.deps.Logger.Warn("wake-ups not read", "error", err)
		}
		return
	}
	now := w.deps.Now()
	var todo []journal.DueWakeup
	there := make(map[journal.Identity]time.Time, len(rows))
	for _, r := range rows {
		if _, twice := there[r.Identity]; twice {
			continue
		}
		at := w.woken[r.Identity]
		there[r.Identity] = at
		if now.Sub(at) >= wakeAgain {
			todo = append(todo, r)
		}
	}
	w.woken = there
	slices.SortStableFunc(todo, func(a, b journal.DueWakeup) int { return there[a.Identity].Compare(there[b.Identity]) })
	todo = todo[:min(len(todo), wakeLimit)]
	for _, r := range todo {
		there[r.Identity] = now
	}
	w.wakeAll(ctx, todo)
}

// wakeAll wakes some at a time and returns when all have answered.
func (w *Waker) wakeAll(ctx context.Context, rows []journal.DueWakeup) {
	room := make(chan struct{}, wakeAtOnce)
	var all sync.WaitGroup
	for _, r := range rows {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			if err := w.wake(ctx, r); err != nil && ctx.Err() == nil {
				w.deps.Logger.Warn("not woken yet", "grain", r.Identity.String(), "error", err)
			}
		})
	}
	all.Wait()
}

func (w *Waker) wake(ctx context.Context, r journal.DueWakeup) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	h := &nodev1.Header{Tenant: r.Identity.Tenant, Principal: system.principal}
	id := r.Identity
	if id.Kind == KindTenant {
		_, err := w.deps.Asker.Ask(ctx, id.Kind, id.Tenant, id.ID, &nodev1.TenantCall{Header: h,
			Operation: &nodev1.TenantCall_Wake{Wake: &nodev1.Wake{Keys: []string{r.Key}}}})
		return err
	}
	_, err := w.deps.Asker.Ask(ctx, id.Kind, id.Tenant, id.ID, &nodev1.KnowledgeBaseCall{Header: h,
		Operation: &nodev1.KnowledgeBaseCall_Wake{Wake: &nodev1.Wake{Keys: []string{r.Key}}}})
	return err
}
