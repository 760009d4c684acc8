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
// The partition table ([protocol.Table]) says which node owns an identity; this
// node starts only what it owns. One node is a cluster of one: its table has
// one member, and calls take the same way through it as with many.
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
// protoactor's Cluster type is not used on one node, on purpose. Its
// StartMember opens a TCP port unconditionally, panics when the port is taken,
// sleeps a second, starts a gossip loop and a pub-sub kind, and Shutdown sleeps
// two; its request path costs several times what [Node.Ask] costs. What it
// would add on one node is a look-up that always answers "here". With more
// nodes it becomes worth its price for its remote and member list: then our
// cluster provider, identity look-up and context producer plug into it behind
// the same Ask, gossip interval and heartbeat expiration set out of the way.
package cluster
