// Package actors holds the grains, Granary's virtual actors: the tenant, the
// knowledge base, and the children that process a document version. A grain
// receives a call, asks the rules of package kb, appends the decided events to
// its journal, and replies once they are committed.
//
// Authority: a grain is the only writer of its journal while it holds the
// current (epoch, activation). It decides on a state that includes events not
// yet committed, so that commits can be pipelined; every reply, reads included,
// waits for the commit of what it is based on.
//
//	call ─▶ rule (kb) ─▶ events ─▶ state ─┬─▶ journal (one commit in flight, the rest batched)
//	                                      │        │ committed
//	                                      └────────┴─▶ effects (index, children, erasure) ─▶ reply
//
// The mailbox never waits on I/O: loading, committing, searching, reading
// chunks and erasing run on goroutines that exist only while there is such
// work, and report by message. An idle grain has none.
//
// # States of an activation
//
//	            acquired, folded            commit in doubt
//	loading ────────────────────▶ active ───────────────────▶ doubting
//	   │  ▲                         │  ▲                          │ acquired anew, callers told,
//	   │  │ somebody called         │  │ somebody called          │ released
//	   │  └───────── released ◀── leaving (snapshot, release) ◀───┘
//	   │                 │
//	   └───── moved ─────┴─▶ stopped
//
// # Several nodes
//
// [Ownership] says what the node may do. A grain is acquired with a claim to the
// view that places it here, and again with a fresh one while its last owner may
// still answer reads. It answers reads from memory while the node's lease holds
// and a statement that was sent and answered within the lease's term has shown
// that the fence is current; else the store is asked first, once for all reads
// that wait. Decisions that come to nothing (a refused write, one that is only
// checked) are reads in this sense. A node that is alone never asks.
//
// An activation ends when its fence is found stale, by whichever statement; when
// a commit fails; and when its node gives the grain away. What a caller hears
// then depends on what was sent: a call that changed nothing gets an error with
// the method NotApplied, by which package cluster sends it to the next owner; a
// write whose commit has no answer is in doubt, which is resolved by acquiring
// the grain anew, and OUTCOME_UNKNOWN only if that fails.
//
// Invariants (numbers as in ARCHITECTURE.md): I1 a stale owner commits nothing ·
// I4 acknowledged ⇒ committed · I5 a keyed request applies once · I6 histories
// are linearizable · I7 nothing is acknowledged without a commit under the fence
// · I8 a search shows only committed attempts of live versions · I9 nobody
// collects what its successor wrote · I10 pending work has a wake-up · I12
// state = fold(events).
package actors
