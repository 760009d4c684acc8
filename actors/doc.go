// Package actors holds the grains, Granary's virtual actors: the tenant, the
// knowledge base, and the children that process a document version. A grain
// receives a call, asks the rules of package kb, appends the decided events to
// its journal, and replies once they are committed.
//
// Authority: a grain is the only writer of its journal while it holds the
// current (epoch, activation). It decides on a state that includes events not
// yet committed, so that commits can be pipelined; every reply, reads included,
// waits for the commit of what it is based on. A commit that fails, is fenced
// or is in doubt ends the activation: the next one reads the journal again.
//
//	call ─▶ rule (kb) ─▶ events ─▶ state ─┬─▶ journal (one commit in flight, the rest batched)
//	                                      │        │ committed
//	                                      └────────┴─▶ effects (index, children, erasure) ─▶ reply
//
// The mailbox never waits on I/O: loading, committing, searching, reading
// chunks and erasing run on goroutines that exist only while there is such
// work, and report by message. An idle grain has none.
//
// Invariants (numbers as in ARCHITECTURE.md): I4 acknowledged ⇒ committed ·
// I5 a keyed request applies once · I7 nothing is answered after a failed commit
// · I8 a search shows only committed attempts of live versions · I10 pending
// work has a wake-up · I12 state = fold(events).
package actors
