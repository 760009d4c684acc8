// Package protocol holds the rules every node must apply alike: what an
// identity is, which partition it falls into, which node owns a partition, who
// is a member, and who may acquire, write and read a grain.
//
// It is pure: no clock, no network, no store, no goroutine, no actor library.
// Equal input gives equal output on every node and in every build, which is
// what lets a simulation replay it (package sim) and a test pin it.
//
// # Parts
//
//   - [Identity], [Table], [Fingerprint]: the partition table.
//   - [View] and its changes; [Placement], a pure function of it; [Tenures],
//     since when a node has seen each grain placed where it is.
//   - [Node], the membership of one process as a state machine: lease, join,
//     drain, giving up members that are gone, rounds of moving partitions.
//   - [Renew], [Look], [Swap], [Acquire], [Append], [Verify], [Release]: the
//     store's statements, as functions on the rows they lock.
//   - [MayRead] and [Prove]: leased reads.
//   - [ChooseNode] and [PlanMoves]: which tenants leave an overloaded or sick node.
//
// # Authority
//
// Gossip proposes, the store decides. Who may own an identity is decided by the
// view in the store and nothing else; who owns it, by its owner row. What gossip
// says ([Suspected], [Newer]) only makes a node look sooner.
//
// # A grain's way from node A to node B
//
//	A holds ─▶ view names B ─▶ A stops intake, finishes, releases ─▶ B acquires
//	                └─▶ A says nothing ─▶ dead, or one TTL has passed ─┘ (A is fenced)
//
// # Invariants
//
//   - Equal members (in any order) and equal [TableConfig] give an equal
//     [Table], and equal views equal placements (I11).
//   - The identity hash and the ring keys never change within one algorithm
//     name; [Fingerprint] changes when either does, and nodes whose
//     fingerprints differ must not share a cluster.
//   - No partition is without an owner, and no member owns more than
//     ceil(floor(partitions/members) × load) of them: with the defaults at most
//     1.25 times the mean, up to 1,000 members.
//   - A view's version rises by one; left and dead are final for a boot; a round
//     moves at most a tenth of the partitions.
//   - Epochs rise by one with each acquisition, and only the last one writes
//     (I1, I2).
//   - While a node may answer a leased read of a grain, nobody else can have
//     acquired it (I6).
package protocol
