// Package protocol holds the rules every node must apply alike: what an
// identity is, which partition it falls into, and which node owns a partition.
//
// It is pure: no clock, no network, no store, no goroutine, no actor library.
// Equal input gives equal output on every node and in every build, which is
// what lets a simulation replay it and a test pin it.
//
// Authority: who *may* own an identity is decided by the members handed to
// [NewTable] and nothing else; the table never guesses.
//
// Invariants
//   - Equal members (in any order) and equal [TableConfig] give an equal
//     [Table] (I11).
//   - The identity hash and the ring keys never change within one algorithm
//     name; [Fingerprint] changes when either does, and nodes whose
//     fingerprints differ must not share a cluster.
//   - No partition is without an owner, and no member owns more than
//     ceil(floor(partitions/members) × load) of them.
package protocol
