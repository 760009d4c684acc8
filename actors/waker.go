package actors

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/journal"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

const (
	wakeScan    = time.Second      // between two looks at the due wake-ups
	wakeAgain   = 10 * time.Second // a grain that was woken is left alone this long
	wakeOverdue = 30 * time.Second // rows of other nodes that are later than this are sent to their owners
	wakeLimit   = 500              // grains woken in one look
	wakeAtOnce  = 16               // asked at a time: one that does not answer holds up no other
	wakeFuture  = 24 * time.Hour   // an eager look takes rows up to this far ahead
	wakeMost    = 1 << 17          // rows read in one look
)

// Waker makes unfinished work go on without a client's call: it looks for due
// wake-ups and sends them to their grains, which activates them. Rows of grains
// that the node's view places elsewhere are their owners' business; only when
// long overdue are they sent there, in case nobody else does.
//
// The first look takes all rows of this node, also those due later, since
// whoever wrote them may be the process that died. The look after [Waker.Kick]
// does so with the rows that were not this node's at the one before.
type Waker struct {
	deps   *Deps
	known  map[journal.Identity]known // of the rows that were there at the last look
	behind bool                       // an eager look is not done yet
	kick   chan struct{}
	eager  atomic.Bool // begin an eager look
}

// known is what the waker knows of a grain with a row.
type known struct {
	woken time.Time // when it was woken last
	own   bool      // it was this node's then, and looked after
}

func newWaker(d *Deps) *Waker {
	w := &Waker{deps: d, known: make(map[journal.Identity]known), kick: make(chan struct{}, 1)}
	w.eager.Store(true)
	return w
}

// Waker is the node's waker; run it once.
func (g *Grains) Waker() *Waker { return g.waker }

// Kick says that the node may own grains it did not own before: their work goes
// on at once. From any goroutine; it never blocks.
func (w *Waker) Kick() {
	w.eager.Store(true)
	w.soon()
}

// soon has the next look come at once.
func (w *Waker) soon() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Run scans until ctx ends.
func (w *Waker) Run(ctx context.Context) {
	t := time.NewTicker(wakeScan)
	defer t.Stop()
	for {
		w.scan(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-w.kick:
		}
	}
}

// scan wakes what is due.
func (w *Waker) scan(ctx context.Context) {
	now := w.deps.Now()
	w.behind = w.eager.Swap(false) || w.behind
	until := now
	if w.behind {
		until = now.Add(wakeFuture)
	}
	rows, err := w.read(ctx, until)
	if err != nil {
		if ctx.Err() == nil {
			w.deps.Logger.Warn("wake-ups not read", "error", err)
		}
		return
	}
	w.wakeAll(ctx, w.choose(rows, now))
}

// read gives the rows due at a time, all of them: those of other nodes, and those
// that stay because their work does, must hide none of this node's.
func (w *Waker) read(ctx context.Context, until time.Time) ([]journal.DueWakeup, error) {
	for limit := wakeLimit + len(w.known); ; limit *= 2 {
		rows, err := w.deps.Store.DueWakeups(ctx, until, limit)
		if err != nil || len(rows) < limit || limit >= wakeMost {
			return rows, err
		}
	}
}

// choose picks whom to wake, who waited longest first.
func (w *Waker) choose(rows []journal.DueWakeup, now time.Time) []journal.DueWakeup {
	var todo []journal.DueWakeup
	there := make(map[journal.Identity]known, len(rows))
	for _, r := range rows {
		if _, twice := there[r.Identity]; twice {
			continue
		}
		k := w.known[r.Identity]
		_, own := w.deps.Owner.Claim(r.Identity)
		come := w.behind && own && !k.own
		again := now.Sub(k.woken) >= wakeAgain && (own || now.Sub(r.Due) >= wakeOverdue)
		if come || again {
			todo = append(todo, r)
		}
		there[r.Identity] = known{k.woken, own && !come}
	}
	w.known = there
	slices.SortStableFunc(todo, func(a, b journal.DueWakeup) int {
		return there[a.Identity].woken.Compare(there[b.Identity].woken)
	})
	if w.behind = w.behind && len(todo) > wakeLimit; w.behind {
		w.soon()
	}
	todo = todo[:min(len(todo), wakeLimit)]
	for _, r := range todo {
		_, own := w.deps.Owner.Claim(r.Identity)
		there[r.Identity] = known{now, own}
	}
	return todo
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
	h := &nodev1.Header{Tenant: r.Identity.Tenant, Principal: system.principal, Internal: true}
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
