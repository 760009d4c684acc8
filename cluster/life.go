package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/cluster/protocol"
)

// tickEvery is the resolution of the membership's timers.
const tickEvery = 25 * time.Millisecond

// life is one life of the node as a member, from its first lease to the day it
// leaves or is given up. All of it belongs to the goroutine that runs it, except
// post.
type life struct {
	s       *sharing
	id      protocol.NodeID
	m       protocol.Node
	gossip  *gossiping
	tenures *protocol.Tenures

	inputs chan protocol.Input
	wishes chan relocation
	ctx    context.Context // ends with this life
	end    context.CancelFunc

	over     bool
	why      error
	parting  bool
	reported protocol.Pending
	waits    []relocation
	logged   time.Time // when a refused join was last told
}

// relocation is somebody who waits for a tenant to be placed.
type relocation struct {
	protocol.Relocate
	done chan error // one place
}

// errPosted says that a life was over before it took what was posted.
var errPosted = errors.New("cluster: the node is not a member now")

// live runs one life and tells why it ended: nil after an orderly leave.
func (s *sharing) live() error {
	l, err := s.born()
	if err != nil {
		s.ready(err)
		return err
	}
	s.life.Store(l)
	defer s.buried(l)
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	drain := s.drain
	l.step(protocol.Tick{})
	for !l.over {
		select {
		case <-t.C:
			l.step(protocol.Tick{})
		case in := <-l.inputs:
			l.step(in)
		case r := <-l.wishes:
			l.waits = append(l.waits, r)
			l.step(r.Relocate)
		case <-s.poke:
			l.step(protocol.Newer{Version: s.newer.Load()})
		case <-l.gossip.changed():
			l.hints()
		case <-drain:
			drain = nil
			l.step(protocol.StartDrain{})
		case <-s.ctx.Done():
			l.over, l.why = true, s.ctx.Err()
		}
		l.report()
	}
	return l.why
}

func (s *sharing) newID() protocol.NodeID {
	return protocol.NodeID{Name: s.node.cfg.Name, Boot: uuid.NewString()[:13]}
}

// born makes a life that owns nothing yet.
func (s *sharing) born() (*life, error) {
	id := s.newID()
	m, err := protocol.NewNode(protocol.NodeConfig{Self: id, Addr: s.addr, Zone: s.cfg.Zone, Fingerprint: s.fingerprint,
		Timing: s.cfg.Timing}, bootClock())
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	l := &life{s: s, id: id, m: m, inputs: make(chan protocol.Input, 64), wishes: make(chan relocation)}
	l.ctx, l.end = context.WithCancel(s.ctx)
	l.gossip = s.startGossip(id)
	s.log.Info("the node asks to become a member", slog.String("id", id.String()))
	return l, nil
}

// buried ends what a life leaves: its grains can neither commit nor answer any
// more, unless it left in order and has none.
func (s *sharing) buried(l *life) {
	s.life.Store(nil)
	s.lease.Store(&protocol.Lease{})
	now := s.node.standing.Load()
	if !now.lone {
		s.publish(&standing{view: now.view, place: now.place, self: l.id, id: l.id.String()})
	}
	s.node.stopGrains()
	l.end()
	for _, w := range l.waits {
		w.done <- errPosted
	}
	s.stopGossip(l.gossip)
}

// post hands an input to the life from any goroutine.
func (l *life) post(in protocol.Input) bool {
	select {
	case l.inputs <- in:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// step feeds the state machine and carries out what it wants.
func (l *life) step(in protocol.Input) {
	if l.over {
		return
	}
	next, out := l.m.Step(bootClock(), in)
	l.m = next
	lease := next.Lease()
	if *l.s.lease.Load() != lease {
		l.s.lease.Store(&lease)
	}
	for _, o := range out {
		l.carryOut(o)
	}
}

func (l *life) carryOut(o protocol.Output) {
	switch o := o.(type) {
	case protocol.RenewLease:
		l.renew(o)
	case protocol.SwapView:
		l.swap(o)
	case protocol.Probe:
		l.probe(o.Peers)
	case protocol.ViewChanged:
		l.viewChanged(o.View)
	case protocol.Lapsed:
		l.s.lapses.Add(1)
		l.s.log.Warn("the lease lapsed: reads are checked in the store until it holds again")
	case protocol.Leaving:
		l.parting = true
		l.place(l.s.node.standing.Load().place)
	case protocol.Ended:
		l.over, l.why = true, o.Why
	case protocol.JoinRefused:
		l.refused(o.Why)
	case protocol.RelocateRefused:
		l.settleRelocation(o.Relocate, o.Why)
	}
}

// renew asks the store for a lease. An answer that comes too late is ignored by
// the state machine.
func (l *life) renew(o protocol.RenewLease) {
	l.s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, l.s.cfg.Timing.CallTimeout)
		defer cancel()
		v, survey, err := l.s.cfg.Store.Renew(ctx, o.RenewRequest)
		if err != nil {
			if l.ctx.Err() == nil {
				l.s.log.Warn("the lease was not renewed", slog.Any("error", err))
			}
			l.post(protocol.RenewFailed{Call: o.Call, Final: errors.Is(err, protocol.ErrFinal)})
			return
		}
		l.post(protocol.Renewed{Call: o.Call, View: v, Survey: survey})
	})
}

func (l *life) swap(o protocol.SwapView) {
	l.s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, l.s.cfg.Timing.CallTimeout)
		defer cancel()
		v, err := l.s.cfg.Store.Swap(ctx, o.Next, l.id)
		if err != nil {
			if l.ctx.Err() == nil && !errors.Is(err, protocol.ErrConflict) {
				l.s.log.Warn("the view was not changed", slog.Any("error", err))
			}
			l.post(protocol.SwapFailed{Call: o.Call})
			return
		}
		l.tellOthers(v)
		l.post(protocol.Swapped{Call: o.Call, View: v})
	})
}

// tellOthers makes the other members look at a view that this node committed.
func (l *life) tellOthers(v protocol.View) {
	for i := range v.Members {
		m := v.Members[i]
		if m.State.Active() && m.NodeID != l.id {
			l.s.wg.Go(func() { _, _ = l.s.ping(l.ctx, m.Addr, l.id.String(), v.Version, "") })
		}
	}
}

// probe tries the way to each member and back.
func (l *life) probe(peers []protocol.NodeID) {
	view := l.m.View()
	for _, p := range peers {
		m, _ := view.Find(p)
		l.s.wg.Go(func() {
			r, err := l.s.ping(l.ctx, m.Addr, l.id.String(), view.Version, l.s.addr)
			l.post(protocol.Probed{Peer: p, Out: err == nil && r.GetNode() == p.String(), In: r.GetReached()})
		})
	}
}

// refused tells why the node may not join, once in a while.
func (l *life) refused(why error) {
	if errors.Is(why, protocol.ErrFingerprint) {
		l.s.ready(fmt.Errorf("cluster: %w", why))
	}
	if time.Since(l.logged) > 5*time.Second {
		l.logged = time.Now()
		l.s.log.Warn("the node may not join yet", slog.Any("error", why))
	}
}

// viewChanged places everything anew.
func (l *life) viewChanged(v protocol.View) {
	place, err := protocol.NewPlacement(v, l.s.tables)
	if err != nil {
		// The store holds a view that no node can compute: serve nothing by it.
		l.s.log.Error("no placement for a view", slog.Int64("view", v.Version), slog.Any("error", err))
		place = &protocol.Placement{}
	}
	l.tenures = l.tenures.Follow(v, place)
	before := l.s.node.standing.Load().view
	l.place(place)
	l.s.forgetGone(before, v)
	l.s.log.Info("view changed", slog.Int64("view", v.Version), slog.Int("round", v.Round), slog.String("members", describe(v)))
	for _, w := range l.waits {
		l.relocated(v, w)
	}
	if l.m.Phase() != protocol.Outside {
		l.s.ready(nil)
	}
	l.s.cfg.Changed()
}

// place publishes where the node stands now, and has grains handed over that are
// not its own any more. Intake and leased reads of these end with the publishing.
func (l *life) place(p *protocol.Placement) {
	l.s.publish(&standing{view: l.m.View(), place: p, tenures: l.tenures, self: l.id, id: l.id.String(),
		serving: l.m.Phase() == protocol.Inside})
	l.s.node.handOver()
	l.gossip.tell(l.m.View().Version, l.parting)
}

// report tells the state machine how many grains wait to be handed over.
func (l *life) report() {
	v := l.s.node.standing.Load()
	if l.over || v.lone || l.m.Phase() == protocol.Outside {
		return
	}
	now := protocol.Pending{View: v.view.Version, Grains: int(l.s.pending.Load()), All: l.parting}
	if now == l.reported {
		return
	}
	l.reported = now
	l.step(now)
}

func describe(v protocol.View) string {
	out := ""
	for i := range v.Members {
		if m := &v.Members[i]; m.State.Active() {
			if out != "" {
				out += " "
			}
			out += m.Name + "=" + string(m.State)
		}
	}
	return out
}
