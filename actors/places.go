package actors

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// places are what this node has of the tenants' limits of concurrent processing: every
// run holds one while it works. The tenant grants them durably, to a node as a whole, and
// the node divides them among its knowledge bases: who has the fewest runs goes first,
// then who has waited longest.
//
// A grant lasts for a while from when it was last asked for and answered. A node that
// cannot renew it stops the runs before the tenant may give their places to others.
type places struct {
	deps    *Deps
	boot    string // this process, where lives of nodes have no names
	mu      sync.Mutex
	seq     int64
	tenants map[placeKey]*tenantPlaces
}

// placeKey is a tenant, and the life of this node its knowledge bases were acquired in.
type placeKey struct{ tenant, holder string }

type tenantPlaces struct {
	granted, share int64 // share: what other nodes leave to this one
	until          time.Time
	running        map[*place]struct{}
	waiting        []*placeWaiter // by time of arrival
	offers         map[string]time.Time
	full           bool // the tenant's limit is used up, as far as was told
	asking         bool
	idle           bool // nothing runs or waits since the last look
	timer          *time.Timer
}

// placeWaiter is a knowledge base that could use places.
type placeWaiter struct {
	kb   string
	want int
	wake func()
}

// place is the right of one run to work.
type place struct {
	of   *places
	key  placeKey
	kb   string
	lost func() // it is gone: the run must end
	held bool
}

const (
	placeTTL    = 15 * time.Second // a grant without word of the node ends
	placeMargin = time.Second      // the node gives it up so much earlier
	placeRenew  = placeTTL / 3
	placeAgain  = 500 * time.Millisecond // between two questions while somebody waits
	placeLinger = time.Second            // places nobody uses are kept this long at least
	placeOffer  = time.Second            // a knowledge base that does not take its turn loses it
)

func newPlaces(d *Deps) *places {
	return &places{deps: d, boot: uuid.NewString(), tenants: make(map[placeKey]*tenantPlaces)}
}

// key names a tenant and the life of this node that has its knowledge base.
func (p *places) key(tenant, node string) placeKey {
	if p.deps.lone {
		return placeKey{tenant, p.deps.Node + "#" + p.boot}
	}
	return placeKey{tenant, node}
}

// take gives a place, or nil and calls wake when there may be one. want is how many the
// knowledge base could use. It never blocks.
func (p *places) take(key placeKey, kb string, want int, wake, lost func()) *place {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tenants[key]
	if t == nil {
		t = &tenantPlaces{running: make(map[*place]struct{}), offers: make(map[string]time.Time)}
		p.tenants[key] = t
	}
	now := time.Now()
	_, offered := t.offers[kb]
	if offered || t.free(now) > 0 && t.first(kb) {
		delete(t.offers, kb)
		if t.room(now) > 0 {
			pl := &place{of: p, key: key, kb: kb, lost: lost, held: true}
			t.running[pl] = struct{}{}
			return pl
		}
	}
	t.enqueue(kb, want, wake)
	t.offer(now)
	p.look(key, t)
	return nil
}

// full tells whether a tenant's documents wait for others of the tenant.
func (p *places) full(key placeKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tenants[key]
	return t != nil && t.full
}

// pass says that a knowledge base does not want a place any more.
func (p *places) pass(key placeKey, kb string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tenants[key]; t != nil {
		t.waiting = slices.DeleteFunc(t.waiting, func(w *placeWaiter) bool { return w.kb == kb })
		if _, offered := t.offers[kb]; offered {
			delete(t.offers, kb)
			t.offer(time.Now())
		}
	}
}

func (t *tenantPlaces) enqueue(kb string, want int, wake func()) {
	for _, w := range t.waiting {
		if w.kb == kb {
			w.want, w.wake = want, wake
			return
		}
	}
	t.waiting = append(t.waiting, &placeWaiter{kb, want, wake})
}

// room is how many runs may begin.
func (t *tenantPlaces) room(now time.Time) int64 {
	if !now.Before(t.until) {
		return 0
	}
	return min(t.granted, t.share) - int64(len(t.running))
}

// free is room that nobody was offered.
func (t *tenantPlaces) free(now time.Time) int64 {
	for kb, end := range t.offers {
		if !now.Before(end) {
			delete(t.offers, kb)
		}
	}
	return t.room(now) - int64(len(t.offers))
}

func (t *tenantPlaces) runs(kb string) int {
	n := 0
	for pl := range t.running {
		if pl.kb == kb {
			n++
		}
	}
	return n
}

// first reports whether nobody who waits comes before a knowledge base.
func (t *tenantPlaces) first(kb string) bool {
	w := t.next()
	return w == nil || w.kb == kb || t.runs(kb) < t.runs(w.kb)
}

// next is whose turn it is among those who wait.
func (t *tenantPlaces) next() *placeWaiter {
	var best *placeWaiter
	for _, w := range t.waiting {
		if _, offered := t.offers[w.kb]; !offered && (best == nil || t.runs(w.kb) < t.runs(best.kb)) {
			best = w
		}
	}
	return best
}

// offer tells those whose turn it is that there are places.
func (t *tenantPlaces) offer(now time.Time) {
	for t.free(now) > 0 {
		w := t.next()
		if w == nil {
			return
		}
		t.waiting = slices.DeleteFunc(t.waiting, func(o *placeWaiter) bool { return o == w })
		t.offers[w.kb] = now.Add(placeOffer)
		w.wake()
	}
}

// wanted is what the tenant's knowledge bases here could use.
func (t *tenantPlaces) wanted() int64 {
	n := int64(len(t.running) + len(t.offers))
	for _, w := range t.waiting {
		n += int64(max(w.want, 1))
	}
	return n
}

// release gives a place back. It may be called twice.
func (pl *place) release() {
	p := pl.of
	p.mu.Lock()
	defer p.mu.Unlock()
	if !pl.held {
		return
	}
	pl.held = false
	t := p.tenants[pl.key]
	if t == nil {
		return
	}
	delete(t.running, pl)
	now := time.Now()
	t.offer(now)
	p.look(pl.key, t)
}

// enter waits until the run has its place: at its first start it has, and after a crash
// it waits like everybody.
func (pl *place) enter(ctx context.Context) error {
	for {
		pl.of.mu.Lock()
		held := pl.held
		pl.of.mu.Unlock()
		if held {
			return ctx.Err()
		}
		woken := make(chan struct{}, 1)
		got := pl.of.take(pl.key, pl.kb, 1, func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		}, pl.lost)
		if got != nil {
			pl.adopt(got)
			continue
		}
		t := time.NewTimer(placeAgain) // the knowledge base itself may have taken this one's turn
		select {
		case <-woken:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// adopt takes over what another place holds.
func (pl *place) adopt(got *place) {
	p := pl.of
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tenants[pl.key]; t != nil && got.held {
		delete(t.running, got)
		t.running[pl] = struct{}{}
		pl.held, got.held = true, false
	}
}

// look decides whether the tenant is to be asked, and when to look again.
func (p *places) look(key placeKey, t *tenantPlaces) {
	switch {
	case t.asking:
	case t.wanted() > t.granted && !t.full, time.Until(t.until) < placeTTL-placeRenew && t.wanted() > 0:
		p.ask(key, t)
	default:
		p.later(key, t)
	}
}

// later looks again after a while.
func (p *places) later(key placeKey, t *tenantPlaces) {
	wait := placeRenew
	if len(t.waiting) > 0 || len(t.offers) > 0 {
		wait = placeAgain
	} else if len(t.running) == 0 || int64(len(t.running)) < t.granted {
		wait = placeLinger
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	t.timer = time.AfterFunc(wait, func() { p.tick(key, t) })
}

// tick renews, asks for more, gives back what nobody uses, and ends what has lapsed.
func (p *places) tick(key placeKey, t *tenantPlaces) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.tenants[key] != t || t.asking {
		return
	}
	if t.granted > 0 && !now.Before(t.until) {
		p.lapse(t)
	}
	t.offer(now)
	spare := t.granted > t.wanted() || t.granted > t.share
	switch {
	case t.wanted() == 0 && t.granted == 0:
		delete(p.tenants, key)
	case len(t.waiting) > 0, spare && t.idle, now.Sub(t.until.Add(-placeTTL)) >= placeRenew:
		p.ask(key, t)
	default:
		t.idle = spare
		p.later(key, t)
	}
}

// lapse ends all runs: the tenant may give their places to others from now on.
func (p *places) lapse(t *tenantPlaces) {
	t.granted, t.share = 0, 0
	p.deps.Logger.Warn("places of processing have lapsed", "runs", len(t.running))
	for pl := range t.running {
		go pl.lost()
	}
}

// ask tells the tenant what is held and wanted.
func (p *places) ask(key placeKey, t *tenantPlaces) {
	t.asking, t.idle = true, false
	p.seq++
	t.granted = min(t.granted, max(int64(len(t.running)+len(t.offers)), min(t.share, t.wanted())))
	q := &nodev1.LeasePlaces{Holder: key.holder, Version: p.seq, Held: t.granted, Used: int64(len(t.running)), Want: t.wanted()}
	sent := time.Now()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), placeRenew)
		defer cancel()
		r, err := p.deps.Asker.Ask(ctx, KindTenant, key.tenant, key.tenant, &nodev1.TenantCall{
			Header:    &nodev1.Header{Tenant: key.tenant, Principal: system.principal, Internal: true},
			Operation: &nodev1.TenantCall_LeasePlaces{LeasePlaces: q}})
		reply, _ := r.(*nodev1.TenantReply)
		p.answered(key, t, q, sent, reply.GetPlaceLease(), err)
	}()
}

func (p *places) answered(key placeKey, t *tenantPlaces, q *nodev1.LeasePlaces, sent time.Time, a *nodev1.PlaceLease, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.asking = false
	now := time.Now()
	if err == nil && a != nil && a.GetVersion() == q.GetVersion() {
		t.granted, t.share, t.until = a.GetGranted(), a.GetShare(), sent.Add(a.GetTtl().AsDuration()-placeMargin)
		t.full = a.GetGranted() < q.GetWant()
	} else if err != nil {
		p.deps.Logger.Debug("places of processing not had", "tenant", key.tenant, "error", err)
	}
	switch {
	case t.granted > 0 && !now.Before(t.until):
		p.lapse(t)
	case err == nil && a != nil && int64(len(t.running)) > t.granted:
		p.lapse(t) // the grant they run by had ended
	}
	t.offer(now)
	if t.granted == 0 && t.wanted() == 0 {
		delete(p.tenants, key)
		return
	}
	p.later(key, t)
}
