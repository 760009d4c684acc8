package cluster

import (
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"
)

// shardCount spreads the lock of the registry; a power of two.
const shardCount = 64

// registry holds the activations of this node by the hash of their identity.
type registry struct {
	node   *Node
	lives  atomic.Uint64 // activations ever started, part of their actor names
	shards [shardCount]shard
}

// shard is one part of the registry and of the work of spawning: protoactor
// asks for the actor and its mailbox without saying for whom, so one spawn at a
// time leaves its activation in spawning. Props are thus shared by all grains of
// a shard instead of 300 bytes in each.
type shard struct {
	mu   sync.RWMutex
	acts map[uint64]*activation

	spawnMu  sync.Mutex
	spawning *activation
	props    *actor.Props
}

func newRegistry(n *Node) *registry {
	r := &registry{node: n}
	for i := range r.shards {
		s := &r.shards[i]
		s.acts = make(map[uint64]*activation)
		s.props = actor.PropsFromProducer(
			func() actor.Actor { return s.spawning },
			actor.WithMailbox(func() actor.Mailbox { return s.spawning }),
			actor.WithGuardian(stopGrain{log: n.log}),
		)
	}
	return r
}

func (r *registry) shard(hash uint64) *shard {
	// The top bits: the low ones choose the partition, whose share of the
	// hashes a node holds only some of.
	return &r.shards[hash>>58]
}

// find gives the activation of id, or nil.
func (r *registry) find(id *Identity, hash uint64) *activation {
	s := r.shard(hash)
	s.mu.RLock()
	a := s.lookup(id, hash)
	s.mu.RUnlock()
	return a
}

// lookup follows the chain of an equal hash; s.mu is held.
func (s *shard) lookup(id *Identity, hash uint64) *activation {
	a := s.acts[hash]
	for a != nil && a.id != *id {
		a = a.chain
	}
	return a
}

// activate starts the grain of id with its first call, which waits in the
// mailbox until the grain has started, as later ones do. The call is in before
// the grain is: one that refuses to live at once must not be started over and
// over by a call that never got in. It reports false if there is an activation
// already, or the node stops.
func (r *registry) activate(kind *Kind, id *Identity, hash uint64, first *Call) bool {
	s := r.shard(hash)
	s.mu.Lock()
	if s.lookup(id, hash) != nil || !r.node.running() {
		s.mu.Unlock()
		return false
	}
	a := r.insert(s, kind, id, hash)
	a.box.calls.push(first)
	s.mu.Unlock()
	r.spawn(a)
	return true
}

// insert puts a new activation in front of its chain; s.mu is held.
func (r *registry) insert(s *shard, kind *Kind, id *Identity, hash uint64) *activation {
	now := r.node.clock.Load()
	a := &activation{node: r.node, kind: kind, id: *id, hash: hash, since: now, lastUsed: now, asked: now, chain: s.acts[hash]}
	s.acts[hash] = a
	r.node.alive.Add(1)
	return a
}

// spawn starts the actor of an activation that is in the registry.
func (r *registry) spawn(a *activation) {
	// A name per life: what was sent to the last one must not reach this one.
	name := a.id.String() + "#" + strconv.FormatUint(r.lives.Add(1), 36)
	s := r.shard(a.hash)
	s.spawnMu.Lock()
	s.spawning = a
	_, err := r.node.system.Root.SpawnNamed(s.props, name)
	s.spawning = nil
	s.spawnMu.Unlock()
	if err != nil {
		r.node.log.Error("grain could not be spawned", slog.String("grain", a.id.String()), slog.Any("error", err))
		a.finish()
	}
}

// retire takes a stopped activation out. If it handled calls and others wait,
// and the identity is still this node's, an heir takes them over in the same
// step, so that no call can slip between the two; it must then be spawned.
func (r *registry) retire(a *activation) (heir *activation, queued, parked []*Call) {
	s := r.shard(a.hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	queued, parked = a.close()
	if !s.remove(a) || len(queued) == 0 || a.served == 0 || !r.node.running() || !r.node.standing.Load().local(a.hash, a.id.Tenant) {
		return nil, queued, parked
	}
	heir = r.insert(s, a.kind, &a.id, a.hash)
	for _, c := range queued {
		heir.box.calls.push(c)
	}
	return heir, nil, parked
}

// abandon takes an activation out that did not stop, and answers its calls: its
// identity must be free for the node's next life.
func (r *registry) abandon(a *activation) {
	s := r.shard(a.hash)
	s.mu.Lock()
	s.remove(a)
	s.mu.Unlock()
	a.giveUp()
}

// remove reports whether a was there; s.mu is held.
func (s *shard) remove(a *activation) bool {
	if s.acts[a.hash] == a {
		if a.chain == nil {
			delete(s.acts, a.hash)
		} else {
			s.acts[a.hash] = a.chain
		}
		return true
	}
	for at := s.acts[a.hash]; at != nil; at = at.chain {
		if at.chain == a {
			at.chain = a.chain
			return true
		}
	}
	return false
}

// each calls f for every activation, one shard at a time and outside its lock.
func (r *registry) each(f func(*activation)) {
	var batch []*activation
	for i := range r.shards {
		s := &r.shards[i]
		batch = batch[:0]
		s.mu.RLock()
		for _, a := range s.acts {
			for ; a != nil; a = a.chain {
				batch = append(batch, a)
			}
		}
		s.mu.RUnlock()
		for _, a := range batch {
			f(a)
		}
		clear(batch)
	}
}

// stopGrain supervises the grains: what a grain's children's strategy escalates
// stops the grain, and the next call finds a fresh one. protoactor's default
// would restart it in place, behind the registry's back.
type stopGrain struct{ log *slog.Logger }

// HandleFailure is protoactor's.
func (g stopGrain) HandleFailure(_ *actor.ActorSystem, supervisor actor.Supervisor, grain *actor.PID,
	_ *actor.RestartStatistics, reason, _ any,
) {
	g.log.Error("grain gave up on a child", slog.String("grain", grain.GetId()), slog.Any("reason", reason))
	supervisor.StopChildren(grain)
}
