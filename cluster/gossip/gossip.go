package gossip

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// leaveTimeout bounds Leave when its context has no deadline.
	leaveTimeout = 5 * time.Second
	// notWaiting makes memberlist's update return once it is queued.
	notWaiting = time.Nanosecond
)

// ErrStopped says that Stop came first.
var ErrStopped = errors.New("gossip: stopped")

// Gossip is this node's part in the gossip of a cluster. Safe for concurrent use.
type Gossip struct {
	cfg       completed
	transport *transport
	members   *members
	announcer *announcer
	lib       *memberlist.Memberlist
	library   goroutines
	log       *libraryLog
	cancel    context.CancelFunc
	wg        sync.WaitGroup

	updates sync.Mutex // one update of memberlist at a time: two would race in it
	life    sync.Mutex // Leave and Stop
	left    bool
	stopped bool
	stopErr error
}

// Start listens and begins to gossip; ctx bounds the start only. That no seed
// answers is no error: they are tried again and again. Errors about the
// configuration wrap [ErrConfig]; Stop what it returns.
func Start(ctx context.Context, cfg Config) (*Gossip, error) {
	c, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	g := &Gossip{cfg: c, members: newMembers(c.ID, c.Logger), log: &libraryLog{log: c.Logger, now: time.Now}}
	first := announcement{Meta: c.Meta, started: time.Now().Truncate(time.Microsecond)}
	if g.announcer, err = newAnnouncer(first, c.Announce); err != nil {
		return nil, err
	}
	g.announcer.update = func() { _ = g.update(notWaiting) } // its only error says that it did not wait
	if err := g.open(ctx); err != nil {
		return nil, err
	}
	g.library = goroutines{label: rand.Text()}
	g.library.do(ctx, func() {
		g.lib, err = memberlist.Create(c.memberlist(g.transport, g.members, g.announcer, g.log))
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("gossip: %w", err), g.transport.Shutdown())
	}
	if c.keyring == nil && !g.transport.advertise.Addr().IsLoopback() {
		c.Logger.Warn("gossip: no key: whoever reaches the port can pass for a node", "addr", g.Addr())
	}
	g.run()
	return g, nil
}

// open makes the transport.
func (g *Gossip) open(ctx context.Context) error {
	tcp, udp, err := listen(ctx, g.cfg.Bind)
	if err != nil {
		return err
	}
	bound, err := netip.ParseAddrPort(tcp.Addr().String())
	if err == nil {
		bound, err = advertised(ctx, g.cfg.Advertise, netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port()))
	}
	if err != nil {
		return errors.Join(err, tcp.Close(), udp.Close())
	}
	g.transport = &transport{advertise: bound, reach: g.cfg.Reach, unreachable: g.members.unreachable}
	g.transport.start(tcp, udp)
	return nil
}

func (g *Gossip) run() {
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	s := &seeds{list: g.cfg.seeds, self: g.transport.advertise, members: g.members, log: g.cfg.Logger,
		aliases: map[netip.AddrPort]time.Time{}, failing: map[netip.AddrPort]bool{},
		join: func(addr string) error { _, err := g.lib.Join([]string{addr}); return err }}
	g.wg.Go(func() { s.run(ctx, g.cfg.Retry) })
	g.wg.Go(func() { g.announcer.run(ctx) })
	g.wg.Go(func() {
		for {
			select {
			case <-g.members.noted:
				g.members.flush(ctx)
			case <-ctx.Done():
				g.members.flush(ctx)
				return
			}
		}
	})
}

// Addr is where others reach this node's gossip, host:port.
func (g *Gossip) Addr() string { return g.transport.advertise.String() }

// Members gives all members, this node and those that were lost lately
// included, sorted by id. It is a copy.
func (g *Gossip) Members() []Member { return g.members.list() }

// Changed gets a value when Members may have changed since the last one. One
// reader.
func (g *Gossip) Changed() <-chan struct{} { return g.members.changed }

// SetMeta says what others shall know. It returns at once and may be called
// often: what changes the picture is told within Config.Announce, a small move of
// the load within seconds. Metadata too long for [MaxMeta] leave the former ones,
// with a warning; Draining, Healthy, Load and View alone never make them longer.
func (g *Gossip) SetMeta(m Meta) {
	m.Roles = slices.Clone(m.Roles)
	if err := g.announcer.set(func(a *announcement) { a.Meta = m }); err != nil {
		g.cfg.Logger.Warn("gossip: metadata not announced", "err", err)
	}
}

// update makes memberlist announce the metadata, and waits at most timeout
// until they are on their way to others.
func (g *Gossip) update(timeout time.Duration) error {
	g.updates.Lock()
	defer g.updates.Unlock()
	return g.lib.UpdateNode(timeout)
}

// Leave tells the others that this node's end is on purpose, and waits until
// that is on its way or ctx ends. Call Stop afterwards. Idempotent; after Stop
// it is [ErrStopped].
func (g *Gossip) Leave(ctx context.Context) error {
	g.life.Lock()
	defer g.life.Unlock()
	if g.stopped {
		return ErrStopped
	}
	if g.left {
		return nil
	}
	end := time.Now().Add(leaveTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	// First in the metadata: from memberlist's own word others cannot tell a
	// leave from a death. It gets half of the time.
	if err := g.announcer.set(func(a *announcement) { a.leaving = true }); err != nil {
		return err
	}
	err := g.update(max(time.Until(end)/2, notWaiting))
	if err = errors.Join(err, g.lib.Leave(max(time.Until(end), notWaiting))); err != nil {
		return fmt.Errorf("gossip: leave: %w", err)
	}
	g.left = true
	return nil
}

// Stop ends the gossip without a word: others will find this node dead unless
// Leave was called. Ports are free and no goroutine is left when it returns,
// else it says so. Idempotent.
func (g *Gossip) Stop() error {
	g.life.Lock()
	defer g.life.Unlock()
	if g.stopped {
		return g.stopErr
	}
	g.stopped = true
	g.log.quiet()
	g.cancel()
	// The transport first: the joiner may be waiting for it.
	err := g.transport.Shutdown()
	g.wg.Wait()
	g.stopErr = errors.Join(err, g.lib.Shutdown(), g.library.wait(g.stragglers()))
	return g.stopErr
}

// stragglers is how long memberlist may go on after its Shutdown: a probe that
// is not answered ends only when its time is up.
func (g *Gossip) stragglers() time.Duration { return (backOff+1)*g.cfg.Probe + time.Second }
