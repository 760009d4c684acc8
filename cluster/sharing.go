package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/cluster/transport"
)

// sharing is the part of a node that exists only when it shares its grains with
// others: the way to them, and its lives as a member. One goroutine (run) drives
// the state machine of package protocol; everything else posts to it.
type sharing struct {
	node        *Node
	cfg         *Shared
	log         *slog.Logger
	fingerprint string
	tables      *protocol.Tables // of run only
	client      *transport.Client
	server      *transport.Server
	addr        string // where others reach this node

	lease   atomic.Pointer[protocol.Lease]
	life    atomic.Pointer[life] // the present one; nil while the node only routes
	gossip  atomic.Pointer[gossiping]
	newer   atomic.Int64  // highest version of a view heard of
	poke    chan struct{} // something that run looks at has changed
	pending atomic.Int64  // grains that are to be handed over
	vitals  *vitals
	far     latencies
	dim     unreached
	// lastShares is how much load each tenant made at the last look.
	lastShares atomic.Pointer[map[string]float64]
	lastView   atomic.Int64 // when the view changed last, Unix nanoseconds

	lapses, evictions atomic.Int64
	relayed           atomic.Int64 // calls passed on between others

	ctx      context.Context // ends with Stop
	stop     context.CancelFunc
	drain    chan struct{} // closed when the node is to leave
	draining sync.Once
	left     chan struct{} // closed when the node has left, or takes no share
	started  chan error    // one answer: nil when the node is a member
	answer   sync.Once
	done     chan struct{} // closed when run has ended
	wg       sync.WaitGroup
}

// tablesKept is how many partition tables are kept: two for each of the last
// few changes of the members.
const tablesKept = 8

func newSharing(n *Node) (*sharing, error) {
	cfg := n.cfg.Shared
	f, err := cfg.fingerprint()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	s := &sharing{node: n, cfg: cfg, log: n.log, fingerprint: f, tables: protocol.NewTables(cfg.Table, tablesKept),
		poke: make(chan struct{}, 1), drain: make(chan struct{}), left: make(chan struct{}),
		started: make(chan error, 1), done: make(chan struct{}), vitals: newVitals()}
	s.lease.Store(&protocol.Lease{})
	return s, nil
}

// start opens the port for other nodes and returns when this node is a member
// (or, on one that takes no share, knows the view).
func (s *sharing) start(ctx context.Context) error {
	s.client = transport.NewClient(transport.Config{TLS: s.cfg.ClientTLS, Logger: s.log})
	s.client.OnView(func(_ string, version int64) { s.heard(version) })
	var err error
	s.server, err = transport.Listen(ctx, s.cfg.Listen, transport.ServerConfig{TLS: s.cfg.ServerTLS, Logger: s.log, Handler: (*server)(s)})
	if err != nil {
		s.client.Close()
		return fmt.Errorf("cluster: listen for other nodes: %w", err)
	}
	s.addr = s.cfg.Advertise
	if s.addr == "" {
		s.addr = s.server.Addr().String()
	}
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.wg.Go(func() {
		if err := s.server.Serve(); err != nil {
			s.log.Error("calls from other nodes are not served any more", slog.Any("error", err))
		}
	})
	s.wg.Go(func() { s.vitals.run(s.ctx) })
	s.wg.Go(s.balance)
	go s.run()
	select {
	case err := <-s.started:
		return err
	case <-ctx.Done():
		return fmt.Errorf("cluster: the node did not become a member in time: %w", ctx.Err())
	}
}

// leave gives the node's share away and returns when it has left. It goes on
// sending calls to the others. A node that has had no lease for the length of two
// does not wait any longer: it cannot reach the store, and has lost its share.
func (s *sharing) leave(ctx context.Context) error {
	s.draining.Do(func() { close(s.drain) })
	t := time.NewTicker(s.cfg.Timing.RenewEvery)
	defer t.Stop()
	for held := time.Now(); ; {
		select {
		case <-s.left:
			return nil
		case <-s.done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("cluster: the node has not left: %w", ctx.Err())
		case <-t.C:
		}
		switch {
		case s.lease.Load().Valid(bootClock(), s.cfg.Timing), s.life.Load() == nil, s.phase() == "parting":
			held = time.Now()
		case time.Since(held) > 2*s.cfg.Timing.TTL:
			return fmt.Errorf("cluster: the node has not left: no lease since %v", held.UTC().Format(time.RFC3339))
		}
	}
}

// close ends everything of the node's that others see.
func (s *sharing) close(ctx context.Context) error {
	if s.stop == nil {
		return nil // it never started
	}
	s.stop()
	<-s.done
	err := s.server.Stop(ctx)
	s.client.Close()
	s.wg.Wait()
	return err
}

// run lives one life after the other: one that is given up by the others is
// followed by a new one, one that left in order by sending calls on only.
func (s *sharing) run() {
	defer close(s.done)
	for !s.cfg.Routes && s.ctx.Err() == nil {
		why := s.live()
		if why == nil {
			break
		}
		if s.ctx.Err() == nil {
			s.evictions.Add(1)
			s.log.Warn("the cluster gave this node up; it comes back with a new id", slog.Any("error", why))
		}
	}
	close(s.left)
	s.route()
}

// ready answers start, once.
func (s *sharing) ready(err error) { s.answer.Do(func() { s.started <- err }) }

// heard notes that somebody acts on a version of the view.
func (s *sharing) heard(version int64) {
	for {
		known := s.newer.Load()
		if version <= known {
			return
		}
		if s.newer.CompareAndSwap(known, version) {
			s.wake()
			return
		}
	}
}

// wake has run look at what others changed.
func (s *sharing) wake() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// publish replaces the standing.
func (s *sharing) publish(next *standing) {
	next.replaced = make(chan struct{})
	s.lastView.Store(time.Now().UnixNano())
	before := s.node.standing.Swap(next)
	close(before.replaced)
}

// changedAt is when the standing was replaced last.
func (s *sharing) changedAt() time.Time { return time.Unix(0, s.lastView.Load()) }

// route keeps the view that calls are sent by, without a share of its own.
func (s *sharing) route() {
	id := s.newID()
	g := s.startGossip(id)
	defer s.stopGossip(g)
	t := time.NewTicker(s.cfg.Timing.RenewEvery)
	defer t.Stop()
	first := true
	for s.ctx.Err() == nil {
		s.look(id, first)
		first = false
		g.tell(s.node.standing.Load().view.Version, false)
		select {
		case <-t.C:
		case <-s.poke:
		case <-g.changed():
		case <-s.ctx.Done():
		}
	}
}

// look reads the view and acts on it if it is new. first replaces what a life
// before left.
func (s *sharing) look(id protocol.NodeID, first bool) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timing.CallTimeout)
	defer cancel()
	v, err := s.cfg.Store.View(ctx)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			s.log.Warn("the view cannot be read", slog.Any("error", err))
		}
		return
	}
	if v.Version < 1 || !first && v.Version <= s.node.standing.Load().view.Version {
		return
	}
	if v.Fingerprint != s.fingerprint {
		s.ready(fmt.Errorf("cluster: %w: this node %q, cluster %q", protocol.ErrFingerprint, s.fingerprint, v.Fingerprint))
		return
	}
	place, err := protocol.NewPlacement(v, s.tables)
	if err != nil {
		s.log.Error("no placement for a view", slog.Int64("view", v.Version), slog.Any("error", err))
		return
	}
	s.publish(&standing{view: v, place: place, self: id, id: id.String()})
	s.cfg.Changed()
	s.ready(nil)
}
