// Package cluster carries a message to the one grain that an identity names,
// wherever it lives, and starts the grain if it does not.
//
// It knows kinds and identities, never tenants, documents or stores. Callers
// use [Node.Ask]; grains are plain protoactor actors that receive a [*Call].
// Both sides may be used without the other knowing this package: a grain finds
// the methods it needs by declaring an interface of its own.
//
// # Authority
//
// The view in the store says which node owns an identity ([protocol.Placement]);
// this node starts only what it owns. A node without [Config].Shared is alone and
// owns everything; calls take the same way through it.
//
// # States of a grain
//
//	          first call                 Started
//	(absent) ───────────▶ queued calls ───────────▶ active ◀──┐ calls, own messages,
//	    ▲                                             │  └────┘ TrimRequested when idle
//	    │            stops itself: PassivateRequested │
//	    │            or DrainRequested agreed to,     │
//	    │            refused to live; or it panicked  ▼
//	    └───────── Stopped ◀───────────────────── stopping
//	                  │ calls still queued and the identity still ours
//	                  └──────▶ a fresh activation takes the queue over
//
// # What a grain sees
//
// Its actor.Context is protoactor's own, except that Actor() gives our wrapper.
//   - *actor.Started, Stopping and Stopped as ever; never Restarting: a grain
//     that fails is stopped, and made anew by the next call. Stopping may thus
//     follow a panic: write nothing there that a sound state is needed for.
//   - a [*Call] per request: answer it in Receive or later.
//   - [TrimRequest], [PassivateRequest] and [DrainRequest], only when nothing
//     else waits. A grain that never stops itself on the last two is never
//     passivated, and holds up Stop for the drain time.
//   - its own and its children's messages unchanged, ahead of waiting calls.
//     They carry no order relative to calls.
//
// A grain that implements actor.SupervisorStrategy supervises its children
// itself; else protoactor's default does. What is escalated stops the grain.
//
// # Invariants
//
//   - At most one activation of an identity is alive on the node: the next one
//     starts after the last one's Stopped was handled.
//   - Each call has exactly one answer; the first of reply, panic, stop and the
//     caller's own deadline counts, and no caller waits beyond its context.
//   - A call that was never handed to a grain may be tried again; one that was
//     handed over is tried again only if the caller said so with [WithSafe].
//   - At most Config.MailboxSize calls wait in front of a grain; the next one
//     is refused with [ErrBusy] at once. Messages that a grain gets from itself,
//     from its children and from protoactor are never refused: they are bounded
//     by what the grain itself has under way.
//   - A panic costs its own call and the grain's memory, nothing else.
//   - An idle grain has no goroutine and no timer; one sweep serves them all.
//   - After Stop no goroutine of the package is left, unless a grain never
//     returned from Receive, which Stop reports.
//
// # What is used of protoactor, and what is not
//
// Used: the actor system, its contexts, spawning, children, watching and
// supervision. Replaced: the mailbox (stock ones are unbounded or spin the
// sender, and drop what is queued behind a stop), requests (futures time out
// where an answer could be given at once), placement, passivation
// (ReceiveTimeout races) and the logger.
//
// protoactor's Cluster, its remote and its gossip are not used, on purpose. Its
// StartMember opens a TCP port unconditionally, panics when the port is taken,
// sleeps a second, starts a gossip loop and a pub-sub kind, and Shutdown sleeps
// two. Its remote ends the process on a message of an unknown type, from anybody
// who reaches the port, loses a connection's memory with each failed dial, queues
// for a peer without a bound and cannot carry a deadline. Its member list blocks
// an address for ever. What would be left of it is a shell; packages transport and
// gossip and the state machine of package protocol do the work behind the same
// [Node.Ask].
//
// # A node that shares its grains
//
// With [Config].Shared the node is a member of a cluster. One goroutine
// (sharing.run) lives one life after the other: it drives the state machine of
// package protocol with the clock that goes on in suspend, carries out what that
// wants (renew the lease, change the view, probe peers), and publishes the outcome
// as one immutable standing that every call reads. A life that the others gave up
// ends with all its grains stopped, and is followed by one with a new id. A node
// that has left, or never takes a share, only keeps the view that it sends calls by.
//
//	Ask ─▶ standing: mine? ──yes──▶ mailbox of the grain
//	          │ no
//	          ▼
//	       transport ─▶ owner ─▶ its standing: mine? ─▶ mailbox
//	          │                       │ no: MOVED
//	          ▼                       ▼
//	       not sent            wait for a later view, ask again
//
// What a call learns of a place that is not there any more (moved, not sent, an
// answer with NotApplied) is a delay: it is sent again until its deadline. What
// may have been applied is not, unless it is safe.
//
// A change of the view first ends the intake and the leased reads of all grains
// that are placed elsewhere now, then asks them to finish, release and stop
// (handOver), and counts them until they are gone: the state machine tells the
// others by that number when the next owner need not wait. Which grains a node may
// take over, and whether it may answer a read from memory, [Node.Right] and
// [Node.Lease] tell the grains; that a stale owner can do no harm is the store's
// doing, not this package's.
//
// # Load
//
// A node measures the share of its processors it uses and how much each tenant
// adds, spreads the first by gossip, and relocates tenants by the rules of
// [protocol.PlanMoves] when it is sick or overloaded, and back when home has room.
package cluster
